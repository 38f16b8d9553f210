//! Archives that try to get out, to confuse, or to exhaust. After each one a canary beside the store is untouched and
//! nothing is left behind.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use brig_store::{Error, ErrorKind, Store};
use common::{Entry, Tar, header};

/// A store with something beside it that must not be touched.
struct Scene {
    dir: tempfile::TempDir,
    store: Store,
}

impl Scene {
    fn new() -> Scene {
        Scene::beneath(&std::env::temp_dir())
    }

    fn beneath(directory: &Path) -> Scene {
        let dir = tempfile::tempdir_in(directory).unwrap();
        std::fs::create_dir(dir.path().join("host")).unwrap();
        std::fs::write(dir.path().join("host/canary"), b"alive").unwrap();
        let store = Store::open(&dir.path().join("v1")).unwrap();
        Scene { dir, store }
    }

    /// Absolute path of the canary, in the host's view.
    fn canary(&self) -> PathBuf {
        self.dir.path().join("host/canary")
    }

    fn check(&self) {
        assert_eq!(std::fs::read(self.canary()).unwrap(), b"alive");
        let metadata = self.canary().metadata().unwrap();
        assert_eq!((metadata.nlink(), metadata.mode() & 0o777), (1, 0o644));
        let names: Vec<_> = std::fs::read_dir(self.dir.path().join("host")).unwrap().collect();
        assert_eq!(names.len(), 1);
        assert_eq!(std::fs::read_dir(self.dir.path()).unwrap().count(), 2);
    }

    /// Unpacks and commits; gives what is in the layer.
    fn accept(&self, tar: Tar) -> std::collections::BTreeMap<String, String> {
        let info = common::layer(&self.store, &tar.finish(), None);
        self.check();
        common::listing(&common::diff(&self.store, &info.chain_id))
    }

    fn refuse(&self, tar: Tar) -> Error {
        self.refuse_bytes(&tar.finish())
    }

    #[track_caller]
    fn refuse_bytes(&self, tar: &[u8]) -> Error {
        let outcome = common::unpack(&self.store, tar).and_then(|ingest| self.store.commit_layer(ingest, None));
        let error = outcome.expect_err("must be refused");
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        self.check();
        self.store.wait_for_removals();
        assert_eq!(common::count(&self.store, "ingest") + common::count(&self.store, "trash"), 0);
        error
    }
}

fn names(listing: &std::collections::BTreeMap<String, String>) -> Vec<&str> {
    listing.keys().map(String::as_str).collect()
}

#[test]
fn names_are_cleaned_or_refused() {
    let scene = Scene::new();
    for name in ["/etc/x", "//etc/x", "./etc/x", "etc/./x", "etc//x", "a/../etc/x"] {
        assert_eq!(names(&scene.accept(Tar::new().file(name, b""))), ["etc", "etc/x"], "{name}");
    }
    for name in ["../x", "a/../../x", "..", "/..", "a/../..", "../host/canary"] {
        scene.refuse(Tar::new().file(name, b""));
        scene.refuse(Tar::new().dir(name, 0o755));
        scene.refuse(Tar::new().symlink(name, "x"));
    }
    for name in [".", "./", "/", "a/.."] {
        scene.refuse(Tar::new().symlink(name, "/etc"));
        scene.refuse(Tar::new().link(name, "x"));
        scene.refuse(Tar::new().device(name, b'3', (1, 3)));
    }
    assert!(scene.accept(Tar::new().dir("./", 0o700)).is_empty());
    scene.refuse(Tar::new().file(&"x".repeat(256), b""));
    scene.refuse(Tar::new().file(&"x/".repeat(2100), b""));
    let odd = [&b"caf\xe9"[..], b"new\nline", b"tab\t\x1b[31m", b"back\\slash", b"dot. ", b"A", b"a"];
    let mut tar = Tar::new();
    for name in odd {
        tar = tar.entry(&Entry { name, ..Entry::default() });
    }
    assert_eq!(scene.accept(tar).len(), odd.len());
    assert_eq!(scene.accept(Tar::new().file(&"long/".repeat(700), b"")).len(), 700);
}

