//! An archive as the only layer of an image, in whatever dress, as archives and registries carry it.
//! Owns the wrapping; what is in the layer is the case's business.

use super::tar::{Entry, Tar};
use super::{Case, Dress};
use crate::image::digest;
use serde_json::{Value, json};

/// A layer under way, with the configuration and the manifest around it.
pub struct Shipment {
    /// As it travels.
    pub layer: Vec<u8>,
    /// The image's configuration.
    pub config: Vec<u8>,
    /// The manifest, in OCI's words.
    pub manifest: Vec<u8>,
    /// The plain layer's digest, which is also its chain id.
    pub diff_id: String,
}

impl Shipment {
    /// The case in a dress.
    pub fn new(case: &Case, dress: Dress) -> Shipment {
        Shipment::of(&case.tar, dress)
    }

    /// A tar in a dress.
    pub fn of(tar: &[u8], dress: Dress) -> Shipment {
        Shipment::packed(tar, dress, dress.on(tar))
    }

    /// A tar, and bytes that are said to be it in a dress.
    pub fn packed(tar: &[u8], dress: Dress, layer: Vec<u8>) -> Shipment {
        let diff_id = digest(tar);
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux", "config": {"Cmd": ["x"]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor(&dress.media_type(), &layer)],
        });
        Shipment { layer, config, manifest: manifest.to_string().into_bytes(), diff_id }
    }

    /// A tar as `docker save` writes it.
    pub fn docker_archive(&self, name: &str) -> Vec<u8> {
        let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
        member(member(Tar::new(), "config.json", &self.config), "layer.tar", &self.layer)
            .file("manifest.json", manifest.to_string().as_bytes())
            .finish()
    }

    /// A tar of an OCI layout.
    pub fn oci_archive(&self, name: &str) -> Vec<u8> {
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&self.manifest), "size": self.manifest.len(),
            "annotations": {"io.containerd.image.name": name},
        }]});
        let mut tar = Tar::new().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        for blob in [&self.config, &self.layer, &self.manifest] {
            tar = member(tar, &format!("blobs/sha256/{}", &digest(blob)[7..]), blob);
        }
        tar.file("index.json", index.to_string().as_bytes()).finish()
    }
}

fn member(tar: Tar, name: &str, body: &[u8]) -> Tar {
    tar.entry(&Entry { name: name.as_bytes(), body, ..Entry::default() })
}

/// What points to a blob.
pub fn descriptor(kind: &str, blob: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest(blob), "size": blob.len()})
}
