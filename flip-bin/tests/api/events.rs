//! The stream of events.

use std::io::{BufRead, BufReader, Write};

use serde_json::Value;

use super::http::by_socket;
use super::*;

/// A stream of events; each is its id and its data.
struct Stream(BufReader<std::os::unix::net::UnixStream>);

impl Stream {
    fn open(one: &One, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut stream = by_socket(&one.socket());
        stream.write_all(&request("GET", path, headers, None)).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(
            head.starts_with("HTTP/1.0 200") && head.to_ascii_lowercase().contains("text/event-stream"),
            "{head}"
        );
        Self(reader)
    }
}

impl Iterator for Stream {
    type Item = (Option<u64>, String, Value);

    fn next(&mut self) -> Option<Self::Item> {
        let (mut id, mut kind, mut data) = (None, String::new(), None);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("id", text)) => id = Some(text.parse().unwrap()),
                Some(("event", text)) => kind = text.to_owned(),
                Some(("data", text)) => data = Some(serde_json::from_str(text).unwrap()),
                _ => {}
            }
            if line == "\n"
                && let Some(data) = data.take()
            {
                return Some((id, kind, data));
            }
        }
    }
}

#[test]
fn a_thousand_events_come_without_a_gap_also_to_who_comes_back() {
    let one = One::with_tokens();
    std::thread::scope(|scope| {
        let (one, last) = (&one, 1_050);
        let reader = scope.spawn(move || {
            let mut seen = Vec::new();
            let mut stream = Stream::open(one, "/v1/events?from=1", &[]);
            while seen.len() < last {
                let (id, kind, record) = stream.next().unwrap();
                assert_eq!((kind.as_str(), record["seq"].as_u64()), ("", id));
                seen.push(id.unwrap());
                // Gone, and back with what came last.
                if seen.len() % 97 == 0 {
                    let id = seen.last().unwrap().to_string();
                    stream = Stream::open(one, "/v1/events?from=1", &[("Last-Event-ID", &id)]);
                }
            }
            seen
        });
        // Each is an event of the mark, and one of who asked for it.
        for n in 0..270 {
            for what in ["drain", "undrain"] {
                assert_eq!(one.ask("POST", &format!("/v1/{what}/a"), None).code, 200, "{n}");
            }
        }
        let expected: Vec<_> = (1..=last as u64).collect();
        assert_eq!(reader.join().unwrap(), expected);
    });
}

#[test]
fn what_nobody_knows_any_more_is_said() {
    let one = One::with_tokens();
    // A number of an earlier life.
    let mut stream = Stream::open(&one, "/v1/events?from=1000000", &[]);
    let (id, kind, lost) = stream.next().unwrap();
    assert_eq!((id, kind.as_str(), &lost), (None, "lost", &json!({"lost": null})));
    assert_eq!(stream.next().unwrap().0, Some(1), "what is kept follows");
    // Without a number it begins now.
    let mut stream = Stream::open(&one, "/v1/events", &[]);
    one.ask("POST", "/v1/drain/a", None);
    assert_eq!(stream.next().unwrap().2["kind"], "drained");
    let answer =
        exchange(by_socket(&one.socket()), &request("GET", "/v1/events", &[("Last-Event-ID", "x")], None));
    assert_eq!((answer.code, answer.refusal().as_str()), (400, "bad_header"));
}

#[test]
fn only_so_many_streams_are_served() {
    let one = One::with_tokens();
    let open: Vec<_> = (0..64).map(|_| Stream::open(&one, "/v1/status/watch", &[])).collect();
    let refused = one.ask("GET", "/v1/events", None);
    assert_eq!((refused.code, refused.refusal().as_str()), (503, "too_many_streams"));
    assert_eq!(one.ask("GET", "/v1/status", None).code, 200, "others are answered");
    drop(open);
    // Those that went are noticed.
    let end = std::time::Instant::now() + LIMIT;
    while one.ask("GET", "/v1/events?from=0&follow=false", None).code != 200 {
        assert!(std::time::Instant::now() < end);
    }
}
