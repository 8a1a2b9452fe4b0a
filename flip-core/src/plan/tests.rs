use super::*;
use crate::config::CheckKind;
use crate::node::checked::{Cluster, MS};
use crate::testing;

fn five() -> Config {
    let mut config = testing::config("abcde", "a");
    config.systems[0].items = testing::items(10);
    config
}

fn well(config: &Config) -> Present {
    Present { servers: vec![Standing::WELL; config.servers.len()], items: BTreeMap::new() }
}

fn down(id: &str) -> WhatIf {
    WhatIf::Down(id.to_owned())
}

/// `item: from > to` of every move.
fn moves(plan: &Plan) -> Vec<String> {
    let line = |m: &Move| format!("{}: {} > {}", m.item.item, m.from.join(","), m.to.join(","));
    plan.moves.iter().map(line).collect()
}

#[test]
fn one_server_dies_and_only_its_items_move() {
    let config = five();
    let answer = plan(&config, &well(&config), vec![down("b")]).unwrap();
    assert!(answer.quorum.seen && answer.unheld.is_empty());
    assert_eq!(answer.moves.len(), 2, "{:?}", moves(&answer));
    assert!(answer.moves.iter().all(|m| m.from == ["b"] && m.to != ["b"] && m.to.len() == 1));
    let loads: Vec<_> = answer.loads.iter().map(|load| (load.before, load.after)).collect();
    assert_eq!(loads[1], (2, 0));
    assert_eq!(loads.iter().map(|(_, after)| after).sum::<usize>(), 10);
    assert!(loads.iter().all(|(_, after)| *after <= 3), "{loads:?}");
}

#[test]
fn a_table_of_what_ifs() {
    let all = "down a; down b|drain c|up a|undrain c|add x";
    let config = five();
    let ask = |text: &str, present: &Present| {
        let one = |word: &str| {
            let (what, id) = word.trim().split_once(' ').expect("what and whom");
            let id = id.to_owned();
            match what {
                "down" => WhatIf::Down(id),
                "up" => WhatIf::Up(id),
                "drain" => WhatIf::Drain(id),
                "undrain" => WhatIf::Undrain(id),
                _ => WhatIf::AddItem { system: "test".into(), name: id },
            }
        };
        plan(&config, present, text.split(';').map(one).collect())
    };
    assert!(all.split('|').all(|text| ask(text, &well(&config)).is_ok()));
    let mut present = well(&config);
    present.servers[0].live = false;
    present.servers[2].drained = true;
    // Items 0 and 5 are at home on a, 2 and 7 on c.
    let back = ask("up a", &present).unwrap();
    let home: Vec<_> = back.moves.iter().filter(|m| m.to == ["a"]).map(|m| m.item.item.as_str()).collect();
    assert!(home.starts_with(&["0", "5"]), "{:?}", moves(&back));
    // What is left of c's is dealt anew over those who may have it, which have two each.
    let mut loads: Vec<_> = back.loads.iter().map(|load| load.after).collect();
    loads.sort_unstable();
    assert_eq!(loads, [0, 2, 2, 3, 3], "{:?}", moves(&back));
    let both = ask("up a; undrain c", &present).unwrap();
    assert_eq!(both.loads.iter().map(|load| load.after).collect::<Vec<_>>(), [2; 5]);
    let add = ask("add x", &well(&config)).unwrap();
    assert_eq!(moves(&add), ["x:  > a"], "the eleventh item of five servers is dealt to the first");
    let gone = ask("down a", &present).unwrap();
    assert!(gone.moves.is_empty() && gone.notes == ["a is not there now"], "{gone:?}");
    for (text, names) in [
        ("down z", vec!["there is no server z", "a, b, c, d, e"]),
        ("add 3", vec!["3 is an item of test already"]),
    ] {
        let why = ask(text, &well(&config)).unwrap_err();
        assert!(names.iter().all(|name| why.contains(name)), "{why}");
    }
    let nowhere = WhatIf::AddItem { system: "nope".into(), name: "x".into() };
    assert!(plan(&config, &well(&config), vec![nowhere]).unwrap_err().contains("the systems are test"));
}

