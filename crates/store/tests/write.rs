//! Trees written as layers and archives: nothing is lost, nothing is invented, and the same tree gives the same bytes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use brig_oci::Digest;
use brig_store::{Change, ChangeKind, ErrorKind, Layers, Store, active_changes, commit_active};
use common::Tar;
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn whiteout(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// What the store may keep of a file's attributes, for all files that have any.
fn attributes(root: &Path) -> BTreeMap<String, Vec<(String, Vec<u8>)>> {
    let mut found = BTreeMap::new();
    for path in std::iter::once(String::new()).chain(common::listing(root).into_keys()) {
        let names = ["security.capability", "system.posix_acl_access", "system.posix_acl_default", "user.a", "user.b"];
        let set: Vec<(String, Vec<u8>)> = names
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), common::xattr(&root.join(&path), name)?)))
            .collect();
        if !set.is_empty() {
            found.insert(path, set);
        }
    }
    found
}

/// One of everything that a file system has and a layer can hold.
fn everything(root: &Path) {
    let long = "n".repeat(250);
    for directory in ["a/b/c", "empty", &format!("deep/{long}/{long}"), "dev"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    std::fs::write(root.join("a/file"), vec![3; 300_001]).unwrap();
    std::fs::write(root.join(format!("deep/{long}/{long}/{long}")), b"long").unwrap();
    std::fs::write(root.join("a/suid"), b"x").unwrap();
    std::fs::hard_link(root.join("a/file"), root.join("a/b/second")).unwrap();
    symlink("../../a/file", root.join("a/b/link")).unwrap();
    std::fs::hard_link(root.join("a/b/link"), root.join("a/b/link-again")).unwrap();
    symlink(format!("/{long}/{long}"), root.join("long-link")).unwrap();
    std::fs::write(root.join(std::ffi::OsStr::new("new\nline")), b"").unwrap();
    run(Command::new("mkfifo").arg(root.join("pipe")));
    run(Command::new("mknod").arg(root.join("dev/null")).args(["c", "1", "3"]));
    run(Command::new("mknod").arg(root.join("dev/disk")).args(["b", "259", "1048575"]));
    run(Command::new("chown").arg("1234:65535").arg(root.join("a/suid")));
    std::fs::set_permissions(root.join("a/suid"), PermissionsExt::from_mode(0o6755)).unwrap();
    std::fs::set_permissions(root.join("empty"), PermissionsExt::from_mode(0o1777)).unwrap();
    std::fs::set_permissions(root, PermissionsExt::from_mode(0o750)).unwrap();
    run(Command::new("chown").arg("-h").arg("12:34").arg(root.join("a/b/link")));
    run(Command::new("chown").arg("3000000:4000000000").arg(root.join("a/b/c")));
    set(&root.join("a/file"), "user.a", b"line\nline=\0");
    set(&root.join("a/file"), "user.b", &[9; 2000]);
    // cap_net_raw+ep as setcap writes it.
    set(&root.join("a/suid"), "security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    // user::rwx, user:33:r-x, group::r-x, mask::r-x, other::---
    let acl: &[u8] = &[
        2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 33, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 5,
        0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
    ];
    set(&root.join("a/b"), "system.posix_acl_access", acl);
    set(&root.join("a/b"), "system.posix_acl_default", acl);
    // What is in there got some of it.
    for path in ["a/b/c", "a/b/second"] {
        rustix::fs::lremovexattr(root.join(path), "system.posix_acl_access").ok();
        rustix::fs::lremovexattr(root.join(path), "system.posix_acl_default").ok();
    }
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    for index in 1..20u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[9; 5000], index * 1_000_000).unwrap();
    }
    sparse.set_len(25_000_000).unwrap();
    let touch = |time: &str, names: &[&str]| {
        run(Command::new("touch").args(["-h", "-d", time]).args(names.iter().map(|name| root.join(name))));
    };
    touch("2001-02-03 04:05:06.789012345", &["a/b/link", "a/file", "a/b/c", "a/b", "a"]);
    touch("1955-01-01 00:00:00.5", &["a/suid", "empty"]);
    touch("2300-01-01 00:00:00.000000001", &["pipe"]);
}

