//! What noise costs a node: no memory at all before its tag is checked, and little time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use flip_core::config::{self, Overrides, Source};
use flip_core::{Input, Node, Start, Time};

thread_local! {
    static ALLOCATED: Cell<u64> = const { Cell::new(0) };
}

/// Counts what its thread asks for.
struct Counting;

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has nothing to count with.
        let _ = ALLOCATED.try_with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CLUSTER: &str = r#"{
    "key": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    "servers": {"a": {"ip": "192.0.2.1"}, "b": {"ip": "192.0.2.2"}, "c": {"ip": "192.0.2.3"}},
    "cluster": {"system": {}},
}"#;

#[test]
fn noise_allocates_nothing() {
    let overrides = Overrides { id: Some("a"), ..Overrides::default() };
    let loaded = config::load(&Source { file: "cluster", text: CLUSTER }, &overrides).expect("a good config");
    let now = Time::from_millis(1_000);
    let start = Start { generation: 1, seed: [1; 32], keys: None };
    let mut node = Node::new(Arc::new(loaded.config), start, now);
    node.handle(Input::Timeout, now);
    while node.poll_output().is_some() {}
    let from = "198.51.100.7:2200".parse().expect("an address");
    let mut tag = vec![0xF1; 80];
    tag[4..8].fill(0);
    let noise = [vec![0xF1; 20], vec![0xF1; 1_300], vec![0x17; 80], tag];
    for data in &noise {
        // The first of its kind in a second is told.
        node.handle(Input::Datagram { from, data }, now);
        while node.poll_output().is_some() {}
    }
    for data in &noise {
        let (before, begun) = (ALLOCATED.get(), Instant::now());
        for _ in 0..10_000 {
            node.handle(Input::Datagram { from, data }, now);
            assert!(node.poll_output().is_none());
        }
        println!("{} bytes of noise: {:?} each", data.len(), begun.elapsed() / 10_000);
        assert_eq!(ALLOCATED.get() - before, 0);
    }
    let refused = node.status(now).refused;
    assert_eq!(refused.values().sum::<u64>(), 40_004);
    assert_eq!(refused.keys().collect::<Vec<_>>(), ["cluster", "length", "version"]);
}
