//! From an OCI specification to a running process.
//!
//! Owns: what a container is to the kernel. Must not: know images, networks or Docker.

pub mod cgroup;
pub mod seccomp;
