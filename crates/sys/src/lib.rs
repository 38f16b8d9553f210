//! The kernel as this project calls it: the only crate with `unsafe`, and every call whose failure a user will read.
//! Must not know containers, images or policy.
#![allow(unsafe_code)]

pub mod beneath;
pub mod bpf;
pub mod caps;
pub mod clone;
mod error;
pub mod fdpass;
pub mod idmap;
pub mod inherited;
pub mod keyring;
pub mod landlock;
pub mod memfd;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod netns;
pub mod own_program;
pub mod pidfd;
pub mod process;
pub mod procfs;
pub mod pty;
pub mod seccomp;
pub mod signal;

pub use error::{Error, Result};
