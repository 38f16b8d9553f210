//! What the store holds, as rows in the database and as a copy in memory that is read without waiting.
//! The rows are the truth: memory changes only after a row was committed. Must not touch files.

use std::collections::{BTreeMap, HashMap, HashSet};

use brig_oci::Digest;
use rusqlite::{Connection, Row};

use crate::check::marks::{self, Damage};
use crate::collect::CutOff;
use crate::database::Database;
use crate::error::Result;
use crate::sources::{self, Source};

pub(crate) const SCHEMA: &[&str] = &[
    "
    CREATE TABLE store_layers (
        chain_id TEXT PRIMARY KEY, diff_id TEXT NOT NULL, parent TEXT, size_bytes INTEGER NOT NULL,
        opaque INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE store_images (
        id TEXT PRIMARY KEY, manifest TEXT, chain_id TEXT, size_bytes INTEGER NOT NULL, created TEXT,
        stored_at INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE store_tags (
        name TEXT PRIMARY KEY, image TEXT NOT NULL, manifest TEXT, updated_at INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE store_active (key TEXT PRIMARY KEY, chain_id TEXT) WITHOUT ROWID;
",
    marks::SCHEMA,
    "CREATE TABLE store_uses (image TEXT PRIMARY KEY, used_at INTEGER NOT NULL) WITHOUT ROWID;",
    sources::SCHEMA,
];

/// One unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    /// Identifies the layer together with all below it.
    pub chain_id: Digest,
    /// The digest of its uncompressed tar.
    pub diff_id: Digest,
    /// The chain id of the layer below.
    pub parent: Option<Digest>,
    /// The sum of its regular files' sizes in bytes.
    pub size_bytes: u64,
    /// Its root directory hides everything below it.
    pub(crate) opaque: bool,
}

/// One image. Make one with [`ImageRecord::new`]; what the store works out itself it fills in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// The digest of its configuration.
    pub id: Digest,
    /// The digest of the manifest it came with, if it came with one.
    pub manifest: Option<Digest>,
    /// The chain id of its topmost layer; filled in by the store.
    pub chain_id: Option<Digest>,
    /// The sum of its layers' sizes in bytes; filled in by the store.
    pub size_bytes: u64,
    /// When it was made, RFC 3339, from its configuration; filled in by the store.
    pub created: Option<String>,
    /// When it was stored here, seconds since 1970; filled in by the store.
    pub stored_at: i64,
}

impl ImageRecord {
    /// An image to be stored, known by its configuration's digest.
    pub fn new(id: Digest, manifest: Option<Digest>) -> ImageRecord {
        ImageRecord { id, manifest, chain_id: None, size_bytes: 0, created: None, stored_at: 0 }
    }
}

/// One name of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRecord {
    /// The canonical name: `docker.io/library/alpine:latest`.
    pub name: String,
    /// The image that it means.
    pub image: Digest,
    /// The manifest or index that the name meant where the image came from.
    pub manifest: Option<Digest>,
    /// When it was set, seconds since 1970.
    pub updated_at: i64,
}

/// Everything, in memory.
#[derive(Default)]
pub(crate) struct Catalog {
    pub(crate) layers: HashMap<Digest, LayerInfo>,
    pub(crate) images: HashMap<Digest, ImageRecord>,
    pub(crate) tags: BTreeMap<String, TagRecord>,
    /// Writable layers by key, each with the chain that it stands on.
    pub(crate) active: HashMap<String, Option<Digest>>,
    /// Chain ids held by [`crate::Pin`]s, with how many.
    pub(crate) pinned: HashMap<Digest, usize>,
    /// What each open [`crate::Lease`] holds.
    pub(crate) leases: HashMap<u64, HashSet<Digest>>,
    /// The number of the last lease.
    pub(crate) last_lease: u64,
    /// When images were last used, seconds since 1970.
    pub(crate) uses: HashMap<Digest, i64>,
    /// Layers that a check found not to be what they were.
    pub(crate) damaged: HashMap<Digest, Damage>,
    /// What layers were made of.
    pub(crate) sources: HashMap<Digest, Source>,
    /// What a crash cut off.
    pub(crate) cut_off: CutOff,
}

