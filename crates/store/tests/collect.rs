//! Collection against a model: whatever is in use stays, whatever nothing leads to goes at once, in any order of events.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use brig_oci::Digest;
use brig_store::{ImageRecord, Lease, Store};
use common::{Tar, layer, open};
use proptest::prelude::*;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// Work begins.
    Begin(usize),
    /// Work ends, however.
    End(usize),
    /// Layers of one image arrive, from below, this many of them.
    Layers(usize, usize),
    /// A configuration arrives.
    Config(usize),
    /// An image is made, if all of it is there.
    Image(usize),
    Remove(usize),
    /// A container on an image, and its end.
    Run(usize),
    Stop(usize),
    Collect,
    /// The daemon is started again: leases are gone, what they held counts as cut off until it is pruned.
    Reopen,
}

const IMAGES: usize = 4;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..3usize).prop_map(Step::Begin),
        2 => (0..3usize).prop_map(Step::End),
        4 => (0..IMAGES, 1..4usize).prop_map(|(image, count)| Step::Layers(image, count)),
        4 => (0..IMAGES).prop_map(Step::Config),
        4 => (0..IMAGES).prop_map(Step::Image),
        2 => (0..IMAGES).prop_map(Step::Remove),
        1 => (0..IMAGES).prop_map(Step::Run),
        1 => (0..IMAGES).prop_map(Step::Stop),
        4 => Just(Step::Collect),
        1 => Just(Step::Reopen),
    ]
}

/// What must be there.
#[derive(Default)]
struct Model {
    layers: BTreeMap<Digest, Option<Digest>>,
    blobs: BTreeSet<Digest>,
    images: BTreeSet<usize>,
    containers: BTreeSet<usize>,
    leases: BTreeMap<usize, BTreeSet<Digest>>,
}

impl Model {
    fn arrived(&mut self, digest: &Digest) {
        self.leases.values_mut().for_each(|held| held.extend([digest.clone()]));
    }

    fn collect(&mut self, images: &[Example]) {
        let held: BTreeSet<Digest> = self.leases.values().flatten().cloned().collect();
        let used = self.images.iter().chain(&self.containers);
        let mut live: BTreeSet<Digest> = used.map(|n| images[*n].chains.last().unwrap().clone()).collect();
        live.extend(held.iter().cloned());
        let mut todo: Vec<Digest> = live.iter().cloned().collect();
        while let Some(chain) = todo.pop() {
            if let Some(Some(parent)) = self.layers.get(&chain)
                && live.insert(parent.clone())
            {
                todo.push(parent.clone());
            }
        }
        self.layers.retain(|chain, _| live.contains(chain));
        let ids: BTreeSet<&Digest> = self.images.iter().map(|n| &images[*n].id).collect();
        self.blobs.retain(|blob| ids.contains(blob) || held.contains(blob));
    }
}

/// An image that can be made: a base that all share, one layer that two share, one of its own.
struct Example {
    tars: Vec<Vec<u8>>,
    chains: Vec<Digest>,
    config: Vec<u8>,
    id: Digest,
}

fn examples() -> Vec<Example> {
    let make = |n: usize| {
        let tar = |name: String| Tar::new().file(&name, name.as_bytes()).finish();
        let tars = vec![tar("base".into()), tar(format!("shared{}", n / 2)), tar(format!("own{n}"))];
        let mut chains: Vec<Digest> = Vec::new();
        for tar in &tars {
            let diff_id = brig_store::digest::sha256_of(tar);
            chains.push(brig_store::digest::chain_id(chains.last(), &diff_id));
        }
        let config = common::config(&tars.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let id = brig_store::digest::sha256_of(&config);
        Example { tars, chains, config, id }
    };
    (0..IMAGES).map(make).collect()
}

fn compare(store: &Store, model: &Model, images: &[Example]) {
    for chain in images.iter().flat_map(|image| &image.chains) {
        assert_eq!(store.layer(chain).is_some(), model.layers.contains_key(chain), "layer {chain}");
    }
    for image in images {
        assert_eq!(store.has_blob(&image.id), model.blobs.contains(&image.id), "blob {}", image.id);
    }
    store.wait_for_removals();
    assert_eq!(common::count(store, "layers"), model.layers.len());
    assert_eq!(common::count(store, "trash"), 0);
}

fn play(steps: Vec<Step>) {
    let (dir, mut store) = open();
    let root = dir.path().join("v1");
    let images = examples();
    let mut model = Model::default();
    let mut leases: BTreeMap<usize, Lease> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Begin(n) => {
                leases.insert(n, Lease::begin(&store));
                model.leases.insert(n, BTreeSet::new());
            }
            Step::End(n) => {
                leases.remove(&n);
                model.leases.remove(&n);
            }
            Step::Layers(n, count) => {
                let mut parent: Option<Digest> = None;
                for tar in images[n].tars.iter().take(count) {
                    let info = layer(&store, tar, parent.as_ref());
                    model.arrived(&info.chain_id);
                    model.layers.insert(info.chain_id.clone(), parent);
                    parent = Some(info.chain_id);
                }
            }
            Step::Config(n) => {
                let id = store.put_blob(&images[n].config).unwrap();
                model.arrived(&id);
                model.blobs.insert(id);
            }
            Step::Image(n) => {
                let chain = images[n].chains.last().unwrap();
                let whole = model.layers.contains_key(chain) && model.blobs.contains(&images[n].id);
                let made = store.put_image(ImageRecord::new(images[n].id.clone(), None));
                assert_eq!(made.is_ok(), whole, "{made:?}");
                if whole {
                    model.images.insert(n);
                }
            }
            Step::Remove(n) => {
                store.remove_image(&images[n].id).unwrap();
                model.images.remove(&n);
            }
            Step::Run(n) => {
                let chain = images[n].chains.last().unwrap();
                let made = store.prepare(&format!("c{n}"), Some(chain));
                assert_eq!(made.is_ok(), model.layers.contains_key(chain));
                if made.is_ok() {
                    model.containers.insert(n);
                }
            }
            Step::Stop(n) => {
                store.remove_active(&format!("c{n}")).unwrap();
                model.containers.remove(&n);
            }
            Step::Collect => {
                store.gc(&[]).unwrap();
                model.collect(&images);
            }
            Step::Reopen => {
                leases.clear();
                model.leases.clear();
                drop(store);
                store = Store::open(&root).unwrap();
                // What was cut off stays until it is pruned.
                store.gc(&[]).unwrap();
                compare(&store, &model, &images);
                store.upkeep().prune().unwrap();
                model.collect(&images);
            }
        }
        compare(&store, &model, &images);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(24), ..ProptestConfig::default() })]
    #[test]
    fn what_is_in_use_stays_and_the_rest_goes(steps in proptest::collection::vec(step(), 1..40)) {
        play(steps);
    }
}

