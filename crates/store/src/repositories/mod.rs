//! Repositories of a registry: which manifests, tags and blobs each of them shows, and which uploads are under way.
//!
//! A blob is kept once and shown only by the repositories that link it. A manifest holds the blobs that it names: their links
//! stay while it does; a link that no manifest holds is dropped when it has not been spoken of for a while, and at the next
//! collection if it has not been since the manifest was pushed that held it and is deleted now.
//! Owns the tables `repository_*`; everything in them is decided in a transaction, so that a push beside a collection sees
//! either all of a thing or nothing. Must not know HTTP, nor who may do what.

pub(crate) mod found;
mod images;
mod listing;
mod manifests;
pub(crate) mod sound;
mod uploads;

use std::collections::HashSet;
use std::time::Duration;

use brig_oci::Digest;
use rusqlite::{OptionalExtension, Transaction};

use crate::database::Database;
use crate::error::Result;
use crate::lease::Lease;
use crate::packed::Packed;
use crate::store::Store;

pub(crate) use images::forget_image;
pub use listing::{Referrer, Referrers};
pub use manifests::{ManifestInfo, NewManifest, PutManifest, Referenced, Source};
pub use uploads::{UploadInfo, UploadLimits, Uploads};

/// What the names of uploads' bytes begin with among the unfinished blobs; their id follows.
pub const UPLOAD: &str = "upload-";

pub(crate) const SCHEMA: &[&str] = &[
    "
    CREATE TABLE repositories (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL);
    CREATE TABLE repository_blobs (
        repository INTEGER NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, seen_at INTEGER NOT NULL,
        PRIMARY KEY (repository, digest)
    ) WITHOUT ROWID;
    CREATE INDEX repository_blobs_by_digest ON repository_blobs (digest);
    CREATE TABLE repository_manifests (
        repository INTEGER NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL,
        pushed_at INTEGER NOT NULL, subject TEXT, artifact_type TEXT, annotations TEXT,
        PRIMARY KEY (repository, digest)
    );
    CREATE INDEX repository_referrers ON repository_manifests (repository, subject, digest) WHERE subject IS NOT NULL;
    CREATE TABLE repository_references (
        repository INTEGER NOT NULL, manifest TEXT NOT NULL, child TEXT NOT NULL,
        PRIMARY KEY (repository, manifest, child)
    ) WITHOUT ROWID;
    CREATE INDEX repository_references_by_child ON repository_references (repository, child);
    CREATE TABLE repository_tags (
        repository INTEGER NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, updated_at INTEGER NOT NULL,
        PRIMARY KEY (repository, name)
    ) WITHOUT ROWID;
    CREATE INDEX repository_tags_by_digest ON repository_tags (repository, digest);
    CREATE TABLE repository_uploads (
        id TEXT PRIMARY KEY, repository TEXT NOT NULL, owner TEXT NOT NULL, touched_at INTEGER NOT NULL
    ) WITHOUT ROWID;
",
    // Times in microseconds, so that they tell what came first.
    "
    UPDATE repositories SET created_at = created_at * 1000000;
    UPDATE repository_blobs SET seen_at = seen_at * 1000000;
    UPDATE repository_manifests SET pushed_at = pushed_at * 1000000;
    UPDATE repository_tags SET updated_at = updated_at * 1000000;
    UPDATE repository_uploads SET touched_at = touched_at * 1000000;
",
    "CREATE INDEX repository_tags_in_order ON repository_tags (repository, name COLLATE NOCASE, name);",
    // How many were told that the blob is there, in an upload, a mount or a question, and have not pushed a manifest yet.
    "ALTER TABLE repository_blobs ADD COLUMN told INTEGER NOT NULL DEFAULT 0;",
    // Who began an upload, and whether anything was sent to it.
    "
    ALTER TABLE repository_uploads ADD COLUMN client TEXT NOT NULL DEFAULT '';
    ALTER TABLE repository_uploads ADD COLUMN sent INTEGER NOT NULL DEFAULT 1;
    CREATE INDEX repository_uploads_by_client ON repository_uploads (client);
",
];

/// Who was told that a blob is there has so long to push a manifest that names it, whatever becomes of others that do.
const TOLD: Duration = Duration::from_secs(3600);

/// The repositories of a store. Cheap to clone, blocking.
#[derive(Clone)]
pub struct Repositories {
    store: Store,
}

