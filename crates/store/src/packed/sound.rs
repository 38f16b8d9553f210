//! What is wrong with compressed forms, for a check. Must not change anything but what it is told to forget.

use std::io::Read;
use std::path::PathBuf;

use brig_oci::Digest;

use super::tables::{self, Row, State};
use super::{BLOB, Files, NEW, Packed, is_form};
use crate::error::Result;
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
    /// Its files.
    pub(crate) files: Vec<PathBuf>,
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
        let hex = row.form.digest.hex();
        let names = [hex.to_owned(), format!("{hex}{BLOB}")];
        let files = names.iter().filter(|name| files.exists(name)).map(|name| files.path.join(name)).collect();
        tell(Unsound { digest: row.form.digest, diff_id: row.form.diff_id, why, files })?;
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
    let hex = form.digest.hex();
    let blob = files.size(&format!("{hex}{BLOB}"));
    let quick = match row.state {
        State::Recipe => match files.size(hex) {
            None => Some("what it is made from again is gone".to_owned()),
            Some(size) if size < SHORTEST => Some("what it is made from again is cut off".to_owned()),
            Some(_) => None,
        },
        State::Waiting | State::Blob => match blob {
            None => Some("its file is gone".to_owned()),
            Some(size) if size != form.size_bytes => {
                Some(format!("its file has {size} bytes, not {}", form.size_bytes))
            }
            Some(_) => None,
        },
    };
    // Of a damaged layer nothing can be made; that is told already.
    let is_sound = chains.iter().any(|chain| store.layer(chain).is_some());
    if quick.is_some() || !full || !is_sound {
        return Ok(quick);
    }
    let mut made = match Packed::of(store).blob(&form.digest) {
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

/// Takes a form out of the records; its files are the caller's.
pub(crate) fn forget(store: &Store, digest: &Digest) -> Result<()> {
    tables::delete(&store.inner.database, std::slice::from_ref(digest))
}

/// Everything in the directory that is no form's.
pub(crate) fn stray_names(store: &Store) -> Result<Vec<PathBuf>> {
    let files = &store.inner.packer.files;
    let _gate = store.gate();
    let names = trash::names(std::os::fd::AsFd::as_fd(&files.dir), &files.path)?;
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

impl Files {
    fn exists(&self, name: &str) -> bool {
        rustix::fs::statat(&self.dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }
}
