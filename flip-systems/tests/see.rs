//! Looking into nodes at work, three of them in this process on loopback: history, why, plan and metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use flip_core::config::{Overrides, Source};
use flip_core::plan::WhatIf;
use flip_core::record::Record;
use flip_systems::flip::{Reader, Refusal, Told};
use flip_systems::{Flip, Handle, Memory, Registry};
use tokio::time::timeout;

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn on_runtime(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(LONG, test).await.expect("in time") });
}

/// Nodes a, b and c with two items in memory, each of which has heard of both others.
async fn three() -> Vec<Handle> {
    let sockets = [(), (), ()].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let ports = sockets.map(|socket| socket.local_addr().unwrap().port());
    let server = |port: u16| serde_json::json!({"ip": "127.0.0.1", "port": port, "systems": ["m"]});
    let text = serde_json::json!({
        "servers": {"a": server(ports[0]), "b": server(ports[1]), "c": server(ports[2])},
        "profile": "fast",
        "cluster": {"system": {"m": {"alive": "memory_up", "down": "memory_down", "data": ["x", "y"]}}},
    })
    .to_string();
    let mut nodes = Vec::new();
    for id in ["a", "b", "c"] {
        let mut registry = Registry::default();
        registry.register(Memory::default());
        let overrides = Overrides { id: Some(id), ..Overrides::default() };
        let source = Source { file: "test", text: &text };
        nodes.push(Flip::from_text(&source, &overrides, registry).unwrap().0.spawn().await.unwrap());
    }
    for node in &nodes {
        let mut events = node.history(0);
        let mut up = BTreeSet::new();
        while up.len() < 2 {
            let record = next(&mut events).await;
            if record.kind == "member_up" {
                up.insert(record.server.clone());
            }
        }
    }
    nodes
}

async fn next(events: &mut Reader) -> Record {
    match events.next().await {
        Some(Told::Record(record)) => (*record).clone(),
        other => panic!("no record but {other:?}"),
    }
}

/// Waits for an event.
async fn until(events: &mut Reader, wanted: impl Fn(&Record) -> bool) -> Record {
    loop {
        let record = next(events).await;
        if wanted(&record) {
            return record;
        }
    }
}

fn is_active(record: &Record, item: &str) -> bool {
    record.item.as_deref() == Some(item) && record.to.is_some_and(|to| to.name() == "active")
}

/// Metrics as a strict reader takes them: by sample, with its labels as written.
fn parse(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with("# EOF\n"), "it is whole");
    let mut types = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and a text");
            assert!(help.len() > 10 && help.ends_with('.'), "{line}");
            helped.insert(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').expect("a name and a unit");
            assert!(name.ends_with(unit), "{line}");
        } else if line != "# EOF" {
            let (sample, value) = line.rsplit_once(' ').expect("a sample and its value");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            let name = sample.split('{').next().unwrap();
            assert!(name.starts_with("flip_"), "{line}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
            assert!(!sample.contains('{') || sample.ends_with('}'), "{line}");
            let family = family(name, &types).unwrap_or_else(|| panic!("{name} has no type"));
            assert!(helped.contains(&family), "{name} has no help");
            assert!(samples.insert(sample.to_owned(), value).is_none(), "{sample} twice");
        }
    }
    // The buckets of a histogram grow, and the last holds all.
    for (sample, value) in samples.iter().filter(|(sample, _)| sample.contains("le=\"+Inf\"")) {
        let name = sample.split('{').next().unwrap().trim_end_matches("_bucket");
        let inner = sample.split('{').nth(1).unwrap().trim_end_matches('}');
        let labels: Vec<_> = inner.split(',').filter(|label| !label.starts_with("le=")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        assert_eq!(samples.get(&format!("{name}_count{labels}")), Some(value), "{sample}");
    }
    samples
}

/// The family that a sample is of.
fn family(name: &str, types: &BTreeMap<String, String>) -> Option<String> {
    let endings =
        [("counter", "_total"), ("histogram", "_bucket"), ("histogram", "_sum"), ("histogram", "_count")];
    for (kind, ending) in endings {
        if let Some(family) = name.strip_suffix(ending)
            && types.get(family).is_some_and(|of| of == kind)
        {
            return Some(family.to_owned());
        }
    }
    (types.get(name)? == "gauge").then(|| name.to_owned())
}

fn value(samples: &BTreeMap<String, f64>, sample: &str) -> f64 {
    *samples.get(sample).unwrap_or_else(|| panic!("{sample} is not there"))
}

