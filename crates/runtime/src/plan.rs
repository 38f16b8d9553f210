//! A specification, checked as a whole and taken apart before anything is made.
//! Owns the refusal of what is contradictory or not supported. Must not change anything.

use std::path::Path;

use brig_oci::runtime::{Linux, Spec};
use brig_sys::clone::flags;
use brig_sys::mount::Propagation;

use crate::about::About;
use crate::cgroup::Layout;
use crate::devices::{self, Nodes};
use crate::error::{Error, Result, Step};
use crate::hooks::Hooks;
use crate::init::labels;
use crate::launch::Launch;
use crate::mounts::{self, Outside, Planned};
use crate::namespaces::Namespaces;
use crate::net_devices::{self, Wanted};
use crate::options;
use crate::resctrl::Class;
use crate::sysctl::{self, Parameter};

/// What [`crate::create`] works from.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub spec: &'a Spec,
    pub linux: &'a Linux,
    pub namespaces: Namespaces,
    pub mounts: Vec<Planned>,
    pub nodes: Nodes,
    pub sysctl: Vec<Parameter>,
    pub launch: Option<Launch>,
    pub layout: Layout,
    pub root_propagation: (Propagation, bool),
    pub reaper: bool,
    pub hooks: Option<Hooks>,
    pub no_pivot: bool,
    pub net_devices: Vec<Wanted>,
    pub class: Option<Class>,
    /// The caller may not mount anything: init makes with the rights of its user namespace what else the parent would make.
    pub unprivileged: bool,
    /// Without a user namespace of its own: that of the caller lets groups be set.
    pub sets_groups: bool,
}

impl<'a> Plan<'a> {
    /// Checks everything that can be checked without making anything.
    pub fn new(spec: &'a Spec, about: &About, root: Option<&Path>, reaper: bool) -> Result<Plan<'a>> {
        check_version(&spec.oci_version)?;
        let linux = spec
            .linux
            .as_ref()
            .ok_or_else(|| Error::invalid("linux: is missing; only Linux containers are supported"))?;
        let namespaces = Namespaces::read(&linux.namespaces)?;
        namespaces.check(linux)?;
        check_supported(spec, linux, &namespaces)?;
        let process =
            spec.process.as_ref().ok_or_else(|| Error::invalid("process: is missing; there is nothing to run"))?;
        let mounts = mounts::plan(spec, Outside { bundle: &about.bundle, root })?;
        let nodes = devices::plan(&linux.devices)?;
        for (field, paths) in
            [("linux.maskedPaths", &linux.masked_paths), ("linux.readonlyPaths", &linux.readonly_paths)]
        {
            for path in paths {
                if mounts::inside(path.as_ref(), field)?.as_os_str().is_empty() {
                    return Err(Error::invalid(format!("{field}: {path:?} is the whole root; use root.readonly")));
                }
            }
        }
        Ok(Plan {
            spec,
            linux,
            sysctl: sysctl::check(&linux.sysctl, namespaces.all())?,
            net_devices: net_devices::check(&linux.net_devices, namespaces.has(flags::NEWNET))?,
            class: Class::of(linux, about)?,
            namespaces,
            mounts,
            nodes,
            launch: Some(Launch::compile(process, Some(linux))?),
            layout: Layout::detect().step(|| "cgroup".to_owned())?,
            root_propagation: root_propagation(&linux.rootfs_propagation)?,
            reaper,
            hooks: Hooks::compile(spec, about)?,
            no_pivot: false,
            unprivileged: false,
            sets_groups: true,
        })
    }
}

impl Plan<'_> {
    /// What is only safe behind `pivot_root`.
    pub fn check_no_pivot(&self) -> Result<()> {
        if self.no_pivot
            && !self.linux.rootfs_propagation.is_empty()
            && matches!(self.root_propagation.0, Propagation::Private)
        {
            return Err(Error::invalid("linux.rootfsPropagation: [r]private is not safe without pivot_root"));
        }
        Ok(())
    }

    /// Whether init makes the nodes of `/dev` itself: it may, unless a user namespace has taken it the right.
    pub fn makes_own_dev(&self) -> bool {
        !self.namespaces.has(flags::NEWUSER)
    }

    /// Whether the container has the caller's mount namespace.
    pub fn shares_mounts(&self) -> bool {
        !self.namespaces.has(flags::NEWNS)
    }
}

fn check_version(version: &str) -> Result<()> {
    let mut parts = version.split(['.', '-', '+']);
    match (parts.next(), parts.next().map(str::parse::<u32>)) {
        (Some("1"), Some(Ok(_))) => Ok(()),
        _ => Err(Error::invalid(format!("ociVersion: {version:?} is not 1.x"))),
    }
}

fn check_supported(spec: &Spec, linux: &Linux, namespaces: &Namespaces) -> Result<()> {
    if (!spec.hostname.is_empty() || !spec.domainname.is_empty()) && !namespaces.has(flags::NEWUTS) {
        return Err(Error::invalid(
            "hostname, domainname: need a uts namespace that is not the host's in linux.namespaces",
        ));
    }
    let label = &linux.mount_label;
    if label.contains(['\n', '\0']) {
        return Err(Error::invalid(format!("linux.mountLabel: {label:?} contains a line break or NUL")));
    }
    if !label.is_empty() && !labels::selinux() {
        return Err(labels::absent("linux.mountLabel", label, "SELinux"));
    }
    Ok(())
}

/// The default is what makes neither side see the other's later mounts.
fn root_propagation(word: &str) -> Result<(Propagation, bool)> {
    if word.is_empty() {
        return Ok((Propagation::Private, true));
    }
    let (name, recursive) = match word.strip_prefix('r') {
        Some(name) => (name, true),
        None => (word, false),
    };
    let propagation = options::parse_propagation(name)
        .ok_or_else(|| Error::invalid(format!("linux.rootfsPropagation: unknown propagation {word:?}")))?;
    Ok((propagation, recursive))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for good in ["1.0.0", "1.2.1", "1.99", "1.0.2-dev"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["", "0.1", "2.0.0", "1", "10.0", "x"] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn propagation_words() {
        assert_eq!(root_propagation("rslave").unwrap(), (Propagation::Slave, true));
        assert_eq!(root_propagation("shared").unwrap(), (Propagation::Shared, false));
        assert!(root_propagation("rx").is_err());
    }
}
