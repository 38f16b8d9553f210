//! Any tree that a container can leave, as a layer and unpacked again: the same tree, down to what each file system keeps of
//! it; and written twice, or from a copy that was made in another order, the same layer. Looked at by own means, not by the
//! store's.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use brig_store::commit_active;
use common::Tar;
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// Names in the image below, which a removal has something to say about.
const BELOW: [&str; 4] = ["below", "below/a", "below/b", "gone"];
/// cap_net_raw+ep as setcap writes it.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const OPAQUE: &str = "trusted.overlay.opaque";

#[derive(Debug, Clone)]
enum What {
    /// Pieces of data, each after a hole, and a hole at the end; lengths in bytes.
    File(Vec<(u32, u32)>, u32),
    Directory {
        opaque: bool,
    },
    Link(Vec<u8>),
    Fifo,
    Device(bool, u32, u32),
    /// Another name of the n-th thing that is no directory.
    Again(usize),
    Removed,
}

#[derive(Debug, Clone)]
struct Looks {
    mode: u32,
    owner: (u32, u32),
    time: (i64, i64),
    attributes: BTreeMap<String, Vec<u8>>,
    capability: bool,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no separator", |byte| !matches!(byte, 0 | b'/'));
    let any = prop_oneof![
        6 => "[a-d]{1,2}".prop_map(String::into_bytes),
        2 => prop::collection::vec(byte.clone(), 1..20),
        1 => prop::collection::vec(byte, 90..255),
        1 => "[é-ü\n ]{1,60}".prop_map(String::into_bytes),
        1 => prop::sample::select(&BELOW[..]).prop_map(|name| name.as_bytes().to_vec()),
    ];
    any.prop_filter("no mark", |name| !name.starts_with(b".wh.") && name != b"." && name != b"..")
}

fn what() -> impl Strategy<Value = What> {
    let id = prop_oneof![Just(0u32), 1..5_000_000u32];
    let piece = (prop_oneof![Just(0u32), 1..200_000u32], 0..20_000u32);
    prop_oneof![
        6 => (prop::collection::vec(piece, 0..4), prop_oneof![Just(0u32), 1..100_000u32]).prop_map(|(p, end)| What::File(p, end)),
        3 => any::<bool>().prop_map(|opaque| What::Directory { opaque }),
        1 => prop::collection::vec(1..=255u8, 1..300).prop_map(What::Link),
        1 => Just(What::Fifo),
        1 => (any::<bool>(), 0..4095u32, 1..1_048_575u32).prop_map(|(block, major, minor)| What::Device(block, major, minor)),
        2 => id.prop_map(|n| What::Again(n as usize)),
        2 => Just(What::Removed),
    ]
}

fn looks() -> impl Strategy<Value = Looks> {
    let id = || prop_oneof![Just(0u32), 1..70_000u32, Just(1 << 21), (1u32 << 21)..u32::MAX - 1];
    let attributes =
        prop::collection::btree_map("user\\.[a-zé:%]{1,9}", prop::collection::vec(any::<u8>(), 0..60), 0..3);
    let time = (-(1i64 << 31)..1 << 33, 0i64..1_000_000_000);
    (0u32..0o10000, (id(), id()), time, attributes, prop::bool::weighted(0.2))
        .prop_map(|(mode, owner, time, attributes, capability)| Looks { mode, owner, time, attributes, capability })
}

type Thing = (Vec<Vec<u8>>, What, Looks);

