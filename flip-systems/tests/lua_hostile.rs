//! Hostile scripts: each is stopped at its deadline by the sandbox's own account, none takes more memory than
//! its limit, none gets out.

use std::time::{Duration, Instant};

use flip_systems::lua::{Call, Engine, Hook, Limits, Report, Said, Script, Scripts, Setup};

const MEMORY: usize = 32 << 20;
const TIMEOUT: Duration = Duration::from_millis(200);
/// What a script may use of the processor after its deadline.
const GRACE: Duration = Duration::from_millis(10);

/// How a script must end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// Stopped by its time.
    Time,
    /// Out of memory.
    Memory,
    /// Stopped by time or by memory: which comes first depends on the machine.
    Either,
    /// An error of its own, with this text.
    Error(&'static str),
    /// It ends by itself and says that nothing worked.
    Held,
}

const SCRIPTS: &[(&str, End, &str)] = &[
    ("endless loop", End::Time, "while true do end"),
    ("endless loop at the top of a file that returns functions", End::Time, "while true do end return { alive = print }"),
    ("endless loop in a function", End::Time, "return { alive = function() while true do end end }"),
    ("pcall around a loop, for ever", End::Time, "while true do pcall(function() while true do end end) end"),
    (
        "nested pcalls that each go on",
        End::Time,
        "local function f(n) if n > 0 then pcall(f, n - 1) end while true do end end f(100)",
    ),
    (
        "xpcall whose handler loops",
        End::Time,
        "xpcall(function() error('x') end, function() while true do end end)",
    ),
    ("endless recursion by tail", End::Either, "local function f() return f() end f()"),
    (
        "endless recursion in pcall",
        End::Time,
        "local function f() pcall(f) f() end while true do pcall(f) end",
    ),
    ("coroutines that loop", End::Time, "while true do coroutine.wrap(function() while true do end end)() end"),
    (
        "coroutines in coroutines",
        End::Either,
        "local function f() local c = coroutine.create(f) coroutine.resume(c) while true do end end f()",
    ),
    (
        "swarm of coroutines that are kept",
        End::Either,
        "local t = {} while true do local c = coroutine.create(function() coroutine.yield() end) coroutine.resume(c) t[#t + 1] = c end",
    ),
    (
        "pattern that tries everything",
        End::Time,
        "string.find(('a'):rep(60000), ('.-'):rep(12) .. 'b')",
    ),
    ("pattern of optional letters", End::Time, "('a'):rep(28):match(('a?'):rep(28) .. ('a'):rep(28)) while true do end"),
    ("pattern in gsub", End::Time, "('x'):rep(3000):gsub(('.-'):rep(6) .. 'y', '')"),
    ("pattern in gmatch", End::Time, "for _ in ('x'):rep(20000):gmatch('.-.-.-.-.-b') do end"),
    (
        "plain search of the product of both lengths",
        End::Time,
        "local s, p = ('a'):rep(4e6), ('a'):rep(2e6) .. 'b' while true do string.find(s, p, 1, true) end",
    ),
    (
        "search without special characters, by method",
        End::Time,
        "local s, p = ('a'):rep(4e6), ('a'):rep(2e6) .. 'b' while true do s:find(p) end",
    ),
    (
        "split by a long separator",
        End::Either,
        "local s, p = ('a'):rep(2e6), ('a'):rep(1e6) .. 'b' while true do s:split(p) end",
    ),
    ("comparator that never ends", End::Time, "table.sort({3, 2, 1}, function() while true do end end)"),
    (
        "sort of a long list without comparator",
        End::Time,
        "local t = {} for i = 1, 1e6 do t[i] = -i % 7919 end while true do table.sort(t) end",
    ),
    (
        "sort of a long list by a function of the library",
        End::Time,
        "local t = {} for i = 1, 1e6 do t[i] = i end while true do table.sort(t, rawequal) end",
    ),
    ("move of elements that are not there", End::Time, "table.move({}, 1, 2147483646, 2, {}) while true do end"),
    ("endless metamethod", End::Time, "local t = setmetatable({}, { __index = function() while true do end end }) local _ = t.x"),
    ("endless tostring", End::Time, "tostring(setmetatable({}, { __tostring = function() while true do end end }))"),
    ("endless iterator", End::Time, "for _ in function() return 1 end do end"),
    ("repetition of nothing", End::Time, "while true do (''):rep(2147483647) end"),
    ("string that doubles", End::Memory, "local s = 'x' while true do s = s .. s end"),
    ("string that doubles in pcall", End::Either, "local s = 'x' while true do pcall(function() s = s .. s end) end"),
    ("table that grows", End::Either, "local t = {} while true do t[#t + 1] = {} end"),
    ("one huge table", End::Error("e"), "table.create(2^28, 0)"),
    ("one huge string", End::Error("e"), "('x'):rep(2^30)"),
    ("one huge buffer", End::Error("e"), "buffer.create(2^30)"),
    ("many buffers", End::Either, "local t = {} while true do t[#t + 1] = buffer.create(2^20) end"),
    ("concat of much", End::Error("e"), "local t = {} for i = 1, 2000 do t[i] = ('x'):rep(1e5) end table.concat(t)"),
    ("gsub that grows", End::Error("e"), "('x'):rep(1e6):gsub('x', ('y'):rep(1e4))"),
    ("values without end to a function", End::Error("too many"), "return select('#', table.unpack({}, 1, 1e8))"),
    ("deep nesting of brackets at run time", End::Error("e"), "return { alive = function() local t = {} for i = 1, 1000 do t = { t } end flip.json.encode(t) end }"),
    (
        "value that unfolds to much",
        End::Error("more than"),
        "local t = {} for i = 1, 40 do t = { t, t } end flip.json.encode(t)",
    ),
    ("table that holds itself", End::Error("holds itself"), "local t = {} t.t = t flip.json.encode(t)"),
    ("long JSON", End::Error("at most"), "flip.json.decode(('['):rep(2e6))"),
    ("deep JSON", End::Error("recursion limit"), "flip.json.decode(('['):rep(1000))"),
    ("endless sleep", End::Time, "while true do flip.sleep(1) end"),
    ("one long sleep", End::Time, "flip.sleep(1e9)"),
    ("process that does not end", End::Time, "flip.exec('/bin/sleep', {'60'})"),
    ("process that ignores its end", End::Time, "flip.exec('/bin/sh', {'-c', 'trap \"\" TERM INT; while :; do :; done'})"),
    ("output without end", End::Error("longer than"), "flip.exec('/bin/cat', {'/dev/zero'})"),
    ("file without end", End::Error("not a regular file"), "flip.read('/dev/zero')"),
    ("wait in a coroutine", End::Error("a coroutine"), "coroutine.wrap(function() flip.sleep(1) end)()"),
    (
        "what is not there",
        End::Held,
        "for _, name in { 'io', 'package', 'debug', 'require', 'dofile', 'loadfile', 'load', 'loadstring', 'getfenv', 'setfenv', 'newproxy', 'collectgarbage' } do
           if _G[name] ~= nil then error(name .. ' is there') end
         end
         for _, name in { 'execute', 'exit', 'getenv', 'remove', 'rename', 'tmpname', 'setlocale' } do
           if os[name] ~= nil then error('os.' .. name .. ' is there') end
         end
         if string.dump ~= nil then error('string.dump is there') end
         return false, 'held'",
    ),
    (
        "change of what others use",
        End::Held,
        "local function refused(f) if pcall(f) then error('not refused') end end
         refused(function() string.rep = nil end)
         refused(function() table.sort = nil end)
         refused(function() math.pi = 3 end)
         refused(function() flip.exec = nil end)
         refused(function() rawset(string, 'rep', nil) end)
         refused(function() getmetatable('').__index = nil end)
         refused(function() setmetatable(flip, {}) end)
         refused(function() setmetatable(_G.string, {}) end)
         if getmetatable(flip) ~= 'locked' then error('open') end
         return false, 'held'",
    ),
    (
        "bytecode as text",
        End::Held,
        "if pcall(function() return loadstring('\\27Lua') end) then error('loaded') end return false, 'held'",
    ),
];

