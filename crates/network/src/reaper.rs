//! What need not be waited for: deleting veth pairs (30 ms each) and forgetting UDP flows.
//! Owns one thread and its queue. Jobs may find their object gone; failing ones are logged.

use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use brig_sys::netlink::Socket;

use crate::conntrack;
use crate::link::Links;
use crate::net::Protocol;

/// A namespace that is about to die takes its veth along. Deleting it ourselves would only hold the kernel's
/// one lock for all links, so it gets this long.
const GRACE: Duration = Duration::from_millis(200);

/// Something to do later.
#[derive(Debug)]
pub(crate) enum Job {
    /// Delete the link with this index, if it still exists after a while. Indexes are not used twice.
    Delete { index: u32 },
    /// Forget UDP flows that one of these addresses answers.
    ForgetAnswered { by: Vec<IpAddr> },
    /// Forget UDP flows to these ports of this host that nobody translates.
    ForgetUntranslated { ports: Vec<u16> },
}

/// The thread. Dropping it finishes what is queued.
#[derive(Debug)]
pub(crate) struct Reaper {
    queue: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Reaper {
    /// Starts the thread, with sockets of the calling thread's network namespace.
    pub(crate) fn start() -> brig_sys::Result<Reaper> {
        let mut tools = Tools { links: Links::open()?, conntrack: conntrack::open()? };
        let (queue, jobs) = channel();
        let thread = std::thread::Builder::new()
            .name("net-reaper".to_owned())
            .spawn(move || work(&jobs, &mut tools))
            .map_err(|error| {
            let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::AGAIN);
            brig_sys::Error::new("clone(thread net-reaper)", errno)
        })?;
        Ok(Reaper { queue: Some(queue), thread: Some(thread) })
    }

    /// Queues a job.
    pub(crate) fn push(&self, job: Job) {
        let sent = self.queue.as_ref().is_some_and(|queue| queue.send(job).is_ok());
        if !sent {
            tracing::error!("the network reaper has ended early: an interface may be left over until restart");
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.queue.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the network reaper panicked");
        }
    }
}

struct Tools {
    links: Links,
    conntrack: Socket,
}

impl Tools {
    fn forget(&mut self, stale: impl Fn(&conntrack::Flow) -> bool) {
        if let Err(error) = conntrack::forget(&mut self.conntrack, Protocol::Udp, stale) {
            tracing::warn!(%error, "stale UDP flows could not be forgotten");
        }
    }

    fn forget_untranslated(&mut self, ports: &[u16]) {
        match self.links.addresses() {
            Ok(own) => self.forget(|flow| {
                ports.contains(&flow.port)
                    && flow.answered_by == flow.destination
                    && (flow.destination.is_loopback() || own.iter().any(|(_, net)| net.address() == flow.destination))
            }),
            Err(error) => tracing::warn!(%error, "stale UDP flows could not be looked for"),
        }
    }

    fn delete(&mut self, index: u32) {
        if let Err(error) = self.links.delete(index) {
            tracing::warn!(%error, index, "a veth pair could not be deleted");
        }
    }
}

fn work(jobs: &Receiver<Job>, tools: &mut Tools) {
    let mut deletions: std::collections::VecDeque<(Instant, u32)> = std::collections::VecDeque::new();
    loop {
        let wait = deletions
            .front()
            .map_or(Duration::from_secs(3600), |(due, _)| due.saturating_duration_since(Instant::now()));
        match jobs.recv_timeout(wait) {
            Ok(Job::Delete { index }) => deletions.push_back((Instant::now() + GRACE, index)),
            Ok(Job::ForgetAnswered { by }) => tools.forget(|flow| by.contains(&flow.answered_by)),
            Ok(Job::ForgetUntranslated { ports }) => tools.forget_untranslated(&ports),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        while deletions.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            if let Some((_, index)) = deletions.pop_front() {
                tools.delete(index);
            }
        }
    }
    deletions.into_iter().for_each(|(_, index)| tools.delete(index));
}
