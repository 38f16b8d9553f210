//! A container's life: created, started, looked at, paused, stopped, killed, restarted, renamed, removed.

use brig_tests::{TestHost, eventually};
use std::time::{Duration, Instant};

#[test]
fn the_readmes_first_command_needs_no_image() {
    let host = TestHost::new();
    let output = host.brig(&["run", "--rm", "--rootfs", "/", "echo", "hello"]);
    assert_eq!(output.ok(), "hello");
    assert_eq!(output.stderr, "");
    assert_eq!(host.brig(&["ps", "-aq"]).ok(), "");
}

#[test]
fn run_gives_output_and_exit_code() {
    let host = TestHost::new();
    host.load_busybox();
    let output = host.brig(&["run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (7, "out\n", "err\n"));
    let output = host.brig_run(&["run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo end"]).input("a\nb\n").output();
    assert_eq!(output.ok(), "a\nb\nend");
    assert_eq!(
        host.brig(&["run", "--rm", "busybox", "sh", "-c", "kill -9 $$; exit 6"]).code,
        6,
        "pid 1 is immune inside"
    );
    assert_eq!(host.brig(&["ps", "-aq"]).ok(), "");
}

#[test]
fn from_create_to_rm() {
    let host = TestHost::new();
    host.load_busybox();
    let id = host.brig(&["create", "--name", "box", "busybox", "sleep", "1000"]).ok();
    assert_eq!(id.len(), 64, "{id}");
    assert_eq!(host.field("box", "{{.State.Status}}"), "created");
    assert_eq!(host.brig(&["ps", "-q"]).ok(), "");
    assert_eq!(host.brig(&["ps", "-aq", "--no-trunc"]).ok(), id);
    assert_eq!(host.brig(&["start", "box"]).ok(), "box");
    let line = host.brig(&["ps", "--format", "{{.ID}} {{.Image}} {{.Command}} {{.Names}}"]).ok();
    assert_eq!(line, format!("{} busybox \"sleep 1000\" box", &id[..12]));
    assert!(host.brig(&["ps", "--format", "{{.Status}}"]).ok().starts_with("Up "), "{line}");
    assert_eq!(host.brig(&["rename", "box", "other"]).ok(), "");
    assert_eq!(host.field("other", "{{.Name}}"), "/other");
    let refused = host.brig(&["rm", "other"]).fails(1);
    assert!(refused.contains("other") || refused.contains(&id[..12]), "{refused}");
    assert!(refused.contains("running") && refused.contains("force"), "{refused}");
    assert_eq!(host.brig(&["kill", "other"]).ok(), "other");
    host.wait_for_state("other", "exited");
    assert_eq!(host.field("other", "{{.State.ExitCode}}"), "137");
    assert_eq!(host.brig(&["wait", "other"]).ok(), "137");
    assert_eq!(host.brig(&["rm", "other"]).ok(), "other");
    let gone = host.brig(&["inspect", "other"]).fails(1);
    assert!(gone.contains("No such") && gone.contains("other"), "{gone}");
}

#[test]
fn a_stopped_container_starts_again_with_its_files() {
    let host = TestHost::new();
    host.load_busybox();
    let script = "trap 'exit 3' TERM; echo x >> /count; wc -l < /count; while :; do sleep 0.02; done";
    host.brig(&["run", "-d", "--name", "box", "busybox", "sh", "-c", script]).ok();
    eventually("it counted", || (host.brig(&["logs", "box"]).ok() == "1").then_some(()));
    host.brig(&["stop", "box"]).ok();
    assert_eq!(host.field("box", "{{.State.ExitCode}} {{.State.Running}}"), "3 false");
    host.brig(&["start", "box"]).ok();
    eventually("it counted on", || (host.brig(&["logs", "box"]).ok() == "1\n2").then_some(()));
    host.brig(&["restart", "-t", "5", "box"]).ok();
    eventually("it counted on", || (host.brig(&["logs", "box"]).ok() == "1\n2\n3").then_some(()));
    assert_eq!(host.brig(&["logs", "--tail", "1", "box"]).ok(), "3");
}

#[test]
fn stop_kills_what_does_not_listen_and_gives_its_signal() {
    let host = TestHost::new();
    host.load_busybox();
    host.brig(&["run", "-d", "--name", "deaf", "busybox", "sh", "-c", "trap '' TERM; while :; do sleep 0.02; done"])
        .ok();
    let begun = Instant::now();
    host.brig(&["stop", "-t", "1", "deaf"]).ok();
    assert!(begun.elapsed() >= Duration::from_secs(1) && begun.elapsed() < Duration::from_secs(8));
    assert_eq!(host.field("deaf", "{{.State.ExitCode}}"), "137");
    let script = "trap 'exit 11' USR1; while :; do sleep 0.02; done";
    host.brig(&["run", "-d", "--name", "usr", "--stop-signal", "SIGUSR1", "busybox", "sh", "-c", script]).ok();
    eventually("the trap is set", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid("usr"))).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?.trim().to_owned();
        (u64::from_str_radix(&caught, 16).ok()? & (1 << 9) != 0).then_some(())
    });
    host.brig(&["stop", "usr"]).ok();
    assert_eq!(host.field("usr", "{{.State.ExitCode}}"), "11");
}

