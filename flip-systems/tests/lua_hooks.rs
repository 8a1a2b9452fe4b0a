//! Scripts as hooks: both forms, what they are given, what they say, and what becomes of their errors.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use flip_systems::lua::host::{Level, Line};
use flip_systems::lua::{Call, Engine, Hook, Limits, Log, Report, Said, Script, Scripts, Setup};
use serde_json::{Value, json};

#[derive(Default)]
struct Lines(Mutex<Vec<(Level, String)>>);

impl Log for Lines {
    fn line(&self, line: &Line<'_>) {
        self.0
            .lock()
            .unwrap()
            .push((line.level, format!("{} {} {}: {}", line.script, line.system, line.item, line.text)));
    }
}

struct Bench {
    engine: Engine,
    runtime: tokio::runtime::Runtime,
    lines: Arc<Lines>,
}

impl Bench {
    fn new(scripts: &[(&str, &str)]) -> Self {
        let mut all = Scripts::default();
        for (name, text) in scripts {
            all.add(Script::compile(name, &format!("scripts/{name}.lua"), text.as_bytes()).unwrap());
        }
        let lines = Arc::new(Lines::default());
        let log: Arc<dyn Log> = Arc::clone(&lines) as Arc<dyn Log>;
        let engine = Engine::new(Setup { scripts: all, log, ..Setup::new("web1") }).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { engine, runtime, lines }
    }

    fn run(&self, name: &str, hook: Hook, item: &Value, config: &Value) -> Report {
        let own = item.as_object().cloned();
        let name_of = |own: &serde_json::Map<String, Value>| own["name"].as_str().unwrap().to_owned();
        let item = own.as_ref().map_or_else(|| item.as_str().unwrap().to_owned(), name_of);
        let script = self.engine.script(name).unwrap();
        self.runtime.block_on(self.engine.call(Call {
            own,
            config: Arc::new(config.as_object().unwrap().clone()),
            reason: "failback".to_owned(),
            ..Call::new(&script, hook, "jobs", &item)
        }))
    }

    fn result(&self, name: &str, hook: Hook) -> Result<Said, String> {
        self.run(name, hook, &json!("x"), &json!({})).result
    }
}

#[test]
fn both_forms_run() {
    let bench = Bench::new(&[
        ("both", "return { alive = function() end, down = function() return false, 'no' end }"),
        ("body", "return true"),
        (
            "varargs",
            "local item, config = ... if item ~= 'x' or type(config) ~= 'table' then error('no') end",
        ),
    ]);
    assert_eq!(bench.result("both", Hook::Alive), Ok(Said::Yes));
    assert_eq!(bench.result("both", Hook::Down), Ok(Said::No("scripts/both.lua: no".to_owned())));
    assert_eq!(bench.result("both", Hook::Announce), Ok(Said::Absent));
    assert_eq!(bench.result("both", Hook::Observe), Ok(Said::Absent));
    let error = bench.result("both", Hook::Check).unwrap_err();
    assert_eq!(error, "scripts/both.lua: the script has no function `check`");
    assert_eq!(bench.result("body", Hook::Alive), Ok(Said::Yes));
    assert_eq!(bench.result("varargs", Hook::Down), Ok(Said::Yes));
}

#[test]
fn a_script_knows_what_it_is_called_for() {
    let text = "return { down = function(item, config)
        flip.log.info(item.name, item.port)
        print(item.name, item.port, config.port, config.dir, config.deep.list[2], flip.json.encode(config.empty))
        flip.log.warn(flip.node .. ' ' .. flip.system .. ' ' .. flip.reason .. ' ' .. flip.action)
    end }";
    let bench = Bench::new(&[("asks", text)]);
    let config = json!({"port": 1, "dir": "/d", "deep": {"list": [1, 2.5]}, "empty": []});
    let report =
        bench.run("asks", Hook::Down, &json!({"name": "db", "port": 5432, "isolated": "keep"}), &config);
    assert_eq!(report.result, Ok(Said::Yes));
    let lines = bench.lines.0.lock().unwrap().clone();
    let expected = [
        (Level::Info, "scripts/asks.lua jobs db: db"),
        (Level::Info, "scripts/asks.lua jobs db: db 5432 5432 /d 2.5 []"),
        (Level::Warn, "scripts/asks.lua jobs db: web1 jobs failback down"),
    ];
    assert_eq!(lines, expected.map(|(level, text)| (level, text.to_owned())));
}

