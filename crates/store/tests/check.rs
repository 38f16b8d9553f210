//! Every kind of damage is found, told in words that help, and mended or set aside; what is whole is left alone.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use brig_oci::Digest;
use brig_store::{CheckOptions, Finding, ImageRecord, Lease, Store};
use common::{Entry, Tar, layer, open, unpack};

/// Words that tell of it, and what is done to a layer's files.
type Damage = (&'static str, fn(&Path));

const QUICK: CheckOptions = CheckOptions { full: false, repair: false };
const FULL: CheckOptions = CheckOptions { full: true, repair: false };
const REPAIR: CheckOptions = CheckOptions { full: true, repair: true };

fn check(store: &Store, options: CheckOptions) -> Vec<Finding> {
    let mut found = Vec::new();
    store.upkeep().check(options, &mut |finding| found.push(finding)).unwrap();
    found
}

struct Example {
    _dir: tempfile::TempDir,
    store: Store,
    base: Vec<u8>,
    top: Vec<u8>,
    image: Digest,
    chains: [Digest; 2],
}

impl Example {
    fn new() -> Example {
        let (dir, store) = open();
        let base = Tar::new()
            .dir("bin", 0o755)
            .file("bin/tool", b"#!/bin/true")
            .symlink("lib", "bin")
            .link("bin/again", "bin/tool")
            .file("lib/through", b"through a link")
            .dir("gone", 0o755)
            .finish();
        let top = Tar::new().file("etc/file", &[7; 5000]).file(".wh.gone", b"").file("deep/down/.wh.x", b"").finish();
        let image = common::image(&store, &[&base, &top]);
        store.tag("docker.io/library/example:latest", &image, None).unwrap();
        let chain = store.image(&image).unwrap().chain_id.unwrap();
        let parent = store.layer(&chain).unwrap().parent.unwrap();
        store.prepare("container", Some(&chain)).unwrap();
        Example { _dir: dir, store, base, top, image, chains: [parent, chain] }
    }

    fn path(&self, layer: usize) -> PathBuf {
        self.store.root().join("layers").join(self.chains[layer].hex())
    }

    /// What a pull does: brings what is missing.
    fn pull(&self) {
        let _lease = Lease::begin(&self.store);
        let mut parent: Option<Digest> = None;
        for (tar, chain) in [&self.base, &self.top].into_iter().zip(&self.chains) {
            if self.store.layer(chain).is_none() {
                layer(&self.store, tar, parent.as_ref());
            }
            parent = Some(chain.clone());
        }
        let id = self.store.put_blob(&common::config(&[&self.base, &self.top])).unwrap();
        self.store.put_image(ImageRecord::new(id, None)).unwrap();
    }

    /// Damage is found, a repair sets it aside, a pull heals it.
    fn heals_by_pull(&self, options: CheckOptions, kind: &str, words: &str) {
        let found = check(&self.store, options);
        let finding = found.iter().find(|finding| finding.kind == kind && finding.problem.contains(words));
        let finding = finding.unwrap_or_else(|| panic!("{kind} {words} in {found:#?}"));
        assert_eq!(finding.advice.as_deref(), Some("brig pull example:latest"), "{found:#?}");
        let repaired = check(&self.store, CheckOptions { repair: true, ..options });
        assert!(repaired.iter().any(|finding| finding.kind == kind && finding.done.is_some()), "{repaired:#?}");
        assert!(!check(&self.store, options).is_empty(), "there is still something to be pulled");
        self.pull();
        self.whole();
    }

    fn whole(&self) {
        assert_eq!(check(&self.store, FULL), []);
        self.store.layer_tar(&self.chains[1]).unwrap();
        self.store.prepare("another", Some(&self.chains[1])).unwrap();
        self.store.remove_active("another").unwrap();
    }
}

#[test]
fn a_whole_store_has_nothing_to_find() {
    let example = Example::new();
    assert_eq!((check(&example.store, QUICK), check(&example.store, FULL)), (vec![], vec![]));
    assert_eq!(check(&example.store, REPAIR), []);
    assert!(!example.store.root().join("quarantine").exists());
    example.whole();
}

#[test]
fn all_kinds_of_archives_are_whole_after_unpacking() {
    let (_dir, store) = open();
    let tars = [
        Tar::new()
            .file("a", b"1")
            .file("a", b"2")
            .dir("d", 0o700)
            .file("d/.wh..wh..opq", b"")
            .file("d/x", b"")
            .finish(),
        Tar::new().entry(&Entry { name: b"set", mode: 0o4755, owner: (1000, 70_000), ..Entry::default() }).finish(),
        Tar::new().device("null", b'3', (1, 3)).device("pipe", b'6', (0, 0)).dir("a/b/c/", 0o1777).finish(),
        Tar::new().symlink("l", "d").dir("d", 0o755).file("l/f", b"f").file("./x/./y", b"y").finish(),
        Tar::new().file(&"n/".repeat(120), b"").file(&format!("{}f", "m".repeat(200)), b"long").finish(),
        Tar::new().dir("was", 0o755).file("was/in", b"x").file("was", b"now a file").finish(),
        Tar::new().finish(),
    ];
    for tar in &tars {
        if unpack(&store, tar).is_ok() {
            common::image(&store, &[tar]);
        }
    }
    assert!(store.images().len() >= 6);
    assert_eq!(check(&store, FULL), []);
}

#[test]
fn a_layer_whose_files_changed() {
    let example = Example::new();
    let file = example.path(1).join("diff/etc/file");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[2500] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(check(&example.store, QUICK), [], "only a full check reads every byte");
    let running = std::fs::File::open(&file).unwrap();
    example.heals_by_pull(FULL, "layer", "");
    // Whoever has the old file open or mounted goes on with it.
    assert_eq!(running.metadata().unwrap().len(), 5000);
    assert_eq!(std::fs::read(&file).unwrap(), [7; 5000]);
}

#[test]
fn a_layer_with_a_file_too_many_too_few_or_too_open() {
    let damages: &[Damage] = &[
        ("/etc/new was added", |diff| std::fs::write(diff.join("etc/new"), b"x").unwrap()),
        ("", |diff| std::fs::remove_file(diff.join("etc/file")).unwrap()),
        ("/etc/file: its mode was 644 and is 4777", |diff| {
            std::fs::set_permissions(diff.join("etc/file"), std::fs::Permissions::from_mode(0o4777)).unwrap();
        }),
        ("/etc/file: its owner was 0:0 and is 5:5", |diff| {
            std::os::unix::fs::chown(diff.join("etc/file"), Some(5), Some(5)).unwrap();
        }),
        ("", |diff| {
            std::fs::remove_file(diff.join("etc/file")).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", diff.join("etc/file")).unwrap();
        }),
        ("", |diff| std::fs::File::options().write(true).open(diff.join("etc/file")).unwrap().set_len(10).unwrap()),
    ];
    for (words, damage) in damages {
        let example = Example::new();
        damage(&example.path(1).join("diff"));
        example.heals_by_pull(FULL, "layer", words);
    }
}

#[test]
fn a_layer_that_is_gone_or_cut() {
    for (what, words) in [("", "directory is gone"), ("diff", "files are gone"), ("tar-recipe", "archive is made")] {
        for layer in [0, 1] {
            let example = Example::new();
            let path = example.path(layer).join(what);
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap()
            } else {
                std::fs::remove_file(path).unwrap()
            }
            example.heals_by_pull(QUICK, "layer", words);
        }
    }
    let example = Example::new();
    std::fs::write(example.path(1).join("tar-recipe"), b"garbage that is no recipe at all").unwrap();
    example.heals_by_pull(FULL, "layer", "");
    let example = Example::new();
    std::fs::write(example.path(1).join("info"), b"{}").unwrap();
    assert_eq!(check(&example.store, QUICK).len(), 1);
    assert!(check(&example.store, REPAIR).iter().all(|finding| finding.mended));
    example.whole();
}

