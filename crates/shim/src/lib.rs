//! Keeps one container: its streams, its log, its exit code.
//!
//! Owns: the protocol between engine and shim, the shim's event loop, the OCI runtime command line. Must not: use threads or
//! async, know images, networks or Docker's JSON.

pub mod client;
pub mod protocol;
mod stats;