#[test]
fn without_a_quorum_items_go_by_their_policy() {
    let mut config = five();
    config.systems[0].items[0].isolated = Isolated::Drop;
    config.systems[0].items[1].isolated = Isolated::Take;
    // Homes of a, b, c are gone; d and e are fewer than three.
    let answer = plan(&config, &well(&config), vec![down("a"), down("b"), down("c")]).unwrap();
    assert!(!answer.quorum.seen && answer.quorum.live_voters == 2 && answer.notes.len() == 1);
    let unheld: Vec<_> = answer.unheld.iter().map(|item| item.item.as_str()).collect();
    assert_eq!(
        unheld,
        ["0", "2", "5", "6", "7"],
        "drop and keep of the dead are nobody's, take is somebody's"
    );
    let taken: Vec<_> = answer.moves.iter().filter(|m| !m.to.is_empty()).collect();
    assert_eq!((taken.len(), taken[0].item.item.as_str()), (1, "1"), "{:?}", moves(&answer));
}

#[test]
fn what_is_unclean_or_unfit_is_seen() {
    let mut config = five();
    config.systems[0].items[0].checks = vec![testing::check(CheckKind::Lua { script: "x".into() })];
    let id = |item: usize| config.systems[0].items[item].id;
    let mut present = well(&config);
    let unfit = (1..4).map(|server| (server, Fitness::Unhealthy)).collect();
    present.items.insert(id(0), Known { unfit, ..Known::default() });
    present.items.insert(id(5), Known { unclean: true, ..Known::default() });
    let answer = plan(&config, &present, vec![down("a")]).unwrap();
    let to = |name: &str| answer.moves.iter().find(|m| m.item.item == name).map(|m| m.to.clone());
    assert_eq!(to("0"), Some(vec!["e".to_owned()]), "the only other one that is well");
    assert_eq!((to("5"), answer.unheld.len()), (None, 1), "unclean before as after");
    let nobody = plan(&config, &present, vec![down("a"), down("e")]).unwrap();
    assert!(nobody.unheld.iter().any(|item| item.item == "0"), "{nobody:?}");
}

/// The promise: for each node of a five-node cluster, what the plan says is what then happens.
#[test]
fn the_plan_of_a_death_is_what_then_happens() {
    for dead in 0..5 {
        let mut cluster = Cluster::new("abcde", |config| config.systems[0].items = testing::items(7));
        cluster.run(MS(3000));
        let asked = (dead + 1) % 5;
        let id = cluster.nodes[dead].config().my().id.clone();
        let before = cluster.placed(asked);
        let answer = cluster.nodes[asked].plan(&[down(&id)], cluster.now).unwrap();
        assert!(answer.quorum.seen && !answer.moves.is_empty(), "{answer:?}");
        cluster.freeze(dead);
        cluster.run(MS(5000));
        for node in (0..5).filter(|node| *node != dead) {
            let mut expected = before.clone();
            for m in &answer.moves {
                let item = m.item.item.parse::<usize>().unwrap();
                expected[item] = m.to.clone();
            }
            assert_eq!(
                cluster.placed(node),
                expected,
                "{id} died; {} sees",
                cluster.nodes[node].config().my().id
            );
        }
        // Not only placed, but there.
        for m in &answer.moves {
            let status = cluster.nodes[asked].status(cluster.now);
            let item = status.items.iter().find(|item| item.item == m.item.item).unwrap();
            let active = |h: &&crate::status::HolderStatus| h.state == crate::event::ItemState::Active;
            let holders: Vec<_> = item.holders.iter().filter(active).map(|h| h.server.clone()).collect();
            assert_eq!(holders, m.to);
        }
        // And back again.
        let back = cluster.nodes[asked].plan(&[WhatIf::Up(id.clone())], cluster.now).unwrap();
        assert_eq!(back.moves.len(), answer.moves.len());
        cluster.thaw(dead);
        cluster.run(MS(20_000));
        assert_eq!(cluster.placed(asked), before);
    }
}
