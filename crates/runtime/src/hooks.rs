//! Hooks: programs that the specification wants run at points of a container's life.
//! Owns the state document that they read, their environment, their time limit and how much of what they write is kept for
//! an error. Must not give a hook anything of an image unless it runs inside of it, nor wait for what a hook leaves behind.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use brig_oci::runtime::{Hook as Listed, Spec, State};
use brig_sys::clone;
use brig_sys::pidfd::{self, Exit};
use brig_sys::process::StringArray;
use brig_sys::signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::about::About;
use crate::error::{Error, Result, Step};
use crate::init;
use crate::seccomp::Program;

/// How much of the end of a hook's output an error shows.
const TAIL: usize = 2048;
/// How many reads of 64 KiB a hook's output is worth after it has ended: something that it left behind may write on and on.
const LAST_READS: usize = 4;

/// The points of a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Moment {
    const ALL: [Moment; 6] = [
        Moment::Prestart,
        Moment::CreateRuntime,
        Moment::CreateContainer,
        Moment::StartContainer,
        Moment::Poststart,
        Moment::Poststop,
    ];

    fn name(self) -> &'static str {
        match self {
            Moment::Prestart => "prestart",
            Moment::CreateRuntime => "createRuntime",
            Moment::CreateContainer => "createContainer",
            Moment::StartContainer => "startContainer",
            Moment::Poststart => "poststart",
            Moment::Poststop => "poststop",
        }
    }

    /// What the state document says at that point.
    fn status(self) -> &'static str {
        match self {
            Moment::Prestart | Moment::CreateRuntime | Moment::CreateContainer => "creating",
            Moment::StartContainer => "created",
            Moment::Poststart => "running",
            Moment::Poststop => "stopped",
        }
    }
}

impl Moment {
    /// The environment of hooks that list none: on the host the caller's, whose `$PATH` some need to find what they call; in
    /// the container's namespaces nothing of it.
    fn environment(self) -> Vec<CString> {
        match self {
            Moment::Prestart | Moment::CreateRuntime | Moment::Poststart | Moment::Poststop => std::env::vars_os()
                .filter_map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok())
                .collect(),
            Moment::CreateContainer | Moment::StartContainer => Vec::new(),
        }
    }
}

/// A hook, checked.
#[derive(Debug)]
struct Hook {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    timeout: Option<Duration>,
}

impl Hook {
    fn compile(hook: &Listed, field: &str) -> Result<Hook> {
        let bad = |part: &str, why: &str| Error::invalid(format!("{field}{part}: {why}"));
        if !hook.path.is_absolute() {
            return Err(bad(".path", &format!("{:?} is not an absolute path", hook.path.display())));
        }
        let path = CString::new(hook.path.as_os_str().as_bytes()).map_err(|_| bad(".path", "contains a NUL byte"))?;
        let strings = |part: &str, list: &[String]| {
            list.iter()
                .map(|text| CString::new(text.as_str()).map_err(|_| bad(part, "contains a NUL byte")))
                .collect::<Result<Vec<_>>>()
        };
        let mut arguments = strings(".args", &hook.args)?;
        if arguments.is_empty() {
            arguments.push(path.clone());
        }
        let timeout = match hook.timeout {
            None => None,
            Some(seconds) => Some(
                u64::try_from(seconds)
                    .ok()
                    .filter(|seconds| *seconds > 0)
                    .map(Duration::from_secs)
                    .ok_or_else(|| bad(".timeout", &format!("{seconds} is not above 0")))?,
            ),
        };
        Ok(Hook { path, arguments, environment: strings(".env", &hook.env)?, timeout })
    }
}

/// The hooks of one container.
#[derive(Debug)]
pub(crate) struct Hooks {
    lists: [Vec<Hook>; 6],
    about: About,
    annotations: BTreeMap<String, String>,
}

impl Hooks {
    /// Checks the hooks of a specification; `None` if it has none.
    pub fn compile(spec: &Spec, about: &About) -> Result<Option<Hooks>> {
        let Some(listed) = spec.hooks.as_ref().filter(|hooks| !hooks.is_empty()) else { return Ok(None) };
        let compile = |moment: Moment| {
            let list = match moment {
                Moment::Prestart => &listed.prestart,
                Moment::CreateRuntime => &listed.create_runtime,
                Moment::CreateContainer => &listed.create_container,
                Moment::StartContainer => &listed.start_container,
                Moment::Poststart => &listed.poststart,
                Moment::Poststop => &listed.poststop,
            };
            list.iter()
                .enumerate()
                .map(|(index, hook)| Hook::compile(hook, &format!("hooks.{}[{index}]", moment.name())))
                .collect::<Result<Vec<_>>>()
        };
        let mut lists: [Vec<Hook>; 6] = Default::default();
        for moment in Moment::ALL {
            let mut hooks = compile(moment)?;
            for hook in hooks.iter_mut().filter(|hook| hook.environment.is_empty()) {
                hook.environment = moment.environment();
            }
            lists[moment as usize] = hooks;
        }
        Ok(Some(Hooks { lists, about: about.clone(), annotations: spec.annotations.clone() }))
    }