fn engine(limits: Limits) -> Engine {
    let mut scripts = Scripts::default();
    for (name, _, text) in SCRIPTS {
        scripts.add(Script::compile(name, "bad.lua", text.as_bytes()).expect(name));
    }
    Engine::new(Setup { scripts, limits, ..Setup::new("a") }).expect("threads")
}

fn call(engine: &Engine, name: &str) -> Call {
    let script = engine.script(name).expect("a script of the list");
    Call { timeout: TIMEOUT, ..Call::new(&script, Hook::Alive, "s", "x") }
}

fn check(name: &str, end: End, report: &Report) -> Result<(), String> {
    let Report { result, overrun, memory, .. } = report;
    let (Ok(Said::No(text)) | Err(text)) = result else { return Err(format!("{name}: ended well")) };
    let in_time = text.contains("took longer than 200ms and was stopped");
    let in_memory = text.contains("memory");
    let as_expected = match end {
        End::Time => in_time,
        End::Memory => in_memory,
        End::Either => in_time || in_memory || text.contains("overflow"),
        End::Error(part) => !in_time && text.contains(part),
        End::Held => text == "bad.lua: held",
    };
    if !as_expected || !text.starts_with("bad.lua") {
        return Err(format!("{name}: expected {end:?}: {text}"));
    }
    if *overrun > GRACE {
        return Err(format!("{name}: {overrun:?} after its deadline"));
    }
    if *memory > MEMORY {
        return Err(format!("{name}: {memory} bytes"));
    }
    Ok(())
}

