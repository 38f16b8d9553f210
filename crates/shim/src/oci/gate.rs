//! The process that holds a created container at its gate after `create` has ended.
//!
//! Owns: the gate's socket and the conversation on it. Must not: stay: once the container runs it ends without a trace, so that
//! init becomes the child of whoever called `create` (a subreaper), which alone learns its exit code.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use brig_runtime::Container;
use rustix::event::{PollFd, PollFlags, poll};

use crate::oci::Fault;
use crate::oci::record::{GATE, Records};
use crate::protocol::{Answer, FailureKind, decode_answer, encode};

/// Listens at the gate of a container.
pub(crate) fn listen(directory: &Path) -> Result<UnixListener, Fault> {
    let path = directory.join(GATE);
    at(directory, |path| UnixListener::bind(path)).map_err(|error| Fault::io("bind", &path, &error))
}

/// Waits until somebody opens the gate, and does so. Returns when there is nothing more to hold.
pub(crate) fn hold(mut container: Container, listener: &UnixListener, records: &Records, id: &str) {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(container.pidfd(), PollFlags::IN),
        ];
        if poll(&mut fds, None).is_err() {
            continue;
        }
        let ended = !fds[1].revents().is_empty();
        let path = records.directory(id).join(GATE);
        if ended {
            // Killed before it was started. It is not reaped here: its exit code belongs to the caller of `create`.
            std::fs::remove_file(path).ok();
            return;
        }
        let Ok((mut client, _)) = listener.accept() else { continue };
        let started = container.start();
        // Only now may another call find it running, or stopped.
        std::fs::remove_file(path).ok();
        let answer = match started {
            Ok(()) => Answer::Ok(()),
            Err(error) => Answer::Error(crate::launch::failure(error)),
        };
        // A client that went away has no use for the answer; the state is right all the same.
        client.write_all(&encode(&answer)).ok();
        return;
    }
}

/// Opens the gate of a created container.
///
/// Errors: what execve said.
pub(crate) fn open(directory: &Path) -> Result<(), Fault> {
    let path = directory.join(GATE);
    let client =
        at(directory, |path| UnixStream::connect(path)).map_err(|error| Fault::io("connect", &path, &error))?;
    let mut answer = Vec::new();
    BufReader::new(client).read_until(b'\n', &mut answer).map_err(|error| Fault::io("read", &path, &error))?;
    if answer.is_empty() {
        return Err(Fault::new("the container ended before it was started"));
    }
    let answer: Answer<()> = decode_answer(&answer).map_err(|error| Fault::new(error.to_string()))?;
    answer.into_result().map_err(|failure| match failure.kind {
        FailureKind::NotFound | FailureKind::NotExecutable => Fault::new(failure.message),
        _ => Fault::new(format!("starting the container: {failure}")),
    })
}

/// Calls `then` with a short path of the gate's socket.
fn at<T>(directory: &Path, then: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    crate::client::with_short_path(directory, GATE, then)
}
