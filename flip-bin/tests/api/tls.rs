//! TLS, with certificates of clients.

use std::path::Path;
use std::process::Output;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

use super::http::{by_tcp, request};
use super::*;

/// A certificate authority.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for a name and its private key, in PEM.
fn certificate(name: &str, ca: &CertifiedIssuer<'static, KeyPair>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let signed = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, ca).unwrap();
    (signed.pem(), key.serialize_pem())
}

#[test]
fn by_tls_with_the_certificate_of_a_client() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (ca, clients, other) = (authority(), authority(), authority());
    let (cert, key) = certificate("127.0.0.1", &ca);
    let (mine, my_key) = certificate("me", &clients);
    let (stranger, strangers_key) = certificate("me", &other);
    for (name, text) in [
        ("ca.pem", ca.pem()),
        ("cert.pem", cert),
        ("key.pem", key),
        ("clients.pem", clients.pem()),
        ("me.pem", mine + &my_key),
        ("stranger.pem", stranger + &strangers_key),
        ("token", ADMIN.to_owned()),
    ] {
        secret(dir.path(), name, &text);
    }
    let tls = json!({"cert": path("cert.pem"), "key": path("key.pem"), "client_ca": path("clients.pem")});
    let one = One::start(json!({"token_file": "token", "tls": tls}), json!({}));
    let url = format!("https://127.0.0.1:{}", one.port);
    let run = |args: &[&str]| -> Output {
        let mut command = one.local.command();
        command.args(["members", "--json", "--api", &url]).args(args).output().unwrap()
    };
    let (token, ca, me) = (path("token"), path("ca.pem"), path("me.pem"));
    let told = |out: &Output| String::from_utf8_lossy(&out.stderr).into_owned();
    let fine = run(&["--token-file", &token, "--ca", &ca, "--client-cert", &me]);
    assert_eq!(fine.status.code(), Some(0), "{}", told(&fine));
    assert!(String::from_utf8_lossy(&fine.stdout).starts_with("[{\"id\":\"a\""), "{fine:?}");
    let without_token = run(&["--ca", &ca, "--client-cert", &me]);
    assert_eq!(without_token.status.code(), Some(1));
    assert!(told(&without_token).contains("there is no token"), "{}", told(&without_token));
    for (what, args) in [
        ("no certificate of its own", vec!["--token-file", &token, "--ca", &ca]),
        (
            "another authority's",
            vec!["--token-file", &token, "--ca", &ca, "--client-cert", &path("stranger.pem")],
        ),
        (
            "a server that is not trusted",
            vec!["--token-file", &token, "--ca", &path("clients.pem"), "--client-cert", &me],
        ),
    ] {
        let out = run(&args);
        assert_eq!(out.status.code(), Some(2), "{what}: {}", told(&out));
    }
    // In the clear nothing is said at all.
    let mut stream = by_tcp(one.port);
    std::io::Write::write_all(&mut stream, &request("GET", "/healthz", &[], None)).unwrap();
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[test]
fn certificates_that_do_not_fit_stop_the_start() {
    let flip = Path::new(env!("CARGO_BIN_EXE_flip"));
    let ca = authority();
    let ((cert, _), (_, key)) = (certificate("127.0.0.1", &ca), certificate("127.0.0.1", &ca));
    let listen = format!("127.0.0.1:{}", free_port());
    let admin =
        json!({"listen": listen, "token_file": "token", "tls": {"cert": "cert.pem", "key": "key.pem"}});
    let mut local =
        Local::prepare(flip, 1, 0, &["one"], Map::from_iter([("admin".to_owned(), admin)])).unwrap();
    secret(local.state_dir(), "token", ADMIN);
    for (cert, key, why) in
        [("", key.as_str(), "there is none"), (cert.as_str(), key.as_str(), "do not fit together")]
    {
        secret(local.state_dir(), "cert.pem", cert);
        secret(local.state_dir(), "key.pem", key);
        local.start(0).unwrap();
        assert_eq!(local.wait(0).unwrap().code(), Some(1));
        assert!(local.log(0).contains(why), "{}", local.log(0));
    }
}
