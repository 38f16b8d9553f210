//! The command line alone, with a stand-in behind the daemon's verb: what the tests of this crate run.
//! The stand-in notes each start in `$STAND_IN_STARTS`, says it is ready and answers `/version`; or refuses if `$STAND_IN_FAILS`.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|verb| verb == "daemon") {
        return stand_in(&args).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    brig_cli::main(std::env::args_os())
}

fn stand_in(args: &[String]) -> Option<()> {
    let value = |flag: &str| args.iter().position(|a| a == flag).and_then(|at| args.get(at + 1));
    if std::env::var_os("STAND_IN_FAILS").is_some() {
        eprintln!("stand-in: cannot open the data root");
        return None;
    }
    let mut starts =
        std::fs::OpenOptions::new().append(true).create(true).open(std::env::var("STAND_IN_STARTS").ok()?).ok()?;
    writeln!(starts, "{}", args[1..].join(" ")).ok()?;
    let listener = UnixListener::bind(value("-H")?.strip_prefix("unix://")?).ok()?;
    std::fs::write(format!("/proc/self/fd/{}", value("--ready-fd")?), b"1").ok()?;
    // Time itself: long enough for one test, and then gone by itself, whatever becomes of the test.
    std::thread::spawn(|| {
        std::thread::sleep(std::time::Duration::from_secs(5));
        std::process::exit(0);
    });
    for connection in listener.incoming() {
        let mut connection = connection.ok()?;
        let mut buffer = [0; 4096];
        let _head = connection.read(&mut buffer).ok()?;
        let body = r#"{"Version":"stand-in","ApiVersion":"1.51"}"#;
        write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok()?;
    }
    Some(())
}
