//! `exec`: another process in a container that this runtime made.
//!
//! Owns: where that process is described, its streams, and the wait for it. Must not: give it more than the container has.

use std::os::fd::AsFd;

use brig_oci::runtime::{Process, Spec};
use brig_runtime::{About, Container, ExecRequest, Stdio};

use crate::oci::Fault;
use crate::oci::arguments::CommandLine;
use crate::oci::control::init;
use crate::oci::create::{connect, inherited};
use crate::oci::record::{Condition, Records, replace};

/// Runs a process; in the foreground ends with its exit code.
pub(crate) fn exec(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    let id = line.id()?;
    let record = records.load(id)?;
    match records.condition(&record) {
        Condition::Running | Condition::Created => {}
        Condition::Stopped => return Err(Fault::new("cannot exec in a stopped container")),
    }
    let spec = records.spec(id)?;
    let process = process(line, &spec)?;
    let console = line.path("console-socket");
    let stdio = match (process.terminal, &console) {
        (true, None) => {
            return Err(Fault::new("a terminal needs --console-socket: this runtime does not relay terminals itself"));
        }
        (false, Some(_)) => {
            return Err(Fault::new("cannot use console socket if runc will not detach or allocate tty"));
        }
        (true, Some(_)) => Stdio::Terminal { width: 0, height: 0 },
        (false, None) => inherited()?,
    };
    let about = About { id: record.id.clone(), bundle: record.bundle.clone() };
    // The pid is proven to be the container's before and after it is taken over.
    let _proof = init(&record)?;
    let container = Container::adopt(record.pid, &spec, record.cgroup.clone(), about)?;
    let _proof = init(&record)?;
    let console = console.as_deref().map(connect).transpose()?;
    let started = container.exec(ExecRequest::new(&process, spec.linux.as_ref(), stdio))?;
    if let (Some(master), Some(console)) = (&started.master, &console) {
        console.send(b"/dev/ptmx", &[master.as_fd()])?;
    }
    if let Some(path) = line.path("pid-file") {
        replace(&path, started.pid.to_string().as_bytes())?;
    }
    if line.has("detach") {
        return Ok(0);
    }
    let ended = brig_sys::pidfd::reap(started.pidfd.as_fd())?;
    Ok(u8::try_from(ended.shell_code() & 0xff).unwrap_or(u8::MAX))
}

/// The process as `--process` has it, or the container's own with another command.
fn process(line: &CommandLine, spec: &Spec) -> Result<Process, Fault> {
    if let Some(path) = line.path("process") {
        return crate::launch::load(&path).map_err(|failure| Fault::new(failure.message));
    }
    if line.operands.len() < 2 {
        return Err(Fault::new("process args cannot be empty"));
    }
    let mut process = spec.process.clone().unwrap_or_default();
    process.args = line.operands[1..].to_vec();
    process.terminal = line.has("tty");
    process.env.extend_from_slice(line.values("env"));
    if let Some(cwd) = line.value("cwd") {
        cwd.clone_into(&mut process.cwd);
    }
    if let Some(user) = line.value("user") {
        let bad = || Fault::new(format!("--user {user:?}: expected UID[:GID] in numbers"));
        let (uid, gid) = user.split_once(':').unwrap_or((user, ""));
        process.user.uid = uid.parse().map_err(|_| bad())?;
        if !gid.is_empty() {
            process.user.gid = gid.parse().map_err(|_| bad())?;
        }
    }
    Ok(process)
}
