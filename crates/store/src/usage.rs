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

use crate::collect;
use crate::error::Result;
use crate::packed;
use crate::repositories::{self, UPLOAD};
use crate::store::Store;
use crate::trash;

/// Bytes of the disk, by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Layers with what their archives are made from again, packed forms, configurations, manifests, downloads that have not
    /// come to their end; but for what is told of as `registry`.
    pub images: u64,
    /// Of that, what a prune of images leaves.
    pub images_staying: u64,
    /// Of the same, what only the repositories of a registry hold, and its uploads: no prune of images takes it.
    pub registry: u64,
    /// How many blobs, manifests and uploads that are, each counted once.
    pub registry_count: u64,
    /// Writable layers, logs and other state of containers.
    pub containers: u64,
    /// Volumes.
    pub volumes: u64,
    /// The database, the reserve, the quarantine, and what is being removed.
    pub other: u64,
}

/// Measures the whole store. Layers never change, so each is looked at once in the life of a process. `stays` tells which images
/// a prune of images would leave.
///
/// # Errors
/// If the database cannot be read.
pub(crate) fn measure(store: &Store, stays: &dyn Fn(&Digest) -> bool) -> Result<Usage> {
    let root = &store.inner.root;
    let mut usage = Usage::default();
    let Ok(directory) = std::fs::read_dir(root) else { return Ok(usage) };
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
    split(store, stays, &mut usage)?;
    // What came meanwhile is in one of the two only.
    usage.images = usage.images.saturating_sub(usage.registry);
    Ok(usage)
}

/// Of what is kept for images, what a prune leaves: what the images have that stay, and what is being fetched; and what only a
/// registry has, and what that is made from. Layers must have been measured.
fn split(store: &Store, stays: &dyn Fn(&Digest) -> bool, usage: &mut Usage) -> Result<()> {
    let inner = &store.inner;
    for partial in store.partials().list()? {
        if !partial.open && partial.modified.elapsed().unwrap_or_default() >= collect::IDLE {
            continue;
        }
        let path = inner.root.join("partial").join(&partial.name);
        let bytes = own(&path) + own(&path.with_extension("map"));
        if partial.name.starts_with(UPLOAD) {
            usage.registry_count += 1;
            usage.registry += bytes;
        } else {
            usage.images_staying += bytes;
        }
    }
    let pruned: Vec<Digest> = store.images().into_iter().map(|image| image.id).filter(|id| !stays(id)).collect();
    let shown = repositories::left_without(store, &pruned)?;
    let behind = packed::layers_behind(store, &shown)?;
    let catalog = store.catalog();
    let held = collect::blobs_of(store, &catalog, stays)?;
    let held_layers = catalog.layers_of(stays, &[]);
    let shown_layers = catalog.layers_of(stays, &behind);
    drop(catalog);
    let file = |digest: &Digest| {
        let packed = inner.root.join("packed").join(digest.hex());
        let blob = inner.root.join("blobs").join(digest.algorithm()).join(digest.hex());
        own(&blob) + own(&packed) + own(&packed.with_extension("blob"))
    };
    let measured = inner.measured.lock().unwrap_or_else(PoisonError::into_inner);
    let layer = |chain: &Digest| measured.get(chain).map_or(0, |(_, bytes)| *bytes);
    usage.images_staying += held.iter().map(file).sum::<u64>() + held_layers.iter().map(layer).sum::<u64>();
    usage.registry += shown.difference(&held).map(file).sum::<u64>();
    usage.registry += shown_layers.difference(&held_layers).map(layer).sum::<u64>();
    usage.registry_count += shown.difference(&held).count() as u64;
    Ok(())
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
