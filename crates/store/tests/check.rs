//! Every kind of damage is found, told in words that help, and mended or set aside; what is whole is left alone.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use brig_oci::Digest;
use brig_store::{
    CheckOptions, Finding, ImageRecord, Lease, NewManifest, PutManifest, Repositories, Store, UploadLimits,
};
use common::{Entry, Tar, layer, open, unpack};

/// As many uploads as anybody may want.
const ANY: UploadLimits = UploadLimits { all: 1000, client: 1000 };

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
        let top = Tar::new()
            .file("etc/file", &[7; 5000])
            .file(".wh.gone", b"")
            .file("deep/down/.wh.x", b"")
            .file("etc/.wh..wh..opq", b"")
            .dir("etc/dir", 0o750)
            .file("etc/dir/empty", b"")
            .file("etc/one", b"one file")
            .link("etc/two", "etc/one")
            .symlink("etc/link", "file")
            .device("etc/null", b'3', (1, 3))
            .pax(&[(b"SCHILY.xattr.user.note", b"as it was")])
            .file("etc/noted", b"noted")
            // Another's directory, described by the layer below.
            .file("bin/more", b"more")
            .link("bin/third", "bin/tool")
            .finish();
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

/// Sets the modification time of what is there, links not followed.
fn touch(path: &Path) {
    let time = rustix::fs::Timespec { tv_sec: 1_000_000, tv_nsec: 5 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// Does something to what is in a directory, and leaves the directory its time: only the thing itself tells.
fn unseen(directory: &Path, change: impl FnOnce()) {
    let metadata = directory.metadata().unwrap();
    change();
    let file = std::fs::File::open(directory).unwrap();
    file.set_modified(metadata.modified().unwrap()).unwrap();
}

#[test]
fn a_layer_of_which_something_else_than_bytes_changed() {
    let replace = |path: PathBuf, make: &dyn Fn(&Path)| {
        let parent = path.parent().unwrap().to_owned();
        unseen(&parent, || {
            if path.is_dir() && !path.is_symlink() {
                std::fs::remove_dir_all(&path).unwrap()
            } else {
                std::fs::remove_file(&path).unwrap()
            }
            make(&path);
        });
    };
    let whiteout = |path: &Path| {
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, rustix::fs::Mode::empty(), 0).unwrap();
    };
    let gone = |_: &Path| ();
    type Change<'a> = (&'a str, &'a dyn Fn(&Path));
    let damages: &[Change<'_>] = &[
        ("/etc/file: its time was", &|diff| touch(&diff.join("etc/file"))),
        ("/etc/dir: its time was", &|diff| touch(&diff.join("etc/dir"))),
        ("/etc/link: its time was", &|diff| touch(&diff.join("etc/link"))),
        ("/etc/dir: its mode was 750 and is 777", &|diff| {
            std::fs::set_permissions(diff.join("etc/dir"), std::fs::Permissions::from_mode(0o777)).unwrap();
        }),
        ("/bin: its mode was 755 and is 777", &|diff| {
            std::fs::set_permissions(diff.join("bin"), std::fs::Permissions::from_mode(0o777)).unwrap();
        }),
        ("/: its owner was 0:0 and is 7:0", &|diff| std::os::unix::fs::chown(diff, Some(7), None).unwrap()),
        ("/etc/link: its owner was 0:0 and is 7:7", &|diff| {
            std::os::unix::fs::lchown(diff.join("etc/link"), Some(7), Some(7)).unwrap();
        }),
        ("/etc/noted: its attribute user.note has changed", &|diff| {
            set_xattr(&diff.join("etc/noted"), "user.note", b"as it is");
        }),
        ("/etc/noted: its attribute user.note is gone", &|diff| {
            rustix::fs::lremovexattr(diff.join("etc/noted"), "user.note").unwrap();
        }),
        ("/etc/file: its attribute user.more was added", &|diff| {
            set_xattr(&diff.join("etc/file"), "user.more", b"x");
        }),
        ("/etc/dir: its attribute trusted.overlay.opaque was added", &|diff| {
            set_xattr(&diff.join("etc/dir"), "trusted.overlay.opaque", b"y");
        }),
        ("/etc: its attribute trusted.overlay.opaque is gone", &|diff| {
            rustix::fs::lremovexattr(diff.join("etc"), "trusted.overlay.opaque").unwrap();
        }),
        ("/bin/more: its attribute trusted.overlay.redirect was added", &|diff| {
            set_xattr(&diff.join("bin/more"), "trusted.overlay.redirect", b"/etc/shadow");
        }),
        ("/etc/two: it is a name of another file", &|diff| {
            replace(diff.join("etc/two"), &|path| {
                std::fs::write(path, b"one file").unwrap();
                let time = diff.join("etc/one").metadata().unwrap().modified().unwrap();
                std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
            });
        }),
        ("/etc/null: it was the character device 1:3 and is the character device 1:1", &|diff| {
            replace(diff.join("etc/null"), &|path| {
                let kind = rustix::fs::FileType::CharacterDevice;
                let mode = rustix::fs::Mode::from_raw_mode(0o644);
                rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, rustix::fs::makedev(1, 1)).unwrap();
            });
        }),
        ("/etc/link: it was a link to \"file\" and is one to \"/etc/passwd\"", &|diff| {
            replace(diff.join("etc/link"), &|path| std::os::unix::fs::symlink("/etc/passwd", path).unwrap());
        }),
        ("/etc/link: it is gone", &|diff| replace(diff.join("etc/link"), &gone)),
        ("/etc/dir/empty: it is gone", &|diff| replace(diff.join("etc/dir/empty"), &gone)),
        ("/etc/dir: it was a directory and is a file", &|diff| {
            replace(diff.join("etc/dir"), &|path| std::fs::write(path, b"").unwrap());
        }),
        ("/gone: the mark that it is removed is gone", &|diff| replace(diff.join("gone"), &gone)),
        ("/etc/dir/empty: it was a file and is a mark that it is removed", &|diff| {
            replace(diff.join("etc/dir/empty"), &whiteout);
        }),
        ("/bin/again was added", &|diff| unseen(&diff.join("bin"), || whiteout(&diff.join("bin/again")))),
        ("/bin/third", &|diff| std::fs::write(diff.join("bin/third"), b"#!/bin/evil").unwrap()),
    ];
    for (words, damage) in damages {
        let example = Example::new();
        damage(&example.path(1).join("diff"));
        assert_eq!(check(&example.store, QUICK), [], "{words}: only a full check looks");
        example.heals_by_pull(FULL, "layer", words);
    }
}