impl Catalog {
    /// Reads all rows. A row that cannot be read is left out and reported; it stops nothing.
    pub(crate) fn load(database: &Database) -> Result<Catalog> {
        database.read(|db| {
            let mut catalog = Catalog::default();
            let sql = "SELECT chain_id, diff_id, parent, size_bytes, opaque FROM store_layers";
            for layer in rows(db, sql, layer_row)? {
                catalog.layers.insert(layer.chain_id.clone(), layer);
            }
            let sql = "SELECT id, manifest, chain_id, size_bytes, created, stored_at FROM store_images";
            for image in rows(db, sql, image_row)? {
                catalog.images.insert(image.id.clone(), image);
            }
            for tag in rows(db, "SELECT name, image, manifest, updated_at FROM store_tags", tag_row)? {
                catalog.tags.insert(tag.name.clone(), tag);
            }
            let active = |row: &Row<'_>| Ok((row.get(0)?, optional_digest(row, 1)?));
            catalog.active.extend(rows(db, "SELECT key, chain_id FROM store_active", active)?);
            let used = |row: &Row<'_>| Ok((digest(row, 0)?, row.get(1)?));
            catalog.uses.extend(rows(db, "SELECT image, used_at FROM store_uses", used)?);
            let damage = |row: &Row<'_>| Ok((digest(row, 0)?, Damage { why: row.get(1)?, usable: row.get(2)? }));
            catalog.damaged.extend(rows(db, "SELECT chain_id, why, usable FROM store_damaged", damage)?);
            let source =
                |row: &Row<'_>| Ok((digest(row, 0)?, Source { blob: optional_digest(row, 1)?, proven: row.get(2)? }));
            catalog.sources.extend(rows(db, "SELECT chain_id, blob, proven FROM store_sources", source)?);
            Ok(catalog)
        })
    }

    /// The layers from `chain` down to the lowest; shorter than it should be if one is missing.
    pub(crate) fn chain(&self, chain: &Digest) -> Vec<&LayerInfo> {
        let mut layers = Vec::new();
        let mut next = Some(chain);
        while let Some(layer) = next.and_then(|id| self.layers.get(id)) {
            layers.push(layer);
            next = layer.parent.as_ref();
        }
        layers
    }
}

fn rows<T>(db: &Connection, sql: &str, read: impl Fn(&Row<'_>) -> rusqlite::Result<T>) -> rusqlite::Result<Vec<T>> {
    let mut query = db.prepare(sql)?;
    let mut found = query.query([])?;
    let mut all = Vec::new();
    while let Some(row) = found.next()? {
        match read(row) {
            Ok(value) => all.push(value),
            Err(error) => tracing::error!("a row of the store cannot be read and is left out of sight: {error}"),
        }
    }
    Ok(all)
}

fn layer_row(row: &Row<'_>) -> rusqlite::Result<LayerInfo> {
    Ok(LayerInfo {
        chain_id: digest(row, 0)?,
        diff_id: digest(row, 1)?,
        parent: optional_digest(row, 2)?,
        size_bytes: u64::try_from(row.get::<_, i64>(3)?).unwrap_or_default(),
        opaque: row.get(4)?,
    })
}

fn image_row(row: &Row<'_>) -> rusqlite::Result<ImageRecord> {
    Ok(ImageRecord {
        id: digest(row, 0)?,
        manifest: optional_digest(row, 1)?,
        chain_id: optional_digest(row, 2)?,
        size_bytes: u64::try_from(row.get::<_, i64>(3)?).unwrap_or_default(),
        created: row.get(4)?,
        stored_at: row.get(5)?,
    })
}

fn tag_row(row: &Row<'_>) -> rusqlite::Result<TagRecord> {
    Ok(TagRecord {
        name: row.get(0)?,
        image: digest(row, 1)?,
        manifest: optional_digest(row, 2)?,
        updated_at: row.get(3)?,
    })
}

fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    parse(column, &row.get::<_, String>(column)?)
}

fn optional_digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Digest>> {
    row.get::<_, Option<String>>(column)?.map(|text| parse(column, &text)).transpose()
}

fn parse(column: usize, text: &str) -> rusqlite::Result<Digest> {
    Digest::parse(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}
