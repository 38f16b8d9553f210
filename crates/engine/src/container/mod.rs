//! Containers: the noun. Owns who may ask what of which container; the work is the tasks' (`task`, `start`), the
//! decisions are `policy`'s, the pictures are `view`'s.

mod create;
mod defaults;
mod exec;
mod index;
mod inspect;
mod launcher;
mod list;
mod logging;
mod modes;
mod mounts;
mod policy;
mod record;
mod resources;
mod restart;
mod security;
mod shared;
mod shim_link;
mod signals;
mod snapshot;
mod spec;
mod start;
mod stats;
mod task;
mod users;
mod view;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use brig_api::container as api;
use brig_api::filters::Filters;
use bytes::Bytes;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{Error, ErrorKind, Result};
use crate::logs::{self, LogOptions, LogStream};
pub use exec::ExecTable;
pub use index::Index;
pub use list::ListOptions;
pub use modes::{Modes, NetworkMode};
pub use policy::{Request, Status};
pub use record::Record;
pub use shared::{Paths, Shared};
pub use snapshot::Export;
pub use stats::total_memory;
pub use view::View;

use brig_shim::protocol::{Request as ShimRequest, Streams};
pub(crate) use launcher::Launcher;
pub(crate) use record::Records;
use task::Command;

/// How long `stop` waits unless the container or the request says otherwise (Docker's), in seconds.
const STOP_TIMEOUT: i64 = 10;
/// How often `rm -f` kills a container that is started again and again before it gives up.
const REMOVE_ATTEMPTS: u32 = 20;
/// How long an ended process may take to be cleaned up after SIGKILL before `stop` gives up, in seconds.
const KILL_TIMEOUT: u64 = 30;

/// One container, as those who ask it things see it.
pub struct Handle {
    /// Its id.
    pub id: String,
    pub(crate) paths: Paths,
    pub(crate) execs: Arc<ExecTable>,
    commands: mpsc::Sender<Command>,
    views: watch::Receiver<Arc<View>>,
}

impl Handle {
    /// The current picture.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.views.borrow())
    }

    /// Sends a request to the task and waits for its answer.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command) -> Result<T> {
        let (sender, answer) = oneshot::channel();
        let gone = || Error::not_found(format!("No such container: {}", self.id));
        self.commands.send(command(sender)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// What `attach` takes.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttachOptions {
    /// The client writes.
    pub stdin: bool,
    /// The client reads standard output.
    pub stdout: bool,
    /// The client reads standard error.
    pub stderr: bool,
    /// Live streams are wanted.
    pub stream: bool,
    /// What was printed so far is wanted first.
    pub logs: bool,
}

/// A client's streams with a process.
pub struct Attachment {
    /// Whether the process has a terminal: the streams are raw. Otherwise they are Docker's frames.
    pub tty: bool,
    /// Whether what the client writes reaches the process.
    pub stdin_open: bool,
    /// What was printed before, if asked for; to be sent first.
    pub replay: Option<mpsc::Receiver<Result<Bytes>>>,
    /// The streams, once the process runs; an error when it never will.
    pub stream: Option<oneshot::Receiver<UnixStream>>,
}

/// What `remove` takes.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    /// Kill it first.
    pub force: bool,
    /// Remove its anonymous volumes.
    pub volumes: bool,
}

/// When `wait` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    /// When it does not run; at once if it doesn't now.
    NotRunning,
    /// When the run after this moment ends.
    NextExit,
    /// When it is removed.
    Removed,
}

/// All containers of this engine.
#[derive(Clone)]
pub struct Containers {
    shared: Arc<Shared>,
}

impl Containers {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn find(&self, id: &str) -> Result<Arc<Handle>> {
        self.shared.index.find(id)
    }

    /// Makes a container.
    pub async fn create(
        &self,
        name: Option<&str>,
        platform: Option<&str>,
        request: api::CreateRequest,
    ) -> Result<api::CreateResponse> {
        let (shared, name, platform) = (Arc::clone(&self.shared), name.map(str::to_owned), platform.map(str::to_owned));
        blocking(move || create::create(&shared, name.as_deref(), platform.as_deref(), request)).await
    }

    /// Starts it; [`ErrorKind::NotModified`] when it runs.
    pub async fn start(&self, id: &str) -> Result<()> {
        self.find(id)?.ask(Command::Start).await
    }

