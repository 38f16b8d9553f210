//! The shim's one loop: waits for everything at once, then acts.
//!
//! Owns: the state of one container while its shim lives, what is waited for, and what each wake-up leads to. Must not:
//! interpret requests (`requests`), decide how a container ends (`ending`), or block longer than a kernel call takes.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use brig_runtime::Container;
use brig_runtime::cgroup::OomWatch;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::clients::Clients;
use crate::connection::{Incoming, Role};
use crate::ending::Ending;
use crate::execs::Execs;
use crate::log::Log;
use crate::protocol::{Channel, Event, Exit, Failure, FailureKind, Phase, Streams};
use crate::socket::SocketFile;
use crate::streams::{Pumped, Session, SessionId};

/// One read of output or input, in bytes.
const SCRATCH: usize = 32 * 1024;

/// The container's first process.
#[derive(Debug)]
pub(crate) struct Init {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) session: Session,
    /// Whether its streams are a terminal's.
    pub(crate) terminal: bool,
    /// Close its input when the first client that had it is done.
    pub(crate) stdin_once: bool,
}

/// Everything that a loop begins with.
pub(crate) struct Parts {
    pub(crate) init: Init,
    /// Absent only in tests, where the process is any child.
    pub(crate) container: Option<Container>,
    pub(crate) log: Log,
    pub(crate) listener: UnixListener,
    /// Where `listener` is found; absent only in tests.
    pub(crate) socket: Option<SocketFile>,
    pub(crate) first_client: UnixStream,
    pub(crate) children: OwnedFd,
    pub(crate) exit_file: PathBuf,
    pub(crate) exit_relaxed: bool,
    /// Badness of processes that do not say their own.
    pub(crate) oom_score_adj: Option<i32>,
    /// The file with the container's OCI spec; read again for each exec, as it is too large to keep in memory.
    pub(crate) spec: PathBuf,
}

/// One container's keeper.
pub(crate) struct Shim {
    pub(crate) init: Init,
    pub(crate) container: Option<Container>,
    pub(crate) execs: Execs,
    pub(crate) clients: Clients,
    first_client: u64,
    listener: UnixListener,
    pub(crate) socket: Option<SocketFile>,
    children: OwnedFd,
    pub(crate) oom: Option<OomWatch>,
    pub(crate) oom_kills: u64,
    pub(crate) log: Log,
    pub(crate) phase: Phase,
    pub(crate) started_at: Option<String>,
    pub(crate) paused: bool,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) spec: PathBuf,
    pub(crate) exit_file: PathBuf,
    pub(crate) exit_relaxed: bool,
    pub(crate) exit: Option<Exit>,
    pub(crate) ending: Ending,
    scratch: Box<[u8]>,
}

/// What a wake-up is about.
#[derive(Debug, Clone, Copy)]
enum Source {
    Children,
    Listener,
    Oom,
    Client(u64),
    Output(SessionId, Channel),
    Input(SessionId),
}

impl Shim {
    /// A shim for a container that waits at its gate.
    pub(crate) fn new(parts: Parts) -> std::io::Result<Shim> {
        let mut clients = Clients::default();
        let first_client = clients.add(parts.first_client, Role::Subscriber)?;
        parts.listener.set_nonblocking(true)?;
        let oom = parts.container.as_ref().and_then(|container| container.cgroup().watch_oom().ok());
        Ok(Shim {
            init: parts.init,
            container: parts.container,
            execs: Execs::default(),
            clients,
            first_client,
            listener: parts.listener,
            socket: parts.socket,
            children: parts.children,
            oom,
            oom_kills: 0,
            log: parts.log,
            phase: Phase::Created,
            started_at: None,
            paused: false,
            oom_score_adj: parts.oom_score_adj,
            spec: parts.spec,
            exit_file: parts.exit_file,
            exit_relaxed: parts.exit_relaxed,
            exit: None,
            ending: Ending::default(),
            scratch: vec![0; SCRATCH].into_boxed_slice(),
        })
    }

