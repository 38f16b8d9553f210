//! A registry served in this process and spoken to in plain HTTP: what the distribution specification demands, and what
//! hostile clients try.

// Helpers outside `#[test]` functions fail a test by panicking just the same.
#![allow(clippy::unwrap_used, clippy::panic)]

mod access;
mod collect;
mod discovery;
mod hostile;
mod proxy;
mod pull;
mod push;
mod rig;
mod shelf;
mod specification;
