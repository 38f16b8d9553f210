//! Compressed forms of layers: kept, made again, and gone when nothing needs them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::io::Read;
use std::path::Path;

use brig_oci::Digest;
use brig_store::digest::sha256_of;
use brig_store::{CheckOptions, ErrorKind, Finding, ImageRecord, Lease, Packed, Store};
use brig_tests::image::gzip_program;

/// A tar with a bit of everything that compresses, larger than a stretch.
fn tar(seed: u64) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut state = seed;
    for nth in 0..40 {
        let mut content = Vec::new();
        while content.len() < 60_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            content.extend_from_slice(format!("{:x} the {} of {}\n", state >> 40, state % 97, state % 13).as_bytes());
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("dir/file{nth}"), &content[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Stores a layer, and a blob as the form that it came in.
fn keep(store: &Store, tar: &[u8], blob: &[u8]) -> (Digest, Digest) {
    let mut ingest = store.begin_layer().unwrap();
    let unpacked = ingest.unpack(tar).unwrap();
    store.commit_layer(ingest, None).unwrap();
    let digest = sha256_of(blob);
    let partial = store.partials().open(&format!("sha256-{}", digest.hex())).unwrap();
    partial.append(blob).unwrap();
    Packed::of(store).keep(partial, &digest, &unpacked.diff_id, "application/vnd.oci.image.layer.v1.tar+gzip").unwrap();
    (digest, unpacked.diff_id)
}

/// An image over a layer, and a manifest that lists a blob for it.
fn image(store: &Store, diff_id: &Digest, blob: &Digest, length: usize) -> Digest {
    let config =
        format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#);
    let id = store.put_blob(config.as_bytes()).unwrap();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{id}","size":{}}},
        "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{blob}","size":{length}}}]}}"#,
        config.len()
    );
    let manifest = store.put_blob(manifest.as_bytes()).unwrap();
    store.put_image(ImageRecord::new(id.clone(), Some(manifest))).unwrap();
    id
}

fn read(store: &Store, digest: &Digest) -> Vec<u8> {
    let mut blob = Packed::of(store).blob(digest).unwrap();
    let mut bytes = Vec::new();
    blob.read_to_end(&mut bytes).unwrap();
    assert_eq!(blob.size(), bytes.len() as u64);
    bytes
}

fn files(root: &Path) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(root.join("packed")).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> =
        entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())).collect();
    files.sort();
    files
}

#[test]
fn a_known_encoders_blob_becomes_a_small_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let _lease = Lease::begin(&store);
    let tar = tar(1);
    let blobs = [gzip_program(&tar, 6), gzip_program(&tar, 9), [&gzip_program(&tar, 1)[..], &[0; 512]].concat()];
    let pause = Packed::of(&store).pause();
    let kept: Vec<_> = blobs.iter().map(|blob| keep(&store, &tar, blob)).collect();
    for ((digest, diff_id), blob) in kept.iter().zip(&blobs) {
        assert!(read(&store, digest) == *blob);
        assert!(Packed::of(&store).forms(diff_id).unwrap().iter().all(|form| !form.has_recipe));
    }
    drop(pause);
    Packed::of(&store).wait();
    for ((digest, diff_id), blob) in kept.iter().zip(&blobs) {
        assert!(read(&store, digest) == *blob);
        let forms = Packed::of(&store).forms(diff_id).unwrap();
        assert!(forms.len() == 3 && forms.iter().all(|form| form.has_recipe), "{forms:?}");
        let recipe = dir.path().join("packed").join(digest.hex()).metadata().unwrap().len();
        assert!(recipe * 100 < blob.len() as u64, "{recipe} of {}", blob.len());
    }
    assert_eq!(files(dir.path()).len(), 3, "{:?}", files(dir.path()));
    // And after a restart.
    drop((_lease, store));
    let store = Store::open(dir.path()).unwrap();
    assert!(read(&store, &kept[1].0) == blobs[1]);
}

#[test]
fn forms_survive_the_loss_of_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let lease = Lease::begin(&store);
    let (known, unknown) = (tar(1), tar(2));
    let blobs = [gzip_program(&known, 6), gzip_program(&unknown, 6)];
    let (first, first_diff) = keep(&store, &known, &blobs[0]);
    Packed::of(&store).wait();
    let _pause = Packed::of(&store).pause();
    let (second, second_diff) = keep(&store, &unknown, &blobs[1]);
    image(&store, &first_diff, &first, blobs[0].len());
    image(&store, &second_diff, &second, blobs[1].len());
    drop((lease, _pause, store));
    for name in ["brig.db", "brig.db-wal", "brig.db-shm", "brig.db.copy"] {
        std::fs::remove_file(dir.path().join(name)).ok();
    }
    let store = Store::open(dir.path()).unwrap();
    store.upkeep().prune().unwrap();
    assert!(read(&store, &first) == blobs[0]);
    assert!(read(&store, &second) == blobs[1]);
    assert_eq!(Packed::of(&store).forms(&first_diff).unwrap()[0].size_bytes, blobs[0].len() as u64);
}

