//! The streams of a program, as the caller gives them.
//! Owns: that they are what the specification asks for, out of the way of each other, and the program's user's. Must not: copy bytes.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use brig_sys::clone;
use rustix::fs::FileType;

use crate::error::{Error, Result, Step};
use crate::identity::Identity;
use crate::init;
use crate::launch::Launch;

/// The program's streams.
#[derive(Debug)]
pub enum Stdio {
    /// Three descriptors that become 0, 1 and 2. Pipes are given to the program's user.
    Pipes {
        /// Becomes 0.
        stdin: OwnedFd,
        /// Becomes 1.
        stdout: OwnedFd,
        /// Becomes 2.
        stderr: OwnedFd,
    },
    /// A terminal of this size in characters (0 leaves the kernel's), exactly if `process.terminal` is set.
    Terminal {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
}

pub(crate) fn check_terminal(wanted: bool, stdio: &Stdio) -> Result<()> {
    match (wanted, stdio) {
        (true, Stdio::Terminal { .. }) | (false, Stdio::Pipes { .. }) => Ok(()),
        (true, Stdio::Pipes { .. }) => Err(Error::invalid("process.terminal: is set, but streams were given")),
        (false, Stdio::Terminal { .. }) => {
            Err(Error::invalid("process.terminal: is not set, but a terminal was asked for"))
        }
    }
}

/// The program's further descriptors are where it expects them already, in order and each once, so that nothing has to be
/// moved out of their way.
pub(crate) fn check_preserved(preserved: &[OwnedFd]) -> Result<()> {
    let mut least = 3;
    for fd in preserved {
        let number = fd.as_raw_fd();
        if number < least {
            return Err(Error::invalid(format!(
                "preserved descriptors: {number} stands where {least} or above should"
            )));
        }
        least = number + 1;
    }
    Ok(())
}

/// Streams as descriptors above 2, so that none is overwritten while they are put into place.
pub(crate) fn lift(stdio: Stdio) -> Result<Stdio> {
    Ok(match stdio {
        Stdio::Pipes { stdin, stdout, stderr } => Stdio::Pipes {
            stdin: clone::above_stdio(stdin)?,
            stdout: clone::above_stdio(stdout)?,
            stderr: clone::above_stdio(stderr)?,
        },
        terminal @ Stdio::Terminal { .. } => terminal,
    })
}

impl Stdio {
    pub(crate) fn borrow(&self) -> init::Stdio<'_> {
        match self {
            Stdio::Pipes { stdin, stdout, stderr } => {
                init::Stdio::Pipes { fds: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] }
            }
            Stdio::Terminal { width, height } => init::Stdio::Terminal { rows: *height, columns: *width },
        }
    }

    /// Gives pipes to the program's user, who may want to open `/dev/stdout` again. Other files stay whose they are.
    pub(crate) fn give_to(&self, launch: &Launch, identity: &Identity) -> Result<()> {
        let Stdio::Pipes { stdin, stdout, stderr } = self else { return Ok(()) };
        let (uid, gid) = identity.outside(launch.uid, launch.gid).step(|| "process.user".to_owned())?;
        for fd in [stdin, stdout, stderr] {
            let stat = rustix::fs::fstat(fd)
                .map_err(|errno| brig_sys::Error::new(format!("fstat({})", fd.as_raw_fd()), errno))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo && (stat.st_uid, stat.st_gid) != (uid, gid) {
                match rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)))
                {
                    // A caller without rights: the program has its streams all the same.
                    Err(rustix::io::Errno::PERM) => {}
                    done => done.map_err(|errno| {
                        brig_sys::Error::new(format!("fchown({}, {uid}, {gid})", fd.as_raw_fd()), errno)
                    })?,
                }
            }
        }
        Ok(())
    }
}
