//! A bundle, the runtime called on it, and what must not be left of it.
//! Owns the looking for left-overs: processes, mounts, cgroups, state, and a canary that no container may touch.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// How long one call of the runtime may take, even on a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A bundle with busybox in it, Docker's kind of specification, and a runtime state of its own.
pub struct Bundle {
    dir: tempfile::TempDir,
    /// The container's id, and the name of its cgroup: found nowhere else on the machine.
    pub id: String,
    /// The content of `config.json`, written by [`Bundle::write`].
    pub spec: Value,
}

/// How a call of the runtime ended.
#[derive(Debug)]
pub struct Called {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// The runtime under test. Another one, named by `BRIG_TEST_RUNTIME`, shows which rows are red without our care.
pub fn runtime() -> PathBuf {
    std::env::var_os("BRIG_TEST_RUNTIME").map_or_else(|| env!("CARGO_BIN_EXE_brig-rt").into(), PathBuf::from)
}

impl Bundle {
    /// Root without a user namespace, as Docker calls runc.
    pub fn new(script: &str) -> Bundle {
        // Created containers become children of this process, as they become containerd's shim's.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let dir = tempfile::Builder::new().prefix("brig-hostile-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // No id is the beginning of another.
        let id = format!("brig-hostile-{}-{number:04}", std::process::id());
        let mut bundle = Bundle { dir, id, spec: Value::Null };
        bundle.make_root();
        bundle.make_canary();
        bundle.spec = spec(script);
        bundle.spec["linux"]["cgroupsPath"] = json!(format!("/{}", bundle.id));
        bundle.write();
        bundle
    }

    /// The same with ids of its own; the root's files belong to them.
    pub fn with_user_namespace(script: &str) -> Bundle {
        let mut bundle = Bundle::new(script);
        let map = json!([{"containerID": 0, "hostID": 231_072, "size": 65536}]);
        bundle.spec["linux"]["uidMappings"] = map.clone();
        bundle.spec["linux"]["gidMappings"] = map;
        bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        own(&bundle.path("rootfs"), 231_072);
        bundle.write();
        bundle
    }

    fn make_root(&self) {
        for name in ["bin", "dev", "proc", "sys", "tmp", "etc", "vol"] {
            fs::create_dir_all(self.path("rootfs").join(name)).unwrap();
        }
        copy_program(Path::new("/bin/busybox"), &self.path("rootfs/bin/busybox"));
        for name in [
            "sh", "cat", "echo", "sleep", "head", "true", "false", "kill", "ls", "id", "wc", "ps", "grep", "stat",
            "tty", "touch", "mkdir", "mknod", "mount", "readlink", "env", "pwd", "hostname", "rm", "mv", "ln", "cp",
            "seq", "dd", "chmod", "unshare",
        ] {
            symlink("busybox", self.path("rootfs/bin").join(name)).unwrap();
        }
        fs::write(self.path("rootfs/etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        fs::write(self.path("rootfs/etc/not-a-program"), "text\n").unwrap();
    }

    fn make_canary(&self) {
        fs::create_dir_all(self.path("canary/dir")).unwrap();
        fs::create_dir_all(self.path("canary/dev")).unwrap();
        for name in ["file", "dev/ptmx", "dev/null"] {
            fs::write(self.path("canary").join(name), "keep").unwrap();
        }
        fs::set_permissions(self.path("canary/file"), fs::Permissions::from_mode(0o400)).unwrap();
    }

    /// Beneath the bundle.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes `config.json`.
    pub fn write(&self) {
        fs::write(self.path("config.json"), self.spec.to_string()).unwrap();
    }

    /// Changes the specification and writes it.
    pub fn change(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.spec);
        self.write();
    }

    /// The runtime with arguments, not started. `ID` stands for the container's id.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(runtime());
        command.arg("--root").arg(self.path("state"));
        command.args(arguments.iter().map(|argument| if *argument == "ID" { self.id.as_str() } else { argument }));
        command.current_dir(self.dir.path()).stdin(Stdio::null()).process_group(0);
        command
    }

