//! A process that unpacks layers and was taken over by one: it says that it unpacked another, whose image comes later.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use brig_oci::Digest;
use brig_store::digest::sha256_of;
use brig_store::{CheckOptions, Finding, LayerInfo, LayerIngest, Packed, Store};
use brig_tests::corpus::liar::{Step, recipe, summary, verbatim};
use brig_tests::image::gzip_program;
use common::{MTIME, Tar};

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Unpacks `tar` and says that it was `claim`; `leave` is given the layer's own directory.
fn lie(store: &Store, tar: &[u8], claim: &[u8], leave: impl FnOnce(&Path)) -> LayerIngest {
    lie_more(store, tar, claim, false, leave)
}

fn lie_more(store: &Store, tar: &[u8], claim: &[u8], opaque: bool, leave: impl FnOnce(&Path)) -> LayerIngest {
    let mut ingest = store.begin_layer().unwrap();
    let told = ingest.unpack_telling(tar, |files| {
        leave(files.parent().unwrap());
        let paths = common::listing(files).into_keys().map(|name| files.join(name));
        let content = paths.map(|path| path.symlink_metadata().unwrap()).filter(|one| one.is_file());
        // What is copied from below is not the layer's own.
        let content = content.map(|one| one.len()).sum::<u64>() * u64::from(claim.len() > 2048);
        (summary(claim, content, opaque), Vec::new())
    });
    assert_eq!(told.unwrap().diff_id, sha256_of(claim));
    ingest
}

/// A layer as it comes with an image that lists `blob` for it.
fn honest(store: &Store, tar: &[u8], blob: &Digest) -> LayerIngest {
    let mut ingest = common::unpack(store, tar).unwrap();
    ingest.came_as(blob);
    ingest
}

fn commit(store: &Store, mut ingest: LayerIngest, parent: Option<&Digest>, blob: &Digest) -> LayerInfo {
    ingest.came_as(blob);
    store.commit_layer(ingest, parent).unwrap()
}

fn keep(store: &Store, blob: &[u8], diff_id: &Digest) -> Digest {
    let digest = sha256_of(blob);
    let partial = store.partials().open(&format!("sha256-{}", digest.hex())).unwrap();
    partial.append(blob).unwrap();
    Packed::of(store).keep(partial, &digest, diff_id, GZIP).unwrap();
    digest
}

fn findings(store: &Store, full: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    let options = CheckOptions { full, ..CheckOptions::default() };
    store.upkeep().check(options, &mut |finding| found.push(finding)).unwrap();
    found
}

/// A program that begins so, and compresses as programs do.
fn program(begin: &str) -> Vec<u8> {
    let lines =
        (0..4000u64).map(|nth| format!("{:x} of {}\n", nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40, nth % 97));
    [begin.as_bytes(), lines.collect::<String>().as_bytes()].concat()
}

fn wanted() -> Vec<u8> {
    Tar::new().dir("bin", 0o755).file("bin/login", &program("the real one")).finish()
}

fn poisoned() -> Vec<u8> {
    Tar::new().dir("bin", 0o755).file("bin/login", &program("let them in!")).finish()
}

fn login(store: &Store, chain: &Digest) -> String {
    std::fs::read_to_string(common::diff(store, chain).join("bin/login")).unwrap()[..12].to_owned()
}

