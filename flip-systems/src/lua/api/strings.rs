//! Searches for plain text that take time in proportion to the text, where the library's own take the
//! product of both lengths and cannot be stopped meanwhile.

use std::fmt::Write;

use mlua::{Lua, LuaString, Table, Value};

use crate::lua::meter::Meter;

/// After how many bytes the clock is read.
const LOOK: usize = 1 << 14;

/// `string.find(s, text, init, true)` without captures: first and last position, or nothing.
pub(super) fn find(
    (text, wanted, init): (LuaString, LuaString, Option<f64>),
    meter: &Meter,
) -> mlua::Result<(Option<usize>, Option<usize>)> {
    let (text, wanted) = (text.as_bytes(), wanted.as_bytes());
    #[expect(clippy::cast_possible_truncation, reason = "strings are shorter than 2^53")]
    let start = match init.unwrap_or(1.0) {
        init if init >= 1.0 => init as usize - 1,
        init if init < 0.0 => text.len().saturating_sub((-init) as usize),
        _ => 0,
    };
    let Some(rest) = text.get(start..) else { return Ok((None, None)) };
    Ok(Search::new(&wanted, meter)
        .next(rest)
        .map_or((None, None), |at| (Some(start + at + 1), Some(start + at + wanted.len()))))
}

/// `string.split(s, separator)`.
pub(super) fn split(
    lua: &Lua,
    (text, separator): (LuaString, LuaString),
    meter: &Meter,
) -> mlua::Result<Table> {
    let (text, separator) = (text.as_bytes(), separator.as_bytes());
    let table = lua.create_table()?;
    let mut search = Search::new(&separator, meter);
    let mut rest: &[u8] = &text;
    while let Some(at) = search.next(rest) {
        table.raw_push(Value::String(lua.create_string(&rest[..at])?))?;
        rest = &rest[at + separator.len()..];
    }
    table.raw_push(Value::String(lua.create_string(rest)?))?;
    Ok(table)
}

/// Knuth, Morris and Pratt: "Fast pattern matching in strings" (1977).
///
/// When the time is over it finds nothing, and the script is stopped at its next step.
struct Search<'w> {
    meter: &'w Meter,
    wanted: &'w [u8],
    /// For each prefix, the length of its longest border.
    borders: Vec<u32>,
}

impl<'w> Search<'w> {
    fn new(wanted: &'w [u8], meter: &'w Meter) -> Self {
        let mut borders = vec![0_u32; wanted.len()];
        let mut border = 0_usize;
        for at in 1..wanted.len() {
            if at % LOOK == 0 && meter.expired() {
                break;
            }
            while border > 0 && wanted[at] != wanted[border] {
                border = borders[border - 1] as usize;
            }
            border += usize::from(wanted[at] == wanted[border]);
            // No string of a script is as long as 4 GiB.
            borders[at] = u32::try_from(border).unwrap_or(u32::MAX);
        }
        Self { meter, wanted, borders }
    }

    fn next(&mut self, text: &[u8]) -> Option<usize> {
        if self.wanted.is_empty() {
            return Some(0);
        }
        let mut matched = 0;
        for (at, byte) in text.iter().enumerate() {
            if at % LOOK == LOOK - 1 && self.meter.expired() {
                return None;
            }
            while matched > 0 && *byte != self.wanted[matched] {
                matched = self.borders[matched - 1] as usize;
            }
            matched += usize::from(*byte == self.wanted[matched]);
            if matched == self.wanted.len() {
                return Some(at + 1 - matched);
            }
        }
        None
    }
}

/// Hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        let _infallible = write!(digits, "{byte:02x}");
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions() {
        let meter = Meter::new(1, false);
        let table: [(&str, &str, Option<usize>); 8] = [
            ("abcabd", "abd", Some(3)),
            ("aaaaab", "aab", Some(3)),
            ("aaaa", "b", None),
            ("abc", "abcd", None),
            ("abc", "abc", Some(0)),
            ("ababababc", "ababc", Some(4)),
            ("", "a", None),
            ("abc", "", Some(0)),
        ];
        for (text, wanted, expected) in table {
            let mut search = Search::new(wanted.as_bytes(), &meter);
            assert_eq!(search.next(text.as_bytes()), expected, "{wanted} in {text}");
        }
    }
}
