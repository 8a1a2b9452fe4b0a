//! The HTTP API of real daemons on loopback.

mod events;
mod http;
mod limits;
mod tls;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flip_core::status::Status;
use flip_tests::local::{Local, free_port};
use http::{Answer, by_socket, by_tcp, exchange, request};
use serde_json::{Map, Value, json};

pub const LIMIT: Duration = Duration::from_secs(20);
pub const ADMIN: &str = "admin-admin-admin-admin";
pub const READ: &str = "look-look-look-look-look";

/// A daemon `a` with the items `one` and `10.0.0.1/24`, whose API listens at a port of the loopback, too.
pub struct One {
    pub local: Local,
    pub port: u16,
}

/// Writes a file that only its owner reads.
pub fn secret(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
    std::fs::set_permissions(dir.join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
}

impl One {
    pub fn start(admin: Value, extra: Value) -> Self {
        let port = free_port();
        let mut admin = admin;
        admin["listen"] = json!(format!("127.0.0.1:{port}"));
        let mut keys = extra.as_object().cloned().unwrap_or_default();
        keys.insert("admin".to_owned(), admin);
        let flip = Path::new(env!("CARGO_BIN_EXE_flip"));
        let mut local = Local::prepare(flip, 1, 0, &["one", "10.0.0.1/24"], keys).unwrap();
        secret(local.state_dir(), "token", &format!("# of people\nann {ADMIN}\n"));
        secret(local.state_dir(), "read", &format!("{READ}\n"));
        local.start(0).unwrap();
        local.watch(0).unwrap().until(LIMIT, Status::healthy).unwrap();
        Self { local, port }
    }

    fn with_tokens() -> Self {
        Self::start(
            json!({"token_file": "token", "read_token_file": "read", "hosts": ["flip.example.org"]}),
            json!({}),
        )
    }

    pub fn socket(&self) -> PathBuf {
        self.local.state_dir().join("a/flip.sock")
    }

    pub fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Answer {
        exchange(by_socket(&self.socket()), &request(method, path, &[], body))
    }

    fn tcp(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        exchange(by_tcp(self.port), &request(method, path, headers, None))
    }
}

/// All that there is, as method and path.
const ALL: &[(&str, &str)] = &[
    ("GET", "/"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/v1/status"),
    ("GET", "/v1/status/watch"),
    ("GET", "/v1/members"),
    ("GET", "/v1/members/{server}"),
    ("GET", "/v1/items"),
    ("GET", "/v1/items/{item}"),
    ("GET", "/v1/systems"),
    ("GET", "/v1/events"),
    ("GET", "/v1/why/{item}"),
    ("GET", "/v1/moves"),
    ("GET", "/v1/plan"),
    ("POST", "/v1/plan"),
    ("POST", "/v1/edit"),
    ("GET", "/v1/catalog"),
    ("GET", "/v1/keys"),
    ("POST", "/v1/keys"),
    ("POST", "/v1/keys/{key}/use"),
    ("DELETE", "/v1/keys/{key}"),
    ("POST", "/v1/drain/{server}"),
    ("POST", "/v1/undrain/{server}"),
    ("POST", "/v1/confirm-released/{item}"),
    ("POST", "/v1/retry/{item}"),
    ("POST", "/v1/announce/{item}"),
    ("POST", "/v1/announce"),
    ("POST", "/v1/reload"),
    ("GET", "/ips"),
    ("POST", "/ips"),
    ("GET", "/ips/{id}"),
    ("DELETE", "/ips/{id}"),
    ("PATCH", "/ips/{id}"),
    ("POST", "/ips/{id}/failover"),
];

#[test]
fn the_document_lists_all_there_is_and_all_of_it_is_served() {
    let one = One::with_tokens();
    let document = one.ask("GET", "/openapi.json", None);
    assert_eq!(document.code, 200);
    let document = document.json();
    assert_eq!(document["openapi"], "3.1.0");
    let mut listed = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            listed.insert((method.to_ascii_uppercase(), path.clone()));
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.contains_key("4XX") && responses.contains_key("5XX"), "{method} {path}");
        }
    }
    let all: BTreeSet<_> = ALL.iter().map(|(method, path)| (method.to_string(), path.to_string())).collect();
    assert_eq!(listed, all);
    // Schemas that are named are there.
    let text = document.to_string();
    for name in text.split("#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
    }
    for (method, path) in ALL.iter().filter(|(_, path)| !path.ends_with("/watch") && *path != "/v1/events") {
        let path = path
            .replace("{server}", "zzz")
            .replace("{item}", "zzz")
            .replace("{key}", "zz")
            .replace("{id}", "zzz");
        let answer = one.ask(method, &path, None);
        assert!(
            !answer.body.contains("there is nothing at") && answer.code != 405,
            "{method} {path}: {answer:?}"
        );
    }
}

