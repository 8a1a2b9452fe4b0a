//! The rules of hooks on a node that is alone: what runs, what waits, what is tried again.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, Hooks, OnExit, SystemKind};
use crate::event::{Event, ItemState, Reason};
use crate::id::ItemRef;
use crate::io::{Change, Command, HookAction, HookCall, Input, Output, PostCall};
use crate::node::{Node, Start};
use crate::testing;
use crate::time::Time;

/// A node with its hooks, which end when the test says so.
struct Alone {
    node: Node,
    now: Time,
    running: Vec<HookCall>,
    posts: Vec<PostCall>,
    most: usize,
    events: Vec<Event>,
    answers: Vec<Result<String, String>>,
    left: bool,
}

impl Alone {
    fn new(items: usize, hooks: Hooks) -> Self {
        Self::with(items, hooks, |_| {})
    }

    fn with(items: usize, hooks: Hooks, change: fn(&mut Config)) -> Self {
        let mut config = testing::config("a", "a");
        config.systems[0].items = testing::items(items);
        config.systems[0].kind = SystemKind::Replicate;
        config.systems[0].hooks = hooks;
        change(&mut config);
        let now = Time::from_millis(1000);
        let node = Node::new(Arc::new(config), Start { generation: 1, seed: [5; 32], keys: None }, now);
        let (running, events, answers) = (Vec::new(), Vec::new(), Vec::new());
        let posts = Vec::new();
        Self { node, now, running, posts, most: 0, events, answers, left: false }
    }

    fn feed(&mut self, input: Input<'_>) {
        self.node.handle(input, self.now);
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Hook(call) => {
                    assert!(self.running.iter().all(|other| other.item != call.item), "hooks overlap");
                    self.running.push(call);
                }
                Output::Post(call) => {
                    assert!(self.running.is_empty(), "something is under way");
                    self.posts.push(call);
                }
                Output::Event(event) => self.events.push(event),
                Output::Done { result, .. } => self.answers.push(result),
                Output::Left => self.left = true,
                _ => {}
            }
        }
        self.most = self.most.max(self.running.len());
    }

    fn command(&mut self, command: Command) -> Result<String, String> {
        self.feed(Input::Command { asker: 1, command });
        self.answers.pop().expect("an answer")
    }

    fn drain(&mut self, set: bool) {
        let server = "a".to_owned();
        let command = if set { Command::Drain { server } } else { Command::Undrain { server } };
        self.command(command).expect("drained or not");
    }

    /// Ends the hook that began first.
    fn end(&mut self, result: Result<(), &str>) -> HookCall {
        let call = self.running.remove(0);
        self.feed(Input::HookDone { hook: call.id, result: result.map_err(str::to_owned) });
        call
    }

    fn end_all(&mut self) -> Vec<(HookAction, usize)> {
        let mut ended = Vec::new();
        while !self.running.is_empty() {
            let call = self.end(Ok(()));
            ended.push((call.action, call.item.item));
        }
        ended
    }

    /// To the moment at which a hook starts. Gives back how long that took.
    fn run_to_a_hook(&mut self, most: Duration) -> Option<Duration> {
        let begin = self.now;
        while self.running.is_empty() {
            self.now = self.node.poll_timeout().filter(|at| at.since(begin) <= most)?;
            self.feed(Input::Timeout);
        }
        Some(self.now.since(begin))
    }

    fn state(&self, item: usize) -> ItemState {
        self.node.item_state(ItemRef { system: 0, item }).0
    }
}

fn limited(parallel: usize) -> Hooks {
    Hooks { parallel, ..Hooks::default() }
}

#[test]
fn so_many_hooks_at_once_and_no_more() {
    let mut alone = Alone::new(10, limited(3));
    alone.feed(Input::Timeout);
    assert_eq!(alone.running.len(), 3);
    let ended = alone.end_all();
    assert_eq!(ended, (0..10).map(|item| (HookAction::Alive, item)).collect::<Vec<_>>(), "in listed order");
    assert_eq!(alone.most, 3);
    assert!((0..10).all(|item| alone.state(item) == ItemState::Active));
}