    /// Runs the runtime to its end. Output goes to files: a container that stays would hold a pipe open.
    pub fn call(&self, arguments: &[&str]) -> Called {
        let (out, err) = (self.path("out"), self.path("err"));
        let mut command = self.command(arguments);
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        let code = finish(command.spawn().unwrap(), arguments);
        let read = |path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        Called { code, stdout: read(out), stderr: read(err) }
    }

    /// Runs the runtime, which must succeed; what it printed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let called = self.call(arguments);
        assert_eq!(called.code, 0, "{arguments:?}: {called:?}");
        called.stdout
    }

    /// `run` in the foreground, which must succeed; what the container printed.
    #[track_caller]
    pub fn run(&self) -> String {
        self.ok(&["run", "ID"])
    }

    /// Runs the runtime, which must refuse in words that hold `text`, without a panic, and leave nothing.
    #[track_caller]
    pub fn refused(&self, arguments: &[&str], text: &str) {
        let called = self.call(arguments);
        assert!(called.code != 0 && called.stderr.contains(text), "{arguments:?}: wanted {text:?}: {called:?}");
        assert!(!called.stderr.contains("panicked"), "{arguments:?}: {called:?}");
        self.clean();
    }

    /// Nothing of the container is there any more, and the canary is as it was.
    #[track_caller]
    pub fn clean(&self) {
        let begun = Instant::now();
        // What has just been killed needs a moment to be gone, and cgroups of version 1 and mounts tell nobody.
        while !self.left_over().is_empty() && begun.elapsed() < Duration::from_secs(10) {
            self.reap();
            std::thread::sleep(Duration::from_millis(2));
        }
        let left = self.left_over();
        assert!(left.is_empty(), "left over: {left:#?}");
        self.canary();
    }

    /// The canary is as it was, and nothing new is in it.
    #[track_caller]
    pub fn canary(&self) {
        let names = |path: &str| {
            let mut names: Vec<String> =
                fs::read_dir(self.path(path)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names("canary"), ["dev", "dir", "file"]);
        assert_eq!(
            (names("canary/dir"), names("canary/dev")),
            (Vec::<String>::new(), vec!["null".into(), "ptmx".into()])
        );
        for name in ["file", "dev/ptmx", "dev/null"] {
            let path = self.path("canary").join(name);
            assert_eq!(fs::read_to_string(&path).unwrap(), "keep", "{name}");
            assert_eq!(rustix::fs::stat(&path).unwrap().st_uid, 0, "{name}");
        }
        assert_eq!(fs::metadata(self.path("canary/file")).unwrap().permissions().mode() & 0o7777, 0o400);
    }

    /// Everything that a container leaves when somebody forgets to take it down.
    pub fn left_over(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (pid, line) in self.processes() {
            left.push(format!("process {pid}: {line}"));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.dir.path().to_str().unwrap();
        left.extend(mounts.lines().filter(|line| line.contains(dir)).map(|line| format!("mount {line}")));
        left.extend(self.cgroups().into_iter().map(|path| format!("cgroup {}", path.display())));
        let state = fs::read_dir(self.path("state")).into_iter().flatten().flatten();
        left.extend(state.map(|entry| format!("state {}", entry.path().display())));
        left
    }

    /// Processes in the container's cgroup, or that were started for its bundle. Ended ones count until they are reaped.
    fn processes(&self) -> Vec<(i32, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let text = |name: &str| {
                String::from_utf8_lossy(&fs::read(entry.path().join(name)).unwrap_or_default()).replace('\0', " ")
            };
            if pid.cast_unsigned() == std::process::id() {
                continue;
            }
            let (cgroup, command) = (text("cgroup"), text("cmdline"));
            if cgroup.contains(&self.id) || command.contains(&*self.dir.path().to_string_lossy()) {
                found.push((pid, command));
            }
        }
        found
    }

    /// Processes in the container's cgroup.
    pub fn inside(&self) -> Vec<i32> {
        let inside =
            |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(&self.id));
        self.processes().into_iter().map(|(pid, _)| pid).filter(inside).collect()
    }

