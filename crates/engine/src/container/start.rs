//! Starting a container, step by step, each with its undo; and taking the same things down after the run.
//!
//! ids and addresses → files → specification → shim → (shim: namespaces) → network, while init prepares the root
//! filesystem → clients that wait → go → the program runs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use brig_shim::client;
use brig_shim::protocol::{self, Event, Exit, LogConfig, LogDriver, Request, Rootfs};

use super::modes::{Mode, Modes, NetworkMode};
use super::policy::Status;
use super::record::{Durability, Run};
use super::shim_link::{self, ShimLink};
use super::spec;
use super::task::Task;
use crate::error::{Error, Result};
use crate::id::{ZERO_TIME, now};

/// A start that takes longer than this hangs (a network file system that does not answer, say) and is given up.
const LONGEST_START: Duration = Duration::from_secs(60);

/// How long to leave a shim alone that does not answer.
const RELINK_WAIT: Duration = Duration::from_secs(5);

/// Why a start failed, and the exit code that stands for it.
pub struct StartFailure {
    /// For the caller.
    pub error: Error,
    /// For `inspect` and `wait`.
    pub exit_code: i64,
}

impl From<Error> for StartFailure {
    fn from(error: Error) -> Self {
        Self { error, exit_code: 128 }
    }
}

impl Task {
    /// Starts the container or leaves nothing.
    pub(super) async fn begin(&mut self) -> std::result::Result<(), StartFailure> {
        let mut run = Run { pid: 0, started_at: String::new(), id_base: None, attachment: None };
        let result = match tokio::time::timeout(LONGEST_START, self.steps(&mut run)).await {
            Ok(result) => result,
            Err(_) => Err(Error::system(format!(
                "the container did not start within {} s and was given up",
                LONGEST_START.as_secs()
            ))
            .into()),
        };
        if result.is_err() {
            // Closing the connection before `go` makes the shim remove what it made.
            self.link = None;
            self.teardown(&run).await;
        }
        result
    }

    async fn steps(&mut self, run: &mut Run) -> std::result::Result<(), StartFailure> {
        let clock = std::time::Instant::now();
        let step = |what: &str| tracing::debug!("start: {what} after {} µs", clock.elapsed().as_micros());
        let modes = Modes::of(&self.record.host_config)?;
        let joined = self.find_joined(&modes)?;
        if modes.user == Mode::Private {
            run.id_base = Some(self.shared.id_ranges.allocate()?);
        }
        if let NetworkMode::Named(network) = &modes.network {
            run.attachment = Some(self.shared.networks.reserve(network, &self.record).await?);
        }
        step("addresses and ids");
        // From here on another daemon would know what to clean up.
        self.change(Durability::Crash, |record| {
            record.run = Some(run.clone());
            record.start_error = None;
        })?;
        step("record");
        self.prepare_directory(&modes, run, &joined).await?;
        step("directory");
        let mut link = self.shared.launcher.spawn(&self.paths.run)?;
        step("shim spawned");
        run.pid = self.until_created(&mut link).await?;
        step("namespaces");
        if let Err(e) = self.connect_network(&modes, run).await {
            // The namespace may be gone because init could not prepare the start: then that is the reason to tell.
            self.until_ready(&mut link).await?;
            return Err(e.into());
        }
        step("network");
        self.connect_waiting().await;
        step("clients");
        // A shim that could not prepare the start has hung up, but said why before: that is read below.
        let sent = link.send(&Request::Go).await;
        if let Err(e) = sent {
            tracing::debug!(container = %self.record.short_id(), "{e}");
        }
        let (pid, at) = self.until_started(&mut link).await?;
        step("program");
        run.pid = pid;
        run.started_at = at;
        self.link = Some(link);
        self.change(Durability::Crash, |record| {
            record.run = Some(run.clone());
            record.was_started = true;
            record.stopped_by_user = false;
        })?;
        self.started(pid);
        Ok(())
    }

    async fn connect_network(&self, modes: &Modes, run: &Run) -> Result<()> {
        match (&run.attachment, &modes.network) {
            (Some(attachment), _) => self.shared.networks.attach(run.pid, attachment).await,
            (None, NetworkMode::None) => self.shared.networks.loopback(run.pid).await,
            (None, NetworkMode::Host | NetworkMode::Container(_) | NetworkMode::Named(_)) => Ok(()),
        }
    }

