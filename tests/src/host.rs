//! A test host: network namespace, data root, run directory, cgroup parent and daemon, all its own.
//! Owns their making and taking down; what must not be left over is looked for by `leaks`.

use crate::command::{self, Output, Run};
use crate::leaks;
use crate::terminal::Terminal;
use crate::wait::eventually;
use brig_sys::netns;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The host's address on the link to its neighbour.
pub const HOST: &str = "10.99.0.1";
/// The neighbour's.
pub const NEIGHBOUR: &str = "10.99.0.2";

static HOSTS: AtomicU32 = AtomicU32::new(0);

/// A machine of its own, as far as a container engine can tell.
pub struct TestHost {
    /// `brig-test-<pid>-<n>`: the name of the folder and of the cgroup parent.
    pub name: String,
    /// Everything that it writes is beneath this.
    pub root: PathBuf,
    /// Its network.
    pub netns: Arc<OwnedFd>,
    daemon: Option<Child>,
    extra: Vec<String>,
    /// The daemon sees `docker` in this host's folder as `/etc/docker`, the rest of the machine as it is.
    pub own_etc_docker: bool,
    /// Directory of images and containers.
    pub data_root: PathBuf,
    neighbours: AtomicU32,
    /// Do not look for leaks when dropped: the test broke something on purpose.
    pub forgive: bool,
    /// Some things are taken down off the critical path; they have so long.
    pub grace: Duration,
}

/// Another machine on the host's network.
pub struct Neighbour {
    /// Its network.
    pub netns: Arc<OwnedFd>,
    /// The host's address as the neighbour sees it.
    pub host: String,
    /// Its own address.
    pub address: String,
}

impl TestHost {
    /// A host with a running daemon.
    pub fn new() -> TestHost {
        TestHost::with(&[])
    }

    /// A host whose daemon has further arguments.
    pub fn with(arguments: &[&str]) -> TestHost {
        let mut host = TestHost::without_daemon(arguments);
        host.start_daemon();
        host
    }

    /// A host on which no daemon runs yet.
    pub fn without_daemon(arguments: &[&str]) -> TestHost {
        assert!(rustix::process::geteuid().is_root(), "the end-to-end tests need root: run them with sudo");
        let number = HOSTS.fetch_add(1, Ordering::Relaxed);
        let name = format!("brig-test-{}-{number}", std::process::id());
        let root = base().join(&name);
        std::fs::create_dir_all(root.join("home")).expect("the test folder can be made");
        std::fs::write(root.join("daemon.json"), "{}").expect("the daemon's configuration can be written");
        let netns = Arc::new(netns::create().expect("a network namespace can be made"));
        let host = TestHost {
            data_root: root.join("data"),
            name,
            root,
            netns,
            daemon: None,
            extra: arguments.iter().map(|&a| a.to_owned()).collect(),
            own_etc_docker: false,
            neighbours: AtomicU32::new(0),
            forgive: false,
            grace: Duration::from_secs(10),
        };
        host.program("ip", &["link", "set", "lo", "up"]).output().ok();
        host
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join("brig.sock")
    }

    /// Directory of running containers' state.
    pub fn exec_root(&self) -> PathBuf {
        self.root.join("run")
    }

    /// What the daemon wrote.
    pub fn daemon_log(&self) -> String {
        std::fs::read_to_string(self.root.join("daemon.log")).unwrap_or_default()
    }