/// An `alive` that waits is never started when the item leaves; one that runs is followed by `down`.
#[test]
fn the_newest_wish_wins() {
    let mut alone = Alone::new(5, limited(2));
    alone.feed(Input::Timeout);
    alone.drain(true);
    let ended = alone.end_all();
    let alive = (HookAction::Alive, 0);
    assert_eq!(ended, [alive, (HookAction::Alive, 1), (HookAction::Down, 0), (HookAction::Down, 1)]);
    assert!((0..5).all(|item| alone.state(item) == ItemState::Standby));
}

/// And the other way round: what is wanted again before its `down` was started just stays.
#[test]
fn a_down_that_waits_is_not_started_when_the_item_is_wanted_again() {
    let mut alone = Alone::new(4, limited(1));
    alone.feed(Input::Timeout);
    alone.end_all();
    alone.drain(true);
    assert_eq!(alone.running.len(), 1);
    alone.drain(false);
    assert_eq!(alone.end_all(), [(HookAction::Down, 0), (HookAction::Alive, 0)]);
}

/// The original started all `alive` hooks of a plan before its `down` hooks.
#[test]
fn what_comes_is_before_what_goes() {
    let mut alone = Alone::new(4, limited(1));
    alone.feed(Input::Timeout);
    for _ in 0..2 {
        alone.end(Ok(()));
    }
    // Two are here, the third is coming: its hook fails, and waits to be tried again.
    alone.end(Err("not yet"));
    alone.end(Ok(()));
    assert_eq!(alone.state(2), ItemState::Acquiring);
    let item = ItemRef { system: 0, item: 0 };
    // Something runs while the kernel says that the first is gone and the third's time comes.
    alone.feed(Input::Observed { item: ItemRef { system: 0, item: 1 }, present: false });
    assert_eq!(alone.running[0].item.item, 1);
    alone.feed(Input::Observed { item, present: false });
    while alone.now < Time::from_millis(1400) {
        alone.now = alone.node.poll_timeout().expect("a timer").min(Time::from_millis(1400));
        alone.feed(Input::Timeout);
    }
    let ended: Vec<_> = alone.end_all().into_iter().map(|(_, item)| item).collect();
    assert_eq!(ended, [1, 2, 0], "the one that comes goes first, then the one that is here is repaired");
}

#[test]
fn an_item_fails_after_so_many_failures_and_comes_back_after_the_cool_down() {
    let cool_down = Duration::from_secs(7);
    let mut alone = Alone::new(1, Hooks { fall: 2, cool_down, ..Hooks::default() });
    alone.feed(Input::Timeout);
    alone.end(Err("exit code 1"));
    let pause = alone.run_to_a_hook(Duration::from_secs(1)).expect("it is tried again");
    assert!((187..=313).contains(&pause.as_millis()), "250 ms, a quarter more or less: {pause:?}");
    alone.end(Err("exit code 1"));
    assert_eq!(alone.end(Ok(())).action, HookAction::Down, "what it did half is undone");
    assert_eq!(alone.state(0), ItemState::Failing);
    assert_eq!(alone.run_to_a_hook(Duration::from_secs(60)), Some(cool_down));
    assert_eq!(alone.end(Ok(())).action, HookAction::Alive);
    assert_eq!(alone.state(0), ItemState::Active);
}

#[test]
fn pauses_grow_up_to_a_limit_and_differ() {
    let mut alone = Alone::new(1, Hooks { fall: 1000, ..Hooks::default() });
    alone.feed(Input::Timeout);
    let mut pauses = Vec::new();
    for _ in 0..14 {
        alone.end(Err("exit code 1"));
        pauses.push(alone.run_to_a_hook(Duration::from_secs(100)).expect("it is tried again").as_secs_f64());
    }
    for (n, pause) in (0..).zip(&pauses) {
        let middle = (0.25 * 2f64.powi(n)).min(60.0);
        assert!((middle * 0.74..middle * 1.26).contains(pause), "{n}: {pause}");
    }
    assert!(pauses[10..].windows(2).any(|pair| pair[0] != pair[1]));
}

