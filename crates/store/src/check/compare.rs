//! Compares a layer's files with what its archive makes: the archive is made again from them, which proves their content,
//! and unpacked once more without it, which gives everything else: names, kinds, modes, owners, times, attributes, links,
//! whiteouts. Must not change the layer, nor believe anything beside its digest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use brig_sys::beneath::{self, Root};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

use super::layers::UNPUSHABLE;
use super::marks::Damage;
use crate::apply::{self, Applied, is_whiteout};
use crate::catalog::LayerInfo;
use crate::error::{Error, ErrorKind, Result};
use crate::images::now;
use crate::layer::below;
use crate::recipe::{self, DIFF, LayerTar};
use crate::store::Store;

/// What a layer is, compared with what it should be.
pub(crate) enum Verdict {
    Damaged(Damage),
    /// It is whole; what its row should say.
    Whole(LayerInfo),
}

/// Looks at every byte. `below` are the files of the layers below, topmost first; `None` if they are not what they were, so that
/// what was taken from them cannot be compared.
pub(crate) fn compare(store: &Store, layer: &LayerInfo, path: &Path, below_it: Option<&[PathBuf]>) -> Result<Verdict> {
    let damaged = |why: String| Ok(Verdict::Damaged(Damage { why, usable: false }));
    let tar = match LayerTar::open(path, &layer.diff_id, None) {
        Ok(Some(tar)) => tar,
        Ok(None) => return Ok(Verdict::Damaged(Damage { why: format!("{UNPUSHABLE} is gone"), usable: true })),
        Err(error) => return damaged(error.message),
    };
    let since = now().saturating_sub(1);
    let mut ingest = store.begin_layer()?;
    let mut tar = Watched { tar, failed: None };
    let (directory, made, applied) = match ingest.unpack_hollow(&mut tar) {
        Ok(unpacked) => unpacked,
        // What cannot be read is the layer's damage; what cannot be written is not.
        Err(error) => {
            let _rest = std::io::copy(&mut tar, &mut std::io::sink());
            return match tar.failed {
                Some(why) => damaged(why),
                None if matches!(error.kind, ErrorKind::NoSpace | ErrorKind::Io) => Err(error),
                // The archive is right, as it was when it was unpacked: it is more likely that the process was ended.
                None => {
                    let why = format!("it could not be compared with its archive: {}", error.message);
                    Ok(Verdict::Damaged(Damage { why, usable: true }))
                }
            };
        }
    };
    if !tar.tar.is_verified() {
        return damaged("its archive was not read to its end".into());
    }
    if let Some(paths) = below_it {
        below::complete(made, applied, paths)?;
    }
    // Whoever wrote the recipe may have put into it what should be in the files.
    let there = Root::open(path)?;
    let (problem, own) = match recipe::compare(directory, &there) {
        Ok((None, own)) => (None, Some(own)),
        Ok((problem, _)) => (problem, None),
        Err(error) => (Some(error.message), None),
    };
    let files = Root::open(&path.join(DIFF))?;
    let mut comparison = Comparison::new(made, &files, applied, since, own, below_it.is_some());
    match comparison.run()?.or(problem) {
        Some(why) => damaged(why),
        None => {
            Ok(Verdict::Whole(LayerInfo { size_bytes: applied.content_bytes, opaque: applied.opaque, ..layer.clone() }))
        }
    }
}

/// Remembers why reading failed.
struct Watched {
    tar: LayerTar,
    failed: Option<String>,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.tar.read(buffer).inspect_err(|error| self.failed = Some(error.to_string()))
    }
}

struct Comparison<'a> {
    made: &'a Root,
    there: &'a Root,
    /// Times from then on, in seconds since 1970, are those of unpacking: no archive has set them.
    since: i64,
    /// What came from the layers below, and cannot be compared without them.
    from_below: HashSet<&'a Path>,
    /// Inode numbers of the files, as made, whose content is in the archive. Others are copies of what is below.
    /// `None` if that is not known.
    own: Option<HashSet<u64>>,
    /// Inode numbers of what has several names: as made, and as it is there.
    links: (HashMap<u64, u64>, HashMap<u64, u64>),
}

