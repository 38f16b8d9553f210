//! Checkpoint and restore with a real CRIU. Owns what a container keeps over it. Must not pass where there is no CRIU that works.
#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(dead_code, reason = "the bundle is shared with the hostile ones")]

#[path = "../hostile/bundle.rs"]
mod bundle;
mod refused;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use brig_sys::fdpass::Channel;
use bundle::{Bundle, finish};
use serde_json::json;

/// Counts in `/count`; its pid 1 is the shell.
pub const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i > /count.new; mv /count.new /count; sleep 0.02; done";

const CHECKPOINT: [&str; 4] = ["checkpoint", "--image-path", "images", "ID"];
const RESTORE: [&str; 7] = ["restore", "--detach", "--bundle", ".", "--image-path", "images", "ID"];

/// Whether there is a CRIU that works here; else the test is skipped, and counted as such.
pub fn skipped(test: &str) -> bool {
    let run = |argument: &str| Command::new("criu").arg(argument).stderr(Stdio::null()).output();
    let reason = match run("--version") {
        Err(error) => format!("criu: {error}"),
        Ok(version) => {
            let text = String::from_utf8_lossy(&version.stdout).into_owned();
            let major = text.split_whitespace().find_map(|word| word.split_once('.')?.0.parse::<u32>().ok());
            match run("check") {
                Ok(check) if check.status.success() && major.is_some_and(|major| major >= 4) => return false,
                _ => format!("criu check fails, or it is older than 4: {}", text.trim()),
            }
        }
    };
    eprintln!("SKIP: {test}: {reason}");
    if let Some(path) = std::env::var_os("BRIG_SKIPS") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "SKIP: {test}: {reason}").unwrap();
    }
    true
}

/// A counter that runs, with `/dev/null` as its streams.
pub fn counting(change: impl FnOnce(&mut serde_json::Value)) -> Bundle {
    let mut bundle = Bundle::new(COUNTER);
    bundle.change(change);
    bundle.ok(&["run", "--detach", "ID"]);
    bundle
}

fn count(bundle: &Bundle) -> u64 {
    fs::read_to_string(bundle.path("rootfs/count")).map_or(0, |text| text.trim().parse().unwrap_or(0))
}

