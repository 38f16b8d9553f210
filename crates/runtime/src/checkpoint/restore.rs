//! A container from images: planned as a create plans it, then made by CRIU, then compared with the plan before it runs.
//! Owns the order of the steps and that a failed restore leaves nothing. Must not take anything from the images that says what
//! of the host the container gets.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use brig_sys::clone::flags;
use brig_sys::fdpass::{self, Channel};

use super::criu::{Criu, FIRST_FD, Handover};
use super::mountinfo::{self, Entry};
use super::rpc::{self, CgroupsMode, Kind, Opts, Response, Switch, Text};
use super::stage::{self, Stage, Staged};
use super::verify::{self, Measure};
use super::{Directories, Options, config_file, descriptors, images};
use crate::about::About;
use crate::cgroup::{Cgroup, Wish};
use crate::container::{self, Container, CreateRequest};
use crate::error::{Error, Result, Step};
use crate::hooks::Moment;
use crate::identity::{self, Identity};
use crate::plan::Plan;
use crate::unfinished;

const LOG: &str = "restore.log";

/// What [`restore`] needs.
pub struct RestoreRequest<'a> {
    /// The container, as a create would be asked for it. Its streams are the caller's own; `stdio` only says whether it has a
    /// terminal.
    pub create: CreateRequest<'a>,
    /// What CRIU is told.
    pub options: &'a Options,
    /// Gets the master of the container's terminal.
    pub console: &'a mut dyn FnMut(OwnedFd) -> Result<()>,
}

/// A restored container.
#[derive(Debug)]
pub struct Restored {
    /// Its init is a child of this process.
    pub container: Container,
    /// CRIU has given it a time namespace that the specification does not list; whoever joins the container has to join that.
    pub time_namespace: bool,
}

/// Restores a container. Returns when it runs. Only for processes with one thread and no other children.
///
/// # Errors
/// As of a create; images that ask for more than the specification gives; CRIU's failures, with the log's last words. Then
/// nothing is left.
pub fn restore(request: RestoreRequest<'_>) -> Result<Restored> {
    let RestoreRequest { create, options, console } = request;
    let mut plan = Plan::new(create.spec, &create.about, create.root_directory(), false)?;
    container::check_root(&create.rootfs)?;
    check_restorable(&plan)?;
    let directories = Directories::open(options, false, LOG)?;
    let streams = descriptors::read(&options.images)?;
    descriptors::check(&streams, [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()])?;
    images::check_filters(&options.images, plan.launch.as_ref())?;
    let mounts = images::mounts(&options.images)?;
    let mut cgroup = container::make_cgroup(
        &plan,
        &Wish {
            path: &plan.linux.cgroups_path,
            parent: create.cgroup_parent,
            id: create.id,
            driver: create.cgroup_driver,
            annotations: &create.spec.annotations,
            rootless: create.rootless_cgroup,
            strict: create.strict_limits,
        },
        create.note,
    )?;
    let terminal = create.spec.process.as_ref().is_some_and(|process| process.terminal);
    let run = Run {
        plan: &plan,
        options,
        directories: &directories,
        mounts: &mounts,
        streams: &streams,
        cgroup: &cgroup,
        terminal,
    };
    match run.all(&create, console).and_then(|pid| finish(pid, &mut plan, create.about, &mut cgroup)) {
        Ok(restored) => Ok(restored),
        Err(error) => {
            clean_up(&cgroup);
            // What the hooks of before have set up, these take down.
            plan.hooks.iter().for_each(|hooks| drop(hooks.run_all(Moment::Poststop)));
            Err(error)
        }
    }
}

fn finish(pid: i32, plan: &mut Plan<'_>, about: About, cgroup: &mut Cgroup) -> Result<Restored> {
    cgroup.entered().step(|| "cgroup".to_owned())?;
    let listed = plan.namespaces.has(flags::NEWTIME);
    let own = |pid: i32| rustix::fs::stat(format!("/proc/{pid}/ns/time")).map(|stat| stat.st_ino);
    let time_namespace = !listed && own(pid) != own(std::process::id().cast_signed());
    Ok(Restored { container: Container::restored(pid, cgroup, plan, about)?, time_namespace })
}

/// Kills whatever of the container is there, reaps it and removes the cgroup.
fn clean_up(cgroup: &Cgroup) {
    // The first error is what the caller must read.
    cgroup.kill().unwrap_or_default();
    while let Ok(Some(_)) = brig_sys::signal::reap_any() {}
    cgroup.remove().unwrap_or_default();
}

