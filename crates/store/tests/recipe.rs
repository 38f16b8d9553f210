//! The tar of an unpacked layer, made again: the same bytes, whatever wrote it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::io::Read;
use std::path::Path;
use std::process::Command;

use brig_oci::Digest;
use brig_store::{ErrorKind, Store};
use common::{Entry, Tar};
use proptest::prelude::*;

fn again(store: &Store, chain: &Digest) -> Vec<u8> {
    let mut tar = store.layer_tar(chain).unwrap();
    let mut bytes = Vec::new();
    tar.read_to_end(&mut bytes).unwrap();
    assert_eq!(tar.size(), bytes.len() as u64);
    bytes
}

fn round_trip(store: &Store, tar: &[u8], parent: Option<&Digest>) -> Digest {
    let layer = common::layer(store, tar, parent);
    assert!(again(store, &layer.chain_id) == tar, "another tar of {} bytes", tar.len());
    assert!(common::serves_all(store, &layer.chain_id));
    layer.chain_id
}

#[test]
fn what_gnu_tar_writes() {
    let (dir, store) = common::open();
    let source = dir.path().join("source");
    let long = "n".repeat(150);
    std::fs::create_dir_all(source.join("a/b").join(&long).join(&long)).unwrap();
    std::fs::write(source.join("a/file"), vec![3; 300_000]).unwrap();
    std::fs::write(source.join("a/b").join(&long).join(&long).join(&long), "deep").unwrap();
    std::fs::write(source.join("empty"), "").unwrap();
    std::fs::hard_link(source.join("a/file"), source.join("second")).unwrap();
    std::os::unix::fs::symlink(format!("/{long}/{long}"), source.join("link")).unwrap();
    let sparse = std::fs::File::create(source.join("sparse")).unwrap();
    for index in 0..40u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[9; 5000], index * 100_000).unwrap();
    }
    sparse.set_len(5_000_000).unwrap();
    for options in [
        "--format=v7",
        "--format=ustar",
        "--format=gnu",
        "--format=gnu --sparse --blocking-factor=1",
        "--format=oldgnu --sparse",
        "--format=posix --xattrs",
        "--format=posix --sparse --sparse-version=0.0",
        "--format=posix --sparse --sparse-version=0.1",
        "--format=posix --sparse --sparse-version=1.0",
    ] {
        let archive = dir.path().join("archive.tar");
        // The older formats leave out what they have no room for, and say so with their exit code.
        let mut tar = Command::new("tar");
        tar.args(options.split(' ')).arg("-C").arg(&source).arg("-cf").arg(&archive).arg(".");
        assert!(tar.output().unwrap().status.code().is_some());
        round_trip(&store, &std::fs::read(&archive).unwrap(), None);
    }
}

#[test]
fn what_a_layer_does_not_show_is_in_its_tar_all_the_same() {
    let (_dir, store) = common::open();
    let below = round_trip(&store, &Tar::new().file("old/file", b"old").dir("tmp", 0o1777).finish(), None);
    let tar = Tar::new()
        .pax(&[(b"comment", b"nobody reads this"), (b"SCHILY.xattr.trusted.overlay.redirect", b"/x")])
        .file("a", b"first")
        .file("a", b"second")
        .file("d/one", b"1")
        .file("d/two", b"22")
        .link("two", "d/two")
        .file("d", b"no directory any more")
        .symlink("s", "t")
        .file("t/x", b"through a link")
        .file("s/y", b"through a link too")
        .dir("s", 0o755)
        .file("s/z", b"not through a link")
        .file("old/.wh.file", b"a whiteout with a body")
        .file("tmp/.wh..wh..opq", b"")
        .file(".wh..wh.aufs", b"body of aufs' own")
        .link("old/again", "tmp/missing-is-fine-below-only")
        .finish();
    // A link to nowhere is no layer.
    assert!(store.commit_layer(common::unpack(&store, &tar).unwrap(), Some(&below)).is_err());
    let cut = tar.len() - 1024 - 512;
    let tar = [&tar[..cut], &[0; 1024], b"garbage after the end, and more of it"].concat();
    round_trip(&store, &tar, Some(&below));
    round_trip(&store, b"", Some(&below));
    round_trip(&store, &[0; 512], Some(&below));
}

