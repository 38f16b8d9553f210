//! T-ORD: the order of the steps between clone and execve, as the kernel saw it. Each step that once stood in a wrong place in
//! some runtime is asked about by name. Needs strace.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Command;

use serde_json::json;

use crate::bundle::{Bundle, output, runtime, skip};

const CALLS: &str = "trace=mount,move_mount,pivot_root,umount2,prctl,seccomp,setgroups,setgid,setresgid,setuid,setresuid,capset,\
                     close_range,execve,execveat,open,openat,openat2,open_tree,fsopen,socket,setns,unshare,dup,dup2,dup3,fcntl";

/// The calls of one process: its lines of the trace without the process id.
struct Trace(Vec<String>);

impl Trace {
    /// Those of the process that became the program, and whether anybody had joined a namespace while it could be looked into.
    fn of_program(text: &str, program: &str) -> (Trace, Vec<String>) {
        let started = format!("execve({program:?}, ");
        let line = text.lines().find(|line| line.contains(&started));
        let pid =
            line.and_then(|line| line.split(' ').next()).unwrap_or_else(|| panic!("{program} never ran:\n{text}"));
        let own = |line: &&str| line.split(' ').next() == Some(pid) && !line.contains(" resumed>");
        let mut calls: Vec<String> =
            text.lines().filter(own).map(|line| line.split_once(' ').unwrap().1.trim().to_owned()).collect();
        let end = calls.iter().position(|call| call.starts_with(&started)).unwrap();
        calls.truncate(end + 1);
        (Trace(calls), text.lines().map(str::to_owned).collect())
    }

    fn last(&self, call: &str) -> usize {
        let found = self.0.iter().rposition(|line| line.starts_with(call));
        found.unwrap_or_else(|| panic!("no {call}:\n{}", self.0.join("\n")))
    }

    fn first(&self, call: &str) -> usize {
        let found = self.0.iter().position(|line| line.starts_with(call));
        found.unwrap_or_else(|| panic!("no {call}:\n{}", self.0.join("\n")))
    }

    fn has(&self, call: &str) -> bool {
        self.0.iter().any(|line| line.starts_with(call))
    }

    /// Asserts that each step comes before the next one.
    #[track_caller]
    fn ordered(&self, steps: &[(&str, usize)]) {
        for pair in steps.windows(2) {
            let [(before, at), (after, then)] = pair else { unreachable!() };
            assert!(at < then, "{before} must come before {after}:\n{}", self.0.join("\n"));
        }
    }
}

fn strace(bundle: &Bundle, arguments: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-s", "200", "-e", CALLS, "-e", "signal=none", "-o"]).arg(bundle.path("trace"));
    command.arg(runtime()).arg("--root").arg(bundle.path("state")).args(arguments).current_dir(bundle.path(""));
    command.stdin(std::process::Stdio::null());
    command
}

/// One of the eight; what strace saw.
fn trace(bundle: &mut Bundle, exec: bool, terminal: bool) -> String {
    let listener = UnixListener::bind(bundle.path("console")).unwrap();
    let console: &[&str] = if terminal { &["--console-socket", "console"] } else { &[] };
    let id = bundle.id.clone();
    if exec {
        let process = bundle.spec["process"].clone();
        fs::write(bundle.path("process.json"), process.to_string()).unwrap();
        bundle.change(|spec| {
            spec["process"]["args"] = json!(["/bin/sleep", "100"]);
            spec["process"]["terminal"] = json!(false);
        });
        bundle.ok(&["run", "--detach", "ID"]);
        let pid = bundle.pid();
        let detach: &[&str] = if terminal { &["--detach", "--pid-file", "pid"] } else { &[] };
        let arguments = [&["exec", "--process", "process.json"], console, detach, &[&id]].concat();
        output(strace(bundle, &arguments));
        if terminal {
            // Whoever detaches it has to reap it, or the container's namespace does not end.
            bundle.reap_init(fs::read_to_string(bundle.path("pid")).unwrap().parse().unwrap());
        }
        bundle.ok(&["delete", "--force", "ID"]);
        bundle.reap_init(pid);
    } else if terminal {
        let mut child = strace(bundle, &[&["create"], console, &[&id]].concat()).spawn().unwrap();
        let (master, _) = listener.accept().unwrap();
        crate::races::until("created", || bundle.call(&["start", "ID"]).code == 0);
        assert!(child.wait().unwrap().success());
        drop(master);
        bundle.ok(&["delete", "--force", "ID"]);
    } else {
        output(strace(bundle, &["run", &id]));
    }
    fs::remove_file(bundle.path("console")).unwrap();
    drop(listener);
    bundle.clean();
    fs::read_to_string(bundle.path("trace")).unwrap()
}