#[test]
fn pause_freezes_and_unpause_goes_on() {
    let host = TestHost::new();
    host.load_busybox();
    let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";
    host.brig(&["run", "-d", "--name", "box", "busybox", "sh", "-c", script]).ok();
    host.brig(&["pause", "box"]).ok();
    assert_eq!(host.field("box", "{{.State.Status}} {{.State.Paused}}"), "paused true");
    let before = host.brig(&["logs", "--tail", "1", "box"]).ok();
    // Time in which it would print many times; that nothing happens has no event.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(host.brig(&["logs", "--tail", "1", "box"]).ok(), before);
    let refused = host.brig(&["exec", "box", "true"]).fails(1);
    assert!(refused.contains("paused"), "{refused}");
    host.brig(&["unpause", "box"]).ok();
    eventually("it goes on", || (host.brig(&["logs", "--tail", "1", "box"]).ok() != before).then_some(()));
    host.brig(&["pause", "box"]).ok();
    host.brig(&["rm", "-f", "box"]).ok();
}

#[test]
fn restart_policies() {
    let host = TestHost::new();
    host.load_busybox();
    host.brig(&[
        "run",
        "-d",
        "--name",
        "twice",
        "--restart",
        "on-failure:2",
        "busybox",
        "sh",
        "-c",
        "echo run; exit 4",
    ])
    .ok();
    eventually("it gave up after two more tries", || {
        (host.field("twice", "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}") == "exited 2 4").then_some(())
    });
    assert_eq!(host.brig(&["logs", "twice"]).ok(), "run\nrun\nrun");
    host.brig(&["run", "-d", "--name", "always", "--restart", "always", "busybox", "sh", "-c", "sleep 0.1; exit 0"])
        .ok();
    eventually("it is started again", || {
        host.field("always", "{{.RestartCount}}").parse::<u32>().is_ok_and(|n| n >= 2).then_some(())
    });
    host.brig(&["stop", "-t", "1", "always"]).ok();
    assert_eq!(host.field("always", "{{.State.Running}}"), "false");
}

#[test]
fn logs_are_whole_and_can_be_cut_and_followed() {
    let host = TestHost::new();
    host.load_busybox();
    let script = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; done; echo err >&2";
    host.brig(&["run", "--name", "box", "busybox", "sh", "-c", script]).ok();
    let logs = host.brig(&["logs", "box"]);
    assert_eq!(logs.stdout.lines().count(), 2000);
    assert_eq!((logs.stdout.lines().next(), logs.stdout.lines().last()), (Some("line 1"), Some("line 2000")));
    assert_eq!(logs.stderr, "err\n");
    assert_eq!(host.brig(&["logs", "-n", "2", "box"]).stdout, "line 2000\n");
    let stamped = host.brig(&["logs", "-t", "-n", "1", "box"]).stderr;
    assert!(stamped.starts_with("20") && stamped.ends_with("Z err\n"), "{stamped}");
    let script = "echo one; sleep 0.5; echo two";
    host.brig(&["run", "-d", "--name", "slow", "busybox", "sh", "-c", script]).ok();
    assert_eq!(host.brig(&["logs", "-f", "slow"]).ok(), "one\ntwo");
}

