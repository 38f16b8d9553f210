//! The fuzz targets without a fuzzer: inputs that were found once (`corpus/<target>/`), and new ones for as long as
//! `BRIG_FUZZ_SECONDS` (2) says, changed from those. The layers are unpacked on a tmpfs in a mount namespace of its own.
#![allow(clippy::unwrap_used, clippy::panic)]

use brig_fuzz::{TARGETS, Target};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const INSIDE: &str = "BRIG_FUZZ_INSIDE";

/// Where inputs of a target are kept.
fn inputs(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Numbers that look like chance, the same for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound.max(1)
    }

    /// A known input with changes, or something new.
    fn input(&mut self, known: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = match known.len() {
            0 => Vec::new(),
            count => known[self.below(count)].clone(),
        };
        if bytes.is_empty() || self.below(4) == 0 {
            bytes = (0..self.below(600)).map(|_| u8::try_from(self.below(256)).unwrap()).collect();
        }
        for _ in 0..1 + self.below(6) {
            let at = self.below(bytes.len() + 1);
            match self.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, u8::try_from(self.below(256)).unwrap()),
                2 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                _ => {
                    let from = self.below(bytes.len() + 1);
                    let part = bytes[from..bytes.len().min(from + self.below(64))].to_vec();
                    bytes.splice(at..at, part);
                }
            }
        }
        bytes
    }
}

fn run(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let known = [inputs(target), brig_fuzz::seeds(name)].concat();
    for input in &known {
        (target.run)(input);
    }
    let seconds = std::env::var("BRIG_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let seed = std::env::var("BRIG_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x9E37_79B9_7F4A_7C15);
    let (mut chance, begun, mut count) = (Chance(seed), Instant::now(), 0_u64);
    while begun.elapsed() < Duration::from_secs(seconds) {
        let input = chance.input(&known);
        let outcome = std::panic::catch_unwind(|| (target.run)(&input));
        if let Err(panic) = outcome {
            let file = std::env::temp_dir().join(format!("brig-fuzz-{name}-{count}"));
            std::fs::write(&file, &input).unwrap();
            eprintln!("{name}: the input is in {}: keep it in tests/fuzz/corpus/{name}/", file.display());
            std::panic::resume_unwind(panic);
        }
        count += 1;
    }
    eprintln!("{name}: {} known inputs, {count} new ones", known.len());
}

/// Runs this test again where a tmpfs of its own is the temporary directory.
fn run_inside(test: &str, name: &str) {
    if std::env::var_os(INSIDE).is_some() || !rustix::process::geteuid().is_root() {
        return run(name);
    }
    let script = r#"mount -t tmpfs -o size=512m none "$TMPDIR" && exec "$0" --exact --nocapture "$1""#;
    let place = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(INSIDE, "yes")
        .env("TMPDIR", place.path())
        .status()
        .unwrap();
    assert!(status.success(), "{name}: {status}");
}

#[test]
fn references() {
    run("reference");
}

#[test]
fn manifests() {
    run("manifest");
}

#[test]
fn archives() {
    run("tar");
}

#[test]
fn extension_headers() {
    run("pax");
}

#[test]
fn layers() {
    run_inside("layers", "layer");
}

#[test]
fn image_archives() {
    run_inside("image_archives", "load");
}

#[test]
fn what_a_hostile_process_says() {
    run_inside("what_a_hostile_process_says", "notes");
}

#[test]
fn headers() {
    run("header");
}

#[test]
fn compressed_streams() {
    run("decompress");
}

#[test]
fn recipes() {
    run("recipe");
}

#[test]
fn recipes_from_elsewhere() {
    run("rebuild");
}

/// Writes what the fuzz targets set out from where libFuzzer looks for it.
#[test]
#[ignore = "writes into fuzz/corpus: see fuzz/README.md"]
fn seeds_for_libfuzzer() {
    for target in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target.name);
        std::fs::create_dir_all(&folder).unwrap();
        for (number, input) in [inputs(target), brig_fuzz::seeds(target.name)].concat().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), input).unwrap();
        }
    }
}
