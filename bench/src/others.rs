//! Other engines and runtimes on the same machine, where they are installed, in namespaces and folders of their own.
//! Owns starting and ending them; nothing of theirs that was there before is touched.

use crate::measure::{Sample, time, unpack};
use brig_tests::command::{self, Run};
use brig_tests::{Image, TestHost, host, skip};
use serde_json::json;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A dockerd of its own with one running container.
pub struct Docker {
    folder: PathBuf,
    netns: Arc<OwnedFd>,
    child: Child,
}

impl Docker {
    /// Starts it; none if it is not installed or does not come up.
    pub fn start() -> Option<Docker> {
        let dockerd = skip::program("dockerd")?;
        skip::program("docker")?;
        let folder = host::base().join(format!("brig-bench-docker-{}", std::process::id()));
        std::fs::create_dir_all(&folder).ok()?;
        let netns = Arc::new(brig_sys::netns::create().ok()?);
        Run::new("ip", &["link", "set", "lo", "up"]).inside(&netns).output().ok();
        let path = |name: &str| folder.join(name).display().to_string();
        std::fs::write(folder.join("daemon.json"), "{}").ok()?;
        let arguments = [
            "--data-root".into(),
            path("data"),
            "--exec-root".into(),
            path("run"),
            "--pidfile".into(),
            path("pid"),
            "--config-file".into(),
            path("daemon.json"),
            "-H".into(),
            format!("unix://{}", path("sock")),
            "--iptables=false".into(),
            "--ip6tables=false".into(),
            "--ip-masq=false".into(),
        ];
        let log = std::fs::File::create(folder.join("log")).ok()?;
        let run = Run::new(dockerd, &arguments).inside(&netns).with(|command| {
            let errors = log.try_clone().map_or_else(|_| Stdio::null(), Stdio::from);
            command.stdin(Stdio::null()).stdout(errors).stderr(log);
        });
        let docker = Docker { child: run.spawn(), netns, folder };
        docker.prepare().then_some(docker)
    }

    fn client(&self, arguments: &[&str]) -> Run {
        let socket = format!("unix://{}", self.folder.join("sock").display());
        let program = skip::program("docker").unwrap_or_else(|| "docker".into());
        Run::new(program, arguments).inside(&self.netns).env("DOCKER_HOST", socket).env("HOME", &self.folder)
    }

    fn prepare(&self) -> bool {
        let begun = Instant::now();
        while self.client(&["version"]).output().code != 0 {
            if begun.elapsed() > Duration::from_secs(40) {
                eprintln!("dockerd does not answer: {}", self.log());
                return false;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let archive = Image::busybox().docker_archive("busybox:latest");
        let loaded = self.client(&["load", "-q"]).input(archive).output();
        let started = self.client(&["run", "-d", "--name", "bench", "busybox", "sleep", "100000"]).output();
        if loaded.code != 0 || started.code != 0 {
            eprintln!("dockerd does not run a container: {loaded}\n{started}\n{}", self.log());
            return false;
        }
        true
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// One `docker exec`.
    pub fn exec(&self) -> Sample {
        time(self.client(&["exec", "bench", "/bin/probe", "true"]))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        self.client(&["rm", "-f", "bench"]).output();
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed());
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        if !command::wait(&self.child, Duration::from_secs(20)) {
            self.child.kill().ok();
        }
        self.child.wait().ok();
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("{} is left: {error}", self.folder.display());
        }
    }
}

/// A bundle that every OCI runtime can run.
pub struct Bundle {
    folder: PathBuf,
    runtimes: Vec<(String, PathBuf)>,
    netns: Arc<OwnedFd>,
    cgroup: String,
}

impl Bundle {
    /// Writes the bundle and looks which runtimes there are.
    pub fn new(host: &TestHost) -> Bundle {
        let folder = host.root.join("bundle");
        unpack(&folder);
        let cgroup = format!("/{}/oci", host.name);
        let mut runtimes = vec![("brig-rt".to_owned(), host::binary("brig-rt"))];
        for name in ["runc", "crun"] {
            runtimes.extend(skip::program(name).map(|program| (name.to_owned(), program)));
        }
        let mut bundle = Bundle { folder, runtimes: Vec::new(), netns: Arc::clone(&host.netns), cgroup };
        for (name, program) in runtimes {
            let tried = bundle.command(&program, "try").output();
            if tried.code == 0 {
                bundle.runtimes.push((name, program));
            } else {
                eprintln!("{name} does not run here: {}", tried.stderr.trim());
                bundle.delete(&program, "try");
            }
        }
        bundle
    }

    fn delete(&self, program: &Path, round: &str) {
        let arguments = ["--root", &self.state(), "delete", "--force", &id(program, round)].map(str::to_owned);
        Run::new(program, &arguments).inside(&self.netns).output();
    }

    fn state(&self) -> String {
        self.folder.join("state").display().to_string()
    }

    /// Names and programs.
    pub fn runtimes(&self) -> &[(String, PathBuf)] {
        &self.runtimes
    }

    /// One container from start to end.
    pub fn once(&self, program: &Path, round: usize) -> Sample {
        time(self.command(program, &round.to_string()))
    }

    fn command(&self, program: &Path, round: &str) -> Run {
        let id = id(program, round);
        let text = config(&format!("{}-{id}", self.cgroup)).to_string();
        std::fs::write(self.folder.join("config.json"), text).expect("the bundle can be written");
        let bundle = self.folder.display().to_string();
        let arguments = ["--root", &self.state(), "run", "--bundle", &bundle, &id].map(str::to_owned);
        Run::new(program, &arguments).inside(&self.netns)
    }
}

fn id(program: &Path, round: &str) -> String {
    let name = program.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    format!("{name}-{round}-{}", std::process::id())
}

/// What `runc spec` writes, in short.
fn config(cgroup: &str) -> serde_json::Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let namespaces: Vec<_> =
        ["pid", "network", "ipc", "uts", "mount"].iter().map(|kind| json!({"type": kind})).collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["/bin/probe", "true"], "cwd": "/",
            "env": ["PATH=/bin"], "noNewPrivileges": true,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "bench",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": namespaces,
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
