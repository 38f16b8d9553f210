//! Verbs one after the other, as engines call them. Owns: what becomes of a container. Must not: leave anything behind.

use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::bench::{Bench, reap};
use crate::common::process;

#[test]
fn from_create_to_delete() {
    let bench = Bench::new("echo hello; exit 7");
    let (mut reader, writer) = std::io::pipe().unwrap();
    let create = ["create", "--bundle", ".", "--pid-file", "pid", "box"];
    let mut command = bench.command(&create);
    let status = command.stdout(writer.try_clone().unwrap()).stderr(writer).status().unwrap();
    drop(command);
    assert!(status.success());
    let state = bench.state();
    let pid: i32 = std::fs::read_to_string(bench.path("pid")).unwrap().parse().unwrap();
    assert_eq!((state["status"].as_str(), state["pid"].as_i64()), (Some("created"), Some(i64::from(pid))));
    assert_eq!(
        (state["bundle"].as_str(), state["annotations"]["a"].as_str()),
        (bench.plan.dir.path().to_str(), Some("b"))
    );
    bench.refused(&create, "container with given ID already exists");
    bench.ok(&["start", "box"]);
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    assert_eq!(output, "hello\n");
    // The one who called create learns the exit code, not the runtime.
    assert_eq!(reap(pid), 7);
    assert_eq!((bench.state()["status"].as_str(), bench.state()["pid"].as_i64()), (Some("stopped"), Some(0)));
    bench.refused(&["start", "box"], "cannot start a container that has stopped");
    bench.refused(&["kill", "box", "9"], "container not running");
    bench.ok(&["delete", "box"]);
    bench.refused(&["state", "box"], "container does not exist");
    bench.refused(&["delete", "box"], "container does not exist");
    bench.ok(&["delete", "--force", "box"]);
    bench.clean();
}

#[test]
fn running_paused_killed() {
    let bench = Bench::new("sleep 100");
    let pid_file = bench.path("pid");
    bench
        .command(&["run", "--detach", "--bundle", ".", "--pid-file", "pid", "box"])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    let pid: i32 = std::fs::read_to_string(pid_file).unwrap().parse().unwrap();
    assert_eq!(bench.state()["status"], "running");
    bench.refused(&["start", "box"], "cannot start an already running container");
    bench.refused(&["delete", "box"], "cannot delete container box that is not stopped: running");
    assert_eq!(bench.ok(&["ps", "--format", "json", "box"]), format!("[{pid}]\n"));
    assert!(bench.ok(&["ps", "box"]).contains("sleep 100"));
    let list: Value = serde_json::from_str(&bench.ok(&["list", "--format=json"])).unwrap();
    assert_eq!(list[0]["id"], "box");
    assert_eq!(bench.ok(&["list", "-q"]), "box\n");
    bench.ok(&["pause", "box"]);
    assert_eq!(bench.state()["status"], "paused");
    bench.refused(&["pause", "box"], "container is paused");
    bench.refused(&["exec", "box", "true"], "paused");
    bench.ok(&["resume", "box"]);
    bench.refused(&["resume", "box"], "container not paused");
    bench.refused(&["kill", "box", "SIGNOPE"], "unknown signal");
    bench.ok(&["kill", "box", "KILL"]);
    assert_eq!(reap(pid), 137);
    bench.wait_for("stopped");
    bench.ok(&["kill", "--all", "box", "9"]);
    bench.ok(&["delete", "box"]);
    bench.clean();
}