#[test]
fn a_log_is_bounded() {
    let host = TestHost::new();
    host.load_busybox();
    let options = ["--log-opt", "max-size=64k", "--log-opt", "max-file=2"];
    let mut arguments = vec!["run", "--name", "loud"];
    arguments.extend(options);
    arguments.extend(["busybox", "sh", "-c", "i=0; while [ $i -lt 8000 ]; do i=$((i+1)); echo line $i; done"]);
    host.brig(&arguments).ok();
    let path = host.field("loud", "{{.LogPath}}");
    let folder = std::path::Path::new(&path).parent().unwrap();
    let files = std::fs::read_dir(folder).unwrap().flatten();
    let logs: Vec<_> = files.filter(|f| f.file_name().to_string_lossy().contains("json.log")).collect();
    assert_eq!(logs.len(), 2, "{logs:?}");
    assert!(logs.iter().all(|f| f.metadata().unwrap().len() <= 80 * 1024));
    assert_eq!(host.brig(&["logs", "-n", "1", "loud"]).ok(), "line 8000");
}

#[test]
fn twenty_containers_at_once() {
    let host = TestHost::new();
    host.load_busybox();
    let running: Vec<_> = (0..20)
        .map(|n| {
            let script = format!("echo {n}; exit {n}");
            host.brig_run(&["run", "--name", &format!("box{n}"), "busybox", "sh", "-c", &script]).start()
        })
        .collect();
    for (n, run) in running.into_iter().enumerate() {
        let output = run.finish();
        assert_eq!((output.code, output.stdout), (i32::try_from(n).unwrap(), format!("{n}\n")), "{}", output.stderr);
    }
    let running: Vec<_> = (0..20)
        .map(|n| host.brig_run(&["run", "-d", "--name", &format!("d{n}"), "busybox", "sleep", "1000"]).start())
        .collect();
    running.into_iter().for_each(|run| drop(run.finish().ok()));
    assert_eq!(host.brig(&["ps", "-q"]).ok().lines().count(), 20);
    let addresses: std::collections::BTreeSet<String> =
        (0..20).map(|n| host.field(&format!("d{n}"), "{{.NetworkSettings.IPAddress}}")).collect();
    assert_eq!(addresses.len(), 20, "{addresses:?}");
}

#[test]
fn limits_are_in_force() {
    let host = TestHost::new();
    host.load_busybox();
    let eat = "dd if=/dev/zero of=/dev/shm/x bs=1M count=60; tail /dev/zero";
    let output = host.brig(&["run", "--name", "fat", "-m", "32m", "--shm-size", "128m", "busybox", "sh", "-c", eat]);
    assert_eq!(output.code, 137, "{output}");
    assert_eq!(host.field("fat", "{{.State.OOMKilled}} {{.HostConfig.Memory}}"), "true 33554432");
    let output = host.brig(&[
        "run",
        "--rm",
        "--pids-limit",
        "10",
        "busybox",
        "sh",
        "-c",
        "for i in $(seq 30); do sleep 2 & done; wait",
    ]);
    assert!(output.stderr.contains("can't fork"), "{output}");
    let output =
        host.brig(&["run", "--rm", "--ulimit", "nofile=77:99", "busybox", "sh", "-c", "ulimit -n; ulimit -Hn"]);
    assert_eq!(output.ok(), "77\n99");
}

#[test]
fn inspect_knows_what_was_asked() {
    let host = TestHost::new();
    host.load_busybox();
    host.brig(&[
        "create",
        "--name",
        "box",
        "-e",
        "A=1",
        "-l",
        "owner=me",
        "-w",
        "/tmp",
        "-u",
        "1000:1000",
        "-h",
        "name",
        "--entrypoint",
        "sleep",
        "-m",
        "64m",
        "--cpus",
        "0.5",
        "--restart",
        "unless-stopped",
        "busybox",
        "5",
    ])
    .ok();
    let config = host.inspect("box");
    assert_eq!(config["Config"]["Env"][0], "A=1");
    assert_eq!(config["Config"]["Labels"]["owner"], "me");
    assert_eq!(config["Config"]["WorkingDir"], "/tmp");
    assert_eq!(config["Config"]["User"], "1000:1000");
    assert_eq!(config["Config"]["Hostname"], "name");
    assert_eq!(config["Config"]["Entrypoint"], serde_json::json!(["sleep"]));
    assert_eq!(config["Config"]["Cmd"], serde_json::json!(["5"]));
    assert_eq!(config["HostConfig"]["Memory"], 64 << 20);
    assert_eq!(config["HostConfig"]["NanoCpus"], 500_000_000);
    assert_eq!(config["HostConfig"]["RestartPolicy"]["Name"], "unless-stopped");
    assert_eq!(config["Path"], "sleep");
    assert_eq!(host.brig(&["ps", "-a", "--filter", "label=owner=me", "--format", "{{.Names}}"]).ok(), "box");
    assert_eq!(host.brig(&["ps", "-a", "--filter", "label=owner=you", "-q"]).ok(), "");
}

