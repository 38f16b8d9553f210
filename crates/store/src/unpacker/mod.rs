//! Unpacking in a process of its own that can reach nothing but the layer's directory: having it forked (`zygote.rs`), feeding
//! it, hearing what came of it. Owns both ends of their conversation. Must not believe the process: what it says is bounded and checked, and
//! whatever becomes of it is the failure of one layer.
//!
//! What is left to believe is that the files are what the archive with the told diff id describes: whoever takes the process
//! over by means of a hostile archive can lie about that one layer, and reach nothing else. What it leaves beside the files is
//! checked by `layer/shape.rs`; who else may be given that layer is decided by `sources.rs`.
//!
//! The conversation, over a pair of sockets that keeps messages apart: the process says [`READY`], gets [`JOB`] with the
//! layer's directory (a detached mount) and the input (a pipe), says [`LOCKED`] once it is confined; after the input's last
//! byte it is told [`END`], so that an input that merely broke off is not taken for whole. It says [`PROGRESS`] now and
//! then, and at last [`LISTS`] as often as need be and [`DONE`], or [`FAILED`]. A process that is only to decode a stream gets
//! an empty directory and a pipe for what comes out.

mod confine;
mod decode;
mod filter;
mod helper;
mod notes;
mod zygote;

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use brig_sys::beneath::Root;
use brig_sys::fdpass::Channel;
use brig_sys::idmap::{self, Kind, Range};
use brig_sys::mount::{self, Attr, Change};
use brig_sys::pidfd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};

use crate::apply::Content;
use crate::decompress::{Packing, ZSTD_HEAD, ZSTD_USUAL_LOG, ZSTD_WINDOW_LOG, needs_large_window};
use crate::error::{Error, Result};
use crate::layer::{InFile, Input};
pub use confine::{Missing, PIECES, Piece, isolate, lock, share};
pub use helper::main;
use notes::{MAX_LISTS, Outcome};
use zygote::Born;
pub use zygote::serve;

const READY: u8 = b'R';
const JOB: u8 = b'J';
const LOCKED: u8 = b'L';
const END: u8 = b'E';
const PROGRESS: u8 = b'P';
const LISTS: u8 = b'N';
const DONE: u8 = b'D';
const FAILED: u8 = b'F';

const SIGKILL: i32 = 9;

/// How long the process may take for any step, by default.
const STALLED: Duration = Duration::from_secs(60);
/// How long the zygote is kept without anything to do, by default.
const IDLE: Duration = Duration::from_secs(10);
/// How many times as long it may only say that it is alive: what the pipe holds may be a thousand times as much to write.
const LONGEST: u32 = 60;
/// How much is read from the input at a time, and kept in the pipe, in bytes.
const PIECE: usize = 256 * 1024;

/// How confined processes are started.
#[derive(Debug)]
pub struct Unpacker {
    start: Arc<Start>,
    zygote: zygote::Keeper,
    /// What the kernel does not have has been said.
    told: AtomicBool,
    /// Held by whoever needs much memory to decode: one at a time.
    large: Mutex<()>,
}

/// What has [`main`] run, and how patiently.
#[derive(Debug, Clone)]
struct Start {
    program: PathBuf,
    arguments: Vec<OsString>,
    stalled: Duration,
    idle: Duration,
}

