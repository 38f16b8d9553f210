//! `start`, `kill`, `delete`, `pause`, `resume`.
//!
//! Owns: when each is refused, in runc's words. Must not: signal a process that may be another by now.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use brig_oci::runtime::Spec;
use brig_runtime::About;
use brig_runtime::cgroup::{Cgroup, Layout};

use crate::oci::Fault;
use crate::oci::arguments::CommandLine;
use crate::oci::create::after_delete;
use crate::oci::log;
use crate::oci::notify::{self, Notify};
use crate::oci::record::{Condition, Record, Records, start_time};

/// How long a killed process may take to end.
const END: Duration = Duration::from_secs(10);

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// `start`: opens the gate.
pub(crate) fn start(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    let id = line.id()?;
    let lock = records.lock(id)?;
    let record = records.load(id)?;
    let directory = records.directory(id);
    match describe(&record, records.condition(&record))? {
        "created" => {}
        "running" => return Err(Fault::new("cannot start an already running container")),
        "stopped" => return Err(Fault::new("cannot start a container that has stopped")),
        other => return Err(Fault::new(format!("cannot start a container in the {other} state"))),
    }
    let process = init(&record)?;
    let notify = notify::wanted().map(|manager| Notify::listen(&directory, &manager)).transpose()?.flatten();
    let gone = brig_runtime::gate::let_go(&directory);
    // Only now may another call find it running, or stopped.
    brig_runtime::gate::remove(&directory);
    let about = About { id: id.to_owned(), bundle: record.bundle.clone() };
    if let Err(error) = gone {
        // Callers of runc, whose start does not wait for the startContainer hooks, find the poststart hooks run whatever
        // becomes of those; what they undo or announce must not depend on it.
        if error.message.starts_with("error running startContainer hook") {
            brig_runtime::hooks::poststart(&records.spec(id)?, &about, record.pid).err().into_iter().for_each(|also| {
                log::warn(&also.message);
            });
        }
        return Err(error.into());
    }
    log::debug(|| format!("init: closing the pipe to signal completion: process {} runs the program", record.pid));
    if let Err(error) = brig_runtime::hooks::poststart(&records.spec(id)?, &about, record.pid) {
        // As the specification has it: such a container is ended and deleted.
        let removed = end(&record).and_then(|()| remove(records, id, record));
        return Err(match removed {
            Ok(()) => error.into(),
            Err(also) => Fault::new(format!("{}; and removing the container failed: {also}", error.message)),
        });
    }
    drop(lock);
    notify.map_or(Ok(()), |notify| notify.wait(record.pid, process.as_fd())).map(|()| 0)
}

/// `kill`: one signal to the first process, or with `--all` to all of them.
pub(crate) fn kill(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    let id = line.id()?;
    let signal = line.operands.get(1).map_or(Ok(SIGTERM), |text| parse_signal(text))?;
    let record = records.load(id)?;
    let stopped = records.condition(&record) == Condition::Stopped;
    if signal == SIGKILL && !has_own_pids(&records.spec(id)?) {
        // The end of its first process ends nothing else: all of them are meant.
        let cgroup = cgroup(&record)?;
        if stopped && !line.has("all") && cgroup.processes()?.is_empty() {
            return Err(Fault::new("container not running"));
        }
        cgroup.kill()?;
        return Ok(0);
    }
    if line.has("all") {
        return signal_all(&record, signal).map(|()| 0);
    }
    if stopped {
        return Err(Fault::new("container not running"));
    }
    let process = init(&record)?;
    brig_sys::pidfd::send_signal(process.as_fd(), signal)?;
    if signal == SIGKILL && cgroup(&record)?.frozen()? {
        cgroup(&record)?.thaw()?;
    }
    Ok(0)
}

fn signal_all(record: &Record, signal: i32) -> Result<(), Fault> {
    let cgroup = cgroup(record)?;
    if signal == SIGKILL {
        return Ok(cgroup.kill()?);
    }
    for pid in cgroup.processes()? {
        // A process that has ended meanwhile got what was wanted for it.
        if let Ok(pidfd) = brig_sys::pidfd::open(pid) {
            brig_sys::pidfd::send_signal(pidfd.as_fd(), signal).ok();
        }
    }
    Ok(())
}

/// Whether the container has a pid namespace of its own, whose processes all end with the first.
fn has_own_pids(spec: &Spec) -> bool {
    let namespaces = spec.linux.as_ref().map_or(&[][..], |linux| &linux.namespaces);
    namespaces.iter().any(|namespace| namespace.type_ == "pid" && namespace.path.is_none())
}