#[test]
fn what_is_asked_for_is_shown() {
    let one = One::with_tokens();
    let get = |path: &str| {
        let answer = one.ask("GET", path, None);
        assert_eq!(answer.code, 200, "{path}: {answer:?}");
        assert!(answer.head.contains("cache-control: no-store"), "{answer:?}");
        answer
    };
    assert_eq!(get("/healthz").json(), json!({"healthy": true}));
    assert_eq!(get("/readyz").json(), json!({"ready": true, "reasons": []}));
    let status: Status = serde_json::from_str(&get("/v1/status").body).unwrap();
    assert!(status.healthy() && status.node == "a");
    assert_eq!(get("/v1/members").json()["members"][0]["id"], "a");
    assert_eq!(get("/v1/members/a").json()["state"], "up");
    assert_eq!(get("/v1/items").json()["items"].as_array().unwrap().len(), 2);
    assert_eq!(get("/v1/items?holder=b").json()["items"], json!([]));
    assert_eq!(get("/v1/items?system=items&holder=a").json()["items"].as_array().unwrap().len(), 2);
    assert_eq!(get("/v1/items/10.0.0.1%2F24").json()["item"], "10.0.0.1/24");
    let systems = get("/v1/systems").json();
    assert_eq!(
        (&systems["systems"][0]["items"], &systems["systems"][0]["servers"]),
        (&json!(2), &json!(["a"]))
    );
    assert_eq!(get("/v1/keys").json()["keys"][0]["in_use"], true);
    assert_eq!(get("/v1/why/one").json()["wanted"], json!(["a"]));
    assert_eq!(get("/v1/plan").json()["moves"], json!([]));
    let down = one.ask("POST", "/v1/plan", Some(r#"{"what_if": [{"down": "a"}]}"#));
    assert_eq!((down.code, &down.json()["loads"][0]["server"]), (200, &json!("a")));
    let metrics = get("/metrics");
    assert!(metrics.head.contains("content-type: application/openmetrics-text"), "{metrics:?}");
    assert!(metrics.body.contains("# HELP flip_"), "{metrics:?}");
    let events = get("/v1/events?from=0&follow=false");
    assert!(
        events.body.starts_with("id: 1\ndata: {\"seq\":1,") && events.body.contains("\"kind\":\"started\""),
        "{events:?}"
    );
    // A head alone.
    let head = one.ask("HEAD", "/v1/status", None);
    assert_eq!((head.code, head.body.as_str()), (200, ""));
}

#[test]
fn the_catalog_is_listed_for_those_who_may_change_it() {
    let one = One::with_tokens();
    let edits = r#"{"edits": [{"set_item": {"system": "items", "value": {"name": "two"}, "new": true}},
        {"change_item": {"system": "items", "item": "one", "change": {"isolated": "take"}}}]}"#;
    let answer = one.ask("POST", "/v1/edit", Some(edits));
    assert_eq!(answer.code, 200, "{answer:?}");
    let catalog = one.ask("GET", "/v1/catalog", None).json();
    assert_eq!((&catalog["version"], &catalog["servers"][0]["id"]), (&json!(0), &json!("a")));
    assert_eq!(catalog["servers"][0]["from"], json!({"file": 0}));
    let system = &catalog["systems"][0];
    assert_eq!((&system["name"], &system["value"]["alive"]), (&json!("items"), &json!("memory_up")));
    let items = system["items"].as_array().unwrap();
    let values: Vec<_> = items.iter().map(|item| item["value"].clone()).collect();
    assert_eq!(
        values,
        [json!({"name": "one", "isolated": "take"}), json!("10.0.0.1/24"), json!({"name": "two"})]
    );
    assert_eq!(items[1]["from"], json!({"file": 0}));
    assert_eq!(
        (&items[0]["from"]["edit"]["by"], &items[0]["from"]["edit"]["until"]),
        (&json!("a"), &json!(0))
    );
    assert_eq!(items[2]["from"]["edit"]["until"], json!(null));
    assert!(!catalog.to_string().contains("0123456789abcdef0123456789abcdef"), "no key is shown");
    // Checks and scripts may have secrets in it.
    for (token, code) in [(READ, 403), (ADMIN, 200)] {
        let by = format!("Bearer {token}");
        assert_eq!(one.tcp("GET", "/v1/catalog", &[("Authorization", &by)]).code, code, "{token}");
    }
    assert_eq!(one.tcp("GET", "/v1/catalog", &[]).code, 401);
}

