//! What was asked for: a container's record as it stands in the database. Owns its shape and its reading and writing;
//! must not hold anything that the kernel or the shim knows better (those are facts, see `facts`).

use std::collections::BTreeSet;
use std::sync::Arc;

use brig_api::container::{Config, HostConfig, MountPoint};
use brig_api::network::EndpointSettings;
use brig_store::Store;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::network::Attachment;

/// A container as it was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Without the slash.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// The image as the client named it; empty for a container over a directory.
    pub image: String,
    /// Digest of the image's configuration; empty for a container over a directory.
    pub image_id: String,
    /// Chain id of the image's topmost layer; `None` for an image without layers or a directory.
    pub chain: Option<String>,
    /// `os/architecture` it runs on.
    pub platform: String,
    /// The portable configuration, merged with the image's.
    pub config: Config,
    /// The configuration that depends on this host.
    pub host_config: HostConfig,
    /// What the client wants of its endpoint, by network name.
    pub endpoint: Option<EndpointSettings>,
    /// Mounts, resolved: anonymous volumes have names, relative things are absolute.
    pub mounts: Vec<Mount>,
    /// The program.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// How often the restart policy has started it again.
    pub restart_count: i64,
    /// Whether a person stopped it, which `unless-stopped` respects across restarts of the daemon.
    pub stopped_by_user: bool,
    /// The run that was begun and whose end has not been dealt with.
    pub run: Option<Run>,
    /// Why the last start failed, with the exit code that stands for it.
    pub start_error: Option<(i64, String)>,
    /// Whether it was ever started with success.
    pub was_started: bool,
}

/// What the engine set up for a run, so that another daemon can carry on or clean up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// Process id of init, once known.
    pub pid: i32,
    /// When it started, RFC 3339; empty while it is being started.
    pub started_at: String,
    /// First host id of its range; `None` with the host's user namespace or another container's.
    pub id_base: Option<u32>,
    /// Its endpoint on a bridge.
    pub attachment: Option<Attachment>,
}

/// One mount into a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mount {
    /// How Docker shows it.
    pub point: MountPoint,
    /// Mount options beyond `rw`/`ro`, as in an OCI specification.
    pub options: Vec<String>,
    /// Data for a tmpfs, e.g. `size=65536`.
    pub data: Vec<String>,
    /// Whether an empty volume is filled with what the image has at the destination.
    pub copy_up: bool,
    /// Path inside the volume.
    pub subpath: String,
}

impl Record {
    /// The first twelve digits of the id.
    pub fn short_id(&self) -> &str {
        &self.id[..12]
    }

    /// Whether its record must survive a power cut: a `--rm` container is only convenience.
    fn is_durable(&self) -> bool {
        !self.host_config.auto_remove
    }
}

/// The SQL that makes the table.
pub const SCHEMA: &[&str] =
    &["CREATE TABLE containers (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL)"];

/// Reads and writes records.
#[derive(Clone)]
pub struct Records {
    store: Store,
}

impl Records {
    /// Opens the table.
    pub fn open(store: &Store) -> Result<Self> {
        store.database().migrate("containers", SCHEMA).map_err(crate::error::from_store)?;
        Ok(Self { store: store.clone() })
    }

    /// All records; one that cannot be read is left where it is and reported, but gives up its name.
    pub fn all(&self) -> Result<Vec<Record>> {
        let rows = self
            .store
            .database()
            .read(|db| {
                let mut query = db.prepare("SELECT CAST(id AS TEXT), CAST(record AS TEXT) FROM containers")?;
                let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
                // What is no text is damaged, and must not hide the others.
                Ok(rows.filter_map(rusqlite::Result::ok).collect::<Vec<_>>())
            })
            .map_err(crate::error::from_store)?;
        let mut records = Vec::with_capacity(rows.len());
        for (id, text) in rows {
            match serde_json::from_str(&text) {
                Ok(record) => records.push(record),
                Err(e) => {
                    tracing::error!(container = %id, "its record cannot be read, it stays out of sight: {e}. \
                        'brig system check --repair' moves it to the quarantine");
                    self.free_name(&id);
                }
            }
        }
        if self.store.database().rescued().is_some() {
            records.retain(|record| self.is_there(record));
        }
        Ok(records)
    }