/// What became of the wish to take something out of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It is gone.
    Gone,
    /// It was not there.
    Absent,
    /// A manifest of the repository needs it.
    InUse,
}

impl Repositories {
    /// The repositories that a registry over `store` shows.
    pub fn of(store: &Store) -> Repositories {
        Repositories { store: store.clone() }
    }

    /// The uploads under way.
    pub fn uploads(&self) -> Uploads {
        Uploads::of(&self.store)
    }

    /// Whether there is such a repository. It is made by the first thing that it is given, and stays when that is deleted.
    pub fn exists(&self, repository: &str) -> Result<bool> {
        self.database().read(|db| Ok(find(db, repository)?.is_some()))
    }

    /// Shows a blob in a repository; durable when this returns. The blob must be in the store, and if nothing else leads to
    /// it yet the caller holds the [lease](crate::Lease) under which it arrived.
    pub fn link_blob(&self, repository: &str, digest: &Digest, size: u64) -> Result<()> {
        self.database().write(|db| show(db, repository, digest, size).map(drop))
    }

    /// Shows a blob in a repository because one of its manifests names it that was [here](Source::Here), if it does not show it
    /// already: nobody waits for it.
    pub fn show_blob(&self, repository: &str, digest: &Digest, size: u64) -> Result<()> {
        self.database().write(|db| {
            let id = find_or_make(db, repository)?;
            let sql =
                "INSERT OR IGNORE INTO repository_blobs (repository, digest, size, seen_at) VALUES (?1, ?2, ?3, 0)";
            db.execute(sql, (id, digest.as_str(), signed(size))).map(drop)
        })
    }

    /// The size in bytes of a blob that this repository shows.
    pub fn blob_size(&self, repository: &str, digest: &Digest) -> Result<Option<u64>> {
        let sql = "SELECT b.size FROM repository_blobs b JOIN repositories r ON r.id = b.repository
                   WHERE r.name = ?1 AND b.digest = ?2";
        self.database()
            .read(|db| db.query_row(sql, (repository, digest.as_str()), |row| row.get::<_, i64>(0)).optional())
            .map(|size| size.map(unsigned))
    }

    /// As [`Repositories::blob_size`], for somebody who may rely on the answer: the blob is not collected for as long as if
    /// it had just been pushed. With `again` it is somebody who was told before and has not come to the manifest yet.
    pub fn promise_blob(&self, repository: &str, digest: &Digest, again: bool) -> Result<Option<u64>> {
        let Some(size) = self.blob_size(repository, digest)? else { return Ok(None) };
        let sql = format!(
            "UPDATE repository_blobs SET told = CASE WHEN ?5 THEN told ELSE {ONE_MORE} END, seen_at = ?3
             WHERE digest = ?2 AND repository = (SELECT id FROM repositories WHERE name = ?1)"
        );
        let now = now();
        let known = self
            .database()
            .write_relaxed(|db| db.execute(&sql, (repository, digest.as_str(), now, since(now), again)))?;
        Ok((known > 0).then_some(size))
    }

    /// As [`Repositories::promise_blob`], of a blob that the repository shows through something else: from now on for its own sake as
    /// well. `false` if what it is shown through has gone meanwhile, and the blob with it. Does not wait for the disk: after a power
    /// cut it is shown as before.
    pub fn promise_shown(&self, repository: &str, digest: &Digest, size: u64) -> Result<bool> {
        let told_at = self.database().write_relaxed(|db| show(db, repository, digest, size))?;
        self.stays(repository, digest, told_at)
    }

    /// As [`Repositories::promise_shown`], in a repository that did not show the blob; durable when this returns.
    pub fn mount_shown(&self, to: &str, digest: &Digest, size: u64) -> Result<bool> {
        let told_at = self.database().write(|db| show(db, to, digest, size))?;
        self.stays(to, digest, told_at)
    }

    /// Whether a blob is there, which a repository shows since a moment. If not it is not shown.
    fn stays(&self, repository: &str, digest: &Digest, told_at: i64) -> Result<bool> {
        // A collection that has not seen the row ends before this does; later ones see it.
        Lease::begin(&self.store).hold(digest);
        let is_there = match self.store.blob_size(digest) {
            Some(_) => true,
            None => Packed::of(&self.store).size(digest)?.is_some(),
        };
        if !is_there {
            let sql = "DELETE FROM repository_blobs AS b WHERE digest = ?2 AND seen_at = ?3
                       AND repository = (SELECT id FROM repositories WHERE name = ?1) AND NOT EXISTS
                       (SELECT 1 FROM repository_references f WHERE f.repository = b.repository AND f.child = b.digest)";
            self.database().write_relaxed(|db| db.execute(sql, (repository, digest.as_str(), told_at)))?;
        }
        Ok(is_there)
    }

