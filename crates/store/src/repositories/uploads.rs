//! Uploads under way: which repository each is for and who began it. Their bytes are partial files of the store.
//! Must not touch those.

use std::time::Duration;

use rusqlite::OptionalExtension;

use super::now;
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
    /// process, not a power cut.
    pub fn begin(&self, repository: &str, owner: &str) -> Result<String> {
        let id = durable::unique_name()?;
        let sql = "INSERT INTO repository_uploads (id, repository, owner, touched_at) VALUES (?1, ?2, ?3, ?4)";
        self.store.database().write_relaxed(|db| db.execute(sql, (&id, repository, owner, now())).map(drop))?;
        Ok(id)
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
        let sql = "UPDATE repository_uploads SET touched_at = ?2 WHERE id = ?1";
        self.store.database().write_relaxed(|db| Ok(db.execute(sql, (id, now()))? > 0))
    }

    /// Forgets an upload; `false` if there was none of that id.
    pub fn end(&self, id: &str) -> Result<bool> {
        self.store
            .database()
            .write_relaxed(|db| Ok(db.execute("DELETE FROM repository_uploads WHERE id = ?1", [id])? > 0))
    }

    /// Forgets the uploads that nobody went on with for as long as `age`, and tells their ids.
    pub fn expire(&self, age: Duration) -> Result<Vec<String>> {
        let before = super::before(age);
        let sql = "DELETE FROM repository_uploads WHERE touched_at <= ?1 RETURNING id";
        self.store.database().write_relaxed(|db| {
            let mut query = db.prepare(sql)?;
            query.query_map([before], |row| row.get(0))?.collect()
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
