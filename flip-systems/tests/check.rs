//! Checks against real servers on the loopback: what is fine, what is not, and what is said about it.

mod tls;

use std::convert::Infallible;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flip_core::config::checks::{Endpoint, Http, Tls};
use flip_core::config::{
    Check, CheckKind, ClusterKey, Config, Hooks, LEASE, LogLevel, Profile, Release, Server, System,
    SystemKind,
};
use flip_core::id::{CheckRef, ShortId};
use flip_core::io::CheckCall;
use flip_systems::{Checks, Scripts};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

const LIMIT: Duration = Duration::from_secs(20);

fn on_runtime(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LIMIT, test).await.expect("in time") });
}

fn config(kind: CheckKind) -> Arc<Config> {
    let ms = Duration::from_millis;
    Arc::new(Config {
        me: 0,
        quorum: 1,
        voters: vec![0],
        timing: Profile::Fast.timing(1),
        servers: vec![Server {
            id: "me".into(),
            short: ShortId::of("me"),
            addr: ([127, 0, 0, 1], 1).into(),
            systems: vec![0],
            priority: 1,
            retired: false,
        }]
        .into(),
        systems: vec![System {
            name: "sys".into(),
            kind: SystemKind::Shard,
            alive: "memory_up".into(),
            down: "memory_down".into(),
            config: serde_json::Map::new(),
            items: Vec::new(),
            release: Release::Hook,
            hooks: Hooks::default(),
            orphan: None,
            checks: vec![Check { kind, interval: ms(1000), timeout: ms(1000), rise: 1, fall: 3 }],
        }],
        key: ClusterKey([1; 32]),
        cluster_id: "test".into(),
        log_level: LogLevel::Info,
        lease: LEASE,
        witness: None,
        lua: Default::default(),
        privileges: Default::default(),
    })
}

const CALL: CheckCall = CheckCall {
    id: 1,
    check: CheckRef { system: 0, item: None, check: 0 },
    timeout: Duration::from_millis(1000),
};

async fn run(kind: CheckKind) -> Result<(), String> {
    Checks::new(config(kind), None).unwrap().run(CALL).await
}

fn local(port: u16) -> Endpoint {
    Endpoint { host: "127.0.0.1".into(), port }
}

#[test]
fn tcp_is_well_where_somebody_listens() {
    on_runtime(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(run(CheckKind::Tcp(local(port))).await, Ok(()));
        assert_eq!(run(CheckKind::Tcp(Endpoint { host: "localhost".into(), port })).await, Ok(()));
        drop(listener);
        let expected = format!("cannot connect to 127.0.0.1:{port}: Connection refused");
        assert_eq!(run(CheckKind::Tcp(local(port))).await, Err(expected));
    });
}

/// A server that says what it was asked.
async fn serve(request: Request<hyper::body::Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let header =
        |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
    let answer = Response::builder();
    let (status, body) = match request.uri().path() {
        "/health" => (200, "all is well".to_owned()),
        "/say" => (200, format!("{} {} {}", request.method(), header("host"), header("x-flip"))),
        "/sick" => (503, "no".to_owned()),
        "/moved" => (302, String::new()),
        "/long" => (200, "x".repeat(3 << 20)),
        "/slow" => {
            tokio::time::sleep(Duration::from_secs(10)).await;
            (200, String::new())
        }
        other => (404, format!("nothing at\n{other}")),
    };
    Ok(answer.status(status).header("location", "/health").body(Full::new(body.into())).unwrap())
}

async fn http_server(tls: Option<Arc<rustls::ServerConfig>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                // A client that goes away is no failure of the server.
                let _ended = match tls {
                    None => {
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(serve)).await
                    }
                    Some(tls) => {
                        let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await else {
                            return;
                        };
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(serve)).await
                    }
                };
            });
        }
    });
    port
}

fn http(port: u16, path: &str) -> Http {
    Http {
        to: local(port),
        tls: None,
        path: path.into(),
        method: "GET".into(),
        headers: Vec::new(),
        status: vec![(200, 299)],
        body_equals: None,
        body_contains: None,
    }
}

async fn asked(http: Http) -> Result<(), String> {
    run(CheckKind::Http(Box::new(http))).await
}

