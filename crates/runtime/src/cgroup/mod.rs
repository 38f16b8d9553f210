//! One container's cgroup on version 1, version 2 or both: made, limited, measured, frozen, killed, removed.
//!
//! Owns: `<parent>/<id>` in every hierarchy that is mounted. Must not: know what runs inside, or touch other cgroups except
//! to hand controllers down the path to its own.
//!
//! Limits that this kernel cannot keep become warnings in Docker's words. What isolation depends on (the device rules,
//! membership itself) is an error instead.

mod below;
mod control;
mod convert;
mod create;
mod device_bpf;
mod devices;
mod error;
mod files;
mod layout;
mod oom;
mod place;
mod stats;
mod systemd;
#[cfg(test)]
mod tests;
mod usage;
mod v1;
mod v2;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brig_oci::runtime::Resources;
use brig_oci::runtime::usage::Usage;

pub(crate) use below::Entrance;
pub use devices::runtime_rules;
pub use error::{Error, ErrorKind, Result};
pub use layout::{Hierarchy, Layout, Mode};
pub use oom::OomWatch;
pub use place::{Driver, Place, Unit, Wish};
pub use stats::{BlockIoEntry, BlockIoStats, CpuStats, MemoryStats, PidsStats, Stats};

use error::{Dropped, Field};
use systemd::Placeholder;
use v1::Directories;

/// How long [`Cgroup::remove`] waits for processes that are just ending.
const REMOVE_LIMIT: Duration = Duration::from_secs(5);

/// A container's cgroup. Dropping it changes nothing; [`Cgroup::remove`] removes it.
#[derive(Debug, Default)]
pub struct Cgroup {
    layout: Layout,
    place: Place,
    warnings: Vec<String>,
    /// The directories that this process has made.
    made: Vec<PathBuf>,
    /// Why there is none in some hierarchy.
    denied: Option<Error>,
    /// Until the container's first process is in: systemd stops a scope without processes.
    placeholder: Option<Placeholder>,
    /// What is to be the limit of processes once it is gone.
    pids_limit: Option<u64>,
}

impl Directories for Cgroup {
    fn directory(&self, controller: &str) -> Option<PathBuf> {
        Some(self.layout.hierarchy(controller)?.mount.join(&self.place.path))
    }
}

impl Cgroup {
    /// The cgroup of a container that was created earlier; nothing is read or checked.
    #[must_use]
    pub fn at(layout: &Layout, place: Place) -> Cgroup {
        // Without a name it would be the root of every hierarchy.
        let mut layout = if place.path.as_os_str().is_empty() { Layout::default() } else { layout.clone() };
        if place.rootless && !place.optional {
            // Made without rights over the others.
            layout.v1.retain(|hierarchy| hierarchy.mount.join(&place.path).exists());
        }
        Cgroup { layout, place, ..Cgroup::default() }
    }