    /// Whether there are any for a moment.
    pub fn has(&self, moment: Moment) -> bool {
        !self.lists[moment as usize].is_empty()
    }

    fn state(&self, moment: Moment, pid: Option<i32>) -> Result<OwnedFd> {
        let state = State {
            oci_version: brig_oci::runtime::VERSION.to_owned(),
            id: self.about.id.clone(),
            status: moment.status().to_owned(),
            pid,
            bundle: self.about.bundle.clone(),
            annotations: self.annotations.clone(),
        };
        let text = serde_json::to_vec(&state).map_err(|error| Error::system(format!("hooks: state: {error}")))?;
        Ok(clone::above_stdio(brig_sys::memfd::sealed("state", &text)?)?)
    }

    /// Runs the hooks of a moment in this process's namespaces, one after the other; the first that fails ends it.
    pub fn run(&self, moment: Moment, pid: Option<i32>) -> Result<()> {
        self.run_in(moment, pid, self.directory())
    }

    /// The same, in another directory than the bundle.
    pub fn run_in(&self, moment: Moment, pid: Option<i32>, directory: &Path) -> Result<()> {
        for (index, hook) in self.lists[moment as usize].iter().enumerate() {
            let done = self.state(moment, pid).and_then(|state| run_outside(hook, &state, directory));
            done.step(|| at(moment, index))?;
        }
        Ok(())
    }

    /// Runs those that cannot undo anything by failing: all of them, and what went wrong comes back as text.
    pub fn run_all(&self, moment: Moment) -> Vec<String> {
        let mut warnings = Vec::new();
        let directory = self.directory();
        for (index, hook) in self.lists[moment as usize].iter().enumerate() {
            let done = self.state(moment, None).and_then(|state| run_outside(hook, &state, directory));
            warnings.extend(done.step(|| at(moment, index)).err().map(|error| error.message));
        }
        warnings
    }

    /// The bundle may be out of reach for a user namespace's root; then there is no better place than the root.
    fn directory(&self) -> &Path {
        if self.about.bundle.is_dir() { &self.about.bundle } else { Path::new("/") }
    }
}

fn run_outside(hook: &Hook, state: &OwnedFd, directory: &Path) -> Result<()> {
    let (output, theirs) = pipe()?;
    let environment = &hook.environment;
    let begin = Begin { hook, state: state.as_fd(), output: theirs.as_fd(), environment, directory, filter: None };
    let child = clone::spawn(0, None, || begin.run())?;
    drop(theirs);
    let reap = || Ok(pidfd::try_reap(child.pidfd.as_fd())?);
    Running { hook, pid: child.pid, output: Some(output), tail: Vec::new() }.finish(child.pidfd.as_fd(), &reap)
}

/// The name of a hook in an error, in the words that callers of runc match.
fn at(moment: Moment, index: usize) -> String {
    format!("error running {} hook #{index}", moment.name())
}

/// `startContainer` hooks, with all that they need but a filter might forbid to make later.
pub(crate) struct Inside<'a> {
    hooks: &'a Hooks,
    states: Vec<OwnedFd>,
    /// Tells of children that end.
    children: OwnedFd,
}

