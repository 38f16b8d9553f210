//! Owns how a cgroup comes into being, by this runtime or by systemd, and how it ends. What it holds and limits is the parent
//! module's.

use std::path::{Path, PathBuf};

use brig_oci::runtime::Resources;

use super::devices::Policy;
use super::error::{Error, ErrorKind, Result};
use super::layout::{Layout, Mode};
use super::place::{Place, Unit};
use super::systemd::{Manager, Placeholder, rounded_quota};
use super::{Cgroup, REMOVE_LIMIT, control, files, layout, v1, v2};

impl Cgroup {
    /// Makes the cgroup and applies `resources` and the device rules. A left-over of that name without processes is
    /// replaced. On failure nothing stays.
    ///
    /// # Errors
    /// A cgroup of that name with processes or frozen, limits that the kernel refuses; for systemd also what it says. Only
    /// for processes with one thread.
    pub fn create(layout: &Layout, place: Place, resources: &Resources) -> Result<Cgroup> {
        let mut cgroup = Cgroup::at(layout, place);
        if let Some(unit) = cgroup.place.unit.clone() {
            return cgroup.create_unit(&unit, resources);
        }
        if cgroup.place.optional && cgroup.layout.mode() == Mode::V2 {
            // A user's own part of the tree is that of the session; its cgroup itself has processes.
            let name = cgroup.place.path.file_name().map(PathBuf::from).unwrap_or_default();
            cgroup.place.path = layout::own_parent()?.join(name);
        }
        let made = cgroup.make_all().and_then(|fresh| cgroup.fill(resources, fresh));
        // The first failure is what the caller must read; what cannot be removed now is found by name later.
        made.inspect_err(|_first| remove_each(cgroup.made.clone()).unwrap_or_default())?;
        Ok(cgroup)
    }

    /// Makes the directory in every hierarchy. False if one was there that could not be replaced.
    fn make_all(&mut self) -> Result<bool> {
        let mut fresh = true;
        let mounts: Vec<PathBuf> =
            self.layout.v2.iter().chain(self.layout.v1.iter().map(|hierarchy| &hierarchy.mount)).cloned().collect();
        for mount in mounts {
            let path = self.place.path.clone();
            let made = match make(&mount, &path) {
                Ok(false) if fresh => {
                    fresh = self.replace()?;
                    if fresh {
                        // What was made before went with the left-over.
                        return self.make_all();
                    }
                    Ok(())
                }
                made => made.map(drop),
            };
            match made {
                Ok(()) => self.made.push(mount.join(&path)),
                // Nothing was said about where, and nothing may need it.
                Err(error) if error.kind == ErrorKind::Denied && self.place.optional => self.forget(&mount, error),
                Err(error) => return Err(error),
            }
        }
        Ok(fresh)
    }

    /// Goes on without this hierarchy.
    fn forget(&mut self, mount: &Path, error: Error) {
        self.layout.v1.retain(|hierarchy| hierarchy.mount != mount);
        if self.layout.v2.as_deref() == Some(mount) {
            self.layout.v2 = None;
        }
        self.denied = Some(error);
        if self.layout.v1.is_empty() && self.layout.v2.is_none() {
            self.place.path = PathBuf::new();
        }
    }

