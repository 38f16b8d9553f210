//! Timing of commands, and reading of memory. Owns the arithmetic; decides nothing about limits.

use brig_tests::command::Run;
use brig_tests::{Image, TestHost, host};
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Milliseconds.
pub type Sample = f64;

/// Samples of one thing.
pub struct Series {
    /// What was measured.
    pub name: String,
    samples: Vec<Sample>,
}

impl Series {
    /// An empty one.
    pub fn new(name: &str) -> Series {
        Series { name: name.to_owned(), samples: Vec::new() }
    }

    /// One more sample.
    pub fn push(&mut self, sample: Sample) {
        self.samples.push(sample);
        self.samples.sort_by(f64::total_cmp);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// The one in the middle; zero if there is none.
    pub fn median(&self) -> Sample {
        self.samples.get(self.samples.len() / 2).copied().unwrap_or(0.0)
    }

    /// The fastest.
    pub fn least(&self) -> Sample {
        self.samples.first().copied().unwrap_or(0.0)
    }

    /// The slowest.
    pub fn most(&self) -> Sample {
        self.samples.last().copied().unwrap_or(0.0)
    }
}

/// Runs a command with nothing to read and nowhere to write, and times it from start to end.
pub fn time(run: Run) -> Sample {
    let run = run.with(|command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    });
    let begun = Instant::now();
    let mut child = run.spawn();
    let status = child.wait().expect("a child can be waited for");
    let time = begun.elapsed().as_secs_f64() * 1_000.0;
    assert!(status.success(), "a measured command failed: {status}");
    time
}

/// The sum of some fields of a process's `smaps_rollup`, in KiB.
pub fn memory(pid: u32, fields: &[&str]) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the process is there");
    let number = |line: &str| line.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    fields.iter().filter_map(|field| text.lines().find_map(|line| line.strip_prefix(field))).filter_map(number).sum()
}

/// Bytes that files and directories beneath a path take on the disk, a file with several names once.
pub fn disk(path: &Path) -> u64 {
    let (mut sum, mut seen, mut left) = (0, HashSet::new(), vec![path.to_owned()]);
    while let Some(path) = left.pop() {
        // What is being removed meanwhile takes nothing.
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        sum += metadata.blocks() * 512;
        if metadata.is_dir() {
            left.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    sum
}

/// Watches how much memory a process and its descendants have at the most.
pub struct Peak {
    stop: Arc<AtomicBool>,
    watching: JoinHandle<f64>,
}

impl Peak {
    /// From now on.
    pub fn watch(pid: u32) -> Peak {
        // Forgets the peak of before.
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("a process's peak can be reset");
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let watching = std::thread::spawn(move || {
            let (mut most, mut before) = (0.0f64, HashMap::new());
            loop {
                let is_last = flag.load(Ordering::Relaxed);
                let mut now = HashMap::new();
                look(pid, &mut now);
                // Who has ended since counts once more: it may have grown after it was looked at.
                before.extend(&now);
                most = most.max(before.values().sum());
                before = now;
                if is_last {
                    return most;
                }
                // How often it is looked: no process tells of its memory.
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Peak { stop, watching }
    }

    /// The highest sum of the peaks of processes that were there together, in KiB: no less than the peak of their sum.
    pub fn end(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        self.watching.join().expect("the watcher does not panic")
    }
}

fn look(pid: u32, peaks: &mut HashMap<u32, f64>) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    if let Some(kib) = peak.and_then(|rest| rest.split_whitespace().next()).and_then(|word| word.parse().ok()) {
        peaks.insert(pid, kib);
    }
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.split_whitespace().filter_map(|word| word.parse().ok()).for_each(|child| look(child, peaks));
    }
}

/// Milliseconds until twenty commands that were started at once have ended.
pub fn twenty(host: &TestHost) -> Sample {
    let begun = Instant::now();
    let running: Vec<_> =
        (0..20).map(|_| host.brig_run(&["run", "--rm", "busybox", "/bin/probe", "true"]).start()).collect();
    for run in running {
        run.finish().ok();
    }
    begun.elapsed().as_secs_f64() * 1_000.0
}

/// The kernel's floor: the program `floor` with a root of its own.
pub struct Floor {
    program: std::path::PathBuf,
    root: std::path::PathBuf,
    scratch: std::path::PathBuf,
    netns: std::sync::Arc<std::os::fd::OwnedFd>,
}

impl Floor {
    /// Unpacks the root file system.
    pub fn new(host: &TestHost) -> Floor {
        let folder = host.root.join("floor");
        let floor = Floor {
            program: host::binary("floor"),
            root: unpack(&folder),
            scratch: folder.join("scratch"),
            // A network of its own: two bridges with one address range would disturb each other.
            netns: std::sync::Arc::new(brig_sys::netns::create().expect("a network namespace can be made")),
        };
        std::fs::create_dir_all(&floor.scratch).expect("the scratch folder can be made");
        floor
    }

    /// One round, without the start of the measuring program itself.
    pub fn once(&self) -> Sample {
        let path = |path: &std::path::Path| path.display().to_string();
        let arguments = [path(&self.root), path(&self.scratch), "1".into(), "/bin/probe".into(), "true".into()];
        let printed = Run::new(&self.program, &arguments).inside(&self.netns).output().ok();
        std::fs::remove_dir_all(&self.scratch).expect("the scratch folder can be emptied");
        std::fs::create_dir_all(&self.scratch).expect("the scratch folder can be made");
        printed.parse::<f64>().expect("the floor prints microseconds") / 1_000.0
    }
}

/// Unpacks busybox into `folder/rootfs`.
pub fn unpack(folder: &std::path::Path) -> std::path::PathBuf {
    let root = folder.join("rootfs");
    std::fs::create_dir_all(&root).expect("the root can be made");
    let archive = folder.join("rootfs.tar");
    std::fs::write(&archive, &Image::busybox().layers[0]).expect("the root can be written");
    let path = |path: &std::path::Path| path.display().to_string();
    Run::new("tar", &["-xf", &path(&archive), "-C", &path(&root)]).output().ok();
    root
}
