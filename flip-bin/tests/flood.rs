//! A flood of forged datagrams takes nothing from anybody.

use std::path::Path;
use std::time::Duration;

use flip_tests::flood::{self, Options};

#[test]
fn three_seconds_of_forged_datagrams_do_no_harm() {
    // About as many as a daemon built for tests reads; what it cannot read is loss to its cluster.
    let options = Options { span: Duration::from_secs(3), rate: 200_000, senders: 1 };
    let report = flood::run(Path::new(env!("CARGO_BIN_EXE_flip")), options).unwrap();
    eprintln!("{report:?}");
    assert!(report.sent > 10_000, "hardly a flood: {report:?}");
    assert!(report.refused > 1_000, "it reached nobody: {report:?}");
    assert_eq!(report.harm, Vec::<String>::new(), "{report:?}");
    assert!(report.growth() < 10 << 20, "{report:?}");
}