#[test]
fn a_blob_that_is_cut_or_flipped() {
    for damage in [&b""[..], b"{", b"{\"architecture\":\"other\"}"] {
        let example = Example::new();
        std::fs::write(example.store.root().join("blobs/sha256").join(example.image.hex()), damage).unwrap();
        example.heals_by_pull(FULL, "blob", "");
    }
    let example = Example::new();
    std::fs::remove_file(example.store.root().join("blobs/sha256").join(example.image.hex())).unwrap();
    assert!(check(&example.store, QUICK).iter().any(|finding| finding.kind == "image"));
    example.pull();
    example.whole();
}

#[test]
fn strays_are_moved_and_nothing_else() {
    let example = Example::new();
    let root = example.store.root().to_owned();
    for name in ["stray", "blobs/stray", "blobs/sha256/stray", "layers/stray", "active/stray"] {
        std::fs::create_dir(root.join(name)).unwrap();
        std::fs::write(root.join(name).join("file"), name).unwrap();
    }
    std::fs::create_dir(root.join("blobs/sha256").join("a".repeat(64))).unwrap();
    let found = check(&example.store, QUICK);
    assert_eq!(found.len(), 6, "{found:#?}");
    assert!(root.join("stray").exists(), "nothing is changed unasked");
    let found = check(&example.store, REPAIR);
    assert!(found.iter().all(|finding| finding.mended), "{found:#?}");
    assert!(!root.join("layers/stray").exists());
    let date = std::fs::read_dir(root.join("quarantine")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(std::fs::read_dir(date.join("file")).unwrap().count(), 6);
    example.whole();
}

#[test]
fn rows_that_lead_nowhere() {
    let example = Example::new();
    let gone = brig_store::digest::sha256_of(b"gone");
    let statements = [
        format!("INSERT INTO store_tags VALUES ('docker.io/library/lost:v1', '{gone}', NULL, 0)"),
        format!("INSERT INTO store_layers VALUES ('{gone}', '{gone}', NULL, 5, 0)"),
        "UPDATE store_images SET size_bytes = 1".to_owned(),
    ];
    for statement in &statements {
        example.store.database().write(|db| db.execute(statement, []).map(drop)).unwrap();
    }
    let Example { _dir, store, image, .. } = example;
    let root = store.root().to_owned();
    drop(store);
    let store = Store::open(&root).unwrap();
    let found = check(&store, QUICK);
    let has = |kind: &str, words: &str| found.iter().any(|f| f.kind == kind && f.problem.contains(words));
    assert!(
        has("tag", "which is gone") && has("layer", "directory is gone") && has("image", "its size is"),
        "{found:#?}"
    );
    let tag = found.iter().find(|finding| finding.kind == "tag").unwrap();
    assert_eq!((tag.name.as_str(), tag.advice.as_deref()), ("lost:v1", Some("brig pull lost:v1")));
    check(&store, REPAIR);
    assert_eq!(check(&store, FULL), []);
    assert_eq!(store.image(&image).unwrap().size_bytes, 5000 + 11 + 14);
}

#[test]
fn a_layer_that_the_database_lost_while_it_was_open() {
    let example = Example::new();
    let lost = example.store.root().join("layers").join("b".repeat(64));
    std::fs::create_dir_all(lost.join("diff")).unwrap();
    std::fs::write(lost.join("info"), b"{\"diff_id\":\"sha256:00\",\"size_bytes\":0}").unwrap();
    let found = check(&example.store, REPAIR);
    assert!(found.len() == 1 && found[0].mended, "{found:#?}");
    example.whole();
}