    fn apply(&self, resources: &Resources) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let dropped = Dropped { warnings: &mut warnings, strict: self.place.strict };
        match (self.layout.mode(), self.v2_directory()) {
            (Mode::V2, Some(dir)) => v2::apply(&dir, resources, dropped)?,
            (_, v2_directory) => {
                if let Some(name) = resources.unified.keys().next() {
                    v2::check_unified(name)?;
                    return Err(Error::unsupported(format!(
                        "{name:?} needs cgroup v2; this machine has its controllers on v1 (invalid configuration: \
                         cannot use unified resources with cgroup v1)"
                    )))
                    .field("unified");
                }
                v1::apply(self, resources, dropped)?;
                match (self.directory("hugetlb"), v2_directory) {
                    (Some(dir), _) => v1::huge_pages(&dir, resources, "limit_in_bytes")?,
                    (None, Some(dir)) => v1::huge_pages(&dir, resources, "max")?,
                    (None, None) if resources.hugepage_limits.is_empty() => {}
                    (None, None) => {
                        return Err(Error::unsupported("the hugetlb cgroup controller is not mounted"))
                            .field("hugepageLimits");
                    }
                }
            }
        }
        Ok(warnings)
    }

    /// `fresh`: nobody is in it yet.
    fn apply_devices(&self, policy: &devices::Policy, fresh: bool) -> Result<()> {
        match (self.directory("devices"), self.v2_directory()) {
            (Some(dir), _) => v1::devices(&dir, policy, fresh),
            (None, Some(dir)) => v2::devices(&dir, policy),
            (None, None) => Err(Error::new(
                ErrorKind::Unsupported,
                "devices cannot be restricted: neither the devices cgroup controller nor cgroup v2 is mounted",
            )),
        }
    }

    /// Limits that were dropped because this kernel cannot keep them, in Docker's words.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The name below each hierarchy's mount: `brig/<id>`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// What a later [`Cgroup::at`] finds it by.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The directory on version 2, where that is mounted.
    #[must_use]
    pub fn v2_directory(&self) -> Option<PathBuf> {
        Some(self.layout.v2.as_ref()?.join(&self.place.path))
    }

    /// Where its processes are frozen: CRIU writes there itself.
    #[must_use]
    pub fn freezer(&self) -> Option<PathBuf> {
        self.directory("freezer").or_else(|| self.v2_directory())
    }

    /// Where the files of a controller are, on whichever version.
    fn controller_directory(&self, controller: &str) -> Option<PathBuf> {
        if self.layout.mode() == Mode::V2 { self.v2_directory() } else { self.directory(controller) }
    }

    /// Every directory of this cgroup, version 2 first.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        let v1 = self.layout.v1.iter().map(|hierarchy| hierarchy.mount.join(&self.place.path));
        self.v2_directory().into_iter().chain(v1).collect()
    }

    /// Whether any part of it is there.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.directories().iter().any(|dir| dir.exists())
    }

    /// Moves a process in, on every hierarchy.
    ///
    /// # Errors
    /// The process has ended, or the kernel refuses (cpuset without processors, processes limit).
    pub fn add(&self, pid: i32) -> Result<()> {
        self.directories().iter().try_for_each(|dir| files::write(dir, "cgroup.procs", &pid.to_string()))
    }

    /// A directory for `CLONE_INTO_CGROUP`. On version 2 the child is then in for good; on hybrid it still needs
    /// [`Cgroup::add`] (or [`Cgroup::join_files`]) for the version 1 hierarchies.
    #[must_use]
    pub fn fd_for_clone(&self) -> Option<OwnedFd> {
        let directory = self.v2_directory().filter(|_| !self.place.only_by_systemd())?;
        Some(std::fs::File::open(directory).ok()?.into())
    }

    /// Files of the version 1 hierarchies, open for writing. A single-threaded process that writes `0` to each has joined
    /// them, without the lock (and its RCU wait) that moving another process takes; the permission is the opener's.
    ///
    /// # Errors
    /// The cgroup is gone.
    pub fn join_files(&self) -> Result<Vec<OwnedFd>> {
        let open = |hierarchy: &Hierarchy| {
            let path = hierarchy.mount.join(&self.place.path).join("tasks");
            let file = std::fs::OpenOptions::new().write(true).open(&path);
            file.map(OwnedFd::from).map_err(|error| Error::io("open", &path, &error))
        };
        self.layout.v1.iter().map(open).collect()
    }

    /// What the container uses now.
    ///
    /// # Errors
    /// Files that are there but cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        match (self.layout.mode(), self.v2_directory()) {
            (Mode::V2, Some(dir)) => stats::v2(&dir),
            _ => stats::v1(self),
        }
    }

    /// The same at greater length, in the shape that `events --stats` of OCI runtimes has.
    ///
    /// # Errors
    /// Files that are there but cannot be read.
    pub fn usage(&self) -> Result<Usage> {
        match (self.layout.mode(), self.v2_directory()) {
            (Mode::V2, Some(dir)) => usage::v2(&dir),
            (_, dir) => usage::v1(self, dir.as_deref()),
        }
    }

    /// Stops every process where it stands. Returns when all have stopped.
    ///
    /// # Errors
    /// Not all stopped within ten seconds: they all run again.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    /// Lets them run again.
    ///
    /// # Errors
    /// The cgroup is gone.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        match (self.directory("freezer"), self.v2_directory()) {
            (Some(dir), _) => control::freeze_v1(&dir, frozen),
            (None, Some(dir)) => control::freeze_v2(&dir, frozen),
            (None, None) => Err(Error::new(
                ErrorKind::Unsupported,
                "containers cannot be paused: neither the freezer cgroup controller nor cgroup v2 is mounted",
            )),
        }
    }

    /// Whether it is frozen; gone is not.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn frozen(&self) -> Result<bool> {
        match (self.directory("freezer"), self.v2_directory()) {
            (Some(dir), _) => control::frozen_v1(&dir),
            // What was asked of it itself; a frozen parent is not its state.
            (None, Some(dir)) => {
                Ok(files::read_if_present(&dir, "cgroup.freeze")?.is_some_and(|text| text.trim() == "1"))
            }
            (None, None) => Ok(false),
        }
    }

    /// The processes in it and in cgroups below it, as the caller's pid namespace numbers them.
    ///
    /// # Errors
    /// The directories cannot be listed; gone is empty.
    pub fn processes(&self) -> Result<Vec<i32>> {
        self.process_directory().map_or(Ok(Vec::new()), |dir| control::processes(&dir))
    }

    /// One hierarchy to look for processes in. They are in all; a container cannot leave one on which it sees no parent.
    fn process_directory(&self) -> Option<PathBuf> {
        let by_controller = ["pids", "freezer", "devices", "memory"].into_iter().find_map(|name| self.directory(name));
        if self.layout.mode() == Mode::V2 {
            self.v2_directory()
        } else {
            by_controller.or_else(|| self.directories().pop())
        }
    }

    /// How many processes the kernel has killed here for want of memory.
    ///
    /// # Errors
    /// The counter is there but cannot be read.
    pub fn oom_kills(&self) -> Result<u64> {
        let text = match (self.directory("memory"), self.v2_directory()) {
            (Some(dir), _) => files::read_if_present(&dir, "memory.oom_control")?,
            (None, Some(dir)) => files::read_if_present(&dir, "memory.events")?,
            (None, None) => None,
        };
        Ok(text.and_then(|text| files::pair(&text, "oom_kill")).unwrap_or(0))
    }

    /// A descriptor that becomes readable on such kills.
    ///
    /// # Errors
    /// There is no memory controller here.
    pub fn watch_oom(&self) -> Result<OomWatch> {
        match (self.directory("memory"), self.v2_directory()) {
            (Some(dir), _) => OomWatch::v1(&dir),
            (None, Some(dir)) => OomWatch::v2(&dir),
            (None, None) => Err(Error::new(
                ErrorKind::Unsupported,
                "memory is not accounted: the memory cgroup controller is not mounted",
            )),
        }
    }

    /// Kills every process in it, frozen or not, and returns when none is left (zombies do not count).
    ///
    /// # Errors
    /// A process outlives SIGKILL for ten seconds, in an uninterruptible sleep.
    pub fn kill(&self) -> Result<()> {
        let freezer = self.directory("freezer");
        if let Some(dir) = self.v2_directory().filter(|dir| dir.exists()) {
            if let Some(freezer) = freezer.as_ref().filter(|freezer| freezer.exists()) {
                // Version 1 keeps frozen processes from dying; version 2 does not.
                control::freeze_v1(freezer, false)?;
            }
            // On hybrid it may have been left by processes that were only moved on version 1, so the lists decide.
            if control::kill_v2(&dir)? && (self.layout.mode() == Mode::V2 || self.processes()?.is_empty()) {
                return Ok(());
            }
        }
        self.process_directory().map_or(Ok(()), |dir| control::kill_by_signal(&dir, freezer.as_deref()))
    }
}