/// A store with the writable layer `c` on top of `chain`.
fn active(store: &Store, chain: Option<&Digest>) -> Layers {
    store.prepare("c", chain).unwrap()
}

#[test]
fn everything_comes_back() {
    let (dir, store) = common::open();
    let layers = active(&store, None);
    everything(&layers.upper);
    let _gone = std::os::unix::net::UnixListener::bind(layers.upper.join("empty/socket")).unwrap();
    run(Command::new("touch").args(["-d", "1955-01-01 00:00:00.5"]).arg(layers.upper.join("empty")));
    let info = commit_active(&store, "c").unwrap().unwrap();
    let ours = common::diff(&store, &info.chain_id);
    std::fs::remove_file(layers.upper.join("empty/socket")).unwrap();
    run(Command::new("touch").args(["-d", "1955-01-01 00:00:00.5"]).arg(layers.upper.join("empty")));
    assert_eq!(common::listing(&ours), common::listing(&layers.upper));
    assert_eq!(attributes(&ours), attributes(&layers.upper));
    assert_eq!(ours.metadata().unwrap().permissions().mode() & 0o7777, 0o750);
    assert_eq!(std::fs::read(ours.join("sparse")).unwrap(), std::fs::read(layers.upper.join("sparse")).unwrap());

    // A copy elsewhere, made in another order, is the same layer; and what other tools read is the same tree.
    let copy = store.prepare("copy", None).unwrap();
    run(Command::new("cp").arg("-a").arg(format!("{}/.", layers.upper.display())).arg(&copy.upper));
    assert_eq!(commit_active(&store, "copy").unwrap().unwrap(), info);
    let tar = dir.path().join("tree.tar");
    store.view(&layers).unwrap().write_tar(&mut std::fs::File::create(&tar).unwrap()).unwrap();
    assert_eq!(brig_store::digest::sha256_of(&std::fs::read(&tar).unwrap()), info.diff_id);
    let theirs = dir.path().join("theirs");
    std::fs::create_dir(&theirs).unwrap();
    let options = ["--numeric-owner", "--same-owner", "-p", "--xattrs", "--xattrs-include=user.*", "-C"];
    run(Command::new("tar").args(options).arg(&theirs).arg("-xf").arg(&tar));
    assert_eq!(common::listing(&theirs), common::listing(&layers.upper));
}

