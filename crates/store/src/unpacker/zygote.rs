//! The zygote: a process with one thread from which every confined process is forked, since starting a program and making
//! all its namespaces takes longer than unpacking a small layer does. Owns both of its ends: in this process a thread that
//! starts it, asks it and lets it end; in the other the forking. The zygote must not see a byte of any layer.
//!
//! What all confined processes may share is made once, in there: namespaces in which there is nothing. Each has its own user
//! and mount namespaces and all other walls. They are children of this process, not of the zygote, so that they are waited
//! for here, and of that one thread of this process, with which they end.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use brig_sys::clone::{self, flags};
use brig_sys::fdpass::{self, Channel};
use brig_sys::pidfd::Exit;
use brig_sys::{inherited, process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::confine::{self, Missing, PIECES};
use super::{Start, notes};
use crate::error::{Error, Result};

const BEAR: u8 = b'B';
const BORN: u8 = b'C';
const REFUSED: u8 = b'X';

/// The kernel's choice when memory is short: rather these than the daemon or a container.
const OOM_SCORE: i32 = 800;

/// A confined process to be, which waits for its job.
pub(super) struct Born {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) channel: Channel,
}

/// The thread that has a zygote while one is needed.
#[derive(Debug, Default)]
pub(super) struct Keeper(Mutex<Option<Sender<Request>>>);

type Request = SyncSender<Result<Born>>;

impl Keeper {
    /// A new process.
    pub(super) fn bear(&self, start: &Arc<Start>) -> Result<Born> {
        let gone = || Error::invalid("the thread that starts processes to unpack layers has ended");
        let (answer, born) = sync_channel(1);
        self.requests(start)?.send(answer).map_err(|_| gone())?;
        born.recv().unwrap_or_else(|_| Err(gone()))
    }

    fn requests(&self, start: &Arc<Start>) -> Result<Sender<Request>> {
        let mut requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(requests) = &*requests {
            return Ok(requests.clone());
        }
        let (sender, receiver) = channel();
        let start = start.clone();
        // Ends with the last sender, which the keeper has: not before the last process that was forked for it.
        std::thread::Builder::new()
            .name("unpack-zygote".into())
            .spawn(move || keep(&start, &receiver))
            .map_err(|error| Error::io("start a thread", error))?;
        Ok(requests.insert(sender).clone())
    }
}