    /// The arguments of the daemon.
    pub fn daemon_arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["--data-root", &self.data_root.display().to_string()].map(str::to_owned).into();
        arguments.extend(["--exec-root", &self.exec_root().display().to_string()].map(str::to_owned));
        arguments.extend(["--cgroup-parent".to_owned(), format!("/{}", self.name)]);
        arguments.extend(["--config-file".to_owned(), self.root.join("daemon.json").display().to_string()]);
        arguments.extend(self.extra.iter().cloned());
        arguments
    }

    /// The daemon's command, not started.
    pub fn daemon_command(&self) -> Run {
        let socket = format!("unix://{}", self.socket().display());
        let mut arguments = vec!["daemon".to_owned(), "-H".to_owned(), socket, "--ready-fd".to_owned(), "1".to_owned()];
        arguments.extend(self.daemon_arguments());
        if self.own_etc_docker {
            return self.behind_etc_docker(&arguments);
        }
        self.run(binary("brig"), &arguments)
    }

    /// `brig` in a mount namespace of its own, in which `/etc/docker` is a folder of this host. Where to mount it may have to be
    /// made, for which `/etc` is an overlay there.
    fn behind_etc_docker(&self, arguments: &[String]) -> Run {
        const SCRIPT: &str = "mount -t overlay -o lowerdir=/etc,upperdir=\"$0/etc\",workdir=\"$0/etc-work\" etc /etc \
            && mkdir -p /etc/docker && mount --bind \"$0/docker\" /etc/docker && exec \"$@\"";
        for folder in ["etc", "etc-work", "docker"] {
            std::fs::create_dir_all(self.root.join(folder)).expect("a folder can be made");
        }
        let (root, brig) = (self.root.display().to_string(), binary("brig").display().to_string());
        let mut all =
            ["--mount", "--propagation", "private", "sh", "-c", SCRIPT, &root, &brig].map(str::to_owned).to_vec();
        all.extend_from_slice(arguments);
        self.run("unshare", &all)
    }

    /// Starts the daemon and waits until it answers.
    #[track_caller]
    pub fn start_daemon(&mut self) {
        assert!(self.daemon.is_none(), "one daemon at a time");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.root.join("daemon.log"));
        let log = log.expect("the daemon's log can be opened");
        let command = self.daemon_command().with(|command| {
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        });
        let mut child = command.spawn();
        let mut told = String::new();
        let stdout = child.stdout.take().expect("stdout is a pipe");
        BufReader::new(stdout).read_line(&mut told).expect("the daemon's output can be read");
        self.daemon = Some(child);
        assert_eq!(told, "\n", "the daemon did not start:\n{}", self.daemon_log());
    }

    /// A field of the daemon's `/proc/PID/status`, such as `VmHWM`, in KiB.
    pub fn daemon_memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.daemon_pid())).expect("the daemon runs");
        let line =
            status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect("the field is there");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// No layer, form or blob is in the store. A recipe that is just being written goes a moment later, when its writer finds the
    /// layer gone.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        let left = || -> Vec<PathBuf> {
            let parts = ["layers", "packed", "blobs/sha256"].map(|part| self.data_root.join("v1").join(part));
            let entries = parts.iter().flat_map(|part| std::fs::read_dir(part).expect("a directory of the store"));
            entries.flatten().map(|entry| entry.path()).collect()
        };
        let is_new = |path: &PathBuf| path.extension().is_some_and(|name| name == "new");
        assert!(left().iter().all(is_new), "{:?}", left());
        eventually("nothing is left", || left().is_empty().then_some(()));
    }

    /// Waits until every compressed layer has made way for its recipe, or is kept as the store has decided. The thread that
    /// works on it has the lowest priority there is, which beside other tests is none: it gets an ordinary one.
    #[track_caller]
    pub fn wait_for_recipes(&self) {
        for task in std::fs::read_dir(format!("/proc/{}/task", self.daemon_pid())).expect("the daemon runs").flatten() {
            if std::fs::read_to_string(task.path().join("comm")).unwrap_or_default() == "store-pack\n" {
                Run::new("chrt", &["-o", "-p", "0", &task.file_name().to_string_lossy()]).output().ok();
            }
        }
        let begun = Instant::now();
        loop {
            let undecided = self.undecided_layers();
            if undecided.is_empty() {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(300), "still compressed, and not decided on: {undecided:?}");
            // Another process's files and rows, which tell nobody.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The files of compressed layers that are neither recipes nor, as the store's table says, kept for good.
    fn undecided_layers(&self) -> Vec<String> {
        let root = self.data_root.join("v1");
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let database =
            rusqlite::Connection::open_with_flags(root.join("brig.db"), flags).expect("the store's database");
        // `State::Blob` in `store/packed/tables.rs`.
        let kept = database
            .prepare("SELECT digest FROM store_packed WHERE state = 2")
            .and_then(|mut kept| kept.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>());
        let kept = kept.expect("the store has a table of compressed forms");
        let is_kept = |file: &str| {
            let hex = file.strip_suffix(".blob").unwrap_or(file);
            kept.iter().any(|digest| digest.split_once(':').is_some_and(|(_, own)| own == hex))
        };
        let files =
            std::fs::read_dir(root.join("packed")).expect("the store has a folder of compressed forms").flatten();
        files
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|file| file.contains('.') && !is_kept(file))
            .collect()
    }

    /// The daemon's process id.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("a daemon runs").id()
    }

    /// Ends the daemon as a service manager would; containers keep running.
    #[track_caller]
    pub fn stop_daemon(&mut self) {
        let mut child = self.daemon.take().expect("a daemon runs");
        let pid = Pid::from_raw(child.id().cast_signed()).expect("a pid is not zero");
        kill_process(pid, Signal::TERM).expect("the daemon can be signalled");
        if !command::wait(&child, Duration::from_secs(20)) {
            child.kill().ok();
            child.wait().ok();
            panic!("the daemon did not end within 20 s:\n{}", self.daemon_log());
        }
        let status = child.wait().expect("the daemon can be waited for");
        assert!(status.success(), "the daemon ended with {status}:\n{}", self.daemon_log());
    }

    /// Ends the daemon as a power cut would.
    pub fn kill_daemon(&mut self) {
        let mut child = self.daemon.take().expect("a daemon runs");
        child.kill().expect("the daemon can be killed");
        child.wait().expect("the daemon can be waited for");
    }

    /// Kills the daemon and starts it again.
    #[track_caller]
    pub fn crash_daemon(&mut self) {
        self.kill_daemon();
        self.start_daemon();
    }

    /// Any program in the host's network, with the environment of a user there.
    pub fn run<S: AsRef<str>>(&self, program: impl Into<std::ffi::OsString>, arguments: &[S]) -> Run {
        Run::new(program, arguments)
            .inside(&self.netns)
            .env("HOME", self.root.join("home"))
            .env("BRIG_SOCKET", self.socket())
            .env("BRIG_TEST_HOST", self.name.as_str())
    }

    /// A program of the machine in the host's network.
    pub fn program<S: AsRef<str>>(&self, program: &str, arguments: &[S]) -> Run {
        self.run(program, arguments)
    }

    /// `brig` with arguments, to be run.
    pub fn brig_run<S: AsRef<str>>(&self, arguments: &[S]) -> Run {
        self.run(binary("brig"), arguments).env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
    }

    /// Runs `brig`.
    #[track_caller]
    pub fn brig<S: AsRef<str>>(&self, arguments: &[S]) -> Output {
        self.brig_run(arguments).output()
    }

    /// The stock `docker` client with arguments, to be run against the host's socket.
    pub fn docker_run<S: AsRef<str>>(&self, arguments: &[S]) -> Run {
        let docker = crate::skip::program("docker").expect("the docker client is installed");
        self.run(docker, arguments).env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
    }

    /// Runs the stock `docker` client.
    #[track_caller]
    pub fn docker<S: AsRef<str>>(&self, arguments: &[S]) -> Output {
        self.docker_run(arguments).output()
    }

    /// Runs `brig` in a terminal.
    pub fn brig_terminal<S: AsRef<str>>(&self, arguments: &[S]) -> Terminal {
        Terminal::new(self.brig_run(arguments), &format!("brig {}", shown(arguments)), 24, 80)
    }

    /// Runs the stock client in a terminal.
    pub fn docker_terminal<S: AsRef<str>>(&self, arguments: &[S]) -> Terminal {
        Terminal::new(self.docker_run(arguments), &format!("docker {}", shown(arguments)), 24, 80)
    }

    /// Loads the busybox image, `busybox:latest`.
    #[track_caller]
    pub fn load_busybox(&self) {
        let path = self.root.join("busybox.tar");
        std::fs::write(&path, crate::Image::busybox().docker_archive("busybox:latest"))
            .expect("the image can be written");
        self.brig(&["load", "-q", "-i", &path.display().to_string()]).ok();
        std::fs::remove_file(path).expect("the image was written");
    }

    /// What `brig inspect` says of a container or image.
    #[track_caller]
    pub fn inspect(&self, name: &str) -> serde_json::Value {
        let text = self.brig(&["inspect", name]).ok();
        let list: serde_json::Value = serde_json::from_str(&text).expect("inspect prints JSON");
        list[0].clone()
    }

    /// One field of a container or image as a template prints it.
    #[track_caller]
    pub fn field(&self, name: &str, template: &str) -> String {
        self.brig(&["inspect", "--format", template, name]).ok()
    }

    /// Waits until a container's state is as said.
    #[track_caller]
    pub fn wait_for_state(&self, name: &str, state: &str) {
        eventually(&format!("{name} is {state}"), || (self.field(name, "{{.State.Status}}") == state).then_some(()));
    }

    /// A container's first process, as the machine sees it.
    #[track_caller]
    pub fn pid(&self, name: &str) -> u32 {
        self.field(name, "{{.State.Pid}}").parse().expect("a pid is a number")
    }

    /// The shim of a container.
    pub fn shim_pid(&self, name: &str) -> u32 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid(name))).expect("it runs");
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a process has a parent");
        parent.trim().parse().expect("a pid is a number")
    }

    /// Another machine on a wire to this one.
    pub fn neighbour(&self) -> Neighbour {
        let number = self.neighbours.fetch_add(1, Ordering::Relaxed);
        let netns = Arc::new(netns::create().expect("a network namespace can be made"));
        let peer = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
        let (host, address) = if number == 0 {
            (HOST.to_owned(), NEIGHBOUR.to_owned())
        } else {
            (format!("10.99.{number}.1"), format!("10.99.{number}.2"))
        };
        let lan = format!("lan{number}");
        let ip = |netns: &Arc<OwnedFd>, line: &str| {
            Run::new("ip", &line.split(' ').collect::<Vec<_>>()).inside(netns).output().ok();
        };
        ip(&self.netns, &format!("link add {lan} type veth peer name eth0 netns {peer}"));
        ip(&self.netns, &format!("addr add {host}/24 dev {lan}"));
        ip(&self.netns, &format!("link set {lan} up"));
        ip(&netns, "link set lo up");
        ip(&netns, &format!("addr add {address}/24 dev eth0"));
        ip(&netns, "link set eth0 up");
        Neighbour { netns, host, address }
    }

    fn take_down(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.socket().exists() && self.daemon.is_some() {
            let listed = self.brig(&["ps", "-aq", "--no-trunc"]);
            let ids: Vec<&str> = listed.stdout.split_whitespace().collect();
            if !ids.is_empty() {
                let mut arguments = vec!["rm", "-f", "-v"];
                arguments.extend(&ids);
                let removed = self.brig(&arguments);
                if removed.code != 0 {
                    problems.push(format!("the containers could not be removed: {removed}"));
                }
            }
        }
        if self.daemon.is_some() {
            problems.extend(leaks::wait_for_empty_trash(self));
        }
        if let Some(child) = &mut self.daemon {
            let pid = Pid::from_raw(child.id().cast_signed()).expect("a pid is not zero");
            kill_process(pid, Signal::TERM).ok();
            if !command::wait(child, Duration::from_secs(20)) {
                problems.push("the daemon did not end within 20 s of SIGTERM".to_owned());
                child.kill().ok();
            }
            match child.wait() {
                Ok(status) if status.success() => {}
                other => problems.push(format!("the daemon ended with {other:?}")),
            }
            self.daemon = None;
        }
        problems
    }
}