    /// Stops it: its stop signal, then SIGKILL after the timeout (negative: never).
    pub async fn stop(&self, id: &str, signal: Option<&str>, timeout_seconds: Option<i64>) -> Result<()> {
        let handle = self.find(id)?;
        let view = handle.view();
        policy::check(view.status, Request::Stop, &view.record.id, &view.record.name)?;
        if view.status == Status::Restarting {
            return handle.ask(Command::CancelRestart).await;
        }
        let config = &view.record.config;
        let signal =
            match signal.filter(|s| !s.is_empty()).or(Some(config.stop_signal.as_str()).filter(|s| !s.is_empty())) {
                Some(signal) => signals::parse(signal)?,
                None => signals::parse("TERM")?,
            };
        let timeout = timeout_seconds.or(config.stop_timeout).unwrap_or(STOP_TIMEOUT);
        end(&handle, signal, timeout).await?;
        self.shared.emit_container(&handle.view().record, "stop", &[]);
        Ok(())
    }

    /// Stops it if it runs, and starts it.
    pub async fn restart(&self, id: &str, signal: Option<&str>, timeout_seconds: Option<i64>) -> Result<()> {
        match self.stop(id, signal, timeout_seconds).await {
            Err(e) if e.kind != ErrorKind::NotModified => return Err(e),
            Ok(()) | Err(_) => {}
        }
        match self.start(id).await {
            Err(e) if e.kind != ErrorKind::NotModified => return Err(e),
            Ok(()) | Err(_) => {}
        }
        self.shared.emit_container(&self.find(id)?.view().record, "restart", &[]);
        Ok(())
    }

    /// Sends a signal (default SIGKILL).
    pub async fn kill(&self, id: &str, signal: Option<&str>) -> Result<()> {
        let handle = self.find(id)?;
        let number = signals::parse(signal.filter(|s| !s.is_empty()).unwrap_or("KILL"))?;
        let view = handle.view();
        let stop_signal =
            signals::parse(Some(view.record.config.stop_signal.as_str()).filter(|s| !s.is_empty()).unwrap_or("TERM"))?;
        // A signal that means the end keeps the restart policy from undoing it.
        let stopping = number == 9 || number == stop_signal;
        let exits = view.exits;
        handle.ask(|answer| Command::Kill(number, stopping, answer)).await?;
        if number == 9 {
            ended(&handle, exits, Some(Duration::from_secs(KILL_TIMEOUT))).await;
        }
        Ok(())
    }

    /// Freezes it.
    pub async fn pause(&self, id: &str) -> Result<()> {
        self.find(id)?.ask(|answer| Command::Freeze(true, answer)).await
    }

    /// Thaws it.
    pub async fn unpause(&self, id: &str) -> Result<()> {
        self.find(id)?.ask(|answer| Command::Freeze(false, answer)).await
    }

    /// Gives it another name.
    pub async fn rename(&self, id: &str, new: &str) -> Result<()> {
        let handle = self.find(id)?;
        let new = new.trim_start_matches('/');
        if new.is_empty() {
            return Err(Error::invalid("Neither old nor new names may be empty"));
        }
        let old = handle.view().record.name.clone();
        if old == new {
            return Err(Error::invalid("Renaming a container with the same name as its current name"));
        }
        self.shared.index.take_name(&handle.id, new)?;
        let result = handle.ask(|answer| Command::Rename(new.to_owned(), answer)).await;
        self.shared.index.forget_name(if result.is_ok() { &old } else { new });
        result
    }

    /// Changes limits and the restart policy.
    pub async fn update(&self, id: &str, request: api::UpdateRequest) -> Result<api::UpdateResponse> {
        self.find(id)?.ask(|answer| Command::Update(Box::new(request), answer)).await?;
        Ok(api::UpdateResponse::default())
    }

    /// Removes it.
    pub async fn remove(&self, id: &str, options: RemoveOptions) -> Result<()> {
        let handle = self.find(id)?;
        let mut attempts = 0;
        loop {
            match remove_once(&handle, options).await {
                // Somebody else started it between the kill and the removal.
                Err(e)
                    if e.kind == ErrorKind::Conflict
                        && options.force
                        && attempts < REMOVE_ATTEMPTS
                        && handle.view().status != Status::Removing =>
                {
                    attempts += 1;
                }
                other => return other,
            }
        }
    }

