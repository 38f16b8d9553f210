//! Images of blobs that came in by themselves: how their layers are unpacked.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use brig_oci::{Digest, Manifest};
use brig_store::digest::sha256_of;
use brig_store::{ErrorKind, Lease, Packed, Store, adopt};
use brig_tests::image::gzip;
use common::Tar;

/// Plain tars, one file each.
fn tars(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|nth| Tar::new().file(&format!("file{nth}"), b"content").finish()).collect()
}

/// Puts an image of these layers into the store, packed, as a push does; `promised` is what its configuration says they are.
fn push(store: &Store, tars: &[Vec<u8>], promised: &[&[u8]]) -> (Digest, Manifest) {
    let config = common::config(promised);
    let blobs: Vec<Vec<u8>> = tars.iter().map(|tar| gzip(tar)).collect();
    let entry = |kind: &str, bytes: &[u8]| {
        let digest = sha256_of(bytes);
        format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{}}}"#, bytes.len())
    };
    for bytes in blobs.iter().chain([&config]) {
        store.put_blob(bytes).unwrap();
    }
    let layers: Vec<String> = blobs.iter().map(|blob| entry("layer.v1.tar+gzip", blob)).collect();
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
        entry("config.v1+json", &config),
        layers.join(",")
    );
    (store.put_blob(text.as_bytes()).unwrap(), Manifest::parse(text.as_bytes(), None).unwrap())
}

/// Places that are given back when they are dropped.
#[derive(Default)]
struct Places {
    /// Taken now, and the most that ever were.
    taken: Mutex<(usize, usize)>,
    changed: Condvar,
}

struct Taken(&'static Places);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.taken.lock().unwrap().0 -= 1;
        self.0.changed.notify_all();
    }
}

impl Places {
    fn leak() -> &'static Places {
        Box::leak(Box::default())
    }

    /// Takes one of `limit` places; with `together` not before that many ask.
    fn take(&'static self, limit: usize, together: usize) -> brig_store::Place {
        let mut taken = self.changed.wait_while(self.taken.lock().unwrap(), |taken| taken.0 >= limit).unwrap();
        taken.0 += 1;
        taken.1 = taken.1.max(taken.0);
        self.changed.notify_all();
        let until = Duration::from_secs(5);
        drop(self.changed.wait_timeout_while(taken, until, |taken| taken.1 < together).unwrap());
        Box::new(Taken(self))
    }

    fn most(&self) -> usize {
        self.taken.lock().unwrap().1
    }
}

#[test]
fn layers_are_unpacked_side_by_side_as_places_allow() {
    let (_dir, store) = common::open();
    let _lease = Lease::begin(&store);
    let tars = tars(9);
    let plain: Vec<&[u8]> = tars.iter().map(Vec::as_slice).collect();
    let (digest, manifest) = push(&store, &tars, &plain);
    let places = Places::leak();
    let image = adopt(&store, &digest, &manifest, &|| places.take(3, 3)).unwrap().unwrap();
    assert_eq!(places.most(), 3);
    // In their order, and the blobs are forms of them.
    let mut chain = image.chain_id;
    for tar in tars.iter().rev() {
        let layer = store.layer(&chain.unwrap()).unwrap();
        assert_eq!(layer.diff_id, sha256_of(tar));
        chain = layer.parent;
    }
    for (layer, tar) in manifest.layers.iter().zip(&tars) {
        assert_eq!(Packed::of(&store).diff_id_of(&layer.digest).unwrap(), Some(sha256_of(tar)));
        assert!(store.blob_size(&layer.digest).is_none(), "{} is there twice", layer.digest);
    }
}

#[test]
fn the_first_layer_that_lies_is_named_and_nothing_is_left() {
    let (_dir, store) = common::open();
    let _lease = Lease::begin(&store);
    let tars = tars(9);
    let mut promised: Vec<&[u8]> = tars.iter().map(Vec::as_slice).collect();
    promised.swap(4, 5);
    let (digest, manifest) = push(&store, &tars, &promised);
    let places = Places::leak();
    let error = adopt(&store, &digest, &manifest, &|| places.take(2, 1)).unwrap_err();
    assert!(error.kind == ErrorKind::Mismatch && error.message.contains("promises"), "{error}");
    let named = &manifest.layers[4..6];
    assert!(named.iter().any(|layer| error.message.contains(layer.digest.as_str())), "{error}");
    assert_eq!((common::count(&store, "ingest"), common::count(&store, "layers")), (0, 0));
    assert!(store.image(&manifest.config.digest).is_none());
    // The blobs are as they were.
    assert!(manifest.layers.iter().all(|layer| store.blob_size(&layer.digest) == Some(layer.size)));
}
