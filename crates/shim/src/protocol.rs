//! What travels between the engine and a shim, and the files that they share.
//!
//! Owns: the JSON shapes of requests, answers, events, `shim.json` and `exit.json`, and how one line is encoded and decoded.
//! Must not: do any input or output, or know how a request is carried out.
//!
//! Every message is one JSON object on one line that ends in `\n`, at most [`MAX_LINE`] bytes. A connection carries requests
//! one after another, each answered by one [`Answer`] line in order. After [`Request::Subscribe`] (and on descriptor 3 from the
//! beginning) [`Event`] lines appear between answers. After a successful [`Request::Attach`] or [`Request::Exec`] the
//! connection carries the process's streams and no further message.

use std::collections::BTreeMap;
use std::path::PathBuf;

use brig_oci::runtime::{Process, Resources};
pub use brig_runtime::cgroup::{BlockIoEntry, BlockIoStats, CpuStats, MemoryStats, PidsStats, Stats};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest message, in bytes, with its newline.
pub const MAX_LINE: usize = 1 << 20;

/// How much output a client may leave unread, in bytes, before the container's stream waits for it.
pub const CLIENT_BUFFER: usize = 64 * 1024;

/// Size of the header before each chunk of a multiplexed stream: `{1|2, 0, 0, 0, length as big-endian u32}`.
pub const FRAME_HEADER: usize = 8;

/// Which output a frame carries; the number is the header's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Channel {
    /// Standard output, and everything a terminal prints.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
}

impl Channel {
    /// The name that log lines carry.
    pub fn name(self) -> &'static str {
        match self {
            Channel::Stdout => "stdout",
            Channel::Stderr => "stderr",
        }
    }
}

/// The header of a frame of `length` bytes.
pub fn frame_header(channel: Channel, length: u32) -> [u8; FRAME_HEADER] {
    let [a, b, c, d] = length.to_be_bytes();
    [channel as u8, 0, 0, 0, a, b, c, d]
}

/// What a client may ask of a shim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "req", rename_all = "snake_case")]
pub enum Request {
    /// Receive events on this connection. Answered with [`Status`].
    Subscribe,
    /// The container's [`Status`] now.
    State,
    /// Open the gate: run the user's program. Answered when it was accepted; [`Event::Started`] or [`Event::Failed`] follows.
    Go,
    /// Send a signal to the container's first process.
    Kill {
        /// Signal number.
        signal: i32,
    },
    /// SIGKILL to every process of the container's cgroup.
    KillAll,
    /// Set the size of the container's terminal, in characters.
    Resize {
        /// Rows.
        height: u16,
        /// Columns.
        width: u16,
    },
    /// Freeze all processes of the container.
    Pause,
    /// Let them go on.
    Resume,
    /// Change resource limits; absent fields stay as they are.
    Update {
        /// The new limits.
        resources: Box<Resources>,
    },
    /// What the container uses now. Answered with [`Stats`].
    Stats,
    /// Ids of the container's processes as the host sees them. Answered with [`Pids`].
    Pids,
    /// Turn this connection into the container's streams.
    Attach(Streams),
    /// Start another process inside and turn this connection into its streams. Answered with [`ExecStarted`].
    Exec(Box<Exec>),
    /// What became of an exec. Answered with [`ExecState`].
    ExecState {
        /// The id given to [`Request::Exec`].
        exec_id: String,
    },
    /// Set the size of an exec's terminal, in characters.
    ExecResize {
        /// The id given to [`Request::Exec`].
        exec_id: String,
        /// Rows.
        height: u16,
        /// Columns.
        width: u16,
    },
    /// Send a signal to an exec's process.
    ExecKill {
        /// The id given to [`Request::Exec`].
        exec_id: String,
        /// Signal number.
        signal: i32,
    },
    /// The engine knows the exit code: the shim may end once clients have their output. Refused before the exit.
    Release,
}

/// Which streams of a process a client wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Streams {
    /// Bytes from the client go to the process.
    pub stdin: bool,
    /// Standard output goes to the client.
    pub stdout: bool,
    /// Standard error goes to the client. With a terminal everything is standard output.
    pub stderr: bool,
}

impl Streams {
    /// Whether any stream is wanted.
    pub fn any(self) -> bool {
        self.stdin || self.stdout || self.stderr
    }

