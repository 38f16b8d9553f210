//! Manifests and tags of repositories. Must not interpret a manifest: what it names is told by the caller, who has read it.

use std::collections::BTreeMap;
use std::time::Duration;

use brig_oci::Digest;
use rusqlite::{OptionalExtension, Transaction};

use super::images::{came, hide, let_go};
use super::{Removed, Repositories, before, find, find_or_make, now, signed, unsigned};
use crate::error::{Error, Result};
use crate::lease::Lease;

/// A manifest or index to be shown in a repository.
#[derive(Debug, Clone)]
pub struct NewManifest<'a> {
    /// Where it comes from.
    pub source: Source,
    /// Its digest.
    pub digest: &'a Digest,
    /// Its bytes, at most [`crate::MAX_BLOB_SIZE`].
    pub bytes: &'a [u8],
    /// What it was declared to be.
    pub media_type: &'a str,
    /// Blobs that the repository must show already.
    pub blobs: &'a [Digest],
    /// Manifests that the repository must show already.
    pub manifests: &'a [Digest],
    /// The manifest that it is about, which need not be there.
    pub subject: Option<&'a Digest>,
    /// What kind of artifact it is.
    pub artifact_type: Option<&'a str>,
    /// Its annotations, shown to those who ask what refers to the subject.
    pub annotations: &'a BTreeMap<String, String>,
}

/// Where a manifest comes from that is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Somebody pushes it: everything that it needs must be shown already, and more may be on its way.
    Push,
    /// It was pushed just now and counted as that; what else is to be shown of it follows.
    Pushed,
    /// Another registry. What it needs may come later, and is held from then on.
    Registry,
    /// It was here before, shown by something else: nobody waits for it, nor for what it needs.
    Here,
}

/// What became of a manifest that was to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutManifest {
    /// It is shown, under its digest and the tags.
    Done,
    /// The repository does not show these, which it names: nothing was changed.
    Missing(Vec<Digest>),
}

/// How a manifest is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Referenced<'a> {
    /// By what it is.
    Digest(&'a Digest),
    /// By a name that may mean another one tomorrow.
    Tag(&'a str),
}

/// A manifest of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestInfo {
    /// Its digest.
    pub digest: Digest,
    /// What it was declared to be.
    pub media_type: String,
    /// Its length in bytes.
    pub size: u64,
    /// When the tag was last set, or the manifest pushed if it was asked for by digest: microseconds since 1970.
    pub updated_at: i64,
}

impl Repositories {
    /// Shows a manifest in a repository under its digest and these tags, if everything that it needs is there; durable when
    /// this returns.
    ///
    /// # Errors
    /// If the bytes do not have the digest.
    pub fn put_manifest(&self, repository: &str, new: &NewManifest<'_>, tags: &[String]) -> Result<PutManifest> {
        // The blob first, so that a row never names what is not there; kept until the row leads to it.
        let _lease = Lease::begin(&self.store);
        self.store.put_blobs(&[(new.digest, new.bytes)])?;
        let annotations = match new.subject {
            Some(_) => serde_json::to_string(new.annotations).map_err(|error| Error::invalid(error.to_string()))?,
            None => String::new(),
        };
        self.database().write(|db| {
            let id = find_or_make(db, repository)?;
            let missing = missing(db, id, new)?;
            if matches!(new.source, Source::Push | Source::Pushed) && !missing.is_empty() {
                return Ok(PutManifest::Missing(missing));
            }
            // One that was pushed stays that when it is shown for another reason as well.
            db.execute(
                "INSERT INTO repository_manifests
                 (repository, digest, media_type, size, pushed_at, subject, artifact_type, annotations)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                 ON CONFLICT (repository, digest) DO UPDATE SET media_type = excluded.media_type, size = excluded.size,
                 pushed_at = max(pushed_at, excluded.pushed_at), subject = excluded.subject,
                 artifact_type = excluded.artifact_type, annotations = excluded.annotations",
                (
                    id,
                    new.digest.as_str(),
                    new.media_type,
                    signed(new.bytes.len() as u64),
                    if new.source == Source::Here { 0 } else { now() },
                    new.subject.map(Digest::as_str),
                    new.artifact_type,
                    annotations,
                ),
            )?;
            refer(db, id, new.digest.as_str(), new.blobs.iter().chain(new.manifests))?;
            if new.source == Source::Push {
                came(db, id, new.digest.as_str())?;
            }
            let sql =
                "INSERT OR REPLACE INTO repository_tags (repository, name, digest, updated_at) VALUES (?1, ?2, ?3, ?4)";
            for tag in tags {
                db.execute(sql, (id, tag, new.digest.as_str(), now()))?;
            }
            Ok(PutManifest::Done)
        })
    }

