//! Packets of wire version 1 as they were when it was released: they open, are understood, and are made
//! again byte for byte, for as long as that version is spoken.
//!
//! The packets lie in `golden/v1`, one file of hexadecimal digits for each kind. `FLIP_GOLDEN=write` writes
//! those that are missing and never changes one that is there; it also renews the bodies that the fuzzers
//! begin with, which are not frozen.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foca::Codec as _;

use super::codec::{Codec, Gate};
use super::message::*;
use super::ring::Ring;
use super::seal::{OVERHEAD, Seals, WIRE};
use crate::catalog::{Brief, Key, Record, Stamp};
use crate::id::{Peer, ShortId};
use crate::{limits, testing};

const ABOUT: About = About { id: 0x1234, generation: 1_763_000_000 };

/// The name of a kind's file. A new kind does not compile without one.
fn name(message: &Message) -> &'static str {
    match message {
        Message::Swim(_) => "swim",
        Message::Ping(_) => "ping",
        Message::Pong(_) => "pong",
        Message::Ballot(_) => "ballot",
        Message::Hint(_) => "hint",
        Message::Verdict(_) => "verdict",
        Message::VerdictAck(_) => "verdict_ack",
        Message::Leave(_) => "leave",
        Message::LeaveAck(_) => "leave_ack",
        Message::Facts(_) => "facts",
        Message::FactsWanted => "facts_wanted",
        Message::Digest(_) => "digest",
        Message::State(_) => "state",
        Message::Hello(_) => "hello",
        Message::Duplicate(_) => "duplicate",
        Message::Keys(_) => "keys",
        Message::Ring(_) => "ring",
        Message::Claim(_) => "claim",
        Message::Grant(_) => "grant",
        Message::Renew(_) => "renew",
        Message::Renewed(_) => "renewed",
        Message::Release(_) => "release",
        Message::Marks(_) => "marks",
        Message::Flaps(_) => "flaps",
        Message::Told(_) => "told",
        Message::Heard(_) => "heard",
        Message::Aside(_) => "aside",
        Message::Catalog(_) => "catalog",
        Message::Entries(_) => "entries",
        Message::Kept(_) => "kept",
        Message::Exchange(_) => "exchange",
        Message::Propose(_) => "propose",
        Message::Accepted(_) => "accepted",
    }
}

