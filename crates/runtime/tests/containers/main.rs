//! Real containers of busybox, made by this process, one after the other. Needs root.
#![allow(clippy::unwrap_used, clippy::panic)]

mod harness;

use std::panic::catch_unwind;

use harness::*;

const TESTS: &[(&str, fn())] = &[("runs_and_exits", runs_and_exits)];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let mut failed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()))) {
        let result = catch_unwind(test);
        println!("test {name} ... {}", if result.is_ok() { "ok" } else { "FAILED" });
        failed += i32::from(result.is_err());
    }
    std::process::exit(failed);
}

fn runs_and_exits() {
    let place = Place::new("exit");
    let ran = run(&place, &spec(&["sh", "-c", "echo out; echo err >&2; exit 7"])).unwrap();
    assert_eq!(ran.exit, brig_sys::pidfd::Exit::Code(7));
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
}