impl<'a> Inside<'a> {
    /// Blocks signals until [`Inside::run`] is done.
    pub fn prepare(hooks: &'a Hooks) -> Result<Option<Inside<'a>>> {
        let list = &hooks.lists[Moment::StartContainer as usize];
        if list.is_empty() {
            return Ok(None);
        }
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let states = list.iter().map(|_| hooks.state(Moment::StartContainer, Some(pid))).collect::<Result<Vec<_>>>()?;
        signal::block_all()?;
        Ok(Some(Inside { hooks, states, children: brig_sys::inherited::child_notifications()? }))
    }

    /// Runs the hooks as who this process is; each loads `filter`, if there is one that is not yet in force. Hooks without
    /// an environment get the program's.
    pub fn run(self, environment: &[CString], filter: Option<&Program>) -> Result<()> {
        let list = &self.hooks.lists[Moment::StartContainer as usize];
        for (index, (hook, state)) in list.iter().zip(&self.states).enumerate() {
            self.run_one(hook, state, environment, filter).step(|| at(Moment::StartContainer, index))?;
        }
        Ok(signal::reset()?)
    }

    fn run_one(&self, hook: &Hook, state: &OwnedFd, environment: &[CString], filter: Option<&Program>) -> Result<()> {
        let (output, theirs) = pipe()?;
        let environment = if hook.environment.is_empty() { environment } else { &hook.environment };
        let begin = Begin {
            hook,
            state: state.as_fd(),
            output: theirs.as_fd(),
            environment,
            directory: Path::new("/"),
            filter,
        };
        // A filter may forbid clone3 and pidfds, but hardly what every shell needs.
        let pid = clone::fork(|| begin.run())?;
        drop(theirs);
        let reap = || {
            let mut told = [0u8; 128];
            // Only empties the descriptor: what counts is what waitpid says.
            rustix::io::read(&self.children, &mut told).map(drop).unwrap_or_default();
            Ok(signal::reap_if_ended(pid)?)
        };
        Running { hook, pid, output: Some(output), tail: Vec::new() }.finish(self.children.as_fd(), &reap)
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let failed = |errno| Error::from(brig_sys::Error::new("pipe2(O_CLOEXEC)", errno));
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
    rustix::io::ioctl_fionbio(&read, true).map_err(failed)?;
    Ok((clone::above_stdio(read)?, clone::above_stdio(write)?))
}

/// What the child does to become a hook.
struct Begin<'a> {
    hook: &'a Hook,
    state: BorrowedFd<'a>,
    output: BorrowedFd<'a>,
    environment: &'a [CString],
    directory: &'a Path,
    filter: Option<&'a Program>,
}

impl Begin<'_> {
    /// Returns only the exit code of a failure, which is told on the output.
    fn run(&self) -> i32 {
        let error = self.prepare().err().unwrap_or_else(|| {
            let arguments = StringArray::new(self.hook.arguments.clone());
            let environment = StringArray::new(self.environment.to_vec());
            brig_sys::process::execute(&self.hook.path, &arguments, &environment).into()
        });
        let text = error.to_string();
        rustix::io::write(rustix::stdio::stderr(), text.as_bytes()).map(drop).unwrap_or_default();
        127
    }

    fn prepare(&self) -> Result<()> {
        // Its own group, so that a time limit ends what it has started too.
        brig_sys::process::new_session()?;
        signal::reset()?;
        brig_sys::process::duplicate_to(self.state, 0)?;
        brig_sys::process::duplicate_to(self.output, 1)?;
        brig_sys::process::duplicate_to(self.output, 2)?;
        if rustix::process::chdir(self.directory).is_err() {
            rustix::process::chdir("/").map_err(|errno| brig_sys::Error::new("chdir(\"/\")", errno))?;
        }
        brig_sys::process::close_all_but(&[])?;
        self.filter.map_or(Ok(()), |filter| init::load_filter(filter).map(drop))
    }
}

/// A hook that runs.
struct Running<'a> {
    hook: &'a Hook,
    pid: i32,
    /// Its stdout and stderr; `None` once it has closed both.
    output: Option<OwnedFd>,
    /// The end of what it wrote.
    tail: Vec<u8>,
}

