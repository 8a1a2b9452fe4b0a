//! What links do to the addresses on them, in network namespaces of their own.

mod net;

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use flip_core::id::ItemRef;
use flip_systems::{Systems, Word};
use net::{V4, V6, alive, bound, cable, config, down, here, in_namespace, ip, item};
use tokio::time::timeout;

fn trouble(text: &str) -> Word {
    Word::Usable(Some(text.to_owned()))
}

const WELL: Word = Word::Usable(None);

/// The next words about both items, which are the same.
async fn both(systems: &Systems) -> Word {
    let words: [(ItemRef, Word); 2] = [systems.word().await, systems.word().await];
    assert_eq!((words[0].0, words[1].0, &words[0].1), (item(0), item(1), &words[1].1));
    words[0].1.clone()
}

async fn silent(systems: &Systems) {
    let word = timeout(Duration::from_millis(100), systems.word()).await;
    word.expect_err("nothing changed");
}

#[test]
fn a_link_that_goes_is_told_of_once_for_each_item() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &[V4, V6])).unwrap();
        assert_eq!(systems.word_now(), None, "nothing is wrong");
        alive(&systems, 0).await.unwrap();
        silent(&systems).await;
        ip("link set v1 down");
        assert_eq!(both(&systems).await, trouble("v0 has no carrier"));
        ip("link set v1 up");
        assert_eq!(both(&systems).await, WELL);
        assert_eq!(here(&systems).await, [true, false], "a carrier takes no address along");
        ip("link set v0 down");
        assert_eq!(both(&systems).await, trouble("v0 is down"));
        ip("link set v0 up");
        // With the carrier come two changes, or one.
        while both(&systems).await != WELL {}
        silent(&systems).await;
    });
}

#[test]
fn a_link_that_is_removed_or_renamed_is_told_of_and_comes_back() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &[V4, V6])).unwrap();
        alive(&systems, 0).await.unwrap();
        ip("link del v0");
        assert_eq!(both(&systems).await, trouble("there is no interface v0"));
        assert_eq!(systems.drift().await, (item(0), false));
        down(&systems, 0).await.unwrap();
        cable();
        while both(&systems).await != WELL {}
        ip("link set v0 down");
        assert_eq!(both(&systems).await, trouble("v0 is down"));
        ip("link set v0 name w0");
        let text = "v0 was renamed to w0: rename it back, or change \"interface\" in the config";
        assert_eq!(both(&systems).await, trouble(text));
        ip("link set w0 up");
        silent(&systems).await;
        ip("link set w0 down");
        ip("link set w0 name v0");
        ip("link set v0 up");
        while both(&systems).await != WELL {}
        alive(&systems, 0).await.unwrap();
        assert_eq!(bound("v0", V4).len(), 1);
    });
}

/// Linux can rename a link that is up since version 6.2.
#[test]
fn a_link_that_is_renamed_with_an_address_on_it_loses_that() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &[V4, V6])).unwrap();
        alive(&systems, 0).await.unwrap();
        alive(&systems, 1).await.unwrap();
        if !Command::new("ip").args(["link", "set", "v0", "name", "w0"]).status().unwrap().success() {
            eprintln!("SKIPPED: this kernel renames no link that is up");
            return;
        }
        let text = "v0 was renamed to w0: rename it back, or change \"interface\" in the config";
        assert_eq!(both(&systems).await, trouble(text));
        assert_eq!(systems.drift().await, (item(0), false));
        assert_eq!((bound("w0", V4).len(), bound("w0", V6).len()), (0, 0));
    });
}

#[test]
fn what_is_wrong_at_the_start_is_told_before_anything_else() {
    in_namespace(|| async {
        ip("link set v1 down");
        let systems = Systems::open(&config("v0", &[V4, V6])).unwrap();
        assert_eq!(systems.word_now(), Some((item(0), trouble("v0 has no carrier"))));
        assert_eq!(systems.word_now(), Some((item(1), trouble("v0 has no carrier"))));
        assert_eq!(systems.word_now(), None);
    });
}

/// Frames that the kernel dropped for want of room in a netlink socket of this network.
fn dropped() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok()).sum()
}

#[test]
fn more_changes_than_the_socket_holds_lose_nothing_that_counts() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &[V4, V6])).unwrap();
        alive(&systems, 0).await.unwrap();
        alive(&systems, 1).await.unwrap();
        assert_eq!(dropped(), 0);
        // Nobody reads meanwhile: this thread is the only one, and it waits for iproute2.
        let mut batch = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut lines = String::new();
        for n in 0..8_000 {
            lines += &format!("addr add 10.1.{}.{}/32 dev lo\n", n / 250, n % 250);
        }
        lines += &format!("addr del {V4}/32 dev v0\nlink set v1 down\n");
        batch.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(batch.wait().unwrap().success());
        assert!(dropped() > 0, "the test must overrun the socket");
        assert_eq!(both(&systems).await, trouble("v0 has no carrier"));
        assert_eq!(systems.drift().await, (item(0), false));
        // And it hears what comes next.
        ip("link set v1 up");
        assert_eq!(both(&systems).await, WELL);
        ip(&format!("addr del {V6}/128 dev v0"));
        assert_eq!(systems.drift().await, (item(1), false));
    });
}
