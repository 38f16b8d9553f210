//! Turning a fresh process into a shim.
//!
//! Owns: its session, signals, descriptors, directory and standing with the kernel. Must not: know containers.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use brig_sys::{Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::client::FIRST_CLIENT_FD;
use crate::diagnose;

/// As little as possible, but not the -1000 that would make a leak of ours the machine's problem.
const OOM_SCORE_ADJ: i32 = -999;

/// What a shim begins with.
pub(crate) struct Given {
    /// The client that started it.
    pub(crate) first_client: UnixStream,
    /// Readable when a child has ended.
    pub(crate) children: OwnedFd,
}

/// Detaches this process from whoever started it. `dir` must be absolute.
///
/// Errors: descriptor 3 is not an open socket, or the kernel refuses something that it grants to everyone.
pub(crate) fn become_shim(dir: &Path) -> Result<Given> {
    diagnose::write_to(dir);
    let first_client = UnixStream::from(first_client()?);
    brig_sys::process::close_from(FIRST_CLIENT_FD as u32 + 1)?;
    standard_streams()?;
    // Fails only for a process that leads a session already, which is as good.
    brig_sys::process::new_session().ok();
    rustix::process::chdir("/").map_err(|errno| Error::new("chdir(\"/\")", errno))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // Terminal and daemon signals are not for containers; SIGKILL is the only way to end a shim from outside.
    brig_sys::signal::block_all()?;
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own))
        .map_err(|errno| Error::new("prctl(PR_SET_CHILD_SUBREAPER)", errno))?;
    // Not granted without CAP_SYS_RESOURCE: then the shim is as likely a victim as anyone.
    brig_sys::process::set_oom_score_adj(own.as_raw_nonzero().get(), OOM_SCORE_ADJ).ok();
    let children = brig_sys::inherited::child_notifications()?;
    Ok(Given { first_client, children })
}

/// Standard input where it is a socket (a parent that can hand over nothing else), else descriptor 3.
fn first_client() -> Result<OwnedFd> {
    let input = rustix::stdio::stdin();
    let is_socket = rustix::fs::fstat(input)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Socket);
    if !is_socket {
        return brig_sys::inherited::take(FIRST_CLIENT_FD);
    }
    // Whatever the parent leaked as descriptor 3 makes room.
    brig_sys::process::close_from(FIRST_CLIENT_FD as u32)?;
    rustix::io::fcntl_dupfd_cloexec(input, FIRST_CLIENT_FD)
        .map_err(|errno| Error::new("fcntl(0, F_DUPFD_CLOEXEC, 3)", errno))
}

fn standard_streams() -> Result<()> {
    let failed = |call: &'static str| move |errno: Errno| Error::new(call, errno);
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open(\"/dev/null\")"))?;
    (0..=2).try_for_each(|number| brig_sys::process::duplicate_to(null.as_fd(), number))
}
