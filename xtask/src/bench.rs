//! Builds the optimised programs and hands over to the benchmark.
//! Owns only the building; what is measured, and how, is `bench/`'s.

use std::path::Path;
use std::process::{Command, ExitCode};

/// The profile of everything that is measured: what users get.
const PROFILE: &str = "release";

/// Builds `brig`, `brig-rt` and the benchmark, then runs it with the arguments given.
pub fn run(root: &Path, arguments: &[String]) -> ExitCode {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let packages = ["-p", "brig-brig", "-p", "brig-shim", "-p", "brig-bench", "-p", "brig-tests"];
    let built =
        Command::new(&cargo).current_dir(root).args(["build", "--quiet", "--profile", PROFILE]).args(packages).status();
    match built {
        Ok(status) if status.success() => {}
        Ok(status) => return failed(&format!("cargo build: {status}")),
        Err(error) => return failed(&format!("{cargo}: {error}")),
    }
    let measured = Command::new(&cargo)
        .current_dir(root)
        .args(["run", "--quiet", "--profile", PROFILE, "-p", "brig-bench", "--bin", "brig-bench", "--"])
        .args(arguments)
        .status();
    match measured {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => failed(&format!("the benchmark: {status}")),
        Err(error) => failed(&format!("{cargo}: {error}")),
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("xtask bench: {why}");
    ExitCode::FAILURE
}
