//! The distribution protocol, server half: a registry over a store, as the OCI distribution specification 1.1 has it.
//!
//! A request in file names: `server` (connections, time limits, the log) → `route` (path to what is meant) → `access` (may
//! they?) → `handlers` (one file for each kind of thing) → [`brig_store::Repositories`] (what a repository shows) and
//! [`brig_store::Partial`] (bytes on their way in). What is refused is a [`refusal`] in the specification's words.
//! Everything a client says is hostile until checked, everything is bounded in memory, and nothing that it names is ever a
//! path. Must not know Docker's API, nor how images become containers.

mod access;
mod body;
mod handlers;
mod link;
mod peers;
mod proxy;
mod query;
mod range;
mod refusal;
mod registry;
mod route;
mod server;
mod shelf;
mod stall;
mod told;
mod turns;
mod upkeep;

pub use access::{Access, Htpasswd, TokenAuth, TokenSettings};
pub use brig_oci::Digest;
pub use brig_registry::Auth;
pub use brig_store::Store;
pub use proxy::Proxy;
pub use registry::{Registry, Settings};
pub use server::Acceptor;
pub use shelf::{Shelf, ShelfError, Taken};
pub use upkeep::Upkeep;