    /// The first processes of the containers whose namespaces are joined, and whether they have their own users.
    fn find_joined(&self, modes: &Modes) -> Result<Joined> {
        let mut joined = Joined::default();
        for name in modes.joined() {
            let view = self.shared.index.view(name)?;
            if !view.status.is_alive() {
                return Err(Error::conflict(format!(
                    "cannot join the namespaces of container {name}: it is {}: start it first",
                    view.status.as_str()
                )));
            }
            let base = self.shared.index.id_base_of(&view)?;
            if !joined.pids.is_empty() && joined.id_base != base {
                return Err(Error::conflict(
                    "cannot join the namespaces of two containers with different ranges of user ids",
                ));
            }
            joined.id_base = base;
            joined.pids.insert(name.to_owned(), view.pid);
        }
        Ok(joined)
    }

    /// Writes what the shim reads.
    async fn prepare_directory(&mut self, modes: &Modes, run: &Run, joined: &Joined) -> Result<()> {
        let (shared, record, paths) = (Arc::clone(&self.shared), Arc::clone(&self.record), self.paths.clone());
        let (modes, run, joined) = (modes.clone(), run.clone(), joined.clone());
        let prepare = move || -> Result<()> {
            let accounts = shared.accounts_of(&record)?;
            let volume_paths = shared.volume_paths(&record)?;
            shared.networks.write_files(&record, &modes, run.attachment.as_ref(), &paths.state, &shared.index)?;
            let parent = match record.host_config.resources.cgroup_parent.as_str() {
                "" => shared.config.cgroup_parent.clone().unwrap_or_else(|| "/brig".into()),
                given => given.to_owned(),
            };
            let spec = spec::build(&spec::Inputs {
                record: &record,
                modes: &modes,
                id_base: run.id_base,
                joined: &joined.pids,
                join_user: joined.id_base.is_some(),
                accounts: &accounts,
                files: &paths.state,
                volume_paths: &volume_paths,
                default_ulimits: &shared.config.default_ulimits,
                no_new_privileges: shared.config.no_new_privileges,
                cgroup_parent: &parent,
            })?;
            let config = shim_config(&shared, &record, &paths, parent)?;
            remove_stale(&paths.exit)?;
            make_run_directory(&paths.run)?;
            write(&paths.run.join(client::SPEC), &spec)?;
            write(&paths.run.join(client::CONFIG), &config)
        };
        tokio::task::spawn_blocking(prepare)
            .await
            .unwrap_or_else(|e| Err(Error::system(format!("preparing the start was cut short: {e}"))))
    }

    async fn until_created(&self, link: &mut ShimLink) -> std::result::Result<i32, StartFailure> {
        loop {
            match link.next_event().await {
                Some(Event::Created { pid }) => return Ok(pid),
                event => self.expect(event)?,
            }
        }
    }

    async fn until_ready(&self, link: &mut ShimLink) -> std::result::Result<(), StartFailure> {
        loop {
            match link.next_event().await {
                Some(Event::Ready) => return Ok(()),
                event => self.expect(event)?,
            }
        }
    }

    async fn until_started(&self, link: &mut ShimLink) -> std::result::Result<(i32, String), StartFailure> {
        loop {
            match link.next_event().await {
                Some(Event::Started { pid, at }) => return Ok((pid, at)),
                event => self.expect(event)?,
            }
        }
    }

    /// Passes over events that do not matter yet; a failure, or the end of the shim, ends the start.
    fn expect(&self, event: Option<Event>) -> std::result::Result<(), StartFailure> {
        match event {
            Some(Event::Failed { error }) => {
                let exit_code = shim_link::exit_code_of(&error);
                let error = shim_link::from_failure(error).context("failed to start the container");
                Err(StartFailure { error, exit_code })
            }
            None => {
                let why = client::read_failure(&self.paths.run).unwrap_or_else(|| "it said nothing".into());
                Err(Error::system(format!("the container's shim ended before the start: {why}")).into())
            }
            Some(_) => Ok(()),
        }
    }