    /// Shows in `to` a blob that one of the repositories which `may_read` allows shows already; `from`, or if that is none any.
    /// Tells whether that could be done; durable when this returns.
    pub fn mount_blob(
        &self,
        from: Option<&str>,
        to: &str,
        digest: &Digest,
        may_read: impl Fn(&str) -> bool,
    ) -> Result<Option<u64>> {
        self.database().write(|db| {
            let mut sources = db.prepare(
                "SELECT r.name, b.size FROM repository_blobs b JOIN repositories r ON r.id = b.repository
                 WHERE b.digest = ?1 AND (?2 IS NULL OR r.name = ?2)",
            )?;
            let mut rows = sources.query((digest.as_str(), from))?;
            while let Some(row) = rows.next()? {
                let (name, size): (String, i64) = (row.get(0)?, row.get(1)?);
                if may_read(&name) {
                    let id = find_or_make(db, to)?;
                    link(db, id, digest.as_str(), size)?;
                    return Ok(Some(unsigned(size)));
                }
            }
            Ok(None)
        })
    }

    /// Hides a blob from a repository, unless one of its manifests needs it; durable when this returns.
    pub fn unlink_blob(&self, repository: &str, digest: &Digest) -> Result<Removed> {
        self.database().write(|db| {
            let Some(id) = find(db, repository)? else { return Ok(Removed::Absent) };
            let sql = "SELECT EXISTS (SELECT 1 FROM repository_references WHERE repository = ?1 AND child = ?2)";
            if db.query_row(sql, (id, digest.as_str()), |row| row.get(0))? {
                return Ok(Removed::InUse);
            }
            let sql = "DELETE FROM repository_blobs WHERE repository = ?1 AND digest = ?2";
            Ok(if db.execute(sql, (id, digest.as_str()))? > 0 { Removed::Gone } else { Removed::Absent })
        })
    }

    /// Hides blobs that no manifest of their repository names and that nobody pushed, mounted or was told of for `grace`.
    /// With `untagged`, manifests go before them that have no tag, are in no index, are about nothing that is there, and were
    /// pushed longer ago than that. Tells how many blobs and manifests. What is hidden everywhere goes with the next
    /// collection ([`Store::gc`]). The manifests in `named` count as having a tag: repository and digest.
    pub fn tidy(&self, grace: Duration, untagged: bool, named: &[(String, Digest)]) -> Result<(usize, usize)> {
        let before = before(grace);
        self.database().write(|db| {
            note_named(db, named)?;
            let mut manifests = 0;
            // An index gone sets what it listed free.
            let mut again = untagged;
            while again {
                let gone = db.execute(
                    "DELETE FROM repository_manifests AS m WHERE pushed_at <= ?1
                     AND NOT EXISTS (SELECT 1 FROM repository_tags t WHERE t.repository = m.repository AND t.digest = m.digest)
                     AND NOT EXISTS (SELECT 1 FROM temp.named n WHERE n.repository = m.repository AND n.digest IN (m.digest, m.subject))
                     AND NOT EXISTS (SELECT 1 FROM repository_references f
                                     WHERE f.repository = m.repository AND f.child = m.digest)
                     AND NOT EXISTS (SELECT 1 FROM repository_manifests s
                                     WHERE s.repository = m.repository AND s.digest = m.subject)",
                    [before],
                )?;
                again = gone > 0;
                manifests += gone;
                db.execute(
                    "DELETE FROM repository_references AS f WHERE NOT EXISTS
                     (SELECT 1 FROM repository_manifests m WHERE m.repository = f.repository AND m.digest = f.manifest)",
                    [],
                )?;
            }
            let blobs = db.execute(
                "DELETE FROM repository_blobs AS b WHERE seen_at <= ?1 AND NOT EXISTS
                 (SELECT 1 FROM repository_references f WHERE f.repository = b.repository AND f.child = b.digest)",
                [before],
            )?;
            Ok((blobs, manifests))
        })
    }

    fn database(&self) -> &Database {
        self.store.database()
    }
}

