//! Pictures of `flip top` at 80 columns and 24 lines, and what keys do.

use flip_core::event::ItemState;
use flip_core::status::{CaseStatus, HolderStatus, MemberState, Status};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::draw::draw;
use super::model::{Effect, Key, Model, Part, Popup, Wish};

/// Three servers and four items, of which `db` is on its way from the third.
fn status() -> Status {
    let text = include_str!("status.json");
    serde_json::from_str(text).unwrap()
}

fn model() -> Model {
    let mut model = Model::default();
    model.show(status());
    model.tell("12:00:00.000Z".to_owned(), "started node=a".to_owned());
    model.tell("12:00:01.250Z".to_owned(), "case opened server=c".to_owned());
    model
}

fn picture(model: &Model) -> String {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    terminal.draw(|frame| draw(frame, model)).unwrap();
    let buffer = terminal.backend().buffer();
    let lines = buffer.content.chunks(80).map(|line| {
        let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
        line.trim_end().to_owned() + "\n"
    });
    lines.collect()
}

#[test]
fn all_parts_fit_into_80_by_24() {
    let picture = picture(&model());
    let expected = [
        "degraded",
        "MEMBER",
        "0.31 ms",
        "suspect",
        "c is silent for",
        "1 of 2 ballots (b)",
        "ITEM",
        "web",
        "1 min 5 s",
        "90 ms",
        "EVENTS",
        "12:00:01.250Z case opened server=c",
        "q quit",
    ];
    for words in expected {
        assert!(picture.contains(words), "{words}:\n{picture}");
    }
    assert_eq!(picture.lines().count(), 24);
}

#[test]
fn what_is_wrong_stands_first() {
    let mut model = model();
    let status = model.status.as_mut().unwrap();
    status.items[0].holders.clear();
    assert!(picture(&model).starts_with(" 1 NOWHERE "), "{}", picture(&model));
    model.status.as_mut().unwrap().has_quorum = false;
    assert!(picture(&model).starts_with(" ISOLATED "));
    model.lost = Some("the daemon has ended".to_owned());
    assert!(picture(&model).starts_with(" NO ANSWER "));
    assert!(picture(&model).contains("the daemon has ended"));
}

#[test]
fn a_drain_is_confirmed_and_its_end_is_not() {
    let mut model = model();
    assert_eq!(model.key(Key::Letter('d')), Effect::Nothing);
    assert!(picture(&model).contains("Move the 3 items of a to other servers"), "{}", picture(&model));
    assert_eq!(model.key(Key::Letter('n')), Effect::Nothing);
    assert_eq!(model.popup, None);
    model.key(Key::Letter('d'));
    assert_eq!(model.key(Key::Letter('y')), Effect::Ask(Wish::Drain("a".to_owned())));
    model.status.as_mut().unwrap().members[1].drained = true;
    model.key(Key::Down);
    assert_eq!(model.key(Key::Letter('d')), Effect::Ask(Wish::Undrain("b".to_owned())));
}

#[test]
fn why_is_asked_of_the_selected_item() {
    let mut model = model();
    assert_eq!(model.key(Key::Enter), Effect::Nothing, "no item is selected among members");
    model.key(Key::Next);
    model.key(Key::Down);
    assert_eq!(model.part, Part::Items);
    assert_eq!(model.key(Key::Letter('w')), Effect::Ask(Wish::Why("mail".to_owned())));
    model.key(Key::Letter('/'));
    for letter in "cr".chars() {
        model.key(Key::Letter(letter));
    }
    assert!(picture(&model).contains("cr_"));
    model.key(Key::Enter);
    assert_eq!(model.items().count(), 1);
    assert_eq!(model.key(Key::Enter), Effect::Ask(Wish::Why("cron".to_owned())));
    assert_eq!(model.key(Key::Escape), Effect::Nothing, "the filter ends first");
    assert_eq!(model.items().count(), 4);
    assert_eq!(model.key(Key::Escape), Effect::Quit);
}

#[test]
fn long_answers_scroll_and_selections_stay_inside() {
    let mut model = model();
    let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
    model.popup = Some(Popup::Text { title: "why".to_owned(), text, scroll: 0 });
    assert!(picture(&model).contains("line 0") && !picture(&model).contains("line 60"));
    for _ in 0..6 {
        model.key(Key::Page(10));
    }
    assert!(picture(&model).contains("line 60"), "{}", picture(&model));
    model.key(Key::Escape);
    for _ in 0..9 {
        model.key(Key::Down);
    }
    assert_eq!(model.at[0], 2);
    let mut fewer = status();
    fewer.members.truncate(1);
    model.show(fewer);
    assert_eq!(model.at[0], 0);
}

#[test]
fn the_picture_that_is_tested_has_all_that_is_drawn() {
    let status = status();
    assert!(
        matches!(&status.members[2].case, Some(CaseStatus { down_ballots, .. }) if down_ballots == &["b"])
    );
    assert_eq!(status.members[2].state, MemberState::Suspect);
    let releasing = |h: &HolderStatus| h.state == ItemState::Releasing;
    assert!(status.items[2].holders.iter().any(releasing));
}
