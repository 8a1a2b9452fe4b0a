//! The picture of `flip top`, for a terminal of 80 columns and 24 lines or more.

use flip_core::event::ItemState;
use flip_core::status::{ItemStatus, MemberState, MemberStatus, Status};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Block, Cell, Clear, List, ListItem, ListState, Paragraph, Row, Table, TableState, Wrap,
};

use super::model::{Model, Part, Popup};
use crate::see::span;

/// Lines for members, at most, with their heading.
const MEMBERS: u16 = 9;
/// Lines for events, with their heading, where there is little room.
const EVENTS: u16 = 6;

pub fn draw(frame: &mut Frame, model: &Model) {
    let Some(status) = &model.status else {
        let text = model.lost.clone().unwrap_or_else(|| "asking the daemon".to_owned());
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }), frame.area());
        return;
    };
    let members = u16::try_from(status.members.len()).unwrap_or(MEMBERS).saturating_add(1).min(MEMBERS);
    let open = status.members.iter().filter(|m| m.case.is_some()).count();
    let cases = u16::try_from(open).unwrap_or(3).min(3);
    let events = if frame.area().height > 40 { frame.area().height / 4 } else { EVENTS };
    let rows = [
        Constraint::Length(1),
        Constraint::Length(members),
        Constraint::Length(cases),
        Constraint::Min(3),
        Constraint::Length(events),
        Constraint::Length(1),
    ];
    let [head, top, middle, items, bottom, foot] = Layout::vertical(rows).areas(frame.area());
    frame.render_widget(heading(status, model), head);
    draw_members(frame, model, top);
    frame.render_widget(Paragraph::new(status.members.iter().filter_map(case).collect::<Vec<_>>()), middle);
    draw_items(frame, model, items);
    draw_events(frame, model, bottom);
    frame.render_widget(footing(model), foot);
    if let Some(popup) = &model.popup {
        draw_popup(frame, popup, model);
    }
}

fn heading(status: &Status, model: &Model) -> Line<'static> {
    let nowhere =
        status.items.iter().filter(|i| !i.holders.iter().any(|h| h.state == ItemState::Active)).count();
    let (word, colour) = match () {
        () if model.lost.is_some() => ("NO ANSWER".to_owned(), Color::Red),
        () if !status.has_quorum => ("ISOLATED".to_owned(), Color::Red),
        () if nowhere > 0 => (format!("{nowhere} NOWHERE"), Color::Red),
        () if status.healthy() => ("healthy".to_owned(), Color::Green),
        () => ("degraded".to_owned(), Color::Yellow),
    };
    let (live, all) = (status.live, status.members.len());
    let view: String = status.view.chars().take(8).collect();
    Line::from(vec![
        Span::styled(format!(" {word} "), Style::new().fg(Color::Black).bg(colour)),
        format!(
            " {} sees {live} of {all} up, quorum {}, {} items, view {view}",
            status.node,
            status.quorum,
            status.items.len()
        )
        .into(),
    ])
}