impl Running<'_> {
    /// Waits for its end, which `ended` becomes readable at, but not longer than it may take.
    fn finish(mut self, ended: BorrowedFd<'_>, reap: &dyn Fn() -> Result<Option<Exit>>) -> Result<()> {
        let path = self.hook.path.to_string_lossy().into_owned();
        let exit = match self.wait(ended, reap) {
            Ok(Some(exit)) => exit,
            Ok(None) => {
                self.kill(ended, reap)?;
                let limit = self.hook.timeout.unwrap_or_default().as_secs();
                return Err(Error::system(format!("{path}: hook ran past specified timeout of {limit}s, killed")));
            }
            Err(error) => {
                self.kill(ended, reap)?;
                return Err(error);
            }
        };
        for _ in 0..LAST_READS {
            if !self.read() {
                break;
            }
        }
        let how = match exit {
            Exit::Code(0) => return Ok(()),
            Exit::Code(code) => format!("exit status {code}"),
            Exit::Signal(number) => format!("signal: {}", signal_name(number)),
        };
        let said = String::from_utf8_lossy(&self.tail);
        match said.trim() {
            "" => Err(Error::system(format!("{path}: {how}"))),
            said => Err(Error::system(format!("{path}: {how}: {said}"))),
        }
    }

    /// `None` when its time is over.
    fn wait(&mut self, ended: BorrowedFd<'_>, reap: &dyn Fn() -> Result<Option<Exit>>) -> Result<Option<Exit>> {
        let deadline = self.hook.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            let mut fds = vec![PollFd::new(&ended, PollFlags::IN)];
            fds.extend(self.output.as_ref().map(|output| PollFd::new(output, PollFlags::IN)));
            match poll(&mut fds, left.as_ref()) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(brig_sys::Error::new("poll(hook)", errno).into()),
            }
            let (has_ended, has_output) =
                (!fds[0].revents().is_empty(), fds.get(1).is_some_and(|fd| !fd.revents().is_empty()));
            if has_ended && let Some(exit) = reap()? {
                return Ok(Some(exit));
            }
            if has_output {
                self.read();
            }
        }
    }

    /// Reads what there is, once, and keeps the end; false if there is nothing (more).
    fn read(&mut self) -> bool {
        let Some(output) = &self.output else { return false };
        let mut buffer = vec![0u8; 64 * 1024];
        match rustix::io::read(output, &mut buffer) {
            Ok(length @ 1..) => {
                self.tail.extend_from_slice(&buffer[..length]);
                self.tail.drain(..self.tail.len().saturating_sub(TAIL));
                true
            }
            Err(Errno::AGAIN) => false,
            _ => {
                self.output = None;
                false
            }
        }
    }

    fn kill(&self, ended: BorrowedFd<'_>, reap: &dyn Fn() -> Result<Option<Exit>>) -> Result<()> {
        // Not yet the leader of its group, or just gone: one of the two reaches it as long as it is not reaped.
        signal::send(-self.pid, crate::container::SIGKILL).unwrap_or_default();
        signal::send(self.pid, crate::container::SIGKILL).unwrap_or_default();
        while reap()?.is_none() {
            pidfd::wait_end(ended, None)?;
        }
        Ok(())
    }
}

/// A signal in the words of runc's errors, which are Go's.
fn signal_name(number: i32) -> String {
    match number {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        11 => "segmentation fault",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        31 => "bad system call",
        _ => return format!("signal {number}"),
    }
    .to_owned()
}

/// Runs a program of the host as hooks are run: with no environment, nothing on its standard input and a limited time.
pub(crate) fn helper(path: &str, arguments: Vec<String>) -> Result<()> {
    const TIMEOUT_SECONDS: i64 = 30;
    let listed = Listed { path: path.into(), args: arguments, timeout: Some(TIMEOUT_SECONDS), ..Listed::default() };
    let hook = Hook::compile(&listed, "helper")?;
    let nothing = clone::above_stdio(brig_sys::memfd::sealed("nothing", b"")?)?;
    run_outside(&hook, &nothing, Path::new("/"))
}

/// Runs the `poststart` hooks of a container whose program `pid` was started without its [`crate::Container`].
///
/// # Errors
/// What the first hook that fails says: the container is to be ended.
pub fn poststart(spec: &Spec, about: &About, pid: i32) -> Result<()> {
    Hooks::compile(spec, about)?.map_or(Ok(()), |hooks| hooks.run(Moment::Poststart, Some(pid)))
}

/// Runs the `poststop` hooks of a container that has been deleted. They all run; what went wrong comes back for people.
///
/// # Errors
/// The hooks of the specification make no sense.
pub fn poststop(spec: &Spec, about: &About) -> Result<Vec<String>> {
    Ok(Hooks::compile(spec, about)?.map(|hooks| hooks.run_all(Moment::Poststop)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str) -> Listed {
        Listed { path: "/bin/sh".into(), args: vec!["sh".into(), "-c".into(), script.into()], ..Listed::default() }
    }

    fn compile(change: impl FnOnce(&mut Listed)) -> Result<Option<Hooks>> {
        let mut listed = hook("true");
        change(&mut listed);
        let mut spec = Spec::default();
        spec.hooks.get_or_insert_default().poststart.push(listed);
        Hooks::compile(&spec, &About::default())
    }

    #[test]
    fn refuses_by_field() {
        assert!(Hooks::compile(&Spec::default(), &About::default()).unwrap().is_none());
        assert!(compile(|_| {}).unwrap().is_some());
        type Change = fn(&mut Listed);
        let cases: [(&str, Change); 5] = [
            ("hooks.poststart[0].path: ", |hook| hook.path = "bin/sh".into()),
            ("hooks.poststart[0].path: ", |hook| hook.path = "".into()),
            ("hooks.poststart[0].args: ", |hook| hook.args = vec!["a\0b".into()]),
            ("hooks.poststart[0].env: ", |hook| hook.env = vec!["a\0b".into()]),
            ("hooks.poststart[0].timeout: ", |hook| hook.timeout = Some(0)),
        ];
        for (field, change) in cases {
            let error = compile(change).unwrap_err();
            assert!(error.message.starts_with(field), "{field}: {error}");
        }
    }
}
