//! What a container gets from outside of it: its root, its `/dev`, its bind mounts and its device nodes, all detached.
//! Owns their order, which is that of being attached. Must not attach anything.

use std::os::fd::OwnedFd;

use brig_sys::clone::flags;

use crate::binds;
use crate::devices;
use crate::error::Result;
use crate::identity::Identity;
use crate::mounts::Kind;
use crate::plan::Plan;
use crate::rootfs::{self, Made, Rootfs};

/// The mounts that come with the root, in the order of the plan.
pub(crate) struct Sources {
    pub root: Made,
    pub mounts: Vec<OwnedFd>,
}

/// Makes them; with `console` there is a place for a terminal.
pub(crate) fn make(
    plan: &Plan<'_>,
    rootfs: &Rootfs,
    identity: &Identity,
    idmap: bool,
    console: bool,
) -> Result<Sources> {
    let root = rootfs::make(rootfs, identity, idmap)?;
    let user = plan.namespaces.has(flags::NEWUSER);
    let mut mounts = Vec::new();
    for mount in &plan.mounts {
        match mount.kind {
            Kind::Dev if plan.makes_own_dev() => {}
            Kind::Dev => mounts.push(devices::make(mount, &plan.nodes, console, identity)?),
            // Of these only the map, which cannot be made where they are cloned.
            Kind::Bind if mount.inner.is_some() => mounts.extend(binds::own_map(mount)?),
            Kind::Bind => mounts.push(binds::make(mount, identity, idmap, user)?),
            Kind::Cgroup | Kind::FileSystem => {}
        }
    }
    if !plan.nodes.outside.is_empty() {
        mounts.push(devices::make_outside(&plan.nodes, identity)?);
    }
    Ok(Sources { root, mounts })
}
