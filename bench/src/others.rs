//! Another engine on the same machine, where it is installed, in namespaces and folders of its own.
//! Owns starting and ending it; nothing of its that was there before is touched.

use crate::measure::{Sample, time};
use brig_tests::command::{self, Run};
use brig_tests::{Image, host, skip};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A dockerd of its own.
pub struct Docker {
    folder: PathBuf,
    netns: Arc<OwnedFd>,
    child: Child,
}

impl Docker {
    /// Starts it in a network of its own, with one running container; none if it is not installed or does not come up.
    pub fn start() -> Option<Docker> {
        let netns = Arc::new(brig_sys::netns::create().ok()?);
        Run::new("ip", &["link", "set", "lo", "up"]).inside(&netns).output().ok();
        Docker::start_in(&netns, &[]).filter(Docker::prepare)
    }

    /// Starts it in a network, with further arguments and without a container; none if it is not installed or does not
    /// come up.
    pub fn start_in(netns: &Arc<OwnedFd>, more: &[&str]) -> Option<Docker> {
        let dockerd = skip::program("dockerd")?;
        skip::program("docker")?;
        let folder = host::base().join(format!("brig-bench-docker-{}", std::process::id()));
        std::fs::create_dir_all(&folder).ok()?;
        let path = |name: &str| folder.join(name).display().to_string();
        std::fs::write(folder.join("daemon.json"), "{}").ok()?;
        let mut arguments = vec![
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
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        let log = std::fs::File::create(folder.join("log")).ok()?;
        let run = Run::new(dockerd, &arguments).inside(netns).with(|command| {
            let errors = log.try_clone().map_or_else(|_| Stdio::null(), Stdio::from);
            command.stdin(Stdio::null()).stdout(errors).stderr(log);
        });
        let docker = Docker { child: run.spawn(), netns: Arc::clone(netns), folder };
        docker.answers().then_some(docker)
    }

    /// The stock client, against this daemon.
    pub fn client(&self, arguments: &[&str]) -> Run {
        let socket = format!("unix://{}", self.folder.join("sock").display());
        let program = skip::program("docker").unwrap_or_else(|| "docker".into());
        Run::new(program, arguments).inside(&self.netns).env("DOCKER_HOST", socket).env("HOME", &self.folder)
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything of its own.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn answers(&self) -> bool {
        let begun = Instant::now();
        while self.client(&["version"]).output().code != 0 {
            if begun.elapsed() > Duration::from_secs(40) {
                eprintln!("dockerd does not answer: {}", self.log());
                return false;
            }
            // Its socket is there before it answers, and it tells nobody when it does.
            std::thread::sleep(Duration::from_millis(100));
        }
        true
    }

    fn prepare(&self) -> bool {
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
