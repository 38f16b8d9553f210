//! The handlers: each parses a request, makes one call to the engine and answers.
//! Owns nothing but its submodules; must not hold state.

pub mod attach;
pub mod containers;
pub mod exec;
pub mod images;
pub mod networks;
pub mod observe;
pub mod system;
pub mod volumes;
