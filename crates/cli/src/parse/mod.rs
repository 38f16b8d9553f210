//! The small languages inside flag values: text in, data or Docker's refusal out.
//! Pure but for files that a value names; must not talk to a daemon or print.

pub mod device;
pub mod duration;
pub mod env;
pub mod mount;
pub mod network;
pub mod number;
pub mod port;
pub mod reference;
pub mod security;
pub mod size;
pub mod time;
