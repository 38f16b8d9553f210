//! The `brig` program: the command line, and the daemon behind the verb `daemon`.
//! Owns only that choice. Called under any other name, such as `docker`, it is the same command line.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|verb| verb == "daemon") {
        args.remove(1);
        return brig_daemon::main(args);
    }
    brig_cli::main(args)
}