#[test]
fn damage_below_is_not_said_of_what_is_above() {
    let example = Example::new();
    let diff = example.path(0).join("diff");
    std::fs::set_permissions(diff.join("bin"), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(diff.join("bin/tool"), b"#!/bin/evil").unwrap();
    let found = check(&example.store, FULL);
    let layers: Vec<&Finding> = found.iter().filter(|finding| finding.kind == "layer").collect();
    assert!(layers.len() == 1 && layers[0].name == example.chains[0].as_str(), "{found:#?}");
    check(&example.store, REPAIR);
    example.pull();
    example.whole();
}

#[test]
fn a_layers_row_that_is_wrong_is_put_right() {
    let example = Example::new();
    let Example { _dir, store, chains, .. } = example;
    let before = store.layer(&chains[1]).unwrap();
    store.database().write(|db| db.execute("UPDATE store_layers SET size_bytes = 7", []).map(drop)).unwrap();
    let root = store.root().to_owned();
    drop(store);
    let store = Store::open(&root).unwrap();
    let found = check(&store, FULL);
    assert!(found.iter().any(|f| f.kind == "layer" && f.problem.contains("bytes, not 7")), "{found:#?}");
    assert!(check(&store, REPAIR).iter().all(|finding| finding.mended));
    assert_eq!(check(&store, FULL), []);
    drop(store);
    let store = Store::open(&root).unwrap();
    assert_eq!((check(&store, FULL), store.layer(&chains[1]).unwrap()), (vec![], before));
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
    let layer = format!("layers/{}/stray", example.chains[0].hex());
    let others = ["packed/stray", "packed/0123.blob", "partial/stray.txt", "partial/dir", "brig.dbx", &layer];
    for name in ["stray", "blobs/stray", "blobs/sha256/stray", "layers/stray", "active/stray"].into_iter().chain(others)
    {
        std::fs::create_dir(root.join(name)).unwrap();
        std::fs::write(root.join(name).join("file"), name).unwrap();
    }
    std::fs::create_dir(root.join("blobs/sha256").join("a".repeat(64))).unwrap();
    let found = check(&example.store, QUICK);
    assert_eq!(found.len(), 12, "{found:#?}");
    assert!(root.join("stray").exists(), "nothing is changed unasked");
    let found = check(&example.store, REPAIR);
    assert!(found.iter().all(|finding| finding.mended), "{found:#?}");
    assert!(!root.join("layers/stray").exists());
    let date = std::fs::read_dir(root.join("quarantine")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(std::fs::read_dir(date.join("file")).unwrap().count(), 12);
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
    assert_eq!(store.image(&image).unwrap().size_bytes, 5000 + 11 + 14 + 8 + 5 + 4);
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

/// A registry's root: one repository with a tagged manifest of a configuration and a layer, and an index over it.
struct Registry {
    _dir: tempfile::TempDir,
    store: Store,
    repositories: Repositories,
    blobs: [Digest; 2],
    manifest: Digest,
}

const CONFIG: &[u8] = br#"{"architecture":"amd64"}"#;
const LAYER: &[u8] = b"a layer's bytes";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Registry {
    fn new() -> Registry {
        let (dir, store) = open();
        let repositories = Repositories::of(&store);
        let blobs = [brig_store::digest::sha256_of(CONFIG), brig_store::digest::sha256_of(LAYER)];
        let registry = Registry { _dir: dir, store, repositories, blobs, manifest: brig_store::digest::sha256_of(b"") };
        let manifest = registry.push();
        Registry { manifest, ..registry }
    }

    /// What a client does: sends what it is told is missing, then the manifest.
    fn push(&self) -> Digest {
        let _lease = Lease::begin(&self.store);
        for (digest, bytes) in self.blobs.iter().zip([CONFIG, LAYER]) {
            if self.repositories.blob_size("team/app", digest).unwrap().is_none() {
                self.store.put_blob(bytes).unwrap();
                self.repositories.link_blob("team/app", digest, bytes.len() as u64).unwrap();
            }
        }
        let [config, layer] = &self.blobs;
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"a/b","digest":"{config}","size":{}}},
            "layers":[{{"mediaType":"a/c","digest":"{layer}","size":{}}}]}}"#,
            CONFIG.len(),
            LAYER.len()
        );
        let digest = brig_store::digest::sha256_of(text.as_bytes());
        let new = NewManifest {
            source: brig_store::Source::Push,
            digest: &digest,
            bytes: text.as_bytes(),
            media_type: MANIFEST,
            blobs: &self.blobs,
            manifests: &[],
            subject: None,
            artifact_type: None,
            annotations: &BTreeMap::new(),
        };
        let put = self.repositories.put_manifest("team/app", &new, &["v1".to_owned()]).unwrap();
        assert_eq!(put, PutManifest::Done);
        digest
    }

    fn sql(&self, statement: &str) {
        self.store.database().write(|db| db.execute_batch(statement)).unwrap();
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.store.root().join("blobs/sha256").join(digest.hex())
    }

    /// Damage is found and told in these words; after a repair, and a push if that is the advice, all is well.
    fn heals(&self, options: CheckOptions, kind: &str, words: &str, advice: Option<&str>) {
        let found = check(&self.store, options);
        let finding = found.iter().find(|finding| finding.kind == kind && finding.problem.contains(words));
        let finding = finding.unwrap_or_else(|| panic!("{kind} {words} in {found:#?}"));
        assert_eq!(finding.advice.as_deref(), advice, "{found:#?}");
        let repaired = check(&self.store, CheckOptions { repair: true, ..options });
        let finding = repaired.iter().find(|finding| finding.kind == kind && finding.problem.contains(words)).unwrap();
        assert!(finding.done.is_some() && finding.mended == advice.is_none(), "{finding:#?}");
        if advice.is_some() {
            self.push();
        }
        assert_eq!(check(&self.store, FULL), [], "{kind} {words}");
        // Nothing that is needed goes, nothing else stays.
        self.repositories.tidy(std::time::Duration::ZERO, false, &[]).unwrap();
        self.store.gc(&[]).unwrap();
        for digest in self.blobs.iter().chain([&self.manifest]) {
            assert!(self.store.has_blob(digest), "{kind} {words}");
        }
    }
}

