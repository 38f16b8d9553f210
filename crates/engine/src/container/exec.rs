//! Further processes in a running container: what was asked for, and what became of it. Owns the table of exec
//! instances, which lives as long as the daemon (as Docker's); the processes are the shim's.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use brig_api::exec::{CreateRequest, InspectResponse, ProcessConfig, StartRequest};
use brig_oci::runtime::Process;
use brig_shim::protocol::{Exec as ShimExec, ExecStarted, ExecState, Request as ShimRequest, Streams};
use tokio::net::UnixStream;

use super::security::{self, SecurityOptions};
use super::shim_link;
use super::spec::environment;
use super::{Handle, Request, Shared, policy};
use crate::error::{Error, Result};
use crate::id::random_id;

/// One exec instance.
#[derive(Debug, Clone)]
pub struct Exec {
    asked: CreateRequest,
    state: State,
}

impl Exec {
    fn may_start(&self, id: &str) -> Result<()> {
        match self.state {
            State::Created => Ok(()),
            State::Starting | State::Running(_) => {
                Err(Error::conflict(format!("exec command {id} is already running")))
            }
            State::Ended(..) => Err(Error::conflict(format!("exec command {id} has already run"))),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Created,
    Starting,
    Running(i32),
    Ended(i32, i64),
}

/// The exec instances of one container.
#[derive(Default)]
pub struct ExecTable {
    execs: Mutex<BTreeMap<String, Exec>>,
}

impl ExecTable {
    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<String, Exec>) -> T) -> T {
        work(&mut self.execs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ids of those that are not over.
    pub fn ids(&self) -> Vec<String> {
        self.with(|execs| {
            execs.iter().filter(|(_, exec)| !matches!(exec.state, State::Ended(..))).map(|(id, _)| id.clone()).collect()
        })
    }

    /// Whether this id is one of them.
    pub fn contains(&self, id: &str) -> bool {
        self.with(|execs| execs.contains_key(id))
    }

    /// Notes the end of one.
    pub fn ended(&self, id: &str, exit_code: i32) {
        self.with(|execs| {
            if let Some(exec) = execs.get_mut(id) {
                let pid = if let State::Running(pid) = exec.state { pid } else { 0 };
                exec.state = State::Ended(pid, i64::from(exit_code));
            }
        });
    }

    /// Notes that the container ended and took every process along.
    pub fn all_ended(&self) {
        self.with(|execs| {
            for exec in execs.values_mut() {
                if let State::Running(pid) = exec.state {
                    exec.state = State::Ended(pid, 137);
                }
            }
        });
    }

    fn set(&self, id: &str, state: State) {
        self.with(|execs| {
            if let Some(exec) = execs.get_mut(id)
                && !matches!(exec.state, State::Ended(..))
            {
                exec.state = state;
            }
        });
    }
}

/// Notes what is wanted; nothing runs yet.
pub fn create(shared: &Shared, handle: &Handle, asked: CreateRequest) -> Result<String> {
    let view = handle.view();
    policy::check(view.status, Request::Exec, &view.record.id, &view.record.name)?;
    if asked.cmd.as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::invalid("No exec command specified"));
    }
    if !asked.detach_keys.is_empty() {
        brig_api::detach::parse(&asked.detach_keys).map_err(Error::invalid)?;
    }
    let id = random_id()?;
    handle.execs.with(|execs| {
        // Old instances are forgotten one day; Docker does it by time, a number needs no timer.
        if execs.len() >= 512
            && let Some(oldest) =
                execs.iter().find(|(_, e)| matches!(e.state, State::Ended(..))).map(|(id, _)| id.clone())
        {
            execs.remove(&oldest);
        }
        execs.insert(id.clone(), Exec { asked: asked.clone(), state: State::Created });
    });
    shared.emit_exec(&view.record, &format!("exec_create: {}", in_events(&asked)), &id);
    Ok(id)
}

/// The command as events show it: program, a space, arguments.
fn in_events(asked: &CreateRequest) -> String {
    let command = asked.cmd.as_deref().unwrap_or_default();
    format!("{} {}", command.first().map_or("", String::as_str), command.get(1..).unwrap_or_default().join(" "))
}

fn user_of<'a>(asked: &'a CreateRequest, container: &'a str) -> &'a str {
    if asked.user.is_empty() { container } else { &asked.user }
}

/// A started exec.
pub struct Started {
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether the client may write.
    pub stdin_open: bool,
    /// Its streams.
    pub stream: UnixStream,
}

/// Whether it may be run now.
pub fn check(handle: &Handle, id: &str) -> Result<()> {
    let view = handle.view();
    handle.execs.with(|execs| execs.get(id).ok_or_else(|| no_such(id))?.may_start(id))?;
    policy::check(view.status, Request::Exec, &view.record.id, &view.record.name)
}

/// Runs it. `None` when the client does not want its streams.
pub async fn start(shared: &Shared, handle: &Handle, id: &str, how: StartRequest) -> Result<Option<Started>> {
    let view = handle.view();
    let asked = handle.execs.with(|execs| {
        let exec = execs.get_mut(id).ok_or_else(|| no_such(id))?;
        exec.may_start(id)?;
        policy::check(view.status, Request::Exec, &view.record.id, &view.record.name)?;
        exec.state = State::Starting;
        Ok(exec.asked.clone())
    })?;
    let result = launch(shared, handle, id, &asked, &how).await;
    match &result {
        Ok((pid, _)) => handle.execs.set(id, State::Running(*pid)),
        Err((code, _)) => handle.execs.set(id, State::Ended(0, *code)),
    }
    let (_, stream) = result.map_err(|(_, e)| e)?;
    shared.emit_exec(&view.record, &format!("exec_start: {}", in_events(&asked)), id);
    if how.detach {
        return Ok(None);
    }
    Ok(Some(Started { tty: asked.tty, stdin_open: asked.attach_stdin, stream }))
}