/// Refuses what CRIU cannot make or join.
fn check_restorable(plan: &Plan<'_>) -> Result<()> {
    if plan.namespaces.new & flags::NEWNS == 0 {
        return Err(Error::unsupported("linux.namespaces: a restore needs a new mount namespace"));
    }
    if plan.launch.as_ref().is_some_and(|launch| launch.agent.is_some()) {
        return Err(Error::unsupported("linux.seccomp.listenerPath: a filter with a listener cannot be restored"));
    }
    for (flag, _) in &plan.namespaces.join {
        let (name, why) = match *flag {
            flags::NEWUSER => ("user", "its ids would not be those of the images"),
            flags::NEWCGROUP => ("cgroup", "CRIU cannot join one"),
            flags::NEWNS => ("mount", "CRIU cannot join one"),
            flags::NEWTIME => ("time", "CRIU makes one of its own"),
            _ => continue,
        };
        return Err(Error::unsupported(format!(
            "linux.namespaces: a restore into an existing {name} namespace is not supported: {why}"
        )));
    }
    Ok(())
}

struct Run<'a> {
    plan: &'a Plan<'a>,
    options: &'a Options,
    directories: &'a Directories,
    mounts: &'a [images::Mount],
    streams: &'a [Option<String>],
    cgroup: &'a Cgroup,
    terminal: bool,
}

