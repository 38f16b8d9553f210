//! What a container's files are and how they differ from its image's: diff, export, and the layer of a commit.
//! Owns when that may be asked and Docker's form of the answers; reading and writing trees is the store's, what becomes of
//! the layer the images'.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use brig_api::container as api;
use brig_store::ChangeKind;

use super::record::Record;
use super::{Containers, Handle, Shared, Status, View, blocking};
use crate::error::{Error, Result, from_store};
use crate::images::{self, Commit};

/// A container's files, about to be written as one tar.
pub struct Export {
    files: brig_store::View,
    view: Arc<View>,
    shared: Arc<Shared>,
}

impl Export {
    /// Writes the archive. An error means that what was written is no whole archive. Blocking.
    pub fn write(self, output: &mut dyn Write) -> io::Result<()> {
        self.files.write_tar(output)?;
        self.shared.emit_container(&self.view.record, "export", &[]);
        Ok(())
    }
}

impl Containers {
    /// What it changed of its image's files, by path.
    pub async fn changes(&self, id: &str) -> Result<Vec<api::FilesystemChange>> {
        let view = self.find(id)?.view();
        has_layers(&view.record, "compare")?;
        let shared = Arc::clone(&self.shared);
        let changes = blocking(move || brig_store::active_changes(&shared.store, &view.record.id).map_err(from_store));
        let shown = |change: brig_store::Change| api::FilesystemChange {
            path: change.path.to_string_lossy().into_owned(),
            kind: match change.kind {
                ChangeKind::Modified => 0,
                ChangeKind::Added => 1,
                ChangeKind::Deleted => 2,
            },
        };
        Ok(changes.await?.into_iter().map(shown).collect())
    }

    /// Its files as one archive, whether it runs or not.
    pub async fn export(&self, id: &str) -> Result<Export> {
        let view = self.find(id)?.view();
        refuse_dying(&view, "export")?;
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let rootfs = &view.record.host_config.brig_rootfs;
            let files = match rootfs.is_empty() {
                true => shared.files(&view.record)?,
                false => brig_store::View::directory(Path::new(rootfs)).map_err(from_store)?,
            };
            Ok(Export { files, view, shared })
        })
        .await
    }

    /// Makes an image of it; gives the image's id. While `pause` is set and it runs, it is frozen meanwhile.
    pub async fn commit(&self, id: &str, commit: Commit) -> Result<String> {
        let handle = self.find(id)?;
        let view = handle.view();
        refuse_dying(&view, "commit")?;
        has_layers(&view.record, "commit")?;
        let planned = images::plan_commit(commit, &view.record)?;
        let frozen = match planned.pause && view.status == Status::Running {
            true => Some(Frozen::new(&handle, self).await?),
            false => None,
        };
        let shared = Arc::clone(&self.shared);
        let record = Arc::clone(&view.record);
        let made = blocking(move || {
            // Until the image is there nothing else leads to its layer.
            let _lease = brig_store::Lease::begin(&shared.store);
            let layer = brig_store::commit_active(&shared.store, &record.id).map_err(from_store)?;
            images::commit(&shared.images, &planned, &record, layer.as_ref())
        })
        .await;
        if let Some(frozen) = frozen {
            frozen.thaw().await;
        }
        let made = made?;
        let extra = [("comment", made.comment), ("imageID", made.id.clone()), ("imageRef", made.name)];
        self.shared.emit_container(&view.record, "commit", &extra);
        Ok(made.id)
    }
}

/// A container that is frozen for a moment, and thawed even if whoever asked for that has gone.
struct Frozen {
    id: String,
    containers: Option<Containers>,
}

impl Frozen {
    async fn new(handle: &Handle, containers: &Containers) -> Result<Frozen> {
        containers.pause(&handle.id).await?;
        Ok(Frozen { id: handle.id.clone(), containers: Some(containers.clone()) })
    }

    async fn thaw(mut self) {
        if let Some(containers) = self.containers.take() {
            thaw(&containers, &self.id).await;
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Some(containers) = self.containers.take() {
            let id = self.id.clone();
            tokio::spawn(async move { thaw(&containers, &id).await });
        }
    }
}

async fn thaw(containers: &Containers, id: &str) {
    if let Err(e) = containers.unpause(id).await {
        // Somebody may have thawed or killed it meanwhile, which is their right.
        tracing::warn!(container = %id, "unpause after a commit: {e}");
    }
}

fn refuse_dying(view: &View, verb: &str) -> Result<()> {
    let id = &view.record.id;
    match view.status {
        Status::Dead => Err(Error::conflict(format!("You cannot {verb} container {id} which is Dead"))),
        Status::Removing => Err(Error::conflict(format!("You cannot {verb} container {id} which is being removed"))),
        Status::Created | Status::Running | Status::Paused | Status::Restarting | Status::Exited => Ok(()),
    }
}

fn has_layers(record: &Record, verb: &str) -> Result<()> {
    match record.host_config.brig_rootfs.as_str() {
        "" => Ok(()),
        directory => Err(Error::invalid(format!(
            "cannot {verb} container {}: it has no image, it runs in the directory {directory}",
            record.name
        ))),
    }
}