#[test]
fn links_in_the_way_stay_inside() {
    let scene = Scene::new();
    let host = scene.dir.path().join("host");
    let host = host.to_str().unwrap();
    for target in [host, "../../../../host", "../../../../../../../../../../../../tmp", "/"] {
        let listing =
            scene.accept(Tar::new().symlink("l", target).file("l/canary", b"evil").file("l/sub/new", b"evil"));
        assert!(listing["l"].starts_with("link"), "{listing:?}");
    }
    // The last component is never followed.
    let listing = scene.accept(Tar::new().symlink("l", &format!("{host}/canary")).file("l", b"evil"));
    assert!(listing["l"].starts_with("file"));
    let listing = scene.accept(Tar::new().symlink("l", host).dir("l", 0o700).file("l/x", b""));
    assert!(listing["l"].starts_with("dir") && listing.contains_key("l/x"));
    // Chains, loops, and what is no directory.
    let chain = Tar::new().symlink("a", "b").symlink("b", "/c").symlink("c", "../../d").file("a/x", b"");
    assert!(scene.accept(chain).contains_key("d/x"));
    scene.refuse(Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b""));
    scene.refuse(Tar::new().symlink("a", "a").file("a/x", b""));
    scene.refuse(Tar::new().file("f", b"").file("f/x", b""));
    scene.refuse(Tar::new().symlink("e", ""));
    scene.refuse(Tar::new().entry(&Entry { name: b"e", link: &[b'x'; 4096], kind: b'2', ..Entry::default() }));
    // A magic link of the kernel's is a link like others.
    let listing = scene.accept(Tar::new().symlink("p", "/proc/self/cwd").file("p/x", b""));
    assert!(listing.contains_key("proc/self/cwd/x"));
}

#[test]
fn a_directory_swapped_for_a_link_is_seen() {
    let scene = Scene::new();
    let host = scene.dir.path().join("host");
    // The parent is in use when it is replaced; what follows must not go to where it was, nor out.
    let tar =
        Tar::new().file("d/a", b"").symlink("d", host.to_str().unwrap()).file("d/canary", b"evil").whiteout("d/canary");
    scene.accept(tar);
    let tar = Tar::new().dir("x", 0o755).symlink("d", "x").file("d/a", b"").symlink("d", "/y").file("d/b", b"");
    assert_eq!(names(&scene.accept(tar)), ["d", "x", "x/a", "y", "y/b"]);
}

#[test]
fn hard_links_stay_inside() {
    let scene = Scene::new();
    let canary = scene.canary();
    for target in [canary.to_str().unwrap(), "../../../host/canary", "../host/canary", "/etc/shadow", "absent"] {
        scene.refuse(Tar::new().link("x", target));
    }
    let through = Tar::new().symlink("out", scene.dir.path().join("host").to_str().unwrap()).link("x", "out/canary");
    scene.refuse(through);
    scene.refuse(Tar::new().dir("d", 0o755).link("x", "d"));
    scene.refuse(Tar::new().link("x", "x"));
    scene.refuse(Tar::new().file("x", b"").link("x", "x"));
    scene.refuse(Tar::new().link("x", "/"));
    scene.refuse(Tar::new().whiteout("gone").link("x", "gone"));
    // Of a link that leads out, the link itself is linked.
    let listing = scene.accept(Tar::new().symlink("l", canary.to_str().unwrap()).link("x", "l").file("x", b"evil"));
    assert!(listing["l"].starts_with("link") && listing["x"].starts_with("file"));
    let listing = scene.accept(Tar::new().file("a", b"1").link("/b", "/a").link("c", "./b").file("b", b"2"));
    assert_eq!(listing["a"], listing["c"]);
    assert_ne!(listing["a"], listing["b"]);
    // A body that a link should not have is not there, as for Go: the next header follows at once.
    let link = Entry { name: b"h", link: b"a", kind: b'1', ..Entry::default() };
    let tar = Tar::new().file("a", b"1").bytes(&header(&link, 512)).file("after", b"");
    assert!(scene.accept(tar).contains_key("after"));
}