impl Unpacker {
    /// A program that does nothing with these arguments but [`main`].
    pub fn new(program: impl Into<PathBuf>, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Unpacker {
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
        Unpacker {
            start: Arc::new(Start { program: program.into(), arguments, stalled: STALLED, idle: IDLE }),
            zygote: zygote::Keeper::default(),
            told: AtomicBool::new(false),
            large: Mutex::default(),
        }
    }

    /// This program itself, even after its file was replaced, with the verb `unpack`.
    pub fn this_program() -> Unpacker {
        Unpacker::new("/proc/self/exe", ["unpack"])
    }

    /// Gives up on a process that has input, or all of it, and does nothing for this long.
    pub fn stalled_after(self, stalled: Duration) -> Unpacker {
        let start = Start { stalled, ..Start::clone(&self.start) };
        Unpacker { start: Arc::new(start), ..self }
    }

    /// Ends the process that others are forked from when none was asked of it for this long.
    pub fn idle_after(self, idle: Duration) -> Unpacker {
        let start = Start { idle, ..Start::clone(&self.start) };
        Unpacker { start: Arc::new(start), ..self }
    }

    /// Unpacks what `input` gives into the ingest directory `directory`.
    pub(crate) fn unpack(
        &self,
        directory: &Root,
        input: &mut dyn Input,
        packing: Option<Packing>,
        content: Content,
    ) -> Result<Outcome> {
        let mut head = Vec::with_capacity(ZSTD_HEAD);
        let limit = ZSTD_HEAD as u64;
        input.take(limit).read_to_end(&mut head).map_err(|error| Error::input("read the layer", &error))?;
        let large = packing != Some(Packing::Plain) && needs_large_window(&head);
        let _alone = large.then(|| self.large.lock().unwrap_or_else(PoisonError::into_inner));
        let window_log = if large { ZSTD_WINDOW_LOG } else { ZSTD_USUAL_LOG };
        let mut process = Process::start(self)?;
        let (read_end, write_end) = pipe()?;
        let mount = only_this(directory)?;
        process.prepare(self)?;
        let code = match content {
            Content::Written => helper::packing_code(packing),
            Content::LeftOut => helper::HOLLOW,
        };
        let job = [JOB, code, u8::try_from(window_log).unwrap_or_default()];
        process.send(&job, &[mount.as_fd(), read_end.as_fd()])?;
        drop((read_end, mount));
        if process.write(&head, &write_end)? == Wants::More {
            process.feed(input, write_end)?;
        }
        process.outcome()
    }

    fn tell(&self, missing: &[u8]) {
        if missing.is_empty() || self.told.swap(true, Ordering::Relaxed) {
            return;
        }
        let missing = notes::decode_error(&[&[0], missing].concat()).message;
        tracing::warn!("layers are unpacked less confined than they could be, as the kernel refuses: {missing}");
    }
}

/// Whether the process takes more input.
#[derive(PartialEq, Eq)]
enum Wants {
    More,
    /// It has had its last word, or is gone.
    Nothing,
}

/// What came of moving a file's bytes to the process.
enum Moved {
    Bytes(u64),
    /// They have to be read.
    Cannot,
    NotWanted,
}

/// A detached mount of the directory alone, from which nothing is run and no device opened.
fn only_this(directory: &Root) -> Result<OwnedFd> {
    let tree = mount::clone_tree(directory.as_fd(), false)?;
    let set = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
    mount::configure(tree.as_fd(), false, Change { set, ..Change::default() })?;
    Ok(tree)
}

/// A pipe to the process: its end, then ours, which never blocks.
fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let failed = |errno: Errno| Error::io("make a pipe", errno);
    let (read_end, write_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    // Only fewer wake-ups: where pipes are limited a smaller one does.
    let _smaller = rustix::pipe::fcntl_setpipe_size(&write_end, PIECE);
    rustix::fs::fcntl_setfl(&write_end, rustix::fs::OFlags::NONBLOCK).map_err(failed)?;
    Ok((read_end, write_end))
}

/// The process, which ends with this at the latest.
struct Process<'a> {
    pid: i32,
    pidfd: OwnedFd,
    channel: Channel,
    unpacker: &'a Unpacker,
    /// When it last gave a sign of life or took input.
    alive: Instant,
    /// When it last took input or gave output: words alone do not keep it for ever.
    further: Instant,
    lists: Vec<u8>,
    /// It was given all there is.
    fed: bool,
    last_word: Option<Result<Vec<u8>>>,
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        // It has ended, or is to; what cannot be killed is gone.
        let _gone = pidfd::send_signal(self.pidfd.as_fd(), SIGKILL);
        let _reaped = pidfd::reap(self.pidfd.as_fd());
    }
}

