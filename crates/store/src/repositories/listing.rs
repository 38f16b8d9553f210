//! Lists, a page at a time and always in the same order: tags, repositories, referrers. Must not change anything.

use std::collections::BTreeMap;

use brig_oci::Digest;

use super::{Repositories, find, unsigned};
use crate::error::Result;

/// One manifest that refers to a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// Its digest.
    pub digest: String,
    /// What it was declared to be.
    pub media_type: String,
    /// Its length in bytes.
    pub size: u64,
    /// What kind of artifact it is.
    pub artifact_type: Option<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A page of referrers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Referrers {
    /// In the order of their digests.
    pub entries: Vec<Referrer>,
    /// Whether more come after the last of them.
    pub more: bool,
}

/// What an entry takes without its annotations, roughly, in bytes.
const ENTRY: usize = 512;

impl Referrers {
    /// Whether it takes more than so many bytes, roughly.
    pub fn is_longer_than(&self, bytes: usize) -> bool {
        let length = |(key, value): (&String, &String)| key.len() + value.len();
        let entry = |entry: &Referrer| ENTRY + entry.annotations.iter().map(length).sum::<usize>();
        self.entries.iter().map(entry).sum::<usize>() > bytes
    }
}

impl Repositories {
    /// At most `count` tags after `last`, in the order of the specification ("Listing Tags"): small and capital letters are the same,
    /// then that of their bytes. `None` if there is no such repository.
    pub fn tags(&self, repository: &str, last: &str, count: usize) -> Result<Option<Vec<String>>> {
        self.database().read(|db| {
            let Some(id) = find(db, repository)? else { return Ok(None) };
            let sql = "SELECT name FROM repository_tags
                       WHERE repository = ?1 AND name COLLATE NOCASE >= ?2 AND (name COLLATE NOCASE > ?2 OR name > ?2)
                       ORDER BY name COLLATE NOCASE, name LIMIT ?3";
            let mut query = db.prepare_cached(sql)?;
            let names =
                query.query_map((id, last, limit(count)), |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            Ok(Some(names))
        })
    }

    /// At most `count` repositories after `last` that have a manifest, in the order of their bytes.
    pub fn catalog(&self, last: &str, count: usize) -> Result<Vec<String>> {
        self.database().read(|db| {
            let mut query = db.prepare_cached(
                "SELECT name FROM repositories r WHERE name > ?1
                 AND EXISTS (SELECT 1 FROM repository_manifests m WHERE m.repository = r.id) ORDER BY name LIMIT ?2",
            )?;
            query.query_map((last, limit(count)), |row| row.get(0))?.collect()
        })
    }

    /// Manifests of a repository about `subject`, after the digest `last`, with `artifact_type` if one is named, until their
    /// annotations come to `bytes` bytes. There need not be such a subject.
    pub fn referrers(
        &self,
        repository: &str,
        subject: &Digest,
        artifact_type: Option<&str>,
        last: &str,
        bytes: usize,
    ) -> Result<Referrers> {
        self.database().read(|db| {
            let Some(id) = find(db, repository)? else { return Ok(Referrers::default()) };
            let mut query = db.prepare_cached(
                "SELECT digest, media_type, size, artifact_type, annotations FROM repository_manifests
                 WHERE repository = ?1 AND subject = ?2 AND digest > ?3 AND (?4 IS NULL OR artifact_type = ?4)
                 ORDER BY digest",
            )?;
            let mut rows = query.query((id, subject.as_str(), last, artifact_type))?;
            let mut page = Referrers::default();
            let mut taken = 0;
            while let Some(row) = rows.next()? {
                let annotations: String = row.get::<_, Option<String>>(4)?.unwrap_or_default();
                taken += ENTRY + annotations.len();
                if taken > bytes && !page.entries.is_empty() {
                    page.more = true;
                    break;
                }
                page.entries.push(Referrer {
                    digest: row.get(0)?,
                    media_type: row.get(1)?,
                    size: unsigned(row.get(2)?),
                    artifact_type: row.get(3)?,
                    // Written by this program; a row that somebody damaged shows without them.
                    annotations: serde_json::from_str(&annotations).unwrap_or_default(),
                });
            }
            Ok(page)
        })
    }
}

fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