#[test]
fn a_death_shows_in_history_why_plan_and_metrics() {
    on_runtime(async {
        let nodes = three().await;
        let mut on_b = nodes[1].history(0);
        until(&mut on_b, |record| is_active(record, "y")).await;
        let mut on_a = nodes[0].history(0);
        until(&mut on_a, |record| is_active(record, "x")).await;
        let before = parse(&nodes[0].metrics().await.unwrap());
        for (sample, expected) in [
            ("flip_members{state=\"up\"}", 3.0),
            ("flip_members{state=\"down\"}", 0.0),
            ("flip_member_up{server=\"b\"}", 1.0),
            ("flip_verdicts_total{server=\"b\"}", 0.0),
            ("flip_items{state=\"active\",server=\"a\"}", 1.0),
            ("flip_quorum_seen", 1.0),
            ("flip_quorum_size", 2.0),
            ("flip_cases_open", 0.0),
            ("flip_moves_total{direction=\"in\",cause=\"failover\"}", 0.0),
            ("flip_hook_duration_seconds_count{system=\"m\",action=\"alive\",result=\"ok\"}", 1.0),
        ] {
            assert_eq!(value(&before, sample), expected, "{sample}");
        }
        assert!(value(&before, "flip_probe_round_trip_seconds_count") > 0.0);
        assert!(value(&before, "flip_messages_total{kind=\"ping\",direction=\"sent\"}") > 0.0);
        assert!(value(&before, "flip_datagram_bytes_total{direction=\"received\"}") > 0.0);

        // What would be is what then is.
        let plan = nodes[0].plan(vec![WhatIf::Down("b".into())]).await.unwrap();
        assert_eq!((plan.moves.len(), plan.unheld.len()), (1, 0), "{plan:?}");
        assert_eq!((plan.moves[0].item.item.as_str(), &plan.moves[0].from[..]), ("y", &["b".to_owned()][..]));
        let heir = plan.moves[0].to[0].clone();
        let refused = nodes[0].plan(vec![WhatIf::Drain("z".into())]).await.unwrap_err();
        assert!(matches!(&refused, Refusal::Refused(why) if why.contains("a, b, c")), "{refused:?}");

        let seen = nodes[0].newest();
        let mut after = nodes[0].history(seen + 1);
        nodes[1].abort();
        let down = until(&mut after, |record| record.kind == "member_down").await;
        assert_eq!(down.server.as_deref(), Some("b"));
        assert!(down.seq > seen);
        let heir = if heir == "a" { &nodes[0] } else { &nodes[2] };
        let mut there = heir.history(0);
        until(&mut there, |record| is_active(record, "y")).await;
        assert_eq!(heir.status().await.unwrap().items[1].holders[0].server, plan.moves[0].to[0]);

        let why = heir.why("y").await.unwrap();
        assert_eq!(why.wanted, plan.moves[0].to);
        assert_eq!(why.home.as_ref().map(|home| home.server.as_str()), Some("b"));
        assert!(why.waits.is_empty(), "{why:?}");
        let last = why.moves.last().unwrap();
        assert_eq!((last.server.as_str(), last.trigger.as_deref()), (why.node.as_str(), Some("failover")));

        let samples = parse(&heir.metrics().await.unwrap());
        for (sample, expected) in [
            ("flip_members{state=\"up\"}", 2.0),
            ("flip_members{state=\"down\"}", 1.0),
            ("flip_member_up{server=\"b\"}", 0.0),
            ("flip_verdicts_total{server=\"b\"}", 1.0),
            ("flip_moves_total{direction=\"in\",cause=\"failover\"}", 1.0),
            ("flip_events_total{kind=\"member_down\",level=\"warning\"}", 1.0),
            ("flip_failover_seconds_count{part=\"hook\"}", 1.0),
            ("flip_failover_seconds_count{part=\"total\"}", 1.0),
            ("flip_items_wrong{what=\"unheld\"}", 0.0),
        ] {
            assert_eq!(value(&samples, sample), expected, "{sample}");
        }
        let opened: f64 =
            samples.iter().filter(|(s, _)| s.starts_with("flip_cases_opened_total")).map(|(_, v)| v).sum();
        assert!(opened >= 1.0 && value(&samples, "flip_cases_closed_total{outcome=\"verdict\"}") >= 1.0);
        // It took at least as long as a voter waits, and less than this test.
        let total = value(&samples, "flip_failover_seconds_sum{part=\"total\"}");
        assert!(total > 0.05 && total < LONG.as_secs_f64(), "{total}");

        // Whoever begins at the beginning reads all of it, without a gap, to the end.
        let mut all = heir.history(0);
        heir.leave();
        heir.ended().await;
        let mut seq = 0;
        while let Some(told) = all.next().await {
            let Told::Record(record) = told else { panic!("{told:?}") };
            assert_eq!(record.seq, seq + 1);
            seq = record.seq;
        }
        assert_eq!((seq, heir.metrics().await), (heir.newest(), None));
        assert!(matches!(heir.why("y").await, Err(Refusal::Ended)));
    });
}

/// Words that begin with `flip_` in a text.
fn names(text: &str) -> BTreeSet<String> {
    let word = |b: char| b.is_ascii_lowercase() || b.is_ascii_digit() || b == '_';
    let words = text.split(|b: char| !word(b));
    words.filter(|word| word.starts_with("flip_")).map(str::to_owned).collect()
}

#[test]
fn what_docs_dashboards_and_alerts_name_exists_and_all_is_documented() {
    on_runtime(async {
        let nodes = three().await;
        let text = nodes[0].metrics().await.unwrap();
        let samples: BTreeSet<_> =
            parse(&text).keys().map(|sample| sample.split('{').next().unwrap().to_owned()).collect();
        let families: BTreeSet<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned))
            .collect();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let read =
            |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        let docs = names(&read("docs/operating.md"));
        let missing: Vec<_> = families
            .iter()
            .filter(|name| !docs.contains(*name) && !docs.contains(&format!("{name}_total")))
            .collect();
        assert!(missing.is_empty(), "docs/operating.md says nothing of {missing:?}");
        for path in [
            "examples/monitoring/flip-alerts.yml",
            "examples/monitoring/flip-dashboard.json",
            "examples/monitoring/README.md",
            "docs/operating.md",
        ] {
            let named = names(&read(path));
            let known =
                |name: &String| samples.contains(name) || families.contains(name) || name == "flip_systems";
            let unknown: Vec<_> = named.iter().filter(|name| !known(name)).collect();
            assert!(unknown.is_empty(), "{path} names {unknown:?}, which no node has");
            assert!(!named.is_empty() || path.ends_with("README.md"), "{path}");
        }
        let board: serde_json::Value =
            serde_json::from_str(&read("examples/monitoring/flip-dashboard.json")).unwrap();
        assert!(
            board["panels"].as_array().is_some_and(|panels| panels.len() >= 10),
            "a dashboard with panels"
        );
    });
}
