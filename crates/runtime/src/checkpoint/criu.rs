//! One run of CRIU as a child (`criu swrk 3`): started, asked, heard, waited for.
//! Owns the process and the socket. Must not know what is dumped or restored.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use brig_sys::clone::{self, Spawned};
use brig_sys::fdpass::{self, Channel};
use brig_sys::pidfd::{self, Exit};
use brig_sys::process::StringArray;
use rustix::fs::{Access, FileType};

use super::rpc::{self, Kind, Response};
use crate::error::{Error, Result, Step};

/// In front of what the child says if it fails before it is CRIU; no message of CRIU's begins so.
const LAST_WORDS: u8 = 0xff;

/// A running CRIU; killed and reaped if dropped.
#[derive(Debug)]
pub(super) struct Criu {
    child: Option<Spawned>,
    /// What the child says before it is CRIU.
    early: Channel,
    /// The conversation, once it is another one.
    later: Option<Channel>,
}

/// What the child takes with it when it becomes CRIU.
#[derive(Debug, Default)]
pub(super) struct Handover {
    /// CRIU's end of the conversation, if the child made one itself: CRIU opens descriptors of whoever made it.
    pub channel: Option<Channel>,
    /// CRIU's descriptors from [`FIRST_FD`] on.
    pub files: Vec<OwnedFd>,
}

/// The first descriptor that CRIU gets beside its streams and its socket.
pub(super) const FIRST_FD: i32 = 4;

/// More than CRIU is ever given: what the child needs until execve is above it.
const BEYOND: i32 = 32;

/// Where CRIU is: `criu` in `PATH`.
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")
        .unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    let runs = |candidate: &PathBuf| {
        rustix::fs::stat(candidate).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
            && rustix::fs::access(candidate, Access::EXEC_OK).is_ok()
    };
    std::env::split_paths(&path).filter(|folder| folder.is_absolute()).map(|folder| folder.join("criu")).find(runs)
}

impl Criu {
    /// Starts CRIU; `prepare` runs in the child before and can send on the channel. CRIU's streams are the caller's.
    ///
    /// # Errors
    /// There is no CRIU. What fails in the child is said by [`Criu::next`].
    pub fn start(cgroup: Option<BorrowedFd<'_>>, prepare: impl FnOnce(&Channel) -> Result<Handover>) -> Result<Criu> {
        let program = find().ok_or_else(|| {
            Error::unsupported(
                "checkpoint and restore need CRIU: there is no executable criu in PATH; install CRIU 4 or later",
            )
        })?;
        let (ours, theirs) = fdpass::pair()?;
        // Out of the way of the numbers that CRIU gets, so that a failed execve can still be told of.
        let theirs = rustix::io::fcntl_dupfd_cloexec(theirs.as_fd(), BEYOND)
            .map(Channel::from_fd)
            .map_err(|errno| brig_sys::Error::new(format!("fcntl(socket, F_DUPFD_CLOEXEC, {BEYOND})"), errno))?;
        let child = clone::spawn(0, cgroup, || {
            let error = match prepare(&theirs) {
                Ok(handover) => execute(&program, &theirs, &handover),
                Err(error) => error,
            };
            let mut words = vec![LAST_WORDS];
            words.extend_from_slice(error.message.as_bytes());
            words.truncate(fdpass::MAX_MESSAGE);
            // A parent that is gone needs no reason.
            theirs.send(&words, &[]).unwrap_or_default();
            1
        })?;
        Ok(Criu { child: Some(child), early: ours, later: None })
    }

    fn channel(&self) -> &Channel {
        self.later.as_ref().unwrap_or(&self.early)
    }

    /// CRIU itself, as this process sees it.
    pub fn pid(&self) -> i32 {
        self.child.as_ref().map_or(0, |child| child.pid)
    }

    /// From here on CRIU waits for ever if this process dies, instead of going on as if it had been answered: this end of the
    /// conversation is on its way to a socket that only CRIU has, and that CRIU never reads.
    ///
    /// # Errors
    /// CRIU has ended.
    pub fn hold(&self) -> Result<()> {
        Ok(self.early.send(b"\0", &[self.channel().as_fd()])?)
    }

    /// Sends a message, however long.
    pub fn send(&self, message: &[u8]) -> Result<()> {
        match rustix::net::send(self.channel(), message, rustix::net::SendFlags::NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(errno) => Err(self.why(brig_sys::Error::new(format!("send(criu, {} bytes)", message.len()), errno))),
        }
    }

