//! What clients ask for, carried out.
//!
//! Owns: the answer to every [`Request`], and when one is refused. Must not: wait for clients.

use brig_oci::runtime::Spec;
use brig_runtime::cgroup::Stats;
use brig_runtime::{ExecRequest, Stdio};

use crate::connection::Role;
use crate::launch::{failure, kernel_failure, load};
use crate::protocol::{
    Event, Exec, ExecStarted, Failure, FailureKind, Phase, Pids, Request, Status, Streams, Subscribed, decode_request,
};
use crate::server::Shim;
use crate::streams::{Session, SessionId};
use crate::timestamp::Timestamp;

const SIGKILL: i32 = 9;

type Outcome<T = ()> = Result<T, Failure>;

impl Shim {
    /// Carries out one request of `client` and answers it.
    pub(crate) fn request(&mut self, client: u64, line: &[u8]) {
        let request = match decode_request(line) {
            Ok(request) => request,
            Err(error) => {
                let error = Failure::new(FailureKind::Invalid, error.to_string());
                return self.clients.answer::<()>(client, Err(error));
            }
        };
        match request {
            Request::Subscribe => {
                self.clients.answer(client, Ok(Subscribed { state: self.status() }));
                if let Some(client) = self.clients.get(client) {
                    client.role = Role::Subscriber;
                }
            }
            Request::State => self.clients.answer(client, Ok(Subscribed { state: self.status() })),
            Request::Go => self.go(client),
            Request::Kill { signal } => {
                let done = self.kill(signal);
                self.clients.answer(client, done);
            }
            Request::KillAll => {
                let done = self.container().and_then(|container| container.kill_all().map_err(failure));
                // Killing thaws what is frozen.
                self.paused &= done.is_err();
                self.clients.answer(client, done);
            }
            Request::Resize { height, width } => {
                let done = self.resize(SessionId::Init, height, width);
                self.clients.answer(client, done);
            }
            Request::Pause => {
                let done = self.set_paused(true);
                self.clients.answer(client, done);
            }
            Request::Resume => {
                let done = self.set_paused(false);
                self.clients.answer(client, done);
            }
            Request::Update { resources } => {
                let done =
                    self.container().and_then(|container| container.cgroup().update(&resources).map_err(failure));
                self.clients.answer(client, done);
            }
            Request::Stats => {
                let stats: Outcome<Stats> =
                    self.container().and_then(|container| container.cgroup().stats().map_err(failure));
                self.clients.answer(client, stats);
            }
            Request::Pids => {
                let pids = self.container().and_then(|container| container.cgroup().processes().map_err(failure));
                let pids = pids.map(|mut pids| {
                    pids.sort_unstable();
                    Pids { pids }
                });
                self.clients.answer(client, pids);
            }
            Request::Attach(streams) => self.attach(client, streams),
            Request::Exec(exec) => self.exec(client, *exec),
            Request::ExecState { exec_id } => {
                let state = self.execs.state(&exec_id);
                self.clients.answer(client, state);
            }
            Request::ExecResize { exec_id, height, width } => {
                let done =
                    self.execs.running(&exec_id).map(|exec| exec.id).and_then(|id| self.resize(id, height, width));
                self.clients.answer(client, done);
            }
            Request::ExecKill { exec_id, signal } => {
                let done = self.execs.running(&exec_id).and_then(|exec| send_signal(&exec.pidfd, signal));
                self.clients.answer(client, done);
            }
            Request::Release => {
                let done = self.release();
                self.clients.answer(client, done);
            }
        }
    }

    fn status(&self) -> Status {
        Status {
            status: self.phase,
            pid: if self.phase == Phase::Exited { 0 } else { self.init.pid },
            started_at: self.started_at.clone(),
            exit: self.exit.clone(),
            paused: self.paused,
            log_lines_lost: self.log.lost(),
        }
    }

    /// The container, unless it has ended.
    fn container(&self) -> Outcome<&brig_runtime::Container> {
        self.alive()?;
        self.container.as_ref().ok_or_else(not_running)
    }

    fn alive(&self) -> Outcome {
        if self.phase == Phase::Exited || self.ending.has_ended() { Err(not_running()) } else { Ok(()) }
    }

    fn go(&mut self, client: u64) {
        if self.phase != Phase::Created {
            let text = "the container has already been started";
            return self.clients.answer::<()>(client, Err(Failure::new(FailureKind::Invalid, text)));
        }
        self.clients.answer(client, Ok(()));
        let started = match &mut self.container {
            Some(container) => container.start().map_err(failure),
            None => Ok(()),
        };
        match started {
            Ok(()) => {
                let at = Timestamp::now().to_string();
                self.phase = Phase::Running;
                self.started_at = Some(at.clone());
                self.clients.tell(&Event::Started { pid: self.init.pid, at });
            }
            Err(error) => self.fail(error),
        }
    }

