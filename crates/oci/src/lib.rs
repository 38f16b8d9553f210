//! What images and containers are made of, as data: references, digests, manifests, image configuration, runtime specification.
//!
//! Owns: parsing, checking and writing these formats. Must not: do any input or output.

pub mod capabilities;
pub mod runtime;
pub mod seccomp_profile;