#[test]
fn nothing_is_no_layer() {
    let (_dir, store) = common::open();
    let base = common::layer(&store, &Tar::new().dir("etc/", 0o755).file("etc/x", b"x").finish(), None);
    let layers = active(&store, Some(&base.chain_id));
    assert_eq!(commit_active(&store, "c").unwrap(), None);
    // What a start leaves behind is no change either.
    std::fs::write(layers.upper.join(".dockerenv"), "").unwrap();
    for directory in ["etc", "proc", "sys", "dev"] {
        std::fs::create_dir(layers.upper.join(directory)).unwrap();
    }
    for file in ["hosts", "hostname", "resolv.conf"] {
        std::fs::write(layers.upper.join("etc").join(file), "").unwrap();
    }
    assert_eq!(commit_active(&store, "c").unwrap(), None);
    assert_eq!(active_changes(&store, "c").unwrap(), []);
    // But what somebody wrote there is.
    std::fs::write(layers.upper.join("etc/hosts"), "x").unwrap();
    std::fs::write(layers.upper.join("etc/own"), "").unwrap();
    let made = commit_active(&store, "c").unwrap().unwrap();
    let listing: Vec<String> = common::listing(&common::diff(&store, &made.chain_id)).into_keys().collect();
    assert_eq!(listing, ["etc", "etc/hosts", "etc/own"]);
    let changes = active_changes(&store, "c").unwrap();
    assert_eq!(shown(&changes), ["C /etc", "A /etc/hosts", "A /etc/own"]);
    assert_eq!(commit_active(&store, "nobody").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(brig_store::empty_layer(), brig_store::digest::sha256_of(&[0; 1024]));
}

fn shown(changes: &[Change]) -> Vec<String> {
    let letter = |kind| match kind {
        ChangeKind::Modified => 'C',
        ChangeKind::Added => 'A',
        ChangeKind::Deleted => 'D',
    };
    changes.iter().map(|change| format!("{} {}", letter(change.kind), change.path.display())).collect()
}

/// The merged files as one archive.
fn merged(store: &Store, layers: &Layers) -> Vec<u8> {
    let mut tar = Vec::new();
    store.view(layers).unwrap().write_tar(&mut tar).unwrap();
    tar
}

#[test]
fn what_was_removed_stays_removed() {
    let (_dir, store) = common::open();
    let below = Tar::new()
        .dir("gone/", 0o755)
        .file("gone/x", b"1")
        .dir("new/", 0o755)
        .file("new/old", b"2")
        .file("file", b"3")
        .dir("kept/", 0o700)
        .file("kept/a", b"4")
        .file("kept/b", b"5");
    let base = common::layer(&store, &below.finish(), None);
    let layers = active(&store, Some(&base.chain_id));
    whiteout(&layers.upper.join("gone"));
    whiteout(&layers.upper.join("never"));
    std::fs::create_dir(layers.upper.join("new")).unwrap();
    set(&layers.upper.join("new"), "trusted.overlay.opaque", b"y");
    std::fs::write(layers.upper.join("new/fresh"), "6").unwrap();
    std::fs::write(layers.upper.join("file"), "7").unwrap();
    std::fs::create_dir(layers.upper.join("kept")).unwrap();
    std::fs::set_permissions(layers.upper.join("kept"), PermissionsExt::from_mode(0o700)).unwrap();
    whiteout(&layers.upper.join("kept/a"));
    // overlayfs shares one inode between whiteouts.
    std::fs::hard_link(layers.upper.join("kept/a"), layers.upper.join("kept/c")).unwrap();
    let before = merged(&store, &layers);
    let info = commit_active(&store, "c").unwrap().unwrap();
    let again = store.prepare("again", Some(&info.chain_id)).unwrap();
    assert_eq!(merged(&store, &again), before);
    let changes = active_changes(&store, "c").unwrap();
    let expected = ["C /file", "D /gone", "C /kept", "D /kept/a", "C /new", "A /new/fresh", "D /new/old"];
    assert_eq!(shown(&changes), expected);
    assert_eq!(active_changes(&store, "again").unwrap(), []);
}

#[test]
fn what_a_layer_cannot_hold_is_refused() {
    let (_dir, store) = common::open();
    let layers = active(&store, None);
    std::fs::create_dir(layers.upper.join("d")).unwrap();
    std::fs::write(layers.upper.join("d/.wh.x"), "").unwrap();
    let error = commit_active(&store, "c").unwrap_err();
    assert!(error.kind == ErrorKind::Invalid && error.message.starts_with("/d/.wh.x: "), "{error}");
    // In an archive of files it is a name like any other.
    assert!(merged(&store, &layers).windows(8).any(|bytes| bytes == b"d/.wh.x\0"));
    std::fs::remove_file(layers.upper.join("d/.wh.x")).unwrap();
    std::fs::write(layers.upper.join("d/file"), "").unwrap();
    set(&layers.upper.join("d/file"), "user.a=b", b"c");
    let error = commit_active(&store, "c").unwrap_err();
    assert!(error.message.starts_with("/d/file: extended attribute user.a=b has a ="), "{error}");
    std::fs::remove_file(layers.upper.join("d/file")).unwrap();
    let path = CWD;
    let mut fd = rustix::fs::openat(path, layers.upper.join("d"), rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    for depth in 0..6000 {
        rustix::fs::mkdirat(&fd, "d", Mode::from_raw_mode(0o755)).unwrap();
        fd = rustix::fs::openat(&fd, "d", rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
        if depth == 2000 {
            // Deep, but with a path that there may be.
            commit_active(&store, "c").unwrap().unwrap();
        }
    }
    let error = commit_active(&store, "c").unwrap_err();
    assert!(error.message.contains("at most 4095"), "{error}");
    assert_eq!(common::count(&store, "ingest"), 0, "nothing is left");
}

#[test]
fn holes_cost_nothing() {
    let (_dir, store) = common::open();
    let layers = active(&store, None);
    let file = std::fs::File::create(layers.upper.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 300_000_000).unwrap();
    struct Count(u64);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    store.view(&layers).unwrap().write_tar(&mut count).unwrap();
    assert_eq!(count.0, 512 + 300_000_001u64.next_multiple_of(512) + 1024 + 1024, "PAX header with the time");
}

#[test]
fn a_container_may_go_on() {
    let (_dir, store) = common::open();
    let layers = active(&store, None);
    let work = layers.upper.join("work");
    std::fs::create_dir(&work).unwrap();
    std::fs::write(layers.work.join("secret"), "outside").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut round = 0u32;
            while !done.load(Ordering::Relaxed) {
                round += 1;
                let name = work.join(format!("{}", round % 50));
                drop(std::fs::remove_dir_all(&name).or_else(|_| std::fs::remove_file(&name)));
                match round % 5 {
                    0 => std::fs::create_dir(&name).unwrap(),
                    1 => symlink("/", &name).unwrap(),
                    2 => symlink("../../work", &name).unwrap(),
                    3 => run(Command::new("mkfifo").arg(&name)),
                    _ => std::fs::write(&name, vec![1; (round % 7) as usize * 50_000]).unwrap(),
                }
                let other = work.join(format!("{}", (round + 13) % 50));
                drop(std::fs::rename(&name, other));
            }
        });
        for _ in 0..40 {
            let info = commit_active(&store, "c").unwrap().unwrap();
            let listing = common::listing(&common::diff(&store, &info.chain_id));
            assert!(!listing.keys().any(|path| path.contains("secret")), "{listing:?}");
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// One thing that a container does to a file.
#[derive(Debug, Clone)]
enum Deed {
    Write(Vec<u8>, u32),
    Make(u32),
    Link(String),
    Fifo,
    Hard(String),
    Remove,
    Replace,
    Touch(i64, u32),
    Own(u32, u32),
    Attribute(Vec<u8>),
}

fn deeds() -> impl Strategy<Value = Vec<(String, Deed)>> {
    let name = "[a-c]{1,2}(/[a-c]{1,2}){0,3}|[a-zé]{90,120}";
    let deed = prop_oneof![
        (prop::collection::vec(any::<u8>(), 0..1500), 0u32..0o10000).prop_map(|(body, mode)| Deed::Write(body, mode)),
        (0u32..0o10000).prop_map(Deed::Make),
        "[a-z./]{1,120}".prop_map(Deed::Link),
        Just(Deed::Fifo),
        "[a-c]{1,2}(/[a-c]{1,2}){0,3}".prop_map(Deed::Hard),
        Just(Deed::Remove),
        Just(Deed::Replace),
        (-(1i64 << 31)..1 << 33, 0u32..1_000_000_000).prop_map(|(seconds, rest)| Deed::Touch(seconds, rest)),
        (any::<u16>(), any::<u16>()).prop_map(|(uid, gid)| Deed::Own(uid.into(), gid.into())),
        prop::collection::vec(any::<u8>(), 1..300).prop_map(Deed::Attribute),
    ];
    prop::collection::vec((name, deed), 1..30)
}

/// Does it in a mounted overlay, as a container would; what the kernel refuses does not happen.
fn act(root: &Path, deeds: &[(String, Deed)]) {
    for (name, deed) in deeds {
        let path = root.join(name);
        let parent = path.parent().unwrap();
        drop(std::fs::create_dir_all(parent));
        // Only what is really in the tree: links of the tree may lead out of it here.
        if !parent.canonicalize().is_ok_and(|real| real.starts_with(root)) || (path.is_symlink() && !path.exists()) {
            continue;
        }
        let is_link = path.is_symlink();
        let clear = || drop(std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path)));
        let permit = |mode: u32| drop(std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)));
        match deed {
            Deed::Write(..) | Deed::Attribute(_) | Deed::Touch(..) | Deed::Own(..) if is_link => {}
            Deed::Write(body, mode) => {
                // Opening a pipe would wait.
                if !path.exists() || path.is_file() {
                    drop(std::fs::write(&path, body));
                    permit(*mode);
                }
            }
            Deed::Make(mode) => {
                if std::fs::create_dir(&path).is_ok() {
                    permit(*mode);
                }
            }
            Deed::Link(target) => drop(symlink(target, &path)),
            Deed::Fifo => drop(rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o640), 0).ok()),
            Deed::Hard(other) => {
                let other = root.join(other);
                if other.parent().unwrap().canonicalize().is_ok_and(|real| real.starts_with(root)) {
                    drop(std::fs::hard_link(other, &path));
                }
            }
            Deed::Remove => clear(),
            Deed::Replace => {
                clear();
                drop(std::fs::create_dir(&path));
            }
            Deed::Touch(seconds, rest) => {
                let time = rustix::fs::Timespec { tv_sec: *seconds, tv_nsec: (*rest).into() };
                let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
                rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).ok();
            }
            Deed::Own(uid, gid) => drop(std::os::unix::fs::lchown(&path, Some(*uid), Some(*gid))),
            Deed::Attribute(value) => drop(rustix::fs::lsetxattr(&path, "user.a", value, XattrFlags::empty()).ok()),
        }
    }
}