#[test]
fn whiteouts_cannot_be_abused() {
    let scene = Scene::new();
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", ".wh./x", ".wh.x/y", "d/.wh.../x"] {
        scene.refuse(Tar::new().file(name, b""));
    }
    let out = scene.dir.path().join("host");
    scene.accept(Tar::new().symlink("l", out.to_str().unwrap()).whiteout("l/canary"));
    scene.accept(Tar::new().symlink("l", out.to_str().unwrap()).file("l/.wh..wh..opq", b""));
    // Opaque never hides what the same layer has, whatever the order, and neither does a whiteout.
    let tar = Tar::new().file("d/a", b"").file("d/.wh..wh..opq", b"").file("d/b", b"").whiteout("d/a").whiteout("d/b");
    let listing = scene.accept(tar);
    assert!(listing["d/a"].starts_with("file") && listing["d/b"].starts_with("file"));
    let by_type = Tar::new().dir(".wh.x", 0o755).symlink(".wh.y", "/etc");
    assert!(scene.accept(by_type).values().all(|text| text.starts_with("node 0")));
    let many = (0..20_000).fold(Tar::new(), |tar, _| tar.file("d/.wh..wh..opq", b""));
    scene.accept(many);
    scene.refuse(Tar::new().device("w", b'3', (0, 0)));
}

#[test]
fn devices_are_made_as_said_or_refused() {
    let scene = Scene::new();
    let listing =
        scene.accept(Tar::new().device("null", b'3', (1, 3)).device("sda", b'4', (8, 0)).device("p", b'6', (9, 9)));
    assert!(listing["null"].starts_with("node 103 600") && listing["p"].starts_with("fifo"), "{listing:?}");
    scene.refuse(Tar::new().device("x", b'3', (0o777_7777, 1)));
    for kind in *b"7DMVNZX" {
        let error = scene.refuse(Tar::new().entry(&Entry { name: b"x", kind, ..Entry::default() }));
        assert!(error.message.contains("unsupported"), "{error}");
    }
    // A pipe in the way is replaced, never opened.
    let listing = scene.accept(Tar::new().device("p", b'6', (0, 0)).file("p", b"x"));
    assert!(listing["p"].starts_with("file"));
}

#[test]
fn the_last_of_several_wins() {
    let scene = Scene::new();
    let listing = scene.accept(Tar::new().file("x", b"1").file("x", b"22").dir("y", 0o700).dir("y", 0o711));
    assert!(listing["y"].starts_with("dir 711"));
    let tar =
        Tar::new().file("x", b"1").dir("x", 0o755).file("x/a", b"").file("x", b"3").dir("z", 0o700).symlink("z", "x");
    let info = common::layer(&scene.store, &tar.finish(), None);
    assert_eq!(info.size_bytes, 1);
    assert_eq!(names(&common::listing(&common::diff(&scene.store, &info.chain_id))), ["x", "z"]);
    let many = (0..3000).fold(Tar::new(), |tar, _| tar.file("same", b"x"));
    assert_eq!(scene.accept(many).len(), 1);
}

#[test]
fn modes_owners_and_times_have_ranges() {
    let scene = Scene::new();
    let with = |mode, owner| Tar::new().entry(&Entry { name: b"x", mode, owner, ..Entry::default() });
    assert!(scene.accept(with(0o7777, (1, 2)))["x"].contains(" 7777 1:2 "));
    assert!(scene.accept(with(0o104_755, (70_000, 4_294_967_294)))["x"].contains(" 4755 70000:4294967294 "));
    scene.refuse(with(0o644, (u32::MAX, 0)));
    scene.refuse(with(0o644, (0, u32::MAX)));
    let pax = |key: &[u8], value: &[u8]| Tar::new().pax(&[(key, value)]).file("x", b"");
    for uid in ["4294967296", "9223372036854775807", "-1", "1x", "+1"] {
        scene.refuse(pax(b"uid", uid.as_bytes()));
        scene.refuse(pax(b"gid", uid.as_bytes()));
    }
    assert!(scene.accept(pax(b"mtime", b"1.000000001"))["x"].ends_with(" 1.000000001"));
    assert!(scene.accept(pax(b"mtime", b"1.9999999999"))["x"].ends_with(" 1.999999999"));
    assert!(scene.accept(pax(b"mtime", b"-1.5"))["x"].ends_with(" -2.500000000"));
    for far in ["253402300800", "9223372036854775807", "-9223372036854775807"] {
        scene.accept(pax(b"mtime", far.as_bytes()));
    }
    scene.refuse(pax(b"mtime", b"NaN"));
    let mut ingest = scene.store.begin_layer().unwrap();
    let tar = with(0o644, (65_536, 0)).file("y", b"").finish();
    assert_eq!(ingest.unpack(&tar[..]).unwrap().foreign_ids, 1);
}

