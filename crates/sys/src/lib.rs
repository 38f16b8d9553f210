//! The kernel as this project calls it: the only crate with `unsafe`, and every call whose failure a user will read.
//! Must not know containers, images or policy.

pub mod beneath;
mod error;
pub mod netlink;
pub mod netns;

pub use error::{Error, Result};
