//! Health checks with real daemons in a lab, against real PostgreSQL servers, pgbouncers and HTTP servers.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use flip_core::event::ItemState;
use flip_core::link::LinkState;
use flip_core::status::{CheckHealth, Status};
use flip_tests::cluster::{Cluster, ClusterSpec};
use flip_tests::lab::{Lab, Process, Who, host_ip, root_or_skip, vip};
use flip_tests::postgres::{self, Certificate, PORT, Pooler, Postgres, postgres_or_skip};
use flip_tests::probe::wait_held;
use serde_json::{Value, json};

/// For everything that is awaited.
const LIMIT: Duration = Duration::from_secs(40);

fn flip() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flip"))
}

/// Two servers and an arbiter whose addresses have these checks. Nothing is started yet.
fn prepare(checks: &[Value]) -> Cluster {
    let spec = ClusterSpec { arbiters: 1, ..ClusterSpec::new(2, checks.len(), "fast") };
    let cluster = Cluster::prepare(spec.clone(), flip()).unwrap();
    let mut config = spec.config();
    let items: Vec<_> = checks
        .iter()
        .enumerate()
        .map(|(n, check)| {
            let mut check = check.clone();
            check["interval"] = json!(200);
            check["timeout"] = json!(2000);
            check["fall"] = json!(2);
            json!({"ip": vip(n), "checks": [check]})
        })
        .collect();
    config["cluster"]["system"]["ip"]["data"] = json!(items);
    cluster.set_config(&config).unwrap();
    cluster
}

fn launch(cluster: &mut Cluster) {
    for n in 0..3 {
        cluster.restart(n).unwrap();
    }
}

/// Waits until exactly these hosts have the address number `k` in their kernels.
fn held(cluster: &Cluster, k: usize, hosts: &[usize]) {
    let hosts = BTreeSet::from_iter(hosts.iter().copied());
    wait_held(cluster.lab(), vip(k), LIMIT, |seen| *seen == hosts).unwrap_or_else(|error| {
        panic!("{error:#}\n{}\n{}", cluster.log(0), cluster.log(1));
    });
}

/// Whether an item may not be on a server because of its checks.
fn failing(status: &Status, k: usize, server: &str) -> bool {
    let item = &status.items[k];
    item.unhealthy_on.iter().any(|id| id == server)
        && item.holders.iter().any(|holder| holder.server == server && holder.state == ItemState::Failing)
}

#[test]
fn addresses_leave_a_server_whose_postgresql_or_pgbouncer_is_down() {
    const NAME: &str = "addresses_leave_a_server_whose_postgresql_or_pgbouncer_is_down";
    if !root_or_skip(NAME) || !postgres_or_skip(NAME) {
        return;
    }
    let mut cluster = prepare(&[
        json!({"type": "postgres", "query": "SELECT count(*) FROM pg_class"}),
        json!({"type": "pgbouncer", "pool": "app", "max_waiting": 5}),
    ]);
    let lab = cluster.lab().clone();
    let mut database = Postgres::primary(&lab, Who::Host(0)).unwrap();
    let _other = Postgres::primary(&lab, Who::Host(1)).unwrap();
    let mut pooler = Some(Pooler::start(&lab, Who::Host(0)).unwrap());
    let other_pooler = Pooler::start(&lab, Who::Host(1)).unwrap();
    launch(&mut cluster);
    // The first address is at home on h0, the second on h1.
    held(&cluster, 0, &[0]);
    held(&cluster, 1, &[1]);
    cluster.wait_healthy(LIMIT).unwrap();
    let answer = postgres::ask(&lab, Who::Client, &vip(0).to_string(), PORT, "SELECT 40 + 2").unwrap();
    assert_eq!(answer, "42", "a client reaches the database by its address");

    database.stop().unwrap();
    held(&cluster, 0, &[1]);
    let status = cluster.wait_for(0, LIMIT, |status| failing(status, 0, "h0")).unwrap();
    let check = &status.items[0].checks[0];
    assert_eq!(check.error.as_deref(), Some("cannot log in: Connection refused"));
    assert_eq!(status.items[0].link, Some(LinkState::Failing));
    // All others know why it is not at home, and nobody calls that an illness of the cluster.
    cluster.wait_for(2, LIMIT, |status| failing(status, 0, "h0") && status.healthy()).unwrap();
    let answer = postgres::ask(&lab, Who::Client, &vip(0).to_string(), PORT, "SELECT 1").unwrap();
    assert_eq!(answer, "1", "the other database answers");

    database.start().unwrap();
    held(&cluster, 0, &[0]);
    cluster.wait_for(0, LIMIT, |status| status.items[0].link == Some(LinkState::Activated)).unwrap();

    drop(other_pooler);
    held(&cluster, 1, &[0]);
    pooler.take();
    held(&cluster, 1, &[]);
    cluster.wait_for(2, LIMIT, |status| failing(status, 1, "h0") && failing(status, 1, "h1")).unwrap();
    let _pooler = Pooler::start(&lab, Who::Host(0)).unwrap();
    held(&cluster, 1, &[0]);
}

