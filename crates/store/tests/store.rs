//! Whole-store behaviour: layers, images, names, collection, writable layers, and what a killed process leaves.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use brig_oci::Digest;
use brig_store::{ErrorKind, ImageRecord, LayerIngest, Lease, Store};
use common::{Entry, Tar, layer, open, unpack};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

#[test]
fn a_layer_becomes_files() {
    let (_dir, store) = open();
    let tar = Tar::new().dir("etc", 0o755).file("etc/hosts", b"localhost").symlink("etc/link", "/etc/hosts").finish();
    let mut ingest = store.begin_layer().unwrap();
    let unpacked = ingest.unpack(&tar[..]).unwrap();
    assert_eq!(unpacked.diff_id, brig_store::digest::sha256_of(&tar));
    assert_eq!((unpacked.size, unpacked.content_bytes, unpacked.entries), (tar.len() as u64, 9, 3));
    let info = store.commit_layer(ingest, None).unwrap();
    assert_eq!((&info.chain_id, info.size_bytes), (&unpacked.diff_id, 9));
    let diff = common::diff(&store, &info.chain_id);
    assert_eq!(std::fs::read(diff.join("etc/hosts")).unwrap(), b"localhost");
    assert_eq!(std::fs::read_link(diff.join("etc/link")).unwrap().to_str(), Some("/etc/hosts"));
    // The same again is the same layer, and nothing is left of the second copy.
    let again = layer(&store, &tar, None);
    assert_eq!(again, info);
    store.wait_for_removals();
    assert_eq!(common::count(&store, "ingest") + common::count(&store, "trash"), 0);
}

