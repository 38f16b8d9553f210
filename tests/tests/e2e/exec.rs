//! Further processes in a running container, and looking at it from outside: exec, top, stats, update.

use brig_tests::{TestHost, eventually};

fn host_with_box() -> TestHost {
    let host = TestHost::new();
    host.load_busybox();
    host.brig(&["run", "-d", "--name", "box", "-e", "COLOUR=red", "busybox", "sleep", "1000"]).ok();
    host
}

#[test]
fn output_input_and_exit_code() {
    let host = host_with_box();
    let output = host.brig(&["exec", "box", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (7, "out\n", "err\n"));
    let output = host.brig_run(&["exec", "-i", "box", "cat"]).input("through").output();
    assert_eq!(output.ok(), "through");
    let many = host.brig(&["exec", "box", "sh", "-c", "seq 100000"]).ok();
    assert_eq!((many.lines().count(), many.lines().last()), (100_000, Some("100000")));
    let megabyte = vec![b'x'; 1 << 20];
    let counted = host.brig_run(&["exec", "-i", "box", "wc", "-c"]).input(megabyte).output().ok();
    assert_eq!(counted.trim(), (1 << 20).to_string());
    assert_eq!(host.brig(&["exec", "box", "sh", "-c", "kill -9 $$"]).code, 137);
}

#[test]
fn it_runs_as_asked_in_the_containers_world() {
    let host = host_with_box();
    assert_eq!(host.brig(&["exec", "box", "sh", "-c", "echo $COLOUR"]).ok(), "red");
    assert_eq!(host.brig(&["exec", "-e", "COLOUR=blue", "box", "sh", "-c", "echo $COLOUR"]).ok(), "blue");
    assert_eq!(host.brig(&["exec", "-w", "/tmp", "box", "pwd"]).ok(), "/tmp");
    assert_eq!(host.brig(&["exec", "-u", "user", "box", "id", "-G"]).ok(), "1000 2000");
    let init = host.pid("box");
    for name in ["user", "mnt", "pid", "net", "uts", "ipc", "cgroup"] {
        let inside = host.brig(&["exec", "box", "readlink", &format!("/proc/self/ns/{name}")]).ok();
        let of_init = std::fs::read_link(format!("/proc/{init}/ns/{name}")).unwrap().display().to_string();
        assert_eq!(inside, of_init, "{name}");
    }
    assert_eq!(host.brig(&["exec", "box", "grep", "Seccomp:", "/proc/self/status"]).ok(), "Seccomp:\t2");
    let of = |who: &[&str]| {
        let mut arguments = vec!["exec"];
        arguments.extend(who);
        arguments.extend(["box", "grep", "CapEff", "/proc/self/status"]);
        host.brig(&arguments).ok()
    };
    assert_eq!(of(&[]), "CapEff:\t00000000a80425fb");
    assert_eq!(of(&["-u", "user"]), "CapEff:\t0000000000000000");
}

#[test]
fn a_terminal_of_its_own() {
    let host = host_with_box();
    let mut terminal = host.brig_terminal(&["exec", "-it", "box", "sh"]);
    terminal.expect("/ # ");
    terminal.type_in("stty size; tty\n");
    terminal.expect("24 80");
    terminal.expect("/dev/pts/");
    terminal.resize(50, 120);
    eventually("the new size arrives", || {
        terminal.type_in("stty size\n");
        terminal.appears("50 120", std::time::Duration::from_millis(100))
    });
    terminal.type_in("exit 3\n");
    assert_eq!(terminal.finish(), 3);
    assert!(terminal.is_cooked());
}

#[test]
fn detached_and_looked_at_later() {
    let host = host_with_box();
    assert_eq!(host.brig(&["exec", "-d", "box", "sh", "-c", "echo done > /done; sleep 1000"]).ok(), "");
    eventually("it was done", || (host.brig(&["exec", "box", "cat", "/done"]).stdout == "done\n").then_some(()));
    let top = host.brig(&["top", "box"]).ok();
    assert!(top.lines().next().unwrap().contains("PID") && top.matches("sleep 1000").count() >= 2, "{top}");
    host.brig(&["stop", "-t", "0", "box"]).ok();
    let refused = host.brig(&["exec", "box", "true"]).fails(1);
    assert!(refused.contains("is not running"), "{refused}");
}

#[test]
fn commands_that_cannot_be_run() {
    let host = host_with_box();
    // As with Docker, the message comes over the stream of the process that could not be.
    let both = |output: brig_tests::Output, code: i32| {
        assert_eq!(output.code, code, "{output}");
        output.stdout + &output.stderr
    };
    let missing = both(host.brig(&["exec", "box", "nosuch"]), 127);
    assert!(missing.contains("nosuch") && missing.contains("not found"), "{missing}");
    let refused = both(host.brig(&["exec", "box", "/etc/passwd"]), 126);
    assert!(refused.contains("permission denied"), "{refused}");
    let nobody = host.brig(&["exec", "-u", "nosuchuser", "box", "true"]);
    assert!(
        nobody.code == 126 && (nobody.stdout.contains("nosuchuser") || nobody.stderr.contains("nosuchuser")),
        "{nobody}"
    );
}

#[test]
fn many_at_once() {
    let host = host_with_box();
    let running: Vec<_> =
        (0..30).map(|n| host.brig_run(&["exec", "box", "sh", "-c", &format!("echo {n}; exit {n}")]).start()).collect();
    for (n, run) in running.into_iter().enumerate() {
        let output = run.finish();
        assert_eq!((output.code, output.stdout), (i32::try_from(n).unwrap(), format!("{n}\n")), "{}", output.stderr);
    }
}

#[test]
fn stats_and_update() {
    let host = host_with_box();
    let line = host.brig(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}", "box"]).ok();
    assert!(line.starts_with("box 1 ") && line.contains("iB / "), "{line}");
    host.brig(&["update", "-m", "64m", "--memory-swap", "128m", "--pids-limit", "50", "box"]).ok();
    assert_eq!(host.field("box", "{{.HostConfig.Memory}}"), (64 << 20).to_string());
    let line = host.brig(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "box"]).ok();
    assert!(line.ends_with("/ 64MiB"), "{line}");
}
