//! Pulls from registries on loopback that misbehave on purpose. Everything here uses a real store in its own directory;
//! nothing leaves the machine.

// Helpers outside `#[test]` functions fail a test by panicking just the same.
#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(clippy::single_range_in_vec_init, reason = "lists of ranges that were asked for")]

mod answers;
mod auth;
mod debian;
mod documents;
mod faults;
mod fetch;
mod lists;
mod pull;
mod push;
mod resume;
mod rig;
mod tls;
