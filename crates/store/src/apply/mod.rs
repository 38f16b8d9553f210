//! Making files of an archive's members, in a directory that is nobody else's yet.
//! Owns what each kind of member becomes, whiteouts, and the bounds of one layer. Every path is resolved beneath
//! the directory; must not use a member's name otherwise, and must not look at other layers (see `layer`).

pub(crate) mod holes;
mod settle;
mod tree;
mod write_back;

use std::ffi::OsStr;
use std::fs::File;
use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use brig_sys::beneath::Root;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::recipe::{Recorder, Tape};
use crate::tar::{Archive, Kind, Member, Time};
pub(crate) use settle::{Later, What, settle, times_of, undisturbed};
pub(crate) use tree::{MAX_LEFT, OPAQUE, Tree, is_whiteout, same_directory};
pub(crate) use write_back::WriteBack;

/// The most members of one layer.
pub(crate) const MAX_ENTRIES: u64 = 2_000_000;
/// The largest file, holes included, in bytes.
const MAX_FILE: u64 = 1 << 40;
/// What all files of a layer may say they have, holes included, in bytes: so far below 2^64 that no sum over an image's layers
/// overflows.
pub(crate) const MAX_CONTENT: u64 = 1 << 50;
/// The longest path, in bytes: PATH_MAX without its NUL.
const MAX_PATH: usize = 4095;
/// How much of a file is written before its way to the disk begins, in bytes.
const WRITE_BACK: u64 = 4 << 20;
/// How much of a file's end is worth that too; what is smaller goes with the layer.
const WRITE_BACK_REST: u64 = 256 << 10;
/// Ids beyond a container's range of 65,536 are kept, and shown there as nobody's.
const CONTAINER_IDS: u32 = 65_536;

/// A file's capabilities. In a user namespace they would be written down as that namespace's.
const CAPABILITY: &str = "security.capability";
/// What is made in a directory from then on inherits it, which an archive's members must not.
const DEFAULT_ACL: &str = "system.posix_acl_default";

const WHITEOUT: &[u8] = b".wh.";
/// Names of aufs' own, among them the one that makes a directory opaque.
const WHITEOUT_META: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// Whether files get their content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Written,
    /// Everything but that: holes of the same length, to be compared with what is there.
    LeftOut,
}

/// What was made, and what is left to do once the layers below are known.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// The length of the archive in bytes.
    pub(crate) size: u64,
    /// Members of the archive.
    pub(crate) entries: u64,
    /// The sum of regular files' sizes in bytes.
    pub(crate) content_bytes: u64,
    /// Members with an owner or group beyond a container's range.
    pub(crate) foreign_ids: u64,
    /// Extended attributes that were not set: kinds that an archive may not set, or the file system does not have.
    pub(crate) ignored_xattrs: u64,
    /// The root directory hides everything below it.
    pub(crate) opaque: bool,
    /// Directories that the archive did not describe, with their inode numbers.
    pub(crate) implied: Vec<(PathBuf, u64)>,
    /// Hard links to files that are not in this archive: path, target.
    pub(crate) pending_links: Vec<(PathBuf, PathBuf)>,
    /// What only a process with all rights can do: see [`settle`].
    pub(crate) later: Vec<Later>,
}

/// Unpacks an archive into the empty directory `diff` of the layer `ingest`, and writes down beside it how the archive is
/// made again. On an error what was made so far is left for the caller to remove.
pub(crate) fn apply(
    ingest: &Root,
    root: &Root,
    input: impl BufRead,
    content: Content,
    write_back: &WriteBack,
) -> Result<Applied> {
    let mut archive = Archive::new(Tape::new(input, Recorder::create(ingest)?));
    let mut tree = Tree::new(ingest, root, content, write_back)?;
    while let Some(member) = archive.next_member()? {
        let described = |error: Error| error.context(shown(&member.name));
        tree.applied.entries += 1;
        if tree.applied.entries > MAX_ENTRIES {
            return Err(Error::invalid(format!("archive of more than {MAX_ENTRIES} members")));
        }
        one(&mut tree, &member, &mut archive).map_err(described)?;
    }
    // What follows the end belongs to the stream's digest all the same.
    let mut tape = archive.into_inner();
    std::io::copy(&mut tape, &mut std::io::sink()).map_err(|error| Error::input("read the archive's end", &error))?;
    let replaced = tree.has_replaced();
    let applied = tree.finish()?;
    let size = tape.recorder.finish(ingest, replaced)?;
    Ok(Applied { size, ..applied })
}