#[test]
fn what_is_held_before_it_is_asked_for_stays() {
    let (_dir, store) = open();
    let blob = store.put_blob(b"{}").unwrap();
    let lease = Lease::begin(&store);
    lease.hold(&blob);
    store.gc(&[]).unwrap();
    assert!(store.has_blob(&blob));
    drop(lease);
    store.gc(&[]).unwrap();
    assert!(!store.has_blob(&blob));
}

#[test]
fn collecting_beside_work_takes_nothing_of_it() {
    let (_dir, store) = open();
    let images = examples();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                store.gc(&[]).unwrap();
            }
        });
        let workers: Vec<_> = images
            .iter()
            .map(|image| {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let _lease = Lease::begin(&store);
                        let mut parent = None;
                        for tar in &image.tars {
                            parent = Some(layer(&store, tar, parent.as_ref()).chain_id);
                        }
                        store.put_blob(&image.config).unwrap();
                        store.put_image(ImageRecord::new(image.id.clone(), None)).unwrap();
                        store.remove_image(&image.id).unwrap();
                    }
                })
            })
            .collect();
        let ended: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok));
    });
    store.gc(&[]).unwrap();
    store.wait_for_removals();
    assert_eq!(common::count(&store, "layers"), 0);
}

#[test]
fn what_is_freed_is_what_du_says() {
    let (dir, store) = open();
    let root = dir.path().join("v1");
    let mut tar = Tar::new().dir("d", 0o755).file("big", &vec![7; 3_000_000]);
    for n in 0..200 {
        tar = tar.file(&format!("d/{n}"), b"small").link(&format!("d/{n}-again"), &format!("d/{n}"));
    }
    let id = common::image(&store, &[&tar.finish()]);
    rustix::fs::sync();
    let before = du(&root);
    store.remove_image(&id).unwrap();
    let (reclaimed, freed) = store.upkeep().freed_by(|| store.upkeep().prune()).unwrap();
    let difference = before - du(&root);
    assert_eq!(reclaimed.layers.len(), 1);
    assert!(difference > 3_800_000, "{difference}");
    assert!(freed.abs_diff(difference) * 100 <= difference, "freed {freed}, du says {difference}");
}

#[test]
fn what_is_measured_is_what_du_says() {
    let (dir, store) = open();
    let root = dir.path().join("v1");
    let measured = |what: &str| {
        rustix::fs::sync();
        let names = ["layers", "blobs", "packed", "partial", "ingest"];
        let is: u64 = names.iter().map(|name| du(&root.join(name))).sum();
        let said = store.upkeep().usage(&|_| true).unwrap().images;
        assert!(said.abs_diff(is) * 100 <= is, "{what}: {said} said, {is} by du");
        is
    };
    let mut tar = Tar::new().dir("d", 0o755).file("big", &vec![7; 600_000]);
    for n in 0..100 {
        tar = tar.file(&format!("d/{n}"), &[5; 9000]).link(&format!("d/{n}-again"), &format!("d/{n}"));
    }
    let tar = tar.finish();
    let info = layer(&store, &tar, None);
    let one = measured("a layer");
    // A download under way, with a gap, and its layer half unpacked.
    let partial = store.partials().open("sha256-abc").unwrap();
    partial.append(&[1; 300_000]).unwrap();
    partial.write_at(2_000_000, &[2; 300_000]).unwrap();
    let mut ingest = store.begin_layer().unwrap();
    ingest.unpack(&Tar::new().file("more", &[9; 400_000]).finish()[..]).unwrap();
    let more = measured("beside a pull");
    assert!(more > one + 900_000, "{more} after {one}");
    drop((partial, ingest));
    store.wait_for_removals();
    // A compressed form that waits for its recipe.
    let packed = brig_store::Packed::of(&store);
    let _pause = packed.pause();
    let form = store.partials().open("form").unwrap();
    form.append(&[3; 700_000]).unwrap();
    packed.keep(form, &brig_store::digest::sha256_of(&[3; 700_000]), &info.diff_id, "a/b").unwrap();
    let packed = measured("with a compressed form");
    assert!(packed > one + 1_200_000, "{packed} after {one}");
}

/// Bytes on the disk, as `du` counts them; without the database, whose log grows meanwhile.
fn du(path: &std::path::Path) -> u64 {
    let output = std::process::Command::new("du")
        .args(["-s", "-B1", "--exclude=brig.db*", "--exclude=reserve"])
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}
