//! Owns images made on the spot.

use std::io::Write;

use brig_oci::{Descriptor, Digest, media_type};
use serde_json::{Value, json};
use sha2::Digest as _;

/// How a layer is packed.
#[derive(Clone, Copy, Debug)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// A layer in both forms.
#[derive(Clone)]
pub struct Layer {
    pub blob: Vec<u8>,
    pub diff_id: Digest,
    pub media_type: &'static str,
}

/// An image's documents and layers.
#[derive(Clone)]
pub struct Image {
    pub layers: Vec<Layer>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

pub fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_sha256(sha2::Sha256::digest(bytes).into())
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend(state.to_le_bytes());
    }
    out.truncate(length);
    out
}

impl Layer {
    /// A layer with one file `name` of `length` incompressible bytes.
    pub fn file(name: &str, length: usize, packing: Packing) -> Layer {
        let seed = name.bytes().fold(7, |s, b| s * 31 + u64::from(b));
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(length as u64);
        header.set_entry_type(tar::EntryType::Regular);
        tar.append_data(&mut header, name, &noise(seed, length)[..]).unwrap();
        Layer::of(&tar.into_inner().unwrap(), packing)
    }

    pub fn of(tar: &[u8], packing: Packing) -> Layer {
        let (blob, media_type) = match packing {
            Packing::Plain => (tar.to_vec(), media_type::OCI_LAYER),
            Packing::Gzip => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(tar).unwrap();
                (gzip.finish().unwrap(), media_type::DOCKER_LAYER_GZIP)
            }
            Packing::Zstd => (zstd::stream::encode_all(tar, 1).unwrap(), media_type::OCI_LAYER_ZSTD),
        };
        Layer { blob, diff_id: sha256(tar), media_type }
    }

    pub fn digest(&self) -> Digest {
        sha256(&self.blob)
    }

    pub fn descriptor(&self) -> Value {
        descriptor(self.media_type, &self.blob)
    }
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    serde_json::to_value(Descriptor::new(media_type, sha256(bytes), bytes.len() as u64)).unwrap()
}

impl Image {
    pub fn new(layers: Vec<Layer>) -> Image {
        Image::for_platform(layers, "linux", "amd64")
    }

    pub fn for_platform(layers: Vec<Layer>, os: &str, architecture: &str) -> Image {
        let diff_ids: Vec<&Digest> = layers.iter().map(|l| &l.diff_id).collect();
        let config = json!({
            "architecture": architecture, "os": os, "config": {"Cmd": ["/f"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Image::with_config(layers, config)
    }

    pub fn with_config(layers: Vec<Layer>, config: Value) -> Image {
        let config = serde_json::to_vec(&config).unwrap();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": descriptor(media_type::OCI_CONFIG, &config),
            "layers": layers.iter().map(Layer::descriptor).collect::<Vec<_>>(),
        });
        Image { layers, config, manifest: serde_json::to_vec_pretty(&manifest).unwrap() }
    }

    /// Three layers, one of each packing.
    pub fn small() -> Image {
        Image::new(vec![
            Layer::file("one", 200_000, Packing::Gzip),
            Layer::file("two", 150_000, Packing::Zstd),
            Layer::file("three", 1_000, Packing::Plain),
        ])
    }

    /// The same with the manifest changed.
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Image {
        let mut manifest: Value = serde_json::from_slice(&self.manifest).unwrap();
        change(&mut manifest);
        self.manifest = serde_json::to_vec(&manifest).unwrap();
        self
    }

    pub fn id(&self) -> Digest {
        sha256(&self.config)
    }

    pub fn digest(&self) -> Digest {
        sha256(&self.manifest)
    }

    /// An index entry for this image.
    pub fn entry(&self, os: &str, architecture: &str) -> Value {
        let mut entry = descriptor(media_type::OCI_MANIFEST, &self.manifest);
        entry["platform"] = json!({"os": os, "architecture": architecture});
        entry
    }
}