    /// A manifest of a repository, if it shows it.
    pub fn manifest(&self, repository: &str, reference: &Referenced<'_>) -> Result<Option<ManifestInfo>> {
        let (sql, key) = match reference {
            Referenced::Digest(digest) => (
                "SELECT m.digest, m.media_type, m.size, m.pushed_at FROM repository_manifests m
                 JOIN repositories r ON r.id = m.repository WHERE r.name = ?1 AND m.digest = ?2",
                digest.as_str(),
            ),
            Referenced::Tag(tag) => (
                "SELECT m.digest, m.media_type, m.size, t.updated_at FROM repository_tags t
                 JOIN repositories r ON r.id = t.repository
                 JOIN repository_manifests m ON m.repository = t.repository AND m.digest = t.digest
                 WHERE r.name = ?1 AND t.name = ?2",
                *tag,
            ),
        };
        let row = self.database().read(|db| {
            db.prepare_cached(sql)?
                .query_row((repository, key), |row| {
                    Ok((row.get::<_, String>(0)?, row.get(1)?, row.get::<_, i64>(2)?, row.get(3)?))
                })
                .optional()
        })?;
        row.map(|(digest, media_type, size, updated_at)| {
            let digest = Digest::parse(&digest).map_err(|error| Error::corrupt(format!("{repository}: {error}")))?;
            Ok(ManifestInfo { digest, media_type, size: unsigned(size), updated_at })
        })
        .transpose()
    }

    /// Says that a tag was looked after now and still means what it did.
    pub fn touch_tag(&self, repository: &str, tag: &str) -> Result<()> {
        let sql = "UPDATE repository_tags SET updated_at = ?3
                   WHERE name = ?2 AND repository = (SELECT id FROM repositories WHERE name = ?1)";
        self.database().write_relaxed(|db| db.execute(sql, (repository, tag, now())).map(drop))
    }

    /// Hides a manifest and the tags that mean it; durable when this returns. Its blobs lose what held them. An index that
    /// lists it stays: who deletes by digest means it.
    pub fn delete_manifest(&self, repository: &str, digest: &Digest) -> Result<Removed> {
        self.database().write(|db| {
            let Some(id) = find(db, repository)? else { return Ok(Removed::Absent) };
            let_go(db, id, digest.as_str())?;
            Ok(if forget(db, id, digest.as_str())? { Removed::Gone } else { Removed::Absent })
        })
    }

    /// Takes a tag away; the manifest stays. Durable when this returns.
    pub fn delete_tag(&self, repository: &str, tag: &str) -> Result<Removed> {
        self.delete_tags(repository, &[tag.to_owned()])
    }

