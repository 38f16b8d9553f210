//! The gate of a container that nobody holds: two FIFOs in its state directory, at which init waits for `start`.
//! Owns their names and both ends of the conversation. Must not be seen from inside: the directory is its owner's alone, and
//! what init holds of it is closed by execve.
//!
//! Plain `read` and `write` is all that init needs here, whatever filter is in force by then. Opened for reading and writing,
//! a FIFO blocks the reader until an order comes and stays usable with nobody at the other end; the other side sees the end
//! of the answers when the last descriptor is closed, by execve or by death.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use brig_sys::fdpass::MAX_MESSAGE;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::wire::{self, Order, Report};

/// Where orders are written to. It is there as long as the container has not been started. Who looks what init holds open
/// knows this name, which runc's has too.
const ORDERS: &str = "exec.fifo";
/// Where init's answer is read from.
const ANSWERS: &str = "answer/exec.fifo";

/// Init's side.
#[derive(Debug)]
pub struct Gate {
    pub(crate) orders: OwnedFd,
    pub(crate) answers: OwnedFd,
}

impl Gate {
    /// Makes the gate of the container whose state directory is `directory`.
    pub fn make(directory: &Path) -> Result<Gate> {
        let make = |name: &str| {
            let path = directory.join(name);
            rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                .map_err(|errno| brig_sys::Error::new(format!("mkfifo({path:?})"), errno))?;
            open(&path, OFlags::RDWR)
        };
        let beside = directory.join(ANSWERS);
        if let Some(place) = beside.parent() {
            rustix::fs::mkdir(place, Mode::RWXU)
                .map_err(|errno| brig_sys::Error::new(format!("mkdir({place:?})"), errno))?;
        }
        Ok(Gate { orders: make(ORDERS)?, answers: make(ANSWERS)? })
    }

    /// What init keeps open.
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.orders.as_fd(), self.answers.as_fd()]
    }
}

/// Whether the container whose state directory is `directory` has not been started.
pub fn is_closed(directory: &Path) -> bool {
    directory.join(ORDERS).exists()
}

/// Lets the container go and hears what becomes of it: returns when its program has replaced init, or init is gone.
///
/// # Errors
/// What execve or a startContainer hook said; `NotFound` and `NotExecutable` are about the program. Nobody waits at the gate
/// (any more).
pub fn let_go(directory: &Path) -> Result<()> {
    let (orders, answers) = (directory.join(ORDERS), directory.join(ANSWERS));
    let gone = || Error::invalid("container process is already dead");
    // With a reader there it does not block, without one it must not.
    let orders = match open(&orders, OFlags::WRONLY | OFlags::NONBLOCK) {
        Err(error) if error.errno == Errno::NXIO => return Err(gone()),
        opened => opened?,
    };
    let answers = open(&answers, OFlags::RDONLY | OFlags::NONBLOCK)?;
    rustix::fs::fcntl_setfl(&answers, OFlags::empty())
        .map_err(|errno| brig_sys::Error::new("fcntl(answers, F_SETFL, 0)", errno))?;
    wire::write_order(&orders, Order::Go)?;
    let mut said = Vec::new();
    std::fs::File::from(answers)
        .take(MAX_MESSAGE as u64 + 1)
        .read_to_end(&mut said)
        .map_err(|error| Error { kind: ErrorKind::System, message: format!("reading init's answer: {error}") })?;
    if said.is_empty() {
        return Ok(());
    }
    match serde_json::from_slice(&said) {
        Ok(Report::Failed(error)) => Err(error),
        _ => Err(Error::system("init sent an unexpected report")),
    }
}

/// Removes the gate: from now on the container counts as started. May be done twice.
pub fn remove(directory: &Path) {
    // Gone is what is wanted; what cannot be removed goes with the directory.
    std::fs::remove_file(directory.join(ORDERS)).unwrap_or_default();
    if let Some(place) = directory.join(ANSWERS).parent() {
        std::fs::remove_dir_all(place).unwrap_or_default();
    }
}

fn open(path: &Path, flags: OFlags) -> std::result::Result<OwnedFd, brig_sys::Error> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|errno| brig_sys::Error::new(format!("open({path:?}, {flags:?})"), errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_here() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_closed(directory.path()));
        let gate = Gate::make(directory.path()).unwrap();
        assert!(is_closed(directory.path()));
        drop(gate);
        assert_eq!(let_go(directory.path()).unwrap_err().message, "container process is already dead");
        remove(directory.path());
        remove(directory.path());
        assert!(!is_closed(directory.path()));
    }

    #[test]
    fn an_answer_is_heard_and_silence_is_success() {
        let directory = tempfile::tempdir().unwrap();
        for answer in [None, Some(Report::Failed(Error::invalid("no")))] {
            let gate = Gate::make(directory.path()).unwrap();
            let init = std::thread::spawn(move || {
                assert_eq!(wire::wait_order(&gate.orders, Order::Go).unwrap(), Some(()));
                if let Some(report) = answer {
                    wire::report(&gate.answers, &report).unwrap();
                    return false;
                }
                true
            });
            let heard = let_go(directory.path());
            assert_eq!(init.join().unwrap(), heard.is_ok());
            remove(directory.path());
        }
    }
}
