//! Owns what is done to the processes of a cgroup: listing, freezing, killing, waiting until they are gone, removing
//! directories. It must not know limits.

use std::io::ErrorKind as IoKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::error::{Error, ErrorKind, Result};
use super::files::{read, read_if_present, write};
use super::v2::populated;

/// How long a freeze may take before it is given up.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);
/// How long killed processes may take to end (one in an uninterruptible sleep never does).
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Nested deeper than the kernel allows nobody has cgroups by accident.
const MAX_DEPTH: usize = 64;

/// This directory and those below it, parents before children. Gone means none.
pub(super) fn tree(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    let mut open = vec![(dir.to_path_buf(), 0)];
    while let Some((dir, depth)) = open.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == IoKind::NotFound => continue,
            Err(error) => return Err(Error::io("list", &dir, &error)),
        };
        if depth > MAX_DEPTH {
            return Err(Error::new(
                ErrorKind::System,
                format!("cgroups below {} are nested more than {MAX_DEPTH} deep", dir.display()),
            ));
        }
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push((entry.path(), depth + 1));
            }
        }
        all.push(dir);
    }
    Ok(all)
}

/// The processes in this cgroup and below, sorted, each once. Ids are those of the caller's pid namespace.
pub(super) fn processes(dir: &Path) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    for dir in tree(dir)? {
        // A threaded cgroup's list cannot be read; its processes are in the list of the cgroup that it belongs to.
        let Ok(Some(text)) = read_if_present(&dir, "cgroup.procs") else {
            continue;
        };
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Stops or continues version 2's processes and waits for the kernel to say so.
pub(super) fn freeze_v2(dir: &Path, frozen: bool) -> Result<()> {
    write(dir, "cgroup.freeze", if frozen { "1" } else { "0" })?;
    let wanted = u64::from(frozen);
    let reached = wait_for_event(dir, FREEZE_LIMIT, || {
        let events = read(dir, "cgroup.events")?;
        Ok(super::files::pair(&events, "frozen") == Some(wanted))
    })?;
    if reached || !frozen {
        return Ok(());
    }
    write(dir, "cgroup.freeze", "0")?;
    Err(Error::new(
        ErrorKind::System,
        format!("freezing {} took more than {} s and was given up", dir.display(), FREEZE_LIMIT.as_secs()),
    ))
}

/// Waits on `cgroup.events`, which the kernel reports changes of, until `done` says so or time is up.
fn wait_for_event(dir: &Path, limit: Duration, done: impl Fn() -> Result<bool>) -> Result<bool> {
    let path = dir.join("cgroup.events");
    let events = match std::fs::File::open(&path) {
        Ok(events) => events,
        Err(error) if error.kind() == IoKind::NotFound => return done(),
        Err(error) => return Err(Error::io("open", &path, &error)),
    };
    let deadline = Instant::now() + limit;
    while !done()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        wait(&mut [PollFd::new(&events, PollFlags::PRI)], left)?;
    }
    Ok(true)
}

fn wait(descriptors: &mut [PollFd<'_>], left: Duration) -> Result<bool> {
    let timeout =
        Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(left.subsec_nanos()) };
    match poll(descriptors, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(Error::new(ErrorKind::System, format!("poll on a cgroup's processes: {error}"))),
    }
}

/// Whether this cgroup itself was frozen, not only one above it.
pub(super) fn frozen_v1(dir: &Path) -> Result<bool> {
    // FREEZING ends by itself, or whoever freezes gives it up.
    let frozen = read_if_present(dir, "freezer.state")?.is_some_and(|text| text.trim() != "THAWED");
    Ok(frozen && read_if_present(dir, "freezer.self_freezing")?.is_none_or(|text| text.trim() != "0"))
}

/// Freezes or thaws version 1. FREEZING can last while tasks fork; writing again makes the kernel look again, and thawing
/// in between lets a task through that waits for a frozen one (runc's remedy, too).
pub(super) fn freeze_v1(dir: &Path, frozen: bool) -> Result<()> {
    if !frozen {
        return write(dir, "freezer.state", "THAWED");
    }
    let deadline = Instant::now() + FREEZE_LIMIT;
    for attempt in 0u32.. {
        if attempt % 50 == 49 {
            write(dir, "freezer.state", "THAWED")?;
        }
        write(dir, "freezer.state", "FROZEN")?;
        if read(dir, "freezer.state")?.trim() == "FROZEN" {
            return Ok(());
        }
        if Instant::now() > deadline {
            break;
        }
        // The version 1 freezer reports nothing; there is no event to wait for.
        std::thread::sleep(Duration::from_micros(u64::from(attempt.min(100)) * 100));
    }
    write(dir, "freezer.state", "THAWED")?;
    Err(Error::new(
        ErrorKind::System,
        format!("freezing {} took more than {} s and was given up", dir.display(), FREEZE_LIMIT.as_secs()),
    ))
}