#[test]
fn pax_cannot_hide_members_or_change_others() {
    let scene = Scene::new();
    // The size in the PAX header is the one that counts; what is beyond it is a member.
    let inner = Tar::new().file("hidden", b"").finish();
    let tar = Tar::new()
        .pax(&[(b"size", inner.len().to_string().as_bytes())])
        .bytes(&header(&Entry { name: b"outer", ..Entry::default() }, 0))
        .body(&inner)
        .file("after", b"");
    assert_eq!(names(&scene.accept(tar)), ["after", "outer"]);
    let tar = Tar::new()
        .pax(&[(b"size", b"0")])
        .bytes(&header(&Entry { name: b"outer", ..Entry::default() }, inner.len() as u64))
        .body(&inner);
    assert_eq!(names(&scene.accept(tar)), ["hidden", "outer"]);
    // It is about the next member, not about an extension header between.
    let tar =
        Tar::new().pax(&[(b"size", b"0")]).entry(&Entry { name: &[b'n'; 150], ..Entry::default() }).file("after", b"");
    assert_eq!(scene.accept(tar).len(), 2);
    // Global headers change nothing.
    let global = Tar::new().raw(b'g', b"18 path=../evil/x\n11 size=99\n").file("x", b"body");
    assert_eq!(names(&scene.accept(global)), ["x"]);
    for (key, value) in [
        (&b"path"[..], &b"../evil"[..]),
        (b"path", b"a\0b"),
        (b"linkpath", b"a\0b"),
        (b"size", b"-1"),
        (b"size", b"9223372036854775808"),
        (b"size", b"1e3"),
    ] {
        scene.refuse(Tar::new().pax(&[(key, value)]).file("x", b""));
    }
    for broken in ["5 a=b\n", "x a=b\n", "99 a=b\n", "6 a=b ", "0 a=b\n", "18446744073709551615 a=b\n"] {
        scene.refuse(Tar::new().raw(b'x', broken.as_bytes()).file("x", b""));
    }
    let empty = Tar::new().pax(&[(b"path", b""), (b"size", b""), (b"path", b"")]).file("own", b"");
    assert_eq!(names(&scene.accept(empty)), ["own"]);
    scene.refuse_bytes(&Tar::new().pax(&[(b"path", b"x")]).finish());
    // A huge one is refused by its declared size, before it is read.
    for kind in *b"xgLK" {
        let error = scene.refuse_bytes(&header(&Entry { name: b"big", kind, ..Entry::default() }, 8 << 30));
        assert!(error.message.contains("at most"), "{error}");
    }
}