#[test]
fn an_operator_has_it_tried_again_at_once() {
    let mut alone = Alone::new(2, Hooks { fall: 1, ..Hooks::default() });
    alone.feed(Input::Timeout);
    let retry = |item: &str| Command::Retry { item: item.into() };
    assert!(alone.command(retry("7")).unwrap_err().contains("no item 7"));
    assert!(alone.command(retry("0")).unwrap_err().contains("nothing waits"));
    alone.end(Err("exit code 1"));
    alone.end(Ok(()));
    assert_eq!(alone.end(Ok(())).action, HookAction::Down);
    assert_eq!(alone.state(0), ItemState::Failing);
    alone.command(retry("0")).expect("it waits");
    assert_eq!(alone.running.len(), 1);
    alone.end(Ok(()));
    assert_eq!(alone.state(0), ItemState::Active);
}

#[test]
fn on_exit_down_or_keep() {
    let mut alone = Alone::new(3, Hooks::default());
    alone.feed(Input::Timeout);
    alone.end_all();
    alone.feed(Input::Leave);
    assert_eq!(alone.end_all(), [(HookAction::Down, 0), (HookAction::Down, 1), (HookAction::Down, 2)]);
    alone.run_to_a_hook(Duration::from_secs(5));
    assert!(alone.left);
    let mut alone = Alone::new(3, Hooks { on_exit: OnExit::Keep, ..Hooks::default() });
    alone.feed(Input::Timeout);
    alone.end_all();
    alone.feed(Input::Leave);
    assert!(alone.running.is_empty());
    alone.run_to_a_hook(Duration::from_secs(5));
    assert!(alone.left && alone.running.is_empty());
}

/// What an earlier life left is taken down where it is not wanted, unless the config says otherwise.
#[test]
fn leftovers() {
    for remove_on_start in [true, false] {
        let hooks = Hooks { remove_on_start, ..Hooks::default() };
        // The server takes no part in the system.
        let mut alone = Alone::with(1, hooks, |config| config.servers[0].systems.clear());
        alone.node.leftovers(&[ItemRef { system: 0, item: 0 }], alone.now);
        alone.feed(Input::Timeout);
        let ended = alone.end_all();
        let expected: &[_] = if remove_on_start { &[(HookAction::Down, 0)] } else { &[] };
        assert_eq!(ended, expected, "remove_on_start {remove_on_start}");
    }
}

/// Each failure and each state is told in words.
#[test]
fn a_failure_is_an_event_with_its_text() {
    let mut alone = Alone::new(1, Hooks::default());
    alone.feed(Input::Timeout);
    alone.end(Err("no route to the cloud"));
    let told = alone.events.iter().any(|event| {
        matches!(event, Event::HookFailed { error, failures: 1, .. } if error == "no route to the cloud")
    });
    assert!(told);
}

/// Once after a whole plan, with what it changed; what came and went meanwhile is not told.
#[test]
fn a_post_hook_is_called_once_after_each_plan() {
    let hooks = Hooks { post: Some("tell".into()), ..limited(2) };
    let mut alone = Alone::new(5, hooks);
    alone.feed(Input::Timeout);
    for _ in 0..4 {
        alone.end(Ok(()));
        assert!(alone.posts.is_empty(), "four of five");
    }
    alone.end(Ok(()));
    let told: Vec<_> = alone.posts[0].changes.clone();
    let home = |item| Change { item, here: true, reason: Reason::Home };
    assert_eq!(told, (0..5).map(home).collect::<Vec<_>>());
    // Another plan is done while the hook runs: it is told afterwards.
    alone.drain(true);
    alone.end_all();
    assert_eq!(alone.posts.len(), 1);
    alone.feed(Input::HookDone { hook: alone.posts[0].id, result: Err("no such file".into()) });
    assert!(alone.events.iter().any(|event| matches!(event, Event::PostFailed { system: 0, .. })));
    assert_eq!(alone.posts.len(), 2);
    assert!(alone.posts[1].changes.iter().all(|change| !change.here && change.reason == Reason::Drain));
    // Both ways before it could be told: nothing to tell.
    alone.drain(false);
    alone.end_all();
    alone.drain(true);
    alone.end_all();
    alone.feed(Input::HookDone { hook: alone.posts[1].id, result: Ok(()) });
    assert_eq!(alone.posts.len(), 2);
}

