//! The daemon goes away, by a signal or a kill, and comes back: nothing that runs notices.

use brig_tests::{TestHost, eventually, host, http};
use std::time::Duration;

#[test]
fn containers_outlive_the_daemon() {
    let mut host = TestHost::new();
    host.load_busybox();
    let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done";
    host.brig(&["run", "-d", "--name", "count", "busybox", "sh", "-c", script]).ok();
    host.brig(&["run", "-d", "--name", "seven", "busybox", "sh", "-c", "sleep 1; echo last; exit 7"]).ok();
    let (pid, started) = (host.pid("count"), host.field("count", "{{.State.StartedAt}}"));
    let seven = host.pid("seven");
    host.kill_daemon();
    eventually("it ends without a daemon", || ended(seven));
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "it runs without a daemon");
    host.start_daemon();
    assert_eq!(host.pid("count"), pid);
    assert_eq!(host.field("count", "{{.State.StartedAt}}"), started);
    assert_eq!(
        host.field("seven", "{{.State.Status}} {{.State.ExitCode}}"),
        "exited 7",
        "an end that nobody saw is known"
    );
    assert_eq!(host.brig(&["wait", "seven"]).ok(), "7");
    assert_eq!(host.brig(&["logs", "seven"]).ok(), "last");
    host.brig(&["stop", "-t", "0", "count"]).ok();
    let logs = host.brig(&["logs", "count"]).ok();
    let numbers: Vec<usize> = logs.lines().map(|line| line.parse().unwrap()).collect();
    assert!(
        numbers.len() > 50 && numbers == (1..=numbers.len()).collect::<Vec<_>>(),
        "a gap in {} lines",
        numbers.len()
    );
    assert_eq!(host.field("count", "{{.State.ExitCode}}"), "137");
}

#[test]
fn everything_works_on_after_a_kill() {
    let mut host = TestHost::new();
    host.load_busybox();
    let neighbour = host.neighbour();
    let web = "echo web > /index.html; exec httpd -f -p 80 -h /";
    host.brig(&["run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sh", "-c", web]).ok();
    let get = || http::tcp(&neighbour.netns, "10.99.0.1:8080", "GET", "/index.html", "", &[]).ok().map(|a| a.text());
    eventually("the server answers", get);
    let address = host.field("web", "{{.NetworkSettings.IPAddress}}");
    host.kill_daemon();
    assert_eq!(get().as_deref(), Some("web\n"), "the port works without a daemon");
    host.start_daemon();
    assert_eq!(get().as_deref(), Some("web\n"));
    assert_eq!(host.field("web", "{{.NetworkSettings.IPAddress}}"), address);
    assert_eq!(host.brig(&["exec", "web", "echo", "hi"]).ok(), "hi");
    let other = host.brig(&["run", "--rm", "busybox", "hostname", "-i"]).ok();
    assert_ne!(other, address, "the address is still taken");
    let refused = host.brig(&["run", "--rm", "-p", "8080:80", "busybox", "true"]).fails(125);
    assert!(refused.contains("port is already allocated"), "{refused}");
    host.brig(&["rm", "-f", "web"]).ok();
    assert_eq!(get(), None);
    assert_eq!(host.brig(&["images", "-q"]).ok().lines().count(), 1);
}

#[test]
fn a_client_that_waits_is_told_and_attach_works_again() {
    let mut host = TestHost::new();
    host.load_busybox();
    host.brig(&["run", "-d", "-i", "--name", "cat", "busybox", "cat"]).ok();
    let waiting = host.brig_run(&["wait", "cat"]).start();
    // Nothing tells that its request has come; if it has not, it fails as well, to reach a daemon.
    std::thread::sleep(Duration::from_millis(200));
    host.crash_daemon();
    assert_ne!(waiting.finish().code, 0, "a wait that was cut off must not claim an exit code");
    host.brig(&["run", "-d", "-it", "--name", "tty", "busybox", "sh"]).ok();
    host.crash_daemon();
    let mut terminal = host.brig_terminal(&["attach", "tty"]);
    terminal.type_in("echo $((6*7)); exit 4\n");
    terminal.expect("42");
    assert_eq!(terminal.finish(), 4);
}

