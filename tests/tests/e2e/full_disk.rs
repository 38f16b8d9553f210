//! A disk of its own that is full: what needs room says so and leaves nothing, what gives room back works.

use brig_tests::{Image, Layer, TestHost, skip};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An ext4 file system that a host's data root is on; unmounted when dropped.
struct Disk {
    at: PathBuf,
}

impl Disk {
    /// `None` where none can be mounted, which is told.
    fn of(host: &TestHost, megabytes: u64) -> Option<Disk> {
        let file = host.root.join("disk");
        std::fs::File::create(&file).unwrap().set_len(megabytes << 20).unwrap();
        std::fs::create_dir(&host.data_root).unwrap();
        let run = |program: &str, arguments: &[&str], path: &Path| {
            let output = Command::new(program).args(arguments).arg(&file).arg(path).output();
            output.is_ok_and(|output| output.status.success())
        };
        let is_made = Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&file).status();
        if !is_made.is_ok_and(|status| status.success()) || !run("mount", &["-o", "loop"], &host.data_root) {
            skip::skip("full_disk", "no ext4 file system can be mounted here");
            return None;
        }
        Some(Disk { at: host.data_root.clone() })
    }

    fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.at).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Takes all room but so many bytes.
    fn fill(&self, but: u64) {
        let file = std::fs::File::options().create(true).append(true).open(self.at.join("ballast")).unwrap();
        let mut step = self.free().saturating_sub(but);
        while step >= 4096 && self.free() > but {
            let at = file.metadata().unwrap().len();
            let flags = rustix::fs::FallocateFlags::empty();
            if rustix::fs::fallocate(&file, flags, at, step.min(self.free() - but).max(4096)).is_err() {
                step /= 2;
            }
        }
        file.sync_all().unwrap();
    }

    fn empty(&self) {
        std::fs::remove_file(self.at.join("ballast")).ok();
        rustix::fs::sync();
    }

    /// Bytes of the disk that all below some directories takes.
    fn used(&self, names: &[&str]) -> u64 {
        let blocks = |path: PathBuf| path.symlink_metadata().map_or(0, |metadata| metadata.blocks() * 512);
        let mut todo: Vec<PathBuf> = names.iter().map(|name| self.at.join("v1").join(name)).collect();
        let mut total = 0;
        while let Some(path) = todo.pop() {
            if path.is_dir() && !path.is_symlink() {
                todo.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
            }
            total += blocks(path);
        }
        total
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.at).status().ok();
    }
}

const STATE: &[&str] = &["layers", "blobs", "packed", "partial", "ingest", "trash"];