#[test]
fn hostile_scripts_are_stopped_and_none_escapes() {
    assert!(SCRIPTS.len() >= 25);
    let engine = engine(Limits { memory: MEMORY, ..Limits::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut wrong = Vec::new();
    for (name, end, _) in SCRIPTS {
        // By the account of the sandbox, whatever else this machine does; a page fault may still come at
        // the wrong moment.
        let report = runtime.block_on(engine.call(call(&engine, name)));
        let again = report.overrun > GRACE;
        let report = if again { runtime.block_on(engine.call(call(&engine, name))) } else { report };
        wrong.extend(check(name, *end, &report).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn steps_are_counted() {
    let engine = engine(Limits { steps: 10_000, ..Limits::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(engine.call(call(&engine, "endless loop")));
    let error = report.result.unwrap_err();
    assert_eq!(error, "bad.lua:1: made more than 10000 steps (`lua_steps`) and was stopped");
    assert!(report.wall < TIMEOUT);
}

#[test]
fn a_dropped_call_ends_with_its_processes() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    // The process starts another one in its group, and both tell their numbers.
    let text = format!(
        "flip.exec('/bin/sh', {{'-c', 'echo $$ >> {0}; sleep 60 & echo $! >> {0}; wait'}}, {{timeout = 60000}})",
        pids.display()
    );
    let mut scripts = Scripts::default();
    scripts.add(Script::compile("starts", "starts.lua", text.as_bytes()).unwrap());
    let engine = Engine::new(Setup { scripts, ..Setup::new("a") }).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut it = call(&engine, "starts");
    it.timeout = Duration::from_secs(60);
    let found = runtime.block_on(async {
        let call = engine.call(it);
        tokio::pin!(call);
        let watch = async {
            loop {
                let text = std::fs::read_to_string(&pids).unwrap_or_default();
                if text.lines().count() == 2 {
                    return text.lines().map(|line| line.parse::<i32>().unwrap()).collect::<Vec<_>>();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            report = &mut call => panic!("{report:?}"),
            found = watch => found,
        }
    });
    let start = Instant::now();
    let runs = |pid: &i32| {
        // A zombie that nobody has waited for yet is dead.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    };
    while found.iter().any(runs) {
        assert!(start.elapsed() < Duration::from_secs(5), "{found:?} still run");
        std::thread::sleep(Duration::from_millis(5));
    }
}