#[test]
fn exec_in_another_process() {
    let bench = Bench::new("sleep 100");
    bench.command(&["run", "-d", "-b", ".", "box"]).stdout(Stdio::null()).status().unwrap();
    let output =
        bench.run(&["exec", "-e", "A=1", "box", "sh", "-c", "echo $A; cat /proc/1/cmdline | tr '\\0' ' '; exit 4"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\nsleep 100 ");
    assert_eq!(output.status.code(), Some(4));
    let mut other = process(&["/bin/id", "-u"]);
    other["user"]["uid"] = json!(5);
    std::fs::write(bench.path("process.json"), other.to_string()).unwrap();
    assert_eq!(bench.ok(&["exec", "--process", "process.json", "box"]), "5\n");
    bench.refused(&["exec", "box", "nope"], "executable file not found in $PATH");
    bench.ok(&["delete", "--force", "box"]);
    bench.clean();
}

#[test]
fn in_the_foreground() {
    let bench = Bench::new("cat; echo out; exit 3");
    let output = bench.run(&["run", "--bundle", ".", "box"]);
    assert_eq!((output.stdout.as_slice(), output.status.code()), (b"out\n".as_slice(), Some(3)));
    bench.clean();
}

#[test]
fn a_created_container_can_be_killed_and_deleted() {
    let bench = Bench::new("echo never");
    bench.command(&["create", "box"]).stdout(Stdio::null()).status().unwrap();
    let pid = bench.state()["pid"].as_i64().unwrap() as i32;
    bench.ok(&["kill", "box", "9"]);
    assert_eq!(reap(pid), 137);
    bench.wait_for("stopped");
    bench.ok(&["delete", "box"]);
    bench.clean();
}

#[test]
fn a_created_container_ends_politely_too() {
    let bench = Bench::new("echo never");
    bench.command(&["create", "box"]).stdout(Stdio::null()).status().unwrap();
    let pid = bench.state()["pid"].as_i64().unwrap() as i32;
    bench.ok(&["kill", "box", "TERM"]);
    assert_eq!(reap(pid), 128 + 15);
    bench.refused(&["start", "box"], "cannot start a container that has stopped");
    bench.ok(&["delete", "box"]);
    bench.clean();
}

#[test]
fn a_created_container_is_alone() {
    let bench = Bench::new("exit 5");
    bench.command(&["create", "box"]).stdout(Stdio::null()).status().unwrap();
    let pid = bench.state()["pid"].as_i64().unwrap() as i32;
    // Init is this process's child as soon as `create` has ended: nobody stands in between.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent: u32 = stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(parent, std::process::id());
    // Two at once: one of them lets it go, the other finds it started or ended.
    let mut starts: Vec<_> =
        (0..2).map(|_| bench.command(&["start", "box"]).stderr(Stdio::null()).spawn().unwrap()).collect();
    let started = starts.iter_mut().filter_map(|start| start.wait().unwrap().success().then_some(())).count();
    assert_eq!(started, 1);
    assert_eq!(reap(pid), 5);
    bench.ok(&["delete", "box"]);
    bench.clean();
}

#[test]
fn a_create_that_was_killed_leaves_no_process() {
    let mut bench = Bench::new("echo never");
    let told = bench.path("told");
    let script = format!("cat > {}; kill -9 $PPID", told.display());
    bench.plan.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    bench.write();
    let status = bench.command(&["create", "box"]).stdout(Stdio::null()).status().unwrap();
    assert!(!status.success());
    // Init has become this process's child, and hears that nobody is there any more.
    let told: Value = serde_json::from_slice(&std::fs::read(told).unwrap()).unwrap();
    assert_eq!(reap(told["pid"].as_i64().unwrap() as i32), 0);
    bench.refused(&["state", "box"], "container does not exist");
    bench.refused(&["create", "box"], "container with given ID already exists");
    bench.ok(&["delete", "--force", "box"]);
}

#[test]
fn steps_are_told_if_wanted() {
    let bench = Bench::new("exit 0");
    let output = bench.run(&["--debug", "--log", "log", "--log-format", "json", "run", "box"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let log = std::fs::read_to_string(bench.path("log")).unwrap();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["level"], "debug");
    }
    assert!(log.contains("init is process "), "{log}");
    bench.clean();
}

#[test]
fn a_terminal_goes_to_the_console_socket() {
    let mut bench = Bench::new("echo on a terminal; stty size");
    bench.plan.spec["process"]["terminal"] = json!(true);
    bench.plan.spec["process"]["consoleSize"] = json!({"height": 12, "width": 34});
    bench.write();
    bench.refused(&["create", "box"], "without setting console socket");
    let listener = std::os::unix::net::UnixListener::bind(bench.path("console")).unwrap();
    bench.command(&["create", "--console-socket", "console", "box"]).stdout(Stdio::null()).status().unwrap();
    let (socket, _) = listener.accept().unwrap();
    let master = brig_sys::fdpass::Channel::from_fd(socket.into()).receive().unwrap().fds.pop().unwrap();
    let pid = bench.state()["pid"].as_i64().unwrap() as i32;
    bench.ok(&["start", "box"]);
    reap(pid);
    let mut output = Vec::new();
    // The end of a terminal is an error, after everything was read.
    std::fs::File::from(master.as_fd().try_clone_to_owned().unwrap()).read_to_end(&mut output).ok();
    assert_eq!(String::from_utf8_lossy(&output), "on a terminal\r\n12 34\r\n");
    bench.ok(&["delete", "box"]);
    bench.clean();
}

#[test]
fn preserved_descriptors_keep_their_numbers_and_closed_ones_are_passed_over() {
    let bench =
        Bench::new("cd /proc/self/fd; for fd in [3-9]; do [ -e $fd ] && echo $fd; done; read word <&6; echo $word");
    std::fs::write(bench.path("word"), "kept\n").unwrap();
    let run = |count: &str| {
        let mut command = Command::new("/bin/sh");
        command.current_dir(bench.plan.dir.path()).arg("-c");
        command.arg("exec 4</dev/null 6<word 3<&- 5<&- 7<&- 8</dev/null; exec \"$@\"").arg("sh");
        command.arg(env!("CARGO_BIN_EXE_brig-rt")).arg("--root").arg(bench.path("state"));
        let output = command.args(["run", "--preserve-fds", count, "box"]).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (stdout, stderr) = run("4");
    assert_eq!(stdout, "4\n6\nkept\n", "{stderr}");
    // More than any process could have costs nothing; 8 is within it.
    let (stdout, stderr) = run("4294967295");
    assert_eq!(stdout, "4\n6\n8\nkept\n", "{stderr}");
    bench.clean();
}

#[test]
fn a_poststart_hook_that_fails_ends_and_deletes_the_container() {
    let mut bench = Bench::new("sleep 100");
    let told = bench.path("told");
    let hook = |script: String| json!({"path": "/bin/sh", "args": ["sh", "-c", script]});
    bench.plan.spec["hooks"] = json!({
        "poststart": [hook("exit 3".to_owned()), hook(format!("echo second >> {}", told.display()))],
        "poststop": [hook(format!("echo poststop >> {}", told.display()))],
    });
    bench.write();
    bench.command(&["create", "box"]).stdout(Stdio::null()).status().unwrap();
    let pid = bench.state()["pid"].as_i64().unwrap() as i32;
    bench.refused(&["start", "box"], "error running poststart hook #0: /bin/sh: exit status 3");
    assert_eq!(reap(pid), 128 + 9);
    bench.refused(&["state", "box"], "container does not exist");
    assert_eq!(std::fs::read_to_string(told).unwrap(), "poststop\n");
    bench.clean();
}

#[test]
fn hooks_on_the_host_get_the_callers_environment_unless_they_list_one() {
    let mut bench = Bench::new("echo $CALLER$PROGRAM");
    let told = bench.path("told");
    let tell = |name: &str| json!({"path": "/bin/sh", "args": ["sh", "-c", format!("echo {name}:$CALLER >> {}", told.display())]});
    let mut own = tell("own");
    own["env"] = json!(["CALLER=listed"]);
    bench.plan.spec["hooks"] = json!({
        "prestart": [tell("prestart"), own],
        "createRuntime": [tell("createRuntime")],
        "createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "test -z \"$CALLER\""]}],
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "test \"$CALLER$PROGRAM\" = x"]}],
        "poststart": [tell("poststart")],
        "poststop": [tell("poststop")],
    });
    bench.plan.spec["process"]["env"] = json!(["PATH=/bin", "PROGRAM=x"]);
    bench.write();
    let output = bench.command(&["run", "box"]).env("CALLER", "me").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "x\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        std::fs::read_to_string(told).unwrap(),
        "prestart:me\nown:listed\ncreateRuntime:me\npoststart:me\npoststop:me\n"
    );
    bench.clean();
}