    /// Connects clients that attached before the start, before the program can print anything.
    async fn connect_waiting(&mut self) {
        for (request, answer) in std::mem::take(&mut self.waiting) {
            match shim_link::stream(&self.paths.run, &request).await {
                Ok(stream) => {
                    answer.send(stream).ok();
                }
                Err(e) => tracing::warn!(container = %self.record.short_id(), "attach at start: {e}"),
            }
        }
    }

    /// Takes down what a run had on the host. May run twice, and goes on after failures.
    pub(super) async fn teardown(&self, run: &Run) {
        if let Some(attachment) = &run.attachment {
            self.shared.networks.detach(attachment).await;
        }
        if let Some(base) = run.id_base {
            self.shared.id_ranges.release(base);
        }
        if let Err(e) = remove_run_directory(&self.paths.run) {
            tracing::warn!(container = %self.record.short_id(), "{e}");
        }
    }

    /// How the run ended: what the shim wrote. Without a word from it the host or the shim was killed.
    pub(super) async fn collect_exit(&self, run: Option<&Run>) -> ExitFacts {
        let path = self.paths.exit.clone();
        let read = tokio::task::spawn_blocking(move || client::read_exit(&path)).await;
        match read {
            Ok(Ok(Some(exit))) => exit.into(),
            Ok(Ok(None)) => {
                // Nobody keeps its processes any more: whatever is left of them must not go on unseen.
                self.shared.launcher.clean_up(&self.paths.run).await;
                ExitFacts {
                    exit_code: LOST,
                    oom_killed: false,
                    started_at: run.map(|r| r.started_at.clone()).unwrap_or_default(),
                    finished_at: now(),
                }
            }
            Ok(Err(e)) => {
                tracing::error!(container = %self.record.short_id(), "read {}: {e}", self.paths.exit.display());
                ExitFacts { exit_code: LOST, oom_killed: false, started_at: String::new(), finished_at: now() }
            }
            Err(_) => ExitFacts { exit_code: LOST, oom_killed: false, started_at: String::new(), finished_at: now() },
        }
    }

    /// How the last run ended, for a container that an earlier daemon dealt with.
    pub(super) async fn collect_exit_quietly(&self) -> ExitFacts {
        let path = self.paths.exit.clone();
        match tokio::task::spawn_blocking(move || client::read_exit(&path)).await {
            Ok(Ok(Some(exit))) => exit.into(),
            _ => ExitFacts {
                exit_code: LOST,
                oom_killed: false,
                started_at: ZERO_TIME.into(),
                finished_at: ZERO_TIME.into(),
            },
        }
    }

    /// Takes a run up again that an earlier daemon began: it still runs, or ended meanwhile.
    pub(super) async fn resume(&mut self) {
        let Some(run) = self.record.run.clone() else { return };
        let found = ShimLink::reconnect(&self.paths.run).await;
        if found.is_ok() {
            self.relink_at = None;
        }
        match found {
            Ok(Some((link, state))) if state.status == protocol::Phase::Running => {
                self.link = Some(link);
                self.began = Some(std::time::Instant::now());
                self.view.status = if state.paused { Status::Paused } else { Status::Running };
                self.view.pid = state.pid;
                self.view.started_at = state.started_at.unwrap_or_else(|| run.started_at.clone());
                self.publish();
            }
            Ok(other) => {
                // Never started (a shim that waits at the gate ends when its connection closes), or ended.
                drop(other);
                self.view.started_at = run.started_at.clone();
                self.finish_lost_run(&run).await;
            }
            // Somebody holds the socket open: it lives, and so does what it keeps, even if it is stopped just now.
            Err(e) if run.pid != 0 => {
                if self.relink_at.is_none() {
                    tracing::error!(container = %self.record.short_id(), "{e}: it is taken to run; trying again");
                }
                self.relink_at = Some(tokio::time::Instant::now() + RELINK_WAIT);
                self.view.status = Status::Running;
                self.view.pid = run.pid;
                self.view.started_at = run.started_at.clone();
                self.publish();
            }
            Err(e) => {
                tracing::error!(container = %self.record.short_id(), "{e}");
                self.finish_lost_run(&run).await;
            }
        }
    }

