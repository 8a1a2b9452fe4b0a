//! What LINK calls an IP, read and written.

use std::net::IpAddr;

use flip_core::config::checks::Endpoint;
use flip_core::config::{CheckKind, Config, Item};
use flip_core::link::LinkState;
use flip_core::status::Status;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Refused;

/// What LINK's ids begin with; a UUID follows.
const PREFIX: &str = "vip-";

/// All IPs.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Ips {
    pub ips: Vec<Ip>,
}

/// An IP.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Ip {
    /// `vip-` and a UUID; of an item that was not added here, one that its name makes.
    pub id: String,
    /// The address with its prefix; of a group, the first.
    pub ip: String,
    /// Its state on this server.
    pub status: LinkState,
    /// The checks that it has itself and that LINK knows.
    pub checks: Vec<Check>,
}

/// A check of LINK's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// `TCP`.
    #[serde(rename = "type")]
    pub kind: String,
    pub host: String,
    pub port: u16,
}

/// An IP to be added.
#[derive(Debug, PartialEq, Eq, ToSchema)]
pub struct NewIp {
    /// The address with its prefix: `10.0.0.1/32`.
    #[schema(rename = "ip", value_type = String)]
    pub net: IpNet,
    pub checks: Vec<Check>,
}

/// An IP that was added.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Added {
    pub id: String,
    pub ip: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
}

/// The checks of an IP.
#[derive(Debug, PartialEq, Eq, ToSchema)]
pub struct Checks {
    #[schema(rename = "healthchecks")]
    pub checks: Vec<Check>,
}

/// A new id.
pub fn new_id() -> String {
    format!("{PREFIX}{}", Uuid::new_v4())
}

/// Whether a text has the form of an id.
pub fn is_id(text: &str) -> bool {
    let uuid = text.strip_prefix(PREFIX).filter(|uuid| uuid.len() == 36);
    uuid.is_some_and(|uuid| Uuid::try_parse(uuid).is_ok())
}

/// The id of an item: its name where it was added here, else one that its name makes.
pub fn id_of(system: &str, item: &str) -> String {
    if is_id(item) {
        return item.to_owned();
    }
    let name = format!("flip:{system}/{item}");
    format!("{PREFIX}{}", Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()))
}

/// Position of the item with this id.
pub fn find(config: &Config, system: usize, id: &str) -> Option<usize> {
    let system = &config.systems[system];
    system.items.iter().position(|item| id_of(&system.name, &item.name) == id)
}

/// Whether an address is part of an item of the cluster.
pub fn is_of(config: &Config, address: IpAddr) -> bool {
    let items = config.systems.iter().flat_map(|system| &system.items);
    items.filter_map(|item| item.ip.as_ref()).any(|ip| ip.has(address))
}

impl Ips {
    pub fn of(config: &Config, system: usize, status: &Status) -> Self {
        let items = 0..config.systems[system].items.len();
        Self { ips: items.map(|item| Ip::of(config, system, item, status)).collect() }
    }
}

impl Ip {
    pub fn of(config: &Config, system: usize, item: usize, status: &Status) -> Self {
        let system = &config.systems[system];
        let item = &system.items[item];
        let shown = status.items.iter().find(|shown| shown.system == system.name && shown.item == item.name);
        let tcp = |check: &flip_core::config::Check| match &check.kind {
            CheckKind::Tcp(Endpoint { host, port }) => {
                Some(Check { kind: "TCP".to_owned(), host: host.clone(), port: *port })
            }
            _ => None,
        };
        Self {
            id: id_of(&system.name, &item.name),
            ip: address(item),
            // What nobody has heard of yet is not decided.
            status: shown.and_then(|shown| shown.link).unwrap_or(LinkState::Booting),
            checks: item.checks.iter().filter_map(tcp).collect(),
        }
    }
}

/// The first address of an item.
fn address(item: &Item) -> String {
    let part = item.ip.as_ref().and_then(|ip| ip.parts.first());
    part.map_or_else(|| item.name.clone(), |part| part.net.to_string())
}

