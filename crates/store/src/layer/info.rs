//! What the database knows about a layer, once more beside its files: `layers/<chain id>/info`. Read only when the database
//! was lost. Must not be believed beyond what its own digests prove.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

use brig_oci::Digest;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::catalog::LayerInfo;
use crate::digest;
use crate::error::{Error, Result};

/// The file's name beside the layer's files.
pub(crate) const INFO: &str = "info";
/// The longest that is read, in bytes.
const LONGEST: u64 = 4096;

#[derive(Serialize, Deserialize)]
struct Written {
    diff_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    size_bytes: u64,
    #[serde(default)]
    opaque: bool,
}

/// Writes it into the directory of a layer; it is as durable as the caller makes the directory.
pub(crate) fn write(layer: BorrowedFd<'_>, info: &LayerInfo) -> Result<()> {
    let written = Written {
        diff_id: info.diff_id.to_string(),
        parent: info.parent.as_ref().map(Digest::to_string),
        size_bytes: info.size_bytes,
        opaque: info.opaque,
    };
    let bytes = serde_json::to_vec(&written).map_err(|error| Error::invalid(format!("a layer's info: {error}")))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(layer, INFO, flags, Mode::from_raw_mode(0o600))
        .map_err(|errno| Error::io("create a layer's info", errno))?;
    File::from(file).write_all(&bytes).map_err(|error| Error::io("write a layer's info", error))
}

/// What is written in the layer's directory `name` of `layers`, if that is about a layer of this name.
pub(crate) fn read(layers: BorrowedFd<'_>, name: &str) -> Option<LayerInfo> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(layers, format!("{name}/{INFO}"), flags, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    File::from(file).take(LONGEST).read_to_end(&mut bytes).ok()?;
    let written: Written = serde_json::from_slice(&bytes).ok()?;
    let diff_id = Digest::parse(&written.diff_id).ok()?;
    let parent = written.parent.as_deref().map(Digest::parse).transpose().ok()?;
    let chain_id = digest::chain_id(parent.as_ref(), &diff_id);
    (chain_id.hex() == name).then_some(LayerInfo {
        chain_id,
        diff_id,
        parent,
        size_bytes: written.size_bytes,
        opaque: written.opaque,
    })
}