    /// Whether output of `channel` is wanted.
    pub fn wants(self, channel: Channel) -> bool {
        match channel {
            Channel::Stdout => self.stdout,
            Channel::Stderr => self.stderr,
        }
    }
}

/// Another process to start inside the container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exec {
    /// The caller's name for it, unique within this container.
    pub exec_id: String,
    /// What to run. An absent `oomScoreAdj` means the container's.
    pub process: Process,
    /// The client's streams; none of them for a detached exec.
    pub attach: Streams,
    /// Give it a pseudo terminal. Overrides `process.terminal`.
    pub terminal: bool,
    /// The terminal's first size: rows, columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<[u16; 2]>,
    /// Let the process have capabilities that the container has not (`exec --privileged`).
    pub privileged: bool,
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer<T> {
    /// It was done; `null` where there is nothing to say.
    Ok(T),
    /// It was not.
    Error(Failure),
}

impl<T> Answer<T> {
    /// The answer as a `Result`.
    pub fn into_result(self) -> Result<T, Failure> {
        match self {
            Answer::Ok(value) => Ok(value),
            Answer::Error(failure) => Err(failure),
        }
    }
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The class, for programs.
    pub kind: FailureKind,
    /// The reason, for people.
    pub message: String,
}

impl Failure {
    /// A failure of `kind` with a text for people.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into() }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Classes of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The program does not exist in the container (exit code 127), or there is no such exec.
    NotFound,
    /// The program cannot be executed (exit code 126).
    NotExecutable,
    /// The request makes no sense: bad value, or not possible in this state.
    Invalid,
    /// The kernel or this build cannot do it.
    Unsupported,
    /// The container, or the exec, is not running.
    NotRunning,
    /// The kernel refused something that should have worked.
    System,
}

/// Answer to [`Request::Subscribe`] and [`Request::State`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subscribed {
    /// The container now.
    pub state: Status,
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// How far it has come.
    pub status: Phase,
    /// The first process as the host sees it; 0 after the exit.
    pub pid: i32,
    /// When the user's program was started (RFC 3339, UTC).
    pub started_at: Option<String>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Whether it is frozen.
    pub paused: bool,
    /// Log lines that could not be written (full disk) since the shim started.
    #[serde(default)]
    pub log_lines_lost: u64,
}

/// How far a container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It waits at the gate for [`Request::Go`].
    Created,
    /// The user's program runs.
    Running,
    /// The first process has ended.
    Exited,
}

/// What happens to a container, as told to subscribers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The namespaces exist: networks can be attached now, by `/proc/<pid>/ns/net`.
    Created {
        /// The first process as the host sees it.
        pid: i32,
    },
    /// The root filesystem is ready; the process waits for [`Request::Go`].
    Ready,
    /// The user's program runs.
    Started {
        /// The first process as the host sees it.
        pid: i32,
        /// When (RFC 3339, UTC).
        at: String,
    },
    /// It could not be started. Everything was removed; the shim ends.
    Failed {
        /// Why.
        error: Failure,
    },
    /// The kernel killed a process of the container for lack of memory.
    Oom,
    /// An exec's process ended. Told before its streams close.
    ExecExited {
        /// The id given to [`Request::Exec`].
        exec_id: String,
        /// Its exit code; 128 + signal when killed by one.
        exit_code: i32,
    },
    /// The first process ended; the facts are in the exit file and nothing of the container is left in the kernel.
    Exited {
        /// Its exit code; 128 + signal when killed by one.
        exit_code: i32,
        /// The signal that killed it.
        signal: Option<i32>,
        /// Whether the kernel killed a process of the container for lack of memory.
        oom_killed: bool,
        /// When (RFC 3339, UTC).
        at: String,
    },
}

/// How a container ended: the content of `exit.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exit {
    /// The first process's exit code; 128 + signal when killed by one.
    pub exit_code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of the container for lack of memory.
    pub oom_killed: bool,
    /// When the user's program was started (RFC 3339, UTC).
    pub started_at: String,
    /// When it ended (RFC 3339, UTC).
    pub finished_at: String,
}

/// Answer to [`Request::Exec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStarted {
    /// The new process as the host sees it.
    pub pid: i32,
}

/// Answer to [`Request::ExecState`]. The last 256 ended execs are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecState {
    /// Whether its process still runs.
    pub running: bool,
    /// The process as the host sees it; 0 when it has ended.
    pub pid: i32,
    /// Its exit code, when it has ended; 128 + signal when killed by one.
    pub exit_code: Option<i32>,
}