    /// Serves until nothing of the container is left and everyone has been told.
    ///
    /// Errors: `poll` itself fails, which the kernel does only when it has no memory.
    pub(crate) fn run(&mut self) -> brig_sys::Result<()> {
        loop {
            self.advance_ending();
            self.clients.forget_over();
            if self.phase == Phase::Created && self.clients.get(self.first_client).is_none() {
                // Nobody can start it any more: it must not linger.
                let text = "the daemon went away before the container was started";
                self.fail(Failure::new(FailureKind::System, text));
            }
            if self.is_done() {
                return Ok(());
            }
            for (source, flags) in self.wait()? {
                self.wake(source, flags);
            }
        }
    }

    /// Waits for the next thing to do.
    fn wait(&self) -> brig_sys::Result<Vec<(Source, PollFlags)>> {
        let now = Instant::now();
        let (sources, mut fds): (Vec<_>, Vec<_>) = self.waits(now).into_iter().unzip();
        let timeout = self.next_deadline().map(|time| timespec(time.saturating_duration_since(now)));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(brig_sys::Error::new(format!("poll({} descriptors)", fds.len()), errno)),
        }
        let woken = sources.into_iter().zip(fds.iter().map(PollFd::revents));
        Ok(woken.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// Everything that is waited for.
    fn waits(&self, now: Instant) -> Vec<(Source, PollFd<'_>)> {
        let wait = |source, fd, flags| (source, PollFd::from_borrowed_fd(fd, flags));
        let mut waits = vec![
            wait(Source::Children, self.children.as_fd(), PollFlags::IN),
            wait(Source::Listener, self.listener.as_fd(), PollFlags::IN),
        ];
        if let Some(oom) = &self.oom {
            waits.push(wait(Source::Oom, oom.as_fd(), PollFlags::IN));
        }
        for (id, session) in self.sessions() {
            for (channel, fd) in session.readable(now) {
                if self.clients.have_room(id, channel) {
                    waits.push(wait(Source::Output(id, channel), fd, PollFlags::IN));
                }
            }
            if let Some(fd) = session.writable() {
                waits.push(wait(Source::Input(id), fd, PollFlags::OUT));
            }
        }
        for client in self.clients.iter() {
            if let Some(interest) = client.interest(self.has_input_room(client.role)) {
                waits.push(wait(Source::Client(client.id), client.socket(), interest));
            }
        }
        waits
    }

    /// The earliest time at which something is due without a wake-up.
    fn next_deadline(&self) -> Option<Instant> {
        let terminals = self.sessions().filter_map(|(_, session)| session.retry_at());
        terminals.chain(self.execs.deadlines()).chain(self.ending.retry_at()).min()
    }

    fn sessions(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        let execs = self.execs.iter().map(|exec| (exec.id, &exec.session));
        std::iter::once((SessionId::Init, &self.init.session)).chain(execs)
    }

    /// The streams of one process.
    pub(crate) fn session(&mut self, id: SessionId) -> Option<&mut Session> {
        match id {
            SessionId::Init => Some(&mut self.init.session),
            SessionId::Exec(_) => self.execs.get(id).map(|exec| &mut exec.session),
        }
    }

    fn has_input_room(&self, role: Role) -> bool {
        match role {
            Role::Streams(id, Streams { stdin: true, .. }) => {
                self.sessions().find(|(other, _)| *other == id).is_none_or(|(_, session)| session.has_input_room())
            }
            Role::Streams(..) | Role::Requests | Role::Subscriber => true,
        }
    }

    fn wake(&mut self, source: Source, flags: PollFlags) {
        match source {
            Source::Children => self.reap(),
            Source::Listener => self.clients.accept(&self.listener),
            Source::Oom => self.notice_oom(),
            Source::Client(id) => self.wake_client(id, flags),
            Source::Output(id, channel) => {
                self.pump(id, channel);
            }
            Source::Input(id) => {
                if let Some(session) = self.session(id) {
                    session.write_input();
                }
            }
        }
    }

    /// Reads one output once; to the log and to the clients with it.
    pub(crate) fn pump(&mut self, id: SessionId, channel: Channel) -> Pumped {
        let (session, ended) = match id {
            SessionId::Init => (&mut self.init.session, self.ending.has_ended()),
            SessionId::Exec(_) => match self.execs.get(id) {
                Some(exec) => (&mut exec.session, exec.close_at.is_some()),
                None => return Pumped::Ended,
            },
        };
        let (clients, log) = (&mut self.clients, &mut self.log);
        let pumped = session.pump(channel, &mut self.scratch, ended, &mut |output| {
            if id == SessionId::Init {
                log.write(channel, output);
            }
            clients.fan_out(id, channel, output);
        });
        if pumped == Pumped::Ended && id == SessionId::Init {
            log.finish(channel);
        }
        pumped
    }

    fn wake_client(&mut self, id: u64, flags: PollFlags) {
        let Some(client) = self.clients.get(id) else { return };
        if flags.contains(PollFlags::OUT) {
            client.flush();
        }
        let role = client.role;
        if flags.intersects(PollFlags::HUP | PollFlags::ERR) {
            let streams = matches!(role, Role::Streams(..));
            if streams || !flags.contains(PollFlags::IN) {
                client.hung_up();
            }
        }
        if flags.contains(PollFlags::IN) {
            match role {
                Role::Streams(session, wanted) => self.forward_input(id, session, wanted),
                Role::Requests | Role::Subscriber => self.read_requests(id),
            }
        }
    }

    /// Takes input from an attached client.
    fn forward_input(&mut self, id: u64, session: SessionId, wanted: Streams) {
        let Some(client) = self.clients.get(id) else { return };
        match client.read_input(&mut self.scratch) {
            None => {}
            Some(0) if wanted.stdin => self.client_input_ended(id, session),
            Some(count) => {
                // Taken apart so that the scratch buffer and a session can be borrowed together.
                let scratch = std::mem::take(&mut self.scratch);
                if let (true, Some(session)) = (wanted.stdin, self.session(session)) {
                    session.give(&scratch[..count]);
                }
                self.scratch = scratch;
            }
        }
    }

    /// Docker's rule: the process's input ends with the client's if it was promised so, else only this client leaves.
    fn client_input_ended(&mut self, id: u64, session: SessionId) {
        let once = session != SessionId::Init || self.init.stdin_once;
        let pipe = self.session(session).is_some_and(|session| session.master().is_none());
        if once && pipe {
            if let Some(session) = self.session(session) {
                session.end_input();
            }
        } else if let Some(client) = self.clients.get(id) {
            client.finish();
        }
    }

    fn read_requests(&mut self, id: u64) {
        let Some(client) = self.clients.get(id) else { return };
        client.receive(&mut self.scratch);
        while let Some(client) = self.clients.get(id) {
            match client.next_line() {
                Incoming::Nothing => break,
                Incoming::End => {
                    client.finish();
                    break;
                }
                Incoming::Line(line) => self.request(id, &line),
            }
            // After attach or exec the rest of what came is the process's input.
            let Some(client) = self.clients.get(id) else { break };
            if let Role::Streams(session, wanted) = client.role {
                if client.has_early_input() {
                    self.forward_input(id, session, wanted);
                }
                break;
            }
        }
    }

    /// Collects every child that has ended: the first process, execs, and orphans that became the shim's.
    pub(crate) fn reap(&mut self) {
        let mut notices = [0u8; 1024];
        // The notices carry nothing that waitpid does not say better; they are only taken so that poll waits again.
        while rustix::io::read(&self.children, &mut notices).is_ok_and(|count| count == notices.len()) {}
        while let Ok(Some((pid, ended))) = brig_sys::signal::reap_any() {
            if pid == self.init.pid && !self.ending.has_ended() {
                self.init_ended(ended);
            } else {
                self.execs.child_ended(pid, ended, &mut self.clients);
            }
        }
    }

    /// Tells subscribers when the kernel has killed for lack of memory since the last look.
    pub(crate) fn notice_oom(&mut self) {
        if let Some(oom) = &self.oom {
            oom.clear();
        }
        let Some(container) = &self.container else { return };
        let kills = container.cgroup().oom_kills().unwrap_or(self.oom_kills);
        if kills > self.oom_kills {
            self.oom_kills = kills;
            self.clients.tell(&Event::Oom);
        }
    }
}

fn timespec(time: Duration) -> Timespec {
    // Rounded up by a millisecond, so that the deadline has passed on waking.
    let time = time + Duration::from_millis(1);
    Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
