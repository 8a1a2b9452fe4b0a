//! The cluster is changed while it runs: real daemons in network namespaces, asked by HTTP.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use flip_tests::cluster::{Cluster, ClusterSpec};
use flip_tests::lab::{Who, host_ip, root_or_skip, vip};
use flip_tests::probe::{Probe, wait_held};
use serde_json::{Value, json};

#[path = "api/http.rs"]
#[allow(dead_code, reason = "only a part of what the tests of the API say")]
mod http;

const LIMIT: Duration = Duration::from_secs(60);
const EACH: Duration = Duration::from_millis(5);
const HOSTS: usize = 3;

fn three(vips: usize) -> Cluster {
    let spec = ClusterSpec::new(HOSTS, vips, "balanced");
    let cluster = Cluster::start(spec, Path::new(env!("CARGO_BIN_EXE_flip"))).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    cluster
}

fn ask(cluster: &Cluster, n: usize, method: &str, path: &str, body: Option<&Value>) -> http::Answer {
    let body = body.map(Value::to_string);
    http::exchange(http::by_socket(&cluster.socket(n)), &http::request(method, path, &[], body.as_deref()))
}

/// What `GET /ips` says of an address.
fn shown(cluster: &Cluster, n: usize, ip: &str) -> Option<Value> {
    let answer = ask(cluster, n, "GET", "/ips", None);
    assert_eq!(answer.code, 200, "{answer:?}");
    answer.json()["ips"].as_array().unwrap().iter().find(|shown| shown["ip"] == ip).cloned()
}

fn only(hosts: &BTreeSet<usize>) -> Option<usize> {
    (hosts.len() == 1).then(|| hosts.first().copied()).flatten()
}

#[test]
fn an_address_that_is_added_answers_from_one_and_survives_the_power_cut_of_all() {
    if !root_or_skip("an_address_that_is_added_answers_from_one_and_survives_the_power_cut_of_all") {
        return;
    }
    let mut cluster = three(2);
    let address = vip(7);
    let text = format!("{address}/32");
    let probe = Probe::start(cluster.lab(), address, EACH).unwrap();
    let asked = probe.mark();
    let answer = ask(&cluster, 1, "POST", "/ips", Some(&json!({ "ip": text })));
    let added = probe.mark();
    assert_eq!(answer.code, 201, "{answer:?}");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.json(), json!({ "id": id, "ip": text }));
    wait_held(cluster.lab(), address, LIMIT, |hosts| hosts.len() == 1).unwrap();
    cluster.wait_for(0, LIMIT, |status| status.healthy() && status.items.len() == 3).unwrap();
    std::thread::sleep(EACH * 20);
    let end = probe.mark();
    let report = probe.stop().unwrap();
    let service = report.answered_by(asked, end);
    assert_eq!(service.len(), 1, "one host answers: {service:?}");
    println!(
        "acknowledged after {:?}, answers {:?} after the question",
        added - asked,
        service[0].from - asked
    );
    for n in 0..HOSTS {
        assert_eq!(shown(&cluster, n, &text).unwrap()["id"], id, "h{n}");
    }
    let refused = ask(&cluster, 2, "POST", "/ips", Some(&json!({ "ip": text })));
    assert_eq!((refused.code, refused.json()), (400, json!({ "msg": "IP already assigned" })));

    // The power of all goes the moment that the next edit is acknowledged.
    let other = format!("{}/32", vip(8));
    assert_eq!(ask(&cluster, 0, "POST", "/ips", Some(&json!({ "ip": other }))).code, 201);
    (0..HOSTS).for_each(|n| cluster.kill(n).unwrap());
    (0..HOSTS).for_each(|n| cluster.restart(n).unwrap());
    cluster.wait_for(0, LIMIT, |status| status.healthy() && status.items.len() == 4).unwrap();
    for ip in [address, vip(8)] {
        wait_held(cluster.lab(), ip, LIMIT, |hosts| hosts.len() == 1).unwrap();
    }
    for n in 0..HOSTS {
        cluster.wait_for(n, LIMIT, |status| status.items.len() == 4).unwrap();
        assert!(shown(&cluster, n, &text).is_some() && shown(&cluster, n, &other).is_some(), "h{n}");
    }
}