#[test]
fn a_copy_on_another_layer_has_its_own() {
    let (_dir, store) = common::open();
    let below = round_trip(&store, &Tar::new().file("x", b"x").finish(), None);
    let tar = Tar::new().file("a", b"first").file("a", b"second").finish();
    let first = common::unpack(&store, &tar).unwrap();
    let second = first.duplicate().unwrap();
    let first = store.commit_layer(first, None).unwrap();
    let second = store.commit_layer(second, Some(&below)).unwrap();
    assert!(again(&store, &first.chain_id) == tar && again(&store, &second.chain_id) == tar);
}

#[test]
fn a_changed_file_is_noticed_at_the_end_and_a_missing_recipe_at_once() {
    let (_dir, store) = common::open();
    let chain = round_trip(&store, &Tar::new().file("x", b"honest").finish(), None);
    std::fs::write(common::diff(&store, &chain).join("x"), b"forged").unwrap();
    let error = store.layer_tar(&chain).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("pull it again"), "{error}");
    std::fs::write(common::diff(&store, &chain).join("x"), b"short").unwrap();
    assert!(store.layer_tar(&chain).unwrap().read_to_end(&mut Vec::new()).is_err());
    std::fs::remove_file(common::diff(&store, &chain).parent().unwrap().join("tar-recipe")).unwrap();
    let error = store.layer_tar(&chain).err().unwrap();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.to_string().contains("remove the image and pull it again"), "{error}");
}

#[test]
fn a_recipe_is_small() {
    let (_dir, store) = common::open();
    let mut tar = Tar::new();
    for index in 0..2_000 {
        tar = tar.file(&format!("usr/share/doc/package-{}/file-{index}", index / 10), &[7; 700]);
    }
    let tar = tar.finish();
    let chain = round_trip(&store, &tar, None);
    let recipe = common::diff(&store, &chain).parent().unwrap().join("tar-recipe");
    let size = std::fs::metadata(recipe).unwrap().len();
    assert!(size * 20 < tar.len() as u64, "{size} bytes for a tar of {}", tar.len());
}

fn member() -> impl Strategy<Value = (u8, u8, Vec<u8>)> {
    (0..12u8, 0..6u8, proptest::collection::vec(any::<u8>(), 0..2_000))
}

/// Few names, so that members meet.
const NAMES: [&str; 6] = ["a", "b", "a/c", "b/c", "a/c/d", "./b//d"];

fn add(tar: Tar, (what, name, body): &(u8, u8, Vec<u8>)) -> Tar {
    let (name, other) = (NAMES[usize::from(*name)], NAMES[body.len() % NAMES.len()]);
    let hidden = Path::new(name).with_file_name(format!(".wh.{}", Path::new(name).file_name().unwrap().display()));
    match what {
        0..=3 => tar.file(name, body),
        4 => tar.dir(name, 0o755),
        5 => tar.symlink(name, other),
        6 => tar.link(name, other),
        7 => tar.file(hidden.to_str().unwrap(), body),
        8 => tar.pax(&[(b"mtime", b"1.5"), (b"SCHILY.xattr.user.x", &body[..body.len().min(50)])]).file(name, body),
        9 => tar.pax(&[(b"path", name.as_bytes())]).file("other", body),
        10 => tar.raw(b'L', &[name.as_bytes(), b"\0\0\0"].concat()).file("cut", body),
        _ => tar.entry(&Entry { name: name.as_bytes(), kind: b'6', owner: (3_000_000, 5), ..Entry::default() }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(100), ..ProptestConfig::default() })]

    #[test]
    fn random_tars(members in proptest::collection::vec(member(), 0..30), tail in 0..3usize) {
        let (_dir, store) = common::open();
        let tar = members.iter().fold(Tar::new(), add).finish();
        let tar = [&tar[..], &vec![tail as u8; tail * 700]].concat();
        // Some of them are no layers (a file as a directory, a link to nothing); all others come back.
        if let Ok(ingest) = common::unpack(&store, &tar)
            && let Ok(layer) = store.commit_layer(ingest, None)
        {
            prop_assert!(again(&store, &layer.chain_id) == tar);
            prop_assert!(common::serves_all(&store, &layer.chain_id));
        }
    }
}