/// A server that sees a quorum at once took down what it had found before it had heard of all of it.
#[test]
fn leftovers_that_are_wanted_do_not_blink() {
    let mut alone = Alone::new(3, limited(1));
    let all: Vec<_> = (0..3).map(|item| ItemRef { system: 0, item }).collect();
    alone.node.leftovers(&all, alone.now);
    alone.feed(Input::Timeout);
    let alive = |item| (HookAction::Alive, item);
    assert_eq!(alone.end_all(), [alive(0), alive(1), alive(2)], "made this life's own, and never gone");
}

/// Somebody adds what is not wanted here: it goes, and waits for its turn like everything else.
#[test]
fn strays_are_removed() {
    let mut alone = Alone::with(2, limited(1), |config| config.servers[0].systems.clear());
    alone.feed(Input::Timeout);
    for item in 0..2 {
        alone.feed(Input::Observed { item: ItemRef { system: 0, item }, present: true });
    }
    assert_eq!(alone.end_all(), [(HookAction::Down, 0), (HookAction::Down, 1)]);
    assert_eq!(alone.most, 1);
}

#[test]
fn all_hear_what_came_of_reading_scripts_again() {
    let mut alone = Alone::new(1, Hooks::default());
    for result in [Ok("1 of 2 scripts changed: job".to_owned()), Err("job.lua:2: no".to_owned())] {
        assert_eq!(alone.command(Command::Reloaded { result: result.clone() }), result);
        assert!(alone.events.contains(&Event::Reloaded { result }));
    }
}

/// A foreign host has its address: the item goes, is `Failing` for a while, and is tried again.
#[test]
fn an_item_is_given_up_to_a_foreign_host_where_the_config_says_so() {
    let mut alone = Alone::new(2, Hooks::default());
    alone.feed(Input::Timeout);
    alone.end_all();
    let item = ItemRef { system: 0, item: 0 };
    let with = || "02:00:00:00:00:09".to_owned();
    alone.feed(Input::Conflict { item, with: with(), give_up: false });
    assert_eq!(alone.state(0), ItemState::Active, "it is defended elsewhere");
    assert!(alone.running.is_empty());
    alone.feed(Input::Conflict { item, with: with(), give_up: true });
    assert_eq!(alone.running[0].reason, Reason::Conflict);
    assert_eq!(alone.end_all(), [(HookAction::Down, 0)]);
    assert_eq!((alone.state(0), alone.state(1)), (ItemState::Failing, ItemState::Active));
    let told = alone.events.iter().filter(|event| matches!(event, Event::Conflict { .. })).count();
    assert_eq!(told, 2);
    let failure = alone.node.status(alone.now).items[0].failure.clone().expect("it says why");
    assert!(failure.error.contains("02:00:00:00:00:09"), "{failure:?}");
    // What is not here is given up already.
    alone.feed(Input::Conflict { item, with: with(), give_up: true });
    alone.feed(Input::Conflict { item: ItemRef { system: 7, item: 0 }, with: with(), give_up: true });
    assert!(alone.running.is_empty());
    let waited = alone.run_to_a_hook(Duration::from_secs(600)).expect("it is tried again");
    assert!(waited >= Hooks::default().cool_down, "{waited:?}");
    assert_eq!(alone.end_all(), [(HookAction::Alive, 0)]);
    assert_eq!(alone.node.status(alone.now).items[0].failure, None);
}

#[test]
fn repairs_are_counted_until_there_is_peace_for_a_while() {
    let mut alone = Alone::new(1, Hooks::default());
    alone.feed(Input::Timeout);
    alone.end_all();
    let item = ItemRef { system: 0, item: 0 };
    let mut times = Vec::new();
    for pause in [1, 10, 59, 60, 5] {
        alone.now += Duration::from_secs(pause);
        alone.feed(Input::Timeout);
        alone.end_all();
        alone.events.clear();
        alone.feed(Input::Observed { item, present: false });
        assert_eq!(alone.end_all(), [(HookAction::Alive, 0)], "at once");
        times.extend(alone.events.iter().filter_map(|event| match event {
            Event::Drift { present: false, times, .. } => Some(*times),
            _ => None,
        }));
    }
    assert_eq!(times, [1, 2, 3, 1, 2]);
}