#[test]
fn a_database_that_hangs_is_as_good_as_dead() {
    const NAME: &str = "a_database_that_hangs_is_as_good_as_dead";
    if !root_or_skip(NAME) || !postgres_or_skip(NAME) {
        return;
    }
    // Longer than the timeout; and the server must be told not to go on with it.
    let mut cluster =
        prepare(&[json!({"type": "postgres", "host": "10.77.0.1", "query": "SELECT pg_sleep(30)"})]);
    let lab = cluster.lab().clone();
    let database = Postgres::primary(&lab, Who::Host(0)).unwrap();
    launch(&mut cluster);
    let all = |status: &Status| failing(status, 0, "h0") && failing(status, 0, "h1");
    let status = cluster.wait_for(0, LIMIT, all).unwrap();
    assert_eq!(status.items[0].checks[0].error.as_deref(), Some("no answer within 2000 ms"));
    held(&cluster, 0, &[]);
    // Two servers ask, each once at a time; what they gave up is cancelled within a second.
    let asked =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'";
    let end = Instant::now() + Duration::from_secs(6);
    while Instant::now() < end {
        let count: u32 = database.ask(asked).unwrap().parse().unwrap();
        assert!(count <= 4, "{count} queries go on");
    }
}

/// An authority's certificate, and what a server of this name gets from it.
fn certificates(name: &str) -> (String, [String; 2]) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    (authority, [server.pem(), key.serialize_pem()])
}