fn heading_of(part: Part, model: &Model, names: &[&'static str]) -> Row<'static> {
    let style = Style::new().add_modifier(Modifier::BOLD);
    let style = if model.part == part { style.fg(Color::Cyan) } else { style };
    Row::new(names.iter().copied().map(Cell::from)).style(style)
}

fn draw_members(frame: &mut Frame, model: &Model, area: Rect) {
    let rows = model.members().iter().map(member);
    let widths = [
        Constraint::Min(8),
        Constraint::Length(8),
        Constraint::Length(11),
        Constraint::Length(9),
        Constraint::Length(6),
        Constraint::Fill(2),
    ];
    let names = ["MEMBER", "STATE", "SINCE", "RTT", "LOSS", "NOTES"];
    let table = Table::new(rows, widths)
        .header(heading_of(Part::Members, model, &names))
        .row_highlight_style(highlight(model, Part::Members));
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(model.at[0]));
}

fn highlight(model: &Model, part: Part) -> Style {
    if model.part == part { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() }
}

fn member(member: &MemberStatus) -> Row<'static> {
    let (state, colour) = match member.state {
        MemberState::Unknown => ("unknown", Color::Yellow),
        MemberState::Up => ("up", Color::Green),
        MemberState::Suspect => ("suspect", Color::Yellow),
        MemberState::Down => ("down", Color::Red),
        MemberState::Left => ("left", Color::DarkGray),
    };
    let mut notes = Vec::new();
    if member.is_self {
        notes.push("this node".to_owned());
    }
    if member.arbiter {
        notes.push("arbiter".to_owned());
    }
    if member.drained {
        notes.push("drained".to_owned());
    }
    if !member.inactive.is_empty() {
        notes.push(format!("inactive: {}", member.inactive.join(", ")));
    }
    if let Some(ms) = member.immature_ms {
        notes.push(format!("no items for {}", span(ms)));
    }
    if member.config_differs {
        notes.push("OTHER CONFIG".to_owned());
    }
    let loss = if member.is_self { "-".to_owned() } else { format!("{:.0} %", member.loss * 100.0) };
    let rtt = member.rtt_us.map_or_else(|| "-".to_owned(), |us| format!("{:.2} ms", f64::from(us) / 1000.0));
    Row::new([
        Cell::from(member.id.clone()),
        Cell::from(state).fg(colour),
        Cell::from(span(member.since_ms)),
        Cell::from(rtt),
        Cell::from(loss),
        Cell::from(notes.join(", ")),
    ])
}

fn case(member: &MemberStatus) -> Option<Line<'static>> {
    let case = member.case.as_ref()?;
    let text = format!(
        " {} is silent for {}: {} of {} ballots ({})",
        member.id,
        span(case.since_ms),
        case.down_ballots.len(),
        case.quorum,
        if case.down_ballots.is_empty() { "none yet".to_owned() } else { case.down_ballots.join(", ") },
    );
    Some(Line::from(text).yellow())
}

fn draw_items(frame: &mut Frame, model: &Model, area: Rect) {
    let rows = model.items().map(item);
    let widths = [
        Constraint::Length(10),
        Constraint::Fill(2),
        Constraint::Fill(1),
        Constraint::Length(10),
        Constraint::Length(11),
        Constraint::Fill(2),
    ];
    let table = Table::new(rows, widths)
        .header(heading_of(Part::Items, model, &["SYSTEM", "ITEM", "HOLDER", "STATE", "SINCE", "NOTES"]))
        .row_highlight_style(highlight(model, Part::Items));
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(model.at[1]));
}

/// One line an item: the holder, or whoever is nearest to hold it.
fn item(item: &ItemStatus) -> Row<'static> {
    let rank = |state| match state {
        ItemState::Active => 0,
        ItemState::Acquiring => 1,
        ItemState::Releasing => 2,
        ItemState::Unclean => 3,
        ItemState::Failing => 4,
        ItemState::Standby => 5,
    };
    let first =
        item.holders.iter().min_by_key(|holder| rank(holder.state)).filter(|h| h.state != ItemState::Standby);
    let (state, colour) = match first.map(|holder| holder.state) {
        Some(ItemState::Active) => ("active", Color::Green),
        Some(ItemState::Acquiring) => ("acquiring", Color::Yellow),
        Some(ItemState::Releasing) => ("releasing", Color::Yellow),
        Some(ItemState::Unclean) => ("unclean", Color::Red),
        Some(ItemState::Failing) => ("failing", Color::Red),
        Some(ItemState::Standby) | None => ("nowhere", Color::Red),
    };
    let active: Vec<_> =
        item.holders.iter().filter(|h| h.state == ItemState::Active).map(|h| h.server.as_str()).collect();
    let holder = match first {
        _ if !active.is_empty() => active.join(", "),
        Some(holder) => holder.server.clone(),
        None => "-".to_owned(),
    };
    let mut notes = Vec::new();
    if !item.wanted.iter().all(|wanted| active.contains(&wanted.as_str())) {
        notes.push(format!("wanted on {}", item.wanted.join(", ")));
    }
    if let Some(failure) = &item.failure {
        notes.push(failure.error.clone());
    }
    if !item.unhealthy_on.is_empty() {
        notes.push(format!("unhealthy on {}", item.unhealthy_on.join(", ")));
    }
    Row::new([
        Cell::from(item.system.clone()),
        Cell::from(item.item.clone()),
        Cell::from(holder),
        Cell::from(state).fg(colour),
        Cell::from(first.map_or_else(|| "-".to_owned(), |holder| span(holder.since_ms))),
        Cell::from(notes.join("; ")),
    ])
}

