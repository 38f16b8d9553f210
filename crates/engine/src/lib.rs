//! What was asked for, and what is true: the engine behind the Docker API. Owns containers, images, networks, volumes
//! and events as nouns, each a type of its own; must not know HTTP (the daemon's) or words for people beyond its errors
//! (the command line's).

mod check;
mod config;
mod container;
mod error;
mod events;
mod exec_root;
mod id;
mod idrange;
mod images;
mod logs;
mod names;
mod network;
mod reload;
mod sweep;
mod system;
mod volumes;

use std::path::Path;
use std::sync::{Arc, RwLock};

use brig_api::filters::Filters;
use brig_store::unpacker::Unpacker;
use brig_store::{Options, Store};
use jiff::Timestamp;

pub use brig_store::unpacker::main as unpack;
pub use check::check_data_root;
pub use config::Config;
pub use container::{
    AttachOptions, Attachment, Containers, Export, ListOptions, RemoveOptions, Status, View, WaitCondition,
};
pub use error::{Error, ErrorKind, Result};
pub use events::Events;
pub use images::{
    Attestations, Commit, Images, Import, ListOptions as ImageListOptions, Progress, Save, Shelf, StorageGc, Taken,
};
pub use logs::{LogOptions, LogStream};
pub use network::Networks;
pub use system::{System, VERSION};
pub use volumes::Volumes;

use container::{Index, Launcher, Records, Shared};

/// The engine: a struct of nouns, cheap to clone.
#[derive(Clone)]
pub struct Engine {
    /// Containers.
    pub containers: Containers,
    /// Images.
    pub images: Images,
    /// Volumes.
    pub volumes: Arc<Volumes>,
    /// Events.
    pub events: Arc<Events>,
    shared: Arc<Shared>,
    config: Arc<Config>,
    /// The settings of which some have changed since: see `reload`.
    reloaded: Arc<RwLock<Arc<Config>>>,
    store: Store,
    index: Arc<Index>,
    id: String,
    /// Held as long as the engine lives: whoever else used this directory would take its containers for strays.
    _exec_root_lock: Arc<exec_root::Lock>,
}

impl Engine {
    /// Opens the state below the data root, alone, and carries on with the containers of an earlier daemon.
    pub async fn open(config: Config) -> Result<Self> {
        let opened = tokio::task::spawn_blocking(move || open_parts(config)).await;
        let (engine, records, ids) =
            opened.unwrap_or_else(|e| Err(Error::system(format!("opening the engine was cut short: {e}"))))?;
        sweep::running(&engine.config.exec_root, &ids, &engine.shared.launcher).await;
        engine.restore(records).await?;
        // Nobody waits for it; where it fails the copy that the next rescue would start from is older.
        let store = engine.store.clone();
        drop(tokio::task::spawn_blocking(move || {
            if let Err(e) = store.upkeep().settle() {
                tracing::warn!("the copy of the database: {e}");
            }
        }));
        drop(tokio::spawn(images::keep_room(engine.images.clone(), engine.config.storage_gc.clone())));
        Ok(engine)
    }

    async fn restore(&self, mut records: Vec<container::Record>) -> Result<()> {
        // Those that others join first, so that a restart of both finds the joined one running.
        records.sort_by(|a, b| a.created.cmp(&b.created));
        // Side by side: a shim that does not answer holds up nobody but its own container.
        let restoring: Vec<_> =
            records.into_iter().map(|record| tokio::spawn(Arc::clone(&self.shared).restore(record))).collect();
        let mut restored = Vec::with_capacity(restoring.len());
        for one in restoring {
            match one.await {
                Ok(one) => restored.push(one),
                Err(e) => tracing::error!("a container could not be taken up again: {e}"),
            }
        }
        let views = self.index.views();
        let living: Vec<_> = views
            .iter()
            .filter(|view| view.status.is_alive())
            .filter_map(|view| view.record.run.as_ref()?.attachment.clone())
            .collect();
        let shared = Arc::clone(&self.shared);
        let networks = tokio::task::spawn_blocking(move || shared.networks.restore(&living)).await;
        // Containers that run matter more than their rules: the daemon starts and says what is wrong.
        if let Ok(Err(e)) = networks {
            tracing::error!("the networks of running containers could not be put back: {e}");
        }
        // Only now may the restart policies start anything: addresses and ports of what runs are taken, the bridge stands.
        for task in restored {
            task.go_on();
        }
        Ok(())
    }

    /// The networks.
    pub fn networks(&self) -> NetworksOf<'_> {
        NetworksOf { engine: self }
    }

    /// The engine about itself.
    pub fn system(&self) -> System<'_> {
        System { engine: self }
    }
}

/// The networks, seen with the containers on them.
pub struct NetworksOf<'a> {
    engine: &'a Engine,
}

impl NetworksOf<'_> {
    /// The networks that pass the filters.
    pub fn list(&self, filters: &Filters) -> Result<Vec<brig_api::network::Network>> {
        self.engine.shared.networks.list(filters, &self.engine.index.views())
    }

    /// One network.
    pub fn inspect(&self, wanted: &str) -> Result<brig_api::network::Network> {
        self.engine.shared.networks.inspect(wanted, &self.engine.index.views())
    }
}

type Opened = (Engine, Vec<container::Record>, std::collections::BTreeSet<String>);

