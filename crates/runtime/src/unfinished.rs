//! What a creation or a restore has left whose process was killed: found by a note of its cgroup, ended and removed.
//! Owns that note and what may be done by it. Must not end what is not proven to be the container's.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::Path;

use brig_sys::pidfd;
use serde::{Deserialize, Serialize};

use crate::cgroup::{Cgroup, Layout, Place};
use crate::container::SIGKILL;
use crate::error::{Error, Result, Step};

/// The cgroup of a container that is being made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    place: Place,
    /// Device and inode of its first directory; `None` until it is made.
    identity: Option<(u64, u64)>,
}

/// Keeps notes where whoever comes after a killed caller finds them: one before the cgroup is made, one after.
#[derive(Clone, Copy)]
pub struct Note<'a>(pub &'a dyn Fn(&Unfinished) -> Result<()>);

impl std::fmt::Debug for Note<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Note")
    }
}

impl Unfinished {
    /// Of a cgroup that is about to be made; `None` where only its making decides where it is, or where systemd removes it.
    pub(crate) fn planned(place: &Place) -> Option<Unfinished> {
        let known = place.systemd_unit().is_none() && !place.is_optional();
        known.then(|| Unfinished { place: place.clone(), identity: None })
    }

    /// Of a cgroup that is there; `None` if the container has none.
    pub(crate) fn made(cgroup: &Cgroup) -> Option<Unfinished> {
        Some(Unfinished { place: cgroup.place().clone(), identity: Some(identity(cgroup)?) })
    }

    /// Kills what is in the cgroup and removes it. Nothing there is success. What came to that place since, by another's hand, is
    /// left alone if there is a process in it.
    ///
    /// # Errors
    /// The kernel's; a process that outlives SIGKILL.
    pub fn end(&self) -> Result<()> {
        let cgroup = Cgroup::at(&Layout::detect().step(|| "cgroup".to_owned())?, self.place.clone());
        if !cgroup.exists() {
            return Ok(());
        }
        let inside = cgroup.processes()?;
        if !inside.is_empty() {
            if self.identity.is_none() || identity(&cgroup) != self.identity {
                return Ok(());
            }
            // Once CRIU has ended, the kernel lets go what it holds.
            kill(&traced_by(&inside)?);
            cgroup.kill()?;
        }
        Ok(cgroup.remove()?)
    }
}

fn identity(cgroup: &Cgroup) -> Option<(u64, u64)> {
    let stat = rustix::fs::stat(cgroup.directories().first()?).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// Processes that one of `tracers` holds by ptrace, wherever they are.
fn traced_by(tracers: &[i32]) -> Result<Vec<i32>> {
    let tracers: BTreeSet<i32> = tracers.iter().copied().collect();
    let entries = std::fs::read_dir("/proc").map_err(|error| Error::system(format!("read /proc: {error}")))?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    Ok(pids.filter(|pid| tracer(*pid).is_some_and(|tracer| tracers.contains(&tracer))).collect())
}

fn tracer(pid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().ok()
}

/// Kills processes by number that cannot end by themselves meanwhile, so that the numbers stay theirs.
pub(crate) fn kill(pids: &[i32]) {
    for pid in pids {
        // Gone already is as good.
        pidfd::open(*pid).and_then(|process| pidfd::send_signal(process.as_fd(), SIGKILL)).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_traces_this() {
        let own = std::process::id().cast_signed();
        assert_eq!(tracer(own), Some(0));
        assert!(traced_by(&[own]).unwrap().is_empty());
    }

    #[test]
    fn only_what_is_planned_here_is_noted_before() {
        let place = Place::below("p", "c").unwrap();
        let note = Unfinished::planned(&place).unwrap();
        let text = serde_json::to_string(&note).unwrap();
        assert_eq!(serde_json::from_str::<Unfinished>(&text).unwrap(), note);
        // There is no such cgroup.
        note.end().unwrap();
    }
}
