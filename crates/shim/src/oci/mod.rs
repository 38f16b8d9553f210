//! The OCI runtime command line over the same runtime library: what containerd, Podman, CRI-O and dockerd call.
//!
//! Owns: verbs, the words that callers match, where errors go. Must not: share state with shims; a container made here is not
//! the daemon's.

mod arguments;
mod bundle_process;
mod checkpoint;
mod control;
mod create;
mod describe;
mod exec;
mod features;
mod foreground;
mod help;
mod list;
mod log;
mod notify;
mod own_program;
mod record;
mod relay;
mod restore;
mod spec;
mod update;
mod verbs;

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use arguments::{CommandLine, Misuse};
use brig_runtime::ErrorKind;
use record::Records;

/// Where containers are remembered unless `--root` says otherwise.
const DEFAULT_ROOT: &str = "/run/brig-rt";

/// What `exec` ends with when it could not run the program, so that callers can tell it from the program's own codes.
const EXEC_FAILED: u8 = 255;

/// What ended a verb early; the text is for people, and for callers that match it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    text: String,
    /// It is the program's, whose terminal this is: told as it would tell it, unless there is a log file.
    bare: bool,
}

impl Fault {
    /// A fault with this text.
    pub(crate) fn new(text: impl Into<String>) -> Fault {
        Fault { text: text.into(), bare: false }
    }

    /// A failed operation on a file.
    pub(crate) fn io(what: &str, path: &Path, error: &std::io::Error) -> Fault {
        Fault::new(format!("{what} {}: {error}", path.display()))
    }

    /// What became of a program in the foreground that was to be run.
    pub(crate) fn of_program(error: brig_runtime::Error) -> Fault {
        let bare = matches!(error.kind, ErrorKind::NotFound | ErrorKind::NotExecutable);
        Fault { text: error.message, bare }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Misuse> for Fault {
    fn from(misuse: Misuse) -> Fault {
        Fault::new(misuse.0)
    }
}

impl From<brig_runtime::Error> for Fault {
    fn from(error: brig_runtime::Error) -> Fault {
        Fault::new(error.message)
    }
}

impl From<brig_runtime::cgroup::Error> for Fault {
    fn from(error: brig_runtime::cgroup::Error) -> Fault {
        Fault::new(error.to_string())
    }
}

impl From<brig_sys::Error> for Fault {
    fn from(error: brig_sys::Error) -> Fault {
        Fault::new(error.to_string())
    }
}

/// Runs one verb.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    let line = match CommandLine::parse(arguments) {
        Ok(line) => line,
        Err((line, misuse)) => {
            // That the log cannot be written is the lesser mistake.
            log::open(&line).unwrap_or_default();
            log::error(&misuse.0, false);
            return ExitCode::FAILURE;
        }
    };
    match log::open(&line).and_then(|()| dispatch(&line)) {
        Ok(code) => ExitCode::from(code),
        Err(fault) => {
            log::error(&fault.text, fault.bare);
            if line.verb == "exec" { ExitCode::from(EXEC_FAILED) } else { ExitCode::FAILURE }
        }
    }
}

fn dispatch(line: &CommandLine) -> Result<u8, Fault> {
    if line.has("version") {
        return help::version();
    }
    if line.help || line.verb.is_empty() {
        return help::help(&line.verb);
    }
    if let Some(other) = line.value("log-format").filter(|format| !matches!(*format, "text" | "json")) {
        return Err(Fault::new(format!("invalid log-format: {other}")));
    }
    own_program::protect(&line.verb)?;
    let records = Records::new(root(line)?);
    match line.verb.as_str() {
        "create" => create::create(line, &records),
        "run" => create::run(line, &records),
        "start" => control::start(line, &records),
        "kill" => control::kill(line, &records),
        "delete" => control::delete(line, &records),
        "pause" => control::freeze(line, &records, true),
        "resume" => control::freeze(line, &records, false),
        "update" => update::update(line, &records),
        "exec" => exec::exec(line, &records),
        "state" => describe::state(line, &records),
        "events" => describe::events(line, &records),
        "list" => list::list(line, &records),
        "ps" => list::ps(line, &records),
        "spec" => spec::spec(line),
        "features" => features::features(),
        "checkpoint" => checkpoint::checkpoint(line, &records),
        "restore" => restore::restore(line, &records),
        verb => Err(Fault::new(format!("No help topic for '{verb}'"))),
    }
}

/// The directory of all containers: given, below the user's runtime directory, or root's.
fn root(line: &CommandLine) -> Result<PathBuf, Fault> {
    if line.has("root") {
        let path = PathBuf::from(line.value("root").unwrap_or("."));
        let path = path.canonicalize().or_else(|_| std::path::absolute(&path));
        let path = path.map_err(|error| Fault::new(format!("--root: {error}")))?;
        if path.parent().is_none() {
            return Err(Fault::new("Option --root argument should not be set to /"));
        }
        return Ok(path);
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty()) {
        Some(directory) if is_rootless() && std::env::var_os("USER").is_none_or(|user| user != "root") => {
            let root = PathBuf::from(directory).join("brig-rt");
            let made = std::fs::create_dir_all(&root);
            // The sticky bit keeps it from being cleaned away by age (XDG base directories).
            made.and_then(|()| std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o1700)))
                .map_err(|error| Fault::io("$XDG_RUNTIME_DIR must be the caller's own: create", &root, &error))?;
            Ok(root)
        }
        _ => Ok(PathBuf::from(DEFAULT_ROOT)),
    }
}

/// Whether this is not the host's root: another user, or root of a user namespace.
pub(crate) fn is_rootless() -> bool {
    const WHOLE: &str = "4294967295";
    !rustix::process::geteuid().is_root()
        || std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !map.split_whitespace().eq(["0", "0", WHOLE]))
}
