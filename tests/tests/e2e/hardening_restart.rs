//! Faults around a restart of the daemon: what runs, ended or was being removed at that moment is never lost, nor left over.

use std::path::Path;
use std::time::{Duration, Instant};

use brig_tests::{TestHost, eventually};
use rustix::fs::IFlags;
use rustix::process::{Pid, Signal, kill_process};

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

fn mark_immutable(path: &Path, on: bool) {
    let directory = std::fs::File::open(path).unwrap();
    let flags = rustix::fs::ioctl_getflags(&directory).unwrap();
    let flags = if on { flags | IFlags::IMMUTABLE } else { flags - IFlags::IMMUTABLE };
    rustix::fs::ioctl_setflags(&directory, flags).unwrap();
}

#[test]
fn what_a_restart_policy_starts_at_boot_has_a_network() {
    let mut host = TestHost::new();
    host.load_busybox();
    let script = "[ -f /again ] && exec sleep 1000; touch /again; sleep 1; exit 3";
    let names = ["r0", "r1", "r2", "r3"];
    for name in names {
        host.brig(&["run", "-d", "--restart", "always", "--name", name, "busybox", "sh", "-c", script]).ok();
    }
    let pids = names.map(|name| host.pid(name));
    host.kill_daemon();
    for pid in pids {
        eventually("it ends without a daemon", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    }
    host.start_daemon();
    for name in names {
        host.wait_for_state(name, "running");
        assert_eq!(host.field(name, "{{.RestartCount}}"), "1", "{}", host.daemon_log());
    }
    let mut addresses = names.map(|name| host.field(name, "{{.NetworkSettings.IPAddress}}"));
    addresses.sort();
    assert!(addresses.windows(2).all(|pair| pair[0] != pair[1] && !pair[0].is_empty()), "{addresses:?}");
    host.brig(&["exec", "r0", "ping", "-c", "1", "-W", "2", &addresses[3]]).ok();
    for name in names {
        host.brig(&["rm", "-f", name]).ok();
    }
}

#[test]
fn a_stopped_shim_keeps_its_container_and_holds_up_nobody() {
    let mut host = TestHost::new();
    host.load_busybox();
    let id = host.brig(&["run", "-d", "--name", "stuck", "busybox", "sh", "-c", "echo kept; exec sleep 1000"]).ok();
    host.brig(&["run", "-d", "--name", "other", "busybox", "sleep", "1000"]).ok();
    let (pid, shim) = (host.pid("stuck"), host.shim_pid("stuck"));
    signal(shim, Signal::STOP);
    let begun = Instant::now();
    host.crash_daemon();
    assert!(begun.elapsed() < Duration::from_secs(6), "the daemon waited {:?} for a stopped shim", begun.elapsed());
    assert_eq!(host.brig(&["exec", "other", "echo", "fine"]).ok(), "fine");
    assert_eq!(host.field("stuck", "{{.State.Status}} {{.State.Pid}}"), format!("running {pid}"));
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    signal(shim, Signal::CONT);
    eventually("the shim is heard again", || (host.brig(&["exec", "stuck", "true"]).code == 0).then_some(()));
    assert_eq!(host.brig(&["logs", "stuck"]).ok(), "kept");
    // Its end is noticed too, which needs the connection of events: the shim's side of one that lasts is seen in its namespace.
    let is_connected = || {
        let sockets = std::fs::read_to_string(format!("/proc/{shim}/net/unix")).unwrap();
        // The sixth column is the state, of which 03 is "connected" (proc(5)); what listens is 01.
        sockets.lines().any(|line| line.ends_with("shim.sock") && line.contains(&id) && line.contains(" 03 "))
    };
    eventually("the daemon is connected with the shim again", || is_connected().then_some(()));
    signal(pid, Signal::KILL);
    host.wait_for_state("stuck", "exited");
    assert_eq!(host.field("stuck", "{{.State.ExitCode}}"), "137");
    host.brig(&["rm", "-f", "stuck", "other"]).ok();
}

#[test]
fn a_removal_that_was_cut_short_is_finished() {
    let mut host = TestHost::new();
    host.load_busybox();
    let id = host.brig(&["run", "-d", "--rm", "--name", "brief", "busybox", "sleep", "1"]).ok();
    let layer = host.data_root.join("v1/active").join(&id);
    mark_immutable(&layer, true);
    eventually("its removal fails", || (host.field("brief", "{{.State.Status}}") == "dead").then_some(()));
    host.kill_daemon();
    mark_immutable(&layer, false);
    host.start_daemon();
    assert_eq!(host.brig(&["ps", "-aq"]).ok(), "", "a --rm container is left over");
}

#[test]
fn a_container_that_others_froze_can_be_ended() {
    let host = TestHost::new();
    host.load_busybox();
    for verb in [["stop", "-t", "1"].as_slice(), &["rm", "-f"], &["kill"]] {
        let id = host.brig(&["run", "-d", "--name", "frozen", "busybox", "sleep", "1000"]).ok();
        let parent = host.root.file_name().unwrap().to_str().unwrap();
        let v1 = format!("/sys/fs/cgroup/freezer/{parent}/{id}/freezer.state");
        let v2 = format!("/sys/fs/cgroup/{parent}/{id}/cgroup.freeze");
        if Path::new(&v1).exists() { std::fs::write(v1, "FROZEN") } else { std::fs::write(v2, "1") }.unwrap();
        let begun = Instant::now();
        host.brig(&[verb, &["frozen"]].concat()).ok();
        host.brig(&["rm", "-f", "frozen"]).ok();
        assert!(begun.elapsed() < Duration::from_secs(8), "{verb:?} took {:?}", begun.elapsed());
    }
}

#[test]
fn another_data_root_cannot_take_over_the_runs() {
    let host = TestHost::new();
    host.load_busybox();
    host.brig(&["run", "-d", "--name", "mine", "busybox", "sleep", "1000"]).ok();
    let pid = host.pid("mine");
    let path = |name: &str| host.root.join(name).display().to_string();
    let (other, socket) = (path("other"), format!("unix://{}", path("other.sock")));
    let runs = host.exec_root().display().to_string();
    let arguments = ["daemon", "-H", &socket, "--data-root", &other, "--exec-root", &runs];
    let refused = host.run(brig_tests::host::binary("brig"), &arguments).limit(Duration::from_secs(10)).output();
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("is in use by another daemon"), "{}", refused.stderr);
    assert_eq!(host.field("mine", "{{.State.Status}} {{.State.Pid}}"), format!("running {pid}"));
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "it was taken for a stray");
    host.brig(&["rm", "-f", "mine"]).ok();
}