/// One message of each kind, with something in every field.
fn samples() -> Vec<Message> {
    let ping = Ping { nonce: 0x89AB_CDEF, generation: ABOUT.generation, facts: 300 };
    let verdict = Verdict { electorate: 0xFEED_F00D, about: ABOUT, ballots: vec![ABOUT; 3], ack: true };
    let held = |item, state| Held { item, state, age_ms: 70_000 };
    let facts = Facts {
        generation: ABOUT.generation,
        seq: 251,
        departing: true,
        held: Some((0..5).map(|state| held(u64::MAX - u64::from(state), state)).collect()),
    };
    let known = Known {
        about: ABOUT,
        up: true,
        verdict: Some(verdict.clone()),
        left: 17,
        flaps: vec![(1_763_000_000, 599), (1 << 40, 0)],
    };
    let marks = vec![
        Mark { server: 0x1234, item: None, version: 3, set: true },
        Mark { server: 0x4321, item: Some(u64::MAX), version: 70_000, set: false },
    ];
    let state = State {
        answer: true,
        generation: ABOUT.generation,
        members: vec![known.clone(), Known { verdict: None, up: false, ..known }],
        facts: vec![(0x1234, facts.clone()), (0x4321, Facts { held: None, ..facts.clone() })],
        marks: marks.clone(),
    };
    let digest = Digest { members: 1 << 60, facts: 2, electorate: 3, content: u64::MAX, marks: 1 << 63 };
    let brief = Brief { version: 7, file: u64::MAX - 5, records: 1 << 62, floor: 300, complete: true };
    let stamp = Stamp { count: 70_000, writer: 0x1234 };
    let record = Record { value: Some("\"10.0.0.9\"".into()), stamp, born: stamp, bound: Some(7) };
    let entries = [
        Key::Item("ip".into(), "10.0.0.9".into()),
        Key::Cluster,
        Key::Server("d".into()),
        Key::System("ip".into()),
        Key::Home("ip".into(), "10.0.0.9".into()),
    ]
    .map(|key| (key, record.clone()));
    let mut entries = entries.to_vec();
    entries[4].1 = Record { value: None, bound: None, ..record };
    let ballot =
        Ballot { electorate: 0xFEED_F00D, voter_generation: 1 << 33, about: ABOUT, seq: 77, down: true };
    vec![
        Message::Swim((0..=255).collect()),
        Message::Ping(ping),
        Message::Pong(ping),
        Message::Ballot(ballot),
        Message::Hint(ABOUT),
        Message::Verdict(verdict),
        Message::VerdictAck(ABOUT),
        Message::Leave(Leave { generation: ABOUT.generation }),
        Message::LeaveAck(Leave { generation: ABOUT.generation }),
        Message::Facts(facts),
        Message::FactsWanted,
        Message::Digest(digest),
        Message::State(state),
        Message::Hello(Hello { challenge: *b"challeng", proof: *b"theproof", wire: 1 }),
        Message::Duplicate(Duplicate {
            session: u64::MAX - 1,
            known_ms: 3_600_000,
            other: Some("[2001:db8::1]:2200".parse().expect("an address")),
        }),
        Message::Keys(Keys {
            stamp: super::ring::Stamp { version: 3, hash: 0xCAFE_BABE },
            ids: vec![1, 254],
            active: 254,
            want: true,
        }),
        Message::Claim(Claim {
            electorate: 0xFEED_F00D,
            session: 1 << 50,
            sent: 1_000_000_007,
            lease_ms: 4000,
            items: vec![(u64::MAX, 1), (2, 70_000)],
        }),
        Message::Grant(Grant {
            session: 1 << 50,
            sent: 1_000_000_007,
            granted: vec![(u64::MAX, 1)],
            refused: vec![(2, 70_000, 4081)],
        }),
        Message::Renew(Renew {
            electorate: 0xFEED_F00D,
            session: 1 << 50,
            sent: 1_000_000_007,
            lease_ms: 4000,
            digest: u64::MAX - 3,
        }),
        Message::Renewed(Renewed { session: 1 << 50, sent: 1_000_000_007, done: true }),
        Message::Release(Release { session: 1 << 50, items: vec![(u64::MAX, 1)] }),
        Message::Marks(marks),
        Message::Flaps(vec![(1_763_000_000, 599)]),
        Message::Told(Told {
            about: ABOUT,
            seq: 70_000,
            facts: vec![("load".into(), "0.5".into()), ("role".into(), "\"primary\"".into())],
            inactive: vec!["disk".into()],
        }),
        Message::Heard(vec![
            Heard { about: ABOUT, seq: 3 },
            Heard { about: About { id: 1, generation: 0 }, seq: 0 },
        ]),
        Message::Aside(Aside { topic: 3, data: (0..=255).collect() }),
        Message::Catalog(brief),
        Message::Entries(Entries { push: 70_000, entries: entries.clone() }),
        Message::Kept(Kept { push: 70_000, count: 1 << 40, beaten: true }),
        Message::Exchange(Exchange {
            brief,
            sums: vec![0, u64::MAX, 300],
            after: Some((1023, Some(entries[0].0.clone()))),
            file: Some((7, "{\"servers\":{}}".into())),
            entries,
            push: 3,
        }),
        Message::Propose(Propose { electorate: 0xFEED_F00D, id: 70_000 }),
        Message::Accepted(Accepted { id: 70_000, refused: 2 }),
        Message::Ring(NewRing { version: 3, active: 5, keys: vec![[1; 32], [0xFF; 32]] }),
    ]
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v1")
}

fn seals(me: &str) -> Seals {
    let config = Arc::new(testing::config("abc", me));
    let ring = Ring::new(config.key.clone());
    Seals::new(config, ring, 0x0123_4567_89AB_CDEF)
}

/// What a node sends that says only this.
fn packet(message: &Message) -> Vec<u8> {
    let mut body = Vec::new();
    message.encode(&mut body);
    pad(&mut body);
    let mut seals = seals("a");
    let key = seals.ring().active();
    seals.seal(WIRE, key, &body, 0xFEDC_BA98_7654_3210)
}

fn writes() -> bool {
    std::env::var("FLIP_GOLDEN").is_ok_and(|what| what == "write")
}

/// Where the fuzzers look, this message about servers that they know.
fn write_for_fuzzers(message: &Message) {
    let (known, other) = (ShortId::of("c").0.to_le_bytes(), ShortId::of("a").0.to_le_bytes());
    let mut body = Vec::new();
    message.encode(&mut body);
    // Ids above 250 are a mark and two bytes.
    for at in 0..body.len().saturating_sub(2) {
        match body[at..at + 3] {
            [0xFB, 0x34, 0x12] => body[at + 1..at + 3].copy_from_slice(&known),
            [0xFB, 0x21, 0x43] => body[at + 1..at + 3].copy_from_slice(&other),
            _ => {}
        }
    }
    let folder = if matches!(message, Message::State(_) | Message::Exchange(_)) { "frame" } else { "body" };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(folder);
    std::fs::write(folder.join(name(message)), body).expect("a file");
}