fn check(store: &Store, full: bool, repair: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    store.upkeep().check(CheckOptions { full, repair }, &mut |finding| found.push(finding)).unwrap();
    found
}

#[test]
fn a_check_finds_forms_that_cannot_be_had() {
    // Which file of two forms, one a recipe and one a blob that has none; what is done to it; whether a quick check sees it.
    type Damage = (usize, &'static str, bool, fn(&Path));
    let damages: &[Damage] = &[
        (0, "is made from again is gone", true, |path| std::fs::remove_file(path).unwrap()),
        (0, "is cut off", true, |path| std::fs::write(path, b"").unwrap()),
        (0, "", false, |path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        (0, "", false, |path| {
            let mut bytes = std::fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0xff;
            std::fs::write(path, bytes).unwrap();
        }),
        (0, "", true, |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::create_dir(path).unwrap();
        }),
        (1, "its file is gone", true, |path| std::fs::remove_file(path).unwrap()),
        (1, "its file has 3 bytes", true, |path| std::fs::write(path, b"abc").unwrap()),
        (1, "cannot be made again", false, |path| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[50] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }),
    ];
    for (which, words, quick, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let _lease = Lease::begin(&store);
        let tar = tar(7);
        let blob = gzip_program(&tar, 6);
        let odd = [b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec(), vec![0xff; 100]].concat();
        let (digest, diff_id) = keep(&store, &tar, &blob);
        let (other, _) = keep(&store, &tar, &odd);
        Packed::of(&store).wait();
        let id = image(&store, &diff_id, &digest, blob.len());
        store.tag("docker.io/library/packed:latest", &id, None).unwrap();
        assert_eq!((check(&store, false, true), check(&store, true, true)), (vec![], vec![]));
        let name = [digest.hex().to_owned(), format!("{}.blob", other.hex())][*which].clone();
        damage(&dir.path().join("packed").join(name));
        assert_eq!(check(&store, false, false).is_empty(), !quick, "{words}");
        let found = check(&store, true, false);
        assert!(found.len() == 1 && found[0].kind == "packed" && found[0].problem.contains(words), "{found:#?}");
        let advised = found[0].advice.as_deref().is_some_and(|advice| advice.contains("brig pull packed:latest"));
        assert_eq!(advised, *which == 0, "{found:#?}");
        let repaired = check(&store, true, true);
        assert!(repaired.len() == 1 && repaired[0].mended, "{repaired:#?}");
        assert_eq!(check(&store, true, false), []);
        // The other one is as it was; the layer too.
        let left = if *which == 0 { (&other, &odd) } else { (&digest, &blob) };
        assert!(read(&store, left.0) == *left.1);
        store.layer_tar(&store.image(&id).unwrap().chain_id.unwrap()).unwrap();
    }
}

#[test]
fn a_check_finds_forms_of_no_layer() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let lease = Lease::begin(&store);
    let tar = tar(8);
    let blob = gzip_program(&tar, 6);
    let (digest, _) = keep(&store, &tar, &blob);
    Packed::of(&store).wait();
    store.database().write(|db| db.execute("UPDATE store_packed SET diff_id = digest", []).map(drop)).unwrap();
    std::fs::write(dir.path().join("packed").join("ab".repeat(32)), b"of nobody").unwrap();
    drop(lease);
    let found = check(&store, false, true);
    assert!(found.len() == 2 && found.iter().all(|finding| finding.mended), "{found:#?}");
    assert!(found[0].name == digest.as_str() && found[0].problem.contains("which is not here"), "{found:#?}");
    assert_eq!((check(&store, true, false), files(dir.path())), (vec![], vec![]));
}

#[test]
fn what_no_recipe_makes_stays_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let _lease = Lease::begin(&store);
    let tar = tar(2);
    // A length of 258 that is written as 227 + 31: allowed, and unheard of. Beside it, plain nonsense.
    let odd = [b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec(), vec![0xff; 100]].concat();
    let (digest, diff_id) = keep(&store, &tar, &odd);
    Packed::of(&store).wait();
    assert!(read(&store, &digest) == odd);
    assert!(!Packed::of(&store).forms(&diff_id).unwrap()[0].has_recipe);
    assert_eq!(files(dir.path()), [(format!("{}.blob", digest.hex()), odd.len() as u64)]);
    // The layer's own tar is a form that needs nothing.
    assert!(read(&store, &diff_id) == tar);
}

