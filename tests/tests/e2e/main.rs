//! End-to-end tests: real programs, real kernel, sealed test hosts. One module per theme; this file only lists them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod lifecycle;
