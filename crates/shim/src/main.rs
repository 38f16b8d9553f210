//! `brig-rt`: the shim and the OCI runtime in one small program.
//!
//! Owns: nothing but the entry point. Must not: contain logic; the library does the work.

fn main() -> std::process::ExitCode {
    brig_shim::command::run(std::env::args_os().skip(1))
}