#[test]
fn what_is_wished_is_done_and_written_down() {
    let one = One::with_tokens();
    for (method, path, body, done) in [
        ("POST", "/v1/drain/a", None, "a is drained"),
        ("POST", "/v1/undrain/a", None, "a takes items again"),
        ("POST", "/v1/reload", None, "names no scripts"),
        (
            "POST",
            "/v1/keys",
            Some(r#"{"key": "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"}"#),
            "added",
        ),
    ] {
        let answer = one.ask(method, path, body);
        assert_eq!(answer.code, 200, "{path}: {answer:?}");
        assert!(answer.json()["done"].as_str().unwrap().contains(done), "{path}: {answer:?}");
    }
    let ids: Vec<_> = one.ask("GET", "/v1/keys", None).json()["keys"].as_array().unwrap().clone();
    let new = ids.iter().find(|key| key["in_use"] == false).unwrap()["id"].as_str().unwrap().to_owned();
    let old = ids.iter().find(|key| key["in_use"] == true).unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(one.ask("POST", &format!("/v1/keys/{new}/use"), None).code, 200);
    assert_eq!(one.ask("DELETE", &format!("/v1/keys/{old}"), None).code, 200);
    let by = [("Authorization", format!("Bearer {ADMIN}"))];
    let by: Vec<_> = by.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(one.tcp("POST", "/v1/drain/a", &by).code, 200);
    let events = one.ask("GET", "/v1/events?from=1&follow=false", None).body;
    let asked: Vec<Value> = events
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
        .filter(|record: &Value| record["kind"] == "asked")
        .collect();
    assert_eq!(asked.len(), 7, "{events}");
    let me = format!("user {}, process {}", rustix::process::getuid().as_raw(), std::process::id());
    assert_eq!(
        (asked[0]["by"].as_str(), asked[0]["address"].as_str()),
        (Some(me.as_str()), Some("the Unix socket"))
    );
    assert_eq!(asked[0]["action"], "POST /v1/drain/a");
    assert!(asked[0]["text"].as_str().unwrap().contains("done: a is drained"), "{}", asked[0]);
    assert_eq!(asked[6]["by"], "token ann");
    assert!(asked[6]["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{}", asked[6]);
    assert!(!events.contains("00112233445566778899"), "no key is told");
    assert!(one.local.log(0).contains("asked for, and done: a is drained"), "{}", one.local.log(0));
}

#[test]
fn what_cannot_be_is_refused_in_one_form() {
    let one = One::with_tokens();
    let key = r#"{"key": "0"}"#;
    type Row<'a> = (&'a str, &'a str, Option<&'a str>, u16, &'a str, &'a str);
    let table: &[Row<'_>] = &[
        ("GET", "/nope", None, 404, "not_found", "/nope"),
        ("GET", "/v1", None, 404, "not_found", "/v1"),
        ("DELETE", "/v1/status", None, 405, "method_not_allowed", "DELETE"),
        ("GET", "/v1/drain/a", None, 405, "method_not_allowed", "GET"),
        ("GET", "/v1/members/zzz", None, 404, "not_found", "zzz"),
        ("GET", "/v1/items/zzz", None, 404, "not_found", "zzz"),
        ("GET", "/v1/items/%ff", None, 400, "bad_path", ""),
        ("GET", "/v1/items?sytem=x", None, 400, "bad_query", "sytem"),
        ("GET", "/v1/events?from=x", None, 400, "bad_query", ""),
        ("GET", "/v1/why/zzz", None, 409, "refused", "zzz"),
        ("POST", "/v1/plan", Some(r#"{"what_if": [{"down": "zzz"}]}"#), 409, "refused", "zzz"),
        ("POST", "/v1/plan", Some(r#"{"what_if": [{"fall": "a"}]}"#), 422, "invalid", "what_if[0]"),
        ("POST", "/v1/plan", Some(r#"{"what": []}"#), 422, "invalid", "what: unknown field"),
        ("POST", "/v1/drain/zzz", None, 409, "refused", "no server zzz"),
        ("POST", "/v1/undrain/zzz", None, 409, "refused", "no server zzz"),
        ("POST", "/v1/confirm-released/zzz", None, 409, "refused", "zzz"),
        ("POST", "/v1/retry/zzz", None, 409, "refused", "zzz"),
        ("POST", "/v1/announce/zzz", None, 409, "refused", "zzz"),
        ("POST", "/v1/keys", Some(key), 422, "invalid", "64 hexadecimal digits"),
        ("POST", "/v1/keys", Some("{"), 400, "bad_json", ""),
        ("POST", "/v1/keys", None, 415, "unsupported_media_type", ""),
        ("POST", "/v1/keys/zz/use", None, 404, "not_found", "two hexadecimal"),
        ("DELETE", "/v1/keys/00", None, 409, "refused", ""),
        ("POST", "/v1/edit", Some(r#"{"edits": []}"#), 422, "invalid", "expected 1 to"),
        (
            "POST",
            "/v1/edit",
            Some(r#"{"edits": [{"remove_item": {"system": "items", "item": "one", "x": 1}}]}"#),
            422,
            "invalid",
            "edits[0].remove_item",
        ),
        (
            "POST",
            "/v1/edit",
            Some(r#"{"edits": [{"remove_server": {"id": "a"}}], "timeout_ms": 60001}"#),
            422,
            "invalid",
            "timeout_ms",
        ),
        ("GET", "/ips", None, 404, "not_found", "no such ip system"),
        ("GET", "/ips?system=items", None, 404, "not_found", "no such ip system"),
    ];
    for (method, path, body, code, kind, message) in table {
        let answer = one.ask(method, path, *body);
        assert_eq!((answer.code, answer.refusal().as_str()), (*code, *kind), "{method} {path}: {answer:?}");
        let said = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(said.contains(message), "{method} {path}: {said}");
    }
    let form = exchange(
        by_socket(&one.socket()),
        &request("POST", "/v1/keys", &[("Content-Type", "text/plain")], Some(key)),
    );
    assert_eq!((form.code, form.refusal().as_str()), (415, "unsupported_media_type"));
}

#[test]
fn who_may_not_is_refused() {
    let one = One::with_tokens();
    let host = format!("127.0.0.1:{}", one.port);
    let own = format!("http://{host}");
    let bearer = |token: &str| format!("Bearer {token}");
    let (admin, read, wrong) = (bearer(ADMIN), bearer(READ), bearer("wrong-wrong-wrong-wrong"));
    // anybody:admin-admin-admin-admin
    let basic = "Basic YW55Ym9keTphZG1pbi1hZG1pbi1hZG1pbi1hZG1pbg==";
    type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], u16, &'a str);
    let table: &[Row<'_>] = &[
        ("GET", "/healthz", &[], 200, ""),
        ("GET", "/readyz", &[], 200, ""),
        ("GET", "/v1/status", &[], 401, "unauthorized"),
        ("GET", "/nope", &[], 401, "unauthorized"),
        ("GET", "/openapi.json", &[], 401, "unauthorized"),
        ("POST", "/v1/undrain/a", &[], 401, "unauthorized"),
        ("GET", "/v1/status", &[("Authorization", &wrong)], 401, "unauthorized"),
        ("GET", "/v1/status", &[("Authorization", &read)], 200, ""),
        ("GET", "/v1/status", &[("Authorization", &admin)], 200, ""),
        ("GET", "/v1/status", &[("Authorization", basic)], 200, ""),
        ("POST", "/v1/undrain/a", &[("Authorization", &read)], 403, "forbidden"),
        ("POST", "/healthz", &[("Authorization", &read)], 403, "forbidden"),
        ("DELETE", "/v1/keys/00", &[("Authorization", &read)], 403, "forbidden"),
        ("POST", "/v1/undrain/a", &[("Authorization", &admin)], 200, ""),
        // A page that had its own name lead here.
        ("GET", "/healthz", &[("Host", "evil.example.org")], 421, "wrong_host"),
        ("GET", "/v1/status", &[("Host", "evil.example.org"), ("Authorization", &admin)], 421, "wrong_host"),
        ("GET", "/healthz", &[("Host", "127.0.0.1.evil.example.org")], 421, "wrong_host"),
        ("GET", "/healthz", &[("Host", "a b")], 421, "wrong_host"),
        ("GET", "/healthz", &[("Host", "localhost"), ("Host", "localhost")], 421, "wrong_host"),
        ("GET", "/healthz", &[("Host", "FLIP.example.org:1")], 200, ""),
        ("GET", "/healthz", &[("Host", "[::1]:1")], 200, ""),
        // A page of somebody else's site.
        ("GET", "/healthz", &[("Origin", "http://evil.example.org")], 403, "wrong_origin"),
        ("POST", "/v1/undrain/a", &[("Authorization", &admin), ("Origin", "null")], 403, "wrong_origin"),
        (
            "POST",
            "/v1/undrain/a",
            &[("Authorization", &admin), ("Origin", "http://localhost:1")],
            403,
            "wrong_origin",
        ),
        ("POST", "/v1/undrain/a", &[("Authorization", &admin), ("Host", &host), ("Origin", &own)], 200, ""),
    ];
    for (method, path, headers, code, kind) in table {
        let answer = one.tcp(method, path, headers);
        assert_eq!(answer.code, *code, "{method} {path} {headers:?}: {answer:?}");
        if !kind.is_empty() {
            assert_eq!(answer.refusal(), *kind, "{method} {path} {headers:?}");
        }
    }
    // Whoever can open the socket needs nothing, and nobody else can.
    assert_eq!(one.ask("POST", "/v1/undrain/a", None).code, 200);
    let mode = std::fs::metadata(one.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // A token that was replaced counts no more.
    secret(one.local.state_dir(), "token", "other-other-other-other\n");
    assert_eq!(one.ask("POST", "/v1/reload", None).code, 200);
    assert_eq!(one.tcp("GET", "/v1/status", &[("Authorization", &admin)]).code, 401);
    assert_eq!(
        one.tcp("GET", "/v1/status", &[("Authorization", &bearer("other-other-other-other"))]).code,
        200
    );
    secret(one.local.state_dir(), "token", "short\n");
    let refused = one.ask("POST", "/v1/reload", None);
    assert_eq!((refused.code, refused.refusal().as_str()), (409, "refused"));
    assert!(refused.body.contains("at least 16 characters"), "{refused:?}");
}

#[test]
fn without_tokens_everybody_on_this_host_looks_and_nobody_changes() {
    let one = One::start(json!({}), json!({}));
    assert_eq!(one.tcp("GET", "/v1/status", &[]).code, 200);
    let refused = one.tcp("POST", "/v1/drain/a", &[]);
    assert_eq!((refused.code, refused.refusal().as_str()), (403, "forbidden"));
    assert!(refused.body.contains("admin.token_file"), "{refused:?}");
}

#[test]
fn tokens_that_cannot_be_used_stop_the_start() {
    let flip = Path::new(env!("CARGO_BIN_EXE_flip"));
    let admin = json!({"listen": format!("127.0.0.1:{}", free_port()), "token_file": "token"});
    let keys = Map::from_iter([("admin".to_owned(), admin)]);
    let mut local = Local::prepare(flip, 1, 0, &["one"], keys).unwrap();
    local.start(0).unwrap();
    assert_eq!(local.wait(0).unwrap().code(), Some(1));
    assert!(
        local.log(0).contains("cannot read the tokens in") && local.log(0).contains("flip keygen >"),
        "{}",
        local.log(0)
    );
    std::fs::write(local.state_dir().join("token"), ADMIN).unwrap();
    std::fs::set_permissions(local.state_dir().join("token"), std::fs::Permissions::from_mode(0o644))
        .unwrap();
    local.start(0).unwrap();
    assert_eq!(local.wait(0).unwrap().code(), Some(1));
    assert!(local.log(0).contains("chmod 600"), "{}", local.log(0));
}

#[test]
fn drain_waits_until_the_server_is_empty() {
    let flip = Path::new(env!("CARGO_BIN_EXE_flip"));
    let mut local = Local::prepare(flip, 3, 1, &["one", "two"], Map::new()).unwrap();
    (0..3).for_each(|n| local.start(n).unwrap());
    (0..3).for_each(|n| drop(local.watch(n).unwrap().until(LIMIT, Status::healthy).unwrap()));
    let run = |args: &[&str]| {
        let mut command = local.command();
        command.args(args).args(["--id", "b", "--state-dir"]).arg(local.state_dir());
        let out = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (out.status.code(), text(out.stdout), text(out.stderr))
    };
    let holds = |server: &str| {
        let (_, line, _) = run(&["status", "--json"]);
        let status: Status = serde_json::from_str(&line).unwrap();
        status.items.iter().filter(|item| item.holders.iter().any(|holder| holder.server == server)).count()
    };
    assert_eq!((holds("a"), holds("b")), (1, 1));
    let (code, told, _) = run(&["drain", "a"]);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(holds("a"), 0, "it was waited for");
    // Nobody is left to have them: that is said at once, and not waited for.
    let (code, _, told) = run(&["drain", "b"]);
    assert_eq!(code, Some(0));
    assert!(told.contains("2 items stay on b"), "{told}");
    assert_eq!(run(&["undrain", "a"]).0, Some(0));
    assert_eq!(run(&["drain", "b", "--no-wait"]).0, Some(0));
    assert_eq!(run(&["drain", "zzz"]).0, Some(1));
}