/// The blobs that nothing names any more and nobody has spoken of since.
const ABANDONED: &str = "FROM repository_blobs AS b WHERE seen_at = 0 AND NOT EXISTS
                         (SELECT 1 FROM repository_references f WHERE f.repository = b.repository AND f.child = b.digest)";

fn has_abandoned(store: &Store) -> Result<bool> {
    store.database().read(|db| db.prepare_cached(&format!("SELECT 1 {ABANDONED} LIMIT 1"))?.exists([]))
}

/// Hides blobs of manifests that were deleted, if nobody has spoken of them since; part of a collection.
pub(crate) fn hide_abandoned(store: &Store) -> Result<()> {
    match has_abandoned(store)? {
        true => store.database().write(|db| db.execute(&format!("DELETE {ABANDONED}"), []).map(drop)),
        false => Ok(()),
    }
}

/// The blobs that repositories would show if these images were removed and what nothing leads to collected. Changes nothing.
pub(crate) fn left_without(store: &Store, images: &[Digest]) -> Result<HashSet<Digest>> {
    let shown = live_blobs(store)?;
    if shown.is_empty() {
        return Ok(shown);
    }
    let named: HashSet<String> = store.database().read(|db| {
        let mut query = db.prepare("SELECT DISTINCT child FROM repository_references")?;
        query.query_map([], |row| row.get(0))?.collect()
    })?;
    let images: Vec<&Digest> = images.iter().filter(|image| named.contains(image.as_str())).collect();
    if images.is_empty() && !has_abandoned(store)? {
        return Ok(shown);
    }
    // Done and taken back: nobody else sees it. Writers wait meanwhile, which is why it is done only if something would go.
    store.database().write_relaxed(|db| {
        db.execute_batch("SAVEPOINT without")?;
        let left = || {
            images.iter().try_for_each(|image| forget_image(db, image))?;
            db.execute(&format!("DELETE {ABANDONED}"), [])?;
            shown_blobs(db)
        };
        let left = left();
        db.execute_batch("ROLLBACK TO without; RELEASE without")?;
        left
    })
}

/// Writes down, for this connection only, which manifests have names that are not in the tables.
fn note_named(db: &Transaction<'_>, named: &[(String, Digest)]) -> rusqlite::Result<()> {
    db.execute_batch(
        "CREATE TEMP TABLE IF NOT EXISTS named (repository INTEGER, digest TEXT, PRIMARY KEY (repository, digest));
         DELETE FROM temp.named;",
    )?;
    let mut note = db.prepare(
        "INSERT OR IGNORE INTO temp.named (repository, digest) SELECT id, ?2 FROM repositories WHERE name = ?1",
    )?;
    named.iter().try_for_each(|(repository, digest)| note.execute((repository, digest.as_str())).map(drop))
}

/// Every blob that some repository shows.
pub(crate) fn live_blobs(store: &Store) -> Result<HashSet<Digest>> {
    store.database().read(shown_blobs)
}

fn shown_blobs(db: &rusqlite::Connection) -> rusqlite::Result<HashSet<Digest>> {
    let sql = "SELECT digest FROM repository_blobs UNION SELECT digest FROM repository_manifests";
    let mut query = db.prepare_cached(sql)?;
    let mut rows = query.query([])?;
    let mut live = HashSet::new();
    while let Some(row) = rows.next()? {
        live.extend(Digest::parse(&row.get::<_, String>(0)?));
    }
    Ok(live)
}

fn find(db: &rusqlite::Connection, repository: &str) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT id FROM repositories WHERE name = ?1")?
        .query_row([repository], |row| row.get(0))
        .optional()
}

fn find_or_make(db: &Transaction<'_>, repository: &str) -> rusqlite::Result<i64> {
    if let Some(id) = find(db, repository)? {
        return Ok(id);
    }
    db.execute("INSERT INTO repositories (name, created_at) VALUES (?1, ?2)", (repository, now()))?;
    Ok(db.last_insert_rowid())
}

/// Shows a blob in a repository, which need not be there yet; see [`link`].
fn show(db: &Transaction<'_>, repository: &str, digest: &Digest, size: u64) -> rusqlite::Result<i64> {
    let id = find_or_make(db, repository)?;
    link(db, id, digest.as_str(), signed(size))
}

/// The new number of those who were told of a blob of which somebody is told at `?3`; what was said before `?4` counts no more.
const ONE_MORE: &str = "CASE WHEN seen_at > ?4 THEN told + 1 ELSE 1 END";