impl<'a> Process<'a> {
    fn start(unpacker: &'a Unpacker) -> Result<Process<'a>> {
        let Born { pid, pidfd, channel } = unpacker.zygote.bear(&unpacker.start)?;
        let alive = Instant::now();
        Ok(Process {
            pid,
            pidfd,
            channel,
            unpacker,
            alive,
            further: alive,
            lists: Vec::new(),
            fed: false,
            last_word: None,
        })
    }

    fn send(&mut self, bytes: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]) -> Result<()> {
        match self.channel.send(bytes, fds) {
            Ok(()) => Ok(()),
            Err(error) if error.errno == Errno::PIPE => Err(self.died()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it has left its namespaces, and says whose ids are whose in the new one: the same.
    fn prepare(&mut self, unpacker: &Unpacker) -> Result<()> {
        let ready = self.next()?;
        let (user, missing) = match ready.as_slice() {
            [READY, user, missing @ ..] => (*user, missing),
            [] => return Err(self.died()),
            _ => return Err(notes::bad("a message")),
        };
        unpacker.tell(missing);
        if user == 1 {
            for kind in [Kind::Group, Kind::User] {
                let own = idmap::read(i32::try_from(std::process::id()).unwrap_or_default(), kind)?;
                let same: Vec<Range> = own.iter().map(|range| Range { outside: range.inside, ..*range }).collect();
                idmap::write(self.pid, kind, &same)?;
            }
        }
        Ok(())
    }

    /// Its next message while nothing else is to be done; an error if it has none for too long.
    fn next(&mut self) -> Result<Vec<u8>> {
        self.wait(&[])?;
        self.alive = Instant::now();
        Ok(self.channel.receive()?.bytes)
    }

    /// Waits until there is a message or, if asked for, one of the pipes is ready; tells whether there is a message.
    fn wait(&mut self, pipes: &[(&OwnedFd, PollFlags)]) -> Result<bool> {
        loop {
            let left = self.unpacker.start.stalled.saturating_sub(self.alive.elapsed());
            if left.is_zero() {
                return Err(self.stalled());
            }
            let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let mut all = vec![PollFd::new(&self.channel, PollFlags::IN)];
            all.extend(pipes.iter().map(|(pipe, ready)| PollFd::new(*pipe, *ready)));
            match poll(&mut all, Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(!all[0].revents().is_empty()),
                Err(errno) => return Err(Error::io("poll", errno)),
            }
        }
    }

    /// Takes one message; tells whether it was its last.
    fn hear(&mut self) -> Result<bool> {
        let message = self.channel.receive()?.bytes;
        self.alive = Instant::now();
        let longest = self.unpacker.start.stalled * LONGEST;
        if self.further.elapsed() > longest {
            let seconds = longest.as_secs_f32();
            let text =
                format!("the process that unpacks the layer did not come further for {seconds} seconds and was ended");
            return Err(Error::invalid(text));
        }
        match message.split_first() {
            Some((&PROGRESS, _)) => {}
            Some((&LOCKED, missing)) => self.unpacker.tell(missing),
            Some((&LISTS, part)) => {
                if self.lists.len() + part.len() > MAX_LISTS {
                    return Err(Error::invalid("the process that unpacked the layer has sent lists without end"));
                }
                self.lists.extend_from_slice(part);
            }
            Some((&DONE, summary)) => self.last_word = Some(Ok(summary.to_vec())),
            Some((&FAILED, error)) => self.last_word = Some(Err(notes::decode_error(error))),
            None => return Err(self.died()),
            Some(_) => return Err(notes::bad("a message")),
        }
        Ok(self.last_word.is_some())
    }

    /// It has taken input or given output, or had neither to take nor to give.
    fn goes_on(&mut self) {
        self.alive = Instant::now();
        self.further = self.alive;
    }

    /// Gives it everything there is, and hears it meanwhile. Ends early if it has had its last word.
    fn feed(&mut self, input: &mut dyn Input, pipe: OwnedFd) -> Result<()> {
        let failed = |error: std::io::Error| Error::input("read the layer", &error);
        let mut is_moved = true;
        let mut piece = Vec::new();
        loop {
            let wants = match if is_moved { input.in_file().map_err(failed)? } else { None } {
                Some(there) if there.length == 0 => break,
                Some(there) => match self.splice(&there, &pipe)? {
                    Moved::Bytes(length) => {
                        input.pass(length);
                        Wants::More
                    }
                    Moved::Cannot => {
                        is_moved = false;
                        continue;
                    }
                    Moved::NotWanted => Wants::Nothing,
                },
                None => {
                    piece.resize(PIECE, 0);
                    match input.read(&mut piece) {
                        Ok(0) => break,
                        Ok(length) => self.write(&piece[..length], &pipe)?,
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                        Err(error) => return Err(failed(error)),
                    }
                }
            };
            if wants == Wants::Nothing {
                return Ok(());
            }
        }
        drop(pipe);
        self.ended()
    }

    /// Writes all of it to the process.
    fn write(&mut self, mut left: &[u8], pipe: &OwnedFd) -> Result<Wants> {
        // However long the input was waited for, that was not its fault.
        self.goes_on();
        while !left.is_empty() {
            match rustix::io::write(pipe, left) {
                Ok(written) => {
                    self.goes_on();
                    left = &left[written..];
                }
                Err(errno) => {
                    if self.is_over(errno, pipe)? {
                        return Ok(Wants::Nothing);
                    }
                }
            }
        }
        Ok(Wants::More)
    }

    /// Moves some bytes of a file to the process: their pages, not a copy of them.
    fn splice(&mut self, there: &InFile<'_>, pipe: &OwnedFd) -> Result<Moved> {
        self.goes_on();
        let length = usize::try_from(there.length).unwrap_or(usize::MAX).min(PIECE);
        loop {
            let mut at = there.at;
            match rustix::pipe::splice(there.file, Some(&mut at), pipe, None, length, SpliceFlags::NONBLOCK) {
                Ok(0) => {
                    let cut =
                        std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "a file of the store became shorter");
                    return Err(Error::input("read the layer", &cut));
                }
                Ok(moved) => {
                    self.goes_on();
                    return Ok(Moved::Bytes(moved as u64));
                }
                // Not every file system gives its pages away.
                Err(Errno::INVAL) => return Ok(Moved::Cannot),
                Err(errno) => {
                    if self.is_over(errno, pipe)? {
                        return Ok(Moved::NotWanted);
                    }
                }
            }
        }
    }

    /// What it means that nothing could be put into the pipe: whether it has had its last word. Else waits until there is room.
    fn is_over(&mut self, errno: Errno, pipe: &OwnedFd) -> Result<bool> {
        match errno {
            Errno::INTR => Ok(false),
            // It does not read any more, and has said why or will not say anything.
            Errno::PIPE => Ok(true),
            Errno::AGAIN => Ok(self.wait(&[(pipe, PollFlags::OUT)])? && self.hear()?),
            errno => Err(Error::io("write to the process that unpacks layers", errno)),
        }
    }

    /// Tells it that there is no more input.
    fn ended(&mut self) -> Result<()> {
        self.goes_on();
        self.fed = true;
        match self.channel.send(&[END], &[]) {
            // It may have had its last word already.
            Err(error) if error.errno != Errno::PIPE => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// What came of it, once all input was given.
    fn outcome(&mut self) -> Result<Outcome> {
        let summary = self.last_word()?;
        notes::decode(&summary, &self.lists)
    }

    /// Waits for its last word, which is an error if it has failed.
    fn last_word(&mut self) -> Result<Vec<u8>> {
        loop {
            match self.last_word.take() {
                Some(Ok(_)) if !self.fed => return Err(notes::bad("a result before it had all input")),
                Some(Ok(summary)) => return Ok(summary),
                Some(Err(error)) => return Err(error),
                None => {
                    self.wait(&[])?;
                    self.hear()?;
                }
            }
        }
    }

    fn stalled(&mut self) -> Error {
        let seconds = self.unpacker.start.stalled.as_secs_f32();
        Error::invalid(format!("the process that unpacks the layer did nothing for {seconds} seconds and was ended"))
    }

    /// It has closed its end without a last word.
    fn died(&mut self) -> Error {
        let _gone = pidfd::send_signal(self.pidfd.as_fd(), SIGKILL);
        zygote::died(pidfd::reap(self.pidfd.as_fd()))
    }
}

/// What a process said of a layer, as far as it can be.
pub(crate) fn believe(summary: &[u8], lists: &[u8]) -> Result<Outcome> {
    notes::decode(summary, lists)
}

/// The directory of the layer's files in an ingest.
fn files(directory: &Root) -> Result<Root> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW;
    Ok(Root::from_fd(directory.open_in(Path::new(crate::recipe::DIFF), flags, rustix::fs::Mode::empty())?))
}
