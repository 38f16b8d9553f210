//! The command line alone, without the daemon's verb: what the tests of this crate run.

fn main() -> std::process::ExitCode {
    brig_cli::main(std::env::args_os())
}
