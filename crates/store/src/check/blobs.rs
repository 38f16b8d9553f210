//! Checks what lies in `blobs/` and in the root: each blob is what its name says, and nothing else is there.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use brig_oci::Digest;

use super::{Check, Finding};
use crate::collect;
use crate::digest::Hasher;
use crate::error::{Error, Result};
use crate::repositories::sound;

/// What may lie in the root.
const KNOWN: &[&str] = &[
    "lock",
    "brig.db",
    "brig.db-wal",
    "brig.db-shm",
    "brig.db-journal",
    "brig.db.copy",
    "brig.db.copy.new",
    "brig.db.copy.new-journal",
    "reserve",
    "blobs",
    "layers",
    "ingest",
    "active",
    "containers",
    "volumes",
    "trash",
    "partial",
    "rescue",
    "rescue.db",
    "packed",
    "quarantine",
];

impl Check<'_> {
    /// The database's own structure.
    pub(super) fn database(&mut self) -> Result<()> {
        let sql = if self.options.full { "PRAGMA integrity_check(20)" } else { "PRAGMA quick_check(20)" };
        let verdict = self.store.inner.database.read(|db| {
            let mut query = db.prepare(sql)?;
            query.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()
        });
        let problems = verdict.unwrap_or_else(|error| vec![error.message]);
        for problem in problems.into_iter().filter(|problem| problem != "ok") {
            let finding = Finding::new("database", "brig.db", problem);
            self.found(finding.advice("restart the daemon: it makes a new one from what can be read"));
        }
        if let Some(words) = self.store.inner.database.rescued() {
            self.found(Finding::new("database", "brig.db", words).mended("replaced when the store was opened"));
        }
        Ok(())
    }

    /// Files and directories that are not the store's.
    pub(super) fn strays(&mut self) -> Result<()> {
        let root = self.store.inner.root.clone();
        let is_hex =
            |name: &str, length: usize| name.len() == length && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        self.strays_in(&root, |name| KNOWN.contains(&name))?;
        self.strays_in(&root.join("blobs"), |name| matches!(name, "sha256" | "sha512"))?;
        self.strays_in(&root.join("blobs/sha256"), |name| is_hex(name, 64))?;
        self.strays_in(&root.join("blobs/sha512"), |name| is_hex(name, 128))
    }

    fn strays_in(&mut self, directory: &Path, is_known: impl Fn(&str) -> bool) -> Result<()> {
        let failed = |error| Error::io(format!("list {}", directory.display()), error);
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let is_blob = directory.ends_with("sha256") || directory.ends_with("sha512");
            let is_right = !is_blob || entry.file_type().is_ok_and(|kind| kind.is_file());
            if is_right && entry.file_name().to_str().is_some_and(&is_known) {
                continue;
            }
            let path = entry.path();
            let finding = Finding::new("file", path.display(), "it is not the store's");
            self.set_aside(finding, &path, true)?;
        }
        Ok(())
    }

    /// Each blob's bytes (in a full check; else that it is not empty).
    pub(super) fn blobs(&mut self) -> Result<()> {
        let mut all = Vec::new();
        collect::each_blob(self.store, &mut |_, digest, size| {
            all.push((digest, size));
            Ok(())
        })?;
        let named = self.named_blobs();
        for (digest, size) in all {
            let problem = match self.options.full {
                true => self.blob_problem(&digest)?,
                false if size == 0 && digest.hex() != EMPTY => Some("it is empty".to_owned()),
                false => None,
            };
            let Some(problem) = problem else { continue };
            let images: Vec<Digest> =
                named.iter().filter(|(blob, _)| *blob == digest).map(|(_, image)| image.clone()).collect();
            let path = self.store.inner.blob_path(&digest);
            let holders = sound::holders(self.store, &digest)?;
            let push = (!holders.is_empty()).then(|| format!("push to the registry again: {}", holders.join(", ")));
            let advice = self.pull_again(&images).or(push);
            let is_needed = advice.is_some();
            let finding = Finding { advice, ..Finding::new("blob", &digest, problem) };
            self.set_aside(finding, &path, !is_needed)?;
        }
        Ok(())
    }

    fn blob_problem(&self, digest: &Digest) -> Result<Option<String>> {
        let path = self.store.inner.blob_path(digest);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            // Collected meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("open {}", path.display()), error)),
        };
        let mut hasher = Hasher::like(digest);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match std::io::Read::read(&mut file, &mut buffer) {
                Ok(0) => break,
                Ok(length) => hasher.update(&buffer[..length]),
                Err(error) => return Ok(Some(format!("it cannot be read: {error}"))),
            }
        }
        let actual = hasher.finish();
        let length = file.metadata().map_or(0, |metadata| metadata.size());
        Ok((actual != *digest).then(|| format!("its {length} bytes are not what its name says: they are {actual}")))
    }

    /// Blobs that images and names need, each with the image.
    fn named_blobs(&self) -> Vec<(Digest, Digest)> {
        let mut named = Vec::new();
        for image in self.store.images() {
            named.push((image.id.clone(), image.id.clone()));
            named.extend(image.manifest.map(|manifest| (manifest, image.id.clone())));
        }
        named.extend(self.store.tags().into_iter().filter_map(|tag| Some((tag.manifest?, tag.image))));
        named
    }
}

/// SHA-256 of nothing.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