/// A body as LINK reads it: what it does not know it passes over.
fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|_| Refused::bad("invalid json"))
}

/// The checks as flip's config says them.
fn as_config(checks: &[Check]) -> Value {
    checks.iter().map(|check| json!({ "type": "tcp", "host": check.host, "port": check.port })).collect()
}

fn known(checks: Option<Vec<Check>>) -> Result<Vec<Check>, Refused> {
    let checks = checks.unwrap_or_default();
    match checks.iter().all(|check| check.kind.eq_ignore_ascii_case("tcp") && check.port > 0) {
        true => Ok(checks),
        false => Err(Refused::bad("invalid check: the type is TCP, the port 1 to 65535")),
    }
}

impl NewIp {
    pub fn read(body: &[u8]) -> Result<Self, Refused> {
        #[derive(Deserialize)]
        struct Written {
            #[serde(default)]
            ip: String,
            checks: Option<Vec<Check>>,
        }
        let Written { ip, checks } = read(body)?;
        let net = ip.parse().map_err(|_| Refused::bad("invalid IP"))?;
        Ok(Self { net, checks: known(checks)? })
    }

    /// The item that it becomes.
    pub fn item(&self, id: &str) -> Value {
        let mut item = json!({ "name": id, "ip": self.net.to_string() });
        if !self.checks.is_empty() {
            item["checks"] = as_config(&self.checks);
        }
        item
    }

    pub fn added(&self, id: &str) -> Added {
        Added { id: id.to_owned(), ip: self.net.to_string(), checks: self.checks.clone() }
    }
}

impl Checks {
    pub fn read(body: &[u8]) -> Result<Self, Refused> {
        #[derive(Deserialize)]
        struct Written {
            #[serde(alias = "checks")]
            healthchecks: Option<Vec<Check>>,
        }
        let Written { healthchecks } = read(body)?;
        match healthchecks {
            Some(checks) => Ok(Self { checks: known(Some(checks))? }),
            None => Err(Refused::bad("invalid json")),
        }
    }

    /// An item with these checks instead of its own; none of one that says more than LINK's do.
    pub fn item(&self, item: &Item) -> Option<Value> {
        let parts = &item.ip.as_ref()?.parts;
        let ours = is_id(&item.name) && parts.len() == 1;
        ours.then(|| json!({ "name": item.name, "ip": address(item), "checks": as_config(&self.checks) }))
    }
}

#[cfg(test)]
mod tests {
    use flip_core::config::{Overrides, Source, load};
    use flip_core::{Node, Start, Time};

    use super::*;

    const ID: &str = "vip-8f14e45f-ceea-467f-a8d1-0242ac120002";