/// A member's name for an error: of a long one its beginning, since the archive's author chose it.
fn shown(name: &[u8]) -> String {
    const ENOUGH: usize = 256;
    let (begin, rest) = name.split_at(name.len().min(ENOUGH));
    let begin = OsStr::from_bytes(begin).display().to_string().escape_default().to_string();
    if rest.is_empty() { begin } else { format!("{begin}… ({} bytes)", name.len()) }
}

/// Makes one member.
fn one<R: BufRead>(tree: &mut Tree<'_>, member: &Member, body: &mut Archive<Tape<R>>) -> Result<()> {
    let path = clean(&member.name)?;
    let Some(name) = path.file_name() else {
        return match member.kind {
            Kind::Directory => root_directory(tree, member),
            _ => Err(Error::invalid("the root of a layer can only be a directory")),
        };
    };
    let base = name.as_bytes();
    if path.iter().any(|part| part.as_bytes().starts_with(WHITEOUT_META)) {
        // Of aufs' own files only the opaque marker means something; others are left out, as by Docker.
        if base == WHITEOUT_OPAQUE {
            tree.make_opaque(path.parent().unwrap_or(Path::new("")))?;
        }
        return Ok(());
    }
    let parts = path.iter().count();
    if path.iter().take(parts - 1).any(|part| part.as_bytes().starts_with(WHITEOUT)) {
        return Err(Error::invalid("a whiteout cannot be a directory"));
    }
    if let Some(hidden) = base.strip_prefix(WHITEOUT) {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Error::invalid("a whiteout of nothing"));
        }
        return tree.whiteout(&path.with_file_name(OsStr::from_bytes(hidden)));
    }
    if member.uid >= CONTAINER_IDS || member.gid >= CONTAINER_IDS {
        tree.applied.foreign_ids += 1;
    }
    match member.kind {
        Kind::Directory => directory(tree, &path, name, member),
        Kind::File => file(tree, &path, name, member, body),
        Kind::HardLink => hard_link(tree, &path, name, member),
        Kind::Symlink => symlink(tree, &path, name, member),
        Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => node(tree, &path, name, member),
    }
}

fn root_directory(tree: &mut Tree<'_>, member: &Member) -> Result<()> {
    let fd = tree.open_directory(Path::new(""))?;
    finish_directory(tree, Path::new(""), &fd, member)
}

fn directory(tree: &mut Tree<'_>, path: &Path, name: &OsStr, member: &Member) -> Result<()> {
    let parent = tree.parent(path)?;
    let fd = tree.directory_at(&parent, name, path)?;
    finish_directory(tree, path, &fd, member)
}

fn finish_directory(tree: &mut Tree<'_>, path: &Path, fd: &OwnedFd, member: &Member) -> Result<()> {
    let inode = describe_open(tree, fd.as_fd(), path, member)?;
    tree.described(path, inode, member.mtime)
}

