//! Images: pull, push, save, load and rmi beside docker, podman and skopeo on the same registry on loopback, in turns, and
//! beside the floor (`bin/images-floor.rs`). Owns the order of the measuring and the limits; how an engine is told to do a
//! thing is in `engines`, what the images are in `sample`.

mod engines;
mod sample;

use crate::measure::{Peak, Sample, Series, disk, time};
use crate::{Line, memory, ratio, times};
use brig_tests::command::Run;
use brig_tests::{Registry, TestHost, host, skip};
use engines::{Engine, Operation};
use sample::Subject;
use std::path::{Path, PathBuf};

/// Parts of docker's time that a pull, and any other operation, may take.
const PULL_LIMIT: f64 = 1.0 / 3.0;
const OTHER_LIMIT: f64 = 0.5;
/// A pull may take this many times the floor,
const FLOOR_LIMIT: f64 = 1.3;
/// and use this many times the room of the unpacked files.
const DISK_LIMIT: f64 = 1.05;
/// Milliseconds until the large image is removed.
const REMOVE_LIMIT: f64 = 300.0;
/// KiB of the daemon and its helpers at the highest during a pull.
const MEMORY_LIMIT: f64 = 100.0 * 1024.0;

/// Set where the disk is our own already.
const INSIDE: &str = "BRIG_BENCH_OWN_DISK";

/// The operations in the order in which they are timed; each leaves what the next one needs.
const ORDER: [&str; 5] = ["pull", "push", "save", "rmi", "load"];

/// What was measured of one engine: a series per operation.
struct Measured<'a> {
    engine: Engine<'a>,
    series: Vec<Series>,
}

/// Everything about one image.
struct Bench<'a> {
    subject: Subject,
    source: &'a Registry,
    target: &'a Registry,
    folder: PathBuf,
    measured: Vec<Measured<'a>>,
    /// Rounds of the floor: hashing, inflating, writing, flushing, and all of it.
    floor: [Series; 5],
    pushes: usize,
}

/// Measures all of it on a disk of its own: the lines of the table.
pub fn run(runs: usize) -> Vec<Line> {
    if skip::program("docker-registry").is_none() {
        return vec![Line::note("images", "docker-registry is not installed")];
    }
    if std::env::var_os(INSIDE).is_none() {
        return on_own_disk(runs);
    }
    measure(&TestHost::new(), runs)
}

/// Runs this program again in a mount namespace with a fresh ext4 file system: what others deleted on the machine's own
/// disk before would slow down whoever comes next (without a journal ext4 does not take a deleted inode again for minutes).
fn on_own_disk(runs: usize) -> Vec<Line> {
    const SCRIPT: &str = r#"truncate -s 24G "$1.img" && mkfs.ext4 -q "$1.img" && mkdir "$1" && mount -o loop "$1.img" "$1" &&
        export BRIG_TEST_DIR="$1" && shift && exec "$@""#;
    // A short name: podman wants paths of at most 50 characters.
    let place = host::base().join(format!("bb{}", std::process::id()));
    let image = place.with_extension("img");
    let own = std::env::current_exe().expect("a program knows its file");
    let status = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"])
        .arg(&place)
        .arg(own)
        .args(["--json", "--only", "images", "--runs", &runs.to_string()])
        .env(INSIDE, "yes")
        .stderr(std::process::Stdio::inherit())
        .output();
    std::fs::remove_file(&image).ok();
    std::fs::remove_dir(&place).ok();
    let output = status.expect("unshare can be run");
    assert!(output.status.success(), "the images could not be measured: {}", output.status);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("the benchmark prints JSON");
    told["measurements"].as_array().into_iter().flatten().map(Line::from_json).collect()
}

fn measure(host: &TestHost, runs: usize) -> Vec<Line> {
    let (source, target) = (host.registry(), host.registry_at("127.0.0.1:5001"));
    let mut lines = Vec::new();
    for subject in [sample::large(), sample::small()].into_iter().flatten() {
        let folder = host.root.join("images");
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        let mut bench = Bench {
            measured: engines::all(host).into_iter().map(Measured::new).collect(),
            floor: ["hash", "inflate", "write", "flush", "together"].map(Series::new),
            pushes: 0,
            subject,
            source: &source,
            target: &target,
            folder,
        };
        lines.extend(bench.run(runs));
        std::fs::remove_dir_all(&bench.folder).expect("the folder can be removed");
    }
    lines
}

impl Measured<'_> {
    fn new(engine: Engine<'_>) -> Measured<'_> {
        let series = ORDER.iter().map(|operation| Series::new(&format!("{operation}, {}", engine.name()))).collect();
        Measured { engine, series }
    }

    fn time(&mut self, operation: &str, sample: Sample) {
        if let Some(at) = ORDER.iter().position(|name| *name == operation) {
            self.series[at].push(sample);
        }
    }
}

