//! Writing images as one tar that is both a `docker save` archive (`manifest.json`) and an OCI layout (`index.json`),
//! as Docker writes it since version 25.
//! Owns the order and form of its members: the same images give the same bytes. Must not compress.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use brig_oci::{Descriptor, Digest, ImageConfig, Index, Manifest, Reference, media_type};
use serde::Serialize;

use super::parts::blob_path;
use crate::digest;
use crate::error::{Error, Result};
use crate::lease::Pin;
use crate::packed::Packed;
use crate::store::Store;
use crate::tar::BLOCK;

/// One image to be saved, with the names that it is to have in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The image's id.
    pub id: Digest,
    /// Tagged names; may be none.
    pub names: Vec<Reference>,
    /// If the names mean an index: all that it is to list, in order, the image itself too.
    pub index: Vec<Listed>,
    /// What the names mean, a manifest or an index, if it is to be saved as it came, with its layers packed as they came.
    pub original: Option<Digest>,
}

/// One entry of an index that is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The entry as it is known here.
    pub descriptor: Descriptor,
    /// The image's id; `None` for what is no image, which is saved as it is.
    pub image: Option<Digest>,
}

/// An archive that can be written: everything that it needs is here and stays here while this lives.
pub struct Saving {
    store: Store,
    /// By path: blobs and documents.
    members: BTreeMap<String, Content>,
    _pins: Vec<Pin>,
}

enum Content {
    Directory,
    Bytes(Vec<u8>),
    Layer {
        chain: Digest,
        size: u64,
    },
    /// A layer as it came.
    Packed {
        digest: Digest,
        size: u64,
    },
}

/// One image in `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    layer_sources: BTreeMap<Digest, Descriptor>,
}

/// Gets ready to save these images. Fails, naming the image, if a layer's tar cannot be made again.
pub fn save(store: &Store, images: &[Chosen]) -> Result<Saving> {
    let mut saving = Saving { store: store.clone(), members: BTreeMap::new(), _pins: Vec::new() };
    let mut index = Index {
        schema_version: 2,
        media_type: media_type::OCI_INDEX.to_owned(),
        manifests: Vec::new(),
        annotations: BTreeMap::new(),
    };
    let mut entries = Vec::new();
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for image in images {
        let shown = image.names.first().map_or_else(|| image.id.to_string(), Reference::familiar);
        let failed = |error: Error| error.context(format!("save {shown}"));
        let (manifest, descriptor) = saving.image(&image.id, image.original.is_some()).map_err(failed)?;
        let top = match image.index.is_empty() {
            true => descriptor,
            false => saving.index(&image.index, image.original.as_ref()).map_err(failed)?,
        };
        for name in &image.names {
            let mut named = top.clone();
            let tag = name.tag().unwrap_or("latest").to_owned();
            named.annotations.insert("io.containerd.image.name".to_owned(), name.canonical());
            named.annotations.insert("org.opencontainers.image.ref.name".to_owned(), tag.clone());
            index.manifests.push(named);
            if let Some(top) = manifest.layers.last() {
                repositories.entry(name.familiar_name()).or_default().insert(tag, top.digest.hex().to_owned());
            }
        }
        if image.names.is_empty() {
            index.manifests.push(top);
        }
        entries.push(entry(&manifest, &image.names));
    }
    saving.document("index.json", &index)?;
    saving.document("manifest.json", &entries)?;
    saving.document("oci-layout", &BTreeMap::from([("imageLayoutVersion", "1.0.0")]))?;
    if !repositories.is_empty() {
        saving.document("repositories", &repositories)?;
    }
    saving.directories();
    Ok(saving)
}

fn entry(manifest: &Manifest, names: &[Reference]) -> Entry {
    let tags: Vec<String> = names.iter().map(Reference::familiar).collect();
    Entry {
        config: blob_path(&manifest.config.digest),
        repo_tags: (!tags.is_empty()).then_some(tags),
        layers: manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect(),
        layer_sources: manifest.layers.iter().map(|layer| (layer.digest.clone(), layer.clone())).collect(),
    }
}