#[test]
fn users_groups_folders_and_variables_are_as_asked() {
    let host = TestHost::new();
    host.load_busybox();
    let run = |arguments: &[&str], script: &str| {
        let mut all = vec!["run", "--rm"];
        all.extend(arguments);
        all.extend(["busybox", "sh", "-c", script]);
        host.brig(&all).ok()
    };
    assert_eq!(run(&["-u", "user"], "id -u; id -g; id -G; pwd; echo $HOME"), "1000\n1000\n1000 2000\n/\n/home/user");
    assert_eq!(run(&["-u", "7:8", "--group-add", "2000"], "id -u; id -g; id -G"), "7\n8\n8 2000");
    assert_eq!(run(&["-w", "/made/here"], "pwd"), "/made/here");
    assert_eq!(run(&["-e", "A=b c", "-e", "PATH=/bin"], "echo \"$A $PATH\""), "b c /bin");
    assert_eq!(run(&["-h", "ship"], "hostname; cat /etc/hostname; grep -c ship /etc/hosts"), "ship\nship\n1");
    assert_eq!(run(&["--read-only", "--tmpfs", "/tmp"], "touch /tmp/x && ! touch /x 2>/dev/null && echo fine"), "fine");
    assert_eq!(run(&["--init"], "ps -o comm,pid | grep -c sleep; cat /proc/1/comm | head -c 4; echo; echo $$ | grep -vx 1 >/dev/null && echo not one").lines().last(), Some("not one"));
}

#[test]
fn attach_sees_output_and_gives_input() {
    let host = TestHost::new();
    host.load_busybox();
    host.brig(&["create", "-i", "--name", "cat", "busybox", "cat"]).ok();
    let output = host.brig_run(&["start", "-ai", "cat"]).input("through\n").output();
    assert_eq!(output.ok(), "through");
    let mut terminal = host.brig_terminal(&["run", "-it", "--name", "tty", "busybox", "sh"]);
    terminal.expect("/ # ");
    terminal.type_in("tty; stty size\n");
    terminal.expect("/dev/pts/0");
    terminal.expect("24 80");
    terminal.resize(40, 100);
    eventually("the new size arrives", || {
        terminal.type_in("stty size\n");
        terminal.appears("40 100", Duration::from_millis(100))
    });
    terminal.type_in("\x10\x11");
    assert_eq!(terminal.finish(), 0, "detached");
    assert!(terminal.is_cooked(), "the terminal is as it was");
    assert_eq!(host.field("tty", "{{.State.Running}}"), "true");
    let mut terminal = host.brig_terminal(&["attach", "tty"]);
    terminal.type_in("echo again$((40+2))\n");
    terminal.expect("again42");
    terminal.type_in("exit 9\n");
    assert_eq!(terminal.finish(), 9);
}

#[test]
fn control_c_ends_the_container() {
    let host = TestHost::new();
    host.load_busybox();
    let mut terminal = host.brig_terminal(&[
        "run",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.02; done",
    ]);
    terminal.expect("ready");
    terminal.type_in("\x03");
    terminal.expect("caught");
    assert_eq!(terminal.finish(), 5);
}

#[test]
fn containers_can_join_each_other() {
    let host = TestHost::new();
    host.load_busybox();
    host.brig(&["run", "-d", "--name", "one", "busybox", "sh", "-c", "echo web > /index.html; httpd -f -p 80 -h /"])
        .ok();
    let fetch =
        "i=0; until wget -qO- http://127.0.0.1/index.html; do i=$((i+1)); [ $i -lt 100 ] || exit 1; sleep 0.05; done";
    assert_eq!(host.brig(&["run", "--rm", "--network", "container:one", "busybox", "sh", "-c", fetch]).ok(), "web");
    let seen = host.brig(&["run", "--rm", "--pid", "container:one", "busybox", "ps"]).ok();
    assert!(seen.contains("httpd"), "{seen}");
}
