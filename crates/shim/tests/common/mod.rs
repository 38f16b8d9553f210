//! A real shim with a real container for tests.
//!
//! Owns: the bundle, the shim process, a subscribed connection, and the check that nothing is left over. Must not: touch
//! anything of the host but cgroups below its own name.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, clippy::let_underscore_must_use)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use brig_shim::client;
use brig_shim::protocol::{
    Config, Event, Exit, FRAME_HEADER, LogConfig, LogDriver, Message, Request, Rootfs, Status, Streams, decode_message,
    encode,
};
use serde_json::{Value, json};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// All output.
pub const OUTPUT: Streams = Streams { stdin: false, stdout: true, stderr: true };

/// Everything.
pub const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true };

/// One container under a shim.
pub struct Host {
    pub dir: tempfile::TempDir,
    pub id: String,
    pub events: BufReader<UnixStream>,
    pub seen: Vec<Event>,
    pub shim: Child,
    cgroup_parent: String,
}

/// What a test wants to run.
pub struct Plan {
    pub spec: Value,
    pub config: Config,
    pub dir: tempfile::TempDir,
}

impl Plan {
    /// `script` in busybox's shell, isolated as by default.
    pub fn new(script: &str) -> Plan {
        let dir = tempfile::tempdir().unwrap();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:016x}{:048x}", std::process::id(), count);
        make_lower(&dir.path().join("lower"));
        std::fs::create_dir_all(dir.path().join("run")).unwrap();
        let config = Config {
            rootfs: Rootfs::OverlayTmpfs { lower: vec![dir.path().join("lower")], size_bytes: None },
            log: LogConfig { driver: LogDriver::JsonFile, path: dir.path().join("log.json"), ..LogConfig::default() },
            exit_file: dir.path().join("exit.json"),
            exit_relaxed: false,
            stdin_open: false,
            stdin_once: false,
            terminal: false,
            init: false,
            cgroup_parent: format!("/brig-shim-test-{}-{count}", std::process::id()),
            console_size: None,
            id,
        };
        Plan { spec: spec(script), config, dir }
    }

    /// Starts the shim and waits until the container stands at its gate.
    pub fn create(self) -> Host {
        let run = self.dir.path().join("run");
        std::fs::write(run.join(client::SPEC), self.spec.to_string()).unwrap();
        std::fs::write(run.join(client::CONFIG), serde_json::to_vec(&self.config).unwrap()).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        // A shell moves the socket from stdin, where Command can put it, to descriptor 3.
        let shim = Command::new("/bin/busybox")
            .args(["sh", "-c", "exec \"$0\" shim --dir \"$1\" 3<&0 </dev/null"])
            .arg(env!("CARGO_BIN_EXE_brig-rt"))
            .arg(&run)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        Host {
            dir: self.dir,
            id: self.config.id,
            events: BufReader::new(ours),
            seen: Vec::new(),
            shim,
            cgroup_parent: self.config.cgroup_parent,
        }
    }

    /// Starts the container, too.
    pub fn start(self) -> Host {
        let mut host = self.create();
        host.ready();
        host.go();
        host
    }
}

/// Copies a program by another process: a child that a test beside this one is just starting must not hold the copy open for
/// writing, or it could not be executed (ETXTBSY).
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "cp {} {}: {copied}", from.display(), to.display());
}

fn make_lower(lower: &Path) {
    for name in ["bin", "dev", "proc", "sys", "tmp", "etc"] {
        std::fs::create_dir_all(lower.join(name)).unwrap();
    }
    copy_program(Path::new("/bin/busybox"), &lower.join("bin/busybox"));
    for name in
        ["sh", "cat", "echo", "sleep", "head", "tr", "stty", "true", "false", "kill", "ls", "id", "wc", "ps", "grep"]
    {
        std::os::unix::fs::symlink("busybox", lower.join("bin").join(name)).unwrap();
    }
    std::fs::write(lower.join("etc/not-a-program"), "text\n").unwrap();
}

/// A process of `args`.
pub fn process(args: &[&str]) -> Value {
    json!({
        "args": args, "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin", "TERM=xterm"],
    })
}

fn spec(script: &str) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": process(&["/bin/sh", "-c", script]),
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        ],
        "linux": {
            "uidMappings": [{"containerID": 0, "hostID": 231072, "size": 65536}],
            "gidMappings": [{"containerID": 0, "hostID": 231072, "size": 65536}],
            "namespaces": [
                {"type": "user"}, {"type": "mount"}, {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}
            ],
        },
    })
}

impl Host {
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// Reads one event or answer.
    pub fn message(&mut self) -> Message {
        let mut line = Vec::new();
        self.events.read_until(b'\n', &mut line).unwrap();
        if line.is_empty() {
            let failure = client::read_failure(&self.run_dir());
            panic!("the shim ended: {failure:?}; events so far: {:?}", self.seen);
        }
        decode_message(&line).unwrap()
    }

