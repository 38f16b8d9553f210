//! Keeps one container: its streams, its log, its exit code.
//!
//! Owns: the protocol between engine and shim, the shim's event loop, the OCI runtime command line. Must not: use threads or
//! async, know images, networks or Docker's JSON.

mod clean_up;
pub mod client;
mod clients;
pub mod command;
mod connection;
mod diagnose;
mod ending;
mod execs;
mod exit_file;
mod launch;
mod log;
mod log_line;
mod oci;
pub mod protocol;
mod queue;
mod requests;
mod server;
mod setup;
mod socket;
mod streams;
mod timestamp;