fn draw_events(frame: &mut Frame, model: &Model, area: Rect) {
    let style = Style::new().add_modifier(Modifier::BOLD);
    let style = if model.part == Part::Events { style.fg(Color::Cyan) } else { style };
    let [head, rest] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    frame.render_widget(Line::styled("EVENTS", style), head);
    let back = model.at[2];
    let lines: Vec<_> = model
        .events
        .iter()
        .rev()
        .skip(back)
        .take(usize::from(rest.height))
        .map(|(when, what)| Line::from(vec![Span::from(format!("{when} ")).dark_gray(), what.clone().into()]))
        .collect();
    frame.render_widget(Paragraph::new(lines), rest);
}

fn footing(model: &Model) -> Line<'static> {
    if let Some(why) = &model.lost {
        return Line::from(format!(" {why}")).red();
    }
    match &model.said {
        Some((text, true)) => Line::from(format!(" {text}")).red(),
        Some((text, false)) => Line::from(format!(" {text}")).green(),
        None if !model.filter.is_empty() => {
            Line::from(format!(" filter: {}   esc ends it", model.filter)).cyan()
        }
        None => {
            Line::from(" tab part  w why  m move  d drain  a announce  r retry  / filter  ? keys  q quit")
                .dark_gray()
        }
    }
}

fn draw_popup(frame: &mut Frame, popup: &Popup, model: &Model) {
    let area = frame.area();
    let inner = |height: u16| {
        let height = height.saturating_add(2).min(area.height.saturating_sub(2));
        let width = area.width.saturating_sub(8).min(100);
        Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height)
    };
    let framed = |title: &str| {
        Block::bordered().title(format!(" {title} ")).border_style(Style::new().fg(Color::Cyan))
    };
    match popup {
        Popup::Text { title, text, scroll } => {
            let at = inner(u16::try_from(text.lines().count()).unwrap_or(u16::MAX).max(8));
            frame.render_widget(Clear, at);
            let text = Paragraph::new(text.as_str()).wrap(Wrap { trim: false }).scroll((*scroll, 0));
            frame.render_widget(text.block(framed(title)), at);
        }
        Popup::Confirm { question, .. } => {
            let at = inner(2);
            frame.render_widget(Clear, at);
            let lines = vec![
                Line::from(question.as_str()),
                Line::from("y or enter: yes   any other key: no").dark_gray(),
            ];
            frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(framed("drain")), at);
        }
        Popup::Choose { item, servers, at: chosen } => {
            let at = inner(u16::try_from(servers.len()).unwrap_or(u16::MAX).max(1));
            frame.render_widget(Clear, at);
            let list = List::new(servers.iter().map(|server| ListItem::new(server.as_str())))
                .highlight_style(Style::new().add_modifier(Modifier::REVERSED))
                .block(framed(&format!("move {item} to")));
            frame.render_stateful_widget(list, at, &mut ListState::default().with_selected(Some(*chosen)));
        }
        Popup::Filter => {
            let at = inner(1);
            frame.render_widget(Clear, at);
            frame.render_widget(
                Paragraph::new(format!("{}_", model.filter)).block(framed("filter items")),
                at,
            );
        }
    }
}
