//! What every container's task needs of the engine, and what is done to a container's files outside of its task.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use brig_store::{Layers, Store};
use tokio::sync::{mpsc, watch};

use super::exec::ExecTable;
use super::launcher::Launcher;
use super::policy::Status;
use super::record::{Record, Records};
use super::restart::{self, Verdict};
use super::task::Task;
use super::users::Accounts;
use super::view::View;
use super::{Handle, Index};
use crate::config::Config;
use crate::error::{Error, Result, from_store};
use crate::events::Events;
use crate::idrange::IdRanges;
use crate::images::Images;
use crate::network::Networks;
use crate::volumes::Volumes;

/// Larger `/etc/passwd` and `/etc/group` files are refused, in bytes.
const LARGEST_ACCOUNTS: u64 = 10 << 20;

/// Where a container's files lie.
#[derive(Debug, Clone)]
pub struct Paths {
    /// What outlives a run: log, exit file, names.
    pub state: PathBuf,
    /// The log.
    pub log: PathBuf,
    /// How the last run ended.
    pub exit: PathBuf,
    /// What a run has: the shim's files and socket.
    pub run: PathBuf,
}

/// The parts of the engine that containers use.
pub struct Shared {
    /// Settings.
    pub config: Config,
    /// Layers and database.
    pub store: Store,
    /// Records.
    pub records: Records,
    /// Images.
    pub images: Images,
    /// Networks.
    pub networks: Networks,
    /// Volumes.
    pub volumes: Arc<Volumes>,
    /// The bus.
    pub events: Arc<Events>,
    /// Ranges of host ids.
    pub id_ranges: IdRanges,
    /// Starts shims.
    pub launcher: Launcher,
    /// All containers.
    pub index: Arc<Index>,
    /// The host's name.
    pub host_name: String,
    accounts: Mutex<HashMap<String, Accounts>>,
}

/// A container that an earlier daemon made, before its task runs.
pub struct Restored {
    task: Task,
    commands: mpsc::Receiver<super::Command>,
}

impl Restored {
    /// Serves requests and the restart policy from now on.
    pub fn go_on(self) {
        if !self.task.view.removed {
            tokio::spawn(self.task.run(self.commands));
        }
    }
}

impl Shared {
    /// Puts the parts together.
    #[allow(clippy::too_many_arguments)] // Parts, each of another kind; a struct for them would be this one.
    pub fn new(
        config: Config,
        store: Store,
        records: Records,
        images: Images,
        networks: Networks,
        volumes: Arc<Volumes>,
        events: Arc<Events>,
        launcher: Launcher,
        index: Arc<Index>,
    ) -> Self {
        let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        Self {
            config,
            store,
            records,
            images,
            networks,
            volumes,
            events,
            id_ranges: IdRanges::default(),
            launcher,
            index,
            host_name,
            accounts: Mutex::default(),
        }
    }

    /// Where the files of this container lie.
    pub fn paths(&self, id: &str) -> Paths {
        let state = self.store.root().join("containers").join(id);
        Paths {
            log: state.join(format!("{id}-json.log")),
            exit: state.join("exit.json"),
            run: self.config.exec_root.join(id),
            state,
        }
    }

    /// Starts the task of a container that is in the database, in the state `resume` finds.
    fn task(self: &Arc<Self>, record: Arc<Record>) -> (Task, Arc<Handle>, mpsc::Receiver<super::Command>) {
        let paths = self.paths(&record.id);
        let view = View::created(Arc::clone(&record));
        let (views, seen) = watch::channel(Arc::new(view.clone()));
        let (sender, commands) = mpsc::channel(16);
        let execs = Arc::new(ExecTable::default());
        let handle = Arc::new(Handle {
            id: record.id.clone(),
            paths: paths.clone(),
            execs: Arc::clone(&execs),
            commands: sender,
            views: seen,
        });
        let task = Task {
            shared: Arc::clone(self),
            paths,
            record,
            view,
            views,
            link: None,
            execs,
            waiting: Vec::new(),
            restart_at: None,
            relink_at: None,
            backoff: restart::FIRST_WAIT,
            began: None,
        };
        (task, handle, commands)
    }