#[test]
fn http_is_well_when_the_answer_is_what_was_expected() {
    on_runtime(async {
        let port = http_server(None).await;
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(asked(http(port, "/health")).await, Ok(()));
        assert_eq!(asked(Http { body_equals: some("all is well"), ..http(port, "/health") }).await, Ok(()));
        assert_eq!(asked(Http { body_contains: some("is w"), ..http(port, "/health") }).await, Ok(()));
        assert_eq!(asked(Http { method: "HEAD".into(), ..http(port, "/health") }).await, Ok(()));
        assert_eq!(asked(Http { status: vec![(404, 404), (500, 599)], ..http(port, "/sick") }).await, Ok(()));
        let said = format!("OPTIONS 127.0.0.1:{port} yes");
        let headers = vec![("X-Flip".to_owned(), "yes".to_owned())];
        let say = Http { method: "OPTIONS".into(), headers, body_equals: Some(said), ..http(port, "/say") };
        assert_eq!(asked(say).await, Ok(()));

        let refused = |text: &str| Err(text.to_owned());
        assert_eq!(asked(http(port, "/sick")).await, refused("answered 503, expected 200 to 299"));
        assert_eq!(
            asked(Http { status: vec![(200, 200), (204, 210)], ..http(port, "/moved") }).await,
            refused("answered 302, expected 200 or 204 to 210"),
            "no redirect is followed"
        );
        assert_eq!(
            asked(Http { body_equals: some("all is"), ..http(port, "/health") }).await,
            refused("the body is not what was expected; it begins with \"all is well\"")
        );
        assert_eq!(
            asked(Http { body_contains: some("x"), status: vec![(404, 404)], ..http(port, "/a") }).await,
            refused("the body does not contain \"x\"; it begins with \"nothing at /a\"")
        );
        let long = asked(Http { body_contains: some("y"), ..http(port, "/long") }).await;
        assert!(long.unwrap_err().starts_with("cannot read the body (at most 1048576 bytes)"));
        assert_eq!(asked(http(port, "/long")).await, Ok(()), "what nobody asks for is not read");
        let began = Instant::now();
        assert_eq!(asked(http(port, "/slow")).await, refused("no answer within 1000 ms"));
        assert!(began.elapsed() < Duration::from_secs(5));
    });
}

#[test]
fn http_names_what_is_no_http() {
    on_runtime(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            use tokio::io::AsyncWriteExt as _;
            while let Ok((mut stream, _)) = listener.accept().await {
                let _gone = stream.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n").await;
            }
        });
        let error = asked(http(port, "/")).await.unwrap_err();
        assert!(error.starts_with("no HTTP answer: "), "{error}");
    });
}

#[test]
fn tls_is_verified_unless_the_config_says_otherwise() {
    on_runtime(async {
        let dir = tempfile::tempdir().unwrap();
        let (right, wrong) = (tls::Authority::new(), tls::Authority::new());
        let right_file = Some(right.write(&dir.path().join("right.pem")));
        let wrong_file = Some(wrong.write(&dir.path().join("wrong.pem")));
        let port = http_server(Some(right.server(&["check.test"]))).await;
        let ask = |name: Option<&str>, ca_file: Option<String>, verify| {
            let tls = Tls { name: name.map(str::to_owned), ca_file, verify };
            asked(Http { tls: Some(tls), body_equals: Some("all is well".into()), ..http(port, "/health") })
        };
        assert_eq!(ask(Some("check.test"), right_file.clone(), true).await, Ok(()));
        assert_eq!(ask(None, None, false).await, Ok(()));
        let refused = "invalid peer certificate";
        let wrong = ask(Some("check.test"), wrong_file, true).await.unwrap_err();
        assert!(wrong.starts_with(&format!("no TLS with check.test: {refused}")), "{wrong}");
        let other = ask(Some("other.test"), right_file.clone(), true).await.unwrap_err();
        assert!(other.starts_with(&format!("no TLS with other.test: {refused}")), "{other}");
        let unnamed = ask(None, right_file, true).await.unwrap_err();
        assert!(unnamed.starts_with(&format!("no TLS with 127.0.0.1: {refused}")), "{unnamed}");
        let unknown = ask(Some("check.test"), None, true).await.unwrap_err();
        assert!(unknown.contains("certificate"), "{unknown}");
        let missing = ask(Some("check.test"), Some("/nowhere.pem".into()), true).await.unwrap_err();
        assert!(missing.starts_with("cannot use the certificates of /nowhere.pem"), "{missing}");
        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        let none = ask(Some("check.test"), Some(empty.to_str().unwrap().into()), true).await;
        assert!(none.unwrap_err().ends_with("there is none"));
        let plain = http_server(None).await;
        let tls = Some(Tls { name: None, ca_file: None, verify: false });
        let error = asked(Http { tls, ..http(plain, "/health") }).await.unwrap_err();
        assert!(error.starts_with("no TLS with 127.0.0.1"), "{error}");
    });
}

