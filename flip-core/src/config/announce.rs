//! How the addresses of `ip` systems are announced: `announce`, `announce_rate`, `arp_cache` and `notify` in a
//! `config`, and `announce` of one item.
//!
//! Values are checked where they stand ([`check`]), so that reading the merged settings afterwards cannot fail.

use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::bounds;
use super::nearest::nearest;
use super::problem::Problems;
use super::raw::{clip, list};
use super::source::{At, Spanned};

/// The keys of `announce`.
const KEYS: [&str; 4] = ["count", "interval", "again_after", "refresh"];
/// What `notify` calls the neighbours that the servers know.
const KNOWN: &str = "arp-cache";

/// When an address is announced, counted from its arrival (`announce`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// Announcements at the beginning, for what is lost.
    pub count: u32,
    /// How far apart these are.
    pub interval: Duration,
    /// When it is announced again after that, for the switch port that was not forwarding yet; ascending.
    pub again_after: Vec<Duration>,
    /// How far apart announcements are from then on, for as long as the address is held; zero for none. A
    /// neighbour that missed all others, or heard a former holder after them, comes right within this time.
    pub refresh: Duration,
}

impl Default for Announce {
    fn default() -> Self {
        Self {
            count: 3,
            interval: Duration::from_millis(100),
            again_after: vec![Duration::from_secs(1), Duration::from_secs(5)],
            refresh: Duration::from_secs(60),
        }
    }
}

impl Announce {
    /// What `announce` of these settings says; where it says nothing, as in `base`.
    #[must_use]
    pub fn read(settings: &Map<String, Value>, base: &Self) -> Self {
        let mut read = base.clone();
        let Some(Value::Object(said)) = settings.get("announce") else { return read };
        let number = |key: &str| said.get(key).and_then(Value::as_u64);
        if let Some(count) = number("count") {
            read.count = u32::try_from(count).unwrap_or(base.count);
        }
        if let Some(interval) = number("interval") {
            read.interval = Duration::from_millis(interval);
        }
        match said.get("again_after") {
            Some(Value::Array(times)) => {
                read.again_after =
                    times.iter().filter_map(Value::as_u64).map(Duration::from_millis).collect();
            }
            Some(time) => {
                read.again_after = time.as_u64().map(Duration::from_millis).into_iter().collect();
            }
            None => {}
        }
        if let Some(refresh) = number("refresh") {
            read.refresh = Duration::from_millis(refresh);
        }
        read
    }

    /// When announcement number `n` (from 0) is due, counted from the first; none when there is no such one.
    #[must_use]
    pub fn due(&self, n: u32) -> Option<Duration> {
        let burst_end = self.interval * (self.count - 1);
        if n < self.count {
            return Some(self.interval * n);
        }
        let after = (n - self.count) as usize;
        // What would come within the burst comes at its end.
        if let Some(again) = self.again_after.get(after) {
            return Some((*again).max(burst_end));
        }
        let refreshes = u32::try_from(after - self.again_after.len()).unwrap_or(u32::MAX).saturating_add(1);
        let last = self.again_after.last().map_or(burst_end, |again| (*again).max(burst_end));
        (!self.refresh.is_zero()).then(|| last + self.refresh * refreshes)
    }
}

/// What all `ip` systems of a daemon share: how fast it announces, and to whom beside everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Frames a second, and at once, of the whole daemon (`announce_rate`).
    pub rate: u32,
    /// How often each server tells the others which neighbours it knows; zero for never (`arp_cache`).
    pub arp_cache: Duration,
    /// Whether the known neighbours are told of an address each (`"arp-cache"` in `notify`).
    pub known: bool,
    /// Networks whose hosts are told of an address each, as far as they are in its subnet (`notify`).
    pub nets: Vec<IpNet>,
}

impl Default for Notify {
    fn default() -> Self {
        Self { rate: 1000, arp_cache: Duration::from_secs(60), known: true, nets: Vec::new() }
    }
}

impl Notify {
    /// What these settings say.
    #[must_use]
    pub fn read(settings: &Map<String, Value>) -> Self {
        let mut read = Self::default();
        let number = |key: &str| settings.get(key).and_then(Value::as_u64);
        if let Some(rate) = number("announce_rate") {
            read.rate = u32::try_from(rate).unwrap_or(read.rate);
        }
        if let Some(seconds) = number("arp_cache") {
            read.arp_cache = Duration::from_secs(seconds);
        }
        if let Some(Value::Array(whom)) = settings.get("notify") {
            read.known = whom.iter().any(|one| one == KNOWN);
            read.nets = whom.iter().filter_map(Value::as_str).filter_map(|one| one.parse().ok()).collect();
        }
        read
    }