    /// As [`Repositories::delete_tag`], of those of these tags that there are.
    pub fn delete_tags(&self, repository: &str, tags: &[String]) -> Result<Removed> {
        let sql = "repository_tags WHERE repository = (SELECT id FROM repositories WHERE name = ?1) AND name = ?2";
        // For the most part there are none, and the disk is not waited for.
        let any = self.database().read(|db| {
            let mut query = db.prepare_cached(&format!("SELECT 1 FROM {sql}"))?;
            tags.iter().try_fold(false, |any, tag| Ok(any || query.exists((repository, tag))?))
        })?;
        if !any {
            return Ok(Removed::Absent);
        }
        self.database().write(|db| {
            let mut delete = db.prepare_cached(&format!("DELETE FROM {sql}"))?;
            let mut gone = 0;
            for tag in tags {
                gone += delete.execute((repository, tag))?;
            }
            Ok(if gone > 0 { Removed::Gone } else { Removed::Absent })
        })
    }

    /// Shows a manifest no longer for its own sake, nor what only it needed: something else leads to it now. Not if other
    /// manifests are about it, it is about another itself, or others list it.
    pub fn release(&self, repository: &str, digest: &Digest) -> Result<()> {
        self.database().write(|db| {
            let Some(id) = find(db, repository)? else { return Ok(()) };
            let is_needed: bool = db.query_row(
                "SELECT EXISTS (SELECT 1 FROM repository_manifests
                                WHERE repository = ?1 AND (subject = ?2 OR digest = ?2 AND subject IS NOT NULL))
                     OR EXISTS (SELECT 1 FROM repository_references WHERE repository = ?1 AND child = ?2)",
                (id, digest.as_str()),
                |row| row.get(0),
            )?;
            if is_needed { Ok(()) } else { hide(db, id, digest.as_str()) }
        })
    }

    /// Whether a manifest that names this blob was pushed to some repository within `age`: an image with this configuration may be
    /// part of a push that is not yet at its end.
    pub fn is_recent(&self, blob: &Digest, age: Duration) -> Result<bool> {
        let after = before(age);
        let sql = "SELECT 1 FROM repository_references f
                   JOIN repository_manifests m ON m.repository = f.repository AND m.digest = f.manifest
                   WHERE f.child = ?1 AND m.pushed_at >= ?2";
        self.database().read(|db| Ok(db.query_row(sql, (blob.as_str(), after), |_| Ok(())).optional()?.is_some()))
    }
}

/// Takes out the rows of a manifest: its own, its tags and what it names. `false` if it was not there.
pub(super) fn forget(db: &Transaction<'_>, repository: i64, digest: &str) -> rusqlite::Result<bool> {
    let key = (repository, digest);
    db.execute("DELETE FROM repository_tags WHERE repository = ?1 AND digest = ?2", key)?;
    db.execute("DELETE FROM repository_references WHERE repository = ?1 AND manifest = ?2", key)?;
    Ok(db.execute("DELETE FROM repository_manifests WHERE repository = ?1 AND digest = ?2", key)? > 0)
}

/// Notes what a manifest names, which it holds from now on.
pub(super) fn refer<'a>(
    db: &Transaction<'_>,
    repository: i64,
    manifest: &str,
    mut children: impl Iterator<Item = &'a Digest>,
) -> rusqlite::Result<()> {
    let sql = "INSERT OR IGNORE INTO repository_references (repository, manifest, child) VALUES (?1, ?2, ?3)";
    let mut refer = db.prepare_cached(sql)?;
    children.try_for_each(|child| refer.execute((repository, manifest, child.as_str())).map(drop))
}

fn missing(db: &Transaction<'_>, repository: i64, new: &NewManifest<'_>) -> rusqlite::Result<Vec<Digest>> {
    let mut blob = db.prepare_cached("SELECT 1 FROM repository_blobs WHERE repository = ?1 AND digest = ?2")?;
    let mut manifest = db.prepare_cached("SELECT 1 FROM repository_manifests WHERE repository = ?1 AND digest = ?2")?;
    let mut missing = Vec::new();
    for digest in new.blobs {
        if !blob.exists((repository, digest.as_str()))? {
            missing.push(digest.clone());
        }
    }
    for digest in new.manifests {
        if !manifest.exists((repository, digest.as_str()))? {
            missing.push(digest.clone());
        }
    }
    Ok(missing)
}