fn open_parts(config: Config) -> Result<Opened> {
    let data = |what: &Path| volumes::make_directory(what, 0o711);
    make_parents(&config.data_root)?;
    data(&config.data_root)?;
    let root = config.data_root.join("v1");
    let unpacker = config.confined_unpacking.then(Unpacker::this_program);
    let store = Store::open_with(&root, Options { unpacker }).map_err(error::from_store)?;
    make_parents(&config.exec_root)?;
    volumes::make_directory(&config.exec_root, 0o700)?;
    let exec_root_lock = Arc::new(exec_root::lock(&config.exec_root)?);
    volumes::make_directory(&root.join("containers"), 0o700)?;
    let launcher = Launcher::open(config.shim_binary.as_deref())?;
    let events = Arc::new(Events::default());
    let index = Arc::new(Index::default());
    let records = Records::open(&store)?;
    let all = records.all()?;
    let ids = records.ids()?;
    let volumes = Arc::new(Volumes::open(&root, &store, Arc::clone(&events))?);
    sweep::stored(&store, &ids, &volumes.names());
    let client = brig_registry::Client::new(reload::registry(&config)?).map_err(|e| Error::system(e.message))?;
    let images = Images::new(store.clone(), client, Arc::clone(&events), Arc::clone(&index));
    images.keep_all_platforms(config.pull_all_platforms);
    let networks = Networks::open(&config)?;
    let id = engine_id(&store)?;
    let shared = Arc::new(Shared::new(
        config.clone(),
        store.clone(),
        records,
        images.clone(),
        networks,
        Arc::clone(&volumes),
        Arc::clone(&events),
        launcher,
        Arc::clone(&index),
    ));
    let containers = Containers::new(Arc::clone(&shared));
    let config = Arc::new(config);
    let engine = Engine {
        containers,
        images,
        volumes,
        events,
        shared,
        reloaded: Arc::new(RwLock::new(Arc::clone(&config))),
        config,
        store,
        index,
        id,
        _exec_root_lock: exec_root_lock,
    };
    Ok((engine, all, ids))
}

fn make_parents(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => std::fs::create_dir_all(parent)
            .map_err(|e| Error::system(format!("make directory {}: {e}", parent.display()))),
        None => Ok(()),
    }
}

/// An id for this engine, made once and kept with its state.
fn engine_id(store: &Store) -> Result<String> {
    let schema = ["CREATE TABLE engine (id TEXT NOT NULL)"];
    store.database().migrate("engine", &schema).map_err(error::from_store)?;
    let known = store
        .database()
        .read(|db| match db.query_row("SELECT id FROM engine", [], |row| row.get::<_, String>(0)) {
            Ok(id) => Ok(Some(id)),
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
            Err(e) => Err(e),
        })
        .map_err(error::from_store)?;
    if let Some(id) = known {
        return Ok(id);
    }
    let hex = id::random_hex(16)?;
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    let id = parts.join("-");
    store
        .database()
        .write(|db| db.execute("INSERT INTO engine (id) VALUES (?1)", (&id,)).map(drop))
        .map_err(error::from_store)?;
    Ok(id)
}

/// The instant of an `until` filter: a date, with or without a time and a zone (without one UTC), seconds since the epoch, or a
/// Go duration back from now.
pub(crate) fn until_limit(filters: &Filters) -> Result<Option<Timestamp>> {
    let Some(text) = filters.get("until").next() else { return Ok(None) };
    instant(text).map(Some).ok_or_else(|| {
        Error::invalid(format!("invalid filter 'until={text}': give a date, a time, seconds or a duration such as 24h"))
    })
}

fn instant(text: &str) -> Option<Timestamp> {
    if let Some(at) = seconds(text) {
        return Some(at);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    let local = text.strip_suffix('Z').unwrap_or(text);
    if local.starts_with(|c: char| c.is_ascii_digit())
        && let Ok(at) = local.parse::<jiff::civil::DateTime>()
    {
        return at.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|at| at.timestamp());
    }
    let back = jiff::SignedDuration::from_nanos(go_duration(text)?);
    Timestamp::now().checked_sub(back).ok()
}

/// Seconds since the epoch, with a fraction or not.
fn seconds(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Timestamp::new(whole.parse().ok()?, format!("{fraction:0<9}").parse().ok()?).ok()
}

/// A duration as Go writes it (`1h30m`, `-1.5s`, `100ms`) in nanoseconds; `None` if it is none.
pub fn go_duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0.0;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let factor = match unit {
            "h" => 3.6e12,
            "m" => 6e10,
            "s" => 1e9,
            "ms" => 1e6,
            "us" | "µs" | "μs" => 1e3,
            "ns" => 1.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * factor;
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    // Beyond 292 years there is no such duration.
    let whole = (sign * total).round();
    (whole.abs() < 9.2e18).then_some(whole as i64)
}

#[cfg(test)]
mod tests {
    use super::instant;

    #[test]
    fn instants_as_docker_reads_them() {
        for (text, expected) in [
            ("2023-06-01", "2023-06-01T00:00:00Z"),
            ("2023-06-01Z", "2023-06-01T00:00:00Z"),
            ("2023-06-01T10:20", "2023-06-01T10:20:00Z"),
            ("2023-06-01T10:20:30", "2023-06-01T10:20:30Z"),
            ("2023-06-01T10:20:30.5", "2023-06-01T10:20:30.5Z"),
            ("2023-06-01T10:20:30+02:00", "2023-06-01T08:20:30Z"),
            ("1685614830", "2023-06-01T10:20:30Z"),
            ("1685614830.000000001", "2023-06-01T10:20:30.000000001Z"),
        ] {
            assert_eq!(instant(text).map(|at| at.to_string()).as_deref(), Some(expected), "{text}");
        }
        let hour = jiff::Timestamp::now().duration_since(instant("1h").unwrap()).as_secs();
        assert!((3599..=3601).contains(&hour), "{hour}");
        for text in ["", "soon", "2023-13-01", "1x", ".", "1685614830.0000000001"] {
            assert!(instant(text).is_none(), "{text}");
        }
    }
}