/// Shows a blob, to somebody who may rely on it; when that was.
fn link(db: &Transaction<'_>, repository: i64, digest: &str, size: i64) -> rusqlite::Result<i64> {
    let now = now();
    let sql = format!(
        "INSERT INTO repository_blobs (repository, digest, size, seen_at, told) VALUES (?1, ?2, ?5, ?3, 1)
         ON CONFLICT (repository, digest) DO UPDATE SET told = {ONE_MORE}, seen_at = excluded.seen_at"
    );
    db.execute(&sql, (repository, digest, now, since(now), size))?;
    Ok(now)
}

/// What was told before then is not relied on any more.
fn since(now: i64) -> i64 {
    now.saturating_sub(micros(TOLD))
}

/// Microseconds since 1970.
fn now() -> i64 {
    micros(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default())
}

/// The moment so long ago.
fn before(age: Duration) -> i64 {
    now().saturating_sub(micros(age))
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::sha256_of;

    #[test]
    fn what_was_just_pushed_stays_that_when_it_is_shown_for_another_reason() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let repositories = Repositories::of(&store);
        let (digest, grace) = (sha256_of(b"{}"), Duration::from_secs(60));
        let put = |source| {
            let new = NewManifest {
                source,
                digest: &digest,
                bytes: b"{}",
                media_type: "application/vnd.oci.image.manifest.v1+json",
                blobs: &[],
                manifests: &[],
                subject: None,
                artifact_type: None,
                annotations: &std::collections::BTreeMap::new(),
            };
            assert_eq!(repositories.put_manifest("a", &new, &[]).unwrap(), PutManifest::Done);
        };
        for (sources, collected) in [(&[Source::Push, Source::Here][..], 0), (&[Source::Here], 1)] {
            repositories.delete_manifest("a", &digest).unwrap();
            sources.iter().for_each(|source| put(*source));
            assert_eq!(repositories.tidy(grace, true, &[]).unwrap(), (0, collected), "{sources:?}");
        }
    }

    /// What takes room is asked of a busy registry, too: nobody waits for the other.
    #[test]
    fn what_would_be_left_is_found_beside_a_writer_where_nothing_would_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let digest = store.put_blob(b"blob").unwrap();
        Repositories::of(&store).link_blob("a", &digest, 4).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let asked = store.clone();
        store
            .database()
            .write(|_| {
                let find = move || tell.send(left_without(&asked, &[sha256_of(b"image")]).unwrap());
                let thread = std::thread::spawn(find);
                let left = told.recv_timeout(Duration::from_secs(20)).expect("it waits for the writer");
                assert_eq!(left, HashSet::from([digest.clone()]));
                drop(thread);
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn tables_of_an_older_program_are_brought_up_to_date() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let digest = store.put_blob(b"blob").unwrap();
        let repositories = Repositories::of(&store);
        repositories.link_blob("a", &digest, 4).unwrap();
        // As it was when times were in seconds.
        let (seconds, grace) = (now() / 1_000_000, Duration::from_secs(60));
        store
            .database()
            .write(|db| {
                db.execute_batch(
                    "DROP INDEX repository_tags_in_order; ALTER TABLE repository_blobs DROP COLUMN told;
                     DROP INDEX repository_uploads_by_client; ALTER TABLE repository_uploads DROP COLUMN client;
                     ALTER TABLE repository_uploads DROP COLUMN sent",
                )?;
                db.execute("UPDATE repository_blobs SET seen_at = ?1", [seconds])?;
                db.execute("UPDATE migrations SET version = 1 WHERE name = 'repositories'", []).map(drop)
            })
            .unwrap();
        drop((store, repositories));
        let store = Store::open(dir.path()).unwrap();
        let repositories = Repositories::of(&store);
        repositories.tidy(grace, false, &[]).unwrap();
        assert_eq!(repositories.blob_size("a", &digest).unwrap(), Some(4), "it was spoken of just now");
        let sql = "EXPLAIN QUERY PLAN SELECT name FROM repository_tags
                   WHERE repository = 1 AND name COLLATE NOCASE >= 'a' ORDER BY name COLLATE NOCASE, name";
        let plan: String = store.database().read(|db| db.query_row(sql, [], |row| row.get(3))).unwrap();
        assert!(plan.contains("repository_tags_in_order"), "{plan}");
    }
}