/// Sets a time as archives have it.
fn age(path: &Path) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
    let time = Timespec { tv_sec: MTIME, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn whose_tar_cannot_be_made_is_found_in_the_background() {
    for unknown in [false, true] {
        let (_dir, store) = common::open();
        let wanted = wanted();
        let layer = commit(&store, lie(&store, &poisoned(), &wanted, |_| {}), None, &sha256_of(b"evil"));
        common_image(&store, &[&layer]);
        assert_eq!(findings(&store, false), []);
        let blob = match unknown {
            true => zstd(&wanted),
            false => gzip_program(&wanted, 6),
        };
        let form = keep(&store, &blob, &layer.diff_id);
        Packed::of(&store).wait();
        assert_eq!(store.layer(&layer.chain_id), None);
        let found = findings(&store, false);
        assert!(
            found.iter().any(|one| one.kind == "layer" && one.problem.contains("cannot be made again")),
            "{found:?}"
        );
        // The image cannot be used any more, also by the next daemon.
        let root = store.root().to_owned();
        drop(store);
        let store = Store::open(&root).unwrap();
        assert_eq!(store.layer(&layer.chain_id), None);
        assert!(store.prepare("c", Some(&layer.chain_id)).is_err());
        // What is pulled takes its place.
        commit(&store, common::unpack(&store, &wanted).unwrap(), None, &form);
        assert_eq!(login(&store, &layer.chain_id), "the real one");
        assert_eq!(findings(&store, true), []);
        keep(&store, &gzip_program(&wanted, 9), &layer.diff_id);
        Packed::of(&store).wait();
        assert!(store.layer(&layer.chain_id).is_some());
        assert_eq!(Packed::of(&store).forms(&layer.diff_id).unwrap().iter().any(|form| !form.has_recipe), unknown);
    }
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    brig_tests::image::piped("zstd", &["-c", "-q"], bytes)
}

fn common_image(store: &Store, layers: &[&LayerInfo]) {
    let diff_ids = layers.iter().map(|layer| format!("{:?}", layer.diff_id.as_str())).collect::<Vec<_>>().join(",");
    let config =
        format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}}}}"#);
    let id = store.put_blob(config.as_bytes()).unwrap();
    store.put_image(brig_store::ImageRecord::new(id, None)).unwrap();
}

/// What it is, the layer, the tar that it claims to be of, and where it lies.
type Lie = (&'static str, LayerIngest, Vec<u8>, (tempfile::TempDir, Store));

/// The tar is right, the files are not.
fn lies() -> Vec<Lie> {
    let mut all = Vec::new();
    let mut lie_with = |name, tar: &[u8], claim: Vec<u8>, leave: &dyn Fn(&Path)| {
        let (dir, store) = common::open();
        let ingest = lie(&store, tar, &claim, |directory| leave(directory));
        all.push((name, ingest, claim, (dir, store)));
    };
    lie_with("a recipe that has it all", &poisoned(), wanted(), &|directory| {
        std::fs::write(directory.join("tar-recipe"), verbatim(&wanted())).unwrap();
    });
    let two = |first: &[u8], second: &[u8]| Tar::new().file("a", first).file("b", second).finish();
    lie_with("files that stand for each other", &two(b"bbbb", b"aaaa"), two(b"aaaa", b"bbbb"), &|directory| {
        let tar = two(b"aaaa", b"bbbb");
        let steps = [
            Step::Bytes(&tar[..512]),
            Step::File("diff/b"),
            Step::Part(0, 4),
            Step::Bytes(&tar[516..1536]),
            Step::File("diff/a"),
            Step::Part(0, 4),
            Step::Bytes(&tar[1540..]),
        ];
        std::fs::write(directory.join("tar-recipe"), recipe(tar.len() as u64, &steps)).unwrap();
    });
    let sparse = Tar::new()
        .pax(&[(b"GNU.sparse.size", b"100000"), (b"GNU.sparse.name", b"x"), (b"GNU.sparse.map", b"0,2,90000,3")])
        .file("GNUSparseFile.0/x", b"abcde")
        .finish();
    lie_with("something in a hole", &sparse, sparse.clone(), &|directory| {
        let path = directory.join("diff/x");
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"evil", 50_000).unwrap();
        age(&path);
    });
    lie_with("a link in place of a file", &wanted(), wanted(), &|directory| {
        std::fs::write(directory.join("tar-recipe"), verbatim(&wanted())).unwrap();
        std::fs::remove_file(directory.join("diff/bin/login")).unwrap();
        symlink("/tmp/x", directory.join("diff/bin/login")).unwrap();
        age(&directory.join("diff/bin"));
    });
    let (dir, store) = common::open();
    let ingest = lie_more(&store, &wanted(), &wanted(), true, |_| {});
    all.push(("that it hides what is below", ingest, wanted(), (dir, store)));
    all
}

