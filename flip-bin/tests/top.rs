//! `flip top` on a real terminal of 80 columns and 24 lines, which tmux is.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use flip_core::event::ItemState;
use flip_core::status::Status;
use flip_tests::local::Local;
use flip_tests::needs::command_or_skip;
use flip_tests::until::until;
use serde_json::Map;

const LIMIT: Duration = Duration::from_secs(30);

/// A terminal with a server of its own; both end with it.
struct Terminal {
    socket: String,
}

impl Terminal {
    fn start(local: &Local, command: &str) -> Self {
        let terminal = Self { socket: local.state_dir().join("tmux").display().to_string() };
        let size = ["-x", "80", "-y", "24"];
        assert!(
            terminal
                .tmux(&[&["-f", "/dev/null", "new-session", "-d"], &size[..], &[command]].concat())
                .status
                .success()
        );
        terminal
    }

    fn tmux(&self, words: &[&str]) -> std::process::Output {
        Command::new("tmux").args(["-S", &self.socket]).args(words).env_remove("TMUX").output().unwrap()
    }

    fn keys(&self, keys: &[&str]) {
        assert!(self.tmux(&[&["send-keys"], keys].concat()).status.success());
    }

    fn shows(&self) -> String {
        String::from_utf8_lossy(&self.tmux(&["capture-pane", "-p"]).stdout).into_owned()
    }

    fn until(&self, what: &str, words: &[&str]) {
        until(
            what,
            LIMIT,
            || self.shows(),
            || {
                let shown = self.shows();
                words.iter().all(|word| shown.contains(word))
            },
        );
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.tmux(&["kill-server"]));
    }
}

#[test]
fn the_cluster_is_seen_and_steered_on_a_terminal() {
    if !command_or_skip("the_cluster_is_seen_and_steered_on_a_terminal", "tmux", "-V", "tmux") {
        return;
    }
    let flip = Path::new(env!("CARGO_BIN_EXE_flip"));
    let mut local = Local::prepare(flip, 3, 0, &["web", "mail", "db"], Map::new()).unwrap();
    (0..3).for_each(|n| local.start(n).unwrap());
    let ready = |status: &Status| status.healthy() && status.catalog.as_ref().is_some_and(|c| c.complete);
    (0..3).for_each(|n| drop(local.watch(n).unwrap().until(LIMIT, ready).unwrap()));
    let command = format!("{} top --state-dir {} --id a", flip.display(), local.state_dir().display());
    let terminal = Terminal::start(&local, &command);
    terminal
        .until("all parts", &["healthy", "MEMBER", "ITEM", "web", "mail", "db", "EVENTS", "? keys", " ms"]);
    assert_eq!(terminal.shows().lines().count(), 24);

    // The second item, which is on the second server.
    terminal.keys(&["Tab", "Down", "w"]);
    terminal.until("the reasons", &["why mail", "b holds it", "Home"]);
    terminal.keys(&["Escape"]);
    terminal.until("the list again", &["SYSTEM", "? keys"]);

    // To the first of those that do not hold it, by choice; then back.
    for (key, to) in [(&["m", "Enter"][..], "a"), (&["m", "Enter"], "b")] {
        terminal.keys(&key[..1]);
        terminal.until("the choice", &["mail"]);
        terminal.keys(&key[1..]);
        terminal.until("what the daemon says", &["a majority"]);
        let there = |line: &str| {
            let words: Vec<_> = line.split_whitespace().take(4).collect();
            words == ["items", "mail", to, "active"]
        };
        until(&format!("mail on {to}"), LIMIT, || terminal.shows(), || terminal.shows().lines().any(there));
        let holds = |status: &Status| matches!(&status.items[1].holders[..], [one] if one.server == to && one.state == ItemState::Active);
        local.watch(0).unwrap().until(LIMIT, holds).unwrap();
    }

    // The third server.
    terminal.keys(&["Tab", "Tab", "Down", "Down", "d"]);
    terminal.until("the question", &["Move the 1 items of c"]);
    terminal.keys(&["y"]);
    terminal.until("a drained server", &["drained"]);
    let moved = |status: &Status| status.items[2].holders.iter().any(|h| h.server != "c");
    local.watch(0).unwrap().until(LIMIT, moved).unwrap();
    terminal.keys(&["d"]);
    terminal.until("all well again", &["healthy"]);

    local.kill(1).unwrap();
    terminal.until("the death", &["down", "member is down server=b"]);
    terminal.keys(&["q"]);
    until("its end", LIMIT, || terminal.shows(), || !terminal.tmux(&["list-sessions"]).status.success());
}
