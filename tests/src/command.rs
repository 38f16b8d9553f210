//! Running programs with a limit on their time. Owns the starting, the reading and the limit.

use brig_sys::netns;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::OsString;
use std::fmt;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long a program may take unless the test says otherwise.
const LIMIT: Duration = Duration::from_secs(90);

/// A program to run.
pub struct Run {
    command: Command,
    shown: String,
    netns: Option<Arc<OwnedFd>>,
    input: Vec<u8>,
    limit: Duration,
}

/// What a program did.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code, 128 + n for a signal.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
    shown: String,
}

impl Output {
    /// What it printed, without the last line break; panics unless it succeeded.
    #[track_caller]
    pub fn ok(&self) -> String {
        assert_eq!(self.code, 0, "{self}");
        self.stdout.trim_end_matches('\n').to_owned()
    }

    /// What it complained about; panics unless it ended with `code`.
    #[track_caller]
    pub fn fails(&self, code: i32) -> String {
        assert_eq!(self.code, code, "{self}");
        self.stderr.trim_end_matches('\n').to_owned()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nexit code {}\n--- stdout\n{}--- stderr\n{}---", self.shown, self.code, self.stdout, self.stderr)
    }
}

impl Run {
    /// A program with arguments, in this process's own namespaces and with an environment of almost nothing.
    pub fn new<S: AsRef<str>>(program: impl Into<OsString>, arguments: &[S]) -> Run {
        let program = program.into();
        let words: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        let shown = format!("{} {}", program.to_string_lossy(), words.join(" "));
        let mut command = Command::new(program);
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        command.args(words).env_clear().env("PATH", path).env("LANG", "C.UTF-8").env("TERM", "xterm");
        Run { command, shown, netns: None, input: Vec::new(), limit: LIMIT }
    }

    /// In a network namespace.
    pub fn inside(mut self, netns: &Arc<OwnedFd>) -> Run {
        self.netns = Some(Arc::clone(netns));
        self
    }

    /// With one more variable.
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Run {
        self.command.env(name, value.into());
        self
    }

    /// With something to read.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Run {
        self.input = input.into();
        self
    }

    /// With another limit on its time.
    pub fn limit(mut self, limit: Duration) -> Run {
        self.limit = limit;
        self
    }

    /// With a resource limit lowered or another change to the command.
    pub fn with(mut self, change: impl FnOnce(&mut Command)) -> Run {
        change(&mut self.command);
        self
    }

    /// Starts it in a process group of its own and does not wait.
    pub fn start(mut self) -> Running {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let shown = self.shown.clone();
        let mut child = self.spawn_as_is();
        let input = self.input;
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        // A program may end without having read everything.
        std::thread::spawn(move || drop(stdin.write_all(&input)));
        let stdout = reader(child.stdout.take().expect("stdout is a pipe"));
        let stderr = reader(child.stderr.take().expect("stderr is a pipe"));
        Running { child, shown, stdout, stderr, limit: self.limit }
    }

    /// Starts it with whatever streams the command was given.
    pub fn spawn(mut self) -> Child {
        self.spawn_as_is()
    }

    fn spawn_as_is(&mut self) -> Child {
        let command = &mut self.command;
        let spawned = match &self.netns {
            Some(netns) => netns::inside(netns.as_fd(), || command.spawn()).expect("the namespace can be entered"),
            None => command.spawn(),
        };
        spawned.unwrap_or_else(|error| panic!("{}: {error}", self.shown))
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn output(self) -> Output {
        self.start().finish()
    }
}

/// A program that has been started.
pub struct Running {
    child: Child,
    shown: String,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    limit: Duration,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a pid is not zero");
        rustix::process::kill_process(pid, signal).expect("a child that was not waited for can be signalled");
    }

    /// Waits for its end; panics if that takes too long.
    #[track_caller]
    pub fn finish(mut self) -> Output {
        let in_time = wait(&self.child, self.limit);
        if !in_time {
            self.child.kill().ok();
        }
        let status = self.child.wait().expect("a child can be waited for");
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let output = Output {
            code,
            stdout: text(&self.stdout, in_time),
            stderr: text(&self.stderr, in_time),
            shown: std::mem::take(&mut self.shown),
        };
        assert!(in_time, "took more than {} s: {output}", self.limit.as_secs());
        output
    }
}

/// Waits for a child, at most so long; whether it ended.
pub fn wait(child: &Child, limit: Duration) -> bool {
    let pid = Pid::from_raw(child.id().cast_signed()).expect("a pid is not zero");
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("a child has a pidfd");
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(_) => {}
        }
    }
}

/// Reads to the end, and then gives what was read.
fn reader(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (whole, read) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).ok();
        // Nobody waits any more for what comes too late.
        whole.send(bytes).ok();
    });
    read
}

/// What was read. Children of an ended program may hold the pipe, so that is waited for only so long.
fn text(read: &Receiver<Vec<u8>>, ended: bool) -> String {
    let patience = Duration::from_millis(if ended { 10_000 } else { 200 });
    match read.recv_timeout(patience) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(RecvTimeoutError::Timeout) => "(still open)\n".to_owned(),
        Err(RecvTimeoutError::Disconnected) => panic!("the reader does not panic"),
    }
}
