//! Single flags and variables of the OCI command line. Owns: what a caller sees of each. Must not: leave anything behind.

use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Output, Stdio};

use brig_sys::fdpass::Channel;
use serde_json::{Value, json};

use crate::bench::{Bench, reap};
use crate::common::{cgroups_of, copy_program};

/// Calls brig-rt out of a shell that sets things up first; `$0` is the program with its `--root`.
fn from_shell(bench: &Bench, script: &str) -> Output {
    let program = format!("{} --root {}", env!("CARGO_BIN_EXE_brig-rt"), bench.path("state").display());
    let script = script.replace("brig-rt", &program);
    Command::new("/bin/sh")
        .args(["-c", &script])
        .current_dir(bench.plan.dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn descriptors_are_kept() {
    let bench = Bench::new("cat <&4; cat <&3; ls /proc/self/fd | wc -w");
    for name in ["three", "four"] {
        std::fs::write(bench.path(name), format!("{name}\n")).unwrap();
    }
    let output = from_shell(&bench, "exec 3<three 4<four 5<four; exec brig-rt run --preserve-fds 2 box");
    // Its streams, the two and the directory that is listed: not the third.
    assert_eq!(stdout(&output), "four\nthree\n6\n");
    bench.clean();
}

#[test]
fn sockets_of_the_service_manager_come_first() {
    let bench = Bench::new("echo $LISTEN_FDS $LISTEN_PID; cat <&3; cat <&4");
    for name in ["socket", "kept"] {
        std::fs::write(bench.path(name), format!("{name}\n")).unwrap();
    }
    let script = "exec 3<socket 4<kept; export LISTEN_FDS=1 LISTEN_PID=$$; exec brig-rt run --preserve-fds 1 box";
    assert_eq!(stdout(&from_shell(&bench, script)), "1 1\nsocket\nkept\n");
    // Meant for somebody else.
    let script = "exec 3<kept 4<kept; export LISTEN_FDS=1 LISTEN_PID=1; exec brig-rt run --preserve-fds 2 box";
    assert_eq!(stdout(&from_shell(&bench, script)), "\nkept\nkept\n");
    bench.clean();
}

#[test]
fn an_exec_keeps_descriptors_too() {
    let bench = Bench::new("sleep 100");
    bench.command(&["run", "-d", "box"]).stdout(Stdio::null()).status().unwrap();
    std::fs::write(bench.path("three"), "three\n").unwrap();
    let output = from_shell(&bench, "exec 3<three; exec brig-rt exec --preserve-fds 1 box sh -c 'cat <&3'");
    assert_eq!(stdout(&output), "three\n");
    bench.ok(&["delete", "--force", "box"]);
    bench.clean();
}

#[test]
fn a_pidfd_goes_to_its_socket() {
    let bench = Bench::new("sleep 100");
    let listener = UnixListener::bind(bench.path("pidfd")).unwrap();
    let receive = || {
        let (socket, _) = listener.accept().unwrap();
        Channel::from_fd(socket.into()).receive().unwrap().fds.pop().unwrap()
    };
    bench.command(&["run", "-d", "--pidfd-socket", "pidfd", "box"]).stdout(Stdio::null()).status().unwrap();
    let init = receive();
    let pid = bench.state()["pid"].as_i64().unwrap() as i32;
    let exec = ["exec", "-d", "--pidfd-socket", "pidfd", "--pid-file", "exec.pid", "box", "sleep", "100"];
    bench.command(&exec).stdout(Stdio::null()).status().unwrap();
    let other = receive();
    brig_sys::pidfd::send_signal(other.as_fd(), 9).unwrap();
    assert_eq!(reap(std::fs::read_to_string(bench.path("exec.pid")).unwrap().parse().unwrap()), 137);
    brig_sys::pidfd::send_signal(init.as_fd(), 9).unwrap();
    assert_eq!(reap(pid), 137);
    bench.ok(&["delete", "box"]);
    bench.clean();
}

/// Not a test: the program of the container in the next one, which has no other that can talk to such a socket.
#[test]
#[ignore = "run inside of a container by another test"]
fn says_that_it_is_ready() {
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(std::env::var("NOTIFY_SOCKET").unwrap()).unwrap();
    socket.send(b"STATUS=nearly\nMAINPID=1").unwrap();
    socket.send(b"STATUS=there\nREADY=1\nMAINPID=1").unwrap();
    // It is killed meanwhile.
    std::thread::sleep(std::time::Duration::from_secs(100));
}

#[test]
fn readiness_reaches_the_service_manager() {
    let mut bench = Bench::new("");
    copy_program(&std::env::current_exe().unwrap(), &bench.path("lower/bin/ready"));
    bench.plan.spec["process"]["args"] =
        json!(["/bin/ready", "--include-ignored", "--exact", "flags::says_that_it_is_ready"]);
    bench.write();
    let manager = UnixDatagram::bind(bench.path("manager")).unwrap();
    for verbs in [&["run", "--detach", "box"][..], &["create", "box"]] {
        let spawn = |verbs: &[&str]| {
            let mut command = bench.command(verbs);
            command.env("NOTIFY_SOCKET", bench.path("manager")).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let mut called = spawn(verbs);
        if verbs[0] == "create" {
            assert!(called.wait().unwrap().success());
            called = spawn(&["start", "box"]);
        }
        let mut message = [0u8; 512];
        let mut next = || {
            let count = manager.recv(&mut message).unwrap();
            String::from_utf8(message[..count].to_vec()).unwrap()
        };
        // Neither the status nor whom the container calls its main process.
        assert_eq!(next(), "READY=1\n");
        let pid = bench.state()["pid"].as_i64().unwrap() as i32;
        assert_eq!(next(), format!("MAINPID={pid}\n"));
        // It waits until the manager has read everything.
        let barrier = Channel::from_fd(manager.as_fd().try_clone_to_owned().unwrap()).receive().unwrap();
        assert_eq!((barrier.bytes.as_slice(), barrier.fds.len()), (b"BARRIER=1".as_slice(), 1));
        assert!(called.try_wait().unwrap().is_none());
        drop(barrier);
        assert!(called.wait().unwrap().success());
        bench.ok(&["kill", "box", "KILL"]);
        reap(pid);
        bench.ok(&["delete", "--force", "box"]);
    }
    bench.clean();
}

#[test]
fn limits_are_changed_and_remembered() {
    let bench = Bench::new("sleep 100");
    bench.command(&["run", "-d", "box"]).stdout(Stdio::null()).status().unwrap();
    let limit = || {
        let mut found = cgroups_of(&bench.cgroup, "box").into_iter();
        let text = found.find_map(|directory| std::fs::read_to_string(directory.join("pids.max")).ok()).unwrap();
        text.trim().to_owned()
    };
    let remembered = || -> Value {
        let text = std::fs::read(bench.path("state/box/config.json")).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()["linux"]["resources"].take()
    };
    bench.ok(&["update", "--pids-limit", "77", "--memory", "64M", "box"]);
    assert_eq!((limit().as_str(), &remembered()["pids"]["limit"]), ("77", &json!(77)));
    assert_eq!(remembered()["memory"]["limit"], 64 << 20);
    std::fs::write(bench.path("limits.json"), json!({"pids": {"limit": 78}}).to_string()).unwrap();
    bench.ok(&["update", "--resources", "limits.json", "box"]);
    assert_eq!((limit().as_str(), &remembered()["memory"]["limit"]), ("78", &json!(64 << 20)));
    let output = from_shell(&bench, "echo '{\"pids\":{\"limit\":79}}' | brig-rt update -r - box");
    assert_eq!((stdout(&output), limit().as_str()), ("", "79"));
    // What is refused changes nothing.
    bench.refused(&["update", "--pids-limit", "80", "--cpuset-cpus", "999", "box"], "cpus");
    assert_eq!((limit().as_str(), &remembered()["pids"]["limit"]), ("79", &json!(79)));
    bench.refused(&["update", "--memory", "much", "box"], "invalid value for memory");
    bench.refused(&["update", "--resources", "/nope", "box"], "/nope");
    bench.ok(&["kill", "box", "KILL"]);
    bench.wait_for("stopped");
    bench.refused(&["update", "--pids-limit", "5", "box"], "container not running");
    bench.ok(&["delete", "--force", "box"]);
    bench.clean();
}

#[test]
fn usage_is_told() {
    let bench = Bench::new("sleep 100");
    bench.command(&["run", "-d", "box"]).stdout(Stdio::null()).status().unwrap();
    let line: Value = serde_json::from_str(&bench.ok(&["events", "--stats", "box"])).unwrap();
    assert_eq!((line["type"].as_str(), line["id"].as_str()), (Some("stats"), Some("box")));
    assert!(line["data"]["pids"]["current"].as_u64() >= Some(1), "{line}");
    // A line now and then, until the container ends.
    let mut events = bench.command(&["events", "--interval", "10ms", "box"]);
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(events.stdout.take().unwrap()));
    for _ in 0..2 {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["type"], "stats");
    }
    bench.ok(&["kill", "box", "KILL"]);
    assert!(events.wait().unwrap().success());
    bench.refused(&["events", "--interval", "0s", "box"], "interval must be greater than 0");
    bench.wait_for("stopped");
    bench.refused(&["events", "--stats", "box"], "container with id box is not running");
    bench.ok(&["delete", "box"]);
    bench.clean();
}

/// T-RT-24.
#[test]
fn hostile_ids_go_nowhere() {
    let bench = Bench::new("true");
    std::fs::create_dir_all(bench.path("state")).unwrap();
    std::fs::create_dir(bench.path("victim")).unwrap();
    std::fs::write(bench.path("victim/state.json"), "{}").unwrap();
    let long = "a".repeat(1025);
    for id in ["../victim", "..", ".", "", "a/b", "/etc", "a\nb", "\u{e4}", "a b", &long] {
        let verbs: [&[&str]; 12] = [
            &["create"],
            &["run"],
            &["start"],
            &["state"],
            &["kill"],
            &["delete", "--force"],
            &["exec"],
            &["ps"],
            &["pause"],
            &["resume"],
            &["update", "--pids-limit", "1"],
            &["events"],
        ];
        for verb in verbs {
            let mut arguments = verb.to_vec();
            arguments.push(id);
            arguments.extend((verb[0] == "exec").then_some("true"));
            let output = bench.run(&arguments);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{arguments:?}");
            assert!(said.contains("invalid container ID format") || said.contains("id cannot be empty"), "{said}");
            assert!(said.len() < 500, "{said}");
        }
    }
    assert!(bench.path("victim/state.json").exists());
    // As long as it may be; the file system has its own opinion.
    assert!(!bench.run(&["create", &long[1..]]).status.success());
    bench.clean();
}
