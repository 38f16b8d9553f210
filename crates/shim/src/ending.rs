//! How a container ends: processes gone, output complete, exit code published, nothing left, everyone told.
//!
//! Owns: that order, and when the shim itself may end. Must not: lose the exit code to a full disk or a slow client.

use std::time::{Duration, Instant};

use brig_sys::pidfd::Exit as Ended;

use crate::diagnose;
use crate::exit_file;
use crate::protocol::{Event, Exit, Failure, FailureKind, Phase};
use crate::server::Shim;
use crate::streams::{Pumped, SessionId};
use crate::timestamp::Timestamp;

/// How often a failed publication is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Most that is read from one output after the last process has ended, in bytes: someone outside the container may hold the
/// pipe and write for ever.
const MOST_DRAINED: usize = 4 << 20;

/// How far the end has come.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// How and when the first process ended.
    init: Option<(Ended, Timestamp)>,
    /// Everybody knows.
    told: bool,
    /// The exit file could not be written; when to try again.
    unpublished: Option<Instant>,
    /// The engine has taken over the facts.
    released: bool,
    /// The socket is gone and subscribers were dismissed.
    left: bool,
    /// It never ran: there is nothing to tell.
    failed: bool,
}

impl Ending {
    /// Whether the first process has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.init.is_some()
    }

    /// When to try again to publish the exit file.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.unpublished
    }

    /// The engine has taken over the facts.
    pub(crate) fn release(&mut self) {
        self.released = true;
    }
}

impl Shim {
    /// The first process has ended.
    pub(crate) fn init_ended(&mut self, ended: Ended) {
        if self.phase == Phase::Created {
            let how = match ended {
                Ended::Code(code) => format!("with exit code {code}"),
                Ended::Signal(signal) => format!("by signal {signal}"),
            };
            self.fail(Failure::new(
                FailureKind::System,
                format!("the container's first process ended {how} before it was started"),
            ));
        } else {
            self.ending.init = Some((ended, Timestamp::now()));
        }
    }

    /// It was never started and never will be: removes everything and tells why.
    pub(crate) fn fail(&mut self, error: Failure) {
        if self.ending.failed {
            return;
        }
        self.ending.failed = true;
        if let Some(socket) = &self.socket {
            socket.remove();
        }
        self.phase = Phase::Exited;
        self.remove_container();
        self.clients.tell(&Event::Failed { error });
        self.close_streams();
    }

    /// Does what the end of processes has made due.
    pub(crate) fn advance_ending(&mut self) {
        if let (Some((ended, at)), true) = (self.ending.init, self.exit.is_none() && !self.ending.failed) {
            self.end_container(ended, at);
        }
        self.execs.close_ended(self.phase == Phase::Exited, &mut self.clients);
        if self.ending.unpublished.is_some_and(|time| time <= Instant::now()) {
            self.publish();
        }
        if !self.ending.left && self.may_leave() {
            self.leave();
        }
    }

    /// From now on the shim only delivers what attached clients have not read. A subscriber's connection ends when nothing
    /// of the container, the socket included, is left.
    fn leave(&mut self) {
        self.ending.left = true;
        if let Some(socket) = &self.socket {
            socket.remove();
        }
        self.clients.dismiss_subscribers();
    }

    fn end_container(&mut self, ended: Ended, at: Timestamp) {
        self.end_remaining_processes();
        self.drain();
        self.notice_oom();
        let (exit_code, signal) = match ended {
            Ended::Code(code) => (code, None),
            Ended::Signal(signal) => (ended.shell_code(), Some(signal)),
        };
        let exit = Exit {
            exit_code,
            signal,
            oom_killed: self.oom_kills > 0,
            started_at: self.started_at.clone().unwrap_or_default(),
            finished_at: at.to_string(),
        };
        let told = Event::Exited { exit_code, signal, oom_killed: exit.oom_killed, at: exit.finished_at.clone() };
        self.exit = Some(exit);
        self.phase = Phase::Exited;
        self.paused = false;
        self.publish();
        self.remove_container();
        self.clients.tell(&told);
        self.close_streams();
        self.ending.told = true;
    }

    /// With a pid namespace of its own the kernel has ended all others already; without one they are still there.
    fn end_remaining_processes(&mut self) {
        if let Some(container) = &self.container {
            let left = container.cgroup().processes().map_or(true, |pids| !pids.is_empty());
            if let (true, Err(error)) = (left, container.kill_all()) {
                diagnose::report(&format!("ending what is left of the container: {error}"));
            }
        }
        self.reap();
    }

    /// Reads what the dead have left in the pipes. Slow clients do not hold it back: it is bounded by the pipes' size.
    fn drain(&mut self) {
        let sessions = self.execs.iter().map(|exec| (exec.id, exec.session.open_channels()));
        let init = (SessionId::Init, self.init.session.open_channels());
        let all: Vec<_> = std::iter::once(init).chain(sessions).collect();
        for (id, channel) in
            all.into_iter().flat_map(|(id, channels)| channels.into_iter().map(move |channel| (id, channel)))
        {
            // Reads are of up to 32 KiB, but the limit holds for the smallest, too.
            let left = (0..MOST_DRAINED / 1024).map(|_| self.pump(id, channel)).find(|pumped| *pumped != Pumped::More);
            if left != Some(Pumped::Ended) && id == SessionId::Init {
                self.log.finish(channel);
            }
        }
    }

    fn close_streams(&mut self) {
        self.init.session.close();
        self.clients.finish(SessionId::Init);
    }

    /// Writes the exit file; a failure is tried again while the shim lives.
    fn publish(&mut self) {
        let Some(exit) = &self.exit else { return };
        self.ending.unpublished = match exit_file::publish(&self.exit_file, exit, !self.exit_relaxed) {
            Ok(()) => None,
            Err(error) => {
                diagnose::report(&format!("publishing {}: {error}", self.exit_file.display()));
                Some(Instant::now() + RETRY)
            }
        };
    }

    /// Leaves nothing of the container in the kernel.
    pub(crate) fn remove_container(&mut self) {
        self.oom = None;
        if let Some(container) = self.container.take()
            && let Err(error) = container.delete()
        {
            diagnose::report(&format!("removing the container: {error}"));
        }
    }

    /// Whether nobody needs the shim for the facts any more.
    fn may_leave(&self) -> bool {
        let published = self.ending.unpublished.is_none();
        self.ending.told && (self.ending.released || (published && !self.clients.has_subscriber()))
    }

    /// Whether the shim may end: a connection that is alive gets all of its output, however slowly it reads.
    pub(crate) fn is_done(&self) -> bool {
        // A failure was written to the sockets when it was told; a client that does not even read that has gone wrong.
        self.ending.failed || (self.ending.left && !self.clients.has_unread())
    }
}
