//! A process that the caller waits for: `run` and `exec` without `--detach`.
//!
//! Owns: signals on their way to it, its terminal's traffic, its readiness on the way to the service manager, and its end.
//! Must not: know whether it is a container's first process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use brig_sys::pidfd::Exit;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::oci::Fault;
use crate::oci::log;
use crate::oci::notify::Notify;
use crate::oci::relay::{End, Relay};

const SIGCHLD: i32 = 17;
const SIGWINCH: i32 = 28;

/// What a wait needs, made before the process is: from then on no signal is lost.
#[derive(Debug)]
pub(crate) struct Foreground {
    signals: OwnedFd,
}

impl Foreground {
    /// Blocks all signals and, if wanted, becomes the one who reaps what the container's processes leave behind.
    pub(crate) fn prepare(subreaper: bool) -> Result<Foreground, Fault> {
        brig_sys::signal::block_all()?;
        if subreaper && let Err(errno) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
            log::warn(&format!("prctl(PR_SET_CHILD_SUBREAPER): {errno}"));
        }
        Ok(Foreground { signals: brig_sys::signal::descriptor()? })
    }

    /// Waits for the end of the child `pid` and returns the exit code that a shell would have.
    pub(crate) fn wait(
        self,
        pid: i32,
        pidfd: BorrowedFd<'_>,
        mut relay: Option<Relay>,
        mut notify: Option<Notify>,
    ) -> Result<u8, Fault> {
        let ended = loop {
            self.pause(relay.as_mut(), &mut notify)?;
            if let Some(ended) = self.take_signals(pid, pidfd, relay.as_ref())? {
                break ended;
            }
        };
        if let Some(relay) = relay {
            relay.finish();
        }
        Ok(u8::try_from(ended.shell_code() & 0xff).unwrap_or(u8::MAX))
    }

    /// Waits for a signal, serving the terminal and the service manager meanwhile.
    fn pause(&self, relay: Option<&mut Relay>, notify: &mut Option<Notify>) -> Result<(), Fault> {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(notify) = &*notify {
            fds.push(PollFd::from_borrowed_fd(notify.as_fd(), PollFlags::IN));
        }
        let first = fds.len();
        let (ends, polls): (Vec<End>, Vec<PollFd<'_>>) =
            relay.as_ref().map(|relay| relay.polls()).unwrap_or_default().into_iter().unzip();
        fds.extend(polls);
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(brig_sys::Error::new("poll(signals, terminal)", errno).into()),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        if let Some(relay) = relay {
            let told = |(end, flags): (End, &PollFlags)| (!flags.is_empty()).then_some(end);
            let ends: Vec<End> = ends.into_iter().zip(&ready[first..]).filter_map(told).collect();
            relay.serve(&ends);
        }
        if first == 2 && !ready[1].is_empty() {
            let us = rustix::process::getpid().as_raw_nonzero().get();
            let told = notify.as_ref().map_or(Ok(true), |notify| notify.pass_on(us));
            match told {
                Ok(false) => {}
                Ok(true) => *notify = None,
                Err(fault) => {
                    log::warn(&fault.to_string());
                    *notify = None;
                }
            }
        }
        Ok(())
    }

    /// Passes signals on; how the process has ended, once it has.
    fn take_signals(&self, pid: i32, pidfd: BorrowedFd<'_>, relay: Option<&Relay>) -> Result<Option<Exit>, Fault> {
        while let Some(signal) = brig_sys::signal::take(self.signals.as_fd())? {
            match signal {
                SIGCHLD => {
                    while let Ok(Some((child, ended))) = brig_sys::signal::reap_any() {
                        log::debug(|| format!("process {child} ended: {ended:?}"));
                        if child == pid {
                            return Ok(Some(ended));
                        }
                    }
                }
                SIGWINCH => relay.map_or((), Relay::resize),
                signal => {
                    log::debug(|| format!("signal {signal} goes to process {pid}"));
                    // It may have ended in between; then SIGCHLD is next.
                    brig_sys::pidfd::send_signal(pidfd, signal).unwrap_or_default();
                }
            }
        }
        Ok(None)
    }
}