    fn config() -> Config {
        let text = format!(
            r#"{{"key": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "servers": {{"a": {{"ip": "10.0.0.1", "systems": ["ip"]}}}},
            "cluster": {{"system": {{"ip": {{"config": {{"interface": "eth0"}}, "data": [
                "10.0.0.8/24",
                {{"name": "{ID}", "ip": "10.0.0.9/32", "checks": [{{"type": "tcp", "host": "h", "port": 80}}]}}
            ]}}}}}}}}"#
        );
        let overrides = Overrides { id: Some("a"), ..Overrides::default() };
        load(&Source { file: "test", text: &text }, &overrides).unwrap().config
    }

    fn status(config: &Config) -> Status {
        let start = Start { generation: 1, seed: [1; 32], keys: None };
        Node::new(config.clone().into(), start, Time::ZERO).status(Time::ZERO)
    }

    #[test]
    fn ips_are_listed_with_their_four_keys() {
        let config = config();
        let line = serde_json::to_string(&Ips::of(&config, 0, &status(&config))).unwrap();
        let derived = id_of("ip", "10.0.0.8/24");
        assert_eq!(
            line,
            format!(
                r#"{{"ips":[{{"id":"{derived}","ip":"10.0.0.8/24","status":"BOOTING","checks":[]}},{{"id":"{ID}","ip":"10.0.0.9/32","status":"BOOTING","checks":[{{"type":"TCP","host":"h","port":80}}]}}]}}"#
            )
        );
        assert!(is_id(&derived));
        assert_eq!((find(&config, 0, &derived), find(&config, 0, ID)), (Some(0), Some(1)));
        assert_eq!(find(&config, 0, "10.0.0.8/24"), None);
    }

    #[test]
    fn what_is_posted_becomes_an_item_or_is_refused_in_the_words_of_link() {
        let body = br#"{"ip":"10.0.0.1/32","checks":[{"type":"TCP","host":"h","port":80}],"more":1}"#;
        let new = NewIp::read(body).unwrap();
        let item =
            json!({"name": ID, "ip": "10.0.0.1/32", "checks": [{"type": "tcp", "host": "h", "port": 80}]});
        assert_eq!(new.item(ID), item);
        let plain = NewIp::read(br#"{"ip":"10.0.0.1/32"}"#).unwrap();
        assert_eq!(
            serde_json::to_string(&plain.added(ID)).unwrap(),
            format!(r#"{{"id":"{ID}","ip":"10.0.0.1/32"}}"#)
        );
        for (body, msg) in [
            ("", "invalid json"),
            ("{", "invalid json"),
            ("[]", "invalid json"),
            (r#"{"ip":1}"#, "invalid json"),
            ("{}", "invalid IP"),
            (r#"{"ip":"10.0.0.1"}"#, "invalid IP"),
            (r#"{"ip":"10.0.0.1/33"}"#, "invalid IP"),
            (r#"{"ip":"nonsense"}"#, "invalid IP"),
        ] {
            let refused = NewIp::read(body.as_bytes()).unwrap_err();
            let Refused::Msg(code, said) = refused else { panic!("{body}: {refused:?}") };
            assert_eq!((code.as_u16(), said.as_str()), (400, msg), "{body}");
        }
        let wrong = br#"{"ip":"10.0.0.1/32","checks":[{"type":"HTTP","host":"h","port":80}]}"#;
        assert!(matches!(NewIp::read(wrong), Err(Refused::Msg(code, _)) if code == 400));
    }

    #[test]
    fn addresses_of_the_cluster_are_assigned() {
        let config = config();
        for (address, assigned) in [("10.0.0.8", true), ("10.0.0.9", true), ("10.0.0.10", false)] {
            assert_eq!(is_of(&config, address.parse().unwrap()), assigned, "{address}");
        }
    }

    #[test]
    fn checks_are_replaced_as_a_whole_and_only_of_what_was_added_here() {
        let config = config();
        let [of_file, of_api] = &config.systems[0].items[..] else { panic!("two items") };
        let checks = Checks::read(br#"{"healthchecks":[{"type":"TCP","host":"x","port":1}]}"#).unwrap();
        assert_eq!(checks.item(of_file), None);
        let item =
            json!({"name": ID, "ip": "10.0.0.9/32", "checks": [{"type": "tcp", "host": "x", "port": 1}]});
        assert_eq!(checks.item(of_api), Some(item));
        assert_eq!(Checks::read(br#"{"checks":[]}"#).unwrap().checks, []);
        for body in ["", "{}", r#"{"healthchecks":{}}"#] {
            assert!(matches!(Checks::read(body.as_bytes()), Err(Refused::Msg(..))), "{body}");
        }
    }

    #[test]
    fn ids_have_the_form_of_link() {
        for (text, is) in [
            (ID, true),
            ("vip-8f14e45fceea467fa8d10242ac120002", false),
            ("8f14e45f-ceea-467f-a8d1-0242ac120002", false),
            ("vip-", false),
            ("vip-zzzzzzzz-ceea-467f-a8d1-0242ac120002", false),
        ] {
            assert_eq!(is_id(text), is, "{text}");
        }
        let new = new_id();
        assert!(is_id(&new) && new.as_bytes()[18] == b'4', "a random one: {new}");
        assert_ne!(new, new_id());
        assert_ne!(id_of("ip", "10.0.0.8"), id_of("ip2", "10.0.0.8"));
    }
}