#[test]
fn are_not_shared_with_who_lists_another_blob() {
    let (evil, good) = (sha256_of(b"evil"), sha256_of(b"good"));
    for (name, ingest, claim, (_dir, store)) in lies() {
        let layer = commit(&store, ingest, None, &evil);
        let found = findings(&store, true);
        assert!(found.iter().any(|one| one.kind == "layer"), "{name}: {found:?}");
        // The image that brought it gets what its own blob made of it.
        assert!(brig_store::serves(&store, &layer.chain_id, Some(&evil)).unwrap(), "{name}");
        assert!(!brig_store::serves(&store, &layer.chain_id, Some(&good)).unwrap(), "{name}");
        assert_eq!(store.layer(&layer.chain_id), None, "{name}");
        store.commit_layer(honest(&store, &claim, &good), None).unwrap();
        assert!(brig_store::serves(&store, &layer.chain_id, Some(&good)).unwrap(), "{name}");
        assert!(
            brig_store::serves(&store, &layer.chain_id, Some(&evil)).unwrap(),
            "{name}: what is right is everybody's"
        );
        assert_eq!(findings(&store, true), [], "{name}");
    }
}

#[test]
fn do_not_keep_the_right_layer_from_taking_their_place() {
    for (name, ingest, claim, (_dir, store)) in lies() {
        let layer = commit(&store, ingest, None, &sha256_of(b"evil"));
        let first = common::listing(&common::diff(&store, &layer.chain_id));
        // Without asking first, as of an archive or when both are on their way.
        store.commit_layer(honest(&store, &claim, &sha256_of(b"good")), None).unwrap();
        let is_same = common::listing(&common::diff(&store, &layer.chain_id)) == first;
        assert_eq!(is_same, name == "that it hides what is below", "{name}");
        assert_eq!(findings(&store, true), [], "{name}");
        assert_eq!(std::fs::read_dir(store.root().join("quarantine")).unwrap().count(), 1, "{name}");
    }
}

#[test]
fn take_with_them_what_stands_on_them() {
    let (_dir, store) = common::open();
    let (evil, good, upper) = (sha256_of(b"evil"), sha256_of(b"good"), sha256_of(b"upper"));
    let wanted = wanted();
    // An honest layer that takes a file from the one below.
    let above = Tar::new().link("copied", "bin/login").finish();
    let ingest = lie(&store, &poisoned(), &wanted, |directory| {
        std::fs::write(directory.join("tar-recipe"), verbatim(&wanted)).unwrap();
    });
    let below = commit(&store, ingest, None, &evil);
    let layer = commit(&store, common::unpack(&store, &above).unwrap(), Some(&below.chain_id), &upper);
    assert!(brig_store::serves(&store, &layer.chain_id, Some(&upper)).unwrap());
    assert!(!brig_store::serves(&store, &below.chain_id, Some(&good)).unwrap());
    assert!(!brig_store::serves(&store, &layer.chain_id, Some(&upper)).unwrap());
    let both = vec![honest(&store, &wanted, &good), honest(&store, &above, &upper)];
    LayerIngest::commit_all(both, None).unwrap();
    let copied = std::fs::read_to_string(common::diff(&store, &layer.chain_id).join("copied")).unwrap();
    assert_eq!(&copied[..12], "the real one");
    assert_eq!(findings(&store, true), []);
}

#[test]
fn about_what_is_below_are_found() {
    let (_dir, store) = common::open();
    let (evil, good) = (sha256_of(b"evil"), sha256_of(b"good"));
    let below = commit(&store, common::unpack(&store, &wanted()).unwrap(), None, &good);
    let claim = Tar::new().link("copied", "bin/login").finish();
    // A file of its own where a copy of the one below belongs.
    let ingest = lie(&store, &claim, &claim, |directory| {
        let path = directory.join("diff/copied");
        std::fs::write(&path, program("let them in!")).unwrap();
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
        age(&path);
    });
    let layer = commit(&store, ingest, Some(&below.chain_id), &evil);
    assert!(!brig_store::serves(&store, &layer.chain_id, Some(&good)).unwrap());
    store.commit_layer(honest(&store, &claim, &good), Some(&below.chain_id)).unwrap();
    assert!(brig_store::serves(&store, &layer.chain_id, Some(&sha256_of(b"third"))).unwrap());
    assert!(
        std::fs::read_to_string(common::diff(&store, &layer.chain_id).join("copied")).unwrap().starts_with("the real")
    );
}

