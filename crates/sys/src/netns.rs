//! Network namespaces: naming them, making them, doing one thing inside them, and the socket options of the
//! port keeper. Owns the rule that no thread of a pool ever changes its namespace: every visit happens on a
//! thread of its own that ends afterwards. Must not know what is set up inside.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::{Error, Result};

/// The calling thread's network namespace.
pub fn current() -> Result<OwnedFd> {
    rustix::fs::open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::new("open(\"/proc/thread-self/ns/net\")", errno))
}

/// What tells two namespaces apart: equal exactly if both descriptors name the same namespace.
pub fn identity(netns: BorrowedFd<'_>) -> Result<(u64, u64)> {
    let stat = rustix::fs::fstat(netns).map_err(|errno| Error::new("fstat(netns)", errno))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Makes a new, empty network namespace that lives as long as the descriptor (or anything else inside).
pub fn create() -> Result<OwnedFd> {
    on_own_thread(|| {
        unshare_net()?;
        current()
    })
}

/// Runs `work` inside `netns`, on a thread made for it, and returns what it returned.
pub fn inside<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T> {
    on_own_thread(|| {
        rustix::thread::move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
            .map_err(|errno| Error::new(format!("setns({}, CLONE_NEWNET)", netns.as_raw_fd()), errno))?;
        Ok(work())
    })
}

/// As [`inside`], but directly on the calling thread if that is already in `netns`.
pub fn inside_unless_there<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T> {
    if identity(current()?.as_fd())? == identity(netns)? { Ok(work()) } else { inside(netns, work) }
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)
            .map_err(|error| Error::new("clone(thread)", Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn unshare_net() -> Result<()> {
    // SAFETY: only the network namespace is unshared; no descriptor table, memory or credential changes.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .map_err(|errno| Error::new("unshare(CLONE_NEWNET)", errno))
}

/// Makes `socket` deaf: it keeps its address and port, and every packet that reaches it is dropped unanswered.
pub fn deafen(socket: BorrowedFd<'_>) -> Result<()> {
    // One classic BPF instruction: return 0, keep nothing of the packet.
    let mut nothing = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut nothing };
    let length = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).expect("a small struct");
    // SAFETY: `program` points to one valid instruction, both outlive the call, and `length` is its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            length,
        )
    };
    if result == 0 {
        return Ok(());
    }
    let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
    Err(Error::new("setsockopt(SO_ATTACH_FILTER)", errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_new_namespace_is_another_and_the_caller_stays() {
        let before = identity(current().expect("own").as_fd()).expect("identity");
        let made = create().expect("create");
        let made_id = identity(made.as_fd()).expect("identity");
        assert_ne!(before, made_id);
        let seen = inside(made.as_fd(), || identity(current().expect("own").as_fd()).expect("identity"));
        assert_eq!(seen.expect("inside"), made_id);
        assert_eq!(identity(current().expect("own").as_fd()).expect("identity"), before);
    }

    #[test]
    fn a_deaf_listener_keeps_the_port_and_answers_nobody() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        deafen(listener.as_fd()).expect("filter");
        let address = listener.local_addr().expect("address");
        let error = std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200));
        assert_eq!(error.expect_err("deaf").kind(), std::io::ErrorKind::TimedOut);
        assert!(std::net::TcpListener::bind(address).is_err());
    }
}
