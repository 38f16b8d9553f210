//! Bundles run by a user without any rights. Owns: from `spec --rootless` to `delete`. Must not: leave anything behind.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// Nobody else's.
const USER: u32 = 54_321;

/// A directory of that user's with a bundle and the program in it.
/// By another process: a child of a test beside this one must not hold the copy open for writing.
fn copy_program(from: &str, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
}

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Bench {
        let bench = Bench(tempfile::tempdir().unwrap());
        let bin = bench.path("rootfs/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir(bench.path("run")).unwrap();
        copy_program("/bin/busybox", &bin.join("busybox"));
        for applet in ["sh", "cat", "id", "ls", "readlink", "stat", "sleep", "touch", "tty"] {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        // Where this test was built the user may not look.
        copy_program(env!("CARGO_BIN_EXE_brig-rt"), &bench.path("brig-rt"));
        for path in ["", "run", "rootfs", "rootfs/bin", "brig-rt"] {
            chown(bench.path(path), Some(USER), Some(USER)).unwrap();
        }
        std::fs::set_permissions(bench.0.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(bench.run(&["spec", "--rootless"]).status.success());
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut spec: Value = serde_json::from_slice(&std::fs::read(self.path("config.json")).unwrap()).unwrap();
        change(&mut spec);
        std::fs::write(self.path("config.json"), spec.to_string()).unwrap();
    }

    fn script(&self, script: &str) {
        self.change(|spec| {
            spec["process"]["args"] = json!(["sh", "-c", script]);
            spec["process"]["terminal"] = json!(false);
            spec["root"]["readonly"] = json!(false);
        });
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("XDG_RUNTIME_DIR", self.path("run"));
        // With these the supplementary groups go, too.
        command.uid(USER).gid(USER);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(self.path("brig-rt").to_str().unwrap(), arguments).output().unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        told(arguments, self.run(arguments))
    }

    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

fn told(arguments: &[&str], output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.run(&["delete", "--force", "box"]);
    }
}

#[test]
fn a_bundle_of_spec_rootless_runs() {
    let bench = Bench::new();
    bench.script(
        "id; cat /proc/self/uid_map /proc/self/setgroups; echo x >/dev/null; ls -d /dev/tty /dev/pts; touch /made",
    );
    let text = bench.ok(&["run", "box"]);
    assert_eq!(
        text.split_whitespace().collect::<Vec<_>>().join(" "),
        format!("uid=0 gid=0 0 {USER} 1 deny /dev/pts /dev/tty")
    );
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(bench.path("rootfs/made")).unwrap().uid(), USER);
    // What is bound keeps what it must not lose.
    bench.script("touch /sys/x 2>/dev/null || echo sys; echo 1 2>/dev/null >/proc/sys/kernel/panic || echo proc; echo x >/dev/full || echo full");
    assert_eq!(bench.ok(&["run", "box"]), "sys\nproc\nfull\n");
}

/// T-RT-08: what it sees of cgroups that are not its own it cannot change.
#[test]
fn cgroups_of_others_are_only_seen() {
    let bench = Bench::new();
    bench.script("for f in $(ls -d /sys/fs/cgroup/*/tasks /sys/fs/cgroup/*/cgroup.procs); do echo 0 2>/dev/null >$f && echo $f; done; true");
    assert_eq!(bench.ok(&["run", "box"]), "");
}

/// By someone who may look into it, but may do nothing in the namespaces that it came from.
#[test]
fn another_containers_namespaces_are_joined() {
    let bench = Bench::new();
    bench.script("sleep 1000");
    let program = bench.path("brig-rt");
    let mut run = bench.command(program.to_str().unwrap(), &["run", "--detach", "box"]);
    assert!(run.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    let state: Value = serde_json::from_str(&bench.ok(&["state", "box"])).unwrap();
    bench.script("cat /proc/self/uid_map; readlink /proc/self/ns/uts; cat /proc/sys/kernel/hostname");
    bench.change(|spec| {
        spec["hostname"] = json!("shared");
        let linux = spec["linux"].as_object_mut().unwrap();
        linux.remove("uidMappings");
        linux.remove("gidMappings");
        for entry in linux["namespaces"].as_array_mut().unwrap() {
            if ["user", "uts", "ipc"].iter().any(|kind| entry["type"] == *kind) {
                entry["path"] = json!(format!("/proc/{}/ns/{}", state["pid"], entry["type"].as_str().unwrap()));
            }
        }
    });
    let uts = std::fs::read_link(format!("/proc/{}/ns/uts", state["pid"])).unwrap();
    let words = bench.ok(&["run", "second"]).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words, format!("0 {USER} 1 {} shared", uts.display()));
    bench.ok(&["delete", "--force", "box"]);
}

#[test]
fn a_life_of_an_unprivileged_container() {
    let bench = Bench::new();
    bench.script("sleep 1000");
    // Its streams are not this test's, or they would be open for as long as it runs.
    let mut run = bench.command(bench.path("brig-rt").to_str().unwrap(), &["run", "--detach", "box"]);
    assert!(run.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    let state: Value = serde_json::from_str(&bench.ok(&["state", "box"])).unwrap();
    assert_eq!(state["status"], "running");
    assert_eq!(bench.ok(&["exec", "box", "id", "-u"]), "0\n");
    assert!(bench.refused(&["delete", "box"]).contains("that is not stopped"));
    bench.ok(&["delete", "--force", "box"]);
    assert_eq!(
        std::fs::read_dir(bench.path("run"))
            .unwrap()
            .flatten()
            .map(|entry| std::fs::read_dir(entry.path()).map_or(0, Iterator::count))
            .sum::<usize>(),
        0
    );
}

#[test]
fn what_an_unprivileged_user_cannot_have_is_refused() {
    let bench = Bench::new();
    bench.script("true");
    bench.change(|spec| spec["process"]["user"]["additionalGids"] = json!([0]));
    let error = bench.refused(&["run", "box"]);
    assert!(error.contains("process.user.additionalGids: cannot set any additional groups"), "{error}");
    bench.change(|spec| {
        spec["process"]["user"]["additionalGids"] = json!([]);
        spec["linux"]["uidMappings"] =
            json!([{"containerID": 0, "hostID": USER, "size": 1}, {"containerID": 1, "hostID": 0, "size": 1}]);
    });
    // Whether the helper is installed or not: it does not give the host's root away.
    let error = bench.refused(&["run", "box"]);
    assert!(error.contains("linux.uidMappings: ") && error.contains("newuidmap"), "{error}");
    assert!(bench.ok(&["list", "-q"]).is_empty());
}

/// Podman without root calls its runtime so.
#[test]
fn root_of_a_user_namespace() {
    let bench = Bench::new();
    bench.script("id; cat /proc/self/uid_map; echo x >/dev/null");
    let program = bench.path("brig-rt");
    let program = program.to_str().unwrap();
    let state = bench.path("run/state");
    let run = || {
        let arguments = ["-Urm", "--propagation", "private", program, "--root", state.to_str().unwrap(), "run", "box"];
        told(&arguments, bench.command("unshare", &arguments).output().unwrap())
    };
    bench.change(|spec| {
        for field in ["uidMappings", "gidMappings"] {
            spec["linux"][field][0]["hostID"] = json!(0);
        }
    });
    let nested = "uid=0 gid=0 0 0 1";
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words(run()), nested);
    bench.change(|spec| {
        let linux = spec["linux"].as_object_mut().unwrap();
        linux.remove("uidMappings");
        linux.remove("gidMappings");
        linux["namespaces"].as_array_mut().unwrap().retain(|entry| entry["type"] != "user");
    });
    assert_eq!(words(run()), format!("uid=0 gid=0 0 {USER} 1"));
}
