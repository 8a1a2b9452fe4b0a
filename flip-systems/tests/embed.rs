//! The example `embed` does what it says: ten jobs, each on exactly one node that lives.

use std::time::{Duration, Instant};

#[path = "../examples/embed.rs"]
#[expect(dead_code, reason = "its main() only prints what is looked at here")]
mod embed;

/// What the example must be through within, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn ten_jobs_run_once_each_before_and_after_the_loss_of_a_node() {
    // Both kinds of runtime: the caller chooses.
    let one = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let many = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for runtime in [one, many] {
        let began = Instant::now();
        let run = async { tokio::time::timeout(LIMIT, embed::run()).await };
        let (before, after) = runtime.block_on(run).expect("in time").unwrap();
        println!("before, the loss, and two goodbyes: {:?}", began.elapsed());
        for (board, live) in [(&before, &["a", "b", "c"][..]), (&after, &["a", "c"])] {
            let jobs: Vec<_> = board.iter().map(|(job, _)| *job).collect();
            assert_eq!(jobs, (0..10).collect::<Vec<_>>(), "each once: {board:?}");
            assert!(board.iter().all(|(_, node)| live.contains(node)), "{board:?}");
        }
    }
}