    /// Removes all stopped containers that pass the filters. Answers when their files are gone: the bytes that it tells
    /// of are free then.
    pub async fn prune(&self, filters: &Filters) -> Result<api::PruneReport> {
        filters.check(&["label", "label!", "until"]).map_err(Error::invalid)?;
        let limit = crate::until_limit(filters)?;
        let (containers, filters, runtime) = (self.clone(), filters.clone(), tokio::runtime::Handle::current());
        let pruned = tokio::task::spawn_blocking(move || {
            let removal = || Ok::<_, Error>(runtime.block_on(containers.remove_stopped(&filters, limit)));
            containers.shared.store.upkeep().freed_by(removal)
        });
        let (deleted, space_reclaimed) =
            pruned.await.unwrap_or_else(|e| Err(Error::system(format!("the prune was cut short: {e}"))))?;
        self.shared.events.pruned("container", space_reclaimed);
        Ok(api::PruneReport { containers_deleted: Some(deleted), space_reclaimed })
    }

    async fn remove_stopped(&self, filters: &Filters, limit: Option<jiff::Timestamp>) -> Vec<String> {
        let mut deleted = Vec::new();
        for view in self.shared.index.views() {
            let labels = view.record.config.labels.clone().unwrap_or_default();
            let old_enough =
                limit.is_none_or(|limit| crate::id::parse_time(&view.record.created).is_some_and(|at| at < limit));
            let wanted = matches!(view.status, Status::Created | Status::Exited | Status::Dead)
                && old_enough
                && filters.matches_labels("label", &labels)
                && !filters.matches_any_label("label!", &labels);
            if !wanted {
                continue;
            }
            if self.remove(&view.record.id, RemoveOptions::default()).await.is_ok() {
                deleted.push(view.record.id.clone());
            }
        }
        deleted
    }

    /// The list.
    pub fn list(&self, options: &ListOptions) -> Result<Vec<api::Summary>> {
        let images = &self.shared.images;
        let selected =
            list::select(self.shared.index.views(), options, |view, image| images.is_ancestor(image, &view.record))?;
        let sizes = |view: &View| options.size.then(|| self.shared.sizes(&view.record));
        let mut current = HashMap::new();
        let summary = |view: &Arc<View>| {
            let (image, id) = (&view.record.image, &view.record.image_id);
            let is_current = *current
                .entry((image.clone(), id.clone()))
                .or_insert_with(|| image.is_empty() || image == id || crate::images::still_means(images, image, id));
            let mut summary = list::summary(view, sizes(view));
            if !is_current {
                // The name went, or means another image now: what it was made from is known by its id only.
                summary.image.clone_from(id);
            }
            summary
        };
        Ok(selected.iter().map(summary).collect())
    }

    /// One in full.
    pub fn inspect(&self, id: &str, size: bool) -> Result<api::InspectResponse> {
        let handle = self.find(id)?;
        let view = handle.view();
        let extras = inspect::Extras {
            exec_ids: handle.execs.ids(),
            sizes: size.then(|| self.shared.sizes(&view.record)),
            paths: handle.paths.clone(),
            graph: self.shared.graph(&view.record),
        };
        Ok(inspect::inspect(&view, extras))
    }