#[test]
fn links_endpoints_check_move_and_remove() {
    if !root_or_skip("links_endpoints_check_move_and_remove") {
        return;
    }
    let cluster = three(1);
    let address = vip(7);
    let text = format!("{address}/32");
    let id = ask(&cluster, 0, "POST", "/ips", Some(&json!({ "ip": text }))).json()["id"].clone();
    let path = format!("/ips/{}", id.as_str().unwrap());
    let held = wait_held(cluster.lab(), address, LIMIT, |hosts| hosts.len() == 1).unwrap();
    let holder = only(&held).unwrap();
    cluster.wait_for(holder, LIMIT, flip_core::status::Status::healthy).unwrap();

    // Every host's own daemon listens there.
    let checks = json!([{ "type": "TCP", "host": host_ip(Who::Host(0)).to_string(), "port": 2200 }]);
    let patched = ask(&cluster, 2, "PATCH", &path, Some(&json!({ "healthchecks": checks })));
    assert_eq!((patched.code, &patched.json()["checks"]), (200, &checks), "{patched:?}");
    cluster.wait_for(0, LIMIT, |status| status.healthy() && status.items.len() == 2).unwrap();
    let first = ask(&cluster, 1, "GET", &path, None);
    assert_eq!((first.code, &first.json()["checks"]), (200, &checks));

    let stranger = (holder + 1) % HOSTS;
    let refused = ask(&cluster, stranger, "POST", &format!("{path}/failover"), None);
    let why = json!({ "msg": "this node is not master of this endpoint" });
    assert_eq!((refused.code, refused.json()), (400, why));
    let handed = ask(&cluster, holder, "POST", &format!("{path}/failover"), None);
    assert_eq!((handed.code, handed.body.as_str()), (204, ""), "{handed:?}");
    let elsewhere = |hosts: &BTreeSet<usize>| only(hosts).is_some_and(|host| host != holder);
    wait_held(cluster.lab(), address, LIMIT, elsewhere).unwrap();

    let gone = ask(&cluster, stranger, "DELETE", &path, None);
    assert_eq!((gone.code, gone.body.as_str()), (204, ""), "{gone:?}");
    for n in 0..HOSTS {
        let there = cluster.lab().addresses(Who::Host(n)).unwrap();
        assert!(!there.contains(&address), "h{n} has it still");
    }
    let unknown = ask(&cluster, 0, "GET", &path, None);
    assert_eq!((unknown.code, unknown.json()), (404, json!({ "msg": "not found" })));
    let again = ask(&cluster, 0, "DELETE", &path, None);
    assert_eq!((again.code, again.body.as_str()), (500, "Not found"));
    let wrong = ask(&cluster, 0, "GET", "/ips/vip-1", None);
    assert_eq!((wrong.code, wrong.json()), (400, json!({ "msg": "invalid ID" })));
    let wrong = ask(&cluster, 0, "POST", "/ips", Some(&json!({ "ip": "10.0.0.1" })));
    assert_eq!((wrong.code, wrong.json()), (400, json!({ "msg": "invalid IP" })));
}

#[test]
fn of_a_hundred_edits_at_once_and_a_tenth_lost_each_acknowledged_one_is_everywhere() {
    if !root_or_skip("of_a_hundred_edits_at_once_and_a_tenth_lost_each_acknowledged_one_is_everywhere") {
        return;
    }
    let cluster = three(1);
    cluster.lab().loss(10).unwrap();
    let edit = |k: usize| {
        let value = format!("10.78.0.{}", k + 1);
        let body = json!({ "edits": [{ "set_item": { "system": "ip", "value": value } }] });
        let answer = ask(&cluster, k % HOSTS, "POST", "/v1/edit", Some(&body));
        (value, answer)
    };
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..100).map(|k| scope.spawn(move || edit(k))).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    cluster.lab().heal().unwrap();
    let done: Vec<_> = answers.iter().filter(|(_, answer)| answer.code == 200).map(|(ip, _)| ip).collect();
    println!("{} of 100 were acknowledged", done.len());
    assert!(done.len() > 50, "{answers:?}");
    for n in 0..HOSTS {
        let all = |status: &flip_core::status::Status| {
            let names: BTreeSet<_> = status.items.iter().map(|item| item.item.clone()).collect();
            done.iter().all(|ip| names.contains(*ip)) && status.healthy()
        };
        cluster.wait_for(n, LIMIT, all).unwrap();
    }
}
