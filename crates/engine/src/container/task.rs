//! One task owns one container and is the only thing that changes it. It takes requests and the shim's events in turn,
//! asks `policy` whether a request may happen now, and publishes a picture after each change. Long waits (for an exit)
//! are the callers', so that a `kill` never queues behind a `stop`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use brig_api::container::UpdateRequest;
use brig_shim::protocol::{Event, Request as ShimRequest};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use super::policy::{self, Request, Status};
use super::record::{Durability, Record};
use super::restart::{self, Verdict};
use super::shim_link::ShimLink;
use super::view::View;
use super::{ExecTable, Paths, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::id::now;

/// A request with the place for its answer.
pub enum Command {
    /// Start.
    Start(oneshot::Sender<Result<()>>),
    /// Send this signal; `stopping` remembers that a person wants it stopped.
    Kill(i32, bool, oneshot::Sender<Result<()>>),
    /// Forget a pending restart, if any: `stop` while restarting.
    CancelRestart(oneshot::Sender<Result<()>>),
    /// Freeze or thaw.
    Freeze(bool, oneshot::Sender<Result<()>>),
    /// Give another name.
    Rename(String, oneshot::Sender<Result<()>>),
    /// Change limits.
    Update(Box<UpdateRequest>, oneshot::Sender<Result<()>>),
    /// Remove; the process must have ended.
    Remove(bool, oneshot::Sender<Result<()>>),
    /// Connect a client's streams now, or when it starts.
    Attach(ShimRequest, oneshot::Sender<UnixStream>),
}

/// The task's state.
pub struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) paths: Paths,
    pub(super) record: Arc<Record>,
    pub(super) view: View,
    pub(super) views: watch::Sender<Arc<View>>,
    pub(super) link: Option<ShimLink>,
    pub(super) execs: Arc<ExecTable>,
    /// Clients that attached before the start.
    pub(super) waiting: Vec<(ShimRequest, oneshot::Sender<UnixStream>)>,
    /// When to start again by the restart policy, and how long the next wait is.
    pub(super) restart_at: Option<tokio::time::Instant>,
    pub(super) backoff: Duration,
    /// When to try again to reach a shim that is there but did not answer after a restart of the daemon.
    pub(super) relink_at: Option<tokio::time::Instant>,
    pub(super) began: Option<Instant>,
}