    /// Removes a left-over of this name; false if it has to be taken as it is.
    fn replace(&mut self) -> Result<bool> {
        self.check_free()?;
        match remove_each(self.directories()) {
            Ok(()) => {
                self.made.clear();
                Ok(true)
            }
            // Prepared by someone with more rights, for this container.
            Err(error) if error.kind == ErrorKind::Denied => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Processes here are someone's container: never joined, never killed on the way.
    fn check_free(&self) -> Result<()> {
        let pids = self.processes()?;
        if !pids.is_empty() {
            let message = format!(
                "container's cgroup is not empty: {} process(es) found in {}; choose another name or end them",
                pids.len(),
                self.path().display()
            );
            return Err(Error::new(ErrorKind::Busy, message));
        }
        if self.frozen()? {
            let message = format!("container's cgroup unexpectedly frozen: {}", self.path().display());
            return Err(Error::new(ErrorKind::Busy, message));
        }
        Ok(())
    }

    fn fill(&mut self, resources: &Resources, fresh: bool) -> Result<()> {
        if let Some(hierarchy) = self.layout.hierarchy("cpuset") {
            v1::inherit_cpuset(&hierarchy.mount.join(&self.place.path))?;
        }
        if let Some(mount) = &self.layout.v2
            && (self.layout.mode() == Mode::V2 || !resources.hugepage_limits.is_empty())
        {
            let dir = mount.join(&self.place.path);
            v2::delegate(mount, &dir)?;
            v2::settle_type(&dir, resources)?;
        }
        let policy = Policy::new(&resources.devices)?;
        self.warnings = self.apply(resources).map_err(|error| for_want_of_rights(self.denied.as_ref(), error))?;
        match self.apply_devices(&policy, fresh) {
            // A user cannot get at devices of the host in any case.
            Err(_) if self.place.rootless => Ok(()),
            applied => applied,
        }
    }

    fn create_unit(mut self, unit: &Unit, resources: &Resources) -> Result<Cgroup> {
        let version_2 = self.layout.mode() == Mode::V2;
        if self.place.rootless && !version_2 {
            return Err(Error::unsupported("cannot use rootless systemd cgroups manager on cgroup v1"));
        }
        resources.unified.keys().try_for_each(|file| v2::check_unified(file))?;
        let mut manager = Manager::connect(self.place.rootless)?;
        self.place.path = manager.cgroup()?.join(&self.place.path);
        if self.exists() {
            self.check_free()?;
        }
        let policy = Policy::new(&resources.devices)?;
        let limits = manager.limits(resources, Some(&policy).filter(|_| !self.place.rootless), version_2)?;
        let placeholder = Placeholder::new()?;
        manager.start(unit, placeholder.pid(), limits)?;
        self.placeholder = Some(placeholder);
        // It makes what it knows of; on version 1 there are hierarchies that it does not.
        let mounts = self.layout.v2.iter().chain(self.layout.v1.iter().map(|hierarchy| &hierarchy.mount));
        let made = mounts.into_iter().try_for_each(|mount| make(mount, &self.place.path).map(drop));
        let filled = made.and_then(|()| self.fill(&as_rounded(resources), false));
        filled.and_then(|()| self.make_room()).inspect_err(|_first| self.remove().unwrap_or_default())?;
        Ok(self)
    }

    /// The placeholder counts, too: as long as it is there, one more process may be.
    fn make_room(&mut self) -> Result<()> {
        let Some(dir) = self.controller_directory("pids") else { return Ok(()) };
        if let Some(limit) = files::number(&dir, "pids.max")? {
            files::write(&dir, "pids.max", &(limit + 1).to_string())?;
            self.pids_limit = Some(limit);
        }
        Ok(())
    }

    /// To be called when the container's first process is in the cgroup: what held its place goes.
    ///
    /// # Errors
    /// The cgroup is gone.
    pub fn entered(&mut self) -> Result<()> {
        if self.placeholder.take().is_none() {
            return Ok(());
        }
        match (self.controller_directory("pids"), self.pids_limit.take()) {
            (Some(dir), Some(limit)) => files::write(&dir, "pids.max", &limit.to_string()),
            _ => Ok(()),
        }
    }

    /// Moves a process in that was made elsewhere because the caller may not; nothing to do otherwise.
    ///
    /// # Errors
    /// systemd's.
    pub fn attach(&self, pid: i32) -> Result<()> {
        match &self.place.unit {
            Some(unit) if self.place.only_by_systemd() => Manager::connect(true)?.attach(unit, pid),
            _ => Ok(()),
        }
    }

    /// Changes limits of a running container; returns warnings as [`Cgroup::warnings`] has them. Device rules are
    /// replaced if any are given.
    ///
    /// # Errors
    /// Limits that the kernel refuses, for example memory below what is in use. What came before stays applied.
    pub fn update(&self, resources: &Resources) -> Result<Vec<String>> {
        let policy = if resources.devices.is_empty() { None } else { Some(Policy::new(&resources.devices)?) };
        let rounded = self.place.unit.is_some().then(|| as_rounded(resources));
        if let Some(unit) = &self.place.unit {
            let version_2 = self.layout.mode() == Mode::V2;
            if let Some(dir) = self.v2_directory().filter(|_| version_2) {
                // What is refused for being too small must not reach systemd, which would have the kernel kill.
                v2::check_usage(&dir, resources)?;
            }
            let mut manager = Manager::connect(self.place.rootless)?;
            let limits = manager.limits(resources, policy.as_ref(), version_2)?;
            manager.set(unit, limits)?;
        }
        let warnings = self.apply(rounded.as_ref().unwrap_or(resources))?;
        policy.map_or(Ok(()), |policy| self.apply_devices(&policy, false))?;
        Ok(warnings)
    }

    /// Removes it from every hierarchy, with what was made below it. May be called again; waits a few seconds at most
    /// for processes that are just ending.
    ///
    /// # Errors
    /// Processes are in it. The hierarchies without any are removed all the same.
    pub fn remove(&self) -> Result<()> {
        if let Some(placeholder) = &self.placeholder {
            placeholder.end();
        }
        let stopped = match &self.place.unit {
            Some(unit) => Manager::connect(self.place.rootless).and_then(|mut manager| manager.stop(unit)),
            None => Ok(()),
        };
        let removed = remove_each(self.directories());
        stopped.and(removed)
    }
}

impl Place {
    /// A user may move processes only within the part of the tree that is the user's. From a session's scope, which is
    /// beside it, systemd has to do it.
    pub(super) fn only_by_systemd(&self) -> bool {
        if !self.rootless || self.unit.is_none() {
            return false;
        }
        let service = |path: &&Path| path.extension().is_some_and(|extension| extension == "service");
        let own = layout::own_parent().unwrap_or_default();
        !self.path.ancestors().find(service).is_some_and(|service| own.starts_with(service))
    }
}

fn remove_each(directories: Vec<PathBuf>) -> Result<()> {
    let mut first = Ok(());
    for dir in directories {
        let limit = if first.is_ok() { REMOVE_LIMIT } else { std::time::Duration::ZERO };
        first = first.and(control::remove(&dir, limit));
    }
    first
}

fn for_want_of_rights(denied: Option<&Error>, error: Error) -> Error {
    match denied {
        Some(denied) if error.kind == ErrorKind::Unsupported => Error {
            message: format!(
                "rootless needs no limits + no cgrouppath when no permission is granted for cgroups: {} ({})",
                error.message, denied.message
            ),
            ..error
        },
        _ => error,
    }
}

/// The quota that systemd will keep, so that the files say the same.
fn as_rounded(resources: &Resources) -> Resources {
    let mut resources = resources.clone();
    if let Some(cpu) = &mut resources.cpu {
        cpu.quota = rounded_quota(cpu).or(cpu.quota);
    }
    resources
}

/// Makes `path` below `mount`; false if it was there. Nearly always only its last step is missing.
fn make(mount: &Path, path: &Path) -> Result<bool> {
    let dir = mount.join(path);
    let created = match std::fs::create_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            dir.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::create_dir(&dir))
        }
        created => created,
    };
    match created {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(Error::io("create cgroup", &dir, &error)),
    }
}
