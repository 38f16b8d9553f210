//! The OCI command line with real bundles. Owns: what other engines rely on. Must not: leave anything behind.
#![allow(clippy::unwrap_used, clippy::panic)]

mod bench;
#[path = "../common/mod.rs"]
mod common;
mod flags;
mod lifecycle;
mod terminals;