impl Run<'_> {
    /// From the plan to processes that run; returns init.
    fn all(&self, create: &CreateRequest<'_>, console: &mut dyn FnMut(OwnedFd) -> Result<()>) -> Result<i32> {
        let identity = self.identity()?;
        let stage = Stage {
            plan: self.plan,
            cgroup: self.cgroup,
            rootfs: &create.rootfs,
            idmap: create.idmap_binds,
            identity: &identity,
            images: self.mounts,
            console: self.terminal,
        };
        let directory = self.cgroup.fd_for_clone();
        let files = self.cgroup.join_files().step(|| "cgroup".to_owned())?;
        let mut criu = Criu::start(directory.as_ref().map(AsFd::as_fd), |early| {
            brig_sys::signal::reset()?;
            for file in &files {
                rustix::io::write(file, b"0")
                    .map_err(|errno| brig_sys::Error::new("write(cgroup tasks, \"0\")", errno))?;
            }
            self.lay_out(&stage, early)
        })?;
        criu.prepared()?;
        let place = stage::place()?;
        let seen = mountinfo::of_process(criu.pid())?;
        let root = mountinfo::at(&seen, &stage::root_path(place))
            .ok_or_else(|| Error::system("restore: the root is not mounted"))?;
        let staged = stage::staged(self.plan, place, &seen);
        images::check(self.mounts, &staged)?;
        let cgroups = verify::cgroups(criu.pid())?;
        let opts = self.opts(&create.spec.annotations, root, &staged, &cgroups)?;
        criu.send(&rpc::request(Kind::Restore, &opts))?;
        let measure = Measure {
            plan: self.plan,
            staged: &staged,
            root,
            cgroups: &cgroups,
            other_label: self.options.lsm_profile.is_some(),
        };
        let mut init = None;
        let conversed = self.converse(&criu, &measure, console, &mut init);
        let pid = conversed.inspect_err(|_first| self.end_what_criu_holds(&criu, init))?;
        let ended = criu.finish()?;
        if ended.shell_code() != 0 {
            let error = Error::system(format!("criu failed: exit code {}", ended.shell_code()));
            return Err(self.directories.broken(&error));
        }
        Ok(pid)
    }

    /// CRIU holds what it restores by ptrace: once CRIU has ended the kernel lets it go, and it would run, unconfined perhaps.
    /// So it ends first, while every thread of it stands still.
    fn end_what_criu_holds(&self, criu: &Criu, init: Option<i32>) {
        // What the images have put into another cgroup is found below init.
        let mut pids = init.and_then(|init| verify::tree(init).ok()).unwrap_or_default();
        pids.extend(self.cgroup.processes().unwrap_or_default());
        pids.retain(|pid| *pid != criu.pid());
        unfinished::kill(&pids);
    }

    /// In the child that becomes CRIU.
    fn lay_out(&self, stage: &Stage<'_>, early: &Channel) -> Result<Handover> {
        // CRIU makes a cgroup namespace only if it manages cgroups; else what it restores stays in its own.
        let ignored = self.options.cgroups == CgroupsMode::Ignore;
        let cgroup = if ignored { self.plan.namespaces.new & flags::NEWCGROUP } else { 0 };
        brig_sys::namespace::unshare(flags::NEWNS | cgroup)?;
        let [images, work] = self.directories.again()?;
        let mut given = vec![stage.run(images)?, work];
        for (_, fd) in self.joined() {
            given.push(fd.try_clone().map_err(|error| Error::system(format!("dup(namespace): {error}")))?);
        }
        let (ours, theirs) = fdpass::pair()?;
        early.send(b"\0", &[ours.as_fd()])?;
        Ok(Handover { channel: Some(theirs), files: given })
    }

    /// Namespaces that CRIU gets as descriptors, with its names for them.
    fn joined(&self) -> impl Iterator<Item = (&'static str, &OwnedFd)> {
        self.plan.namespaces.join.iter().filter_map(|(flag, fd)| match *flag {
            flags::NEWNET => Some(("extRootNetNS", fd)),
            flags::NEWPID => Some(("extRootPidNS", fd)),
            _ => None,
        })
    }

    /// Who the container's ids will be: its user namespace does not exist yet, so one like it serves for the mounts.
    fn identity(&self) -> Result<Identity> {
        if self.plan.namespaces.new & flags::NEWUSER == 0 {
            return Identity::of(std::process::id().cast_signed(), false);
        }
        let uids = identity::ranges(&self.plan.linux.uid_mappings);
        let gids = identity::ranges(&self.plan.linux.gid_mappings);
        Ok(Identity { user_namespace: Some(identity::mapping_only(&uids, &gids)?), uids, gids })
    }

    fn opts(
        &self,
        annotations: &std::collections::BTreeMap<String, String>,
        root: &Entry,
        staged: &[Staged],
        cgroups: &[(String, String)],
    ) -> Result<Opts> {
        let mut numbers = FIRST_FD..;
        let directories = (numbers.next().unwrap_or(FIRST_FD), numbers.next());
        let mut opts = self.directories.opts(self.options, LOG, config_file(annotations), directories);
        let text = |path: &Path| {
            path.to_str().map(str::to_owned).ok_or_else(|| Error::invalid(format!("{}: is not UTF-8", path.display())))
        };
        opts.text(Text::Root, &text(&root.point)?);
        // Init is to be a child of this process.
        opts.set(Switch::RstSibling, true).set(Switch::EvasiveDevices, true);
        for (field, value) in
            [(Text::LsmProfile, &self.options.lsm_profile), (Text::LsmMountContext, &self.options.lsm_mount_context)]
        {
            if let Some(value) = value {
                opts.text(field, value);
            }
        }
        for mount in staged {
            opts.external_mount(&mount.name, &text(&mount.path)?);
        }
        for (controllers, path) in cgroups {
            opts.cgroup_root(controllers, path);
        }
        for ((name, _), number) in self.joined().zip(numbers) {
            opts.inherit(name, number);
        }
        for (flag, fd) in &self.plan.namespaces.join {
            let kind = match *flag {
                flags::NEWIPC => "ipc",
                flags::NEWUTS => "uts",
                _ => continue,
            };
            // The one that was checked, not whatever its path means by then.
            opts.join(kind, &format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()));
        }
        for (name, number) in self.streams.iter().zip(0..) {
            if let Some(name) = name {
                opts.inherit(name, number);
            }
        }
        Ok(opts)
    }

    /// Answers CRIU until it is done; returns init, and sets `init` as soon as it is known.
    fn converse(
        &self,
        criu: &Criu,
        measure: &Measure<'_>,
        console: &mut dyn FnMut(OwnedFd) -> Result<()>,
        init: &mut Option<i32>,
    ) -> Result<i32> {
        let mut measured = false;
        loop {
            let heard = criu.next();
            let (response, fd) = heard.map_err(|error| self.directories.broken(&error))?;
            match response.kind {
                Some(Kind::Notify) if response.success => {
                    *init = response.pid.or(*init);
                    measured |= response.script == "pre-resume";
                    self.notified(&response, fd, *init, measure, console)?;
                    if response.script == "post-restore" {
                        // Until here a CRIU whose answer fails to come gives up. After it, it does not.
                        criu.hold()?;
                    }
                    criu.notified(true)?;
                }
                Some(Kind::Restore) if response.success => {
                    let pid =
                        response.pid.or(*init).ok_or_else(|| Error::system("criu does not say what it restored"))?;
                    if !measured {
                        return Err(Error::unsupported(
                            "criu did not wait before it let the container run; version 4 or later does",
                        ));
                    }
                    return Ok(pid);
                }
                _ => return Err(self.directories.failure(&response)),
            }
        }
    }

    fn notified(
        &self,
        response: &Response,
        fd: Option<OwnedFd>,
        init: Option<i32>,
        measure: &Measure<'_>,
        console: &mut dyn FnMut(OwnedFd) -> Result<()>,
    ) -> Result<()> {
        match (response.script.as_str(), fd, init) {
            ("setup-namespaces", _, Some(pid)) => {
                for moment in [Moment::Prestart, Moment::CreateRuntime] {
                    self.plan.hooks.as_ref().map_or(Ok(()), |hooks| hooks.run(moment, Some(pid)))?;
                }
                Ok(())
            }
            ("orphan-pts-master", Some(master), _) => console(master),
            // Everything is restored, and every thread stands still: the last moment.
            ("pre-resume", _, Some(pid)) => measure.check(pid),
            _ => Ok(()),
        }
    }
}