    /// Registers a wait now and gives the future that ends with it.
    pub fn wait(
        &self,
        id: &str,
        condition: WaitCondition,
    ) -> Result<impl Future<Output = Result<api::WaitResponse>> + Send + 'static + use<>> {
        let handle = self.find(id)?;
        let mut views = handle.views.clone();
        let (exits, failed_starts) = {
            let view = views.borrow_and_update();
            (view.exits, view.failed_starts)
        };
        Ok(async move {
            loop {
                {
                    let view = views.borrow_and_update();
                    let over = match condition {
                        WaitCondition::NotRunning => !view.status.is_alive() && view.status != Status::Restarting,
                        // A start that fails ends the wait too: there will be no exit to wait for.
                        WaitCondition::NextExit => {
                            view.exits > exits || view.failed_starts > failed_starts || view.removed
                        }
                        WaitCondition::Removed => view.removed || view.removal_error.is_some(),
                    };
                    if over {
                        let error = view.removal_error.clone().filter(|_| condition == WaitCondition::Removed);
                        return Ok(api::WaitResponse {
                            status_code: view.exit_code,
                            error: error.map(|message| api::WaitExitError { message }),
                        });
                    }
                }
                if views.changed().await.is_err() {
                    let status_code = views.borrow().exit_code;
                    return Ok(api::WaitResponse { status_code, error: None });
                }
            }
        })
    }

    /// Its log.
    pub fn logs(&self, id: &str, options: LogOptions) -> Result<LogStream> {
        let handle = self.find(id)?;
        if !(options.stdout || options.stderr) {
            return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
        }
        let view = handle.view();
        if view.record.host_config.log_config.type_ == "none" {
            return Err(Error::not_implemented("configured logging driver does not support reading"));
        }
        Ok(logs::read(handle.paths.log.clone(), view.record.config.tty, options, handle.views.clone()))
    }

    /// Its streams: at once when it runs, at its start when not.
    pub async fn attach(&self, id: &str, options: AttachOptions) -> Result<Attachment> {
        let handle = self.find(id)?;
        let view = handle.view();
        if view.status == Status::Paused {
            return Err(Error::conflict(format!(
                "container {} is paused, unpause the container before attach",
                view.record.id
            )));
        }
        if view.status == Status::Restarting {
            return Err(Error::conflict(format!(
                "container {} is restarting, wait until the container is running",
                view.record.id
            )));
        }
        let config = &view.record.config;
        let replay = options.logs.then(|| {
            let options = LogOptions { stdout: options.stdout, stderr: options.stderr, ..LogOptions::default() };
            logs::read(handle.paths.log.clone(), config.tty, options, handle.views.clone()).chunks
        });
        let stream = if options.stream {
            let streams =
                Streams { stdin: options.stdin && config.open_stdin, stdout: options.stdout, stderr: options.stderr };
            let (sender, receiver) = oneshot::channel();
            let command = Command::Attach(ShimRequest::Attach(streams), sender);
            handle.commands.send(command).await.map_err(|_| Error::not_found(format!("No such container: {id}")))?;
            self.shared.emit_container(&view.record, "attach", &[]);
            Some(receiver)
        } else {
            None
        };
        Ok(Attachment { tty: config.tty, stdin_open: options.stdin && config.open_stdin, replay, stream })
    }

    /// Tells its terminal a size.
    pub async fn resize(&self, id: &str, height: u16, width: u16) -> Result<()> {
        let handle = self.find(id)?;
        let view = handle.view();
        policy::check(view.status, Request::Resize, &view.record.id, &view.record.name)?;
        shim_link::ask(&handle.paths.run, &ShimRequest::Resize { height, width }).await.map(drop)
    }

    /// Its processes as `ps` would show them.
    pub async fn top(&self, id: &str, ps_args: &str) -> Result<api::TopResponse> {
        let handle = self.find(id)?;
        let view = handle.view();
        policy::check(view.status, Request::Top, &view.record.id, &view.record.name)?;
        stats::top(&handle, ps_args).await
    }

    /// What it uses now.
    pub async fn stats(&self, id: &str) -> Result<brig_api::stats::Stats> {
        let handle = self.find(id)?;
        stats::sample(&handle).await
    }

    /// Notes a process to run in it.
    pub async fn exec_create(&self, id: &str, request: brig_api::exec::CreateRequest) -> Result<String> {
        let handle = self.find(id)?;
        let shared = Arc::clone(&self.shared);
        blocking(move || exec::create(&shared, &handle, request)).await
    }

    fn find_exec(&self, exec_id: &str) -> Result<Arc<Handle>> {
        let found = self.shared.index.handles().into_iter().find(|handle| handle.execs.contains(exec_id));
        found.ok_or_else(|| exec::no_such(exec_id))
    }

    /// Refuses an exec that does not exist, ran already, or whose container is in no state for it.
    pub fn exec_check(&self, exec_id: &str) -> Result<()> {
        exec::check(&*self.find_exec(exec_id)?, exec_id)
    }

    /// Runs it; the streams unless detached.
    pub async fn exec_start(&self, exec_id: &str, how: brig_api::exec::StartRequest) -> Result<Option<Attachment>> {
        let handle = self.find_exec(exec_id)?;
        let started = exec::start(&self.shared, &handle, exec_id, how).await?;
        Ok(started.map(|started| {
            let (sender, receiver) = oneshot::channel();
            // The receiver is right here, so it cannot have gone.
            sender.send(started.stream).ok();
            Attachment { tty: started.tty, stdin_open: started.stdin_open, replay: None, stream: Some(receiver) }
        }))
    }

    /// Tells its terminal a size.
    pub async fn exec_resize(&self, exec_id: &str, height: u16, width: u16) -> Result<()> {
        let handle = self.find_exec(exec_id)?;
        exec::resize(&handle, exec_id, height, width).await
    }

    /// What became of it.
    pub async fn exec_inspect(&self, exec_id: &str) -> Result<brig_api::exec::InspectResponse> {
        let handle = self.find_exec(exec_id)?;
        exec::inspect(&handle, exec_id).await
    }

    /// Some container for which something is being done though nobody asks.
    fn in_need(&self) -> Option<Arc<Handle>> {
        // What its task has left behind, if that is gone, says nothing.
        let needs = |handle: &Arc<Handle>| handle.views.has_changed().is_ok() && handle.view().needs_care();
        self.shared.index.handles().into_iter().find(needs)
    }

    /// Whether no container has a live process, will have one by its restart policy, or is being removed.
    pub fn are_at_rest(&self) -> bool {
        self.in_need().is_none()
    }

    /// Waits until no container has a live process, will have one by its restart policy, or is being removed.
    pub async fn at_rest(&self) {
        while let Some(handle) = self.in_need() {
            // It fails when the container is gone altogether, which is as good.
            handle.views.clone().wait_for(|view| !view.needs_care()).await.ok();
        }
    }
}