/// `delete`: removes what a stopped container has left; with `--force` stops it before.
pub(crate) fn delete(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    let id = line.id()?;
    let force = line.has("force");
    let _lock = match records.lock(id) {
        Ok(lock) => lock,
        Err(_) if force && !records.directory(id).exists() => return Ok(0),
        Err(fault) => return Err(fault),
    };
    let record = match records.load(id) {
        Ok(record) => record,
        // What a killed `create` left is nothing that anybody could name otherwise.
        Err(_) if force => return abandon(records, id).map(|()| 0),
        Err(fault) => {
            if !records.directory(id).join("state.json").exists() {
                abandon(records, id)?;
            }
            return Err(fault);
        }
    };
    let condition = records.condition(&record);
    match condition {
        Condition::Running if !force => {
            let condition = describe(&record, condition)?;
            return Err(Fault::new(format!("cannot delete container {id} that is not stopped: {condition}")));
        }
        Condition::Running | Condition::Created => end(&record)?,
        Condition::Stopped => {}
    }
    remove(records, id, record).map(|()| 0)
}

/// Removes what a creation or a restore has left whose process was killed.
fn abandon(records: &Records, id: &str) -> Result<(), Fault> {
    records.unfinished(id)?.map_or(Ok(()), |unfinished| unfinished.end())?;
    records.forget(id)
}

/// Removes what a container that has ended has left, and tells its poststop hooks.
fn remove(records: &Records, id: &str, record: Record) -> Result<(), Fault> {
    let cgroup = cgroup(&record)?;
    if !cgroup.processes()?.is_empty() {
        cgroup.kill()?;
    }
    cgroup.remove()?;
    let spec = records.spec(id);
    records.forget(id)?;
    if let Ok(spec) = spec {
        after_delete(&spec, &About { id: id.to_owned(), bundle: record.bundle });
    }
    Ok(())
}

/// `pause` and `resume`.
pub(crate) fn freeze(line: &CommandLine, records: &Records, frozen: bool) -> Result<u8, Fault> {
    let id = line.id()?;
    let _lock = records.lock(id)?;
    let record = records.load(id)?;
    let condition = records.condition(&record);
    let cgroup = cgroup(&record)?;
    if condition == Condition::Stopped {
        return Err(Fault::new("container not running"));
    }
    match (frozen, cgroup.frozen()?) {
        (true, false) => cgroup.freeze()?,
        (false, true) => cgroup.thaw()?,
        (true, true) => return Err(Fault::new("container is paused")),
        (false, false) => return Err(Fault::new("container not paused")),
    }
    Ok(0)
}

/// The word for a container's state, with the one that only its cgroup knows.
pub(crate) fn describe(record: &Record, condition: Condition) -> Result<&'static str, Fault> {
    let frozen = condition != Condition::Stopped && cgroup(record)?.frozen()?;
    Ok(if frozen { "paused" } else { condition.name() })
}

/// The container's cgroup.
pub(crate) fn cgroup(record: &Record) -> Result<Cgroup, Fault> {
    Ok(Cgroup::at(&Layout::detect()?, record.cgroup.clone()))
}

/// The first process, proven to be the one that was started: a descriptor cannot come to mean another process later.
pub(crate) fn init(record: &Record) -> Result<OwnedFd, Fault> {
    let pidfd = brig_sys::pidfd::open(record.pid).map_err(|_| Fault::new("container not running"))?;
    if start_time(record.pid) != Some(record.start_time) {
        return Err(Fault::new("container not running"));
    }
    Ok(pidfd)
}

fn end(record: &Record) -> Result<(), Fault> {
    let Ok(process) = init(record) else { return Ok(()) };
    brig_sys::pidfd::send_signal(process.as_fd(), SIGKILL)?;
    let cgroup = cgroup(record)?;
    if cgroup.frozen()? {
        cgroup.thaw()?;
    }
    if !brig_sys::pidfd::wait_end(process.as_fd(), Some(END))? {
        return Err(Fault::new(format!("container init still running: process {} does not end", record.pid)));
    }
    Ok(())
}

/// A signal by number or name.
fn parse_signal(text: &str) -> Result<i32, Fault> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    let unknown = || Fault::new(format!("unknown signal {text:?}"));
    if let Ok(number) = text.trim_start_matches('-').parse::<i32>() {
        return if (0..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    // Realtime signals have no names of their own.
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let position = NAMES.iter().position(|known| *known == name).ok_or_else(unknown)?;
    i32::try_from(position + 1).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_number_and_name() {
        assert_eq!(parse_signal("9").unwrap(), 9);
        assert_eq!(parse_signal("SIGTERM").unwrap(), 15);
        assert_eq!(parse_signal("hup").unwrap(), 1);
        assert_eq!(parse_signal("SYS").unwrap(), 31);
        assert_eq!(parse_signal("0").unwrap(), 0);
        for bad in ["65", "SIGNOPE", "", "9x", "99999999999"] {
            assert_eq!(parse_signal(bad).unwrap_err().to_string(), format!("unknown signal {bad:?}"));
        }
    }
}