/// Waits until the counter is beyond `than`.
fn counts_on(bundle: &Bundle, than: u64) -> u64 {
    let begun = Instant::now();
    loop {
        let now = count(bundle);
        if now > than {
            return now;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "the counter stands at {now}");
        // The container writes to its own file system, which is not watched from outside.
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn end(bundle: &Bundle) {
    bundle.ok(&["delete", "--force", "ID"]);
    bundle.clean();
}

#[test]
fn a_counter_goes_on_where_it_was() {
    if skipped("a_counter_goes_on_where_it_was") {
        return;
    }
    let bundle = counting(|_| ());
    // Twice: a restored container can be saved again.
    for _ in 0..2 {
        counts_on(&bundle, count(&bundle) + 3);
        bundle.ok(&CHECKPOINT);
        assert!(bundle.call(&["state", "ID"]).stderr.contains("container does not exist"));
        bundle.clean();
        let saved = count(&bundle);
        fs::remove_file(bundle.path("rootfs/count")).unwrap();
        bundle.ok(&["restore", "-d", "--image-path", "images", "--pid-file", "pid", "ID"]);
        let first = counts_on(&bundle, 0);
        assert!((saved..saved + 40).contains(&first), "saved at {saved}, went on at {first}");
        assert_eq!(fs::read_to_string(bundle.path("pid")).unwrap(), bundle.pid().to_string());
    }
    assert_eq!(bundle.state()["status"], "running");
    assert_eq!(bundle.ok(&["exec", "ID", "cat", "/proc/1/comm"]), "sh\n");
    bundle.ok(&["pause", "ID"]);
    assert_eq!(bundle.state()["status"], "paused");
    bundle.ok(&["resume", "ID"]);
    let usage: serde_json::Value = serde_json::from_str(&bundle.ok(&["events", "--stats", "ID"])).unwrap();
    assert!(usage["data"]["pids"]["current"].as_u64().unwrap() >= 1, "{usage}");
    let pid = bundle.pid();
    bundle.ok(&["kill", "ID", "KILL"]);
    assert_eq!(bundle.reap_init(pid), 137);
    bundle.ok(&["delete", "ID"]);
    bundle.clean();
}

#[test]
fn it_may_go_on_after_a_checkpoint() {
    if skipped("it_may_go_on_after_a_checkpoint") {
        return;
    }
    let bundle = counting(|_| ());
    let (pid, before) = (bundle.pid(), counts_on(&bundle, 3));
    bundle.ok(&["checkpoint", "--leave-running", "--image-path", "images", "--work-path", "work", "ID"]);
    counts_on(&bundle, before);
    assert_eq!(bundle.pid(), pid);
    assert!(bundle.path("work/dump.log").exists() && bundle.path("images/inventory.img").exists());
    assert!(!bundle.path("images/dump.log").exists());
    // Memory alone needs a kernel that tracks it.
    let tracks =
        Command::new("criu").args(["check", "--feature", "mem_dirty_track"]).output().unwrap().status.success();
    let called = bundle.call(&["checkpoint", "--pre-dump", "--image-path", "earlier", "ID"]);
    assert_eq!(called.code == 0, tracks, "{called:?}");
    assert!(tracks || called.stderr.contains("criu is missing features: [MemTrack]"), "{called:?}");
    counts_on(&bundle, count(&bundle));
    for (flags, text) in [
        (["--parent-path", "/absolute"], "--parent-path must be relative"),
        (["--parent-path", "../absent"], "invalid --parent-path"),
        (["--manage-cgroups-mode", "hard"], "invalid manage-cgroups-mode value"),
        (["--empty-ns", "pid"], "is not supported"),
        (["--page-server", "x"], "Use --page-server ADDRESS:PORT"),
    ] {
        let called = bundle.call(&["checkpoint", flags[0], flags[1], "ID"]);
        assert!(called.code != 0 && called.stderr.contains(text), "{called:?}");
    }
    end(&bundle);
}

#[test]
fn in_the_foreground_it_ends_with_the_containers_code() {
    if skipped("in_the_foreground_it_ends_with_the_containers_code") {
        return;
    }
    let bundle = Bundle::new("echo 1 > /count; while [ ! -e /go ]; do sleep 0.02; done; exit 7");
    bundle.ok(&["run", "--detach", "ID"]);
    counts_on(&bundle, 0);
    bundle.ok(&CHECKPOINT);
    let restore = ["restore", "--image-path", "images", "ID"];
    let refused = bundle.command(&restore).output().unwrap();
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains("stdout was a file when the container was saved"), "{words}");
    bundle.clean();
    let files = || fs::File::create(bundle.path("out")).unwrap();
    let child = bundle.command(&restore).stdout(files()).stderr(files()).spawn().unwrap();
    fs::write(bundle.path("rootfs/go"), "").unwrap();
    assert_eq!(finish(child, &restore), 7);
    bundle.clean();
}

#[test]
fn streams_are_those_of_the_restore() {
    if skipped("streams_are_those_of_the_restore") {
        return;
    }
    let bundle = Bundle::new("echo 1 > /count; while read line; do echo got $line; done");
    let streams = || (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    let start = |arguments: &[&str], input: std::io::PipeReader, output: std::io::PipeWriter| {
        let mut command = bundle.command(arguments);
        command.stdin(input).stderr(output.try_clone().unwrap()).stdout(output);
        assert_eq!(finish(command.spawn().unwrap(), arguments), 0);
    };
    let ((input, mut typed), (mut shown, output)) = streams();
    start(&["run", "--detach", "ID"], input, output);
    counts_on(&bundle, 0);
    bundle.ok(&CHECKPOINT);
    typed.write_all(b"lost\n").ok();
    let mut text = String::new();
    shown.read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
    let ((input, mut typed), (mut shown, output)) = streams();
    start(&RESTORE, input, output);
    typed.write_all(b"it\n").unwrap();
    drop(typed);
    shown.read_to_string(&mut text).unwrap();
    assert_eq!(text, "got it\n");
    end(&bundle);
}

/// Whatever the program does with its streams while it is saved.
#[test]
fn streams_that_are_redirected_come_back() {
    if skipped("streams_that_are_redirected_come_back") {
        return;
    }
    let script =
        "echo 1 > /count; while [ ! -e /say ]; do { sleep 0.02; } > /in; sleep 0.02; done; echo it; echo that >&2";
    for _ in 0..8 {
        let bundle = Bundle::new(script);
        let file = |name: &str| fs::File::create(bundle.path(name)).unwrap();
        let start = |arguments: &[&str]| {
            let mut command = bundle.command(arguments);
            command.stdout(file("said")).stderr(file("warned"));
            assert_eq!(finish(command.spawn().unwrap(), arguments), 0, "{arguments:?}");
        };
        start(&["--log", "log", "run", "--detach", "ID"]);
        counts_on(&bundle, 0);
        bundle.ok(&CHECKPOINT);
        start(&["--log", "log", "restore", "--detach", "--image-path", "images", "ID"]);
        let pid = bundle.pid();
        fs::write(bundle.path("rootfs/say"), "").unwrap();
        assert_eq!(bundle.reap_init(pid), 0);
        let written = |name: &str| fs::read_to_string(bundle.path(name)).unwrap();
        assert_eq!((written("said").as_str(), written("warned").as_str()), ("it\n", "that\n"));
        end(&bundle);
    }
    // What it has let go of is not asked for again.
    let bundle = Bundle::new("exec > /count.new 2>&1 < /dev/null; echo 1 > /count; while :; do sleep 0.02; done");
    bundle.ok(&["run", "--detach", "ID"]);
    counts_on(&bundle, 0);
    bundle.ok(&CHECKPOINT);
    let (mut shown, output) = std::io::pipe().unwrap();
    let mut command = bundle.command(&RESTORE);
    command.stderr(output.try_clone().unwrap()).stdout(output);
    assert_eq!(finish(command.spawn().unwrap(), &RESTORE), 0);
    drop(command);
    let mut words = String::new();
    shown.read_to_string(&mut words).unwrap();
    assert_eq!(words, "");
    end(&bundle);
}

/// A socket that is sent a terminal.
struct Console(UnixListener);

impl Console {
    fn new(bundle: &Bundle) -> Console {
        fs::remove_file(bundle.path("console")).ok();
        Console(UnixListener::bind(bundle.path("console")).unwrap())
    }

    fn master(&self) -> fs::File {
        let channel = Channel::from_fd(OwnedFd::from(self.0.accept().unwrap().0));
        fs::File::from(channel.receive().unwrap().fds.remove(0))
    }
}

fn read_until(terminal: &mut fs::File, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        let mut buffer = [0; 256];
        let length = terminal.read(&mut buffer).unwrap();
        assert!(length > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    text
}

#[test]
fn a_terminal_is_handed_over_again() {
    if skipped("a_terminal_is_handed_over_again") {
        return;
    }
    let mut bundle = Bundle::new("while read line; do echo got $line; done");
    bundle.change(|spec| spec["process"]["terminal"] = json!(true));
    let console = Console::new(&bundle);
    let mut run = bundle.command(&["run", "-d", "--console-socket", "console", "ID"]).spawn().unwrap();
    let mut terminal = console.master();
    assert!(run.wait().unwrap().success());
    terminal.write_all(b"one\n").unwrap();
    read_until(&mut terminal, "got one");
    bundle.ok(&CHECKPOINT);
    drop(terminal);
    // As a create would be refused, so is a restore.
    let called = bundle.call(&RESTORE);
    assert!(called.code != 0 && called.stderr.contains("without setting console socket"), "{called:?}");
    let console = Console::new(&bundle);
    let mut restore = bundle
        .command(&["restore", "-d", "--console-socket", "console", "--image-path", "images", "ID"])
        .spawn()
        .unwrap();
    let mut terminal = console.master();
    assert!(restore.wait().unwrap().success());
    terminal.write_all(b"two\n").unwrap();
    read_until(&mut terminal, "got two");
    end(&bundle);
}

#[test]
fn mounts_come_back_as_they_were() {
    if skipped("mounts_come_back_as_they_were") {
        return;
    }
    let mut bundle = Bundle::new(COUNTER);
    for name in ["data", "data/in", "other", "rootfs/real/conf"] {
        fs::create_dir_all(bundle.path(name)).unwrap();
    }
    fs::write(bundle.path("file"), "content").unwrap();
    std::os::unix::fs::symlink("/real/conf", bundle.path("rootfs/conf")).unwrap();
    let sources = ["data", "other", "file", "data"].map(|name| bundle.text(name));
    bundle.change(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        for (destination, source, options) in [
            ("/ro", &sources[0], json!(["rbind", "ro", "nosuid"])),
            ("/ro/in", &sources[1], json!(["bind"])),
            ("/etc/file", &sources[2], json!(["bind", "ro"])),
            ("/conf", &sources[3], json!(["bind"])),
        ] {
            mounts.push(json!({"destination": destination, "type": "bind", "source": source, "options": options}));
        }
        mounts.push(json!({"destination": "/mem", "type": "tmpfs", "source": "mem", "options": ["size=1m"]}));
        spec["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/acpi", "/sys/firmware"]);
        spec["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
    });
    bundle.ok(&["run", "--detach", "ID"]);
    bundle.ok(&["exec", "ID", "sh", "-c", "echo kept > /mem/file; echo deep > /ro/in/file"]);
    bundle.ok(&CHECKPOINT);
    bundle.ok(&RESTORE);
    for (script, code, want) in [
        ("cat /mem/file /ro/in/file /etc/file", 0, "kept\ndeep\ncontent"),
        ("echo x > /conf/new; cat /ro/new", 0, "x\n"),
        ("echo x > /ro/x", 1, ""),
        ("echo x > /etc/file", 1, ""),
        ("echo 1 > /proc/sys/vm/swappiness", 1, ""),
        ("cat /proc/kcore | wc -c", 0, "0\n"),
    ] {
        let called = bundle.call(&["exec", "ID", "sh", "-c", script]);
        assert_eq!((called.code, called.stdout.as_str()), (code, want), "{script}: {called:?}");
    }
    assert_eq!(fs::read_to_string(bundle.path("other/file")).unwrap(), "deep\n");
    end(&bundle);
}

#[test]
fn a_network_namespace_of_others_is_joined_again() {
    if skipped("a_network_namespace_of_others_is_joined_again") {
        return;
    }
    let mut holder = Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().unwrap();
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let path = format!("/proc/{}/ns/net", holder.id());
    while fs::read_link(&path).is_ok_and(|there| there == own) {
        std::thread::yield_now();
    }
    let bundle = counting(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|entry| entry["type"] != "network");
        namespaces.push(json!({"type": "network", "path": path}));
    });
    counts_on(&bundle, 2);
    bundle.ok(&CHECKPOINT);
    bundle.ok(&RESTORE);
    let there = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(there(bundle.pid()), there(holder.id().cast_signed()));
    end(&bundle);
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn hooks_run_before_a_restored_container_does() {
    if skipped("hooks_run_before_a_restored_container_does") {
        return;
    }
    let mut bundle = Bundle::new(COUNTER);
    let hook = |name: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("cat > {}", bundle.text(name))]}]);
    let hooks = json!({"prestart": hook("prestart"), "createRuntime": hook("runtime"), "poststop": hook("poststop")});
    bundle.change(|spec| spec["hooks"] = hooks);
    bundle.ok(&["run", "--detach", "ID"]);
    counts_on(&bundle, 2);
    bundle.ok(&CHECKPOINT);
    assert!(bundle.path("poststop").exists());
    for name in ["prestart", "runtime", "poststop"] {
        fs::remove_file(bundle.path(name)).unwrap();
    }
    bundle.ok(&RESTORE);
    for name in ["prestart", "runtime"] {
        let state: serde_json::Value = serde_json::from_slice(&fs::read(bundle.path(name)).unwrap()).unwrap();
        assert_eq!(state["pid"].as_i64(), Some(bundle.pid().into()), "{name}: {state}");
    }
    end(&bundle);
    assert!(bundle.path("poststop").exists());
}