    async fn finish_lost_run(&mut self, run: &Run) {
        let exit = self.collect_exit(Some(run)).await;
        self.teardown(run).await;
        if let Err(e) = self.change(Durability::Crash, |record| record.run = None) {
            tracing::error!(container = %self.record.short_id(), "cannot note the exit: {e}");
        }
        self.view.status = Status::Exited;
        self.view.exit_code = exit.exit_code;
        self.view.oom_killed = exit.oom_killed;
        self.view.finished_at = exit.finished_at;
        self.emit("die", &[("exitCode", exit.exit_code.to_string())]);
        self.after_exit().await;
    }
}

/// Exit code of a run whose end nobody saw (Docker's).
const LOST: i64 = 255;

/// How a run ended.
pub struct ExitFacts {
    pub(super) exit_code: i64,
    pub(super) oom_killed: bool,
    pub(super) started_at: String,
    pub(super) finished_at: String,
}

impl From<Exit> for ExitFacts {
    fn from(exit: Exit) -> Self {
        Self {
            exit_code: i64::from(exit.exit_code),
            oom_killed: exit.oom_killed,
            started_at: exit.started_at,
            finished_at: exit.finished_at,
        }
    }
}

/// The containers that are joined.
#[derive(Clone, Default)]
pub(super) struct Joined {
    pub(super) pids: BTreeMap<String, i32>,
    pub(super) id_base: Option<u32>,
}

fn shim_config(
    shared: &super::Shared,
    record: &super::Record,
    paths: &super::Paths,
    cgroup_parent: String,
) -> Result<protocol::Config> {
    let host = &record.host_config;
    let [height, width] = host.console_size;
    let size = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let rootfs = if host.brig_rootfs.is_empty() {
        let layers = shared
            .store
            .active(&record.id)
            .ok_or_else(|| Error::system(format!("the writable layer of container {} is missing", record.name)))?;
        Rootfs::Overlay { lower: layers.lower, upper: layers.upper, work: layers.work, volatile: true }
    } else {
        Rootfs::OverlayTmpfs { lower: vec![PathBuf::from(&host.brig_rootfs)], size_bytes: None }
    };
    Ok(protocol::Config {
        id: record.id.clone(),
        rootfs,
        log: log_config(record, paths)?,
        exit_file: paths.exit.clone(),
        exit_relaxed: host.auto_remove,
        stdin_open: record.config.open_stdin,
        stdin_once: record.config.stdin_once,
        terminal: record.config.tty,
        init: host.init.unwrap_or(false),
        cgroup_parent,
        console_size: (height > 0 && width > 0).then(|| [size(height), size(width)]),
    })
}

fn log_config(record: &super::Record, paths: &super::Paths) -> Result<LogConfig> {
    let asked = &record.host_config.log_config;
    if asked.type_ == "none" {
        return Ok(LogConfig::default());
    }
    let options = super::logging::Options::parse(asked)?;
    Ok(LogConfig {
        driver: LogDriver::JsonFile,
        path: paths.log.clone(),
        max_size_bytes: options.max_size,
        max_files: options.max_files,
        attrs: options.attributes(record),
    })
}

fn make_run_directory(path: &std::path::Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::system(format!("make directory {}: {e}", path.display()));
    // What is there was left by a run that nobody could clean up after.
    remove_run_directory(path)?;
    fs::DirBuilder::new().mode(0o700).create(path).map_err(failed)
}

/// Removes what a run had in its directory. A shim that is just ending removes its socket at the same moment, so a file
/// that is gone is no failure; only when the directory itself is gone is this done.
pub(super) fn remove_run_directory(path: &std::path::Path) -> Result<()> {
    loop {
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !path.exists() => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::system(format!("remove {}: {e}", path.display()))),
        }
    }
}

fn remove_stale(path: &std::path::Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::system(format!("remove {}: {e}", path.display()))),
    }
}

fn write(path: &std::path::Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|e| Error::system(format!("encode {}: {e}", path.display())))?;
    fs::write(path, text).map_err(|e| Error::system(format!("write {}: {e}", path.display())))
}