#[test]
fn work_goes_on_after_a_restart_and_half_made_things_go() {
    let dir = tempfile::tempdir().unwrap();
    let tar = tar(3);
    let blob = gzip_program(&tar, 6);
    let store = Store::open(dir.path()).unwrap();
    let lease = Lease::begin(&store);
    let pause = Packed::of(&store).pause();
    let (digest, diff_id) = keep(&store, &tar, &blob);
    image(&store, &diff_id, &digest, blob.len());
    drop((pause, lease, store));
    let packed = dir.path().join("packed");
    // What a killed process may leave.
    let other = format!("{}.blob", "0123456789abcdef".repeat(4));
    for name in [&format!("{}.new", digest.hex()), &other, digest.hex()] {
        std::fs::write(packed.join(name), b"half").unwrap();
    }
    let store = Store::open(dir.path()).unwrap();
    Packed::of(&store).wait();
    assert!(Packed::of(&store).forms(&diff_id).unwrap()[0].has_recipe);
    assert_eq!(files(dir.path()).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [digest.hex()]);
    assert!(read(&store, &digest) == blob);
    drop(store);
    // Killed after the recipe was recorded, before the blob went.
    std::fs::write(packed.join(format!("{}.blob", digest.hex())), &blob).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(files(dir.path()).len(), 1);
    drop(store);
    // A recipe that is lost is a form that is gone, not an error.
    std::fs::remove_file(packed.join(digest.hex())).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(Packed::of(&store).blob(&digest).err().unwrap().kind, ErrorKind::NotFound);
}

#[test]
fn a_damaged_blob_is_dropped_and_a_damaged_recipe_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let tar = tar(4);
    let blob = gzip_program(&tar, 6);
    let store = Store::open(dir.path()).unwrap();
    let _lease = Lease::begin(&store);
    let pause = Packed::of(&store).pause();
    let (digest, diff_id) = keep(&store, &tar, &blob);
    let path = dir.path().join("packed").join(format!("{}.blob", digest.hex()));
    let mut changed = blob.clone();
    changed[20_000] ^= 1;
    std::fs::write(&path, &changed).unwrap();
    assert!(Packed::of(&store).blob(&digest).unwrap().read_to_end(&mut Vec::new()).is_err());
    drop(pause);
    Packed::of(&store).wait();
    assert_eq!(Packed::of(&store).forms(&diff_id).unwrap(), []);
    assert_eq!(files(dir.path()), []);
    // The same once more, whole; then its recipe is damaged.
    keep(&store, &tar, &blob);
    Packed::of(&store).wait();
    let path = dir.path().join("packed").join(digest.hex());
    let mut recipe = std::fs::read(&path).unwrap();
    let middle = recipe.len() / 2;
    recipe[middle] ^= 0x55;
    std::fs::write(&path, &recipe).unwrap();
    assert!(Packed::of(&store).blob(&digest).unwrap().read_to_end(&mut Vec::new()).is_err());
}

#[test]
fn forms_go_with_their_layer() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let lease = Lease::begin(&store);
    let tar = tar(5);
    let blob = gzip_program(&tar, 6);
    let (digest, diff_id) = keep(&store, &tar, &blob);
    let id = image(&store, &diff_id, &digest, blob.len());
    let odd = [b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec(), vec![0xff; 100]].concat();
    let (other, _) = keep(&store, &tar, &odd);
    Packed::of(&store).wait();
    store.gc(&[]).unwrap();
    assert!(read(&store, &digest) == blob && read(&store, &other) == odd);
    drop(lease);
    // No manifest lists the odd one, and nobody holds it any more.
    store.gc(&[]).unwrap();
    assert!(read(&store, &digest) == blob);
    assert_eq!(Packed::of(&store).blob(&other).err().unwrap().kind, ErrorKind::NotFound);
    store.remove_image(&id).unwrap();
    store.gc(&[]).unwrap();
    assert_eq!(Packed::of(&store).blob(&digest).err().unwrap().kind, ErrorKind::NotFound);
    assert_eq!(files(dir.path()), []);
}

/// A layer that came uncompressed, once by itself and once on another.
#[test]
fn a_tar_is_had_from_whichever_layer_has_it() {
    // Which of them is looked at first is chance.
    for nth in [0, 1].repeat(6) {
        let (_dir, store) = common::open();
        let tar = common::Tar::new().file("own", &[b'x'; 3000]).finish();
        let below = common::layer(&store, &common::Tar::new().file("below", b"below").finish(), None);
        let layers = [common::layer(&store, &tar, None), common::layer(&store, &tar, Some(&below.chain_id))];
        let recipe = |nth: usize| common::diff(&store, &layers[nth].chain_id).with_file_name("tar-recipe");
        std::fs::remove_file(recipe(nth)).unwrap();
        let (diff_id, packed) = (&layers[0].diff_id, Packed::of(&store));
        assert_eq!(packed.size(diff_id).unwrap(), Some(tar.len() as u64), "{nth}");
        assert!(read(&store, diff_id) == tar, "{nth}");
        std::fs::remove_file(recipe(1 - nth)).unwrap();
        assert_eq!(packed.size(diff_id).unwrap(), None, "{nth}");
    }
}