#[test]
fn layers_are_unpacked_in_any_order_and_committed_from_below() {
    let (_dir, store) = open();
    let tars: Vec<Vec<u8>> = (0..3).map(|index| Tar::new().file(&format!("f{index}"), b"x").finish()).collect();
    let mut ingests: Vec<_> = tars.iter().map(|_| store.begin_layer().unwrap()).collect();
    std::thread::scope(|scope| {
        for (ingest, tar) in ingests.iter_mut().zip(&tars).rev() {
            scope.spawn(move || ingest.unpack(&tar[..]).unwrap());
        }
    });
    let mut parent: Option<Digest> = None;
    for ingest in ingests {
        parent = Some(store.commit_layer(ingest, parent.as_ref()).unwrap().chain_id);
    }
    let layers = store.prepare("c1", parent.as_ref()).unwrap();
    let names: Vec<bool> = (0..3).map(|index| layers.lower[2 - index].join(format!("f{index}")).exists()).collect();
    assert_eq!(names, [true; 3]);
    let orphan = unpack(&store, &Tar::new().file("x", b"").finish()).unwrap();
    let nowhere = brig_store::digest::sha256_of(b"nowhere");
    assert_eq!(store.commit_layer(orphan, Some(&nowhere)).unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn layers_are_committed_together() {
    let (_dir, store) = open();
    let (base, hidden) =
        (Tar::new().dir("d", 0o700).file("d/low", b"low").finish(), Tar::new().file("x", b"x").finish());
    let above = Tar::new().link("d/link", "d/low").finish();
    let opaque = Tar::new().file(".wh..wh..opq", b"").finish();
    let stack = |tars: &[&Vec<u8>]| tars.iter().map(|tar| unpack(&store, tar).unwrap()).collect::<Vec<_>>();
    // The target of the third one's link, and what its directory is like, come along in the first one.
    let infos = LayerIngest::commit_all(stack(&[&base, &hidden, &above]), None).unwrap();
    let diff = common::diff(&store, &infos[2].chain_id);
    assert_eq!(std::fs::read(diff.join("d/link")).unwrap(), b"low");
    assert_eq!(diff.join("d").metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let chain: Vec<_> = infos.iter().map(|info| info.parent.as_ref()).collect();
    assert_eq!(chain, [None, Some(&infos[0].chain_id), Some(&infos[1].chain_id)]);
    // What is here stays as it is, in the middle of what is new too.
    let again = LayerIngest::commit_all(stack(&[&base, &hidden, &hidden]), None).unwrap();
    assert_eq!(again[..2], infos[..2]);
    assert!(store.layer(&again[2].chain_id).is_some_and(|info| info.parent == Some(infos[1].chain_id.clone())));
    // An opaque root hides what came along before it too: there is nothing to link to.
    let before = common::count(&store, "layers");
    let refused = LayerIngest::commit_all(stack(&[&opaque, &base, &opaque, &above]), None).unwrap_err();
    assert!(refused.message.contains("d/link"), "{refused}");
    // All of them or none.
    store.wait_for_removals();
    let left = common::count(&store, "ingest") + common::count(&store, "trash");
    assert_eq!((common::count(&store, "layers"), left), (before, 0));
    assert_eq!(LayerIngest::commit_all(Vec::new(), None).unwrap(), []);
}

#[test]
fn undescribed_directories_are_as_below() {
    let (_dir, store) = open();
    let base = Tar::new().dir(".", 0o711).dir("tmp", 0o1777).dir("home", 0o750).dir("home/me", 0o700).finish();
    let base = layer(&store, &base, None);
    let upper = Tar::new().file("tmp/a", b"").file("home/me/b", b"").file("new/c", b"").finish();
    let upper = layer(&store, &upper, Some(&base.chain_id));
    let diff = common::diff(&store, &upper.chain_id);
    let mode = |path: &str| diff.join(path).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        [mode(""), mode("tmp"), mode("home"), mode("home/me"), mode("new")],
        [0o711, 0o1777, 0o750, 0o700, 0o755]
    );
    assert_eq!(diff.join("tmp").metadata().unwrap().mtime(), common::MTIME);
}

#[test]
fn whiteouts_are_overlayfs_ones() {
    let (_dir, store) = open();
    let base =
        layer(&store, &Tar::new().dir("d", 0o700).file("d/f", b"").file("g", b"").dir("e", 0o711).finish(), None);
    let tar = Tar::new()
        .file(".wh.g", b"")
        .file("d/.wh..wh..opq", b"")
        .file("d/new", b"")
        .file(".wh.e", b"")
        .file("e/again", b"")
        .file(".wh..wh.plnk", b"")
        .file(".wh..wh.aufs", b"")
        .finish();
    let upper = layer(&store, &tar, Some(&base.chain_id));
    let diff = common::diff(&store, &upper.chain_id);
    let g = diff.join("g").symlink_metadata().unwrap();
    assert!(g.file_type().is_char_device() && g.rdev() == 0);
    assert_eq!(common::xattr(&diff.join("d"), "trusted.overlay.opaque").as_deref(), Some(&b"y"[..]));
    assert_eq!(common::xattr(&diff.join("e"), "trusted.overlay.opaque").as_deref(), Some(&b"y"[..]));
    assert_eq!(diff.join("e").metadata().unwrap().permissions().mode() & 0o777, 0o755, "not what the whiteout hides");
    assert_eq!(common::listing(&diff).len(), 5, "{:?}", common::listing(&diff));
    // The mark of the longest name is longer than any name.
    let long = "n".repeat(255);
    let base = layer(&store, &Tar::new().entry(&Entry { name: long.as_bytes(), ..Entry::default() }).finish(), None);
    let mark = format!(".wh.{long}");
    let upper = Tar::new().entry(&Entry { name: mark.as_bytes(), ..Entry::default() }).finish();
    let upper = layer(&store, &upper, Some(&base.chain_id));
    let removed = common::diff(&store, &upper.chain_id).join(&long).symlink_metadata().unwrap();
    assert!(removed.file_type().is_char_device());
}

#[test]
fn hard_links_reach_below_by_copy() {
    let (_dir, store) = open();
    let base = layer(&store, &Tar::new().file("bin/tool", b"tool").finish(), None);
    let tar = Tar::new().file("own", b"own").link("own2", "own").link("t1", "bin/tool").link("t2", "t1").finish();
    let upper = layer(&store, &tar, Some(&base.chain_id));
    let diff = common::diff(&store, &upper.chain_id);
    assert_eq!(std::fs::read(diff.join("t2")).unwrap(), b"tool");
    let inode = |name: &str| diff.join(name).metadata().unwrap().ino();
    assert_eq!((inode("own"), inode("t1")), (inode("own2"), inode("t2")));
    assert_eq!(std::fs::metadata(diff.join("t1")).unwrap().mode() & 0o7777, 0o644);
    let lost = unpack(&store, &Tar::new().link("x", "not/there").finish()).unwrap();
    let error = store.commit_layer(lost, Some(&base.chain_id)).unwrap_err();
    assert!(error.kind == ErrorKind::Invalid && error.message.contains("not/there"), "{error}");
    let hidden = Tar::new().file("bin/.wh.tool", b"").link("x", "bin/tool").finish();
    assert!(unpack(&store, &hidden).is_err());
}

#[test]
fn images_names_and_collection() {
    let (_dir, store) = open();
    let shared = Tar::new().file("shared", &[1; 1000]).finish();
    let (a, b) = (Tar::new().file("a", &[1; 100]).finish(), Tar::new().file("b", b"b").finish());
    let first = common::image(&store, &[&shared, &a]);
    let second = common::image(&store, &[&shared, &b]);
    store.tag("docker.io/library/first:latest", &first, None).unwrap();
    store.tag("docker.io/library/also:latest", &first, None).unwrap();
    assert_eq!(store.gc(&[]).unwrap(), Default::default());
    assert_eq!(store.image(&first).unwrap().size_bytes, 1100);
    assert_eq!(store.tags().len(), 2);
    assert_eq!(store.untag("docker.io/library/also:latest").unwrap().unwrap().image, first);
    store.prepare("holder", store.image(&second).unwrap().chain_id.as_ref()).unwrap();
    store.remove_image(&first).unwrap();
    store.remove_image(&second).unwrap();
    let reclaimed = store.gc(&[]).unwrap();
    assert_eq!((reclaimed.layers.len(), reclaimed.blobs.len()), (1, 2), "the container keeps its layers");
    assert!(store.tags().is_empty() && !store.has_blob(&first));
    store.remove_active("holder").unwrap();
    store.remove_active("holder").unwrap();
    assert_eq!(store.gc(&[]).unwrap().layers.len(), 2);
    store.wait_for_removals();
    for name in ["layers", "ingest", "trash", "active", "blobs/sha256"] {
        assert_eq!(common::count(&store, name), 0, "{name}");
    }
}

#[test]
fn an_image_needs_all_its_parts() {
    let (_dir, store) = open();
    let tar = Tar::new().file("a", b"").finish();
    let config = common::config(&[&tar]);
    let lease = Lease::begin(&store);
    let id = store.put_blob(&config).unwrap();
    assert_eq!(store.put_image(ImageRecord::new(id.clone(), None)).unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(store.tag("x", &id, None).unwrap_err().kind, ErrorKind::NotFound);
    layer(&store, &tar, None);
    // What has just arrived is not collected before its image is there.
    assert_eq!(store.gc(&[]).unwrap(), Default::default());
    store.put_image(ImageRecord::new(id.clone(), None)).unwrap();
    // With the lease goes all that is left of the work, at once.
    store.remove_image(&id).unwrap();
    assert_eq!(store.gc(&[]).unwrap(), Default::default());
    drop(lease);
    let reclaimed = store.gc(&[]).unwrap();
    assert_eq!((reclaimed.layers.len(), reclaimed.blobs.len()), (1, 1));
}

#[test]
fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("v1");
    let store = Store::open(&root).unwrap();
    let tar = Tar::new().file("a", b"abc").finish();
    let id = common::image(&store, &[&tar]);
    store.tag("n", &id, None).unwrap();
    let layers = store.prepare("c", store.image(&id).unwrap().chain_id.as_ref()).unwrap();
    std::fs::write(layers.upper.join("x"), b"12345").unwrap();
    let image = store.image(&id);
    let abandoned = unpack(&store, &tar).unwrap();
    std::mem::forget(abandoned);
    std::fs::create_dir(root.join("layers/garbage")).unwrap();
    let error = Store::open(&root).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Busy);
    assert!(error.message.contains(&std::process::id().to_string()), "{error}");
    // The forgotten ingest keeps the store open in this process: a copy stands for what a power cut leaves.
    let copy = dir.path().join("copy");
    assert!(std::process::Command::new("cp").args(["-a"]).arg(&root).arg(&copy).status().unwrap().success());
    let store = Store::open(&copy).unwrap();
    store.wait_for_removals();
    assert_eq!(store.image(&id), image);
    assert_eq!(store.resolve("n").unwrap().image, id);
    assert_eq!(store.active_size("c").unwrap(), 5);
    assert_eq!(store.active("c").unwrap().lower.len(), 1);
    assert_eq!(
        (common::count(&store, "ingest"), common::count(&store, "layers"), common::count(&store, "trash")),
        (0, 2, 0),
        "what is not the store's own is left alone"
    );
}

#[test]
fn damage_is_reported_and_healed() {
    let (_dir, store) = open();
    let tar = Tar::new().file("a", b"abc").finish();
    let info = layer(&store, &tar, None);
    std::fs::remove_dir_all(common::diff(&store, &info.chain_id).parent().unwrap()).unwrap();
    assert_eq!(store.layer(&info.chain_id), None);
    assert_eq!(layer(&store, &tar, None), info);
    assert!(store.layer(&info.chain_id).is_some());
    let blob = store.put_blob(b"content").unwrap();
    std::fs::write(store.root().join("blobs/sha256").join(blob.hex()), b"CONTENT").unwrap();
    assert_eq!(store.read_blob(&blob).unwrap_err().kind, ErrorKind::Corrupt);
    assert_eq!(store.put_blobs(&[(&blob, b"other")]).unwrap_err().kind, ErrorKind::Mismatch);
}

#[test]
fn an_opaque_root_ends_the_chain() {
    let (_dir, store) = open();
    let base = layer(&store, &Tar::new().file("old", b"").finish(), None);
    let upper = layer(&store, &Tar::new().file("new", b"").file(".wh..wh..opq", b"").finish(), Some(&base.chain_id));
    assert_eq!(store.prepare("c", Some(&upper.chain_id)).unwrap().lower.len(), 1);
}

#[test]
fn keys_are_one_component() {
    let (_dir, store) = open();
    for key in ["", ".", "..", "a/b", "../x", ".x", "-x", "a b", "a\n", &"x".repeat(129)] {
        assert_eq!(store.prepare(key, None).unwrap_err().kind, ErrorKind::Invalid, "{key:?}");
        assert!(store.remove_active(key).is_err() && store.active(key).is_none() && store.active_size(key).is_err());
    }
    let layers = store.prepare("a_b.c-d", None).unwrap();
    assert_eq!(layers.upper.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(store.root().metadata().unwrap().permissions().mode() & 0o7777, 0o700);
}

#[test]
fn a_lock_that_a_killed_process_has_not_let_go_of_yet_is_waited_for() {
    let base = tempfile::tempdir().unwrap();
    drop(Store::open(base.path()).unwrap());
    let mut dead = std::process::Command::new("/bin/true").spawn().unwrap();
    dead.wait().unwrap();
    let lock = std::fs::File::options().write(true).truncate(true).open(base.path().join("lock")).unwrap();
    std::io::Write::write_all(&mut &lock, format!("{}\n", dead.id()).as_bytes()).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let later = std::thread::spawn(move || {
        // Enough for the other to find it taken, which nothing reports.
        std::thread::sleep(std::time::Duration::from_millis(300));
        drop(lock);
    });
    Store::open(base.path()).unwrap();
    later.join().unwrap();
}

/// Children that are just being started have every file of this process for a moment, the lock among them.
#[test]
fn a_store_that_was_let_go_of_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("v1");
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    std::process::Command::new("true").status().unwrap();
                }
            });
        }
        let opened: Result<Vec<()>, _> = (0..100).map(|_| Store::open(&root).map(drop)).collect();
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        opened.unwrap();
    });
}

#[test]
fn names_are_given_together_and_found_by_their_beginning() {
    let (_dir, store) = open();
    let image = common::image(&store, &[&Tar::new().file("a", b"a").finish()]);
    let names = ["x/app:2", "x/app:1", "x/apple:1", "x/app", "y/app:1"].map(str::to_owned);
    brig_store::tag_all(&store, &names, &image, None).unwrap();
    let found =
        |prefix: &str| brig_store::tags_beginning(&store, prefix).into_iter().map(|tag| tag.name).collect::<Vec<_>>();
    assert_eq!(found("x/app:"), ["x/app:1", "x/app:2"]);
    assert_eq!((found("x/b"), found("z")), (vec![], vec![]));
    assert_eq!(found("").len(), 5);
    let absent = brig_store::digest::sha256_of(b"absent");
    assert!(brig_store::tag_all(&store, &["x/app:1".to_owned(), "z:1".to_owned()], &absent, None).is_err());
    assert_eq!(store.resolve("x/app:1").unwrap().image, image);
    assert!(store.resolve("z:1").is_none());
}