fn file<R: BufRead>(
    tree: &mut Tree<'_>,
    path: &Path,
    name: &OsStr,
    member: &Member,
    body: &mut Archive<Tape<R>>,
) -> Result<()> {
    if member.size > MAX_FILE {
        return Err(Error::invalid(format!("file of {} bytes: at most {MAX_FILE}", member.size)));
    }
    let parent = tree.parent(path)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Nobody can get at it yet, and most then need no change of mode. Set-id bits would not survive writing.
    let mode = Mode::from_raw_mode(member.mode & 0o777);
    let fd = tree.make(&parent, name, "create", |parent, name| rustix::fs::openat(parent, name, flags, mode))?;
    let file = File::from(fd);
    let failed = |error: std::io::Error| Error::io("write", error);
    let inode = describe_open(tree, file.as_fd(), path, member)?;
    if member.size > 0 {
        body.input().recorder.begin_file(path, inode)?;
    }
    let sink = (tree.content == Content::Written).then_some((&file, tree.write_back));
    match &member.segments {
        None if member.size == 0 => {}
        None => {
            let end = copy(body, sink, 0, member.size)?;
            if end < member.size {
                file.set_len(member.size).map_err(failed)?;
            }
        }
        Some(segments) => {
            for segment in segments.iter().filter(|segment| segment.length > 0) {
                copy(body, sink, segment.offset, segment.length)?;
            }
            file.set_len(member.size).map_err(failed)?;
        }
    }
    tree.applied.content_bytes += member.size;
    if tree.applied.content_bytes > MAX_CONTENT {
        return Err(Error::invalid(format!("a layer whose files have more than {MAX_CONTENT} bytes")));
    }
    if member.size > 0 && member.mode & 0o6000 != 0 {
        rustix::fs::fchmod(&file, Mode::from_raw_mode(member.mode)).map_err(|errno| Error::io("fchmod", errno))?;
    }
    rustix::fs::futimens(&file, &times(member.mtime)).map_err(|errno| Error::io("futimens", errno))
}

/// Copies the next `left` bytes of the member's body, which belong at `offset`; zeros become holes. What has been written of a
/// large file is on its way to the disk while the rest is still decoded. Without a file the bytes are passed over. Tells where
/// the last byte written ends.
fn copy<R: BufRead>(
    body: &mut Archive<Tape<R>>,
    sink: Option<(&File, &WriteBack)>,
    offset: u64,
    mut left: u64,
) -> Result<u64> {
    body.input().recorder.begin_part(offset, left)?;
    let (mut at, mut begun, mut end) = (offset, offset, offset);
    while left > 0 {
        let piece = match body.piece() {
            Ok([]) => return Err(Error::invalid("the archive is cut off")),
            Ok(piece) => &piece[..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX))],
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::input("read the archive", &error)),
        };
        if let Some((file, _)) = sink {
            end = holes::write(file, piece, at).map_err(|error| Error::io("write", error))?.unwrap_or(end);
        }
        let length = piece.len();
        body.pass(length);
        left -= length as u64;
        at += length as u64;
        if at - begun >= WRITE_BACK
            && let Some((file, write_back)) = sink
        {
            write_back.begin(file, begun, at - begun);
            begun = at;
        }
    }
    if let Some((file, write_back)) = sink.filter(|_| at - begun >= WRITE_BACK_REST) {
        write_back.begin(file, begun, at - begun);
    }
    body.input().recorder.end_part();
    Ok(end)
}

fn symlink(tree: &mut Tree<'_>, path: &Path, name: &OsStr, member: &Member) -> Result<()> {
    let target = OsStr::from_bytes(&member.link);
    if target.is_empty() || target.len() > MAX_PATH {
        return Err(Error::invalid(format!("a link with a target of {} bytes", target.len())));
    }
    let parent = tree.parent(path)?;
    tree.make(&parent, name, "symlink", |parent, name| rustix::fs::symlinkat(target, parent, name))?;
    describe_named(tree, &parent, name, path, member)
}

/// Whether a device may have this number: a character device 0:0 is overlayfs' mark of something removed, and what does not
/// fit the kernel's 12 and 20 bits would become another device.
fn is_device_number(character: bool, major: u32, minor: u32) -> bool {
    !(character && major == 0 && minor == 0) && major < 1 << 12 && minor < 1 << 20
}