    /// Of the settings of several systems what holds for the daemon: the slowest pace, the most frequent word.
    #[must_use]
    pub fn together(self, other: &Self) -> Self {
        let arp_cache = match (self.arp_cache.is_zero(), other.arp_cache.is_zero()) {
            (false, false) => self.arp_cache.min(other.arp_cache),
            _ => self.arp_cache.max(other.arp_cache),
        };
        Self { rate: self.rate.min(other.rate), arp_cache, ..self }
    }
}

/// Checks a setting, if it is one of these.
pub(super) fn check(key: &str, value: &Spanned<Value>, problems: &mut Problems) {
    let whole = |what: &str, range, problems: &mut Problems| {
        number(key, &value.value, what, range, &value.at, problems);
    };
    match key {
        "announce" => announce(value, problems),
        "announce_rate" => whole(" of frames a second", bounds::ANNOUNCE_RATE, problems),
        "arp_cache" => whole(" of seconds", bounds::ARP_CACHE, problems),
        "notify" => notify(value, problems),
        _ => {}
    }
}

fn number(
    key: &str,
    value: &Value,
    what: &str,
    range: RangeInclusive<u64>,
    at: &At,
    problems: &mut Problems,
) -> Option<u64> {
    let found = value.as_u64().filter(|number| range.contains(number));
    if found.is_none() {
        let (least, most) = (range.start(), range.end());
        let or = if key == "announce.refresh" { ", or 0 for none" } else { "" };
        problems.error(
            at,
            format!(
                "`{key}`: found {}, expected a whole number{what} from {least} to {most}{or}",
                shown(value)
            ),
        );
    }
    found
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{}\"", clip(text)),
        Value::Number(number) => format!("the number {number}"),
        Value::Bool(truth) => format!("`{truth}`"),
        Value::Null => "`null`".into(),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
    }
}

fn announce(value: &Spanned<Value>, problems: &mut Problems) {
    let Value::Object(said) = &value.value else {
        let message = format!("found {}, expected an object with {}", shown(&value.value), list(KEYS));
        problems.error_help(&value.at, message, "for instance {\"count\": 5, \"interval\": 200}");
        return;
    };
    for (key, each) in said {
        let ms = |range, problems: &mut Problems| {
            number(&format!("announce.{key}"), each, " of milliseconds", range, &value.at, problems)
        };
        match key.as_str() {
            "count" => drop(number("announce.count", each, "", bounds::ANNOUNCE_COUNT, &value.at, problems)),
            "interval" => drop(ms(bounds::ANNOUNCE_INTERVAL, problems)),
            "refresh" if each == 0 => {}
            "refresh" => drop(ms(bounds::ANNOUNCE_REFRESH, problems)),
            "again_after" => {
                let times: Vec<_> = match each {
                    Value::Array(times) => times.iter().collect(),
                    time => vec![time],
                };
                if times.len() > bounds::ANNOUNCE_AGAIN {
                    let most = bounds::ANNOUNCE_AGAIN;
                    let message = format!(
                        "`announce.again_after`: found {} times, expected at most {most}",
                        times.len()
                    );
                    problems.error(&value.at, message);
                    continue;
                }
                let times: Option<Vec<_>> = times
                    .into_iter()
                    .map(|time| {
                        number(
                            "announce.again_after",
                            time,
                            " of milliseconds",
                            bounds::ANNOUNCE_AFTER,
                            &value.at,
                            problems,
                        )
                    })
                    .collect();
                if times.is_some_and(|times| !times.is_sorted()) {
                    let message = "`announce.again_after`: found a time that is earlier than the one before it, expected them in order";
                    problems.error(&value.at, message);
                }
            }
            _ => {
                let help = match nearest(key, KEYS) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the keys here are {}", list(KEYS)),
                };
                problems.error_help(&value.at, format!("unknown key `{}` in `announce`", clip(key)), help);
            }
        }
    }
}