impl Default for TestHost {
    fn default() -> TestHost {
        TestHost::new()
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            eprintln!("--- the daemon's log of {}\n{}---", self.name, self.daemon_log());
        }
        let taken_down = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.take_down()));
        let mut problems = taken_down.unwrap_or_else(|_| vec!["it could not be taken down".to_owned()]);
        problems.extend(leaks::wait_for_none(self));
        leaks::sweep(self);
        if failed || self.forgive {
            problems.iter().for_each(|problem| eprintln!("left over in {}: {problem}", self.name));
        } else {
            let log = self.daemon_log();
            std::fs::remove_dir_all(&self.root).ok();
            assert!(problems.is_empty(), "left over in {}:\n{}\n{log}", self.name, problems.join("\n"));
        }
        std::fs::remove_dir_all(&self.root).ok();
    }
}

fn shown<S: AsRef<str>>(arguments: &[S]) -> String {
    arguments.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ")
}

/// Where test hosts live: a real disk, since overlays and idmapped mounts are wanted.
pub fn base() -> PathBuf {
    std::env::var_os("BRIG_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

/// A program of ours, built beside the tests.
pub fn binary(name: &str) -> PathBuf {
    let folder = std::env::var_os("BRIG_BIN_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let own = std::env::current_exe().expect("a test knows its own program");
        own.parent().and_then(Path::parent).expect("a test is built into target/…/deps").to_owned()
    });
    let own = std::env::current_exe().expect("a test knows its own program");
    // A test is in `deps`, another program beside ours.
    let folders = [Some(folder.as_path()), own.parent(), own.parent().and_then(Path::parent)];
    let found = folders.into_iter().flatten().map(|folder| folder.join(name)).find(|path| path.is_file());
    let path = found.unwrap_or_else(|| folder.join(name));
    assert!(path.exists(), "{} is not built: cargo build -p brig-brig -p brig-shim", path.display());
    path
}

impl Neighbour {
    /// A program there.
    pub fn program<S: AsRef<str>>(&self, program: &str, arguments: &[S]) -> Run {
        Run::new(program, arguments).inside(&self.netns)
    }

    /// Does something in the neighbour's network.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::inside(self.netns.as_fd(), work).expect("the namespace can be entered")
    }
}