    /// Its cgroup's directories, on every hierarchy, wherever the configuration may have put them.
    fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut look = vec![PathBuf::from("/sys/fs/cgroup")];
        while let Some(path) = look.pop() {
            for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if entry.file_name().to_string_lossy().contains(&self.id) {
                        found.push(entry.path());
                    }
                    look.push(entry.path());
                }
            }
        }
        found
    }

    /// Ended containers of this bundle that have become children of this process.
    pub fn reap(&self) {
        for (pid, _) in self.processes() {
            let Some(pid) = Pid::from_raw(pid) else { continue };
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG).ok();
        }
    }

    /// Waits for the end of the container's first process, which must have become a child of this one.
    pub fn reap_init(&self, pid: i32) -> i32 {
        let begun = Instant::now();
        loop {
            match rustix::process::waitpid(Pid::from_raw(pid), rustix::process::WaitOptions::NOHANG) {
                Ok(Some((_, status))) => {
                    return status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap());
                }
                _ if begun.elapsed() > LIMIT => panic!("{pid} did not become a child of this process, or does not end"),
                // Nothing tells that a process has become one's child.
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// The first process, as `state` tells.
    pub fn pid(&self) -> i32 {
        self.state()["pid"].as_i64().unwrap().try_into().unwrap()
    }

    /// What `state` prints.
    #[track_caller]
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state", "ID"])).unwrap()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.call(&["delete", "--force", "ID"]);
            for (pid, _) in self.processes() {
                kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).ok();
            }
            // Not all of them are children of this process, so their end is not told.
            std::thread::sleep(Duration::from_millis(50));
            self.reap();
            self.cgroups().iter().rev().for_each(|path| fs::remove_dir(path).unwrap_or_default());
        }
    }
}

/// Copies a program by another process: a child that a test beside this one is just starting must not hold the copy open for
/// writing, or it could not be executed (ETXTBSY).
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "cp {} {}: {copied}", from.display(), to.display());
}

/// Waits for a call of the runtime; its exit code.
pub fn finish(mut child: Child, arguments: &[&str]) -> i32 {
    let pidfd = brig_sys::pidfd::open(child.id().cast_signed()).unwrap();
    if !brig_sys::pidfd::wait_end(pidfd.as_fd(), Some(LIMIT)).unwrap() {
        kill_process_group(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::KILL).ok();
        child.wait().unwrap();
        panic!("{arguments:?} takes more than {} s", LIMIT.as_secs());
    }
    let status = child.wait().unwrap();
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

/// The output of a program that must succeed.
pub fn output(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}

fn own(path: &Path, id: u32) {
    std::os::unix::fs::lchown(path, Some(id), Some(id)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).unwrap().flatten().for_each(|entry| own(&entry.path(), id));
    }
}

/// A process of `args` with a few capabilities.
pub fn process(args: &[&str]) -> Value {
    let capabilities = json!(["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_MKNOD", "CAP_SETUID", "CAP_SETGID"]);
    json!({
        "args": args, "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin", "TERM=xterm"],
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
    })
}

fn spec(script: &str) -> Value {
    let quiet = json!(["nosuid", "noexec", "nodev"]);
    json!({
        "ociVersion": "1.2.0",
        "process": process(&["/bin/sh", "-c", script]),
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": quiet},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "mount"}, {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}
            ],
            "maskedPaths": ["/proc/interrupts", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// Says that a test cannot run here; counted in the file that `BRIG_SKIPS` names.
pub fn skip(test: &str, reason: &str) {
    eprintln!("SKIP: {test}: {reason}");
    if let Some(path) = std::env::var_os("BRIG_SKIPS") {
        let file = fs::OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| std::io::Write::write_all(&mut file, format!("SKIP: {test}: {reason}\n").as_bytes()))
            .unwrap();
    }
}