    /// Reads events until one is as wanted.
    pub fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            if let Message::Event(event) = self.message() {
                self.seen.push(event.clone());
                if wanted(&event) {
                    return event;
                }
                if let Event::Failed { error } = event {
                    panic!("failed: {error}");
                }
            }
        }
    }

    pub fn ready(&mut self) {
        self.until(|event| matches!(event, Event::Ready));
    }

    pub fn go(&mut self) {
        self.events.get_mut().write_all(&encode(&Request::Go)).unwrap();
        self.until(|event| matches!(event, Event::Started { .. }));
    }

    pub fn connect(&self) -> BufReader<UnixStream> {
        let socket = client::connect(&self.run_dir()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        BufReader::new(socket)
    }

    /// Asks on a connection of its own; the value of the answer.
    pub fn ask(&self, request: &Request) -> Value {
        ask(&mut self.connect(), request)
    }

    pub fn status(&self) -> Status {
        serde_json::from_value(self.ask(&Request::State)["ok"]["state"].take()).unwrap()
    }

    /// Asks, then the connection carries streams.
    pub fn streams(&self, request: &Request) -> BufReader<UnixStream> {
        let mut client = self.connect();
        let answer = ask(&mut client, request);
        assert!(answer.get("ok").is_some(), "{answer}");
        client
    }

    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("log.json")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["log"].as_str().unwrap().to_owned())
            .collect()
    }

    pub fn exited(&mut self) -> Exit {
        self.until(|event| matches!(event, Event::Exited { .. }));
        client::read_exit(&self.dir.path().join("exit.json")).unwrap().expect("published before it is announced")
    }

    /// Releases the shim, waits for its end and looks for left-overs.
    pub fn finish(mut self) {
        self.events.get_mut().write_all(&encode(&Request::Release)).unwrap();
        self.gone();
    }

    /// Waits for the shim's end and looks for left-overs.
    pub fn gone(mut self) {
        let mut rest = Vec::new();
        self.events.read_to_end(&mut rest).unwrap();
        let pidfd = brig_sys::pidfd::open(self.shim.id().cast_signed()).unwrap();
        let in_time = brig_sys::pidfd::wait_end(pidfd.as_fd(), Some(Duration::from_secs(20))).unwrap();
        assert!(in_time, "the shim does not end");
        self.shim.wait().unwrap();
        self.check_left_overs();
    }

    /// Waits until something is so of which the shim tells nobody.
    #[track_caller]
    pub fn wait_until(what: &str, ready: impl Fn() -> bool) {
        let begun = Instant::now();
        while !ready() {
            assert!(begun.elapsed() < Duration::from_secs(20), "never {what}");
            // Files and counters of other processes, which tell nobody either.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn check_left_overs(&self) {
        let cgroups = cgroups_of(&self.cgroup_parent, &self.id);
        assert!(cgroups.is_empty(), "cgroups left: {cgroups:?}");
        assert!(!self.run_dir().join(client::SOCKET).exists(), "socket left");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.dir.path().to_str().unwrap();
        assert!(!mounts.contains(dir), "mounts left:\n{mounts}");
        if let Some(pid) =
            self.seen.iter().find_map(|event| if let Event::Created { pid } = event { Some(*pid) } else { None })
        {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            assert!(!command.contains(&self.id), "process {pid} left");
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Only after a failed assertion is there anything left to end: the tests themselves prove that nothing is.
        if self.shim.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.shim.kill();
            let _ = self.shim.wait();
            for dir in cgroups_of(&self.cgroup_parent, &self.id) {
                let _ = std::fs::write(dir.join("freezer.state"), "THAWED");
                for pid in std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
                    let _ = Command::new("/bin/busybox").args(["kill", "-9", pid]).status();
                }
                // A killed process is in its cgroup until it is gone altogether, which version 1 does not report.
                std::thread::sleep(Duration::from_millis(20));
                let _ = std::fs::remove_dir(&dir);
            }
        }
        for dir in cgroups_of("", &self.cgroup_parent) {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

/// Directories of the cgroup `parent/name` on every hierarchy.
pub fn cgroups_of(parent: &str, name: &str) -> Vec<PathBuf> {
    let path = format!("{}/{}", parent.trim_matches('/'), name.trim_matches('/'));
    let root = Path::new("/sys/fs/cgroup");
    let mut hierarchies = vec![root.to_owned()];
    hierarchies
        .extend(std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()));
    hierarchies.into_iter().map(|dir| dir.join(path.trim_start_matches('/'))).filter(|dir| dir.is_dir()).collect()
}

/// Asks on `client`; the value of the answer.
pub fn ask(client: &mut BufReader<UnixStream>, request: &Request) -> Value {
    client.get_mut().write_all(&encode(request)).unwrap();
    let mut answer = String::new();
    client.read_line(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{answer:?}: {error}"))
}

/// Takes frames apart into what came on each channel.
pub fn frames(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some((header, rest)) = bytes.split_at_checked(FRAME_HEADER) {
        let length = u32::from_be_bytes(header[4..].try_into().unwrap()) as usize;
        if header[0] == 1 { &mut out } else { &mut err }.extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
    }
    (out, err)
}

/// Everything that is still to come.
pub fn rest(client: &mut BufReader<UnixStream>) -> Vec<u8> {
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    all
}

/// Reads until `wanted` has come.
pub fn read_until(client: &mut BufReader<UnixStream>, wanted: &str) -> String {
    let mut all = String::new();
    let mut buffer = [0; 4096];
    while !all.contains(wanted) {
        let count = client.read(&mut buffer).unwrap();
        assert!(count > 0, "the stream ended after {all:?}");
        all.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    all
}