impl Task {
    /// Serves until the container is removed or nobody holds a handle any more.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let (restart_at, relink_at) = (self.restart_at, self.relink_at);
            let next_event = async {
                match self.link.as_mut() {
                    Some(link) => link.next_event().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                event = next_event => self.on_event(event).await,
                command = commands.recv() => match command {
                    Some(command) => self.handle(command).await,
                    None => return,
                },
                () = sleep_until(restart_at) => self.restart_now().await,
                () = sleep_until(relink_at) => self.resume().await,
            }
            if self.view.removed {
                return;
            }
        }
    }

    async fn handle(&mut self, command: Command) {
        // An answer that nobody waits for any more is no failure: the client hung up.
        match command {
            Command::Start(answer) => {
                let result = self.start_by_request().await;
                answer.send(result).ok();
            }
            Command::Kill(signal, stopping, answer) => {
                let result = self.kill(signal, stopping).await;
                answer.send(result).ok();
            }
            Command::CancelRestart(answer) => {
                answer.send(self.cancel_restart()).ok();
            }
            Command::Freeze(on, answer) => {
                let result = self.freeze(on).await;
                answer.send(result).ok();
            }
            Command::Rename(name, answer) => {
                answer.send(self.rename(name)).ok();
            }
            Command::Update(request, answer) => {
                let result = self.update(*request).await;
                answer.send(result).ok();
            }
            Command::Remove(volumes, answer) => {
                let result = self.remove(volumes).await;
                answer.send(result).ok();
            }
            Command::Attach(request, answer) => self.attach(request, answer).await,
        }
    }

    fn check(&self, request: Request) -> Result<()> {
        policy::check(self.view.status, request, &self.record.id, &self.record.name)
    }

    pub(super) fn publish(&mut self) {
        self.view.record = Arc::clone(&self.record);
        self.views.send_replace(Arc::new(self.view.clone()));
    }

    pub(super) fn change(&mut self, durability: Durability, change: impl FnOnce(&mut Record)) -> Result<()> {
        let mut record = (*self.record).clone();
        change(&mut record);
        let record = Arc::new(record);
        self.shared.records.put(&record, durability)?;
        self.record = record;
        Ok(())
    }

    pub(super) fn emit(&self, action: &str, extra: &[(&str, String)]) {
        self.shared.emit_container(&self.record, action, extra);
    }

    /// Tells that the container joined or left its network.
    fn emit_network(&self, action: &str, run: &super::record::Run) {
        let Some(attachment) = &run.attachment else { return };
        let attributes =
            [("container", self.record.id.as_str()), ("name", attachment.network.as_str()), ("type", "bridge")];
        let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned()));
        self.shared.events.emit("network", action, &attachment.network_id, attributes.into());
    }

    async fn start_by_request(&mut self) -> Result<()> {
        self.check(Request::Start)?;
        self.restart_at = None;
        self.backoff = restart::FIRST_WAIT;
        let result = self.start().await;
        if result.is_err() && self.record.host_config.auto_remove {
            self.remove_quietly().await;
        }
        result
    }

    /// Starts and publishes what came of it.
    async fn start(&mut self) -> Result<()> {
        match self.begin().await {
            Ok(()) => Ok(()),
            Err(failure) => {
                let code = failure.exit_code;
                tracing::debug!(container = %self.record.short_id(), "start failed: {}", failure.error.message);
                self.waiting.clear();
                let text = failure.error.message.clone();
                // The start's own error matters more than one about noting it.
                if let Err(e) = self.change(Durability::PowerCut, |record| {
                    record.run = None;
                    record.start_error = Some((code, text.clone()));
                }) {
                    tracing::error!(container = %self.record.short_id(), "cannot note the failed start: {e}");
                }
                self.view.status = if self.record.was_started { Status::Exited } else { Status::Created };
                self.view.exit_code = code;
                self.view.error = text;
                self.view.pid = 0;
                self.view.failed_starts += 1;
                self.publish();
                self.emit("die", &[("exitCode", code.to_string())]);
                Err(failure.error)
            }
        }
    }

    async fn restart_now(&mut self) {
        self.restart_at = None;
        let count = self.record.restart_count + 1;
        if let Err(e) = self.change(Durability::Crash, |record| record.restart_count = count) {
            tracing::error!(container = %self.record.short_id(), "cannot count the restart: {e}");
        }
        if let Err(e) = self.start().await {
            tracing::warn!(container = %self.record.short_id(), "the restart policy could not start it: {e}");
            self.schedule_restart();
            if self.restart_at.is_some() {
                self.view.status = Status::Restarting;
            }
            self.publish();
        }
    }

    fn cancel_restart(&mut self) -> Result<()> {
        if self.restart_at.take().is_some() {
            self.change(Durability::PowerCut, |record| record.stopped_by_user = true)?;
            self.view.status = Status::Exited;
            self.publish();
        }
        Ok(())
    }

    async fn kill(&mut self, signal: i32, stopping: bool) -> Result<()> {
        self.check(Request::Kill)?;
        if stopping && !self.record.stopped_by_user {
            self.change(Durability::PowerCut, |record| record.stopped_by_user = true)?;
        }
        self.ask(&ShimRequest::Kill { signal }).await?;
        // A frozen process takes no signal before it is thawed; one that is to end is therefore thawed, as in Docker.
        if self.view.status == Status::Paused && (stopping || signal == libc_signal::KILL) {
            if let Err(e) = self.ask(&ShimRequest::Resume).await {
                // The signal was sent: it may have ended, or been thawed, by now.
                tracing::debug!(container = %self.record.short_id(), "thaw after a signal: {e}");
            }
            self.view.status = Status::Running;
            self.publish();
        }
        self.emit("kill", &[("signal", signal.to_string())]);
        Ok(())
    }

    /// One request to the shim, one answer.
    pub(super) async fn ask(&self, request: &ShimRequest) -> Result<serde_json::Value> {
        super::shim_link::ask(&self.paths.run, request).await
    }

    async fn freeze(&mut self, on: bool) -> Result<()> {
        self.check(if on { Request::Pause } else { Request::Unpause })?;
        self.ask(if on { &ShimRequest::Pause } else { &ShimRequest::Resume }).await?;
        self.view.status = if on { Status::Paused } else { Status::Running };
        self.publish();
        self.emit(if on { "pause" } else { "unpause" }, &[]);
        Ok(())
    }

    fn rename(&mut self, name: String) -> Result<()> {
        self.check(Request::Rename)?;
        let old = self.record.name.clone();
        self.change(Durability::PowerCut, |record| record.name = name)?;
        self.publish();
        self.emit("rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }

    async fn update(&mut self, request: UpdateRequest) -> Result<()> {
        self.check(Request::Update)?;
        let mut host = self.record.host_config.clone();
        super::create::merge_update(&mut host, &request)?;
        if self.view.status.is_alive() {
            let resources = Box::new(super::resources::convert(&host.resources));
            self.ask(&ShimRequest::Update { resources }).await?;
        }
        self.change(Durability::PowerCut, |record| record.host_config = host)?;
        self.publish();
        self.emit("update", &[]);
        Ok(())
    }

    async fn attach(&mut self, request: ShimRequest, answer: oneshot::Sender<UnixStream>) {
        if !self.view.status.is_alive() {
            self.waiting.retain(|(_, waiting)| !waiting.is_closed());
            self.waiting.push((request, answer));
            return;
        }
        match super::shim_link::stream(&self.paths.run, &request).await {
            Ok(stream) => {
                answer.send(stream).ok();
            }
            // The answer is dropped, which the client sees as the end of the stream.
            Err(e) => tracing::debug!(container = %self.record.short_id(), "attach: {e}"),
        }
    }

    async fn on_event(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Oom) => {
                self.view.oom_killed = true;
                self.publish();
                self.emit("oom", &[]);
            }
            Some(Event::ExecExited { exec_id, exit_code }) => {
                self.execs.ended(&exec_id, exit_code);
                self.emit("exec_die", &[("execID", exec_id), ("exitCode", exit_code.to_string())]);
            }
            Some(Event::Exited { .. }) => self.on_exit().await,
            // The shim is gone. If it could say how the container ended, the file says it too.
            None => self.on_exit().await,
            Some(_) => {}
        }
    }

    /// The process has ended: take down what was set up for it and decide what comes next.
    async fn on_exit(&mut self) {
        let run = self.record.run.clone();
        let exit = self.collect_exit(run.as_ref()).await;
        self.view.exit_code = exit.exit_code;
        self.view.oom_killed = exit.oom_killed;
        self.view.finished_at = exit.finished_at.clone();
        self.view.pid = 0;
        self.execs.all_ended();
        if let Some(mut link) = self.link.take() {
            link.release().await;
        }
        if let Some(run) = &run {
            self.teardown(run).await;
        }
        if let Err(e) = self.change(Durability::Crash, |record| record.run = None) {
            tracing::error!(container = %self.record.short_id(), "cannot note the exit: {e}");
        }
        self.view.status = Status::Exited;
        self.emit(
            "die",
            &[
                ("exitCode", exit.exit_code.to_string()),
                ("execDuration", self.began.map_or(0, |began| began.elapsed().as_secs()).to_string()),
            ],
        );
        if let Some(run) = &run {
            self.emit_network("disconnect", run);
        }
        self.after_exit().await;
    }

    /// The restart policy and `--rm`, once the picture says that the run is over.
    pub(super) async fn after_exit(&mut self) {
        self.view.exits += 1;
        self.schedule_restart();
        if self.restart_at.is_some() {
            self.view.status = Status::Restarting;
            self.publish();
            return;
        }
        self.publish();
        if self.record.host_config.auto_remove {
            self.remove_quietly().await;
        }
    }

    fn schedule_restart(&mut self) {
        let lasted = self.began.map(|began| began.elapsed()).unwrap_or_default();
        if lasted >= restart::CALM {
            self.backoff = restart::FIRST_WAIT;
        }
        let policy = &self.record.host_config.restart_policy;
        match restart::decide(policy, self.view.exit_code, self.record.stopped_by_user, self.record.restart_count) {
            Verdict::Restart => {
                self.restart_at = Some(tokio::time::Instant::now() + self.backoff);
                self.backoff = (self.backoff * 2).min(restart::LONGEST_WAIT);
            }
            Verdict::Stay => self.restart_at = None,
        }
    }

    pub(super) async fn remove_quietly(&mut self) {
        if let Err(e) = self.remove(true).await {
            tracing::error!(container = %self.record.short_id(), "cannot remove it as --rm asked: {e}");
        }
    }

    /// Removes everything that the container has.
    async fn remove(&mut self, volumes: bool) -> Result<()> {
        self.check(Request::Remove { force: false })?;
        self.restart_at = None;
        self.view.status = Status::Removing;
        self.publish();
        let (shared, paths, record) = (Arc::clone(&self.shared), self.paths.clone(), Arc::clone(&self.record));
        let removed = tokio::task::spawn_blocking(move || shared.erase(&record, &paths, volumes)).await;
        let result =
            removed.unwrap_or_else(|e| Err(Error::new(ErrorKind::System, format!("removal was cut short: {e}"))));
        match &result {
            Ok(()) => {
                self.view.removed = true;
                self.shared.index.forget(&self.record.id, &self.record.name);
                self.emit("destroy", &[]);
            }
            Err(e) => {
                self.view.status = Status::Dead;
                self.view.removal_error = Some(e.message.clone());
            }
        }
        self.publish();
        result
    }

    /// Notes a successful start.
    pub(super) fn started(&mut self, pid: i32) {
        self.began = Some(Instant::now());
        self.view.status = Status::Running;
        self.view.pid = pid;
        self.view.exit_code = 0;
        self.view.oom_killed = false;
        self.view.error.clear();
        self.view.started_at = self.record.run.as_ref().map_or_else(now, |run| run.started_at.clone());
        self.publish();
        if let Some(run) = &self.record.run {
            self.emit_network("connect", run);
        }
        self.emit("start", &[]);
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The one signal whose number matters here.
mod libc_signal {
    /// `SIGKILL`, the same number on every Linux.
    pub const KILL: i32 = 9;
}
