//! Blobs, layers, images and writable layers on this disk: kept, related, collected.
//!
//! Owns: everything beneath one directory, its database, and the unpacking of untrusted archives into it.
//! Must not: reach the network, mount anything, or know what a container is. Calls block; there is no async here.

mod active;
mod adopt;
mod apply;
pub mod archive;
mod catalog;
mod check;
mod collect;
mod copy;
mod database;
mod decompress;
pub mod digest;
mod durable;
mod error;
mod images;
mod layer;
mod lease;
mod lock;
mod packed;
mod partial;
mod quarantine;
mod recipe;
mod repositories;
mod rescue;
mod reserve;
mod sources;
mod store;
mod sweep;
pub mod tar;
mod trash;
pub mod unpacker;
mod upkeep;
mod usage;
mod view;
mod write;

pub use active::Layers;
pub use adopt::{Place, adopt};
pub use catalog::{ImageRecord, LayerInfo, TagRecord};
pub use check::{CheckOptions, Finding};
pub use collect::Reclaimed;
pub use database::Database;
pub use decompress::{Packing, decompress, decompress_sniffed};
pub use durable::scratch_file;
pub use error::{Error, ErrorKind, Result};
pub use images::{remove_unnamed_image, tag_all, tags_beginning};
pub use layer::{InFile, Input, LayerIngest, Unpacked};
pub use lease::{Lease, Pin};
pub use packed::{Compression, Form, LayerBlob, Packed, Pause};
pub use partial::{Partial, PartialInfo, PartialReader, Partials};
pub use recipe::LayerTar;
pub use repositories::{
    ManifestInfo, NewManifest, PutManifest, Referenced, Referrer, Referrers, Removed, Repositories, Source, UPLOAD,
    UploadInfo, UploadLimits, Uploads,
};
pub use sources::serves;
pub use store::{MAX_BLOB_SIZE, Options, Store};
pub use upkeep::Upkeep;
pub use usage::{Usage, disk_usage};
pub use view::View;
pub use write::{Change, ChangeKind, active_changes, commit_active, empty_layer};