#[test]
fn restart_policy_and_removal_are_carried_out_later() {
    let mut host = TestHost::new();
    host.load_busybox();
    host.brig(&["run", "-d", "--rm", "--name", "gone", "busybox", "sleep", "0.5"]).ok();
    host.brig(&["run", "-d", "--restart", "always", "--name", "again", "busybox", "sleep", "0.5"]).ok();
    let (first, gone) = (host.pid("again"), host.pid("gone"));
    host.kill_daemon();
    eventually("both end without a daemon", || ended(first).and(ended(gone)));
    host.start_daemon();
    eventually("--rm is carried out", || (host.brig(&["inspect", "gone"]).code == 1).then_some(()));
    eventually("it runs again", || {
        let pid = host.field("again", "{{.State.Pid}}");
        (pid != "0" && pid != first.to_string()).then_some(())
    });
}

#[test]
fn a_stop_that_was_cut_off_leaves_a_container_that_can_be_stopped() {
    let mut host = TestHost::new();
    host.load_busybox();
    let script = "trap 'echo told' TERM; while :; do sleep 0.02; done";
    host.brig(&["run", "-d", "--name", "deaf", "busybox", "sh", "-c", script]).ok();
    let stopping = host.brig_run(&["stop", "-t", "30", "deaf"]).start();
    eventually("it is being stopped", || (host.brig(&["logs", "deaf"]).ok() == "told").then_some(()));
    host.crash_daemon();
    assert_ne!(stopping.finish().code, 0);
    host.brig(&["stop", "-t", "0", "deaf"]).ok();
    assert_eq!(host.field("deaf", "{{.State.Running}}"), "false");
}

#[test]
fn killed_in_the_middle_of_starts() {
    let mut host = TestHost::new();
    host.load_busybox();
    for round in 0..4_u32 {
        let starting: Vec<_> = (0..6)
            .map(|n| {
                host.brig_run(&["run", "-d", "--name", &format!("r{round}n{n}"), "busybox", "sleep", "1000"]).start()
            })
            .collect();
        // Any moment will do, and each round has another.
        std::thread::sleep(Duration::from_millis(40 + 70 * u64::from(round)));
        host.crash_daemon();
        let told: Vec<_> = starting.into_iter().map(brig_tests::command::Running::finish).collect();
        for (n, output) in told.iter().enumerate().filter(|(_, output)| output.code == 0) {
            let name = format!("r{round}n{n}");
            assert_eq!(host.field(&name, "{{.State.Status}}"), "running", "{name} was acknowledged: {output}");
        }
    }
    for id in host.brig(&["ps", "-aq"]).ok().lines() {
        let state = host.field(id, "{{.State.Status}}");
        assert!(["running", "created", "exited"].contains(&state.as_str()), "{id} is {state}");
        host.brig(&["rm", "-f", id]).ok();
    }
}

#[test]
fn ten_clients_start_one_daemon() {
    let host = TestHost::without_daemon(&[]);
    let arguments = host.daemon_arguments().join(" ");
    let running: Vec<_> = (0..10)
        .map(|_| {
            let run = host.run(host::binary("brig"), &["version", "--format", "{{.Server.Version}}"]);
            run.env("BRIG_DAEMON_ARGS", arguments.as_str()).start()
        })
        .collect();
    let versions: Vec<String> = running.into_iter().map(|run| run.finish().ok()).collect();
    assert!(!versions[0].is_empty() && versions.iter().all(|version| version == &versions[0]), "{versions:?}");
    let daemons = daemons(&host);
    assert_eq!(daemons.len(), 1, "{daemons:?}");
    let pid = rustix::process::Pid::from_raw(daemons[0]).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    eventually("the daemon ends", || crate::daemon_restart::daemons(&host).is_empty().then_some(()));
}

#[test]
fn a_daemon_that_a_command_started_leaves_when_idle() {
    let host = TestHost::without_daemon(&["--idle-exit", "1"]);
    let arguments = host.daemon_arguments().join(" ");
    for (kind, least) in [("--init", 0), ("-d", 1500)] {
        let run = host.run(host::binary("brig"), &["run", "--rm", kind, "--rootfs", "/", "sleep", "2"]);
        run.env("BRIG_DAEMON_ARGS", arguments.as_str()).output().ok();
        let begun = std::time::Instant::now();
        eventually("the daemon left", || daemons(&host).is_empty().then_some(()));
        assert!(begun.elapsed() >= Duration::from_millis(least), "{kind}: left a container that runs");
        assert!(!host.socket().exists());
    }
}

/// Whether a container's process is gone.
fn ended(pid: u32) -> Option<()> {
    (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
}

/// Daemons of the host.
fn daemons(host: &TestHost) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if words.contains(" daemon ") && words.contains(&host.name) {
            found.push(pid);
        }
    }
    found
}
