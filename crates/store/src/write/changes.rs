//! What a writable layer changes of those below it, as `docker diff` lists it; and which of its files are nobody's
//! change but what mounts need to stand on. Must not write.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use brig_sys::beneath::Root;
use rustix::fs::{FileType, Stat};

use super::walk::{Entry, Opened, Walk};
use crate::apply::is_whiteout;
use crate::error::Result;
use crate::layer::below;

/// What is made in every container's root for the engine's own mounts, and `.dockerenv`: Docker keeps these in a layer of
/// their own, so that they belong neither to the image nor to the changes.
const LEFT_OVER: &[&str] =
    &[".dockerenv", "dev", "dev/console", "etc", "etc/hostname", "etc/hosts", "etc/resolv.conf", "proc", "sys"];

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Absolute.
    pub path: PathBuf,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It is another one, or something in it changed.
    Modified,
    /// It was not there before.
    Added,
    /// It is not there any more.
    Deleted,
}

/// The layers below, topmost first.
pub(super) struct Below(Vec<Root>);

impl Below {
    pub(super) fn open(paths: &[PathBuf]) -> Result<Below> {
        Ok(Below(paths.iter().map(|path| Root::open(path)).collect::<std::result::Result<_, _>>()?))
    }

    fn find(&self, path: &Path) -> Result<Option<Stat>> {
        below::stat(&self.0, path)
    }

    /// The names in the directory `path`, as all layers below together show it.
    fn names(&self, path: &Path) -> Result<BTreeSet<OsString>> {
        let mut names = BTreeSet::new();
        for layer in &self.0 {
            let Some(opened) = Opened::of(layer, path)? else { continue };
            names.extend(opened.names);
        }
        // What the upper of them hide is not there.
        let mut shown = BTreeSet::new();
        for name in names {
            if self.find(&path.join(&name))?.is_some() {
                shown.insert(name);
            }
        }
        Ok(shown)
    }

    /// Whether this was made for a mount, and still is as it was made.
    pub(super) fn is_left_over(&self, entry: &Entry) -> bool {
        let is_file = entry.kind() == FileType::RegularFile && entry.stat.st_size == 0 && entry.stat.st_nlink == 1;
        is_file && self.is_new_and_ours(entry)
    }

    fn is_new_and_ours(&self, entry: &Entry) -> bool {
        let ours = LEFT_OVER.iter().any(|path| entry.path == Path::new(path));
        ours && matches!(self.find(&entry.path), Ok(None))
    }

    /// Whether a directory is here only because of what was made for mounts in it: it is new and has nothing else, or it
    /// is a copy of the one below in all but its time.
    pub(super) fn is_only_passed(&self, entry: &Entry, opened: &Opened) -> bool {
        let is_ours = |name: &OsStr| {
            let path = entry.path.join(name);
            LEFT_OVER.iter().any(|left| path == Path::new(left)) && matches!(self.find(&path), Ok(None))
        };
        let candidates = LEFT_OVER.iter().any(|path| entry.path == Path::new(path));
        if !candidates || !opened.names.iter().all(|name| is_ours(name)) {
            return false;
        }
        // A name alone does not make it ours: each is looked at.
        let is_empty_file = |name: &OsStr| opened.stat(name).is_some_and(|stat| is_placeholder(&stat));
        if !opened.names.iter().all(|name| is_empty_file(name)) || super::is_opaque(entry).unwrap_or(true) {
            return false;
        }
        match self.find(&entry.path) {
            Ok(None) => (entry.stat.st_mode & 0o7777, entry.stat.st_uid, entry.stat.st_gid) == (0o755, 0, 0),
            Ok(Some(stat)) => !opened.names.is_empty() && is_described_alike(&stat, &entry.stat),
            Err(_) => false,
        }
    }
}

/// What a mount stands on: an empty file, or a directory.
fn is_placeholder(stat: &Stat) -> bool {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => stat.st_size == 0,
        kind => kind == FileType::Directory,
    }
}

fn is_described_alike(a: &Stat, b: &Stat) -> bool {
    (a.st_mode, a.st_uid, a.st_gid) == (b.st_mode, b.st_uid, b.st_gid)
}

/// All changes, by path. Directories above an added or removed thing count as modified, as in Docker.
pub(super) fn list(upper: &Root, below: &Below) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    let mut opaque: Vec<PathBuf> = Vec::new();
    let (mut walk, entry, opened) = Walk::new(upper)?;
    walk.enter(&entry, opened);
    while let Some(mut entry) = walk.next()? {
        let path = Path::new("/").join(&entry.path);
        if is_whiteout(&entry.stat) {
            if below.find(&entry.path)?.is_some() {
                changes.push(Change { path, kind: ChangeKind::Deleted });
            }
            continue;
        }
        if below.is_left_over(&entry) {
            continue;
        }
        let found = below.find(&entry.path)?;
        let (mut same, mut removed) = (false, Vec::new());
        if entry.kind() == FileType::Directory {
            let Some(opened) = entry.open_directory()? else { continue };
            if below.is_only_passed(&entry, &opened) {
                continue;
            }
            same = found.as_ref().is_some_and(|stat| {
                let times = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
                is_described_alike(stat, &entry.stat) && times(stat) == times(&entry.stat)
            });
            let is_opaque = super::is_opaque(&entry)? || opaque.iter().any(|above| entry.path.starts_with(above));
            if is_opaque && found.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory) {
                removed = below.names(&entry.path)?.into_iter().collect();
                removed.retain(|name| opened.names.binary_search(name).is_err());
                opaque.push(entry.path.clone());
            }
            walk.enter(&entry, opened);
        }
        changes.extend(removed.into_iter().map(|name| Change { path: path.join(name), kind: ChangeKind::Deleted }));
        match found {
            Some(_) if same => {}
            Some(_) => changes.push(Change { path, kind: ChangeKind::Modified }),
            None => changes.push(Change { path, kind: ChangeKind::Added }),
        }
    }
    let parents: Vec<Change> = changes
        .iter()
        .filter(|change| change.kind != ChangeKind::Modified)
        .filter_map(|change| change.path.parent())
        .filter(|parent| parent.as_os_str().as_bytes() != b"/")
        .map(|parent| Change { path: parent.to_owned(), kind: ChangeKind::Modified })
        .collect();
    changes.extend(parents);
    // Of one path the change that says more comes last.
    changes.sort();
    changes.reverse();
    changes.dedup_by(|a, b| a.path == b.path);
    changes.reverse();
    Ok(changes)
}
