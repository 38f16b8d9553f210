//! Pulls from registries on loopback that misbehave on purpose. Everything here uses a real store in its own directory;
//! nothing leaves the machine.

mod auth;
mod debian;
mod faults;
mod pull;
mod rig;
mod tls;