#[test]
fn databases_are_asked_over_tls_and_from_the_address_that_is_set() {
    const NAME: &str = "databases_are_asked_over_tls_and_from_the_address_that_is_set";
    if !root_or_skip(NAME) || !postgres_or_skip(NAME) {
        return;
    }
    const OWN: &str = "10.77.0.1";
    const OTHER: &str = "10.77.0.50";
    let dir = tempfile::tempdir().unwrap();
    let (authority, [certificate, key]) = certificates("db.test");
    let (right, wrong) = (dir.path().join("right.pem"), dir.path().join("wrong.pem"));
    std::fs::write(&right, authority).unwrap();
    std::fs::write(&wrong, certificates("db.test").0).unwrap();
    // Each fails where it is not as it should be, by a division by zero.
    let encrypted = "SELECT 1 / (SELECT ssl::int FROM pg_stat_ssl WHERE pid = pg_backend_pid())";
    let from = |ip: &str| format!("SELECT 1 / (inet_client_addr() = inet '{ip}')::int");
    let verify = |ca: &Path, name: &str| json!({"type": "postgres", "host": OWN, "tls": "verify", "ca_file": ca, "tls_name": name});
    let pooler = |tls: &str| json!({"type": "pgbouncer", "host": OWN, "tls": tls, "pool": "app"});
    // What is asked, and a part of what is said, or nothing where all is well.
    let table = [
        (json!({"type": "postgres", "host": OWN, "tls": "off"}), Some("no pg_hba.conf entry")),
        (json!({"type": "postgres", "host": OWN, "tls": "prefer", "query": encrypted}), None),
        (
            json!({"type": "postgres", "host": OWN, "tls": "require", "query": encrypted, "role": "primary"}),
            None,
        ),
        (verify(&right, "db.test"), None),
        (verify(&wrong, "db.test"), Some("invalid peer certificate")),
        (verify(&right, "other.test"), Some("invalid peer certificate")),
        (
            json!({"type": "postgres", "host": OWN, "tls": "require", "source": OTHER, "query": from(OTHER)}),
            None,
        ),
        (
            json!({"type": "postgres", "host": OTHER, "tls": "require", "source": "server", "query": from(OWN)}),
            None,
        ),
        (
            json!({"type": "postgres", "host": OTHER, "tls": "require", "query": from(OWN)}),
            Some("division by zero"),
        ),
        (pooler("require"), None),
        (pooler("off"), Some("cannot log in")),
    ];
    let mut cluster = prepare(&table.each_ref().map(|(check, _)| check.clone()));
    let lab = cluster.lab().clone();
    lab.add_address(Who::Host(0), OTHER.parse().unwrap()).unwrap();
    let certificate = Certificate { certificate: &certificate, key: &key };
    let _database = Postgres::encrypted(&lab, Who::Host(0), &certificate).unwrap();
    let _pooler = Pooler::encrypted(&lab, Who::Host(0), &certificate).unwrap();
    launch(&mut cluster);
    let through =
        |status: &Status| status.items.iter().all(|item| item.checks[0].health != CheckHealth::Unproven);
    let status = cluster.wait_for(0, LIMIT, through).unwrap();
    for (item, (check, expected)) in status.items.iter().zip(&table) {
        let [found] = item.checks.as_slice() else { panic!("one check: {item:?}") };
        match expected {
            None => assert_eq!(found.health, CheckHealth::Healthy, "{check}: {found:?}"),
            Some(part) => {
                assert_eq!(found.health, CheckHealth::Unhealthy, "{check}: {found:?}");
                assert!(found.error.as_ref().is_some_and(|error| error.contains(part)), "{check}: {found:?}");
            }
        }
    }
    // The other server has no such address.
    let status = cluster.wait_for(1, LIMIT, through).unwrap();
    let error = status.items[6].checks[0].error.clone().unwrap_or_default();
    assert!(error.contains("10.77.0.50 is no address to connect from here"), "{error}");
}