/// The error comes with the exit code that stands for it.
async fn launch(
    shared: &Shared,
    handle: &Handle,
    id: &str,
    asked: &CreateRequest,
    how: &StartRequest,
) -> std::result::Result<(i32, UnixStream), (i64, Error)> {
    let process = process(shared, handle, asked).map_err(|e| (126, e))?;
    let size = how.console_size.or(asked.console_size);
    let narrow = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let attach = if how.detach {
        Streams::default()
    } else {
        Streams { stdin: asked.attach_stdin, stdout: asked.attach_stdout, stderr: asked.attach_stderr }
    };
    let request = ShimRequest::Exec(Box::new(ShimExec {
        exec_id: id.to_owned(),
        process,
        attach,
        terminal: asked.tty,
        privileged: asked.privileged,
        console_size: size.filter(|[h, w]| *h > 0 && *w > 0).map(|[h, w]| [narrow(h), narrow(w)]),
    }));
    let answered = shim_link::stream_with::<ExecStarted>(&handle.paths.run, &request).await;
    answered.map(|(started, stream)| (started.pid, stream)).map_err(|e| {
        let code = if e.message.contains("executable file not found") || e.message.contains("no such file") {
            127
        } else {
            126
        };
        (code, e.context("OCI runtime exec failed"))
    })
}

fn process(shared: &Shared, handle: &Handle, asked: &CreateRequest) -> Result<Process> {
    let record = &handle.view().record;
    let (config, host) = (&record.config, &record.host_config);
    let accounts = shared.accounts_of(record)?;
    let additional = host.group_add.as_deref().unwrap_or_default();
    let identity = accounts.resolve(user_of(asked, &config.user), additional)?;
    let options = SecurityOptions::parse(host.security_opt.as_deref().unwrap_or_default())?;
    let mut env: Vec<String> = config.env.clone().unwrap_or_default();
    env.extend(asked.env.iter().flatten().cloned());
    let capabilities = if asked.privileged {
        security::all_capabilities(host)?
    } else {
        security::capabilities(host, identity.user.uid)?
    };
    let cwd = [&asked.working_dir, &config.working_dir].into_iter().find(|dir| !dir.is_empty());
    Ok(Process {
        terminal: asked.tty,
        args: asked.cmd.clone().unwrap_or_default(),
        env: environment(&env, &config.hostname, asked.tty, &identity.home),
        cwd: cwd.cloned().unwrap_or_else(|| "/".into()),
        capabilities: Some(capabilities),
        rlimits: super::resources::rlimits(host, &shared.config.default_ulimits)?,
        no_new_privileges: !asked.privileged && options.no_new_privileges.unwrap_or(shared.config.no_new_privileges),
        apparmor_profile: options.apparmor.unwrap_or_default(),
        user: identity.user,
        ..Process::default()
    })
}

/// What became of it.
pub async fn inspect(handle: &Handle, id: &str) -> Result<InspectResponse> {
    let mut exec = handle.execs.with(|execs| execs.get(id).cloned()).ok_or_else(|| no_such(id))?;
    if let State::Running(pid) = exec.state {
        // A client whose stream has just ended asks at once, perhaps before the shim's event was read: the shim knows.
        let request = ShimRequest::ExecState { exec_id: id.into() };
        if let Ok(ExecState { exit_code: Some(code), .. }) = shim_link::ask_for(&handle.paths.run, &request).await {
            exec.state = State::Ended(pid, code.into());
        }
    }
    let mut command = exec.asked.cmd.clone().unwrap_or_default().into_iter();
    let (pid, exit_code) = match exec.state {
        State::Created | State::Starting => (0, None),
        State::Running(pid) => (pid, None),
        State::Ended(pid, code) => (pid, Some(code)),
    };
    Ok(InspectResponse {
        id: id.into(),
        running: matches!(exec.state, State::Starting | State::Running(_)),
        exit_code,
        process_config: Some(ProcessConfig {
            tty: exec.asked.tty,
            entrypoint: command.next().unwrap_or_default(),
            arguments: Some(command.collect()),
            privileged: Some(exec.asked.privileged),
            user: exec.asked.user,
        }),
        open_stdin: exec.asked.attach_stdin,
        open_stderr: exec.asked.attach_stderr,
        open_stdout: exec.asked.attach_stdout,
        can_remove: false,
        container_id: handle.id.clone(),
        detach_keys: Some(exec.asked.detach_keys).filter(|keys| !keys.is_empty()),
        pid: i64::from(pid),
    })
}

/// Tells its terminal a size.
pub async fn resize(handle: &Handle, id: &str, height: u16, width: u16) -> Result<()> {
    let request = ShimRequest::ExecResize { exec_id: id.into(), height, width };
    shim_link::ask(&handle.paths.run, &request).await.map(drop)
}

/// The words for an id that no exec has.
pub fn no_such(id: &str) -> Error {
    Error::not_found(format!("No such exec instance: {id}"))
}
