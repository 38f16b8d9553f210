//! Owns finding, or making, the manifest under which an image of this store can be had from here: with blobs that the store
//! can give. It must not send anything.

use brig_oci::{Digest, Reference};
use brig_store::Store;

use super::{Forms, is_foreign, media_type, packed, read_now};
use crate::client::Client;
use crate::error::Result;

/// The digest of a manifest of the image `id` of which everything can be had from the store: the one that it came with
/// under the name `reference`, if its layers come out byte for byte, else one that is made and kept there. Does not tag;
/// the caller holds a lease until something leads to the manifest. Blocks, and for long if layers have to be compressed.
///
/// # Errors
/// If the image is not whole.
pub fn prepare(client: &Client, store: &Store, id: &Digest, reference: &Reference) -> Result<Digest> {
    let image = read_now(store, id, reference)?;
    let _pin = store.pin(&image.chains);
    let forms = Forms::of(store);
    let mut layers = Vec::with_capacity(image.chains.len());
    for (nth, chain) in image.chains.iter().enumerate() {
        let original = image.original.as_ref().map(|(manifest, _)| &manifest.layers[nth]);
        if let Some(original) = original {
            let is_here = forms.size(&original.digest)? == Some(original.size);
            if is_here || is_foreign(original) || store.blob_size(&original.digest) == Some(original.size) {
                layers.push(original.clone());
                continue;
            }
        }
        let like = original.map_or(media_type::OCI_LAYER_GZIP, |layer| layer.media_type.as_str());
        layers.push(packed::pack(store, chain, like, client.inner().config.compression)?.descriptor);
    }
    let (bytes, _) = image.manifest(layers)?;
    Ok(store.put_blob(&bytes)?)
}
