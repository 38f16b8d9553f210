//! Writable layers: where a container's own changes go, on top of an image's layers.
//! Must not mount anything; it gives the paths to mount.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::PathBuf;

use brig_oci::Digest;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::store::Store;
use crate::view::View;

/// The directories that make up one container's root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers {
    /// The image's layers, topmost first.
    pub lower: Vec<PathBuf>,
    /// Where changes go; plain ids, overlayfs format.
    pub upper: PathBuf,
    /// overlayfs' own, on the same file system.
    pub work: PathBuf,
}

impl Store {
    /// Makes the writable layer `key` on top of `chain` (on nothing, if `None`). One that exists on the same chain is
    /// given as it is. `key` is one path component: letters, digits, `_`, `.` and `-`, at most 128, the first no dot.
    pub fn prepare(&self, key: &str, chain: Option<&Digest>) -> Result<Layers> {
        check_key(key)?;
        let _gate = self.gate();
        let existing = self.catalog().active.get(key).cloned();
        match existing {
            Some(existing) if existing.as_ref() != chain => {
                return Err(Error::invalid(format!("writable layer {key} exists on another image: remove it first")));
            }
            Some(_) => {}
            None => {
                if let Some(chain) = chain
                    && !self.is_whole(chain)
                {
                    return Err(Error::not_found(format!("layer {chain} is not in the store: pull its image again")));
                }
                self.inner.database.write_relaxed(|db| {
                    let sql = "INSERT INTO store_active (key, chain_id) VALUES (?1, ?2)";
                    db.execute(sql, (key, chain.map(Digest::as_str))).map(drop)
                })?;
                self.catalog_mut().active.insert(key.to_owned(), chain.cloned());
            }
        }
        make_active_directories(self, key)?;
        Ok(layers_of(self, &self.catalog(), key, chain))
    }

    /// The writable layer `key`, if there is one.
    pub fn active(&self, key: &str) -> Option<Layers> {
        let catalog = self.catalog();
        let chain = catalog.active.get(key)?;
        // The row may have outlived empty directories in a power cut.
        if let Err(error) = make_active_directories(self, key) {
            tracing::error!("writable layer {key}: {error}");
            return None;
        }
        Some(layers_of(self, &catalog, key, chain.as_ref()))
    }

    /// The keys of all writable layers, in no order.
    pub fn active_keys(&self) -> Vec<String> {
        self.catalog().active.keys().cloned().collect()
    }

    /// Removes the writable layer `key`: out of sight when this returns, deleted in the background. Idempotent.
    pub fn remove_active(&self, key: &str) -> Result<()> {
        check_key(key)?;
        let _gate = self.gate();
        self.inner.reserve.make_room();
        // The directory first: one without a row is then never one that was being removed.
        let known = self.catalog_mut().active.remove(key);
        let removed = self.inner.trash.take(self.inner.dirs.active.as_fd(), key.as_ref()).and_then(|_| {
            let delete = "DELETE FROM store_active WHERE key = ?1";
            self.inner.database.write_relaxed(|db| db.execute(delete, [key]).map(drop))
        });
        if removed.is_err() {
            self.catalog_mut().active.extend(known.map(|chain| (key.to_owned(), chain)));
        }
        removed
    }

    /// The sum of the sizes of the regular files in the writable layer `key`, in bytes; each inode counts once.
    pub fn active_size(&self, key: &str) -> Result<u64> {
        check_key(key)?;
        let upper = self.inner.root.join("active").join(key).join("upper");
        let failed = |errno: Errno| Error::io(format!("measure {}", upper.display()), errno);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let top = match rustix::fs::openat(&self.inner.dirs.active, format!("{key}/upper"), flags, Mode::empty()) {
            Ok(top) => top,
            Err(Errno::NOENT) => {
                return Err(Error::not_found(format!("writable layer {key} is not in the store")));
            }
            Err(errno) => return Err(failed(errno)),
        };
        let root = brig_sys::beneath::Root::from_fd(top);
        let (mut size, mut seen) = (0, HashSet::new());
        let mut todo = vec![PathBuf::new()];
        while let Some(path) = todo.pop() {
            // The container may be changing this tree: what vanishes meanwhile does not count.
            let Ok(fd) = root.open_in(&path, flags, Mode::empty()) else {
                continue;
            };
            for entry in Dir::read_from(&fd).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(entry.file_name().to_bytes());
                match entry.file_type() {
                    FileType::Directory if name != "." && name != ".." => todo.push(path.join(name)),
                    FileType::RegularFile => {
                        let Ok(stat) = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) else {
                            continue;
                        };
                        if stat.st_nlink == 1 || seen.insert(stat.st_ino) {
                            size += u64::try_from(stat.st_size).unwrap_or_default();
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(size)
    }

    /// The merged files of a container's layers and its writable layer, as they are now.
    pub fn view(&self, layers: &Layers) -> Result<View> {
        View::merged(layers)
    }

    /// Whether `chain` and all below it are here.
    pub(crate) fn is_whole(&self, chain: &Digest) -> bool {
        let catalog = self.catalog();
        let layers = catalog.chain(chain);
        layers.last().is_some_and(|lowest| lowest.parent.is_none())
            && layers.iter().all(|layer| {
                catalog.damaged.get(&layer.chain_id).is_none_or(|damage| damage.usable)
                    && rustix::fs::statat(&self.inner.dirs.layers, layer.chain_id.hex(), AtFlags::SYMLINK_NOFOLLOW)
                        .is_ok()
            })
    }

    /// The unpacked directories of `chain`, topmost first, down to the first one whose root hides the rest.
    pub(crate) fn diff_paths(&self, catalog: &Catalog, chain: &Digest) -> Vec<PathBuf> {
        let layers = self.inner.root.join("layers");
        let mut paths = Vec::new();
        for layer in catalog.chain(chain) {
            paths.push(layers.join(layer.chain_id.hex()).join("diff"));
            if layer.opaque {
                break;
            }
        }
        paths
    }
}

fn layers_of(store: &Store, catalog: &Catalog, key: &str, chain: Option<&Digest>) -> Layers {
    let dir = store.inner.root.join("active").join(key);
    let lower = chain.map(|chain| store.diff_paths(catalog, chain)).unwrap_or_default();
    Layers { lower, upper: dir.join("upper"), work: dir.join("work") }
}

fn make_active_directories(store: &Store, key: &str) -> Result<()> {
    let active = store.inner.dirs.active.as_fd();
    for (name, mode) in [(key.to_owned(), 0o700), (format!("{key}/upper"), 0o755), (format!("{key}/work"), 0o700)] {
        let failed =
            |errno: Errno| Error::io(format!("mkdir {}", store.inner.root.join("active").join(&name).display()), errno);
        match rustix::fs::mkdirat(active, &*name, Mode::from_raw_mode(mode)) {
            // The umask may have taken from the mode.
            Ok(()) => {
                rustix::fs::chmodat(active, &*name, Mode::from_raw_mode(mode), AtFlags::empty()).map_err(failed)?
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(())
}

/// One path component, and nothing that could be taken for anything else.
fn check_key(key: &str) -> Result<()> {
    let is_first = |byte: u8| byte.is_ascii_alphanumeric();
    let is_next = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if key.len() <= 128 && key.bytes().next().is_some_and(is_first) && key.bytes().all(is_next) {
        return Ok(());
    }
    Err(Error::invalid(format!("{key:?} cannot name a writable layer: use letters, digits, '_', '.' and '-'")))
}
