//! The harness of the end-to-end tests: sealed test hosts, images made on the spot, a real registry, terminals.
//! Owns everything that the suites in `tests/` share. Traffic goes to loopback or between namespaces made here, and
//! nowhere else; nothing of the machine's own is touched.
//!
//! A [`TestHost`] is a network namespace, a data root, a run directory, a cgroup parent and a daemon. Dropping it takes
//! everything down and fails the test if anything is left over, so every test is a leak test.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

pub mod command;
pub mod corpus;
pub mod debian;
pub mod host;
pub mod http;
pub mod image;
mod leaks;
pub mod proxy;
pub mod registry;
pub mod relay;
pub mod skip;
pub mod stub;
pub mod terminal;
pub mod wait;

pub use command::{Output, Run};
pub use host::{Neighbour, TestHost};
pub use image::{Image, Layer};
pub use registry::Registry;
pub use terminal::Terminal;
pub use wait::eventually;
