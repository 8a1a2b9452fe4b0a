//! A plan as tables for people.

use std::fmt::Write;

use flip_core::plan::Plan;

use crate::status::{BOLD, Cell, RED, YELLOW, head, painted, table};

/// What moves, what nobody holds, and the loads.
pub fn show(plan: &Plan, colour: bool) -> String {
    let mut out = String::new();
    let list = |ids: &[String]| if ids.is_empty() { "-".to_owned() } else { ids.join(", ") };
    // Writing to a string does not fail.
    if plan.moves.is_empty() {
        let _ = writeln!(out, "nothing moves");
    } else {
        let mut rows = vec![head(&["SYSTEM", "ITEM", "FROM", "TO"])];
        rows.extend(plan.moves.iter().map(|one| {
            let to = Cell(list(&one.to), one.to.is_empty().then_some(RED));
            vec![Cell::plain(&one.item.system), Cell::plain(&one.item.item), Cell::plain(list(&one.from)), to]
        }));
        table(&mut out, &rows, colour);
    }
    if !plan.unheld.is_empty() {
        let names: Vec<_> = plan.unheld.iter().map(|item| format!("{}/{}", item.system, item.item)).collect();
        let word = painted("nobody would hold", Some(RED), colour);
        let _ = writeln!(out, "\n{word}: {}", names.join(", "));
    }
    out.push('\n');
    let mut rows = vec![head(&["SERVER", "ITEMS NOW", "AFTER"])];
    rows.extend(plan.loads.iter().map(|load| {
        let paint = (load.before != load.after).then_some(BOLD);
        vec![
            Cell::plain(&load.server),
            Cell::plain(load.before.to_string()),
            Cell(load.after.to_string(), paint),
        ]
    }));
    table(&mut out, &rows, colour);
    for note in &plan.notes {
        let _ = writeln!(out, "\n{} {note}", painted("note:", Some(YELLOW), colour));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_as_people_see_it() {
        let json = r#"{"what_if":[{"down":"b"}],"quorum":{"live_voters":2,"needed":2,"seen":true},
            "moves":[{"system":"ip","item":"192.0.2.8","from":["b"],"to":["a"]},
                     {"system":"nfs","item":"export","from":["b"],"to":[]}],
            "unheld":[{"system":"nfs","item":"export"}],
            "loads":[{"server":"a","before":1,"after":2},{"server":"b","before":2,"after":0}],
            "notes":["b is not there now"]}"#;
        let plan: Plan = serde_json::from_str(json).unwrap();
        let expected = "\
SYSTEM  ITEM       FROM  TO
ip      192.0.2.8  b     a
nfs     export     b     -

nobody would hold: nfs/export

SERVER  ITEMS NOW  AFTER
a       1          2
b       2          0

note: b is not there now
";
        assert_eq!(show(&plan, false), expected);
        let nothing = Plan { moves: Vec::new(), unheld: Vec::new(), notes: Vec::new(), ..plan };
        assert!(show(&nothing, false).starts_with("nothing moves\n\nSERVER"));
    }
}