#[test]
fn its_cgroup_is_made_before() {
    if skipped("its_cgroup_is_made_before") {
        return;
    }
    let bundle = counting(|spec| spec["linux"]["resources"]["pids"] = json!({"limit": 50}));
    let cgroups = |bundle: &Bundle| fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
    let before = cgroups(&bundle);
    for mode in ["soft", "ignore"] {
        bundle.ok(&["checkpoint", "--manage-cgroups-mode", mode, "--image-path", "images", "ID"]);
        bundle.clean();
        bundle.ok(&["restore", "-d", "--manage-cgroups-mode", mode, "--image-path", "images", "ID"]);
        assert_eq!(cgroups(&bundle), before, "{mode}");
        let limit = bundle.ok(&["events", "--stats", "ID"]);
        assert!(limit.contains("\"limit\":50"), "{limit}");
        fs::remove_dir_all(bundle.path("images")).unwrap();
    }
    end(&bundle);
}

#[test]
fn without_a_cgroup_namespace_it_sees_its_own_cgroup_only() {
    if skipped("without_a_cgroup_namespace_it_sees_its_own_cgroup_only") {
        return;
    }
    let bundle = counting(|spec| {
        spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|entry| entry["type"] != "cgroup");
    });
    let look = || {
        let script =
            "cat $(ls -d /sys/fs/cgroup/pids /sys/fs/cgroup | tail -1)/cgroup.procs | head -1; mount | grep -c cgroup";
        bundle.ok(&["exec", "ID", "sh", "-c", script])
    };
    let before = look();
    assert!(before.starts_with("1\n"), "{before}");
    bundle.ok(&CHECKPOINT);
    bundle.clean();
    bundle.ok(&RESTORE);
    assert_eq!(look(), before);
    end(&bundle);
}

#[test]
fn its_ids_are_its_own_again() {
    if skipped("its_ids_are_its_own_again") {
        return;
    }
    let bundle = Bundle::with_user_namespace(COUNTER);
    // CRIU opens what it inherits again, as the container's root, to whom files of the host are not open.
    let quiet = |arguments: &[&str]| {
        let mut command = bundle.command(arguments);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let log = || fs::read_to_string(bundle.path("log")).unwrap_or_default();
        assert_eq!(finish(child, arguments), 0, "{}", log());
    };
    quiet(&["--log", "log", "run", "--detach", "ID"]);
    counts_on(&bundle, 3);
    bundle.ok(&CHECKPOINT);
    bundle.clean();
    quiet(&["--log", "log", "restore", "--detach", "--image-path", "images", "ID"]);
    let saved = count(&bundle);
    counts_on(&bundle, saved);
    let map = fs::read_to_string(format!("/proc/{}/uid_map", bundle.pid())).unwrap();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "231072", "65536"]);
    assert_eq!(bundle.ok(&["exec", "ID", "stat", "-c", "%u", "/dev/null", "/proc/1"]), "0\n0\n");
    end(&bundle);
}
