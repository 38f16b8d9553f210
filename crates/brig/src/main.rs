//! The `brig` program: the command line, the daemon behind the verb `daemon`, a registry behind `registry`, and the process in
//! which layers are unpacked behind `unpack`.
//! Owns only that choice. Called under any other name, such as `docker`, it is the same command line.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    // Before anything is set up: it gives up all of it.
    if args.len() == 2 && args[1] == "unpack" {
        return brig_daemon::unpack();
    }
    if args.get(1).is_some_and(|verb| verb == "daemon") {
        args.remove(1);
        return brig_daemon::main(args);
    }
    if args.get(1).is_some_and(|verb| verb == "registry") {
        args.remove(1);
        return brig_daemon::registry_main(args);
    }
    brig_cli::main(args)
}