impl Bench<'_> {
    fn run(&mut self, runs: usize) -> Vec<Line> {
        let remote = self.source.name(&format!("bench/{}:latest", self.subject.name));
        let archive = self.seed(&remote);
        let mut lines = vec![Line::note(&format!("{} image", self.subject.name), &self.subject.note)];
        lines.extend(self.first(&remote));
        for _ in 0..runs {
            self.round(&remote, &archive);
        }
        lines.extend(self.table());
        lines
    }

    /// The image is in the source registry, as docker pushes it where there is one; the archive that all will load.
    fn seed(&self, remote: &str) -> PathBuf {
        let archive = self.folder.join("seed.tar");
        std::fs::write(&archive, self.subject.image.docker_archive(remote)).expect("the image can be written");
        if let Some(docker) = self.measured.iter().map(|one| &one.engine).find(|engine| engine.name() == "docker") {
            for operation in
                [Operation::Load(remote, &archive), Operation::Push(remote, remote), Operation::Remove(remote)]
            {
                docker.perform(&operation);
            }
        } else {
            self.source.push(&self.subject.image, &format!("bench/{}", self.subject.name), "latest");
        }
        archive
    }

    /// A pull that nobody times: what it needs of memory and disk.
    fn first(&mut self, remote: &str) -> Vec<Line> {
        let unpacked = self.floor_once();
        let mut lines = Vec::new();
        for one in &self.measured {
            let engine = &one.engine;
            let before = disk(&engine.data());
            let peak = engine.daemon().map(Peak::watch);
            engine.perform(&Operation::Pull(remote));
            let peak = peak.map(Peak::end);
            let used = disk(&engine.data()).saturating_sub(before);
            let own = engine.name() == "brig";
            let of_unpacked = |used: u64| used as f64 / unpacked as f64;
            let name = format!("disk after pull / unpacked, {}", engine.name());
            lines.push(ratio(&name, of_unpacked(used), f64::MAX));
            if let Engine::Brig(host) = engine {
                host.wait_for_recipes();
                let settled = disk(&engine.data()).saturating_sub(before);
                lines.push(ratio("disk once recipes are made / unpacked, brig", of_unpacked(settled), DISK_LIMIT));
            }
            if let Some(kib) = peak {
                let limit = if own { MEMORY_LIMIT } else { f64::MAX };
                lines.push(memory(&format!("pull, peak memory, {}", engine.name()), kib, limit));
            }
            engine.perform(&Operation::Remove(remote));
        }
        lines
    }

    /// Every operation once by every engine.
    fn round(&mut self, remote: &str, archive: &Path) {
        self.floor_once();
        for operation in ORDER {
            for at in 0..self.measured.len() {
                self.pushes += 1;
                let pushed = self.target.name(&format!("bench/p{}:latest", self.pushes));
                let saved = self.folder.join("saved.tar");
                let wanted = match operation {
                    "pull" => Operation::Pull(remote),
                    "push" => Operation::Push(remote, &pushed),
                    "save" => Operation::Save(remote, &saved),
                    "rmi" => Operation::Remove(remote),
                    _ => Operation::Load(remote, archive),
                };
                self.target.empty();
                let one = &mut self.measured[at];
                one.engine.prepare(&wanted);
                flush();
                let sample = time(one.engine.command(&wanted));
                eprintln!("{}, {operation}, {}: {sample:.0} ms", self.subject.name, one.engine.name());
                one.time(operation, sample);
                one.engine.tidy(&wanted);
                std::fs::remove_file(&saved).ok();
            }
        }
        for one in &self.measured {
            one.engine.perform(&Operation::Remove(remote));
        }
    }

    /// One round of the floor over the registry's own blobs; bytes on disk that its files take.
    fn floor_once(&mut self) -> u64 {
        let folder = self.folder.join("floor");
        let mut arguments = vec![folder.display().to_string()];
        arguments.extend(self.blobs().iter().map(|path| path.display().to_string()));
        flush();
        let printed = Run::new(host::binary("images-floor"), &arguments).output().ok();
        let numbers = printed.split_whitespace().filter_map(|word| word.parse::<f64>().ok());
        self.floor.iter_mut().zip(numbers).for_each(|(series, number)| series.push(number));
        let used = disk(&folder);
        std::fs::remove_dir_all(&folder).expect("the floor's files can be removed");
        used
    }

    fn blobs(&self) -> Vec<PathBuf> {
        let manifest = self.source.manifest(&format!("bench/{}", self.subject.name), "latest");
        let layers = manifest["layers"].as_array().expect("a manifest has layers").clone();
        layers.iter().filter_map(|layer| layer["digest"].as_str()).map(|digest| self.source.blob_file(digest)).collect()
    }

    fn table(&self) -> Vec<Line> {
        let mut lines: Vec<Line> = self.floor.iter().map(times).collect();
        lines.iter_mut().for_each(|line| line.name.insert_str(0, "floor, "));
        // What is flushed has been written: the two together are one of the three counts.
        let [hash, inflate, write, flush, together] = self.floor.each_ref().map(Series::median);
        let floor = hash.max(inflate).max(write + flush);
        let find = |name: &str| self.measured.iter().find(|one| one.engine.name() == name);
        for (at, operation) in ORDER.iter().enumerate() {
            lines.extend(self.measured.iter().map(|one| times(&one.series[at])));
            let Some(own) = find("brig").map(|one| one.series[at].median()) else { continue };
            if *operation == "pull" {
                lines.push(ratio("pull / floor", own / floor, FLOOR_LIMIT));
                // What it takes where the parts have no processors of their own.
                lines.push(ratio("pull / all parts of the floor together", own / together, f64::MAX));
            }
            if let Some(docker) = find("docker").filter(|_| *operation != "rmi") {
                let limit = if *operation == "pull" { PULL_LIMIT } else { OTHER_LIMIT };
                lines.push(ratio(&format!("{operation} / docker"), own / docker.series[at].median(), limit));
            }
            if *operation == "rmi" && self.subject.name == "large" {
                lines.push(Line {
                    name: "rmi".into(),
                    shown: format!("{own:.1} ms"),
                    value: own,
                    limit: Some(REMOVE_LIMIT),
                });
            }
        }
        lines
    }
}

/// What others wrote is on the disk: nobody flushes for somebody else.
fn flush() {
    rustix::fs::sync();
}
