//! What takes the worker's own clock, which is faster here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use brig_tests::corpus::tar::Tar;
use brig_tests::image::gzip_program;
use brig_tests::wait::eventually;

use super::*;
use crate::digest::sha256_of;
use crate::lease::Lease;

#[test]
fn what_failed_for_a_reason_that_passes_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let _lease = Lease::begin(&store);
    let text: String = (0..20_000).map(|n| format!("{n} of many lines\n")).collect();
    let tar = Tar::new().file("text", text.as_bytes()).finish();
    let mut ingest = store.begin_layer().unwrap();
    let unpacked = ingest.unpack(&tar[..]).unwrap();
    store.commit_layer(ingest, None).unwrap();
    let blob = gzip_program(&tar, 6);
    let digest = sha256_of(&blob);
    // Where its recipe is to be written.
    let obstacle = dir.path().join("packed").join(format!("{}{NEW}", digest.hex()));
    std::fs::create_dir(&obstacle).unwrap();
    let partial = store.partials().open("blob").unwrap();
    partial.append(&blob).unwrap();
    Packed::of(&store).keep(partial, &digest, &unpacked.diff_id, "application/x").unwrap();
    Packed::of(&store).wait();
    let has_recipe = || Packed::of(&store).forms(&unpacked.diff_id).unwrap()[0].has_recipe;
    assert!(!has_recipe());
    std::fs::remove_dir(&obstacle).unwrap();
    eventually("it has a recipe", || has_recipe().then_some(()));
}
