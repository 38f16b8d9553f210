//! How many bytes of the disk everything takes: allocated blocks, each inode once, directories included. As `du` counts.
//! Must not follow links, nor fail because something vanishes meanwhile.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use brig_oci::Digest;
use brig_sys::beneath::Root;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

use crate::store::Store;
use crate::trash;

/// Bytes of the disk, by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Layers with what their archives are made from again, packed forms, configurations, manifests, downloads that have not
    /// come to their end.
    pub images: u64,
    /// Writable layers, logs and other state of containers.
    pub containers: u64,
    /// Volumes.
    pub volumes: u64,
    /// The database, the reserve, the quarantine, and what is being removed.
    pub other: u64,
}

/// Measures the whole store. Layers never change, so each is looked at once in the life of a process.
pub(crate) fn measure(store: &Store) -> Usage {
    let root = &store.inner.root;
    let mut usage = Usage::default();
    let Ok(directory) = std::fs::read_dir(root) else { return usage };
    usage.other += own(root);
    for entry in directory.flatten() {
        let name = entry.file_name();
        let bytes = match name.to_str() {
            Some("layers") => layers(store),
            _ => disk_usage(&entry.path()),
        };
        let part = match name.to_str().unwrap_or_default() {
            "active" | "containers" => &mut usage.containers,
            "volumes" => &mut usage.volumes,
            "trash" | "quarantine" | "lock" | "reserve" => &mut usage.other,
            name if name.starts_with("brig.db") || name.starts_with("rescue") => &mut usage.other,
            _ => &mut usage.images,
        };
        *part += bytes;
    }
    usage
}

/// What one container takes: its writable layer, its log and its other state.
pub(crate) fn container(store: &Store, id: &str) -> u64 {
    ["active", "containers"].iter().map(|part| disk_usage(&store.inner.root.join(part).join(id))).sum()
}

fn layers(store: &Store) -> u64 {
    let inner = &store.inner;
    let root = inner.root.join("layers");
    let mut total = own(&root);
    let mut measured = inner.measured.lock().unwrap_or_else(PoisonError::into_inner);
    let known = std::mem::take(&mut *measured);
    for name in trash::names(std::os::fd::AsFd::as_fd(&inner.dirs.layers), &root).unwrap_or_default() {
        let chain = name.to_str().and_then(|hex| Digest::parse(&format!("sha256:{hex}")).ok());
        let path = root.join(&name);
        let inode = stat(&path).map_or(0, |stat| stat.st_ino);
        // The same name is another layer after a damaged one was replaced.
        let before = chain.as_ref().and_then(|chain| known.get(chain)).filter(|(known, _)| *known == inode);
        let bytes = before.map_or_else(|| disk_usage(&path), |(_, bytes)| *bytes);
        total += bytes;
        measured.extend(chain.map(|chain| (chain, (inode, bytes))));
    }
    total
}

/// Layers that were measured, each with its directory's inode and its bytes.
pub(crate) type Measured = HashMap<Digest, (u64, u64)>;

/// Bytes of the disk that a file or a directory with all in it takes; what is not there takes none.
pub fn disk_usage(path: &Path) -> u64 {
    let Some(top) = stat(path) else { return 0 };
    let mut total = blocks(&top);
    if FileType::from_raw_mode(top.st_mode) != FileType::Directory {
        return total;
    }
    let Ok(root) = Root::open(path) else { return total };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut seen = HashSet::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        // A container may be changing this tree: what vanishes meanwhile does not count.
        let Ok(fd) = root.open_in(&path, flags, Mode::empty()) else { continue };
        let Ok(entries) = Dir::read_from(&fd) else { continue };
        for entry in entries.flatten() {
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_directory || stat.st_nlink == 1 || seen.insert((stat.st_dev, stat.st_ino)) {
                total += blocks(&stat);
            }
            if is_directory {
                todo.push(path.join(name));
            }
        }
    }
    total
}

/// What the entry itself takes.
fn own(path: &Path) -> u64 {
    stat(path).map_or(0, |stat| blocks(&stat))
}

fn stat(path: &Path) -> Option<Stat> {
    rustix::fs::statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok()
}

/// st_blocks counts 512 bytes each, on every file system.
fn blocks(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or_default() * 512
}
