//! `flip.http` against a real TLS server: the right certificate is taken, wrong ones are refused.

mod tls;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;

use flip_systems::lua::{Call, Engine, Hook, Said, Script, Scripts, Setup};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// Answers every request with its first line, over TLS; whoever breaks off the handshake is left.
fn serve(config: Arc<ServerConfig>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            let mut request = Vec::new();
            let mut buffer = [0; 1024];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(read @ 1..) => request.extend_from_slice(&buffer[..read]),
                    Ok(0) | Err(_) => break,
                }
            }
            let text = String::from_utf8_lossy(&request);
            let body = text.lines().next().unwrap_or_default();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            // Who refused the certificate is gone.
            let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.flush());
        }
    });
    port
}

fn ask(url: &str, ca_file: Option<&str>) -> Result<Said, String> {
    let mut scripts = Scripts::default();
    let text = "return { alive = function(item, config)
        local answer = flip.http({url = config.url, ca_file = config.ca_file})
        return answer.status == 200 and answer.body == 'GET /health?deep=1 HTTP/1.1', answer.body
    end }";
    scripts.add(Script::compile("ask", "ask.lua", text.as_bytes()).unwrap());
    let engine = Engine::new(Setup { scripts, ..Setup::new("web1") }).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config: Value = json!({"url": url, "ca_file": ca_file});
    let mut config = config.as_object().unwrap().clone();
    config.retain(|_, value| !value.is_null());
    let script = engine.script("ask").unwrap();
    let call = Call { config: Arc::new(config), ..Call::new(&script, Hook::Alive, "s", "x") };
    runtime.block_on(engine.call(call)).result
}

#[test]
fn https_is_verified_against_the_file_or_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let (right, wrong) = (tls::Authority::new(), tls::Authority::new());
    let right_file = right.write(&dir.path().join("right.pem"));
    let wrong_file = wrong.write(&dir.path().join("wrong.pem"));
    let port = serve(right.server(&["localhost", "127.0.0.1"]));
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("https://{host}:{port}/health?deep=1");
        assert_eq!(ask(&url, Some(&right_file)), Ok(Said::Yes), "{url}");
        let refused = ask(&url, Some(&wrong_file)).unwrap_err();
        assert!(refused.starts_with("ask.lua:2: http: https://"), "{refused}");
        assert!(refused.contains(&format!("no TLS with {host}: invalid peer certificate")), "{refused}");
        // No store of a host has an authority that was made a moment ago.
        let refused = ask(&url, None).unwrap_err();
        assert!(refused.contains("certificate"), "{refused}");
    }
    let url = format!("https://localhost:{port}/");
    let missing = ask(&url, Some("/nowhere.pem")).unwrap_err();
    assert!(missing.contains("cannot use the certificates of /nowhere.pem"), "{missing}");
    let other = serve(right.server(&["other.test"]));
    let refused = ask(&format!("https://localhost:{other}/"), Some(&right_file)).unwrap_err();
    assert!(refused.contains("no TLS with localhost: invalid peer certificate"), "{refused}");
}
