//! The OCI runtime command line over the same runtime library: what containerd, Podman, CRI-O and dockerd call.
//!
//! Owns: verbs, the words that callers match, where errors go. Must not: share state with shims; a container made here is not
//! the daemon's.

mod arguments;
mod control;
mod create;
mod describe;
mod exec;
mod gate;
mod record;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use arguments::{CommandLine, Misuse};
use record::Records;

use crate::timestamp::Timestamp;

/// Where containers are remembered unless `--root` says otherwise.
const DEFAULT_ROOT: &str = "/run/brig-rt";

const HELP: &str = "\
usage: brig-rt [--root DIR] [--log FILE] [--log-format text|json] COMMAND

OCI runtime:
  create   --bundle DIR [--pid-file FILE] [--console-socket SOCKET] ID
  start    ID
  run      --bundle DIR [--detach] [--pid-file FILE] [--console-socket SOCKET] ID
  exec     [--process FILE] [--detach] [--pid-file FILE] [--console-socket SOCKET] ID [COMMAND...]
  state    ID
  list     [--format table|json] [--quiet]
  ps       [--format table|json] ID
  kill     [--all] ID [SIGNAL]
  pause    ID
  resume   ID
  delete   [--force] ID
  spec     [--bundle DIR]
  features

brig daemon:
  shim     --dir DIR
";

/// What ended a verb early; the text is for people, and for callers that match it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault(String);

impl Fault {
    /// A fault with this text.
    pub(crate) fn new(text: impl Into<String>) -> Fault {
        Fault(text.into())
    }

    /// A failed operation on a file.
    pub(crate) fn io(what: &str, path: &Path, error: &std::io::Error) -> Fault {
        Fault(format!("{what} {}: {error}", path.display()))
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Misuse> for Fault {
    fn from(misuse: Misuse) -> Fault {
        Fault(misuse.0)
    }
}

impl From<brig_runtime::Error> for Fault {
    fn from(error: brig_runtime::Error) -> Fault {
        Fault(error.message)
    }
}

impl From<brig_runtime::cgroup::Error> for Fault {
    fn from(error: brig_runtime::cgroup::Error) -> Fault {
        Fault(error.to_string())
    }
}

impl From<brig_sys::Error> for Fault {
    fn from(error: brig_sys::Error) -> Fault {
        Fault(error.to_string())
    }
}

/// Runs one verb.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    let line = match CommandLine::parse(arguments) {
        Ok(line) => line,
        Err(misuse) => return fail(None, &misuse.into()),
    };
    match dispatch(&line) {
        Ok(code) => ExitCode::from(code),
        Err(fault) => fail(Some(&line), &fault),
    }
}

fn dispatch(line: &CommandLine) -> Result<u8, Fault> {
    if line.has("version") {
        return describe::version();
    }
    if line.has("help") || line.verb.is_empty() {
        return describe::print(HELP);
    }
    check(line)?;
    let records = Records::new(line.path("root").unwrap_or_else(|| PathBuf::from(DEFAULT_ROOT)));
    match line.verb.as_str() {
        "create" => create::create(line, &records),
        "run" => create::run(line, &records),
        "start" => control::start(line, &records),
        "kill" => control::kill(line, &records),
        "delete" => control::delete(line, &records),
        "pause" => control::freeze(line, &records, true),
        "resume" => control::freeze(line, &records, false),
        "exec" => exec::exec(line, &records),
        "state" => describe::state(line, &records),
        "list" => describe::list(line, &records),
        "ps" => describe::ps(line, &records),
        "spec" => describe::spec(line),
        "features" => describe::features(),
        verb => Err(Fault::new(format!("no such command: {verb}; try brig-rt --help"))),
    }
}

/// Refuses by name what this runtime does not do, instead of doing something else.
fn check(line: &CommandLine) -> Result<(), Fault> {
    if line.has("systemd-cgroup") {
        return Err(Fault::new(
            "--systemd-cgroup: not supported: this runtime manages cgroups itself; configure the caller for cgroupfs",
        ));
    }
    if line.has("no-pivot") {
        return Err(Fault::new("--no-pivot: not supported: a container is only safe behind pivot_root"));
    }
    if line.value("preserve-fds").is_some_and(|count| count != "0") {
        return Err(Fault::new("--preserve-fds: not supported"));
    }
    if line.has("pidfd-socket") {
        return Err(Fault::new("--pidfd-socket: not supported"));
    }
    match line.value("log-format") {
        None | Some("text" | "json") => Ok(()),
        Some(other) => Err(Fault::new(format!("invalid log-format {other:?}: text or json"))),
    }
}

/// Tells an error as runc does: in the log file for programs, on stderr for people.
fn fail(line: Option<&CommandLine>, fault: &Fault) -> ExitCode {
    let time = Timestamp::now().to_string();
    let json = line.and_then(|line| line.value("log-format")) == Some("json");
    let entry = if json {
        serde_json::json!({"level": "error", "msg": fault.0, "time": time}).to_string()
    } else {
        format!("time={time:?} level=error msg={:?}", fault.0)
    };
    let log = line.and_then(|line| line.path("log"));
    if let Some(path) = &log {
        // A log that cannot be written leaves stderr, where the same text goes.
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        file.and_then(|mut file| file.write_all(format!("{entry}\n").as_bytes())).ok();
    }
    if log.is_some() {
        eprintln!("{fault}");
    } else {
        eprintln!("{entry}");
    }
    ExitCode::FAILURE
}