#[test]
fn called_as_crun_is() {
    let bench = Bench::new("echo from elsewhere");
    std::fs::create_dir(bench.path("other")).unwrap();
    std::fs::rename(bench.path("config.json"), bench.path("other/config.json")).unwrap();
    let said = bench.ok(&["--cgroup-manager", "cgroupfs", "run", "--config", "other/config.json", "box"]);
    assert_eq!(said, "from elsewhere\n");
    let bundle = bench.plan.dir.path().to_str().unwrap();
    let output =
        bench.command(&["run", "-b", bundle, "-f", "config.json", "box"]).current_dir(bench.path("other")).output();
    assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), "from elsewhere\n");
    bench.clean();
}

#[test]
fn poststart_hooks_run_whatever_start_container_hooks_say() {
    let mut bench = Bench::new("echo never");
    let told = bench.path("told");
    let hook = |script: String| json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    bench.plan.spec["hooks"] = json!({
        "startContainer": hook("exit 3".to_owned()),
        "poststart": hook(format!("echo poststart >> {}", told.display())),
        "poststop": hook(format!("echo poststop >> {}", told.display())),
    });
    bench.write();
    bench.command(&["create", "box"]).stdout(Stdio::null()).status().unwrap();
    let pid = bench.state()["pid"].as_i64().unwrap() as i32;
    bench.refused(&["start", "box"], "error running startContainer hook #0: /bin/sh: exit status 3");
    reap(pid);
    assert_eq!(bench.state()["status"], "stopped");
    bench.ok(&["delete", "box"]);
    assert_eq!(std::fs::read_to_string(told).unwrap(), "poststart\npoststop\n");
    bench.clean();
}