fn program(dir: &Path, name: &str, text: &str) -> CheckKind {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = dir.join(name);
    let mut file =
        std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o755).open(&path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    CheckKind::Exec {
        command: path.to_str().unwrap().to_owned(),
        args: vec!["one two".into(), "$HOME".into()],
    }
}

#[test]
fn exec_is_well_with_exit_code_zero() {
    on_runtime(async {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let ok = "#!/bin/sh\n[ \"$1\" = 'one two' ] && [ \"$2\" = '$HOME' ] && [ \"$FLIP_NODE $FLIP_SYSTEM\" = 'me sys' ]";
        assert_eq!(run(program(dir.path(), "ok", ok)).await, Ok(()), "no shell touches arguments");
        let bad =
            program(dir.path(), "bad", "#!/bin/sh\necho first >&2; echo disk is full >&2; echo >&2; exit 3");
        assert_eq!(run(bad).await, Err(format!("{} ended with exit code 3: disk is full", at("bad"))));
        let killed = program(dir.path(), "killed", "#!/bin/sh\nkill -9 $$");
        assert_eq!(run(killed).await, Err(format!("{} was ended by signal 9", at("killed"))));
        // More output than is kept, and than a pipe holds, must not stop it.
        let loud = program(dir.path(), "loud", "#!/bin/sh\nhead -c 300000 /dev/zero >&2; exit 0");
        assert_eq!(run(loud).await, Ok(()));
        // A child that keeps the pipe open is not waited for.
        let forks = program(dir.path(), "forks", "#!/bin/sh\nsleep 3 & exit 1");
        let began = Instant::now();
        assert_eq!(run(forks).await, Err(format!("{} ended with exit code 1", at("forks"))));
        assert!(began.elapsed() < Duration::from_secs(2));
        let gone = CheckKind::Exec { command: "/nowhere/x".into(), args: Vec::new() };
        assert_eq!(run(gone).await, Err("cannot run /nowhere/x: No such file or directory".into()));
    });
}

#[test]
fn exec_ends_with_all_its_children_at_its_timeout() {
    on_runtime(async {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "#!/bin/sh\nsleep 1000 &\necho $$ $! > {0}/tmp && mv {0}/tmp {0}/pids\nwait",
            dir.path().display()
        );
        let hangs = program(dir.path(), "hangs", &text);
        assert_eq!(run(hangs).await, Err("no answer within 1000 ms".into()));
        let pids = std::fs::read_to_string(dir.path().join("pids")).unwrap();
        let pids: Vec<_> = pids.split_whitespace().map(str::to_owned).collect();
        assert_eq!(pids.len(), 2);
        // A zombie is dead; who waits for it is somebody else's business.
        let lives = |pid: &String| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z') && !rest.starts_with('X'))
        };
        while pids.iter().any(lives) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn ping_is_well_where_a_host_answers() {
    on_runtime(async {
        match run(CheckKind::Ping { ip: "127.0.0.1".parse().unwrap() }).await {
            Err(error) if error.starts_with("cannot open an ICMP socket") => eprintln!("SKIPPED: {error}"),
            result => assert_eq!(result, Ok(())),
        }
    });
}

struct Script;

impl Scripts for Script {
    fn check(&self, script: &str, at: CheckRef, timeout: Duration) -> flip_systems::check::ScriptRun {
        let said = format!("{script}: {at:?} within {timeout:?}");
        Box::pin(async move {
            if said.starts_with("hangs") {
                std::future::pending::<()>().await;
            }
            Err(said)
        })
    }
}

#[test]
fn lua_is_asked_of_whoever_runs_scripts() {
    on_runtime(async {
        let lua = |script: &str| config(CheckKind::Lua { script: script.into() });
        let refused = Checks::new(lua("x"), None).err().expect("nobody runs it");
        assert!(refused.contains("`sys`") && refused.contains("\"lua\""), "{refused}");
        let asked = |script| Checks::new(lua(script), Some(Arc::new(Script))).unwrap().run(CALL);
        let error = asked("x").await.unwrap_err();
        assert!(error.starts_with("x: CheckRef { system: 0, item: None, check: 0 }"), "{error}");
        assert_eq!(asked("hangs").await, Err("no answer within 1000 ms".into()));
    });
}

#[test]
fn a_check_that_is_not_there_is_an_error() {
    on_runtime(async {
        let checks = Checks::new(config(CheckKind::Tcp(local(1))), None).unwrap();
        let at = CheckRef { system: 0, item: None, check: 7 };
        assert!(checks.run(CheckCall { check: at, ..CALL }).await.is_err());
    });
}
