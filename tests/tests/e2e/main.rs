//! End-to-end tests: real programs, real kernel, sealed test hosts. One module per theme; this file only lists them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod bad_input;
mod compat_clients;
mod corpus;
mod daemon_restart;
mod docker_py;
mod exec;
mod full_disk;
mod hardening_restart;
mod harness;
mod image_clients;
mod images;
mod import;
mod lifecycle;
mod network;
mod other_engines;
mod platforms;
mod registries;
mod registry_engine;
mod registry_faults;
mod registry_keys;
mod registry_serve;
mod registry_settings;
mod resume;
mod round_trip;
mod scenario;
mod security;
mod snapshot;
mod stock_client;
mod transfer;
mod unpacking;
mod upkeep;