/// The bytes of a golden file, or these where it is to be written.
fn golden(name: &str, now: &[u8]) -> Vec<u8> {
    let path = folder().join(format!("{name}.hex"));
    if writes() && !path.exists() {
        let digits: String = now.iter().map(|byte| format!("{byte:02x}")).collect();
        let lines: Vec<_> = digits.as_bytes().chunks(96).map(String::from_utf8_lossy).collect();
        std::fs::create_dir_all(folder()).expect("a folder");
        std::fs::write(&path, lines.join("\n") + "\n").expect("a file");
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; a new kind needs a golden packet: set FLIP_GOLDEN=write", path.display())
    });
    let digits: Vec<_> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let hex = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("text"), 16).expect("hex");
    digits.chunks(2).map(hex).collect()
}

#[test]
fn packets_of_version_1_are_understood_and_made_again() {
    for message in samples() {
        // A SWIM message in the corpus has content that foca reads.
        if writes() && !matches!(message, Message::Swim(_)) {
            write_for_fuzzers(&message);
        }
        let name = name(&message);
        let golden = golden(name, &packet(&message));
        let mut b = seals("b");
        let header =
            b.header(&golden, OVERHEAD, limits::FRAME).unwrap_or_else(|why| panic!("{name}: {why:?}"));
        assert_eq!((header.wire, header.server, header.counter), (1, 0, 1), "{name}");
        let mut body = Vec::new();
        b.open(&header, &golden, &mut body).unwrap_or_else(|why| panic!("{name}: {why:?}"));
        assert_eq!(decode_all(&body), Ok(vec![message.clone()]), "{name}");
        assert_eq!(packet(&message), golden, "{name} is made differently");
    }
}

#[test]
fn there_is_a_packet_for_each_kind_and_no_other() {
    let files = std::fs::read_dir(folder()).expect("the golden packets").map(|entry| {
        let name = entry.expect("an entry").file_name().into_string().expect("text");
        name.trim_end_matches(".hex").to_owned()
    });
    let kinds = samples().iter().map(|message| name(message).to_owned()).collect::<BTreeSet<_>>();
    let mut expected = kinds;
    expected.insert("swim_bodies".into());
    assert_eq!(files.collect::<BTreeSet<_>>(), expected);
}

/// What travels inside a SWIM message: all headers, and members in all states.
#[test]
fn swim_bodies_of_version_1() {
    let peer = |id: u16| Peer { id: ShortId(id), generation: 1_763_000_000 + u64::from(id) };
    let gate = Gate::default();
    gate.agree(peer(9));
    let mut codec = Codec(gate);
    let (target, origin) = (peer(3), peer(4));
    let kinds = [
        foca::Message::Ping(1),
        foca::Message::Ack(2),
        foca::Message::PingReq { target, probe_number: 3 },
        foca::Message::IndirectPing { origin, probe_number: 4 },
        foca::Message::IndirectAck { target, probe_number: 5 },
        foca::Message::ForwardedAck { origin, probe_number: 6 },
        foca::Message::Announce,
        foca::Message::Feed,
        foca::Message::Gossip,
        foca::Message::Broadcast,
    ];
    let headers: Vec<_> = kinds
        .into_iter()
        .map(|message| foca::Header { src: peer(1), src_incarnation: 300, dst: peer(2), message })
        .collect();
    let members = [foca::State::Alive, foca::State::Suspect, foca::State::Down]
        .map(|state| foca::Member::new(peer(9), 7, state));
    let mut bytes = Vec::new();
    for header in &headers {
        codec.encode_header(header, &mut bytes).expect("room");
    }
    for member in &members {
        codec.encode_member(member, &mut bytes).expect("room");
    }
    let golden = golden("swim_bodies", &bytes);
    assert_eq!(bytes, golden);
    let mut rest = &golden[..];
    for header in &headers {
        assert_eq!(codec.decode_header(&mut rest).as_ref(), Ok(header));
    }
    for member in &members {
        assert_eq!(codec.decode_member(&mut rest).as_ref(), Ok(member));
    }
    assert!(rest.is_empty());
}