impl<'a> Comparison<'a> {
    fn new(
        made: &'a Root,
        there: &'a Root,
        applied: &'a Applied,
        since: i64,
        own: Option<HashSet<u64>>,
        complete: bool,
    ) -> Comparison<'a> {
        let mut from_below = HashSet::new();
        if !complete {
            from_below.extend(applied.implied.iter().map(|(path, _)| path.as_path()));
            from_below.extend(applied.pending_links.iter().map(|(path, _)| path.as_path()));
        }
        Comparison { made, there, since, from_below, own, links: (HashMap::new(), HashMap::new()) }
    }

    /// The first difference, if there is one.
    fn run(&mut self) -> Result<Option<String>> {
        let root = Path::new("");
        let (made, there) = (open(self.made, root)?, open(self.there, root)?);
        let stats = (stat_of(&made, OsStr::new(""))?, stat_of(&there, OsStr::new(""))?);
        if let Some(problem) = self.one(root, (&made, &there), OsStr::new(""), &stats)? {
            return Ok(Some(format!("/: {problem}")));
        }
        let mut todo = vec![PathBuf::new()];
        while let Some(directory) = todo.pop() {
            let (made, there) = (open(self.made, &directory)?, open(self.there, &directory)?);
            let (expected, mut found) = (entries(&made)?, entries(&there)?);
            for (name, should) in expected {
                let path = directory.join(&name);
                let Some(is) = found.remove(&name) else {
                    let what = if is_whiteout(&should) { "the mark that it is removed is gone" } else { "it is gone" };
                    return Ok(Some(format!("/{}: {what}", path.display())));
                };
                if let Some(problem) = self.one(&path, (&made, &there), &name, &(should, is))? {
                    return Ok(Some(format!("/{}: {problem}", path.display())));
                }
                if kind(&should) == FileType::Directory {
                    todo.push(path);
                }
            }
            let added = found.into_keys().map(|name| directory.join(name));
            if let Some(path) = added.into_iter().find(|path| !self.from_below.contains(path.as_path())) {
                return Ok(Some(format!("/{} was added to it", path.display())));
            }
        }
        Ok(None)
    }

    /// What is different about one thing.
    fn one(
        &mut self,
        path: &Path,
        (made, there): (&OwnedFd, &OwnedFd),
        name: &OsStr,
        (should, is): &(Stat, Stat),
    ) -> Result<Option<String>> {
        if kind(should) != kind(is) || should.st_rdev != is.st_rdev {
            return Ok(Some(format!("it was {} and is {}", named(should), named(is))));
        }
        // A mark says nothing but that it is there.
        if is_whiteout(should) || self.from_below.contains(path) {
            return Ok(None);
        }
        let (mode, was) = (is.st_mode & 0o7777, should.st_mode & 0o7777);
        if mode != was && kind(should) != FileType::Symlink {
            return Ok(Some(format!("its mode was {was:o} and is {mode:o}")));
        }
        if (should.st_uid, should.st_gid) != (is.st_uid, is.st_gid) {
            let (was, now) = ((should.st_uid, should.st_gid), (is.st_uid, is.st_gid));
            return Ok(Some(format!("its owner was {}:{} and is {}:{}", was.0, was.1, now.0, now.1)));
        }
        if kind(should) == FileType::RegularFile && should.st_size != is.st_size {
            return Ok(Some(format!("it had {} bytes and has {}", should.st_size, is.st_size)));
        }
        if kind(should) == FileType::RegularFile
            && should.st_size > 0
            && self.own.as_ref().is_some_and(|own| !own.contains(&should.st_ino))
            && !is_same_content(made, there, name)?
        {
            return Ok(Some("it is not what it was copied from".into()));
        }
        if kind(should) == FileType::Symlink {
            let target = |directory: &OwnedFd| {
                rustix::fs::readlinkat(directory, name, Vec::new()).map_err(|errno| Error::io("readlink", errno))
            };
            let (was, now) = (target(made)?, target(there)?);
            if was != now {
                return Ok(Some(format!("it was a link to {was:?} and is one to {now:?}")));
            }
        }
        let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
        if time(should) != time(is) && should.st_mtime < self.since {
            let (was, now) = (time(should), time(is));
            return Ok(Some(format!("its time was {}.{:09} and is {}.{:09}", was.0, was.1, now.0, now.1)));
        }
        if let Some(problem) = self.links(should, is) {
            return Ok(Some(problem));
        }
        let attributes = |directory: &OwnedFd| -> Result<BTreeMap<OsString, Vec<u8>>> {
            let all = beneath::xattrs_at(directory.as_fd(), name)?;
            Ok(all.into_iter().filter(|(name, _)| counts(name)).collect())
        };
        Ok(attribute_difference(&attributes(made)?, &attributes(there)?))
    }

    /// Names of one file are names of one file.
    fn links(&mut self, should: &Stat, is: &Stat) -> Option<String> {
        if kind(should) == FileType::Directory || (should.st_nlink == 1 && is.st_nlink == 1) {
            return None;
        }
        let there = *self.links.0.entry(should.st_ino).or_insert(is.st_ino);
        let made = *self.links.1.entry(is.st_ino).or_insert(should.st_ino);
        (there != is.st_ino || made != should.st_ino).then(|| "it is a name of another file than it was".to_owned())
    }
}

