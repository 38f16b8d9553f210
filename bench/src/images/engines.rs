//! How each engine is told to pull, push, save, load and remove. Owns the peers' processes and folders; times nothing.

use crate::others::Docker;
use brig_tests::command::Run;
use brig_tests::{TestHost, host, skip};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// An engine, running where it is a daemon.
pub enum Engine<'a> {
    /// Ours.
    Brig(&'a TestHost),
    /// Debian's.
    Docker(Docker),
    /// podman with a storage of its own.
    Podman(Tool),
    /// skopeo, from the registry into a storage as podman's and back.
    Skopeo(Tool),
}

/// A program without a daemon.
pub struct Tool {
    program: PathBuf,
    folder: PathBuf,
    netns: Arc<OwnedFd>,
}

/// What is to be done.
pub enum Operation<'a> {
    /// From the registry.
    Pull(&'a str),
    /// What is there under the first name, to the second.
    Push(&'a str, &'a str),
    /// Into a docker-archive.
    Save(&'a str, &'a Path),
    /// From one, in which the image has this name.
    Load(&'a str, &'a Path),
    /// The name and all that only it needs.
    Remove(&'a str),
}

/// Ours first, then those that are installed.
pub fn all(host: &TestHost) -> Vec<Engine<'_>> {
    let mut engines = vec![Engine::Brig(host)];
    let docker = Docker::start_in(&host.netns, &["--bridge=none", "--storage-driver=overlay2"]);
    engines.extend(docker.map(Engine::Docker));
    engines.extend(Tool::new(host, "podman").map(Engine::Podman));
    engines.extend(Tool::new(host, "skopeo").map(Engine::Skopeo));
    engines
}

impl Engine<'_> {
    /// As the table calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Engine::Brig(_) => "brig",
            Engine::Docker(_) => "docker",
            Engine::Podman(_) => "podman",
            Engine::Skopeo(_) => "skopeo",
        }
    }

    /// Where its images are.
    pub fn data(&self) -> PathBuf {
        match self {
            Engine::Brig(host) => host.data_root.clone(),
            Engine::Docker(docker) => docker.data(),
            Engine::Podman(tool) | Engine::Skopeo(tool) => tool.folder.join("root"),
        }
    }

    /// Its daemon, if it has one.
    pub fn daemon(&self) -> Option<u32> {
        match self {
            Engine::Brig(host) => Some(host.daemon_pid()),
            Engine::Docker(docker) => Some(docker.pid()),
            Engine::Podman(_) | Engine::Skopeo(_) => None,
        }
    }

    /// The command for an operation.
    pub fn command(&self, operation: &Operation<'_>) -> Run {
        let words = self.words(operation);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match self {
            Engine::Brig(host) => host.brig_run(&words),
            Engine::Docker(docker) => docker.client(&words),
            Engine::Podman(tool) | Engine::Skopeo(tool) => tool.run(&words),
        }
    }

    /// Does it, untimed; a failure ends the benchmark.
    pub fn perform(&self, operation: &Operation<'_>) {
        self.prepare(operation);
        self.command(operation).limit(Duration::from_secs(300)).output().ok();
        self.tidy(operation);
    }

    /// What has to be there before: a pushed name, for the two that push by name.
    pub fn prepare(&self, operation: &Operation<'_>) {
        if let Operation::Push(local, remote) = operation
            && local != remote
        {
            self.tag(&["tag", local, remote]);
        }
    }

    /// Takes back what `prepare` did.
    pub fn tidy(&self, operation: &Operation<'_>) {
        if let Operation::Push(local, remote) = operation
            && local != remote
        {
            self.tag(&["rmi", remote]);
        }
    }

    fn tag(&self, words: &[&str]) {
        match self {
            Engine::Brig(host) => drop(host.brig(words).ok()),
            Engine::Docker(docker) => drop(docker.client(words).output().ok()),
            Engine::Podman(_) | Engine::Skopeo(_) => {}
        }
    }

    fn words(&self, operation: &Operation<'_>) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        match (self, operation) {
            (Engine::Skopeo(tool), _) => tool.skopeo(operation),
            (Engine::Podman(tool), Operation::Pull(name)) => tool.podman(&["pull", "-q", "--tls-verify=false", name]),
            (Engine::Podman(tool), Operation::Push(local, remote)) => {
                tool.podman(&["push", "-q", "--tls-verify=false", local, remote])
            }
            (Engine::Podman(tool), Operation::Save(name, file)) => {
                tool.podman(&["save", "-q", "-o", &path(file), name])
            }
            (Engine::Podman(tool), Operation::Load(_, file)) => tool.podman(&["load", "-q", "-i", &path(file)]),
            (Engine::Podman(tool), Operation::Remove(name)) => tool.podman(&["rmi", name]),
            (_, Operation::Pull(name)) => words(&["pull", "-q", name]),
            (_, Operation::Push(_, remote)) => words(&["push", "-q", remote]),
            (_, Operation::Save(name, file)) => words(&["save", "-o", &path(file), name]),
            (_, Operation::Load(_, file)) => words(&["load", "-q", "-i", &path(file)]),
            (_, Operation::Remove(name)) => words(&["rmi", name]),
        }
    }
}

impl Tool {
    fn new(host: &TestHost, name: &str) -> Option<Tool> {
        let program = skip::program(name)?;
        let folder = host::base().join(format!("brig-bench-{name}-{}", std::process::id()));
        let config = folder.join("home/.config/containers");
        std::fs::create_dir_all(&config).ok()?;
        std::fs::write(config.join("policy.json"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).ok()?;
        std::fs::write(config.join("registries.conf"), "").ok()?;
        Some(Tool { program, folder, netns: Arc::clone(&host.netns) })
    }

    fn run(&self, words: &[&str]) -> Run {
        let home = self.folder.join("home");
        Run::new(&self.program, words)
            .inside(&self.netns)
            .env("HOME", &home)
            .env("CONTAINERS_REGISTRIES_CONF", home.join(".config/containers/registries.conf"))
    }

    fn podman(&self, words: &[&str]) -> Vec<String> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let mut all: Vec<String> = vec!["--root".into(), path("root"), "--runroot".into(), path("run")];
        all.extend(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs"].map(str::to_owned));
        all.extend(words.iter().map(|&word| word.to_owned()));
        all
    }

    fn skopeo(&self, operation: &Operation<'_>) -> Vec<String> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let stored = |name: &str| format!("containers-storage:[overlay@{}+{}]{name}", path("root"), path("run"));
        let (verb, from, to) = match operation {
            Operation::Pull(name) => ("copy", format!("docker://{name}"), stored(name)),
            Operation::Push(local, remote) => ("copy", stored(local), format!("docker://{remote}")),
            Operation::Save(name, file) => ("copy", stored(name), format!("docker-archive:{}:{name}", file.display())),
            Operation::Load(name, file) => ("copy", format!("docker-archive:{}", file.display()), stored(name)),
            Operation::Remove(name) => ("delete", stored(name), String::new()),
        };
        let mut words = vec!["--insecure-policy".to_owned(), verb.to_owned()];
        if verb == "copy" {
            words.extend(["-q", "--src-tls-verify=false", "--dest-tls-verify=false"].map(str::to_owned));
        }
        words.extend([from, to].into_iter().filter(|word| !word.is_empty()));
        words
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        // podman leaves its storage mounted upon itself.
        for folder in ["root/overlay", "root"] {
            Run::new("umount", &["-q", &self.folder.join(folder).display().to_string()]).output();
        }
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("{} is left: {error}", self.folder.display());
        }
    }
}