#[test]
fn errors_name_file_and_line() {
    let cases = [
        ("error", "\n\nerror('boom')", "scripts/error.lua:3: boom"),
        ("nil", "local t\nreturn t.x", "scripts/nil.lua:2: attempt to index nil with 'x'"),
        ("false", "return false", "scripts/false.lua: the script returned false"),
        ("why", "return false, 'not today'", "scripts/why.lua: not today"),
        (
            "number",
            "return 5",
            "scripts/number.lua: the script returned a number; expected nothing, true, or false and a reason",
        ),
        ("api", "\nflip.sleep('long')", "scripts/api.lua:2: sleep: expected milliseconds, found string"),
        (
            "option",
            "flip.exec('/bin/true', {}, { timout = 5 })",
            "scripts/option.lua:1: exec: unknown option \"timout\"; there are: timeout, stdin, env",
        ),
        (
            "missing",
            "flip.exec('/no/such/file')",
            "scripts/missing.lua:1: exec: cannot run /no/such/file: No such file or directory (os error 2)",
        ),
        (
            "caught",
            "local ok, why = pcall(flip.read, '/no/such') return false, why",
            "scripts/caught.lua: read: /no/such: No such file or directory (os error 2)",
        ),
        ("table", "error({ code = 5 })", "scripts/table.lua: "),
        ("lines", "error('one\\ntwo')", "scripts/lines.lua:1: one two"),
        ("unknown", "flip.nothing()", "scripts/unknown.lua:1: attempt to call a nil value"),
    ];
    let bench = Bench::new(&cases.map(|(name, text, _)| (name, text)));
    for (name, _, expected) in cases {
        let (Ok(Said::No(text)) | Err(text)) = bench.result(name, Hook::Alive) else {
            panic!("{name} ended well")
        };
        if name == "table" {
            assert!(text.starts_with(expected), "{name}: {text}");
        } else {
            assert_eq!(text, expected, "{name}");
        }
    }
}

#[test]
fn each_call_has_a_state_of_its_own() {
    let bench = Bench::new(&[(
        "counts",
        "n = (n or 0) + 1 shared = shared or {} table.insert(shared, n) return n == 1 and #shared == 1",
    )]);
    for _ in 0..5 {
        assert_eq!(bench.result("counts", Hook::Alive), Ok(Said::Yes));
    }
}

#[test]
fn many_calls_at_once_wait_beside_each_other() {
    let bench = Bench::new(&[("waits", "flip.sleep(100)")]);
    let start = std::time::Instant::now();
    let script = bench.engine.script("waits").unwrap();
    let calls: Vec<_> =
        (0..50).map(|_| bench.engine.call(Call::new(&script, Hook::Alive, "s", "x"))).collect();
    bench.runtime.block_on(async {
        for call in calls {
            assert_eq!(call.await.result, Ok(Said::Yes));
        }
    });
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "one after the other would be 5 s: {:?}",
        start.elapsed()
    );
}

#[test]
fn a_log_has_its_limits() {
    let bench = Bench::new(&[(
        "talks",
        "flip.log.debug(('x'):rep(5000)) for i = 1, 2000 do flip.log.info('a\\nb') end",
    )]);
    assert_eq!(bench.result("talks", Hook::Alive), Ok(Said::Yes));
    let lines = bench.lines.0.lock().unwrap();
    assert_eq!(lines.len(), 1001);
    assert!(lines[0].1.ends_with("… (2952 bytes more)"), "{}", lines[0].1);
    assert!(lines[1].1.ends_with("x: a b"), "{}", lines[1].1);
    assert!(lines[1000].1.ends_with("this call wrote 1000 lines; the rest of them is left out"));
}

#[test]
fn a_script_that_computes_before_it_waits_is_woken() {
    // Its turn ends between the poll of what it waits for and its own yield, now and then.
    let text = "for i = 1, 60 do local t = os.clock() + 0.0009 + i % 10 / 20000 while os.clock() < t do end flip.sleep(1) end";
    let bench = Bench::new(&[("works", text)]);
    let report = bench.run("works", Hook::Alive, &json!("x"), &json!({}));
    assert_eq!(report.result, Ok(Said::Yes), "within its 20 s");
}

#[test]
fn unsafe_lua_opens_the_library_and_keeps_the_limits() {
    let mut scripts = Scripts::default();
    let opened = "string.shout = string.upper
        return loadstring('return 5')() == 5 and type(require) == 'function' and debug.info(1, 'l') == 2 and ('x'):shout() == 'X'";
    for (name, text) in
        [("opened", opened), ("spins", "while true do pcall(function() while true do end end) end")]
    {
        scripts.add(Script::compile(name, &format!("{name}.lua"), text.as_bytes()).unwrap());
    }
    let limits = Limits { unsafe_lua: true, steps: 100_000, ..Limits::default() };
    let engine = Engine::new(Setup { scripts, limits, ..Setup::new("web1") }).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let run = |name: &str| {
        let script = engine.script(name).unwrap();
        runtime.block_on(engine.call(Call::new(&script, Hook::Alive, "s", "x")))
    };
    assert_eq!(run("opened").result, Ok(Said::Yes));
    let error = run("spins").result.unwrap_err();
    assert!(error.contains("made more than 100000 steps"), "{error}");
}
