//! Real containers of busybox, made by this process, one after the other. Needs root.
#![allow(clippy::unwrap_used, clippy::panic)]

mod exec;
mod files;
mod harness;
mod hooks;
mod hostile;
mod inside;
mod keyring;
mod labels;
mod listener;
mod mounts;
mod namespaces;
mod net_devices;
mod placement;
mod process_table;
mod program;

use std::panic::catch_unwind;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if wanted.first().is_some_and(|word| word == "measure") {
        return measure();
    }
    let tests = [
        inside::TESTS,
        files::TESTS,
        program::TESTS,
        exec::TESTS,
        hooks::TESTS,
        hostile::TESTS,
        keyring::TESTS,
        labels::TESTS,
        listener::TESTS,
        mounts::TESTS,
        namespaces::TESTS,
        net_devices::TESTS,
        placement::TESTS,
        process_table::TESTS,
    ]
    .concat();
    let mut failed = 0;
    for (name, test) in tests {
        if !wanted.is_empty() && !wanted.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        let result = catch_unwind(test);
        println!("test {name} ... {}", if result.is_ok() { "ok" } else { "FAILED" });
        failed += i32::from(result.is_err());
    }
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        // Another run may be using it at the same time; then it removes it.
        std::fs::remove_dir(hierarchy.path().join("brig-test")).unwrap_or_default();
    }
    std::process::exit(failed);
}

/// `containers measure`: medians of the steps of a container's life, in µs. Not a test: machines differ.
fn measure() {
    let place = harness::Place::new("measure");
    let spec = harness::spec(&["true"]);
    let mut steps: [Vec<u128>; 5] = Default::default();
    let names = ["create", "ready", "start", "exit", "delete"];
    for _ in 0..200 {
        let (stdio, output) = harness::pipes();
        let mut last = std::time::Instant::now();
        let mut lap = |step: usize| {
            steps[step].push(last.elapsed().as_micros());
            last = std::time::Instant::now();
        };
        let request = harness::request(&place, &spec, place.overlay(), stdio);
        let mut container = brig_runtime::create(request).unwrap();
        lap(0);
        container.wait_ready().unwrap();
        lap(1);
        container.start().unwrap();
        lap(2);
        output.collect(container.pidfd());
        lap(3);
        container.delete().unwrap();
        lap(4);
    }
    for (name, mut times) in names.into_iter().zip(steps) {
        times.sort_unstable();
        println!("{name}: median {} µs, p90 {} µs", times[times.len() / 2], times[times.len() * 9 / 10]);
    }
}
