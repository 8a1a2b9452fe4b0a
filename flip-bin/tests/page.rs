//! The page of a real daemon in a real browser: headless Chromium, driven by chromedriver.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::wd::Capabilities;
use fantoccini::{Client, ClientBuilder};
use flip_core::status::Status;
use flip_tests::local::{Local, free_port};
use flip_tests::needs::command_or_skip;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Map, Value, json};

const LIMIT: Duration = Duration::from_secs(30);
const TOKEN: &str = "look-look-look-look-look";

fn browser_or_skip(test: &str) -> bool {
    command_or_skip(test, "chromedriver", "--version", "chromium-driver")
}

/// chromedriver, which ends with it and takes its browser along.
struct Driver {
    process: Child,
    port: u16,
}

impl Driver {
    fn start() -> Self {
        let port = free_port();
        let mut driver = Command::new("chromedriver");
        let driver =
            driver.arg(format!("--port={port}")).arg("--silent").stdout(Stdio::null()).stderr(Stdio::null());
        Self { process: driver.spawn().unwrap(), port }
    }

    /// A browser of this size, of a phone or not, in the dark or not.
    async fn browser(&self, size: (u32, u32), phone: bool, dark: bool) -> Client {
        let mut args =
            vec!["--headless=new".to_owned(), "--no-sandbox".to_owned(), "--disable-gpu".to_owned()];
        args.push(format!("--window-size={},{}", size.0, size.1));
        if dark {
            args.push("--blink-settings=preferredColorScheme=0".to_owned());
        }
        let mut options = json!({ "args": args });
        if phone {
            let metrics = json!({ "width": size.0, "height": size.1, "pixelRatio": 2 });
            options["mobileEmulation"] = json!({ "deviceMetrics": metrics });
        }
        let mut wanted = Capabilities::new();
        wanted.insert("goog:chromeOptions".to_owned(), options);
        let end = Instant::now() + LIMIT;
        loop {
            // It takes a moment to listen.
            let url = format!("http://127.0.0.1:{}", self.port);
            match ClientBuilder::new(HttpConnector::new()).capabilities(wanted.clone()).connect(&url).await {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < end, "no browser: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Asked kindly it ends its browsers as well.
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
    }
}

/// Three daemons, and the address of the first one's page.
fn cluster(tokens: bool) -> (Local, String) {
    let mut local = Local::prepare(
        Path::new(env!("CARGO_BIN_EXE_flip")),
        3,
        0,
        &["web", "mail", "<b>db</b>"],
        Map::new(),
    )
    .unwrap();
    for n in [1, 2] {
        local.start(n).unwrap();
        // It has read the config, which is another one from here on.
        local.watch(n).unwrap().until(LIMIT, |_| true).unwrap();
    }
    let port = free_port();
    let written = std::fs::read_to_string(local.config()).unwrap();
    let mut config: Value = serde_json::from_str(&written).unwrap();
    config["admin"] = json!({ "listen": format!("127.0.0.1:{port}") });
    if tokens {
        let file = local.state_dir().join("token");
        std::fs::write(&file, TOKEN).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        config["admin"]["read_token_file"] = json!("token");
    }
    std::fs::write(local.config(), config.to_string()).unwrap();
    local.start(0).unwrap();
    local.watch(0).unwrap().until(LIMIT, Status::healthy).unwrap();
    // Whoever is started again has no page.
    std::fs::write(local.config(), written).unwrap();
    (local, format!("http://127.0.0.1:{port}/"))
}

/// Asks the page again and again, until it says what is wanted.
async fn until(page: &Client, what: &str, script: &str) -> Value {
    let end = Instant::now() + LIMIT;
    loop {
        let said = page.execute(&format!("return {script}"), Vec::new()).await.unwrap();
        if !matches!(said, Value::Null | Value::Bool(false)) {
            return said;
        }
        if Instant::now() > end {
            let text = page.execute("return document.body.innerText", Vec::new()).await.unwrap();
            panic!("{what}: not within {LIMIT:?}: {text}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Keeps a picture where somebody asked for it.
async fn picture(page: &Client, name: &str) {
    if let Some(dir) = std::env::var_os("FLIP_SCREENSHOTS") {
        std::fs::write(Path::new(&dir).join(name), page.screenshot().await.unwrap()).unwrap();
    }
}

const IS: &str = "document.getElementById('health').textContent ===";

#[tokio::test]
async fn a_death_is_seen_as_it_happens() {
    if !browser_or_skip("a_death_is_seen_as_it_happens") {
        return;
    }
    let (mut local, url) = cluster(false);
    let driver = Driver::start();
    let page = driver.browser((1280, 900), false, false).await;
    page.goto(&url).await.unwrap();
    until(&page, "a healthy cluster", &format!("{IS} 'healthy'")).await;
    let held = "[...document.querySelectorAll('#matrix tbody tr:not(.system)')].map(row => \
        [row.cells[0].innerText, [...row.cells].findIndex(cell => cell.querySelector('.held'))].join())";
    let before = until(&page, "the table", held).await;
    assert_eq!(before, json!(["web,1", "mail,2", "<b>db</b>,3"]), "names are text and nothing else");

    local.kill(2).unwrap();
    until(&page, "a failover", &format!("{IS} 'degraded' && ({held})[2] === '<b>db</b>,1'")).await;
    let outage = "document.querySelectorAll('.lane')[2].querySelector('.bar.none')?.title";
    let title = until(&page, "the outage", outage).await;
    assert!(title.as_str().unwrap().starts_with("nobody for "), "{title}");
    let others = "[0, 1].every(n => !document.querySelectorAll('.lane')[n].querySelector('.bar.none'))";
    until(&page, "no outage of the others", others).await;
    until(&page, "the event", "document.getElementById('events').innerText.includes('member is down: c')")
        .await;
    picture(&page, "page.png").await;

    page.execute("document.querySelectorAll('#matrix tbody button')[2].click()", Vec::new()).await.unwrap();
    let why = until(
        &page,
        "the reasons",
        "document.getElementById('why').open && document.querySelector('#why pre').textContent",
    )
    .await;
    assert!(why.as_str().unwrap().contains("c may not: down for"), "{why}");
    picture(&page, "why.png").await;
    // What the page is made of came with it: nothing else was asked for, of anybody.
    let asked = until(&page, "what was asked for", "performance.getEntriesByType('resource').map(r => new URL(r.name))\
        .filter(u => u.protocol !== 'data:' && !(u.origin === location.origin && u.pathname.startsWith('/v1/'))).map(String)").await;
    assert_eq!(asked, json!([]));

    local.start(2).unwrap();
    until(&page, "all well again", &format!("{IS} 'healthy' && ({held})[2] === '<b>db</b>,3'")).await;
    page.close().await.unwrap();
}

#[tokio::test]
async fn it_fits_a_phone_and_asks_for_a_token() {
    if !browser_or_skip("it_fits_a_phone_and_asks_for_a_token") {
        return;
    }
    let (_local, url) = cluster(true);
    let driver = Driver::start();
    let page = driver.browser((390, 800), true, true).await;
    page.goto(&url).await.unwrap();
    until(&page, "the question", "document.getElementById('ask').open").await;
    let give = |token: &str| {
        format!(
            "document.getElementById('token').value = '{token}'; document.querySelector('#ask button').click()"
        )
    };
    page.execute(&give("wrong-wrong-wrong-wrong"), Vec::new()).await.unwrap();
    until(&page, "the question again", "document.getElementById('ask').open").await;
    page.execute(&give(TOKEN), Vec::new()).await.unwrap();
    until(&page, "a healthy cluster", &format!("{IS} 'healthy'")).await;
    until(&page, "nothing beside the screen", "document.documentElement.scrollWidth <= innerWidth").await;
    let ground = until(&page, "a dark ground", "getComputedStyle(document.body).backgroundColor").await;
    assert_eq!(ground, "rgb(14, 17, 22)");
    picture(&page, "phone.png").await;
    page.close().await.unwrap();
}