/// Answer to [`Request::Pids`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pids {
    /// Process ids as the host sees them, ascending.
    pub pids: Vec<i32>,
}

/// `shim.json`: what the engine tells a shim beside the OCI `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The container's id.
    pub id: String,
    /// What the root filesystem is made of.
    pub rootfs: Rootfs,
    /// Where output is kept.
    #[serde(default)]
    pub log: LogConfig,
    /// Where the exit code is published; absolute.
    pub exit_file: PathBuf,
    /// Publish the exit file without waiting for the disk: for a container whose record is thrown away anyway.
    #[serde(default)]
    pub exit_relaxed: bool,
    /// Keep standard input open for clients; otherwise it is `/dev/null`.
    #[serde(default)]
    pub stdin_open: bool,
    /// Close standard input when the first client that had it is done.
    #[serde(default)]
    pub stdin_once: bool,
    /// Give the process a pseudo terminal. Overrides `process.terminal`.
    #[serde(default)]
    pub terminal: bool,
    /// Run a small init as process 1 that reaps orphans and passes signals on.
    #[serde(default)]
    pub init: bool,
    /// Parent of the container's cgroup when the spec names none, e.g. `/brig`.
    #[serde(default)]
    pub cgroup_parent: String,
    /// The terminal's first size: rows, columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console_size: Option<[u16; 2]>,
}

/// What a root filesystem is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rootfs {
    /// Layers with a writable one above.
    Overlay {
        /// Read-only layers, topmost first.
        lower: Vec<PathBuf>,
        /// The writable layer.
        upper: PathBuf,
        /// Overlay's work directory, on the same file system as `upper`.
        work: PathBuf,
        /// Mount without syncing at unmount.
        #[serde(default)]
        volatile: bool,
    },
    /// Layers with a writable one above that is memory and ends with the container.
    OverlayTmpfs {
        /// Read-only layers, topmost first.
        lower: Vec<PathBuf>,
        /// Limit of the writable layer in bytes; absent means the kernel's default (half the memory).
        #[serde(default)]
        size_bytes: Option<u64>,
    },
    /// One directory as it is.
    Directory(PathBuf),
}

/// Where output is kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// The form.
    pub driver: LogDriver,
    /// The current file; older ones are beside it as `<path>.1`, `<path>.2`, ….
    pub path: PathBuf,
    /// A file is rotated before it would grow beyond this; `None` means never.
    pub max_size_bytes: Option<u64>,
    /// How many files are kept, the current one included; 0 counts as 1.
    pub max_files: u32,
    /// Written into every line as `attrs`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attrs: BTreeMap<String, String>,
}

/// The form in which output is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// Not at all.
    #[default]
    None,
    /// Docker's json-file: one JSON object per line.
    JsonFile,
}

/// One line from a shim on a connection with events.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Something happened.
    Event(Event),
    /// The answer to the oldest request not yet answered.
    Answer(Answer<serde_json::Value>),
}

/// A line that is not a message.
#[derive(Debug)]
pub struct DecodeError {
    what: &'static str,
    source: serde_json::Error,
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not a shim's {}: {}", self.what, self.source)
    }
}

impl std::error::Error for DecodeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// One message as a line, newline included.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("messages have string keys and serialise");
    line.push(b'\n');
    line
}

fn decode<T: DeserializeOwned>(what: &'static str, line: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(line).map_err(|source| DecodeError { what, source })
}

/// Reads a request line, with or without its newline.
pub fn decode_request(line: &[u8]) -> Result<Request, DecodeError> {
    decode("request", line)
}

/// Reads an answer line whose value has a known type.
pub fn decode_answer<T: DeserializeOwned>(line: &[u8]) -> Result<Answer<T>, DecodeError> {
    decode("answer", line)
}

/// Reads a line that may be an event or an answer.
pub fn decode_message(line: &[u8]) -> Result<Message, DecodeError> {
    let value: serde_json::Value = decode("message", line)?;
    let failed = |source| DecodeError { what: "message", source };
    if value.get("event").is_some() {
        serde_json::from_value(value).map(Message::Event).map_err(failed)
    } else {
        serde_json::from_value(value).map(Message::Answer).map_err(failed)
    }
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