    /// Another container may be called like one whose record cannot be read.
    fn free_name(&self, id: &str) {
        // No name has a colon.
        let name = format!("unreadable:{id}");
        let sql = "UPDATE containers SET name = ?2 WHERE id = ?1";
        let freed = self.store.database().write(|db| db.execute(sql, (id, &name)).map(drop));
        if let Err(e) = freed {
            tracing::error!(container = %id, "its name could not be freed: {e}");
        }
    }

    /// A record out of a rescued database may be of a container that was removed since it was written.
    fn is_there(&self, record: &Record) -> bool {
        let there = ["active", "containers"].iter().any(|part| self.store.root().join(part).join(&record.id).exists());
        if !there {
            tracing::warn!(container = %record.short_id(), "nothing of it is on the disk: its record is dropped");
            if let Err(e) = self.remove(record) {
                tracing::error!(container = %record.short_id(), "drop its record: {}", e.message);
            }
        }
        there
    }

    /// The ids and texts of records that cannot be read.
    pub fn unreadable(&self) -> Result<Vec<(String, String)>> {
        let rows = self.store.database().read(|db| {
            let mut query = db.prepare("SELECT id, CAST(record AS TEXT) FROM containers")?;
            let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        });
        let rows = rows.map_err(crate::error::from_store)?;
        Ok(rows.into_iter().filter(|(_, text)| serde_json::from_str::<Record>(text).is_err()).collect())
    }

    /// Forgets the record with this id, whatever is in it.
    pub fn forget(&self, id: &str) -> Result<()> {
        let delete =
            |db: &rusqlite::Transaction<'_>| db.execute("DELETE FROM containers WHERE id = ?1", [id]).map(drop);
        self.store.database().write(delete).map_err(crate::error::from_store)
    }

    /// The ids of all records, readable or not.
    pub fn ids(&self) -> Result<BTreeSet<String>> {
        self.store
            .database()
            .read(|db| {
                let mut query = db.prepare("SELECT CAST(id AS TEXT) FROM containers")?;
                Ok(query
                    .query_map([], |row| row.get(0))?
                    .filter_map(rusqlite::Result::ok)
                    .collect::<BTreeSet<String>>())
            })
            .map_err(crate::error::from_store)
    }

    /// Writes a record, new or changed. A change of what the client was told survives a power cut when it returns.
    pub fn put(&self, record: &Arc<Record>, durability: Durability) -> Result<()> {
        let text = serde_json::to_string(&**record).map_err(|e| Error::system(format!("encode the record: {e}")))?;
        let write = |db: &rusqlite::Transaction<'_>| {
            db.execute(
                "INSERT INTO containers (id, name, record) VALUES (?1, ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET name = ?2, record = ?3",
                (&record.id, &record.name, &text),
            )
            .map(drop)
        };
        let database = self.store.database();
        match durability {
            Durability::PowerCut if record.is_durable() => database.write(write),
            Durability::PowerCut | Durability::Crash => database.write_relaxed(write),
        }
        .map_err(crate::error::from_store)
    }

    /// Forgets a record.
    pub fn remove(&self, record: &Record) -> Result<()> {
        let write = |db: &rusqlite::Transaction<'_>| {
            db.execute("DELETE FROM containers WHERE id = ?1", (&record.id,)).map(drop)
        };
        let database = self.store.database();
        if record.is_durable() { database.write(write) } else { database.write_relaxed(write) }
            .map_err(crate::error::from_store)
    }
}

/// What a write must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A power cut: what a client was told is done.
    PowerCut,
    /// A killed daemon only: what a reboot ends anyway.
    Crash,
}