    /// Takes in a container that was just made.
    pub fn adopt(self: &Arc<Self>, record: Arc<Record>) {
        let (task, handle, commands) = self.task(Arc::clone(&record));
        self.index.insert(handle, &record.name);
        task.emit("create", &[]);
        tokio::spawn(task.run(commands));
    }

    /// Takes in a container that an earlier daemon made, and finds out how it is. Nothing is started before
    /// [`Restored::go_on`].
    pub async fn restore(self: Arc<Self>, record: Record) -> Restored {
        let record = Arc::new(record);
        self.volumes.claim(&record.id, super::create::volume_names(&record));
        if let Some(base) = record.run.as_ref().and_then(|run| run.id_base) {
            self.id_ranges.claim(base);
        }
        let (mut task, handle, commands) = self.task(Arc::clone(&record));
        self.index.insert(handle, &record.name);
        let was_running = record.run.is_some();
        if record.was_started {
            task.view.status = Status::Exited;
            if !was_running {
                let exit = task.collect_exit_quietly().await;
                task.view.exit_code = exit.exit_code;
                task.view.oom_killed = exit.oom_killed;
                task.view.started_at = exit.started_at;
                task.view.finished_at = exit.finished_at;
            }
        }
        task.resume().await;
        if !task.view.status.is_alive() && !task.view.removed {
            let policy = &record.host_config.restart_policy;
            let verdict = restart::decide_at_boot(
                policy,
                was_running,
                task.view.exit_code,
                record.stopped_by_user,
                record.restart_count,
            );
            if verdict == Verdict::Restart && record.was_started {
                task.restart_at = Some(tokio::time::Instant::now() + Duration::ZERO);
                task.view.status = Status::Restarting;
            } else {
                task.restart_at = None;
                if task.view.status == Status::Restarting {
                    task.view.status = Status::Exited;
                }
            }
            // The daemon was killed between the end of a `--rm` container and its removal.
            let has_ended = record.was_started || record.start_error.is_some();
            if record.host_config.auto_remove && !was_running && has_ended {
                task.remove_quietly().await;
            }
        }
        task.publish();
        Restored { task, commands }
    }

    /// Tells what happened to a container, with its labels and whatever belongs to the event.
    pub fn emit_container(&self, record: &Record, action: &str, extra: &[(&str, String)]) {
        let mut attributes = record.config.labels.clone().unwrap_or_default();
        attributes.insert("image".into(), record.image.clone());
        attributes.insert("name".into(), record.name.clone());
        attributes.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        self.events.emit("container", action, &record.id, attributes);
    }

    /// Tells about an exec in a container.
    pub fn emit_exec(&self, record: &Record, action: &str, exec_id: &str) {
        self.emit_container(record, action, &[("execID", exec_id.to_owned())]);
    }

    /// The container's accounts as its files are now. Blocking.
    pub fn accounts_of(&self, record: &Record) -> Result<Accounts> {
        let read = |root: &brig_store::View| -> Result<Accounts> {
            let text = |path: &str| {
                root.read_text(Path::new(path), LARGEST_ACCOUNTS).map(Option::unwrap_or_default).map_err(from_store)
            };
            Ok(Accounts { passwd: text("etc/passwd")?, group: text("etc/group")? })
        };
        if !record.host_config.brig_rootfs.is_empty() {
            let root = brig_store::View::directory(Path::new(&record.host_config.brig_rootfs)).map_err(from_store)?;
            return read(&root);
        }
        let layers = self.layers(record)?;
        let changed = accounts_changed(&layers.upper);
        let key = record.chain.clone().unwrap_or_default();
        if !changed && let Some(known) = self.cached_accounts(&key) {
            return Ok(known);
        }
        let accounts = read(&self.store.view(&layers).map_err(from_store)?)?;
        if !changed {
            self.accounts.lock().unwrap_or_else(PoisonError::into_inner).insert(key, accounts.clone());
        }
        Ok(accounts)
    }

