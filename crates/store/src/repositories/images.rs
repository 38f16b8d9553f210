//! What repositories have to do with images of the same store: a manifest of which an image was made under a name need not
//! be shown by a repository for its own sake, and one whose image is removed is not shown any more.
//! Must not decide what an image is called.

use brig_oci::Digest;
use rusqlite::Transaction;

use super::{manifests, now, since};

/// Hides, everywhere, the manifests of an image, which is about to be removed.
pub(crate) fn forget_image(db: &Transaction<'_>, image: &Digest) -> rusqlite::Result<()> {
    let sql = "SELECT f.repository, f.manifest FROM repository_references f WHERE f.child = ?1";
    let mut query = db.prepare(sql)?;
    let rows = query.query_map([image.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let shown: Vec<(i64, String)> = rows.collect::<rusqlite::Result<_>>()?;
    shown.into_iter().try_for_each(|(repository, manifest)| hide(db, repository, &manifest))
}

/// Takes a manifest out of a repository, with its tags and the links that only it held. What was spoken of after it was pushed
/// stays: another push may rely on it.
pub(super) fn hide(db: &Transaction<'_>, repository: i64, manifest: &str) -> rusqlite::Result<()> {
    let_go(db, repository, manifest)?;
    db.execute(
        "DELETE FROM repository_blobs AS b WHERE repository = ?1 AND seen_at = 0
         AND EXISTS (SELECT 1 FROM repository_references f
                     WHERE f.repository = ?1 AND f.manifest = ?2 AND f.child = b.digest)
         AND NOT EXISTS (SELECT 1 FROM repository_references f
                         WHERE f.repository = ?1 AND f.manifest <> ?2 AND f.child = b.digest)",
        (repository, manifest),
    )?;
    manifests::forget(db, repository, manifest).map(drop)
}

/// Says of the blobs that a manifest names, and that were not spoken of since it was pushed nor to anybody who has not pushed a
/// manifest since, that nobody waits for them: what nothing else holds when it is gone may go.
pub(super) fn let_go(db: &Transaction<'_>, repository: i64, manifest: &str) -> rusqlite::Result<()> {
    let sql = "UPDATE repository_blobs SET seen_at = 0, told = 0 WHERE repository = ?1 AND (told = 0 OR seen_at <= ?3)
               AND seen_at <= (SELECT pushed_at FROM repository_manifests WHERE repository = ?1 AND digest = ?2)
               AND digest IN (SELECT child FROM repository_references WHERE repository = ?1 AND manifest = ?2)";
    db.execute(sql, (repository, manifest, since(now()))).map(drop)
}

/// Somebody has pushed a manifest: of those who were told of the blobs that it names there is one less who still has to.
pub(super) fn came(db: &Transaction<'_>, repository: i64, manifest: &str) -> rusqlite::Result<()> {
    let sql = "UPDATE repository_blobs SET told = told - 1 WHERE repository = ?1 AND told > 0
               AND digest IN (SELECT child FROM repository_references WHERE repository = ?1 AND manifest = ?2)";
    db.execute(sql, (repository, manifest)).map(drop)
}
