//! Uploads under way: which repository each is for and who began it. Their bytes are partial files of the store.
//! Must not touch those.

use std::time::Duration;

use rusqlite::OptionalExtension;

use super::{now, signed};
use crate::durable;
use crate::error::Result;
use crate::store::Store;

/// An upload under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadInfo {
    /// The repository that it is for.
    pub repository: String,
    /// Who began it; empty where nobody is asked for a name.
    pub owner: String,
}

/// How many uploads may be under way at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadLimits {
    /// In all.
    pub all: u64,
    /// Of one client.
    pub client: u64,
}

/// An upload to which nothing was ever sent is worth nothing to anybody for longer than that.
const UNUSED: Duration = Duration::from_secs(3600);

/// The uploads under way. Cheap to clone, blocking.
#[derive(Clone)]
pub struct Uploads {
    store: Store,
}

impl Uploads {
    pub(super) fn of(store: &Store) -> Uploads {
        Uploads { store: store.clone() }
    }

    /// Notes an upload that begins, and gives the id by which only its owner knows it: 32 hex digits. It survives the
    /// process, not a power cut. `client` is where it is begun from; `None` if that, or all together, have as many as they may.
    pub fn begin(&self, repository: &str, owner: &str, client: &str, limits: UploadLimits) -> Result<Option<String>> {
        let id = durable::unique_name()?;
        let sql = "INSERT INTO repository_uploads (id, repository, owner, touched_at, client, sent)
                   SELECT ?1, ?2, ?3, ?4, ?5, 0 WHERE (SELECT count(*) FROM repository_uploads) < ?6
                   AND (SELECT count(*) FROM repository_uploads WHERE client = ?5) < ?7";
        let row = (&id, repository, owner, now(), client, signed(limits.all), signed(limits.client));
        let begun = self.store.database().write_relaxed(|db| db.prepare_cached(sql)?.execute(row))?;
        Ok((begun > 0).then_some(id))
    }

    /// An upload under way.
    pub fn find(&self, id: &str) -> Result<Option<UploadInfo>> {
        let sql = "SELECT repository, owner FROM repository_uploads WHERE id = ?1";
        self.store.database().read(|db| {
            db.prepare_cached(sql)?
                .query_row([id], |row| Ok(UploadInfo { repository: row.get(0)?, owner: row.get(1)? }))
                .optional()
        })
    }

    /// Says that an upload goes on; `false` if there is none of that id.
    pub fn touch(&self, id: &str) -> Result<bool> {
        let sql = "UPDATE repository_uploads SET touched_at = ?2, sent = 1 WHERE id = ?1";
        self.store.database().write_relaxed(|db| Ok(db.execute(sql, (id, now()))? > 0))
    }

    /// Forgets an upload; `false` if there was none of that id.
    pub fn end(&self, id: &str) -> Result<bool> {
        self.store
            .database()
            .write_relaxed(|db| Ok(db.execute("DELETE FROM repository_uploads WHERE id = ?1", [id])? > 0))
    }

    /// Forgets the uploads that nobody went on with for as long as `age`, or an hour where nothing was ever sent, and tells
    /// their ids.
    pub fn expire(&self, age: Duration) -> Result<Vec<String>> {
        let before = (super::before(age), super::before(age.min(UNUSED)));
        let sql =
            "DELETE FROM repository_uploads WHERE touched_at <= ?1 OR (sent = 0 AND touched_at <= ?2) RETURNING id";
        self.store.database().write_relaxed(|db| {
            let mut query = db.prepare(sql)?;
            query.query_map(before, |row| row.get(0))?.collect()
        })
    }

    /// How many uploads are under way.
    pub fn count(&self) -> Result<u64> {
        let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        self.store
            .database()
            .read(|db| db.query_row("SELECT count(*) FROM repository_uploads", [], count))
            .map(super::unsigned)
    }
}