    fn cached_accounts(&self, chain: &str) -> Option<Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner).get(chain).cloned()
    }

    fn layers(&self, record: &Record) -> Result<Layers> {
        self.store
            .active(&record.id)
            .ok_or_else(|| Error::system(format!("the writable layer of container {} is missing", record.name)))
    }

    /// Its files as its processes would see them, without its volumes. Blocking.
    pub fn files(&self, record: &Record) -> Result<brig_store::View> {
        self.store.view(&self.layers(record)?).map_err(from_store)
    }

    /// Makes the volumes that a record names, if someone removed them, and gives their directories. Blocking.
    pub fn volume_paths(&self, record: &Record) -> Result<BTreeMap<String, PathBuf>> {
        let names = super::create::volume_names(record);
        names.into_iter().map(|name| self.volumes.ensure(&name, BTreeMap::new()).map(|path| (name, path))).collect()
    }

    /// Fills an empty volume with what the image has where it will be mounted. Blocking.
    pub fn fill_volume(&self, record: &Record, destination: &str, data: &Path) -> Result<()> {
        let is_empty = std::fs::read_dir(data).map(|mut entries| entries.next().is_none());
        if !is_empty.map_err(|e| Error::system(format!("read {}: {e}", data.display())))? {
            return Ok(());
        }
        let view = self.files(record)?;
        view.copy_out(Path::new(destination), data).map_err(from_store)
    }

    /// Bytes that the container wrote, and those plus its image. Blocking.
    pub fn sizes(&self, record: &Record) -> (i64, i64) {
        let written = self.written_bytes(record);
        let mut image = 0;
        let mut chain = record.chain.as_deref().and_then(|text| brig_oci::Digest::parse(text).ok());
        while let Some(layer) = chain.as_ref().and_then(|chain| self.store.layer(chain)) {
            image += layer.size_bytes;
            chain = layer.parent;
        }
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        (number(written), number(written + image))
    }

    /// Bytes that the container wrote.
    pub fn written_bytes(&self, record: &Record) -> u64 {
        // One that is being removed has written nothing that will stay.
        self.store.active_size(&record.id).unwrap_or(0)
    }

    /// The directories of its layers.
    pub fn graph(&self, record: &Record) -> BTreeMap<String, String> {
        let Some(layers) = self.store.active(&record.id) else { return BTreeMap::new() };
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let lower: Vec<String> = layers.lower.iter().map(|path| text(path)).collect();
        BTreeMap::from([
            ("LowerDir".to_owned(), lower.join(":")),
            ("UpperDir".to_owned(), text(&layers.upper)),
            ("WorkDir".to_owned(), text(&layers.work)),
        ])
    }

    /// Removes everything that a container has; volumes nobody named only when `volumes`. Blocking; may run again after
    /// a failure.
    pub fn erase(&self, record: &Record, paths: &Paths, volumes: bool) -> Result<()> {
        self.erase_files(record, paths)?;
        self.records.remove(record)?;
        // Until now it was in use.
        if let Ok(image) = brig_oci::Digest::parse(&record.image_id) {
            self.images.note_use(&image);
        }
        let freed = self.volumes.release(&record.id);
        if volumes {
            for name in freed {
                if let Err(e) = self.volumes.remove(&name, true) {
                    tracing::warn!(container = %record.short_id(), "remove its volume {name}: {e}");
                }
            }
        }
        Ok(())
    }

    /// Removes a container's directories.
    pub fn erase_files(&self, record: &Record, paths: &Paths) -> Result<()> {
        self.store.remove_active(&record.id).map_err(from_store)?;
        if paths.state.exists() {
            self.store.discard(&paths.state).map_err(from_store)?;
        }
        super::start::remove_run_directory(&paths.run)
    }
}

/// Whether the writable layer has accounts of its own, or hides the image's.
fn accounts_changed(upper: &Path) -> bool {
    let etc = upper.join("etc");
    let Ok(metadata) = etc.symlink_metadata() else { return false };
    if !metadata.is_dir() {
        return true;
    }
    let mut mark = [0u8; 1];
    let hides = rustix::fs::lgetxattr(&etc, "trusted.overlay.opaque", &mut mark[..]).is_ok();
    hides || ["passwd", "group"].iter().any(|name| etc.join(name).symlink_metadata().is_ok())
}