#[test]
fn a_whole_registry_has_nothing_to_find() {
    let registry = Registry::new();
    let id = registry.repositories.uploads().begin("team/app", "", "", ANY).unwrap().unwrap();
    registry.store.partials().open(&format!("upload-{id}")).unwrap().append(b"half").unwrap();
    registry.store.partials().open("sha256-abc").unwrap().write_at(100, b"beyond a gap").unwrap();
    assert_eq!((check(&registry.store, QUICK), check(&registry.store, REPAIR)), (vec![], vec![]));
}

#[test]
fn a_registrys_blob_that_is_gone_cut_or_flipped() {
    let again = Some("push to the registry again: team/app:v1");
    for n in [0, 1] {
        let registry = Registry::new();
        std::fs::remove_file(registry.path(&registry.blobs[n])).unwrap();
        registry.heals(QUICK, "blob", "but it is gone", again);
    }
    let registry = Registry::new();
    std::fs::remove_file(registry.path(&registry.manifest)).unwrap();
    registry.heals(QUICK, "manifest", "but it is gone", again);
    for damage in [&b""[..], b"a layer's bytez"] {
        let registry = Registry::new();
        std::fs::write(registry.path(&registry.blobs[1]), damage).unwrap();
        registry.heals(FULL, "blob", "not what its name says", Some("push to the registry again: team/app"));
    }
    let registry = Registry::new();
    std::fs::write(registry.path(&registry.blobs[1]), b"short").unwrap();
    let found = check(&registry.store, QUICK);
    assert!(found.iter().any(|f| f.problem.contains("it has 5 bytes, not 15")), "a quick check sees it: {found:#?}");
}