#[test]
fn attributes_that_steer_overlayfs_are_dropped() {
    let scene = Scene::new();
    let capability = [1, 0, 0, 3, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xe8, 3, 0, 0];
    let tar = Tar::new()
        .pax(&[
            (b"SCHILY.xattr.security.capability", &capability),
            (b"SCHILY.xattr.user.note", b"a\nb=c"),
            (b"SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            (b"SCHILY.xattr.trusted.overlay.opaque", b"y"),
            (b"SCHILY.xattr.user.overlay.opaque", b"y"),
            (b"SCHILY.xattr.security.selinux", b"x"),
        ])
        .file("x", b"")
        .pax(&[(b"SCHILY.xattr.trusted.overlay.opaque", b"y")])
        .dir("d", 0o755)
        .pax(&[(b"SCHILY.xattr.user.note", b"on a link")])
        .symlink("l", "x")
        .finish();
    let mut ingest = scene.store.begin_layer().unwrap();
    assert_eq!(ingest.unpack(&tar[..]).unwrap().ignored_xattrs, 6);
    let info = scene.store.commit_layer(ingest, None).unwrap();
    let file = common::diff(&scene.store, &info.chain_id).join("x");
    let value = common::xattr(&file, "security.capability").unwrap();
    assert_eq!(value, [&[1, 0, 0, 2][..], &capability[4..20]].concat(), "for whichever root it is mounted for");
    assert_eq!(common::xattr(&file, "user.note").unwrap(), b"a\nb=c");
    for name in ["trusted.overlay.redirect", "trusted.overlay.opaque", "user.overlay.opaque"] {
        assert_eq!(common::xattr(&file, name), None);
        assert_eq!(common::xattr(&file.with_file_name("d"), name), None);
    }
    scene.refuse(Tar::new().pax(&[(b"SCHILY.xattr.user.x", &[0; 65_537])]).file("x", b""));
    scene.refuse(Tar::new().pax(&[(&[b"SCHILY.xattr.user.".as_slice(), &[b'x'; 256]].concat(), b"")]).file("x", b""));
    scene.refuse(Tar::new().pax(&[(b"SCHILY.xattr.security.capability", b"junk")]).file("x", b""));
}

#[test]
fn sparse_files_are_checked() {
    let scene = Scene::new();
    let sparse = |records: &[(&[u8], &[u8])], body: &[u8]| Tar::new().pax(records).file("GNUSparseFile.0/x", body);
    let version = |map: &'static [u8]| -> Vec<(&'static [u8], &'static [u8])> {
        vec![(b"GNU.sparse.size", b"10000"), (b"GNU.sparse.name", b"x"), (b"GNU.sparse.map", map)]
    };
    let info = common::layer(&scene.store, &sparse(&version(b"0,2,9000,3"), b"abcde").finish(), None);
    let content = std::fs::read(common::diff(&scene.store, &info.chain_id).join("x")).unwrap();
    assert!(content.len() == 10_000 && content.starts_with(b"ab\0") && content[9000..].starts_with(b"cde\0"));
    for map in [
        &b"0,2,1,3"[..],
        b"9000,3,0,2",
        b"0,2,9998,3",
        b"0,2,9000,4",
        b"0,2,9000",
        b"0,x,1,1",
        b"18446744073709551615,5",
    ] {
        scene.refuse(sparse(&version(map), b"abcde"));
    }
    let v1: [(&[u8], &[u8]); 4] = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"x"),
        (b"GNU.sparse.realsize", b"1099511627777"),
    ];
    let mut body = b"1\n0\n4\n".to_vec();
    body.resize(512, 0);
    body.extend_from_slice(b"data");
    let error = scene.refuse(sparse(&v1, &body));
    assert!(error.message.contains("at most"), "{error}");
    let small = [v1[0], v1[1], v1[2], (&b"GNU.sparse.realsize"[..], &b"1000000000"[..])];
    let info = common::layer(&scene.store, &sparse(&small, &body).finish(), None);
    let metadata = common::diff(&scene.store, &info.chain_id).join("x").metadata().unwrap();
    assert!(metadata.len() == 1_000_000_000 && metadata.blocks() < 100, "holes stay holes");
    scene.refuse(sparse(&small, b"999999999\n"));
    scene.refuse(sparse(&small, &b"1\n".repeat(10)));
    scene.check();
}

#[test]
fn cuts_are_never_a_layer() {
    let scene = Scene::new();
    let whole =
        Tar::new().dir("d", 0o755).file("d/a", &[1; 700]).pax(&[(b"path", b"d/long")]).file("x", &[2; 100]).finish();
    let diff_id = brig_store::digest::sha256_of(&whole);
    for cut in (0..whole.len()).step_by(7).chain([511, 512, 513, 1024]) {
        let mut ingest = scene.store.begin_layer().unwrap();
        if let Ok(unpacked) = ingest.unpack(&whole[..cut]) {
            assert_ne!(unpacked.diff_id, diff_id, "cut at {cut}");
            assert!(cut % 512 == 0 || cut > whole.len() - 1024, "cut at {cut}");
        }
    }
    let noise = [b"garbage".repeat(200), whole.clone()].concat();
    scene.refuse_bytes(&noise);
    let mut damaged = whole.clone();
    damaged[0] ^= 1;
    scene.refuse_bytes(&damaged);
    let lone = [&whole[..512], &[0; 512], &whole[512..]].concat();
    scene.refuse_bytes(&lone);
    // What follows the end is hashed and otherwise ignored.
    let trailing = [&whole[..], b"trailing"].concat();
    let mut ingest = scene.store.begin_layer().unwrap();
    assert_eq!(ingest.unpack(&trailing[..]).unwrap().diff_id, brig_store::digest::sha256_of(&trailing));
    // A stream that breaks is an error with its own words.
    struct Breaks<'a>(&'a [u8]);
    impl std::io::Read for Breaks<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match std::io::Read::read(&mut self.0, buffer)? {
                0 => Err(std::io::Error::other("the line went dead")),
                length => Ok(length),
            }
        }
    }
    let mut ingest = scene.store.begin_layer().unwrap();
    let error = ingest.unpack(Breaks(&whole[..600])).unwrap_err();
    assert!(error.kind == ErrorKind::Io && error.message.contains("went dead"), "{error}");
    assert!(ingest.unpack(&whole[..]).is_err() && scene.store.commit_layer(ingest, None).is_err());
    scene.check();
}

