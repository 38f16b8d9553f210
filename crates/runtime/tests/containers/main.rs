//! Real containers of busybox, made by this process, one after the other. Needs root.
#![allow(clippy::unwrap_used, clippy::panic)]

mod exec;
mod files;
mod harness;
mod hostile;
mod inside;
mod program;

use std::panic::catch_unwind;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let tests: Vec<&(&str, fn())> = [inside::TESTS, files::TESTS, program::TESTS, exec::TESTS, hostile::TESTS].concat_refs();
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

trait ConcatRefs<T> {
    fn concat_refs(&self) -> Vec<&T>;
}

impl<'a, T, const N: usize> ConcatRefs<T> for [&'a [T]; N] {
    fn concat_refs(&self) -> Vec<&T> {
        self.iter().flat_map(|list| list.iter()).collect()
    }
}