fn notify(value: &Spanned<Value>, problems: &mut Problems) {
    let expected = "an array of \"arp-cache\" and networks such as \"10.0.0.0/24\"";
    let Value::Array(whom) = &value.value else {
        problems.error(&value.at, format!("`notify`: found {}, expected {expected}", shown(&value.value)));
        return;
    };
    if whom.len() > bounds::NOTIFY {
        let message = format!("`notify`: found {} entries, expected at most {}", whom.len(), bounds::NOTIFY);
        problems.error(&value.at, message);
    }
    for one in whom.iter().filter(|one| *one != KNOWN) {
        let Some(net) = one.as_str().and_then(|text| text.parse::<IpNet>().ok()) else {
            let message = format!("`notify`: found {}, expected {expected}", shown(one));
            match one.as_str().and_then(|text| nearest(text, [KNOWN])) {
                Some(near) => problems.error_help(&value.at, message, format!("did you mean \"{near}\"?")),
                None => problems.error(&value.at, message),
            }
            continue;
        };
        let bits = net.max_prefix_len() - net.prefix_len();
        if bits > bounds::NOTIFY_BITS {
            let shortest = net.max_prefix_len() - bounds::NOTIFY_BITS;
            let message = format!("`notify`: found {net}, expected a prefix length of at least {shortest}");
            let help = format!(
                "each host is told on its own, so a network may have at most {} of them",
                1 << bounds::NOTIFY_BITS
            );
            problems.error_help(&value.at, message, help);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn schedules() {
        let announce =
            |value: Value| Announce::read(&map(serde_json::json!({"announce": value})), &Announce::default());
        let refresh = 60_000;
        let cases: [(Value, &[u64]); 7] = [
            (serde_json::json!({}), &[0, 100, 200, 1000, 5000, 65_000, 125_000, 185_000]),
            (serde_json::json!({"count": 1, "again_after": []}), &[0, refresh, 2 * refresh]),
            (
                serde_json::json!({"count": 2, "interval": 500, "again_after": 3000, "refresh": 10_000}),
                &[0, 500, 3000, 13_000, 23_000],
            ),
            (serde_json::json!({"again_after": [], "refresh": 0}), &[0, 100, 200]),
            (serde_json::json!({"again_after": [7000], "refresh": 0}), &[0, 100, 200, 7000]),
            // What would come within the burst comes at its end.
            (
                serde_json::json!({"count": 4, "interval": 1000, "again_after": [500, 3500], "refresh": 0}),
                &[0, 1000, 2000, 3000, 3000, 3500],
            ),
            (serde_json::json!({"count": 1, "again_after": 0, "refresh": 0}), &[0, 0]),
        ];
        for (said, expected) in cases {
            let announce = announce(said.clone());
            for (n, millis) in (0..).zip(expected) {
                assert_eq!(announce.due(n), Some(Duration::from_millis(*millis)), "{said}: announcement {n}");
            }
            let more = announce.due(u32::try_from(expected.len()).unwrap());
            assert_eq!(more.is_none(), announce.refresh.is_zero(), "{said}: and so on");
        }
        // A year and a hundred years of refreshes.
        let default = Announce::default();
        assert_eq!(default.due(525_604), Some(Duration::from_secs(5 + 60 * 525_600)));
        assert_eq!(default.due(52_560_004), Some(Duration::from_secs(5 + 60 * 52_560_000)));
        assert!(default.due(u32::MAX).is_some());
    }

    #[test]
    fn an_item_says_only_what_differs() {
        let system = Announce::read(
            &map(serde_json::json!({"announce": {"count": 5, "refresh": 0}})),
            &Announce::default(),
        );
        let item = Announce::read(&map(serde_json::json!({"announce": {"interval": 50}})), &system);
        assert_eq!(item, Announce { interval: Duration::from_millis(50), ..system.clone() });
        assert_eq!(Announce::read(&Map::new(), &system), system);
    }

    #[test]
    fn whom_to_notify() {
        let read = |value| Notify::read(&map(value));
        assert_eq!(read(serde_json::json!({})), Notify::default());
        let all = read(
            serde_json::json!({"notify": ["10.0.0.0/24", "arp-cache"], "arp_cache": 5, "announce_rate": 50}),
        );
        let expected = Notify {
            rate: 50,
            arp_cache: Duration::from_secs(5),
            known: true,
            nets: vec!["10.0.0.0/24".parse().unwrap()],
        };
        assert_eq!(all, expected);
        assert!(!read(serde_json::json!({"notify": []})).known);
        let off = read(serde_json::json!({"arp_cache": 0, "announce_rate": 70}));
        assert_eq!(off.clone().together(&all).arp_cache, all.arp_cache);
        assert_eq!(all.clone().together(&off).rate, 50);
        assert_eq!(all.clone().together(&Notify::default()).arp_cache, all.arp_cache);
    }
}