/// Kills everything by version 2's own means and waits until nothing is left. False if the kernel has no `cgroup.kill`.
pub(super) fn kill_v2(dir: &Path) -> Result<bool> {
    if !dir.join("cgroup.kill").exists() {
        return Ok(false);
    }
    match write(dir, "cgroup.kill", "1") {
        Ok(()) => {}
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    }
    if wait_for_event(dir, KILL_LIMIT, || Ok(!populated(dir)?))? {
        return Ok(true);
    }
    Err(still_there(dir)?)
}

fn still_there(dir: &Path) -> Result<Error> {
    let left: Vec<String> = processes(dir)?.iter().map(ToString::to_string).collect();
    let message = format!(
        "processes {} of {} are still there {} s after SIGKILL",
        left.join(", "),
        dir.display(),
        KILL_LIMIT.as_secs()
    );
    Ok(Error::new(ErrorKind::Busy, message))
}

/// Kills by signal until nothing is left. `freezer` is the same cgroup's freezer directory: frozen, processes cannot fork
/// away from the list; they die as soon as they are thawed.
pub(super) fn kill_by_signal(dir: &Path, freezer: Option<&Path>) -> Result<()> {
    let deadline = Instant::now() + KILL_LIMIT;
    loop {
        let held = freezer.filter(|freezer| freezer.exists()).map(|freezer| freeze_v1(freezer, true));
        let pids = processes(dir)?;
        let descriptors: Vec<OwnedFd> = pids.iter().filter_map(|pid| kill(*pid)).collect();
        if let (Some(freezer), Some(_)) = (freezer, held) {
            // Thawed even if freezing failed: a half-frozen process would not die.
            freeze_v1(freezer, false).or_else(
                |error| {
                    if error.kind == ErrorKind::NotFound { Ok(()) } else { Err(error) }
                },
            )?;
        }
        if pids.is_empty() {
            return Ok(());
        }
        for descriptor in &descriptors {
            let left = deadline.saturating_duration_since(Instant::now());
            wait(&mut [PollFd::new(descriptor, PollFlags::IN)], left)?;
        }
        if Instant::now() > deadline {
            return Err(still_there(dir)?);
        }
        if descriptors.is_empty() {
            // Listed, but already gone when signalled: the list is about to follow.
            std::thread::yield_now();
        }
    }
}

/// Kills one process and returns a descriptor that becomes readable when it has ended; `None` if it already has.
fn kill(pid: i32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(pid)?;
    let descriptor = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    match pidfd_send_signal(&descriptor, Signal::KILL) {
        Ok(()) => Some(descriptor),
        Err(_) => None,
    }
}

/// Removes a cgroup and all below it, children first. What is gone already is as good as removed. Directories in which
/// processes are just ending are waited for, `limit` at most.
pub(super) fn remove(dir: &Path, limit: Duration) -> Result<()> {
    // Mostly nothing was made below it and nobody is left: then this is all.
    match std::fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == IoKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    let deadline = Instant::now() + limit;
    for attempt in 0u64.. {
        let mut busy = None;
        for dir in tree(dir)?.iter().rev() {
            match std::fs::remove_dir(dir) {
                Ok(()) => {}
                Err(error) if error.kind() == IoKind::NotFound => {}
                Err(error) => busy = Some(Error::io("remove", dir, &error)),
            }
        }
        let Some(error) = busy else { return Ok(()) };
        let left = deadline.saturating_duration_since(Instant::now());
        if error.kind != ErrorKind::Busy || left.is_zero() {
            return Err(occupied(dir, error));
        }
        wait_for_exit(dir, left, attempt)?;
    }
    Ok(())
}

fn occupied(dir: &Path, error: Error) -> Error {
    let pids = processes(dir).unwrap_or_default();
    if pids.is_empty() {
        return error;
    }
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    Error::new(ErrorKind::Busy, format!("{}: processes {} are in it", error.message, pids.join(", ")))
}

/// Waits until some process of a cgroup has ended: version 2 reports emptiness, version 1 leaves asking the processes.
fn wait_for_exit(dir: &Path, left: Duration, attempt: u64) -> Result<()> {
    if dir.join("cgroup.events").exists() && populated(dir)? {
        wait_for_event(dir, left, || Ok(!populated(dir)?))?;
        return Ok(());
    }
    let open = |pid: &i32| pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok();
    match processes(dir)?.iter().find_map(open) {
        Some(descriptor) => {
            wait(&mut [PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::IN)], left)?;
        }
        // Nobody is listed, yet the kernel still holds it for a task on its last instructions. Nothing reports the end.
        None => std::thread::sleep(Duration::from_micros(100 << attempt.min(6)).min(left)),
    }
    Ok(())
}