/// A pipe, or one that stands for a device until [`settle`].
fn node(tree: &mut Tree<'_>, path: &Path, name: &OsStr, member: &Member) -> Result<()> {
    let (major, minor) = member.device;
    let character = member.kind == Kind::CharDevice;
    if member.kind != Kind::Fifo && !is_device_number(character, major, minor) {
        return Err(match (character, major, minor) {
            (true, 0, 0) => {
                Error::invalid("a character device 0:0 would be a whiteout, which archives write as .wh. files")
            }
            _ => Error::invalid(format!("device number {major}:{minor} is out of range")),
        });
    }
    let parent = tree.parent(path)?;
    let mode = Mode::from_raw_mode(0o600);
    tree.make(&parent, name, "mknod", |parent, name| rustix::fs::mknodat(parent, name, FileType::Fifo, mode, 0))?;
    describe_named(tree, &parent, name, path, member)?;
    if member.kind != Kind::Fifo {
        let inode = inode_at(&parent, name)?;
        tree.leave(path, inode, What::Device { character, major, minor })?;
    }
    Ok(())
}

fn inode_at(parent: &OwnedFd, name: &OsStr) -> Result<u64> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.map(|stat| stat.st_ino).map_err(|errno| Error::io("stat", errno))
}

fn hard_link(tree: &mut Tree<'_>, path: &Path, name: &OsStr, member: &Member) -> Result<()> {
    let target = clean(&member.link)?;
    if target.as_os_str().is_empty() || target == path {
        return Err(Error::invalid("a hard link to the root or to itself"));
    }
    let parent = tree.parent(path)?;
    match link_in(tree.root, &target, &parent, name, |parent, name| tree.clear(parent, name))? {
        Some(inode) => tree.linked(path, inode),
        // It may be in a layer below, which is not known yet.
        None => {
            tree.clear(&parent, name)?;
            tree.leave_link(path, target)
        }
    }
}

/// Links `name` in `parent` to what stands at `target` in `root`, not following a link there. Tells its inode number, or
/// `None` if there is nothing.
pub(crate) fn link_in(
    root: &Root,
    target: &Path,
    parent: &OwnedFd,
    name: &OsStr,
    clear: impl FnOnce(&OwnedFd, &OsStr) -> Result<()>,
) -> Result<Option<u64>> {
    let (target_parent, target_name) = match root.parent(target) {
        Ok(found) => found,
        Err(error) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stat = match rustix::fs::statat(&target_parent, &target_name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(Error::io(format!("stat {}", target.display()), errno)),
    };
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory || is_whiteout(&stat) {
        return Err(Error::invalid(format!("a hard link to {}, which is a directory or removed", target.display())));
    }
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) if there.st_ino == stat.st_ino => return Ok(Some(stat.st_ino)),
        Ok(_) => clear(parent, name)?,
        Err(_) => {}
    }
    rustix::fs::linkat(&target_parent, &target_name, parent, name, AtFlags::empty())
        .map(|()| Some(stat.st_ino))
        .map_err(|errno| Error::io(format!("link to {}", target.display()), errno))
}

/// Gives an open file or directory its owner, then mode (a change of owner takes set-id bits away), then attributes; most
/// have owner and mode right since they were made. Tells its inode number.
fn describe_open(tree: &mut Tree<'_>, fd: BorrowedFd<'_>, path: &Path, member: &Member) -> Result<u64> {
    let failed = |call: &'static str| move |errno: Errno| Error::io(call, errno);
    let stat = rustix::fs::fstat(fd).map_err(failed("fstat"))?;
    let owned = stat.st_uid == member.uid && stat.st_gid == member.gid;
    if !owned {
        let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
        rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(failed("fchown"))?;
    }
    if stat.st_mode & 0o7777 != member.mode || (!owned && member.mode & 0o6000 != 0) {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(member.mode)).map_err(failed("fchmod"))?;
    }
    for (name, value) in settable(tree, member) {
        if name == CAPABILITY || name == DEFAULT_ACL {
            let value = if name == CAPABILITY { plain_capability(value) } else { value.clone() };
            tree.leave(path, stat.st_ino, What::Attribute { name: name.to_owned(), value })?;
        } else {
            let set = rustix::fs::fsetxattr(fd, name, value, rustix::fs::XattrFlags::empty());
            tree.applied.ignored_xattrs += u64::from(attribute(name, set)?);
        }
    }
    Ok(stat.st_ino)
}