fn keep(start: &Start, requests: &Receiver<Request>) {
    let mut zygote = None;
    loop {
        let request = match zygote {
            Some(_) => requests.recv_timeout(start.idle),
            None => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match request {
            // Whoever asked may have given up.
            Ok(answer) => drop(answer.send(bear(start, &mut zygote))),
            Err(RecvTimeoutError::Timeout) => zygote = None,
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn bear(start: &Start, running: &mut Option<Zygote>) -> Result<Born> {
    if let Some(zygote) = running {
        match zygote.bear(start.stalled) {
            Ok(born) => return Ok(born),
            // It was killed while it was idle, perhaps because memory was short: not the layer's fault.
            Err(error) => tracing::debug!("{error}; starting it anew"),
        }
        *running = None;
    }
    let born = running.insert(Zygote::start(start)?).bear(start.stalled);
    if born.is_err() {
        *running = None;
    }
    born
}

/// A running zygote, which ends with this.
struct Zygote {
    child: Child,
    channel: Channel,
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // It has ended, or is to; what cannot be killed is gone.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Zygote {
    fn start(start: &Start) -> Result<Zygote> {
        let (channel, theirs) = fdpass::pair()?;
        let mut command = Command::new(&start.program);
        command.args(&start.arguments).env_clear().arg0("brig");
        // Not even /dev/null, whose mode root may change by an open descriptor: a pipe that nobody reads.
        let failed = |errno: Errno| Error::io("make a pipe", errno);
        let (_, nowhere) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let again = nowhere.try_clone().map_err(|error| Error::io("duplicate a descriptor", error))?;
        command.stdin(Stdio::from(theirs.into_fd())).stdout(Stdio::from(nowhere)).stderr(Stdio::from(again));
        let child = command.spawn().map_err(|error| Error::io("start the process that unpacks layers", error))?;
        let zygote = Zygote { child, channel };
        process::set_oom_score_adj(i32::try_from(zygote.child.id()).unwrap_or_default(), OOM_SCORE)?;
        Ok(zygote)
    }

    fn bear(&mut self, patience: Duration) -> Result<Born> {
        let (channel, theirs) = fdpass::pair()?;
        match self.channel.send(&[BEAR], &[theirs.as_fd()]) {
            Ok(()) => {}
            Err(error) if error.errno == Errno::PIPE => return Err(self.died()),
            Err(error) => return Err(error.into()),
        }
        drop(theirs);
        let timeout = Timespec { tv_sec: patience.as_secs().cast_signed(), tv_nsec: patience.subsec_nanos().into() };
        let heard = loop {
            match poll(&mut [PollFd::new(&self.channel, PollFlags::IN)], Some(&timeout)) {
                // A signal to this process, such as the one to read its settings again, is none of the zygote's doing.
                Err(Errno::INTR) => {}
                heard => break heard,
            }
        };
        match heard {
            Ok(0) => return Err(Error::invalid("the process that starts others to unpack layers does not answer")),
            Ok(_) => {}
            Err(errno) => return Err(Error::io("poll", errno)),
        }
        let answer = self.channel.receive()?;
        match (answer.bytes.as_slice(), answer.fds.into_iter().next()) {
            ([BORN, pid @ ..], Some(pidfd)) => {
                let pid = pid.try_into().map(i32::from_le_bytes).map_err(|_| notes::bad("a process"))?;
                Ok(Born { pid, pidfd, channel })
            }
            ([REFUSED, error @ ..], None) => Err(notes::decode_error(error)),
            ([], None) => Err(self.died()),
            _ => Err(notes::bad("a message")),
        }
    }

    /// It has closed its end.
    fn died(&mut self) -> Error {
        let _gone = self.child.kill();
        match self.child.wait() {
            Ok(status) => died(Ok(match status.code() {
                Some(code) => Exit::Code(code),
                None => Exit::Signal(status.signal().unwrap_or_default()),
            })),
            Err(error) => Error::io("wait for the process that unpacks layers", error),
        }
    }
}

/// How a process that had something to say yet has ended.
pub(super) fn died(exit: brig_sys::Result<Exit>) -> Error {
    let text = match exit {
        Ok(Exit::Code(code)) => format!("ended unexpectedly with code {code}"),
        Ok(Exit::Signal(signal)) => format!("was killed by signal {signal}"),
        Err(error) => format!("is gone: {error}"),
    };
    Error::invalid(format!("the process that unpacks the layer {text}; nothing of the layer is kept"))
}

/// The zygote itself, for a process that does nothing else: `work` is done in a process of its own, each time that it is asked
/// for at the other end of standard input, with a channel there and what the kernel did not give so far, and tells the code
/// that it ends with.
pub fn serve(work: impl Fn(Channel, Vec<Missing>) -> i32) -> ExitCode {
    match serve_until_closed(&work) {
        Ok(()) => ExitCode::SUCCESS,
        // There is nobody to tell: the conversation itself has failed.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve_until_closed(work: &impl Fn(Channel, Vec<Missing>) -> i32) -> Result<()> {
    let channel = Channel::from_fd(inherited::take(0)?);
    process::close_from(3)?;
    // Modes are the archive's.
    rustix::process::umask(Mode::empty());
    name(c"brig-zygote")?;
    let missing = confine::share(PIECES);
    loop {
        let message = channel.receive()?;
        let conversation = match (message.bytes.as_slice(), message.fds.into_iter().next()) {
            ([BEAR], Some(conversation)) => conversation,
            ([], None) => return Ok(()),
            _ => return Err(notes::bad("a message")),
        };
        let born = clone::spawn(flags::PARENT, None, || match begin(&conversation) {
            Ok(channel) => work(channel, missing.clone()),
            Err(_) => 1,
        });
        match born {
            Ok(born) => channel.send(&[&[BORN], &born.pid.to_le_bytes()[..]].concat(), &[born.pidfd.as_fd()])?,
            Err(error) => channel.send(&[&[REFUSED], &notes::encode_error(&error.into())[..]].concat(), &[])?,
        }
    }
}

/// In the new process: its own channel takes the place of the zygote's, and nothing else is open.
fn begin(conversation: &OwnedFd) -> Result<Channel> {
    process::duplicate_to(conversation.as_fd(), 0)?;
    process::close_from(3)?;
    name(c"brig-unpack")?;
    Ok(Channel::from_fd(inherited::take(0)?))
}

/// What the process is called in lists.
fn name(name: &CStr) -> Result<()> {
    rustix::thread::set_name(name).map_err(|errno| Error::io("prctl(PR_SET_NAME)", errno))
}
