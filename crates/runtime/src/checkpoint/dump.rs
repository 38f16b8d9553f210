//! A running container, written to images.
//! Owns what CRIU is told of the container. Must not stop or remove anything itself: CRIU does, or leaves it as it was.

use std::path::Path;

use brig_oci::runtime::Spec;
use brig_sys::beneath::Root;
use brig_sys::clone::flags;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

use super::criu::{Criu, Handover};
use super::rpc::{self, Number, Opts, Switch, Text};
use super::{
    Directories, NULL, Options, config_file, descriptors, external_name, is_external, masks_from_host, mountinfo,
};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::mounts::{self, Kind, Planned};

const LOG: &str = "dump.log";

impl Container {
    /// Writes the container to images. Unless `leave_running` or `pre_dump` is set its processes have ended afterwards.
    ///
    /// # Errors
    /// CRIU is missing, or fails: then the container goes on, and the error has the log's last words.
    pub fn checkpoint(&self, spec: &Spec, options: &Options) -> Result<()> {
        if self.namespaces & flags::NEWNS == 0 || self.chrooted {
            return Err(Error::unsupported("a container without a mount namespace of its own cannot be checkpointed"));
        }
        let directories = Directories::open(options, true, LOG)?;
        let mut opts = directories.opts(options, LOG, config_file(&spec.annotations), directories.own());
        self.describe(spec, options, &mut opts)?;
        let criu = Criu::start(None, |_| {
            brig_sys::signal::reset()?;
            Ok(Handover::default())
        })?;
        if options.pre_dump || options.lazy_pages {
            criu.features(options.pre_dump, options.lazy_pages)?;
        }
        let mounts = mountinfo::of_process(self.pid())?;
        let mut streams = Vec::new();
        if !options.pre_dump {
            self.describe_outside(spec, &mounts, &mut opts)?;
            streams = self.describe_streams(options, &mounts, &mut opts)?;
        }
        criu.send(&rpc::request(if options.pre_dump { rpc::Kind::PreDump } else { rpc::Kind::Dump }, &opts))?;
        loop {
            let (response, _) = criu.next().map_err(|error| directories.broken(&error))?;
            match response.kind {
                Some(rpc::Kind::Notify) if response.success => {
                    if response.script == "post-dump" && !options.pre_dump {
                        // Everything stands still, or has been left as it was.
                        descriptors::write(&options.images, &descriptors::in_use(&streams, self.pid(), &mounts)?)?;
                    }
                    if let ("status-ready", Some(fd)) = (response.script.as_str(), &options.status_fd) {
                        rustix::io::write(fd, b"\0")
                            .map_err(|errno| brig_sys::Error::new("write(--status-fd, \"\\0\")", errno))?;
                    }
                    criu.notified(true)?;
                }
                Some(rpc::Kind::Dump | rpc::Kind::PreDump) if response.success => break,
                _ => return Err(directories.failure(&response)),
            }
        }
        let ended = criu.finish()?;
        // After a pre-dump CRIU waits for the next one, and calls it a failure that none comes.
        if ended.shell_code() != 0 && !options.pre_dump {
            return Err(directories.broken(&Error::system(format!("criu failed: exit code {}", ended.shell_code()))));
        }
        Ok(())
    }

    /// What the container is.
    fn describe(&self, spec: &Spec, options: &Options, opts: &mut Opts) -> Result<()> {
        opts.number(Number::Pid, self.pid().into());
        if let Some(root) = &spec.root {
            opts.text(Text::Root, &root.path.to_string_lossy());
        }
        for (field, value) in [
            (Switch::LeaveRunning, options.leave_running),
            (Switch::TcpSkipInFlight, options.tcp_skip_in_flight),
            (Switch::LinkRemap, options.link_remap),
        ] {
            opts.set(field, value);
        }
        for entry in spec.linux.iter().flat_map(|linux| &linux.namespaces) {
            let joined = entry.path.as_ref().is_some_and(|path| !path.as_os_str().is_empty());
            let (kind, key) = match entry.type_.as_str() {
                "network" => ("net", "extRootNetNS"),
                "pid" => ("pid", "extRootPidNS"),
                _ => continue,
            };
            if joined {
                let path = format!("/proc/{}/ns/{kind}", self.pid());
                let stat =
                    rustix::fs::stat(&path).map_err(|errno| brig_sys::Error::new(format!("stat({path:?})"), errno))?;
                opts.text(Text::External, &format!("{kind}[{}]:{key}", stat.st_ino));
            }
        }
        // Without it CRIU stops processes one by one, and a fork bomb runs ahead of it.
        if let Some(directory) = self.cgroup.freezer() {
            opts.text(Text::FreezeCgroup, &directory.to_string_lossy());
        }
        if let Some((address, port)) = &options.page_server {
            opts.page_server(address, *port);
        }
        if let Some(parent) = &options.parent {
            opts.text(Text::ParentImg, parent).set(Switch::TrackMem, true);
        }
        Ok(())
    }