#[test]
fn what_finds_no_room_says_so_and_leaves_nothing() {
    let mut host = TestHost::without_daemon(&[]);
    let Some(disk) = Disk::of(&host, 192) else { return };
    host.start_daemon();
    host.load_busybox();
    let registry = host.registry();
    let big = Layer::new().file("big", 0o644, brig_tests::image::noise(48 << 20));
    let image = Image::busybox().with(big, &[]);
    registry.push(&image, "big", "v1");
    let name = registry.name("big:v1");
    let archive = host.root.join("big.tar");
    std::fs::write(&archive, image.docker_archive("loaded:v1")).unwrap();
    let rootfs = host.root.join("rootfs.tar");
    std::fs::write(&rootfs, Layer::new().file("big", 0o644, brig_tests::image::noise(49 << 20)).bytes()).unwrap();
    let write = "head -c 40000000 /dev/urandom > /big";
    host.brig(&["run", "--name", "writer", "busybox", "sh", "-c", write]).ok();
    let (archive, rootfs) = (archive.display().to_string(), rootfs.display().to_string());
    let commands: &[&[&str]] = &[
        &["pull", &name],
        &["load", "-i", &archive],
        &["import", &rootfs, "imported:v1"],
        &["commit", "writer", "done:v1"],
    ];
    rustix::fs::sync();
    let room = disk.free();
    for command in commands {
        let before = disk.used(STATE);
        disk.fill(8 << 20);
        let said = host.brig(command).fails(1);
        assert!(said.to_lowercase().contains("no space left"), "{command:?}: {said}");
        assert!(said.contains(&disk.at.display().to_string()), "{command:?} says where: {said}");
        let left = brig_tests::eventually(&format!("{command:?} leaves nothing"), || {
            let after = disk.used(STATE);
            (after <= before + (1 << 20)).then_some(after)
        });
        assert!(left <= before + (1 << 20), "{command:?}: {left} after {before}");
        disk.empty();
        host.brig(command).ok();
        host.brig(&["system", "check", "--full"]).ok();
        let made = ["big:v1", "loaded:v1", "imported:v1", "done:v1"];
        for image in host.brig(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok().lines() {
            if made.iter().any(|made| image.ends_with(made)) {
                host.brig(&["rmi", image]).ok();
            }
        }
        host.brig(&["image", "prune", "-f"]).ok();
        // What was removed is deleted behind the command's back: the next one must not find that room instead of none.
        brig_tests::eventually("the room is given back", || {
            rustix::fs::sync();
            (disk.free() + (1 << 20) >= room).then_some(())
        });
    }
    host.brig(&["rm", "writer"]).ok();
    host.stop_daemon();
    drop(disk);
}

#[test]
fn on_a_full_disk_everything_that_makes_room_works() {
    let mut host = TestHost::without_daemon(&[]);
    let Some(disk) = Disk::of(&host, 192) else { return };
    host.start_daemon();
    host.load_busybox();
    let tar = host.root.join("rootfs.tar");
    let import = |name: &str| {
        let layer = Layer::new().file(name, 0o644, brig_tests::image::noise(6 << 20));
        std::fs::write(&tar, layer.bytes()).unwrap();
        host.brig(&["import", &tar.display().to_string(), &format!("{name}:v1")]).ok();
    };
    ["one", "two", "three", "four"].iter().for_each(|name| import(name));
    for name in ["first", "second"] {
        host.brig(&["run", "--name", name, "busybox", "sh", "-c", "head -c 6000000 /dev/urandom > /f"]).ok();
    }
    host.brig(&["volume", "create", "data"]).ok();
    host.brig(&["run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "head -c 6000000 /dev/urandom > /d/f"]).ok();
    host.brig(&["tag", "one:v1", "again:v1"]).ok();
    let commands: &[(&[&str], u64)] = &[
        (&["untag-only"], 0),
        (&["rmi", "one:v1"], 6_000_000),
        (&["rm", "first"], 6_000_000),
        (&["volume", "rm", "data"], 6_000_000),
        (&["rmi", "two:v1"], 6_000_000),
        (&["image", "prune", "-a", "-f"], 12_000_000),
        (&["system", "prune", "-a", "-f", "--volumes"], 6_000_000),
    ];
    for (command, freed) in commands {
        rustix::fs::sync();
        disk.fill(0);
        let before = disk.free();
        match command {
            ["untag-only"] => drop(host.brig(&["rmi", "again:v1"]).ok()),
            command => drop(host.brig(command).ok()),
        }
        if command.contains(&"prune") {
            let now = disk.free();
            assert!(now >= before + freed * 99 / 100, "{command:?}: {before} free before, {now} after");
        } else {
            brig_tests::eventually(&format!("{command:?} gives back"), || {
                (disk.free() >= before + freed).then_some(())
            });
        }
    }
    // And a daemon starts on a disk that is full, twice.
    for _ in 0..2 {
        host.kill_daemon();
        disk.fill(0);
        host.start_daemon();
        host.brig(&["ps", "-a"]).ok();
    }
    disk.empty();
    host.load_busybox();
    assert_eq!(host.brig(&["run", "--rm", "busybox", "echo", "on"]).ok(), "on");
    assert_eq!(host.brig(&["system", "check", "--full"]).ok(), "Everything is as it should be.");
    host.brig(&["rmi", "busybox"]).ok();
    host.stop_daemon();
    drop(disk);
}
