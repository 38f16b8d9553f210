//! What is wrong with compressed forms, for a check. Must not change anything but what it is told to forget.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;

use brig_oci::Digest;

use super::tables::{self, Row, State};
use super::{BLOB, Files, NEW, blob, is_form};
use crate::check::marks::Damage;
use crate::error::{Error, Result};
use crate::sources;
use crate::store::Store;
use crate::trash;

/// The shortest recipe that there can be, in bytes: anything shorter was cut off.
const SHORTEST: u64 = 4;

/// A form that cannot be had.
pub(crate) struct Unsound {
    /// The compressed blob.
    pub(crate) digest: Digest,
    /// The layer that it is a form of.
    pub(crate) diff_id: Digest,
    /// For people.
    pub(crate) why: String,
}

/// Tells every form that cannot be had; with `full` each is made and compared with its digest.
pub(crate) fn unsound(store: &Store, full: bool, tell: &mut dyn FnMut(Unsound) -> Result<()>) -> Result<()> {
    let files = &store.inner.packer.files;
    for row in tables::all(&store.inner.database)? {
        let Some(why) = problem(store, files, &row, full)? else { continue };
        // The worker may have come between.
        let Some(row) = tables::find(&store.inner.database, &row.form.digest)? else { continue };
        let why = if full { Some(why) } else { problem(store, files, &row, false)? };
        let Some(why) = why else { continue };
        tell(Unsound { digest: row.form.digest, diff_id: row.form.diff_id, why })?;
    }
    Ok(())
}

fn problem(store: &Store, files: &Files, row: &Row, full: bool) -> Result<Option<String>> {
    let form = &row.form;
    let chains = super::chains(&store.catalog(), &form.diff_id);
    if chains.is_empty() {
        // Somebody may just be bringing the layer.
        let is_coming = row.state == State::Waiting && store.catalog().held().next().is_some();
        return Ok((!is_coming).then(|| format!("it is a form of layer {}, which is not here", form.diff_id)));
    }
    let quick = quick_problem(files, row);
    // Of a damaged layer nothing can be made; that is told already.
    let is_sound = chains.iter().any(|chain| store.layer(chain).is_some());
    if quick.is_some() || !full || !is_sound {
        return Ok(quick);
    }
    let mut made = match blob::open(store, files, &form.digest, false) {
        Ok(made) => made,
        Err(error) => return Ok(Some(error.message)),
    };
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match made.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Ok(Some(error.to_string())),
        }
    }
}

/// What is wrong with the files of a form, by their lengths.
fn quick_problem(files: &Files, row: &Row) -> Option<String> {
    let hex = row.form.digest.hex();
    match row.state {
        State::Recipe => match files.size(hex) {
            None => Some("what it is made from again is gone".to_owned()),
            Some(size) if size < SHORTEST => Some("what it is made from again is cut off".to_owned()),
            Some(_) => None,
        },
        State::Waiting | State::Blob => match files.size(&format!("{hex}{BLOB}")) {
            None => Some("its file is gone".to_owned()),
            Some(size) if size != row.form.size_bytes => {
                Some(format!("its file has {size} bytes, not {}", row.form.size_bytes))
            }
            Some(_) => None,
        },
    }
}

/// See [`super::Packed::is_lost`]. One whose files are not as they should be is forgotten here.
pub(super) fn is_lost(store: &Store, digest: &Digest) -> Result<bool> {
    let database = &store.inner.database;
    let files = &store.inner.packer.files;
    for _ in 0..2 {
        let Some(row) = tables::find(database, digest)? else {
            return tables::is_lost(database, digest);
        };
        if quick_problem(files, &row).is_none() {
            return Ok(false);
        }
        // Once more: the worker may have come between.
    }
    lose(store, digest)?;
    Ok(true)
}

/// Takes a form out of the records, but for that it was here, and its files to the quarantine; the last one's place there.
pub(crate) fn lose(store: &Store, digest: &Digest) -> Result<Option<PathBuf>> {
    // The row first: a file without one does no harm.
    tables::lose(&store.inner.database, digest)?;
    let (files, hex) = (&store.inner.packer.files, digest.hex());
    let mut kept = None;
    for name in [hex.to_owned(), format!("{hex}{BLOB}")] {
        kept = store.inner.quarantine.take(files.dir.as_fd(), name.as_ref(), "packed")?.or(kept);
    }
    Ok(kept)
}

/// A form could not be had, or made of a layer: finds out what is to blame, and sees to it that a pull brings that anew. What is
/// wrong with the layer, if it is that.
pub(super) fn blame(store: &Store, digest: &Digest, chain: Option<&Digest>) -> Result<Option<String>> {
    let damaged = || {
        // A layer's own tar is no form; what could be read now is not damaged.
        if tables::find(&store.inner.database, digest)?.is_none() {
            return Ok(None);
        }
        tracing::error!("the compressed form {digest} of a layer is damaged: a pull brings it back");
        lose(store, digest).map(|_| None)
    };
    let Some(chain) = chain else { return damaged() };
    let Ok(mut tar) = store.layer_tar(chain) else {
        // It is gone, or was found out already.
        return Ok(store.catalog().damaged.get(chain).map(|damage| damage.why.clone()));
    };
    match std::io::copy(&mut tar, &mut std::io::sink()) {
        Ok(_) => damaged(),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            let why = error.to_string();
            sources::condemn(store, chain, Damage { why: why.clone(), usable: false })?;
            Ok(Some(why))
        }
        Err(error) => Err(Error::io(format!("read layer {chain}"), error)),
    }
}

/// Everything in the directory that is no form's.
pub(crate) fn stray_names(store: &Store) -> Result<Vec<PathBuf>> {
    let files = &store.inner.packer.files;
    let _gate = store.gate();
    let names = trash::names(files.dir.as_fd(), &files.path)?;
    let known: std::collections::HashSet<String> =
        tables::all(&store.inner.database)?.into_iter().map(|row| row.form.digest.hex().to_owned()).collect();
    let is_known = |name: &str| {
        let hex = name.strip_suffix(BLOB).or_else(|| name.strip_suffix(NEW)).unwrap_or(name);
        is_form(name) && known.contains(hex)
    };
    let strays = names.into_iter().filter(|name| !name.to_str().is_some_and(is_known));
    // A collection takes rows before files.
    Ok(strays.map(|name| files.path.join(name)).filter(|path| path.symlink_metadata().is_ok()).collect())
}