    /// Mounts that come from outside.
    fn describe_outside(&self, spec: &Spec, mounts: &[mountinfo::Entry], opts: &mut Opts) -> Result<()> {
        let bundle = self.about.bundle.as_path();
        let root = spec.root.as_ref().map(|root| bundle.join(&root.path));
        let planned = mounts::plan(spec, mounts::Outside { bundle, root: root.as_deref() })?;
        for (place, name) in self.externals(&planned, mounts)? {
            opts.external_mount(&place, &name);
        }
        Ok(())
    }

    /// Streams that come from outside; their names. The container runs: what it was given counts, not what it has this moment.
    fn describe_streams(&self, options: &Options, mounts: &[mountinfo::Entry], opts: &mut Opts) -> Result<Vec<String>> {
        let mut names = options.streams.clone();
        if names.is_empty() {
            names = descriptors::of_process(self.pid(), mounts)?;
        }
        for name in names.iter().filter(|name| descriptors::is_external_file(name)) {
            opts.text(Text::External, name);
        }
        descriptors::write(&options.images, &names)?;
        Ok(names)
    }

    /// Mounts from outside: where they are now, and what the image calls them.
    fn externals(&self, planned: &[Planned], mounts: &[mountinfo::Entry]) -> Result<Vec<(String, String)>> {
        let path = format!("/proc/{}/root", self.pid());
        let root = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| brig_sys::Error::new(format!("open({path:?}, O_PATH)"), errno))?;
        let root = Root::from_fd(root);
        let user_namespace = self.namespaces & flags::NEWUSER != 0;
        let mut externals = Vec::new();
        let mut ids = Vec::new();
        for (index, mount) in planned.iter().enumerate().filter(|(_, mount)| is_external(mount, user_namespace)) {
            // By the mount itself: a link of the container may lead there by another path.
            let Some(entry) = mounted_at(&root, &mount.destination, mounts)? else { continue };
            ids.push(entry.id);
            externals.push((entry, external_name(index, mount, Path::new(""))));
            if mount.options.bind == Some(true) {
                externals.extend(beneath(index, mount, entry, mounts)?);
            }
        }
        let cgroups = planned.iter().enumerate().filter(|(_, mount)| mount.kind == Kind::Cgroup);
        for (index, mount) in cgroups.filter(|_| self.namespaces & flags::NEWCGROUP == 0) {
            // Binds of its own directories.
            let Some(top) = mounted_at(&root, &mount.destination, mounts)? else { continue };
            let own = mounts.iter().filter(|entry| entry.fs.starts_with("cgroup"));
            let places = own.filter_map(|entry| Some((entry, entry.point.strip_prefix(&top.point).ok()?)));
            externals.extend(places.map(|(entry, place)| (entry, external_name(index, mount, place))));
        }
        if masks_from_host(planned) {
            externals.extend(null_masks(mounts)?.into_iter().map(|entry| (entry, NULL.to_owned())));
        }
        let text = |entry: &mountinfo::Entry| {
            let place = entry.point.to_str().map(str::to_owned);
            place.ok_or_else(|| {
                Error::unsupported(format!("the mount at {} has a name that is not UTF-8", entry.point.display()))
            })
        };
        externals.into_iter().map(|(entry, name)| Ok((text(entry)?, name))).collect()
    }
}

/// The mount that stands at a place of the container; `None` if nothing is mounted there any more.
fn mounted_at<'a>(root: &Root, place: &Path, mounts: &'a [mountinfo::Entry]) -> Result<Option<&'a mountinfo::Entry>> {
    let Ok(fd) = root.open_in(place, OFlags::PATH, Mode::empty()) else { return Ok(None) };
    let stat = rustix::fs::statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .map_err(|errno| brig_sys::Error::new(format!("statx({place:?}, STATX_MNT_ID)"), errno))?;
    let found = mounts.iter().find(|mount| mount.id == stat.stx_mnt_id);
    Ok(found.filter(|mount| mount.point != Path::new("/")))
}

/// The mounts that came with a recursive bind mount: those that its source has, too.
fn beneath<'a>(
    index: usize,
    mount: &Planned,
    top: &mountinfo::Entry,
    mounts: &'a [mountinfo::Entry],
) -> Result<Vec<(&'a mountinfo::Entry, String)>> {
    let source = mount.source.as_deref().unwrap_or(Path::new("/"));
    let source = source.canonicalize().map_err(|error| Error::system(format!("{}: {error}", source.display())))?;
    let host = mountinfo::of_process(std::process::id().cast_signed())?;
    let came = mounts.iter().filter(|entry| entry.id != top.id).filter_map(|entry| {
        let place = entry.point.strip_prefix(&top.point).ok()?;
        let there = mountinfo::at(&host, &source.join(place))?;
        let same = (&there.device, &there.root) == (&entry.device, &entry.root);
        same.then(|| (entry, external_name(index, mount, place)))
    });
    Ok(came.collect())
}

/// Files that are masked by the host's null device.
fn null_masks(mounts: &[mountinfo::Entry]) -> Result<Vec<&mountinfo::Entry>> {
    let null = rustix::fs::stat("/dev/null").map_err(|errno| brig_sys::Error::new("stat(\"/dev/null\")", errno))?;
    let device = format!("{}:{}", rustix::fs::major(null.st_dev), rustix::fs::minor(null.st_dev));
    let masks = mounts.iter().filter(|entry| entry.device == device && entry.root.ends_with("null"));
    Ok(masks.collect())
}
