//! Notices when somebody else changes or deletes our table, and puts it back.
//! Owns one thread, asleep until the kernel tells of a change. Must not decide what the table holds.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use brig_sys::netlink::Socket;
use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::io::Errno;

use crate::network::{World, lock};
use crate::nft::{self, Event};
use crate::reaper::{Job, Reaper};

/// Room for the events of a big transaction; when it overflows the kernel says so and the table is rewritten.
const EVENT_BYTES: usize = 1 << 20;
/// Two programs that both insist on this table shall not keep the machine busy.
const PAUSE: Duration = Duration::from_millis(200);

/// The thread. Dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches `table` in the calling thread's network namespace. `own_port`: whose changes are our own.
    pub(crate) fn start(
        table: &str,
        own_port: u32,
        world: Arc<Mutex<World>>,
        reaper: Arc<Reaper>,
    ) -> brig_sys::Result<Watch> {
        let socket = nft::open()?;
        socket.join(nft::EVENTS, EVENT_BYTES)?;
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)
            .map_err(|errno| brig_sys::Error::new("eventfd(0)", errno))?;
        let stop = Arc::new(stop);
        let mut watcher = Watcher { table: table.to_owned(), own_port, socket, world, reaper, stop: Arc::clone(&stop) };
        let thread = std::thread::Builder::new().name("net-watch".to_owned()).spawn(move || watcher.run());
        let thread = thread.map_err(|error| {
            brig_sys::Error::new("clone(thread net-watch)", Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))
        })?;
        Ok(Watch { stop, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let told = rustix::io::write(&*self.stop, &1u64.to_ne_bytes()).is_ok();
        if told && self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the firewall watch panicked");
        }
    }
}

struct Watcher {
    table: String,
    own_port: u32,
    socket: Socket,
    world: Arc<Mutex<World>>,
    reaper: Arc<Reaper>,
    stop: Arc<OwnedFd>,
}

impl Watcher {
    fn run(&mut self) {
        let mut changed = false;
        let mut healed: Option<Instant> = None;
        while self.wait() {
            let mut committed = false;
            let (table, own_port) = (&self.table, self.own_port);
            let read = self.socket.events(Some(Duration::ZERO), |answer| match nft::event(&answer, table) {
                Event::Changed if answer.port != own_port => changed = true,
                Event::Committed => committed = true,
                Event::Changed | Event::Other => {}
            });
            if let Err(error) = read {
                tracing::debug!(%error, "firewall events were lost");
                changed = true;
                committed = true;
            }
            if changed && committed {
                if healed.is_some_and(|at| at.elapsed() < PAUSE) && !self.wait_pause() {
                    return;
                }
                changed = !self.heal();
                healed = Some(Instant::now());
            }
        }
    }

    /// Waits for an event; false when the watch shall end.
    fn wait(&self) -> bool {
        loop {
            let mut fds =
                [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN), PollFd::new(&*self.stop, PollFlags::IN)];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) => return fds[1].revents().is_empty(),
                Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the firewall table is no longer watched");
                    return false;
                }
            }
        }
    }

    fn wait_pause(&self) -> bool {
        let timeout = rustix::event::Timespec::try_from(PAUSE).ok();
        let mut fds = [PollFd::new(&*self.stop, PollFlags::IN)];
        !matches!(rustix::event::poll(&mut fds, timeout.as_ref()), Ok(ready) if ready > 0)
    }

    fn heal(&self) -> bool {
        let mut world = lock(&self.world);
        if !world.needs_table() {
            return true;
        }
        if let Err(error) = world.rewrite() {
            tracing::error!(%error, table = self.table, "the firewall table was changed by someone else and can't be put back");
            return false;
        }
        tracing::warn!(table = self.table, "the firewall table was changed by someone else: put back");
        let endpoints = world.state.endpoints.values();
        let ports: Vec<u16> = endpoints.flat_map(|one| one.ports.iter().map(|port| port.host_port)).collect();
        drop(world);
        if !ports.is_empty() {
            self.reaper.push(Job::ForgetUntranslated { ports });
        }
        true
    }
}