#[test]
fn a_hundred_thousand_members() {
    // In memory where there is some: this is about the program, not about the disk.
    let memory = Path::new("/dev/shm");
    let scene = if memory.is_dir() { Scene::beneath(memory) } else { Scene::new() };
    let mut tar = Tar::new();
    for index in 0..100_000 {
        tar =
            tar.bytes(&header(&Entry { name: format!("d{}/{index}", index / 1000).as_bytes(), ..Entry::default() }, 0));
    }
    let mut ingest = scene.store.begin_layer().unwrap();
    assert_eq!(ingest.unpack(&tar.finish()[..]).unwrap().entries, 100_000);
    drop(ingest);
    scene.store.wait_for_removals();
    assert_eq!(common::count(&scene.store, "ingest"), 0);
}

#[test]
fn layers_above_links_of_layers_below_stay_apart() {
    let scene = Scene::new();
    let host = scene.dir.path().join("host");
    let base = common::layer(&scene.store, &Tar::new().symlink("l", host.to_str().unwrap()).finish(), None);
    let upper = Tar::new().file("l/canary", b"evil").link("x", "l/canary").finish();
    let upper = common::layer(&scene.store, &upper, Some(&base.chain_id));
    assert!(common::diff(&scene.store, &upper.chain_id).join("l").is_dir());
    let through = common::unpack(&scene.store, &Tar::new().link("x", "l/canary").finish()).unwrap();
    assert!(scene.store.commit_layer(through, Some(&base.chain_id)).is_err());
    scene.check();
}

#[test]
fn what_is_left_for_last_finds_its_place() {
    let scene = Scene::new();
    let device = |name: &'static str, kind, numbers| (name, kind, numbers);
    let (zero, disk) = (device("zero", b'3', (1, 5)), device("disk", b'4', (7, 3)));
    let node = |tar: Tar, (name, kind, device): (&'static str, u8, (u32, u32))| {
        tar.entry(&Entry { name: name.as_bytes(), kind, device, mode: 0o640, owner: (3, 4), ..Entry::default() })
    };
    // Under each of its names, whether or not the path that led to them still does.
    let tar = node(node(Tar::new().dir("a", 0o755).symlink("l", "a"), zero), ("l/disk", disk.1, disk.2))
        .link("a/zero", "zero")
        .link("l/more", "l/disk")
        .entry(&Entry { name: b"l", kind: b'5', mode: 0o755, ..Entry::default() })
        .file("l/.wh..wh..opq", b"");
    let listing = scene.accept(tar);
    for name in ["zero", "a/zero"] {
        assert_eq!(listing[name], "node 105 640 3:4 1600000000.000000000");
    }
    for name in ["a/disk", "a/more"] {
        assert_eq!(listing[name], "node 703 640 3:4 1600000000.000000000", "{listing:?}");
    }
    assert!(listing["a"].ends_with(" 1600000000.000000000"), "its time is the archive's: {}", listing["a"]);
    // The number of something that was replaced may be another's at once.
    let tar = (0..50).fold(Tar::new(), |tar, index| {
        let tar = node(tar, ("x", b'3', (1, index + 1))).pax(&[(b"SCHILY.xattr.security.capability", &CAPABILITY)]);
        tar.entry(&Entry { name: b"y", ..Entry::default() }).file("y", b"")
    });
    let info = common::layer(&scene.store, &tar.finish(), None);
    let diff = common::diff(&scene.store, &info.chain_id);
    assert!(common::listing(&diff)["x"].starts_with("node 132 "));
    assert_eq!(common::xattr(&diff.join("y"), "security.capability"), None);
    // A directory's default ACL is for what is made in it later on, not for members.
    let acl: Vec<u8> = [(1u16, 7u16, u32::MAX), (2, 7, 5), (4, 5, u32::MAX), (0x10, 7, u32::MAX), (0x20, 5, u32::MAX)]
        .iter()
        .flat_map(|(tag, rights, id)| [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat())
        .collect();
    let acl = [&2u32.to_le_bytes()[..], &acl].concat();
    let tar = Tar::new().pax(&[(b"SCHILY.xattr.system.posix_acl_default", &acl)]).dir("d", 0o755).file("d/x", b"");
    let info = common::layer(&scene.store, &tar.finish(), None);
    let diff = common::diff(&scene.store, &info.chain_id);
    assert_eq!(common::xattr(&diff.join("d"), "system.posix_acl_default").unwrap(), acl);
    assert_eq!(common::xattr(&diff.join("d/x"), "system.posix_acl_access"), None);
    // A mark through a link that is gone.
    let tar = Tar::new().dir("d", 0o755).symlink("l", "d").file("l/.wh..wh..opq", b"").file("l", b"");
    let info = common::layer(&scene.store, &tar.finish(), None);
    let diff = common::diff(&scene.store, &info.chain_id);
    assert_eq!(common::xattr(&diff.join("d"), "trusted.overlay.opaque").unwrap(), b"y");
}

const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
#[ignore = "a gigabyte of headers, half a minute: cargo test -p brig-store --test hostile -- --ignored"]
fn members_have_an_end() {
    // Names of aufs' own are left out: members that cost nothing but the counting.
    struct Members(Vec<u8>, usize, u64);
    impl std::io::Read for Members {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.1 == self.0.len() {
                if self.2 == 0 {
                    return Ok(0);
                }
                (self.1, self.2) = (0, self.2 - 1);
            }
            let length = buffer.len().min(self.0.len() - self.1);
            buffer[..length].copy_from_slice(&self.0[self.1..self.1 + length]);
            self.1 += length;
            Ok(length)
        }
    }
    let scene = Scene::new();
    let block = header(&Entry { name: b".wh..wh.plnk/1", ..Entry::default() }, 0).repeat(1000);
    let mut ingest = scene.store.begin_layer().unwrap();
    let error = ingest.unpack(Members(block, 0, 2_001)).unwrap_err();
    assert!(error.message.contains("more than 2000000 members"), "{error}");
}