#[test]
fn a_repositorys_rows_that_lead_nowhere() {
    let gone = brig_store::digest::sha256_of(b"gone");
    let statements: &[(&str, &str, String, Option<&str>)] = &[
        ("blob", "not 9", "UPDATE repository_blobs SET size = 9 WHERE size = 15".into(), None),
        (
            "tag",
            "which is gone",
            format!("INSERT INTO repository_tags SELECT id, 'lost', '{gone}', 0 FROM repositories"),
            Some("push to the registry again: team/app:lost"),
        ),
        (
            "manifest",
            "blobs are held for it, but it is gone",
            format!("INSERT INTO repository_references SELECT id, '{gone}', '{gone}' FROM repositories"),
            None,
        ),
        ("repository", "gone itself", format!("INSERT INTO repository_blobs VALUES (99, '{gone}', 1, 0, 0)"), None),
        ("manifest", "2 of the blobs that it names are not held", "DELETE FROM repository_references".into(), None),
    ];
    for (kind, words, statement, advice) in statements {
        let registry = Registry::new();
        registry.sql(statement);
        registry.heals(FULL, kind, words, *advice);
    }
}

#[test]
fn uploads_that_nobody_knows_of_are_moved() {
    let registry = Registry::new();
    let open = registry.store.partials().open("upload-0123").unwrap();
    open.append(b"half").unwrap();
    assert_eq!(check(&registry.store, REPAIR), [], "somebody is at it");
    drop(open);
    let found = check(&registry.store, REPAIR);
    assert!(found.len() == 1 && found[0].mended && found[0].problem.contains("upload"), "{found:#?}");
    assert_eq!((check(&registry.store, FULL), registry.store.partials().list().unwrap()), (vec![], vec![]));
}

#[test]
fn uploads_that_nobody_knows_of_go_at_the_next_start() {
    let registry = Registry::new();
    let id = registry.repositories.uploads().begin("team/app", "", "", ANY).unwrap().unwrap();
    let name = |id: &str| format!("{}{id}", brig_store::UPLOAD);
    for name in [name(&id), name("0123"), "sha256-abc".to_owned()] {
        registry.store.partials().open(&name).unwrap().append(b"half").unwrap();
    }
    let Registry { _dir, store, repositories, .. } = registry;
    let root = store.root().to_owned();
    drop((store, repositories));
    let mut names: Vec<String> =
        Store::open(&root).unwrap().partials().list().unwrap().into_iter().map(|info| info.name).collect();
    names.sort();
    assert_eq!(names, ["sha256-abc".to_owned(), name(&id)]);
}