fn check(no_new_privileges: bool, terminal: bool, exec: bool) {
    let mut bundle = Bundle::new("");
    bundle.change(|spec| {
        spec["process"]["args"] = json!(["/bin/true", "of", "the", "test"]);
        spec["process"]["terminal"] = json!(terminal);
        spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [7]});
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]
        });
    });
    let text = trace(&mut bundle, exec, terminal);
    let (trace, all) = Trace::of_program(&text, "/bin/true");
    let credentials = [
        ("setgroups", trace.last("setgroups(")),
        ("setgid", trace.last("setresgid(1000").max(trace.last("setresgid("))),
        ("setuid", trace.last("setresuid(")),
        ("capset", trace.last("capset(")),
        ("execve", trace.last("execve(")),
    ];
    trace.ordered(&credentials);
    if exec {
        // The one that joins is not to be looked into before it does (CVE-2016-9962).
        let at = |call: &str| {
            all.iter().position(|line| line.contains(call)).unwrap_or_else(|| panic!("no {call}:\n{text}"))
        };
        assert!(at("prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE") < at(" setns("), "{text}");
    } else {
        let dumpable = trace.first("prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE");
        let pivot = trace.last("pivot_root(");
        trace.ordered(&[("not dumpable", dumpable), ("the first mount", trace.first("move_mount("))]);
        trace.ordered(&[
            ("pivot_root", pivot),
            ("umount of the old root", trace.last("umount2(")),
            ("setgroups", trace.last("setgroups(")),
        ]);
        assert!(trace.last("move_mount(") < pivot, "a mount after the root was left:\n{text}");
    }
    let filter = trace.last("seccomp(SECCOMP_SET_MODE_FILTER");
    let close = trace.last("close_range(");
    if no_new_privileges {
        let promise = trace.last("prctl(PR_SET_NO_NEW_PRIVS, 1");
        trace.ordered(&[("no_new_privs", promise), ("setgroups", credentials[0].1)]);
        trace.ordered(&[("capset", credentials[3].1), ("the filter", filter), ("execve", credentials[4].1)]);
    } else {
        assert!(!trace.has("prctl(PR_SET_NO_NEW_PRIVS"), "{text}");
        trace.ordered(&[("the filter", filter), ("setgroups", credentials[0].1)]);
    }
    // Really closed, not only marked: execve itself could be led through what is open. And nothing is opened after that.
    assert!(trace.0[close].contains("0)"), "{}", trace.0[close]);
    for call in &trace.0[close + 1..credentials[4].1] {
        assert!(call.starts_with("seccomp(") || call.starts_with("prctl("), "after the last close: {call}\n{text}");
    }
}

#[test]
fn steps_are_in_order() {
    if !std::path::Path::new("/usr/bin/strace").exists() {
        return skip("hostile::order::steps_are_in_order", "strace is not installed");
    }
    for number in 0..8 {
        let (no_new_privileges, terminal, exec) = (number & 1 != 0, number & 2 != 0, number & 4 != 0);
        eprintln!("no_new_privileges {no_new_privileges}, terminal {terminal}, exec {exec}");
        check(no_new_privileges, terminal, exec);
    }
}