#[test]
fn holes_have_an_end() {
    let scene = Scene::new();
    // Files of a tebibyte that are all hole: no sum over layers may overflow.
    let size = (1u64 << 40).to_string();
    let mut tar = Tar::new();
    for index in 0..1025 {
        let records: [(&[u8], &[u8]); 4] = [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", &format!("f{index}").into_bytes()),
            (b"GNU.sparse.realsize", size.as_bytes()),
        ];
        let mut body = b"1\n0\n4\n".to_vec();
        body.resize(512, 0);
        body.extend_from_slice(b"data");
        tar = tar.pax(&records).file("GNUSparseFile.0/x", &body);
    }
    let error = scene.refuse(tar);
    assert!(error.message.contains("files have more than"), "{error}");
}

#[test]
fn deeper_than_any_path() {
    let scene = Scene::new();
    // Each link adds its own depth to that of the name: directories that no path from the root can name.
    let deep = |letter: &str| format!("{letter}/").repeat(1900);
    let first = deep("d");
    let mut tar = Tar::new().dir(&first, 0o755).symlink("l", &first);
    for (letter, link) in [("e", "l"), ("f", "l2"), ("g", "l3")] {
        let below = format!("{link}/{}", deep(letter));
        let next = format!("l{}", link.strip_prefix('l').unwrap().parse::<u32>().unwrap_or(1) + 1);
        tar = tar.dir(&below, 0o750).file(&format!("{below}x"), b"x").symlink(&next, &below);
    }
    let tar = tar.finish();
    match common::unpack(&scene.store, &tar).and_then(|ingest| scene.store.commit_layer(ingest, None)) {
        // Its archive can be made again then, as of every layer.
        Ok(info) => {
            let mut again = Vec::new();
            std::io::Read::read_to_end(&mut scene.store.layer_tar(&info.chain_id).unwrap(), &mut again).unwrap();
            assert!(again == tar);
        }
        Err(error) => assert_eq!(error.kind, ErrorKind::Invalid, "{error}"),
    }
    scene.check();
    // Whatever became of it, it can be taken away.
    scene.store.upkeep().prune().unwrap();
    scene.store.wait_for_removals();
    assert_eq!(common::count(&scene.store, "ingest") + common::count(&scene.store, "trash"), 0);
}