impl Saving {
    /// Adds an image's configuration, layers and the manifest that holds them together: the one that it came with if that
    /// is wanted and its layers can be had as they came.
    fn image(&mut self, id: &Digest, original: bool) -> Result<(Manifest, Descriptor)> {
        let config = self.store.read_blob(id)?;
        let diff_ids = ImageConfig::parse(&config).map_err(|error| Error::corrupt(error.to_string()))?.rootfs.diff_ids;
        if original && let Some(known) = self.original(id, &diff_ids)? {
            self.members.insert(blob_path(id), Content::Bytes(config));
            return Ok(known);
        }
        let mut manifest = Manifest {
            schema_version: 2,
            media_type: media_type::OCI_MANIFEST.to_owned(),
            artifact_type: None,
            config: Descriptor::new(media_type::OCI_CONFIG, id.clone(), config.len() as u64),
            layers: Vec::new(),
            subject: None,
            annotations: BTreeMap::new(),
        };
        let mut chain = None;
        for diff_id in &diff_ids {
            let this = digest::chain_id(chain.as_ref(), diff_id);
            let size = self.store.layer_tar(&this)?.size();
            manifest.layers.push(Descriptor::new(media_type::OCI_LAYER, diff_id.clone(), size));
            self.members.insert(blob_path(diff_id), Content::Layer { chain: this.clone(), size });
            chain = Some(this);
        }
        self._pins.push(self.store.pin(chain.as_slice()));
        self.members.insert(blob_path(id), Content::Bytes(config));
        let descriptor = self.document_blob(media_type::OCI_MANIFEST, json(&manifest)?);
        Ok((manifest, descriptor))
    }

    /// Adds the manifest that an image came with and its layers as they came; nothing if not all of them can be had so.
    fn original(&mut self, id: &Digest, diff_ids: &[Digest]) -> Result<Option<(Manifest, Descriptor)>> {
        let record = self.store.image(id);
        let Some(bytes) = record.and_then(|image| self.store.read_blob(&image.manifest?).ok()) else { return Ok(None) };
        let manifest = Manifest::parse(&bytes, None).map_err(|error| Error::corrupt(error.to_string()))?;
        if manifest.config.digest != *id || manifest.layers.len() != diff_ids.len() {
            return Ok(None);
        }
        let kind = match manifest.media_type.as_str() {
            "" => media_type::OCI_MANIFEST,
            kind => kind,
        };
        let kind = kind.to_owned();
        let mut chain = None;
        for diff_id in diff_ids {
            chain = Some(digest::chain_id(chain.as_ref(), diff_id));
        }
        // From here on none of them goes.
        self._pins.push(self.store.pin(chain.as_slice()));
        let packed = Packed::of(&self.store);
        let mut layers = Vec::new();
        for layer in &manifest.layers {
            match packed.blob(&layer.digest) {
                Ok(blob) if blob.size() == layer.size => layers.push((layer.digest.clone(), layer.size)),
                _ => return Ok(None),
            }
        }
        for (digest, size) in layers {
            self.members.insert(blob_path(&digest), Content::Packed { digest, size });
        }
        let descriptor = self.document_blob(&kind, bytes);
        Ok(Some((manifest, descriptor)))
    }