/// Kills it if that was asked for, and removes it.
async fn remove_once(handle: &Handle, options: RemoveOptions) -> Result<()> {
    let view = handle.view();
    policy::check(view.status, Request::Remove { force: options.force }, &view.record.id, &view.record.name)?;
    if options.force && (view.status.is_alive() || view.status == Status::Restarting) {
        match kill_for_removal(handle, &view).await {
            // Ended by itself meanwhile.
            Err(e) if e.kind != ErrorKind::Conflict && e.kind != ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
    }
    match handle.ask(|answer| Command::Remove(options.volumes, answer)).await {
        // `--rm` was faster.
        Err(e) if e.kind == ErrorKind::NotFound && view.record.host_config.auto_remove => Ok(()),
        other => other,
    }
}

/// Runs blocking work on the pool for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Error::system(format!("the operation was cut short: {e}"))))
}

/// Waits until a run that was under way when `exits` was read has ended; `false` when the time is up first.
async fn ended(handle: &Handle, exits: u64, timeout: Option<Duration>) -> bool {
    let mut views = handle.views.clone();
    let over = async {
        loop {
            {
                let view = views.borrow_and_update();
                if view.exits > exits || view.removed {
                    return;
                }
            }
            if views.changed().await.is_err() {
                return;
            }
        }
    };
    match timeout {
        Some(timeout) => tokio::time::timeout(timeout, over).await.is_ok(),
        None => {
            over.await;
            true
        }
    }
}

/// Signal, wait, SIGKILL, wait.
async fn end(handle: &Handle, signal: i32, timeout_seconds: i64) -> Result<()> {
    let exits = handle.view().exits;
    match handle.ask(|answer| Command::Kill(signal, true, answer)).await {
        // It ended between the look and the signal.
        Err(e) if e.kind == ErrorKind::Conflict => return Ok(()),
        other => other?,
    }
    let patience = u64::try_from(timeout_seconds).ok().map(Duration::from_secs);
    if ended(handle, exits, patience).await {
        return Ok(());
    }
    match handle.ask(|answer| Command::Kill(9, true, answer)).await {
        Err(e) if e.kind == ErrorKind::Conflict || e.kind == ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    if ended(handle, exits, Some(Duration::from_secs(KILL_TIMEOUT))).await {
        return Ok(());
    }
    Err(Error::system(format!(
        "container {} did not end within {KILL_TIMEOUT} s of SIGKILL: a process of it hangs in the kernel",
        handle.id
    )))
}

async fn kill_for_removal(handle: &Handle, view: &View) -> Result<()> {
    if view.status == Status::Restarting {
        return handle.ask(Command::CancelRestart).await;
    }
    end(handle, 9, i64::try_from(KILL_TIMEOUT).unwrap_or(i64::MAX)).await
}
