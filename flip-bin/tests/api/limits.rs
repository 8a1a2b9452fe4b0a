//! Clients that ask too much.

use std::io::{Read, Write};
use std::sync::Barrier;
use std::time::Instant;

use serde_json::json;

use super::http::{by_socket, by_tcp, exchange, request};
use super::*;

#[test]
fn a_body_that_is_too_large_is_refused_before_it_is_read() {
    let one = One::with_tokens();
    let body = format!(r#"{{"key": "{}"}}"#, "0".repeat(1024 * 1024));
    let told = one.ask("POST", "/v1/keys", Some(&body));
    assert_eq!((told.code, told.refusal().as_str()), (413, "too_large"));
    // In chunks nobody says how much it will be.
    let mut text =
        b"POST /v1/keys HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\n\r\n"
            .to_vec();
    for _ in 0..17 {
        text.extend_from_slice(b"10000\r\n");
        text.extend_from_slice(&[b' '; 0x10000]);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"0\r\n\r\n");
    let mut stream = by_socket(&one.socket());
    let _ = stream.write_all(&text);
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    // A head that is too large, too.
    let long = "x".repeat(1024 * 1024);
    let told = exchange(by_socket(&one.socket()), &request("GET", "/healthz", &[("X", &long)], None));
    assert_eq!(told.code, 431, "{told:?}");
}

#[test]
fn who_is_slow_is_cut_and_keeps_nobody_waiting() {
    let one = One::with_tokens();
    let began = Instant::now();
    let mut silent = by_tcp(one.port);
    let mut half = by_socket(&one.socket());
    half.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ").unwrap();
    let mut idle = by_socket(&one.socket());
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    // More than are served at a time, by one way in.
    let crowd: Vec<_> = (0..200).map(|_| by_tcp(one.port)).collect();
    let mut bodiless = by_socket(&one.socket());
    let head =
        b"POST /v1/keys HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    bodiless.write_all(head).unwrap();
    assert_eq!(one.ask("GET", "/healthz", None).code, 200, "the other way in is open");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let mut rest = Vec::new();
    half.read_to_end(&mut rest).unwrap();
    idle.read_to_end(&mut rest).unwrap();
    let _ = silent.read_to_end(&mut rest);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    bodiless.read_to_end(&mut rest).unwrap();
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.contains("HTTP/1.0 408") && rest.contains("did not arrive within"), "{rest}");
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    drop(crowd);
}

#[test]
fn a_burst_of_requests_does_not_hold_up_the_loop() {
    let one = One::start(json!({"token_file": "token"}), json!({"profile": "balanced"}));
    let late = |above: &str| {
        let metrics = one.ask("GET", "/metrics", None).body;
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        let all = metrics.lines().find(|line| line.starts_with("flip_loop_late_seconds_count")).map(value);
        let within = format!("flip_loop_late_seconds_bucket{{le=\"{above}\"}}");
        let within = metrics.lines().find(|line| line.starts_with(&within)).map(value);
        (all.unwrap_or_else(|| panic!("{metrics}")), within.unwrap_or_else(|| panic!("{metrics}")))
    };
    let paths = ["/v1/status", "/v1/items", "/v1/why/one", "/metrics", "/healthz"];
    let start = Barrier::new(200);
    let before = late("0.1");
    std::thread::scope(|scope| {
        for n in 0..200 {
            let (one, start) = (&one, &start);
            scope.spawn(move || {
                start.wait();
                let answer = one.ask("GET", paths[n % paths.len()], None);
                assert_eq!(answer.code, 200, "{answer:?}");
            });
        }
    });
    let after = late("0.1");
    assert!(after.0 > before.0, "the loop went on: {before:?} {after:?}");
    assert_eq!(
        after.0 - before.0,
        after.1 - before.1,
        "never late by more than 100 ms: {before:?} {after:?}"
    );
    assert!(!one.local.log(0).contains("was stopped, suspended or starved"), "{}", one.local.log(0));
}
