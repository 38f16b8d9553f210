//! What the caller may do before there is a container.
//! Owns finding that out. Must not change anything.

use brig_sys::namespace;

use crate::error::Result;

const CAP_SYS_ADMIN: u32 = 21;

/// Whether the caller may make mounts in its own mount namespace. Who may not can still have a container: its user namespace
/// gives init the rights, in a mount namespace of its own.
pub(crate) fn may_mount() -> Result<bool> {
    if brig_sys::caps::permitted()? & 1 << CAP_SYS_ADMIN == 0 {
        return Ok(false);
    }
    // Root of a user namespace has that right only in mount namespaces that were made in it.
    Ok(namespace::is_first_user_namespace()? || namespace::owns_mounts()?)
}

/// Whether a process that stays in the caller's user namespace may set its groups: the maps of some were written under the
/// condition that nobody does.
pub(crate) fn may_set_groups() -> Result<bool> {
    let allowed = || std::fs::read("/proc/self/setgroups").is_ok_and(|text| text.starts_with(b"allow"));
    Ok(namespace::is_first_user_namespace()? || allowed())
}
