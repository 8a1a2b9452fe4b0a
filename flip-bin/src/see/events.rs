//! Events as lines for people.

use anyhow::Context;
use flip_core::record::{Level, Record};

use crate::daemon::api::Lost;

/// One line of the stream as people read it: when, how grave, what, and about what.
pub fn show(line: &str) -> anyhow::Result<String> {
    if let Ok(lost) = serde_json::from_str::<Lost>(line) {
        return Ok(match lost.lost {
            Some(1) => "(1 event is not kept any more)".to_owned(),
            Some(many) => format!("({many} events are not kept any more)"),
            None => "(the daemon was restarted since that number: these are the events of its present life)"
                .to_owned(),
        });
    }
    let record: Record = serde_json::from_str(line).context("the daemon speaks another version of flip")?;
    let level = match record.level {
        Level::Debug => "DEBUG",
        Level::Info => " INFO",
        Level::Warning => " WARN",
        Level::Error => "ERROR",
    };
    Ok(format!("{:>6}  {}  {level}  {}", record.seq, utc(record.wall_ms), record.line()))
}

/// `2026-11-21T23:59:59.999Z`.
pub fn utc(ms: u64) -> String {
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    let (mut year, mut day) = (1970, days);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // Whole cycles of the calendar first: a clock may be anywhere.
    let cycles = day / 146_097;
    (year, day) = (year + cycles * 400, day - cycles * 146_097);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (hours, minutes, seconds) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!(
        "{year:04}-{:02}-{:02}T{hours:02}:{minutes:02}:{seconds:02}.{:03}Z",
        month + 1,
        day + 1,
        rest % 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date() {
        // By `date -u -d @N +%FT%TZ`.
        let table = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_763_769_599_001, "2025-11-21T23:59:59.001Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ];
        for (ms, expected) in table {
            assert_eq!(utc(ms), expected, "{ms}");
        }
        assert!(utc(u64::MAX).ends_with('Z'));
    }

    #[test]
    fn an_event_is_one_line() {
        let line = r#"{"seq":7,"wall_ms":0,"kind":"member_down","level":"warning","text":"member is down",
            "server":"b","generation":3,"voters":["a","c"],"error":"with a space"}"#;
        assert_eq!(
            show(line).unwrap(),
            "     7  1970-01-01T00:00:00.000Z   WARN  member is down server=b generation=3 voters=a,c \
             error=\"with a space\""
        );
        assert_eq!(show(r#"{"lost":12}"#).unwrap(), "(12 events are not kept any more)");
        assert!(show(r#"{"lost":null}"#).unwrap().contains("restarted"));
        assert!(show(r#"{"nonsense":1}"#).is_err());
    }
}
