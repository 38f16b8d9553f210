//! From an OCI specification to a running process.
//!
//! Owns: what a container is to the kernel. Must not: know images, networks or Docker, nor use threads: everything here is
//! for a process with one thread, as its children go on with its memory.

mod about;
mod binds;
pub mod cgroup;
pub mod checkpoint;
mod container;
mod copy;
mod creation;
mod devices;
mod error;
mod exec;
#[cfg(test)]
mod fuzz_tests;
pub mod gate;
pub mod hooks;
mod identity;
mod init;
mod launch;
mod listener;
mod mounts;
mod namespaces;
mod net_devices;
mod options;
mod overlay_by_path;
mod placement;
mod plan;
mod resctrl;
mod rights;
mod rootfs;
pub mod seccomp;
mod sources;
mod stdio;
mod sysctl;
mod unfinished;
mod wire;

pub use about::About;
pub use container::{Container, CreateRequest, create};
pub use error::{Error, ErrorKind, Result};
pub use exec::{ExecProcess, ExecRequest};
pub use options::KNOWN as MOUNT_OPTIONS;
pub use placement::{MEMORY_FLAGS, MEMORY_MODES};
pub use resctrl::release;
pub use rootfs::Rootfs;
pub use stdio::Stdio;
pub use unfinished::{Note, Unfinished};

/// Switches for tests of paths that only other kernels take.
#[doc(hidden)]
pub mod testing {
    /// Makes overlays as kernels before 6.15 need it.
    pub fn force_overlay_by_path(force: bool) {
        crate::rootfs::BY_PATH.store(force, std::sync::atomic::Ordering::Relaxed);
    }
}
