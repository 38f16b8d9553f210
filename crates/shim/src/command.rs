//! The command line of `brig-rt`.
//!
//! Owns: which verb does what, and exit codes. Must not: do the work.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::clean_up::clean_up;
use crate::{diagnose, launch, oci, setup};

/// Runs `brig-rt` with the arguments that follow the program's name.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    match arguments.first().and_then(|verb| verb.to_str()) {
        Some("shim") => shim(&arguments[1..]),
        Some("clean-up") => clean_up_after(&arguments[1..]),
        _ => oci::run(&arguments),
    }
}

fn clean_up_after(arguments: &[OsString]) -> ExitCode {
    let [flag, dir] = arguments else {
        eprintln!("brig-rt clean-up: expected --dir DIRECTORY; this verb is for the brig daemon");
        return ExitCode::from(2);
    };
    if flag != "--dir" {
        eprintln!("brig-rt clean-up: unknown option {}", flag.display());
        return ExitCode::from(2);
    }
    match clean_up(Path::new(dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("brig-rt clean-up: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn shim(arguments: &[OsString]) -> ExitCode {
    let dir = match arguments {
        [flag, dir] if flag == "--dir" => PathBuf::from(dir),
        _ => {
            eprintln!("brig-rt shim: expected --dir DIRECTORY; this verb is for the brig daemon");
            return ExitCode::from(2);
        }
    };
    if !dir.is_absolute() {
        eprintln!("brig-rt shim: --dir {}: not an absolute path", dir.display());
        return ExitCode::from(2);
    }
    let given = match setup::become_shim(&dir) {
        Ok(given) => given,
        Err(error) => {
            diagnose::report(&error.to_string());
            eprintln!("brig-rt shim: {error}");
            return ExitCode::FAILURE;
        }
    };
    match launch::keep(&dir, given.first_client, given.children) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            diagnose::report(&failure.message);
            ExitCode::FAILURE
        }
    }
}