    fn kill(&mut self, signal: i32) -> Outcome {
        self.alive()?;
        send_signal(&self.init.pidfd, signal)?;
        if signal == SIGKILL {
            // A frozen process dies only when it may run again, whoever froze it.
            let cgroup = self.container()?.cgroup();
            if self.paused || cgroup.frozen().map_err(failure)? {
                cgroup.thaw().map_err(failure)?;
                self.paused = false;
            }
        }
        Ok(())
    }

    fn resize(&mut self, id: SessionId, height: u16, width: u16) -> Outcome {
        self.alive()?;
        let no_terminal = || Failure::new(FailureKind::Invalid, "the process has no terminal");
        let session = self.session(id).ok_or_else(not_running)?;
        let master = session.master().ok_or_else(no_terminal)?;
        brig_sys::pty::set_size(master, height, width).map_err(kernel_failure)
    }

    fn set_paused(&mut self, paused: bool) -> Outcome {
        if self.phase != Phase::Running {
            return Err(not_running());
        }
        if paused == self.paused {
            let text = if paused { "the container is already paused" } else { "the container is not paused" };
            return Err(Failure::new(FailureKind::Invalid, text));
        }
        let cgroup = self.container()?.cgroup();
        if paused { cgroup.freeze() } else { cgroup.thaw() }.map_err(failure)?;
        self.paused = paused;
        Ok(())
    }

    fn attach(&mut self, client: u64, streams: Streams) {
        if let Err(failure) = self.alive() {
            return self.clients.answer::<()>(client, Err(failure));
        }
        self.clients.answer(client, Ok(()));
        let raw = self.init.terminal;
        self.clients.turn_into_streams(client, SessionId::Init, streams, raw);
    }

    fn exec(&mut self, client: u64, exec: Exec) {
        match self.start_exec(&exec) {
            Err(failure) => self.clients.answer::<()>(client, Err(failure)),
            Ok((id, pid)) => {
                self.clients.answer(client, Ok(ExecStarted { pid }));
                self.clients.turn_into_streams(client, id, exec.attach, exec.terminal);
            }
        }
    }

    fn start_exec(&mut self, exec: &Exec) -> Outcome<(SessionId, i32)> {
        let refused = |text: &str| Err(Failure::new(FailureKind::Invalid, text));
        if self.phase != Phase::Running {
            return Err(not_running());
        }
        if self.paused {
            return refused("the container is paused: resume it before running another process in it");
        }
        if self.execs.knows(&exec.exec_id) {
            return refused(&format!("an exec with the id {:?} exists already", exec.exec_id));
        }
        let mut process = exec.process.clone();
        process.terminal = exec.terminal;
        process.oom_score_adj = process.oom_score_adj.or(self.oom_score_adj);
        let [height, width] = exec.console_size.unwrap_or_default();
        let (stdio, session) = if exec.terminal {
            (Stdio::Terminal { width, height }, None)
        } else {
            let pipes = Session::pipes(exec.attach).map_err(kernel_failure)?;
            (pipes.theirs, Some(pipes.ours))
        };
        let spec: Spec = load(&self.spec)?;
        let request =
            ExecRequest { privileged: exec.privileged, ..ExecRequest::new(&process, spec.linux.as_ref(), stdio) };
        let started = self.container()?.exec(request).map_err(failure)?;
        let session = match (session, started.master) {
            (Some(session), _) => session,
            (None, Some(master)) => Session::terminal(master).map_err(kernel_failure)?,
            (None, None) => return Err(Failure::new(FailureKind::System, "the exec has no terminal")),
        };
        Ok((self.execs.add(&exec.exec_id, started.pid, started.pidfd, session), started.pid))
    }

    fn release(&mut self) -> Outcome {
        if self.phase != Phase::Exited {
            return Err(Failure::new(
                FailureKind::Invalid,
                "the container has not ended: only then can its shim be released",
            ));
        }
        self.ending.release();
        Ok(())
    }
}

fn not_running() -> Failure {
    Failure::new(FailureKind::NotRunning, "the container is not running")
}

fn send_signal(pidfd: &std::os::fd::OwnedFd, signal: i32) -> Outcome {
    use std::os::fd::AsFd;
    brig_sys::pidfd::send_signal(pidfd.as_fd(), signal).map_err(|error| match error.errno {
        rustix::io::Errno::INVAL => Failure::new(FailureKind::Invalid, format!("{signal} is not a signal")),
        rustix::io::Errno::SRCH => not_running(),
        _ => kernel_failure(error),
    })
}
