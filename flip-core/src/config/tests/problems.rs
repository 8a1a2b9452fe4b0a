//! Small files with everything that is said about them: `testdata/problems.txt`.
//!
//! `FLIP_BLESS=1 cargo test -p flip-core config` writes the file anew; read the difference.

use std::fmt::Write as _;

use super::*;

const TABLE: &str = include_str!("../testdata/problems.txt");
const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/testdata/problems.txt");
const NO_KEY: &str = "no key: everyone on the network";

/// Shorthands in the inputs.
const SHORT: [(&str, &str); 3] = [
    (
        "$abc",
        r#""servers": {"a": {"ip": "10.0.0.1", "systems": ["ip"]}, "b": {"ip": "10.0.0.2", "systems": "ip"}, "c": {"ip": "10.0.0.3"}}"#,
    ),
    ("$ip", r#""cluster": {"system": {"ip": {"config": {"interface": "eth0"}, "data": ["10.0.0.9"]}}}"#),
    ("$key", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"),
];

/// A case is a line `## name, options`, the file, a line `----` and what is said about it. Without
/// options the node is `a`; `--id`, `--host` and `--key-file` set one override instead.
#[test]
fn every_problem_is_told_well() {
    let (preface, cases) = TABLE.split_once("\n## ").expect("cases");
    let mut written = preface.to_owned();
    for case in cases.split("\n## ") {
        let (head, rest) = case.split_once('\n').expect("a head line");
        let (input, _) = rest.split_once("\n----\n").expect("a separator");
        let said = say(head, input);
        write!(written, "\n## {head}\n{input}\n----\n{said}").expect("a string");
    }
    if std::env::var_os("FLIP_BLESS").is_some() {
        std::fs::write(PATH, &written).expect("writable");
        return;
    }
    for (line, (is, should)) in written.lines().zip(TABLE.lines()).enumerate() {
        assert_eq!(is, should, "{PATH}:{}", line + 1);
    }
    assert_eq!(written, TABLE);
}

fn say(head: &str, input: &str) -> String {
    let (name, option) = head.split_once(" --").unwrap_or((head, "id a"));
    let (option, value) = option.split_once(' ').unwrap_or((option, ""));
    let overrides = match option {
        "id" => Overrides { id: Some(value), ..Overrides::default() },
        "host" => Overrides { host_name: Some(value), ..Overrides::default() },
        "key-file" => Overrides { id: Some("a"), key_file: Some(value.as_bytes()), ..Overrides::default() },
        "nothing" => Overrides::default(),
        other => panic!("unknown option {other}"),
    };
    let text = SHORT.iter().fold(input.to_owned(), |text, (short, long)| text.replace(short, long));
    let (verdict, mut problems) = match load_quickly(&text, &overrides) {
        Ok(loaded) => ("ok\n", loaded.warnings),
        Err(problems) => ("", problems),
    };
    // Most cases have no key, and are about something else.
    problems.retain(|problem| name.starts_with("key") || !problem.message.starts_with(NO_KEY));
    format!("{}{verdict}", render(&problems))
}