/// `python3 -m http.server` in an empty folder: it answers 200 at /, and 404 elsewhere.
fn http_server(lab: &Lab, host: usize, dir: &Path) -> Process {
    let mut command = lab.command(Who::Host(host), "python3").unwrap();
    command.args(["-m", "http.server", "8080"]).current_dir(dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    lab.spawn(command).unwrap()
}

#[test]
fn http_exec_ping_and_tcp_checks_move_addresses() {
    if !root_or_skip("http_exec_ping_and_tcp_checks_move_addresses") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let flag = dir.path().join("flag");
    std::fs::write(&flag, "").unwrap();
    let web = tempfile::tempdir().unwrap();
    std::fs::write(web.path().join("health"), "all is well").unwrap();
    let mut cluster = prepare(&[
        json!({"type": "http", "url": "http://127.0.0.1:8080/health", "status": 200, "body_equals": "all is well"}),
        json!({"type": "exec", "command": "/usr/bin/test", "args": ["-e", flag]}),
        json!({"type": "ping", "ip": host_ip(Who::Client)}),
        json!({"type": "tcp", "port": 8080}),
        // Nobody has this address.
        json!({"type": "ping", "ip": "10.77.0.99"}),
    ]);
    let lab = cluster.lab().clone();
    let mut servers = [0, 1].map(|host| http_server(&lab, host, web.path()));
    launch(&mut cluster);
    for (k, home) in [(0, 0), (1, 1), (2, 0), (3, 1)] {
        held(&cluster, k, &[home]);
    }
    // Neither server is well enough for the last.
    cluster.wait_for(2, LIMIT, |status| failing(status, 4, "h0") && failing(status, 4, "h1")).unwrap();
    held(&cluster, 4, &[]);
    std::fs::write(web.path().join("health"), "all is lost").unwrap();
    held(&cluster, 0, &[]);
    let told = cluster.wait_for(0, LIMIT, |status| failing(status, 0, "h0")).unwrap();
    let error = told.items[0].checks[0].error.clone();
    assert_eq!(error.as_deref(), Some("the body is not what was expected; it begins with \"all is lost\""));
    std::fs::write(web.path().join("health"), "all is well").unwrap();
    held(&cluster, 0, &[0]);
    servers[1].kill().unwrap();
    held(&cluster, 3, &[0]);
    std::fs::remove_file(&flag).unwrap();
    held(&cluster, 1, &[]);
    assert_eq!(cluster.real_holders(vip(2)).unwrap(), BTreeSet::from([0]), "what is well stays");
}

/// The rows of the table of items: words but for the time, which is all between the state and the notes.
fn without_times(text: &str) -> Vec<String> {
    let rows = text.lines().filter(|line| line.starts_with("writer"));
    rows.map(|row| {
        let columns: Vec<_> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        // The sixth is for how long.
        let kept = columns.iter().enumerate().filter(|(at, _)| *at != 5).map(|(_, cell)| *cell);
        kept.collect::<Vec<_>>().join("|")
    })
    .collect()
}

#[test]
fn the_example_follows_the_primary() {
    const NAME: &str = "the_example_follows_the_primary";
    if !root_or_skip(NAME) || !postgres_or_skip(NAME) {
        return;
    }
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/patroni-style-postgres");
    let readme = std::fs::read_to_string(example.join("README.md")).unwrap();
    let shown: Vec<_> = readme
        .split("```text")
        .skip(1)
        .map(|part| without_times(part.split("```").next().unwrap()))
        .collect();
    let lab = Lab::new(3).unwrap();
    let mut primary = Postgres::primary(&lab, Who::Host(0)).unwrap();
    let standby = Postgres::standby(&lab, Who::Host(1), host_ip(Who::Host(0)).into()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let _daemons: Vec<_> = ["db1", "db2", "witness"]
        .into_iter()
        .enumerate()
        .map(|(n, id)| {
            let mut command = lab.command(Who::Host(n), flip().to_str().unwrap()).unwrap();
            command.arg("--config").arg(example.join("cluster.json")).args(["--id", id, "--state-dir"]);
            command.arg(dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            lab.spawn(command).unwrap()
        })
        .collect();
    // Waits until `flip status` on db1 shows this.
    let wait = |expected: &[String]| {
        let end = Instant::now() + LIMIT;
        loop {
            let mut status = std::process::Command::new(flip());
            status.args(["status", "--id", "db1", "--state-dir"]).arg(dir.path());
            let text = String::from_utf8(status.output().unwrap().stdout).unwrap();
            if without_times(&text) == expected {
                return;
            }
            assert!(Instant::now() < end, "expected {expected:#?}, found\n{text}");
        }
    };
    let writer = || postgres::ask(&lab, Who::Client, &vip(0).to_string(), PORT, "SELECT pg_is_in_recovery()");
    wait(&shown[0]);
    assert_eq!(writer().unwrap(), "f");
    primary.stop().unwrap();
    // Nobody is primary, so nobody has the address.
    wait_held(&lab, vip(0), LIMIT, BTreeSet::is_empty).unwrap();
    assert!(writer().is_err());
    standby.promote().unwrap();
    wait(&shown[1]);
    wait_held(&lab, vip(0), LIMIT, |hosts| *hosts == BTreeSet::from([1])).unwrap();
    assert_eq!(writer().unwrap(), "f", "the address is the new primary's");
}
