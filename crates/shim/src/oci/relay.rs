//! The caller's terminal in front of a container's: what is typed goes in, what is shown comes out.
//!
//! Owns: raw mode of the caller's terminal until dropped, the size of the container's, and bytes between the two. Must not:
//! wait; whoever has it polls.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, OutputModes, Termios};

use crate::oci::Fault;

/// As much as a pipe takes at once without blocking when it says that it takes something (PIPE_BUF).
const CHUNK: usize = 4096;

/// What a poll was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Our stdin.
    Typed,
    /// The container's terminal.
    Master,
    /// Our stdout.
    Shown,
}

/// The caller's terminal: found before anything is made, as there is no container without it.
#[derive(Debug)]
pub(crate) struct Host(OwnedFd);

impl Host {
    /// The first of stderr, stdout and stdin that is a terminal, or else the controlling one.
    pub(crate) fn find() -> Result<Host, Fault> {
        let streams = [rustix::stdio::stderr(), rustix::stdio::stdout(), rustix::stdio::stdin()];
        if let Some(stream) = streams.into_iter().find(|stream| rustix::termios::isatty(stream)) {
            let copy = stream.try_clone_to_owned();
            return copy.map(Host).map_err(|error| Fault::new(format!("dup of a standard stream: {error}")));
        }
        rustix::fs::open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
            .map(Host)
            .map_err(|errno| Fault::new(format!("process.terminal: there is no terminal here: open /dev/tty: {errno}")))
    }

    /// Columns and rows; `None` if it does not tell.
    pub(crate) fn size(&self) -> Option<(u16, u16)> {
        rustix::termios::tcgetwinsize(&self.0).ok().map(|size| (size.ws_col, size.ws_row))
    }
}

/// Both terminals.
#[derive(Debug)]
pub(crate) struct Relay {
    host: Host,
    before: Termios,
    master: OwnedFd,
    /// Typed, but not taken by the container's terminal yet.
    typed: Vec<u8>,
    /// Shown, but not taken by our stdout yet.
    shown: Vec<u8>,
    stdin: bool,
    open: bool,
}

impl Relay {
    /// Connects the caller's terminal with the master of the container's.
    pub(crate) fn new(host: Host, master: OwnedFd) -> Result<Relay, Fault> {
        let failed = |call: &str, errno: Errno| Fault::from(brig_sys::Error::new(call, errno));
        // Line ends are the caller's terminal's business.
        let mut inside = rustix::termios::tcgetattr(&master).map_err(|errno| failed("tcgetattr(master)", errno))?;
        inside.output_modes.remove(OutputModes::ONLCR);
        rustix::termios::tcsetattr(&master, OptionalActions::Now, &inside)
            .map_err(|errno| failed("tcsetattr(master)", errno))?;
        rustix::io::ioctl_fionbio(&master, true).map_err(|errno| failed("ioctl(master, FIONBIO)", errno))?;
        let before = rustix::termios::tcgetattr(&host.0).map_err(|errno| failed("tcgetattr(terminal)", errno))?;
        let mut raw = before.clone();
        raw.make_raw();
        raw.output_modes.insert(OutputModes::OPOST);
        rustix::termios::tcsetattr(&host.0, OptionalActions::Now, &raw)
            .map_err(|errno| failed("tcsetattr(terminal, raw)", errno))?;
        let relay = Relay { host, before, master, typed: Vec::new(), shown: Vec::new(), stdin: true, open: true };
        relay.resize();
        Ok(relay)
    }

    /// Gives the container's terminal the size of the caller's.
    pub(crate) fn resize(&self) {
        // The caller's may have gone; the container goes on with the size it has.
        if let Ok(size) = rustix::termios::tcgetwinsize(&self.host.0) {
            rustix::termios::tcsetwinsize(&self.master, size).ok();
        }
    }

    /// What to poll for: only what there is something to do with. A terminal that was hung up says so again and again to whoever
    /// polls it, even for nothing.
    pub(crate) fn polls(&self) -> Vec<(End, PollFd<'_>)> {
        let when = |condition: bool, flags: PollFlags| if condition { flags } else { PollFlags::empty() };
        let master = when(self.shown.is_empty(), PollFlags::IN) | when(!self.typed.is_empty(), PollFlags::OUT);
        let mut polls = Vec::with_capacity(3);
        if self.stdin && self.typed.is_empty() {
            polls.push((End::Typed, PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN)));
        }
        if self.open && !master.is_empty() {
            polls.push((End::Master, PollFd::from_borrowed_fd(self.master.as_fd(), master)));
        }
        if !self.shown.is_empty() {
            polls.push((End::Shown, PollFd::from_borrowed_fd(rustix::stdio::stdout(), PollFlags::OUT)));
        }
        polls
    }

    /// Moves what can be moved.
    pub(crate) fn serve(&mut self, ready: &[End]) {
        if ready.contains(&End::Typed) {
            self.typed = read(rustix::stdio::stdin()).unwrap_or_default();
            self.stdin = !self.typed.is_empty();
        }
        if !self.typed.is_empty() && self.open {
            self.write_typed();
        }
        if ready.contains(&End::Shown) {
            self.write_shown();
        }
        if ready.contains(&End::Master) && self.open && self.shown.is_empty() {
            self.read_shown();
        }
    }

    fn write_typed(&mut self) {
        match rustix::io::write(&self.master, &self.typed) {
            Ok(count) => drop(self.typed.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.open = false,
        }
    }

    fn read_shown(&mut self) {
        match read(self.master.as_fd()) {
            Ok(bytes) if bytes.is_empty() => self.open = false,
            Ok(bytes) => self.shown = bytes,
            Err(Errno::AGAIN | Errno::INTR) => {}
            // EIO: nothing has the terminal open any more.
            Err(_) => self.open = false,
        }
    }

    fn write_shown(&mut self) {
        match rustix::io::write(rustix::stdio::stdout(), &self.shown) {
            Ok(count) => drop(self.shown.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Nobody looks any more: it is read on, so that the program does not hang, and thrown away.
            Err(_) => self.shown.clear(),
        }
    }

    /// After the process's end: passes on what it has left in the terminal.
    pub(crate) fn finish(mut self) {
        loop {
            while !self.shown.is_empty() {
                // Our stdout may have been made non-blocking by whoever shares it.
                let mut room = [PollFd::from_borrowed_fd(rustix::stdio::stdout(), PollFlags::OUT)];
                // What a failed wait leaves undone, the write reports.
                rustix::event::poll(&mut room, None).ok();
                self.write_shown();
            }
            if self.open {
                self.read_shown();
            }
            if self.shown.is_empty() {
                return;
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The caller's terminal may have gone.
        rustix::termios::tcsetattr(&self.host.0, OptionalActions::Now, &self.before).ok();
    }
}

fn read(from: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0u8; CHUNK];
    let count = rustix::io::read(from, &mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}
