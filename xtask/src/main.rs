//! The project's chores: `cargo xtask tidy` guards the house rules, `cargo xtask bench` measures.
//! Owns the list of chores and their exit codes; must not know what any of them does.

mod bench;
mod licences;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
Usage: cargo xtask CHORE

  tidy              check the house rules that a program can check (CONTRIBUTING.md)
  licences          check the licences of dependencies against deny.toml
  bench [ARGS...]   build the optimised programs and measure them (as root; see docs/benchmark.md)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = workspace_root();
    match arguments.first().map(String::as_str) {
        Some("tidy") => tidy::run(&root),
        Some("licences") => licences::run(&root),
        Some("bench") => bench::run(&root, &arguments[1..]),
        Some("help" | "--help" | "-h") => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        other => {
            let asked = other.map_or_else(|| "no chore given".to_owned(), |name| format!("no chore called {name:?}"));
            eprint!("xtask: {asked}\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}

/// The checkout that this program was built from.
fn workspace_root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map_or_else(|| PathBuf::from("."), PathBuf::from)
}
