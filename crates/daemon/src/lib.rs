//! The daemon: HTTP in front of the engine, as Docker's clients speak it.
//!
//! A connection is a [`socket`], on which [`server`] finds the handler in [`routes`]; handlers parse, make one call to the
//! engine and answer. HTTP statuses end here, in [`fault`]. Must not decide anything about containers.
//! Beside it, [`registry`]: the process that serves a registry alone.

mod body;
mod call;
mod config_file;
mod fault;
mod handlers;
mod hijack;
mod listen;
mod logging;
mod options;
mod process;
mod progress_bar;
mod registry;
mod request_body;
mod router;
mod routes;
mod server;
#[cfg(test)]
mod server_tests;
mod socket;
mod tls;

pub use brig_engine::unpack;
pub use process::main;
pub use registry::main as registry_main;
