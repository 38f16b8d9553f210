//! Named and anonymous volumes of the local driver. Owns their records, their directories below `volumes/` and who
//! uses them; must not mount them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use brig_api::filters::Filters;
use brig_api::volume::{CreateRequest, ListResponse, PruneReport, UsageData, Volume};
use brig_store::Store;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, from_store};
use crate::events::Events;
use crate::id::{is_valid_name, now, random_id};

/// Marks a volume that nobody named, so that `prune` and `rm -v` may take it.
const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    name: String,
    created: String,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
}

/// The volumes of this host.
pub struct Volumes {
    directory: PathBuf,
    store: Store,
    events: Arc<Events>,
    known: Mutex<BTreeMap<String, Record>>,
    /// Volume name → ids of containers that name it.
    used: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

impl Volumes {
    /// Reads the records; `root` is the state root.
    pub fn open(root: &Path, store: &Store, events: Arc<Events>) -> Result<Self> {
        let schema = ["CREATE TABLE volumes (name TEXT PRIMARY KEY, record TEXT NOT NULL)"];
        store.database().migrate("volumes", &schema).map_err(from_store)?;
        let directory = root.join("volumes");
        make_directory(&directory, 0o701)?;
        let rows = store
            .database()
            .read(|db| {
                let mut query = db.prepare("SELECT CAST(name AS TEXT), CAST(record AS TEXT) FROM volumes")?;
                let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
                Ok(rows.filter_map(rusqlite::Result::ok).collect::<Vec<_>>())
            })
            .map_err(from_store)?;
        let mut known = BTreeMap::new();
        for (name, text) in rows {
            let record = serde_json::from_str::<Record>(&text).unwrap_or_else(|e| {
                tracing::error!("the record of volume {name} cannot be read: {e}. Its labels and options are lost");
                Record { name: name.clone(), created: now(), labels: BTreeMap::new(), options: BTreeMap::new() }
            });
            known.insert(name, record);
        }
        let volumes =
            Self { directory, store: store.clone(), events, known: Mutex::new(known), used: Mutex::default() };
        if store.database().rescued().is_some() {
            volumes.match_disk();
        }
        Ok(volumes)
    }

    /// After the database was lost: what is on the disk are the volumes.
    fn match_disk(&self) {
        let known = self.names();
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            if is_valid_name(&name) && self.data(&name).is_dir() && !known.contains(&name) {
                match self.ensure(&name, BTreeMap::new()) {
                    Ok(_) => tracing::warn!("volume {name} is on the disk and was taken up again, without its labels"),
                    Err(e) => tracing::error!("volume {name} could not be taken up again: {}", e.message),
                }
            }
        }
        for name in known.iter().filter(|name| !self.data(name).exists()) {
            if let Err(e) = self.remove(name, true) {
                tracing::error!("the record of volume {name}, which is gone: {}", e.message);
            }
        }
    }

    /// The names of all volumes.
    pub fn names(&self) -> BTreeSet<String> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Makes a volume; one that exists is given as it is.
    pub fn create(&self, request: CreateRequest) -> Result<Volume> {
        if !matches!(request.driver.as_str(), "" | "local") {
            return Err(Error::not_found(format!(
                "create {}: error looking up volume plugin {}: plugin \"{}\" not found",
                request.name, request.driver, request.driver
            )));
        }
        if request.driver_opts.as_ref().is_some_and(|options| !options.is_empty()) {
            return Err(Error::not_implemented(
                "options of the local volume driver (type, o, device) are not in brig yet",
            ));
        }
        let anonymous = request.name.is_empty();
        let name = if anonymous { random_id()? } else { request.name };
        if !is_valid_name(&name) {
            return Err(Error::invalid(format!(
                "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
            )));
        }
        let mut labels = request.labels.unwrap_or_default();
        if anonymous {
            labels.insert(ANONYMOUS_LABEL.into(), String::new());
        }
        self.ensure(&name, labels)?;
        self.inspect(&name)
    }