#[test]
fn a_blob_that_is_still_there_stands_in_for_its_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("v1");
    let tar = tar(5);
    let blob = gzip_program(&tar, 6);
    let store = Store::open(&root).unwrap();
    let (digest, diff_id) = keep(&store, &tar, &blob);
    image(&store, &diff_id, &digest, blob.len());
    Packed::of(&store).wait();
    drop(store);
    std::fs::remove_file(root.join("packed").join(digest.hex())).unwrap();
    std::fs::write(root.join("packed").join(format!("{}.blob", digest.hex())), &blob).unwrap();
    let store = Store::open(&root).unwrap();
    let mut read = Vec::new();
    Packed::of(&store).blob(&digest).unwrap().read_to_end(&mut read).unwrap();
    assert!(read == blob);
    Packed::of(&store).wait();
    assert!(Packed::of(&store).forms(&diff_id).unwrap()[0].has_recipe);
}

#[test]
fn nothing_is_collected_of_what_cannot_be_read_for_the_moment() {
    let (_dir, store) = common::open();
    let lease = Lease::begin(&store);
    let (digest, diff_id) = keep(&store, &tar(7), b"packed by nobody");
    let id = image(&store, &diff_id, &digest, 16);
    let manifest = store.image(&id).unwrap().manifest.unwrap();
    drop(lease);
    Packed::of(&store).wait();
    assert!(!Packed::of(&store).forms(&diff_id).unwrap()[0].has_recipe);
    let path = store.root().join("blobs/sha256").join(manifest.hex());
    let aside = store.root().join("aside");
    std::fs::rename(&path, &aside).unwrap();
    // What is no plain file is no manifest that is gone.
    std::os::unix::fs::symlink(&aside, &path).unwrap();
    let reclaimed = store.gc(&[]).unwrap();
    assert_eq!(reclaimed.blobs, []);
    std::fs::rename(&aside, &path).unwrap();
    store.gc(&[]).unwrap();
    assert_eq!(read(&store, &digest), b"packed by nobody");
}

#[test]
fn a_tar_that_is_damaged_puts_its_layer_out_of_use() {
    let (_dir, store) = common::open();
    let layer = common::layer(&store, &tar(1), None);
    std::fs::write(common::diff(&store, &layer.chain_id).join("dir/file7"), [b'x'; 60_000]).unwrap();
    let read = Packed::of(&store).blob(&layer.diff_id).unwrap().read_to_end(&mut Vec::new());
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    assert_eq!(store.layer(&layer.chain_id), None);
}

/// The worker reads whichever layer with the right diff id is whole, and puts the one out of use that is not.
#[test]
fn a_blob_whose_first_layer_is_damaged_is_made_from_another() {
    let (dir, store) = common::open();
    let _lease = Lease::begin(&store);
    let tar = tar(7);
    let below = common::layer(&store, &common::Tar::new().file("below", b"below").finish(), None);
    let layers = [common::layer(&store, &tar, None), common::layer(&store, &tar, Some(&below.chain_id))];
    // The worker asks them in the order of their ids.
    let (bad, good) =
        if layers[0].chain_id < layers[1].chain_id { (&layers[0], &layers[1]) } else { (&layers[1], &layers[0]) };
    let file = common::diff(&store, &bad.chain_id).join("dir/file3");
    let length = file.metadata().unwrap().len();
    // Not in a file that both may share.
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, vec![b'x'; usize::try_from(length).unwrap()]).unwrap();
    let blob = gzip_program(&tar, 6);
    let digest = sha256_of(&blob);
    let partial = store.partials().open("blob").unwrap();
    partial.append(&blob).unwrap();
    Packed::of(&store).keep(partial, &digest, &bad.diff_id, "application/x").unwrap();
    Packed::of(&store).wait();
    let forms = Packed::of(&store).forms(&bad.diff_id).unwrap();
    assert!(forms.iter().all(|form| form.has_recipe), "{forms:?}");
    assert!(store.layer(&good.chain_id).is_some());
    assert!(store.layer(&bad.chain_id).is_none(), "it is brought anew");
    assert!(read(&store, &digest) == blob);
    drop(dir);
}
