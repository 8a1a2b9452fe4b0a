//! Members and items alone.

use std::time::Duration;

use flip_core::status::Status;

use crate::status::{head, item_rows, member_row, table};

pub fn members(status: &Status, colour: bool) -> String {
    let mut rows =
        vec![head(&["MEMBER", "STATE", "SINCE", "ADDRESS", "PRIORITY", "GENERATION", "LOSS", "NOTES"])];
    rows.extend(status.members.iter().map(|member| member_row(member, Duration::ZERO)));
    let mut out = String::new();
    table(&mut out, &rows, colour);
    out
}

pub fn items(status: &Status, colour: bool) -> String {
    let mut rows = vec![head(&["SYSTEM", "ITEM", "ISOLATED", "HOLDER", "STATE", "SINCE", "NOTES"])];
    rows.extend(status.items.iter().flat_map(|item| item_rows(item, &status.node, Duration::ZERO)));
    let mut out = String::new();
    table(&mut out, &rows, colour);
    out
}