    /// If CRIU could not be told something because it ended, what it said before.
    fn why(&self, error: brig_sys::Error) -> Error {
        if error.errno != rustix::io::Errno::PIPE {
            return error.into();
        }
        match self.next() {
            Err(said) => said,
            Ok(_) => error.into(),
        }
    }

    /// The next message, with a descriptor if there is one.
    ///
    /// # Errors
    /// CRIU ended, or never began.
    pub fn next(&self) -> Result<(Response, Option<OwnedFd>)> {
        let message = self.channel().receive()?;
        match message.bytes.split_first() {
            None if self.later.is_some() => {
                let words = self.early.receive()?.bytes;
                Err(last_words(&words).unwrap_or_else(|| Error::system("criu ended without an answer")))
            }
            None => Err(Error::system("criu ended without an answer")),
            Some(_) => match last_words(&message.bytes) {
                Some(error) => Err(error),
                None => {
                    let response = Response::parse(&message.bytes).step(|| "criu".to_owned())?;
                    Ok((response, message.fds.into_iter().next()))
                }
            },
        }
    }

    /// Waits until the child, before it is CRIU, sends its end of the conversation.
    pub fn prepared(&mut self) -> Result<()> {
        let message = self.early.receive()?;
        match (last_words(&message.bytes), message.fds.into_iter().next()) {
            (Some(error), _) => Err(error),
            (None, Some(channel)) => {
                self.later = Some(Channel::from_fd(channel));
                Ok(())
            }
            (None, None) => Err(Error::system("the process that was to become criu died")),
        }
    }

    /// Answers a notification.
    pub fn notified(&self, success: bool) -> Result<()> {
        self.send(&rpc::notified(success))
    }

    /// Closes the conversation and waits until CRIU has ended.
    pub fn finish(mut self) -> Result<Exit> {
        let child = self.child.take().ok_or_else(|| Error::system("criu was waited for before"))?;
        rustix::net::shutdown(self.channel(), rustix::net::Shutdown::Both)
            .map_err(|errno| brig_sys::Error::new("shutdown(criu)", errno))?;
        Ok(pidfd::reap(child.pidfd.as_fd())?)
    }

    /// What CRIU can do here.
    pub fn features(&self, memory_tracking: bool, lazy_pages: bool) -> Result<()> {
        self.send(&rpc::features(memory_tracking, lazy_pages))?;
        let (response, _) = self.next()?;
        if response.kind != Some(Kind::FeatureCheck) || !response.success {
            return Err(Error::system(format!("CRIU feature check failed: {}", response.message)));
        }
        let missing: Vec<&str> = [
            ("MemTrack", memory_tracking && !response.memory_tracking),
            ("LazyPages", lazy_pages && !response.lazy_pages),
        ]
        .into_iter()
        .filter_map(|(name, missing)| missing.then_some(name))
        .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::unsupported(format!("criu is missing features: [{}] (see criu check --feature)", missing.join(" "))))
    }
}

impl Drop for Criu {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            crate::container::end(child.pidfd.as_fd());
        }
    }
}

fn last_words(bytes: &[u8]) -> Option<Error> {
    let (_, words) = bytes.split_first().filter(|(first, _)| **first == LAST_WORDS)?;
    Some(Error::system(String::from_utf8_lossy(words)))
}

/// Becomes CRIU; returns only if that fails.
fn execute(program: &Path, channel: &Channel, handover: &Handover) -> Error {
    let c_string = |bytes: Vec<u8>| CString::new(bytes).unwrap_or_default();
    let mut all = vec![handover.channel.as_ref().unwrap_or(channel).as_fd()];
    all.extend(handover.files.iter().map(AsFd::as_fd));
    // Never used by CRIU, but open for as long as CRIU lives: see `Criu::hold`.
    all.push(channel.as_fd());
    if let Err(error) = brig_sys::process::give_from_three(&all) {
        return error.into();
    }
    let arguments = ["criu", "swrk", "3"].map(|word| c_string(word.into())).to_vec();
    let environment = std::env::vars_os()
        .map(|(name, value)| {
            let mut entry = name.into_vec();
            entry.push(b'=');
            entry.extend(value.into_vec());
            c_string(entry)
        })
        .collect();
    let path = c_string(program.as_os_str().as_bytes().to_vec());
    brig_sys::process::execute(&path, &StringArray::new(arguments), &StringArray::new(environment)).into()
}
