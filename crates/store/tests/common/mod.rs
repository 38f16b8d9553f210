//! What the tests share: archives made on the spot, a store in a scratch directory, and ways to look at the outcome.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use brig_oci::Digest;
use brig_store::{ImageRecord, LayerInfo, LayerIngest, Result, Store};

#[allow(unused_imports, reason = "each test program uses its part")]
pub use brig_tests::corpus::tar::{Entry, MTIME, Tar, checksum, header};

/// How many cases a property is tried with: as many as `PROPTEST_CASES` says, else these.
pub fn cases(usual: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

pub fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("v1")).unwrap();
    (dir, store)
}

pub fn unpack(store: &Store, tar: &[u8]) -> Result<LayerIngest> {
    let mut ingest = store.begin_layer()?;
    ingest.unpack(tar)?;
    Ok(ingest)
}

pub fn layer(store: &Store, tar: &[u8], parent: Option<&Digest>) -> LayerInfo {
    store.commit_layer(unpack(store, tar).unwrap(), parent).unwrap()
}

/// Whether a layer is what it claims to be, also to an image that lists another blob for it.
pub fn serves_all(store: &Store, chain: &Digest) -> bool {
    brig_store::serves(store, chain, Some(&brig_store::digest::sha256_of(b"another blob"))).unwrap()
}

/// The configuration of an image of these layers.
pub fn config(tars: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<String> = tars.iter().map(|tar| format!("\"{}\"", brig_store::digest::sha256_of(tar))).collect();
    format!(
        r#"{{"architecture":"amd64","os":"linux","created":"2026-01-01T00:00:00Z","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    )
    .into_bytes()
}

/// An image of these layers, stored.
pub fn image(store: &Store, tars: &[&[u8]]) -> Digest {
    let mut parent = None;
    for tar in tars {
        parent = Some(layer(store, tar, parent.as_ref()).chain_id);
    }
    let id = store.put_blob(&config(tars)).unwrap();
    store.put_image(ImageRecord::new(id, None)).unwrap().id
}

pub fn diff(store: &Store, chain: &Digest) -> PathBuf {
    store.root().join("layers").join(chain.hex()).join("diff")
}

pub fn count(store: &Store, name: &str) -> usize {
    std::fs::read_dir(store.root().join(name)).unwrap().count()
}

pub fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0u8; 4096];
    rustix::fs::lgetxattr(path, name, &mut value[..]).ok().map(|length| value[..length].to_vec())
}

/// Everything beneath a directory, by path, as text that says all that matters about it.
pub fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let kind = metadata.file_type();
        let what = if kind.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            "dir".to_owned()
        } else if kind.is_symlink() {
            format!("link {:?}", std::fs::read_link(&path).unwrap())
        } else if kind.is_file() {
            format!(
                "file {} nlink {}",
                brig_store::digest::sha256_of(&std::fs::read(&path).unwrap()).short(),
                metadata.nlink()
            )
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            format!("node {:x}", metadata.rdev())
        };
        if path != root {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let text = format!(
                "{what} {:o} {}:{} {}.{:09}",
                metadata.mode() & 0o7777,
                metadata.uid(),
                metadata.gid(),
                metadata.mtime(),
                metadata.mtime_nsec()
            );
            found.insert(name, text);
        }
    }
    found
}