/// What an archive may set, and overlayfs' own; not the host's labels.
fn counts(name: &OsStr) -> bool {
    let name = name.as_bytes();
    apply::may_be_set(name) || name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

fn attribute_difference(should: &BTreeMap<OsString, Vec<u8>>, is: &BTreeMap<OsString, Vec<u8>>) -> Option<String> {
    for (name, value) in should {
        match is.get(name) {
            None => return Some(format!("its attribute {} is gone", name.display())),
            Some(now) if now != value => return Some(format!("its attribute {} has changed", name.display())),
            Some(_) => {}
        }
    }
    let added = is.keys().find(|name| !should.contains_key(*name))?;
    Some(format!("its attribute {} was added", added.display()))
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Whether files of one name and size in two directories have the same bytes.
fn is_same_content(one: &OwnedFd, other: &OwnedFd, name: &OsStr) -> Result<bool> {
    const PIECE: u64 = 64 * 1024;
    let failed = |error: std::io::Error| Error::io(format!("compare {}", name.display()), error);
    let open = |directory: &OwnedFd| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(directory, name, flags, Mode::empty()).map(File::from).map_err(|errno| failed(errno.into()))
    };
    let (mut one, mut other) = (open(one)?, open(other)?);
    loop {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        (&mut one).take(PIECE).read_to_end(&mut left).map_err(failed)?;
        (&mut other).take(PIECE).read_to_end(&mut right).map_err(failed)?;
        if left != right || left.is_empty() {
            return Ok(left == right);
        }
    }
}

fn named(stat: &Stat) -> String {
    if is_whiteout(stat) {
        return "a mark that it is removed".into();
    }
    let device = || format!("{}:{}", rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    match kind(stat) {
        FileType::RegularFile => "a file".into(),
        FileType::Directory => "a directory".into(),
        FileType::Symlink => "a link".into(),
        FileType::Fifo => "a pipe".into(),
        FileType::CharacterDevice => format!("the character device {}", device()),
        FileType::BlockDevice => format!("the block device {}", device()),
        _ => "something else".into(),
    }
}

fn open(root: &Root, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(root.open_in(path, flags, Mode::empty())?)
}

fn stat_of(directory: &OwnedFd, name: &OsStr) -> Result<Stat> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    rustix::fs::statat(directory, name, flags).map_err(|errno| Error::io(format!("stat {}", name.display()), errno))
}

fn entries(directory: &OwnedFd) -> Result<BTreeMap<OsString, Stat>> {
    let mut found = BTreeMap::new();
    for entry in Dir::read_from(directory).map_err(|errno| Error::io("list a layer's directory", errno))? {
        let entry = entry.map_err(|errno| Error::io("list a layer's directory", errno))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            found.insert(name.to_owned(), stat_of(directory, name)?);
        }
    }
    Ok(found)
}