fn things() -> impl Strategy<Value = Vec<Thing>> {
    prop::collection::vec((prop::collection::vec(name(), 1..4), what(), looks()), 0..25)
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// Owner, attributes, mode; times come at the end.
fn dress(path: &Path, looks: &Looks, is_file: bool) {
    std::os::unix::fs::lchown(path, Some(looks.owner.0), Some(looks.owner.1)).unwrap();
    let kind = path.symlink_metadata().unwrap().file_type();
    if kind.is_symlink() {
        return;
    }
    if kind.is_dir() || is_file {
        looks.attributes.iter().for_each(|(name, value)| set(path, name, value));
    }
    if is_file && looks.capability {
        set(path, "security.capability", CAPABILITY);
    }
    std::fs::set_permissions(path, PermissionsExt::from_mode(looks.mode)).unwrap();
}

/// Makes the things in `root`; those whose place is taken are left out.
fn build(root: &Path, things: &[Thing], looks_of_root: &Looks) {
    let mut made: Vec<(PathBuf, Looks)> = Vec::new();
    let mut named: Vec<PathBuf> = Vec::new();
    for (names, what, looks) in things {
        let path = names.iter().fold(root.to_owned(), |path, name| path.join(OsStr::from_bytes(name)));
        let parent = path.parent().unwrap();
        if std::fs::create_dir_all(parent).is_err() || path.symlink_metadata().is_ok() {
            continue;
        }
        match what {
            What::File(pieces, end) => {
                let file = File::create_new(&path).unwrap();
                let mut at = 0;
                for (hole, length) in pieces {
                    at += u64::from(*hole);
                    file.write_all_at(&vec![(at % 255 + 1) as u8; *length as usize], at).unwrap();
                    at += u64::from(*length);
                }
                file.set_len(at + u64::from(*end)).unwrap();
            }
            What::Directory { opaque } => {
                std::fs::create_dir(&path).unwrap();
                if *opaque {
                    set(&path, OPAQUE, b"y");
                }
            }
            What::Link(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
            What::Fifo => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::empty(), 0).unwrap(),
            What::Device(block, major, minor) => {
                let kind = if *block { FileType::BlockDevice } else { FileType::CharacterDevice };
                rustix::fs::mknodat(CWD, &path, kind, Mode::empty(), rustix::fs::makedev(*major, *minor)).unwrap();
            }
            What::Again(n) => {
                let Some(other) = named.get(n % named.len().max(1)) else { continue };
                std::fs::hard_link(other, &path).unwrap();
                continue;
            }
            What::Removed => {
                rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
                continue;
            }
        }
        dress(&path, looks, matches!(what, What::File(..)));
        if !matches!(what, What::Directory { .. }) {
            named.push(path.clone());
        }
        made.push((path, looks.clone()));
    }
    dress(root, looks_of_root, false);
    made.insert(0, (root.to_owned(), looks_of_root.clone()));
    for (path, looks) in made.iter().rev() {
        let time = Timespec { tv_sec: looks.time.0, tv_nsec: looks.time.1 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// All there is to know of each file, by path.
fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut first: HashMap<u64, PathBuf> = HashMap::new();
    let mut todo = vec![root.to_owned()];
    let mut all = Vec::new();
    while let Some(path) = todo.pop() {
        if path.symlink_metadata().unwrap().is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        all.push(path);
    }
    all.sort();
    for path in all {
        let status = path.symlink_metadata().unwrap();
        let kind = status.file_type();
        let name = path.strip_prefix(root).unwrap().to_owned();
        let same = first.entry(status.ino()).or_insert_with(|| name.clone()).clone();
        // Of a removal nothing but that is told.
        if kind.is_char_device() && status.rdev() == 0 {
            found.insert(name, "removed".to_owned());
            continue;
        }
        let content = match (kind.is_file(), kind.is_symlink()) {
            (true, _) => brig_store::digest::sha256_of(&std::fs::read(&path).unwrap()).to_string(),
            (_, true) => format!("{:?}", std::fs::read_link(&path).unwrap()),
            _ => String::new(),
        };
        let (inode, mtime) = (format!("{same:?}"), (status.mtime(), status.mtime_nsec()));
        let ids = (status.uid(), status.gid());
        let what = (status.mode(), ids, mtime, status.rdev(), content, inode);
        found.insert(name, format!("{what:?} {:?}", attributes(&path)));
    }
    found
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 64 * 1024];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| String::from_utf8(name.to_vec()).unwrap())
        .map(|name| (name.clone(), common::xattr(path, &name).unwrap()))
        .collect()
}

/// Blocks of 512 bytes that the files take, and how many files there are.
fn blocks(root: &Path) -> (u64, u64) {
    let files = picture(root).into_keys().map(|name| root.join(name).symlink_metadata().unwrap());
    let files: Vec<u64> = files.filter(std::fs::Metadata::is_file).map(|file| file.blocks()).collect();
    (files.iter().sum(), files.len() as u64)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(40), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back(things in things(), root in looks()) {
        let (_dir, store) = common::open();
        let below = Tar::new().dir("below", 0o755).file("below/a", b"a").file("below/b", b"b").file("gone", b"x").finish();
        let below = common::layer(&store, &below, None).chain_id;
        let upper = store.prepare("c", Some(&below)).unwrap().upper;
        build(&upper, &things, &root);
        let before = picture(&upper);
        let Some(info) = commit_active(&store, "c").unwrap() else {
            prop_assert_eq!(before.len(), 1, "nothing was committed of {:?}", before);
            return Ok(());
        };
        let ours = common::diff(&store, &info.chain_id);
        let after = picture(&ours);
        for (path, looks) in &before {
            prop_assert_eq!(Some(looks), after.get(path), "{:?}", path);
        }
        prop_assert_eq!(before.len(), after.len(), "{:?}", after.keys());
        prop_assert!(common::serves_all(&store, &info.chain_id));
        let ((ours_take, files), (theirs_take, _)) = (blocks(&ours), blocks(&upper));
        // A hole's first and last block may be written, and those at the ends of the pieces that came.
        prop_assert!(ours_take <= theirs_take + 10 * 8 * files, "{ours_take} blocks of {theirs_take}");
        prop_assert_eq!(&commit_active(&store, "c").unwrap().unwrap(), &info, "the same again");
        // A copy is made in an order of its own.
        let copy = store.prepare("copy", Some(&below)).unwrap().upper;
        let copied = Command::new("cp").arg("-aT").arg(&ours).arg(&copy).status().unwrap();
        prop_assert!(copied.success());
        prop_assert_eq!(&commit_active(&store, "copy").unwrap().unwrap(), &info, "of a copy");
    }
}
