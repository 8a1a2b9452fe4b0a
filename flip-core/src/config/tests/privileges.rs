//! What a daemon keeps, by what its config has it do.

use super::*;
use crate::config::privileges::Plan;
use crate::config::{Capability, Script, ScriptFound};
use Capability::{NetAdmin, NetBindService, NetRaw, SysNice};

fn plan(keys: &str, systems: &str, id: &str) -> Plan {
    let text = format!(
        r#"{{{keys}
        "servers": {{
            "a": {{"ip": "10.0.0.1", "systems": ["s"]}},
            "low": {{"ip": "10.0.0.2", "port": 1023, "systems": ["s"]}},
            "arbiter": {{"ip": "10.0.0.3"}},
        }},
        "cluster": {{"system": {{"s": {{{systems}}}}}}}}}"#
    );
    let script = |name| Script { name, found: ScriptFound::Body };
    let scripts = [script("job_up"), script("job_down"), script("look"), script("after")];
    let overrides = Overrides { id: Some(id), scripts: &scripts, ..Overrides::default() };
    let loaded = load_quickly(&text, &overrides);
    loaded.unwrap_or_else(|problems| panic!("{}", render(&problems))).config.privilege_plan()
}

const IP: &str =
    r#""alive": "ip_up", "down": "ip_down", "config": {"interface": "eth0"}, "data": ["10.0.0.9"]"#;
const MEMORY: &str = r#""alive": "memory_up", "down": "memory_down", "data": ["x"]"#;
const SCRIPT: &str = r#""alive": "job_up", "down": "job_down", "data": ["x"]"#;

#[test]
fn a_daemon_needs_what_its_server_does() {
    let table: [(&str, String, &str, &[Capability]); 10] = [
        ("", IP.into(), "a", &[NetAdmin, NetRaw]),
        ("", IP.into(), "low", &[NetAdmin, NetRaw, NetBindService]),
        (r#""profile": "turbo","#, IP.into(), "a", &[NetAdmin, NetRaw, SysNice]),
        ("", IP.into(), "arbiter", &[]),
        (r#""witness": {"ping": "10.0.0.254"},"#, IP.into(), "arbiter", &[NetRaw]),
        ("", MEMORY.into(), "a", &[]),
        ("", format!(r#"{MEMORY}, "checks": [{{"type": "ping", "ip": "10.0.0.254"}}]"#), "a", &[NetRaw]),
        ("", format!(r#"{MEMORY}, "checks": [{{"type": "exec", "command": "/bin/true"}}]"#), "a", &[]),
        ("", SCRIPT.into(), "a", &[NetAdmin, NetRaw]),
        ("", SCRIPT.into(), "arbiter", &[]),
    ];
    for (keys, systems, id, needed) in table {
        let plan = plan(&format!(r#""privileges": "least", {keys}"#), &systems, id);
        assert_eq!(plan.keep.as_deref(), Some(needed), "{keys} {systems} {id}");
        assert_eq!(plan.no_new_privileges, plan.programs.is_none(), "{keys} {systems} {id}");
    }
}

#[test]
fn what_runs_programs_of_others_is_named() {
    let check = |check: &str| format!(r#"{MEMORY}, "checks": [{{{check}}}]"#);
    let table = [
        (SCRIPT.to_owned(), Some("system s runs the script job_up")),
        (format!(r#"{MEMORY}, "post": "after""#), Some("system s runs the script after")),
        (
            check(r#""type": "exec", "command": "/bin/true""#),
            Some("a health check of system s runs /bin/true"),
        ),
        (
            check(r#""type": "lua", "script": "look""#),
            Some("a health check of system s runs the script look"),
        ),
        (check(r#""type": "tcp", "host": "10.0.0.1", "port": 80"#), None),
        (IP.to_owned(), None),
    ];
    for (system, programs) in table {
        assert_eq!(plan("", &system, "a").programs.as_deref(), programs, "{system}");
        assert_eq!(plan("", &system, "arbiter").programs, None, "{system}");
    }
    let plugin = plan(r#""plugins": ["look"],"#, MEMORY, "arbiter");
    assert_eq!(plugin.programs.as_deref(), Some("the plugin look runs"));
}

/// `user`, `privileges`, whether programs run; what is kept, what is passed on, whether nothing can gain more.
type Row<'a> = (&'a str, &'a str, bool, Option<&'a [Capability]>, &'a [Capability], bool);

#[test]
fn the_table_of_the_module_holds() {
    let both: &[Capability] = &[NetAdmin, NetRaw];
    let table: [Row<'_>; 9] = [
        ("", "auto", false, Some(both), &[], true),
        ("", "auto", true, None, &[], false),
        ("", "least", false, Some(both), &[], true),
        ("", "least", true, Some(both), both, false),
        ("flip", "auto", false, Some(both), &[], true),
        ("flip", "auto", true, Some(both), both, false),
        ("flip", "least", true, Some(both), both, false),
        ("root", "auto", true, None, &[], false),
        ("", "keep", false, None, &[], false),
    ];
    for (user, keep, programs, kept, passed, no_new) in table {
        let name = if user.is_empty() { String::new() } else { format!(r#""user": "{user}","#) };
        let keys = format!(r#"{name} "privileges": "{keep}","#);
        let plan = plan(&keys, if programs { SCRIPT } else { IP }, "a");
        let case = format!("{user} {keep} {programs}");
        assert_eq!(plan.user.as_deref(), Some(user).filter(|user| *user == "flip"), "{case}");
        assert_eq!((plan.keep.as_deref(), &plan.pass_on[..]), (kept, passed), "{case}");
        assert_eq!(plan.no_new_privileges, no_new, "{case}");
    }
    // Root reads the files that checks name whoever owns them; another user its own.
    let check = format!(
        r#"{MEMORY}, "checks": [{{"type": "postgres", "user": "flip", "password_file": "/etc/flip/password"}}]"#
    );
    for (user, keep) in [("", &[Capability::DacReadSearch][..]), (r#""user": "flip","#, &[])] {
        assert_eq!(plan(user, &check, "a").keep.as_deref(), Some(keep), "{user}");
    }
    // Real-time priority and low ports are the daemon's alone.
    let plan = plan(r#""privileges": "least", "profile": "turbo","#, SCRIPT, "low");
    assert_eq!(plan.keep.as_deref(), Some(&[NetAdmin, NetRaw, NetBindService, SysNice][..]));
    assert_eq!(plan.pass_on, both);
}