    /// Makes the named volume unless it exists and gives its directory.
    pub fn ensure(&self, name: &str, labels: BTreeMap<String, String>) -> Result<PathBuf> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let data = self.data(name);
        if known.contains_key(name) {
            // Someone may have removed the directory behind our back; an empty volume beats a container that cannot start.
            make_directory(&data, 0o755)?;
            return Ok(data);
        }
        make_directory(&self.directory.join(name), 0o701)?;
        make_directory(&data, 0o755)?;
        let record = Record { name: name.into(), created: now(), labels, options: BTreeMap::new() };
        let text = serde_json::to_string(&record).map_err(|e| Error::system(format!("encode volume {name}: {e}")))?;
        self.store
            .database()
            .write(|db| {
                db.execute("INSERT OR REPLACE INTO volumes (name, record) VALUES (?1, ?2)", (name, &text)).map(drop)
            })
            .map_err(from_store)?;
        known.insert(name.into(), record);
        drop(known);
        self.emit("create", name);
        Ok(data)
    }

    /// Labels of a volume that a container's `VOLUME` or bare `-v /path` makes.
    pub fn anonymous_labels() -> BTreeMap<String, String> {
        BTreeMap::from([(ANONYMOUS_LABEL.to_owned(), String::new())])
    }

    /// Whether nobody named this volume.
    pub fn is_anonymous(&self, name: &str) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(name).is_some_and(|record| record.labels.contains_key(ANONYMOUS_LABEL))
    }

    /// The directory with the volume's files.
    pub fn data(&self, name: &str) -> PathBuf {
        self.directory.join(name).join("_data")
    }

    /// Notes that a container names these volumes.
    pub fn claim(&self, container: &str, names: impl IntoIterator<Item = String>) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            used.entry(name).or_default().insert(container.into());
        }
    }

    /// Notes that a container is gone and gives the anonymous volumes that only it used.
    pub fn release(&self, container: &str) -> Vec<String> {
        let mut freed = Vec::new();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|name, users| {
            if users.remove(container) && users.is_empty() {
                freed.push(name.clone());
            }
            !users.is_empty()
        });
        drop(used);
        freed.retain(|name| self.is_anonymous(name));
        freed
    }

    fn users(&self, name: &str) -> Vec<String> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.get(name).into_iter().flatten().cloned().collect()
    }

    fn show(&self, record: &Record) -> Volume {
        Volume {
            created_at: record.created.clone(),
            driver: "local".into(),
            labels: Some(record.labels.clone()).filter(|labels| !labels.is_empty()),
            mountpoint: self.data(&record.name).to_string_lossy().into_owned(),
            name: record.name.clone(),
            options: Some(record.options.clone()).filter(|options| !options.is_empty()),
            scope: "local".into(),
            ..Volume::default()
        }
    }

    /// One volume.
    pub fn inspect(&self, name: &str) -> Result<Volume> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(name).map(|record| self.show(record)).ok_or_else(|| no_such(name))
    }

    /// The volumes that pass the filters.
    pub fn list(&self, filters: &Filters) -> Result<ListResponse> {
        filters.check(&["dangling", "driver", "label", "label!", "name"]).map_err(Error::invalid)?;
        let dangling = if filters.contains("dangling") {
            Some(filters.boolean("dangling", false).map_err(Error::invalid)?)
        } else {
            None
        };
        let records: Vec<Record> =
            self.known.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let volumes = records
            .iter()
            .filter(|record| {
                filters.matches("driver", "local")
                    && filters.matches_part("name", &record.name)
                    && filters.matches_labels("label", &record.labels)
                    && !filters.matches_any_label("label!", &record.labels)
                    && dangling.is_none_or(|dangling| self.users(&record.name).is_empty() == dangling)
            })
            .map(|record| self.show(record))
            .collect();
        Ok(ListResponse { volumes, warnings: None })
    }

    /// Removes a volume that no container names; `force` makes a missing one a success.
    pub fn remove(&self, name: &str, force: bool) -> Result<()> {
        let users = self.users(name);
        if !users.is_empty() {
            return Err(Error::conflict(format!("remove {name}: volume is in use - [{}]", users.join(", "))));
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(name) {
            return if force { Ok(()) } else { Err(no_such(name)) };
        }
        self.store.discard(&self.directory.join(name)).map_err(from_store)?;
        self.store
            .database()
            .write(|db| db.execute("DELETE FROM volumes WHERE name = ?1", (name,)).map(drop))
            .map_err(from_store)?;
        known.remove(name);
        drop(known);
        self.emit("destroy", name);
        Ok(())
    }

    /// Removes anonymous volumes (all of them with `all=true`) that no container names.
    pub fn prune(&self, filters: &Filters) -> Result<PruneReport> {
        filters.check(&["all", "label", "label!"]).map_err(Error::invalid)?;
        let all = filters.boolean("all", false).map_err(Error::invalid)?;
        let records: Vec<Record> =
            self.known.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let (deleted, space_reclaimed) = self.store.upkeep().freed_by(|| {
            let mut deleted = Vec::new();
            for record in records {
                let wanted = (all || record.labels.contains_key(ANONYMOUS_LABEL))
                    && filters.matches_labels("label", &record.labels)
                    && !filters.matches_any_label("label!", &record.labels)
                    && self.users(&record.name).is_empty();
                if wanted && self.remove(&record.name, false).is_ok() {
                    deleted.push(record.name);
                }
            }
            Ok::<_, Error>(deleted)
        })?;
        self.events.pruned("volume", space_reclaimed);
        Ok(PruneReport { volumes_deleted: Some(deleted), space_reclaimed })
    }

    /// All volumes with their sizes, for `system df`.
    pub fn usage(&self) -> Vec<Volume> {
        let records: Vec<Record> =
            self.known.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let usage = |record: &Record| UsageData {
            ref_count: i64::try_from(self.users(&record.name).len()).unwrap_or(i64::MAX),
            size: i64::try_from(brig_store::disk_usage(&self.directory.join(&record.name))).unwrap_or(i64::MAX),
        };
        records.iter().map(|record| Volume { usage_data: Some(usage(record)), ..self.show(record) }).collect()
    }

    fn emit(&self, action: &str, name: &str) {
        self.events.emit("volume", action, name, BTreeMap::from([("driver".into(), "local".into())]));
    }
}

fn no_such(name: &str) -> Error {
    Error::not_found(format!("get {name}: no such volume"))
}

/// Makes a directory with this mode unless it exists.
pub fn make_directory(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let failed = |e: std::io::Error| Error::system(format!("make directory {}: {e}", path.display()));
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        // The mode again, because the umask took from it.
        Ok(()) => std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(failed(e)),
    }
}
