//! The processes that were started beside the container's first one.
//!
//! Owns: which of them run, how the others ended, and when their streams close. Must not: start any.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use brig_sys::pidfd::Exit as Ended;

use crate::clients::Clients;
use crate::protocol::{Event, ExecState, Failure, FailureKind};
use crate::streams::{Session, SessionId};

/// How long output of an exec is awaited after its process has ended, when others keep its pipe open (as Docker).
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// How many ended ones are remembered.
const MOST_REMEMBERED: usize = 256;

/// One that runs, or whose output is not complete yet.
#[derive(Debug)]
pub(crate) struct ExecProcess {
    pub(crate) id: SessionId,
    pub(crate) exec_id: String,
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) session: Session,
    /// How long its output is awaited at most, once it has ended.
    pub(crate) close_at: Option<Instant>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    list: Vec<ExecProcess>,
    /// Exit codes of those that ended, oldest first.
    ended: VecDeque<(String, i32)>,
    count: u64,
}

impl Execs {
    /// Those that run or whose output is not complete.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &ExecProcess> {
        self.list.iter()
    }

    /// One of them.
    pub(crate) fn get(&mut self, id: SessionId) -> Option<&mut ExecProcess> {
        self.list.iter_mut().find(|exec| exec.id == id)
    }

    /// Takes a new one.
    pub(crate) fn add(&mut self, exec_id: &str, pid: i32, pidfd: OwnedFd, session: Session) -> SessionId {
        self.count += 1;
        let id = SessionId::Exec(self.count);
        self.list.push(ExecProcess { id, exec_id: exec_id.to_owned(), pid, pidfd, session, close_at: None });
        id
    }

    /// Whether there is or was one of this name.
    pub(crate) fn knows(&self, exec_id: &str) -> bool {
        self.list.iter().any(|exec| exec.exec_id == exec_id) || self.exit_code(exec_id).is_some()
    }

    /// The one of this name, if its process runs.
    pub(crate) fn running(&self, exec_id: &str) -> Result<&ExecProcess, Failure> {
        if let Some(exec) = self.list.iter().find(|exec| exec.exec_id == exec_id && exec.close_at.is_none()) {
            return Ok(exec);
        }
        Err(match self.exit_code(exec_id) {
            Some(code) => Failure::new(
                FailureKind::NotRunning,
                format!("exec {exec_id} is not running: it ended with code {code}"),
            ),
            None => Failure::new(FailureKind::NotFound, format!("no such exec: {exec_id}")),
        })
    }

    /// What became of one.
    pub(crate) fn state(&self, exec_id: &str) -> Result<ExecState, Failure> {
        if let Some(exit_code) = self.exit_code(exec_id) {
            return Ok(ExecState { running: false, pid: 0, exit_code: Some(exit_code) });
        }
        self.running(exec_id).map(|exec| ExecState { running: true, pid: exec.pid, exit_code: None })
    }

    fn exit_code(&self, exec_id: &str) -> Option<i32> {
        self.ended.iter().rev().find(|(id, _)| id == exec_id).map(|(_, code)| *code)
    }

    /// A child has ended: tells subscribers if it was one of these.
    pub(crate) fn child_ended(&mut self, pid: i32, ended: Ended, clients: &mut Clients) {
        let Some(exec) = self.list.iter_mut().find(|exec| exec.pid == pid && exec.close_at.is_none()) else { return };
        exec.close_at = Some(Instant::now() + LAST_OUTPUT);
        let (exec_id, exit_code) = (exec.exec_id.clone(), ended.shell_code());
        if self.ended.len() == MOST_REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back((exec_id.clone(), exit_code));
        clients.tell(&Event::ExecExited { exec_id, exit_code });
    }

    /// Closes the streams of those that have ended and whose output is complete; with `all`, of every one.
    pub(crate) fn close_ended(&mut self, all: bool, clients: &mut Clients) {
        let now = Instant::now();
        self.list.retain_mut(|exec| {
            let late = exec.close_at.is_some_and(|time| time <= now);
            let held_back =
                exec.session.open_channels().into_iter().any(|channel| !clients.have_room(exec.id, channel));
            if late && held_back {
                // Its client is slow, not its output.
                exec.close_at = Some(now + LAST_OUTPUT);
            }
            let ended = exec.close_at.is_some();
            let done = all || (ended && exec.session.is_drained()) || (late && !held_back);
            if done {
                clients.finish(exec.id);
            }
            !done
        });
    }

    /// When the next one's output has been awaited long enough.
    pub(crate) fn deadlines(&self) -> impl Iterator<Item = Instant> {
        self.list.iter().filter_map(|exec| exec.close_at)
    }
}