#[test]
fn failures_leave_nothing_and_are_logged() {
    let mut bench = Bench::new("");
    bench.plan.spec["process"]["args"] = json!(["nope"]);
    bench.write();
    bench.refused(
        &["--log", "log", "--log-format", "json", "create", "box"],
        "exec: \"nope\": executable file not found in $PATH",
    );
    let log: Value = serde_json::from_str(&std::fs::read_to_string(bench.path("log")).unwrap()).unwrap();
    assert_eq!(
        (log["level"].as_str(), log["msg"].as_str()),
        (Some("error"), Some("exec: \"nope\": executable file not found in $PATH"))
    );
    bench.refused(&["state", "box"], "container does not exist");
    bench.refused(&["create", "--bundle", "/no/such", "box"], "/no/such");
    bench.refused(&["--systemd-cgroup", "create", "box"], "expected cgroupsPath to be of format");
    bench.refused(&["--rootless", "perhaps", "create", "box"], "--rootless");
    bench.refused(&["--log-format", "xml", "create", "box"], "invalid log-format: xml");
    bench.refused(&["--root", "/", "create", "box"], "--root argument should not be set to /");
    bench.refused(&["--cgroup-manager", "none", "create", "box"], "--cgroup-manager");
    bench.refused(&["create", "--config", "/no/such.json", "box"], "specification file /no/such.json not found");
    bench.refused(&["create", "../box"], "invalid character '/'");
    bench.refused(&["--log", "no/such/log", "list"], "no/such/log: No such file");
    let missing = json!({"destination": "/mnt", "type": "bind", "source": "/no/such", "options": ["bind"]});
    bench.plan.spec["mounts"].as_array_mut().unwrap().push(missing);
    bench.write();
    bench.refused(
        &["run", "box"],
        "brig-rt run failed: unable to start container process: error during container init: mounts: /mnt: bind source",
    );
    bench.clean();
}

#[test]
fn what_it_tells_about_itself() {
    let bench = Bench::new("");
    let version = bench.ok(&["--version"]);
    assert!(version.starts_with("brig-rt (does what runc version "), "{version}");
    assert!(version.contains(concat!(") version ", env!("CARGO_PKG_VERSION"), "\ncommit: ")), "{version}");
    assert!(version.contains("\nspec: 1."), "{version}");
    let features: Value = serde_json::from_str(&bench.ok(&["features"])).unwrap();
    assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], true);
    std::fs::remove_file(bench.path("config.json")).unwrap();
    bench.ok(&["spec"]);
    bench.refused(&["spec"], "exists. Remove it first");
    let spec: brig_oci::runtime::Spec =
        serde_json::from_slice(&std::fs::read(bench.path("config.json")).unwrap()).unwrap();
    assert_eq!(spec.process.unwrap().args, ["sh"]);
    let help = bench.ok(&["--help"]);
    assert!(help.starts_with("NAME:\n   brig-rt, in place of runc - Open Container Initiative runtime\n"), "{help}");
    for verb in help.lines().skip_while(|line| *line != "VERBS:").skip(1).take_while(|line| !line.is_empty()) {
        let verb = verb.split_whitespace().next().unwrap();
        let help = bench.ok(&[verb, "-h"]);
        assert!(verb == "help" || help.contains(&format!("in place of runc {verb} - ")), "{verb}: {help}");
    }
    bench.refused(&["nonsense", "-h"], "No help topic for 'nonsense'");
}

#[test]
fn mounts_come_into_being_in_their_order() {
    let mut bench = Bench::new("cat /proc/self/mountinfo");
    let linux = bench.plan.spec["linux"].as_object_mut().unwrap();
    linux["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "user");
    linux.remove("uidMappings");
    linux.remove("gidMappings");
    let lower = bench.path("lower");
    std::os::unix::fs::chown(&lower, Some(0), Some(0)).unwrap();
    bench.write();
    let shown = bench.ok(&["run", "box"]);
    let places: Vec<&str> = shown.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
    let mounts = bench.plan.spec["mounts"].as_array().unwrap();
    // The cgroup mount is made of others, which only are there at the end.
    let wanted = mounts.iter().filter(|mount| mount["type"] != "cgroup" && mount["type"] != "bind");
    let wanted: Vec<&str> = wanted.map(|mount| mount["destination"].as_str().unwrap()).collect();
    let found: Vec<&str> = places.iter().filter(|place| wanted.contains(place)).copied().collect();
    assert_eq!(found, wanted, "{shown}");
    assert!(wanted.contains(&"/dev") && wanted.contains(&"/proc"));
    bench.clean();
}