/// As [`describe_open`], with the time, for what is not opened: a link, a pipe. Its attributes are left for later.
fn describe_named(tree: &mut Tree<'_>, parent: &OwnedFd, name: &OsStr, path: &Path, member: &Member) -> Result<()> {
    let failed = |call: &'static str| move |errno: Errno| Error::io(call, errno);
    let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), flags).map_err(failed("chown"))?;
    if member.kind != Kind::Symlink {
        let mode = Mode::from_raw_mode(member.mode);
        rustix::fs::chmodat(parent, name, mode, AtFlags::empty()).map_err(failed("chmod"))?;
    }
    for (attribute, value) in settable(tree, member) {
        let value = if attribute == CAPABILITY { plain_capability(value) } else { value.clone() };
        let what = What::Attribute { name: attribute.to_owned(), value };
        tree.leave(path, inode_at(parent, name)?, what)?;
    }
    rustix::fs::utimensat(parent, name, &times(member.mtime), flags).map_err(failed("utimensat"))
}

/// The attributes that an archive may set. Those that it may not are counted.
fn settable<'m>(tree: &mut Tree<'_>, member: &'m Member) -> Vec<(&'m OsStr, &'m Vec<u8>)> {
    let (allowed, others): (Vec<_>, Vec<_>) = member.xattrs.iter().partition(|(name, _)| may_be_set(name));
    tree.applied.ignored_xattrs += others.len() as u64;
    allowed.into_iter().map(|(name, value)| (OsStr::from_bytes(name), value)).collect()
}

/// File capabilities, ACLs, and the user's attributes. Not overlayfs' own, which would redirect lookups, and not the host's
/// security labels.
pub(crate) fn may_be_set(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        name => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
    }
}

/// A capability that was tied to the root of some user namespace (revision 3) is meant for a container's root:
/// as revision 2 it is that of whichever root the layer is mounted for (capabilities(7), `vfs_ns_cap_data`).
pub(crate) fn plain_capability(value: &[u8]) -> Vec<u8> {
    match value {
        [flags, 0, 0, 3, rest @ ..] if rest.len() == 20 => [&[*flags, 0, 0, 2], &rest[..16]].concat(),
        _ => value.to_vec(),
    }
}

/// What the file system or the kind of file does not have is left out, of which this tells; other failures are failures.
fn attribute(name: &OsStr, set: std::result::Result<(), Errno>) -> Result<bool> {
    match set {
        Ok(()) => Ok(false),
        Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(true),
        Err(errno @ (Errno::INVAL | Errno::RANGE | Errno::TOOBIG)) => {
            Err(Error::invalid(format!("extended attribute {}: {errno}", name.display())))
        }
        Err(errno) => Err(Error::io(format!("set extended attribute {}", name.display()), errno)),
    }
}

/// The access time is set to the same: archives of layers do not have one that matters.
pub(crate) fn times(time: Time) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// A member's name as a path below the root: no leading slash, no `.`, no `..`. One that leads above the root is refused.
pub(crate) fn clean(name: &[u8]) -> Result<PathBuf> {
    if name.len() > MAX_PATH {
        return Err(Error::invalid(format!("a name of {} bytes: at most {MAX_PATH}", name.len())));
    }
    let mut path = PathBuf::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if !path.pop() {
                    return Err(Error::invalid("a name that leads out of the root"));
                }
            }
            // What a whiteout removes may have the longest name there is.
            part if part.strip_prefix(WHITEOUT).unwrap_or(part).len() > 255 => {
                return Err(Error::invalid(format!("a name with a part of {} bytes: at most 255", part.len())));
            }
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Ok(path)
}