    /// Adds a document under its digest.
    fn document_blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::new(media_type, digest::sha256_of(&bytes), bytes.len() as u64);
        self.members.insert(blob_path(&descriptor.digest), Content::Bytes(bytes));
        descriptor
    }

    /// Adds an index and all that it lists; gives its descriptor. What speaks of an image's manifest speaks of the new one.
    fn index(&mut self, listed: &[Listed], original: Option<&Digest>) -> Result<Descriptor> {
        let mut manifests = Vec::new();
        let mut renamed = BTreeMap::new();
        for entry in listed {
            let Some(image) = &entry.image else {
                self.raw(&entry.descriptor)?;
                manifests.push(entry.descriptor.clone());
                continue;
            };
            let (_, mut descriptor) = self.image(image, original.is_some())?;
            if descriptor.digest == entry.descriptor.digest {
                manifests.push(entry.descriptor.clone());
                continue;
            }
            descriptor.platform.clone_from(&entry.descriptor.platform);
            renamed.insert(entry.descriptor.digest.to_string(), descriptor.digest.to_string());
            manifests.push(descriptor);
        }
        for about in manifests.iter_mut().filter_map(|entry| entry.annotations.get_mut("vnd.docker.reference.digest")) {
            if let Some(new) = renamed.get(about) {
                about.clone_from(new);
            }
        }
        // If nothing of it is missing or new it is the index that came.
        if renamed.is_empty()
            && let Some(bytes) = original.and_then(|digest| self.store.read_blob(digest).ok())
            && let Ok(index) = Index::parse(&bytes, None)
            && index.manifests.iter().map(|entry| &entry.digest).eq(manifests.iter().map(|entry| &entry.digest))
        {
            let media_type = if index.media_type.is_empty() { media_type::OCI_INDEX } else { &index.media_type };
            return Ok(self.document_blob(media_type, bytes));
        }
        let index = Index {
            schema_version: 2,
            media_type: media_type::OCI_INDEX.to_owned(),
            manifests,
            annotations: BTreeMap::new(),
        };
        Ok(self.document_blob(media_type::OCI_INDEX, json(&index)?))
    }

    /// Adds a manifest that is no image's and what it lists, as far as that is here.
    fn raw(&mut self, descriptor: &Descriptor) -> Result<()> {
        let bytes = self.store.read_blob(&descriptor.digest)?;
        let manifest = Manifest::parse(&bytes, None).map_err(|error| Error::corrupt(error.to_string()))?;
        self.members.insert(blob_path(&descriptor.digest), Content::Bytes(bytes));
        for part in std::iter::once(&manifest.config).chain(&manifest.layers) {
            if self.store.has_blob(&part.digest) {
                let bytes = self.store.read_blob(&part.digest)?;
                self.members.insert(blob_path(&part.digest), Content::Bytes(bytes));
            }
        }
        Ok(())
    }

    fn document(&mut self, name: &str, document: &impl Serialize) -> Result<()> {
        self.members.insert(name.to_owned(), Content::Bytes(json(document)?));
        Ok(())
    }

    /// Adds the directories that the members are in.
    fn directories(&mut self) {
        let parents =
            |path: &String| path.match_indices('/').map(|(at, _)| path[..=at].to_owned()).collect::<Vec<String>>();
        let all: BTreeSet<String> = self.members.keys().flat_map(parents).collect();
        self.members.extend(all.into_iter().map(|path| (path, Content::Directory)));
    }

    /// Writes the archive. A layer whose files have changed since it was unpacked ends it with an error, so that what
    /// was written is no whole archive.
    pub fn write(self, output: &mut (impl Write + ?Sized)) -> io::Result<()> {
        for (path, content) in &self.members {
            match content {
                Content::Directory => output.write_all(&header(path, b'5', 0o755, 0))?,
                Content::Bytes(bytes) => {
                    output.write_all(&header(path, b'0', 0o644, bytes.len() as u64))?;
                    output.write_all(bytes)?;
                    pad(output, bytes.len() as u64)?;
                }
                Content::Layer { chain, size } => {
                    output.write_all(&header(path, b'0', 0o644, *size))?;
                    let tar = self.store.layer_tar(chain).map_err(|error| io::Error::other(error.to_string()))?;
                    copy(tar, output)?;
                    pad(output, *size)?;
                }
                Content::Packed { digest, size } => {
                    output.write_all(&header(path, b'0', 0o644, *size))?;
                    let blob = Packed::of(&self.store).blob(digest);
                    copy(blob.map_err(|error| io::Error::other(error.to_string()))?, output)?;
                    pad(output, *size)?;
                }
            }
        }
        output.write_all(&[0; 2 * BLOCK])
    }
}

/// Not `io::copy`, which would stop asking at the promised length: the last read tells whether the digest is right.
fn copy(mut tar: impl Read, output: &mut (impl Write + ?Sized)) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match tar.read(&mut buffer)? {
            0 => return Ok(()),
            length => output.write_all(&buffer[..length])?,
        }
    }
}

fn pad(output: &mut (impl Write + ?Sized), size: u64) -> io::Result<()> {
    // Less than a block.
    let padding = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or_default();
    output.write_all(&[0; BLOCK][..padding])
}

fn json(document: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|error| Error::invalid(format!("write JSON: {error}")))
}

/// A ustar header of root's, of no time. Names in these archives are shorter than its 100 bytes.
fn header(name: &str, kind: u8, mode: u32, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    match size {
        0..0o100_000_000_000 => put(124, format!("{size:011o}").as_bytes()),
        // More than eleven octal digits: binary, as GNU tar began it and all read it.
        _ => {
            put(124, &[0x80]);
            put(128, &size.to_be_bytes());
        }
    }
    put(136, b"00000000000");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    put(148, b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_back() {
        for size in [0, 511, 0o77_777_777_777, 0o100_000_000_000, 1 << 40] {
            let header = header("blobs/x", b'0', 0o644, size);
            let mut archive = crate::tar::Archive::new(&header[..]);
            let member = archive.next_member().unwrap().unwrap();
            assert_eq!((member.size, member.mode, &member.name[..]), (size, 0o644, &b"blobs/x"[..]));
        }
    }
}
