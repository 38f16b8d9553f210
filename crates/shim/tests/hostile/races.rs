//! Calls that come at the same time, or at a time when the container is on its way in or out. Whatever wins, nobody waits for
//! ever, nothing half-made stays, and what is told is true.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::bundle::{Bundle, Called, finish};

/// Asks until something is so.
#[track_caller]
pub fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !ready() {
        assert!(begun.elapsed() < Duration::from_secs(30), "never {what}");
        // Asked of a runtime without a daemon, which tells nobody.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Several calls at once; how each ended. What they say goes to files: a container that stays would hold a pipe open.
fn at_once(bundle: &Bundle, calls: &[&[&str]]) -> Vec<Called> {
    let file = |number: usize| bundle.path(&format!("err{number}"));
    let start = |(number, arguments): (usize, &&[&str])| {
        let stderr = std::fs::File::create(file(number)).unwrap();
        bundle.command(arguments).stdout(Stdio::null()).stderr(stderr).spawn().unwrap()
    };
    let started: Vec<_> = calls.iter().enumerate().map(start).collect();
    let end = |(number, child)| {
        let code = finish(child, calls[number]);
        let stderr = std::fs::read_to_string(file(number)).unwrap();
        assert!(!stderr.contains("panicked"), "{stderr}");
        Called { code, stdout: String::new(), stderr }
    };
    started.into_iter().enumerate().map(end).collect()
}

fn create(bundle: &Bundle) -> i32 {
    let status = bundle.command(&["create", "ID"]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success());
    bundle.pid()
}

#[test]
fn two_starts() {
    let bundle = Bundle::new("sleep 100");
    for _ in 0..5 {
        let pid = create(&bundle);
        let starts = at_once(&bundle, &[&["start", "ID"], &["start", "ID"], &["start", "ID"]]);
        assert_eq!(starts.iter().filter(|call| call.code == 0).count(), 1, "{starts:?}");
        assert_eq!(bundle.state()["status"], "running");
        bundle.ok(&["delete", "--force", "ID"]);
        bundle.reap_init(pid);
        bundle.clean();
    }
}

#[test]
fn two_creates() {
    let bundle = Bundle::new("sleep 100");
    for _ in 0..5 {
        let create: &[&str] = &["create", "ID"];
        let creates = at_once(&bundle, &[create, create, create, create]);
        assert_eq!(creates.iter().filter(|call| call.code == 0).count(), 1, "{creates:?}");
        for refused in creates.iter().filter(|call| call.code != 0) {
            assert!(refused.stderr.contains("already exists"), "{refused:?}");
        }
        assert_eq!(bundle.state()["status"], "created");
        let pid = bundle.pid();
        bundle.ok(&["delete", "--force", "ID"]);
        bundle.reap_init(pid);
        bundle.clean();
    }
}

#[test]
fn start_and_kill() {
    let bundle = Bundle::new("sleep 100");
    for _ in 0..8 {
        let pid = create(&bundle);
        let calls = at_once(&bundle, &[&["start", "ID"], &["kill", "ID", "KILL"]]);
        assert_eq!(calls[1].code, 0, "{calls:?}");
        assert_eq!(bundle.reap_init(pid), 137, "{calls:?}");
        until("stopped", || bundle.state()["status"] == "stopped");
        bundle.ok(&["delete", "ID"]);
        bundle.clean();
    }
}

/// A created container can be signalled though the program does not run yet: process 1 without a handler ignores what is not
/// SIGKILL, or ends; it does neither hang nor run what was to be killed.
#[test]
fn kill_before_the_program_runs() {
    let bundle = Bundle::new("sleep 100");
    for signal in ["TERM", "KILL"] {
        let pid = create(&bundle);
        bundle.ok(&["kill", "ID", signal]);
        if signal == "TERM" {
            let started = bundle.call(&["start", "ID"]);
            assert!(started.code == 0 || started.stderr.contains("stopped"), "{started:?}");
            bundle.call(&["kill", "ID", "KILL"]);
        }
        bundle.reap_init(pid);
        bundle.ok(&["delete", "--force", "ID"]);
        bundle.clean();
    }
}

#[test]
fn forced_delete_during_create() {
    let bundle = Bundle::new("sleep 100");
    for round in 0..12 {
        let mut child = bundle.command(&["create", "ID"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Another moment in each round is what is tried.
        std::thread::sleep(Duration::from_micros(700 * round));
        let deleted = bundle.call(&["delete", "--force", "ID"]);
        assert!(!deleted.stderr.contains("panicked"), "{deleted:?}");
        child.wait().unwrap();
        bundle.call(&["delete", "--force", "ID"]);
        bundle.clean();
    }
}

/// The caller is killed in the midst: nothing stays after a forced delete.
#[test]
fn create_is_killed_under_way() {
    let bundle = Bundle::new("sleep 100");
    for round in 0..12 {
        let mut child = bundle.command(&["create", "ID"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Another moment in each round is what is tried.
        std::thread::sleep(Duration::from_micros(700 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        bundle.ok(&["delete", "--force", "ID"]);
        bundle.clean();
    }
}

#[test]
fn the_first_process_ends_while_execs_start() {
    let bundle = Bundle::new("sleep 0.15");
    for _ in 0..5 {
        bundle.ok(&["run", "--detach", "ID"]);
        let mut codes = Vec::new();
        let begun = Instant::now();
        loop {
            let exec: &[&str] = &["exec", "ID", "/bin/true"];
            let execs = at_once(&bundle, &[exec, exec, exec]);
            codes.extend(execs.iter().map(|call| call.code));
            if execs.iter().all(|call| call.code != 0) {
                // Either there was nothing to join any more, or the program ended with the container.
                assert!(execs.iter().all(|call| call.code == 137 || !call.stderr.is_empty()), "{execs:?}");
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{codes:?}");
        }
        bundle.reap();
        until("stopped", || bundle.state()["status"] == "stopped");
        bundle.ok(&["delete", "ID"]);
        bundle.clean();
    }
}

/// Programs that end at once, 20 at a time: each exit code is the program's own, and told to the one who asked.
#[test]
fn execs_that_end_at_once() {
    let many = std::env::var("BRIG_TEST_EXECS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let bundle = Bundle::new("sleep 1000");
    bundle.ok(&["run", "--detach", "ID"]);
    let pid = bundle.pid();
    let codes: Vec<String> = (0..20).map(|code| format!("exit {code}")).collect();
    for _ in 0..many / 20 {
        let calls: Vec<Vec<&str>> = codes.iter().map(|code| vec!["exec", "ID", "/bin/sh", "-c", code]).collect();
        let calls: Vec<&[&str]> = calls.iter().map(Vec::as_slice).collect();
        for (code, called) in (0..).zip(at_once(&bundle, &calls)) {
            assert_eq!(called.code, code, "{called:?}");
        }
    }
    assert_eq!(bundle.ok(&["ps", "--format", "json", "ID"]).trim(), format!("[{pid}]"));
    bundle.ok(&["delete", "--force", "ID"]);
    bundle.reap_init(pid);
    bundle.clean();
}

/// Nothing grows: descriptors and memory are the runtime's own and end with each call; what could grow is in the kernel.
#[test]
fn many_in_a_row() {
    let many = std::env::var("BRIG_TEST_CONTAINERS").ok().and_then(|text| text.parse().ok()).unwrap_or(50);
    let mut bundle = Bundle::new("");
    bundle.change(|spec| spec["process"]["args"] = json!(["/bin/true"]));
    let one = |bundle: &Bundle| {
        let pid = create(bundle);
        bundle.ok(&["start", "ID"]);
        assert_eq!(bundle.reap_init(pid), 0);
        bundle.ok(&["delete", "ID"]);
    };
    one(&bundle);
    let groups = || {
        let table = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
        let memory =
            table.lines().find_map(|line| line.strip_prefix("memory\t")?.split('\t').nth(1)?.parse::<i64>().ok());
        memory.unwrap_or(0)
    };
    let before = groups();
    for _ in 0..many {
        one(&bundle);
    }
    bundle.clean();
    // Dying groups may stay for what they have charged; they must not be one for each container.
    until("as few cgroups as before", || groups() < before + 5 + i64::from(many) / 4);
}
