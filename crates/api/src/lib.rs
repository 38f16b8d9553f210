//! What travels over the Docker socket: data and framing. Owns the shapes; must not decide, log or do any work.
//!
//! The shapes are those of Docker Engine API 1.51, printed as Docker's daemon prints them: `Option` of a list or map is a
//! Go value that may be `null`, a bare list or map never is, and a field that Docker omits when it is empty is omitted.
//! Reading is as lenient as Go's: an absent or `null` field is the default, unknown fields are ignored, a wrong type is
//! an error that [`go::from_slice`] words as Go does.

pub mod auth;
pub mod container;
pub mod detach;
pub mod events;
pub mod exec;
pub mod filters;
pub mod frame;
pub mod go;
mod host_config;
pub mod image;
pub mod network;
pub mod progress;
pub mod stats;
pub mod system;
pub mod volume;

/// The newest API version that is spoken.
pub const API_VERSION: &str = "1.51";
/// The oldest API version that is spoken.
pub const MIN_API_VERSION: &str = "1.24";
/// Go's zero time, which Docker prints for "never".
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";