/// A mounted overlay of these layers, in a directory of its own.
struct Mounted(PathBuf);

impl Mounted {
    fn new(layers: &Layers, at: &Path) -> Mounted {
        std::fs::create_dir_all(at).unwrap();
        let lower: Vec<String> = layers.lower.iter().map(|path| path.display().to_string()).collect();
        let (upper, work) = (layers.upper.display(), layers.work.display());
        let options = format!(
            "lowerdir={},upperdir={upper},workdir={work},redirect_dir=off,metacopy=off,index=off",
            lower.join(":")
        );
        run(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(at));
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a child that a test beside this one is just starting may have a file open there for another moment.
        run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(40), failure_persistence: None, ..ProptestConfig::default() })]

    /// A container on an image on an image: what it sees is what a container made from its commit sees.
    #[test]
    fn any_changes_come_back(rounds in prop::collection::vec(deeds(), 3)) {
        let (dir, store) = common::open();
        let mut chain = Some(common::layer(&store, &Tar::new().dir("a/", 0o755).file("a/b", b"x").finish(), None).chain_id);
        for (number, deeds) in rounds.iter().enumerate() {
            let key = format!("c{number}");
            let layers = store.prepare(&key, chain.as_ref()).unwrap();
            let mounted = Mounted::new(&layers, &dir.path().join(&key));
            act(&mounted.0.canonicalize().unwrap(), deeds);
            drop(mounted);
            let before = merged(&store, &layers);
            let info = commit_active(&store, &key).unwrap();
            prop_assert_eq!(commit_active(&store, &key).unwrap(), info.clone(), "the same again");
            prop_assert!(info.as_ref().is_none_or(|info| common::serves_all(&store, &info.chain_id)));
            chain = info.map_or(chain, |info| Some(info.chain_id));
            let again = store.prepare(&format!("{key}.again"), chain.as_ref()).unwrap();
            let after = merged(&store, &again);
            prop_assert!(before == after, "{}", differences(&before, &after));
            prop_assert_eq!(active_changes(&store, &format!("{key}.again")).unwrap(), []);
            // And the archive of all is a layer of its own, which shows the same.
            let alone = common::layer(&store, &before, None);
            let alone = store.prepare(&format!("{key}.alone"), Some(&alone.chain_id)).unwrap();
            let alone = merged(&store, &alone);
            prop_assert!(before == alone, "{}", differences(&before, &alone));
        }
    }
}

/// What two archives list differently, for people.
fn differences(a: &[u8], b: &[u8]) -> String {
    let members = |bytes: &[u8]| {
        let mut archive = brig_store::tar::Archive::new(bytes);
        let mut all = Vec::new();
        while let Some(member) = archive.next_member().unwrap() {
            all.push(format!("{member:?}"));
        }
        all
    };
    let (a, b) = (members(a), members(b));
    let only = |one: &[String], other: &[String]| one.iter().filter(|line| !other.contains(line)).cloned().collect();
    let (left, right): (Vec<String>, Vec<String>) = (only(&a, &b), only(&b, &a));
    format!("before:\n{}\nafter:\n{}", left.join("\n"), right.join("\n"))
}