#[test]
fn layers_are_compared_once_and_only_for_another_blob() {
    let (_dir, store) = common::open();
    let (own, other) = (sha256_of(b"own"), sha256_of(b"other"));
    let layer = commit(&store, common::unpack(&store, &wanted()).unwrap(), None, &own);
    let file = common::diff(&store, &layer.chain_id).join("bin/login");
    let content = std::fs::read(&file).unwrap();
    // Who would look at it now would find it damaged.
    std::fs::write(&file, "").unwrap();
    assert!(brig_store::serves(&store, &layer.chain_id, Some(&own)).unwrap());
    std::fs::write(&file, &content).unwrap();
    age(&file);
    assert!(brig_store::serves(&store, &layer.chain_id, Some(&other)).unwrap());
    std::fs::write(&file, "").unwrap();
    assert!(brig_store::serves(&store, &layer.chain_id, Some(&other)).unwrap());
    assert!(brig_store::serves(&store, &layer.chain_id, None).unwrap());
    let root = store.root().to_owned();
    drop(store);
    assert!(brig_store::serves(&Store::open(&root).unwrap(), &layer.chain_id, Some(&other)).unwrap());
    // A tar that this process has hashed itself is what it is.
    let (_dir, store) = common::open();
    let layer = commit(&store, common::unpack(&store, &wanted()).unwrap(), None, &sha256_of(&wanted()));
    std::fs::write(common::diff(&store, &layer.chain_id).join("bin/login"), "").unwrap();
    assert!(brig_store::serves(&store, &layer.chain_id, Some(&other)).unwrap());
}

/// Damage that comes after a comparison shows whether there is another one.
#[test]
fn are_compared_once_also_by_a_check_that_repairs() {
    let options = |full, repair| CheckOptions { full, repair };
    for (options, is_noted) in
        [(options(true, true), true), (options(true, false), false), (options(false, true), false)]
    {
        for is_above in [false, true] {
            let (_dir, store) = common::open();
            let below = commit(&store, common::unpack(&store, &wanted()).unwrap(), None, &sha256_of(b"below"));
            let tar = Tar::new().link("copied", "bin/login").finish();
            let above = common::unpack(&store, &tar).unwrap();
            let above = commit(&store, above, Some(&below.chain_id), &sha256_of(b"above"));
            let mut found = Vec::new();
            store.upkeep().check(options, &mut |finding| found.push(finding)).unwrap();
            assert_eq!(found, [], "{options:?}");
            let (layer, name) = if is_above { (above, "copied") } else { (below, "bin/login") };
            let path = common::diff(&store, &layer.chain_id).join(name);
            std::fs::write(&path, program("let them in!")).unwrap();
            age(&path);
            let serves = brig_store::serves(&store, &layer.chain_id, Some(&sha256_of(b"another"))).unwrap();
            assert_eq!(serves, is_noted, "{options:?}: {name}");
        }
    }
}

/// A file taken from a layer that nobody has compared proves nothing.
#[test]
fn are_not_compared_for_good_on_what_cannot_be_compared() {
    let (_dir, store) = common::open();
    let below = commit(&store, common::unpack(&store, &wanted()).unwrap(), None, &sha256_of(b"below"));
    let tar = Tar::new().file("own", b"own").finish();
    let above = commit(&store, common::unpack(&store, &tar).unwrap(), Some(&below.chain_id), &sha256_of(b"above"));
    common_image(&store, &[&below, &above]);
    let recipe = common::diff(&store, &below.chain_id).parent().unwrap().join("tar-recipe");
    std::fs::remove_file(recipe).unwrap();
    let options = CheckOptions { full: true, repair: true };
    let mut found = Vec::new();
    store.upkeep().check(options, &mut |finding| found.push(finding)).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(!brig_store::serves(&store, &above.chain_id, Some(&sha256_of(b"another"))).unwrap());
}
