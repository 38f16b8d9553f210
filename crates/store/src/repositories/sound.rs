//! What is wrong with repositories, for a check: rows that lead nowhere, and what is done about them. A link to a blob that
//! is gone is worse than none: whoever pushes is told that it is here, and does not send it.

use brig_oci::{Digest, Document};
use rusqlite::{Connection, params};

use super::{manifests, signed, unsigned};
use crate::error::Result;
use crate::packed::Packed;
use crate::store::Store;

/// One thing that is wrong.
pub(crate) struct Fault {
    /// What: `blob`, `manifest`, `tag`, `repository`.
    pub(crate) kind: &'static str,
    /// Which: `team/app@sha256:…`, `team/app:v1`.
    pub(crate) name: String,
    /// For people.
    pub(crate) why: String,
    /// What a repair does.
    pub(crate) mending: &'static str,
    /// Names that are whole only when they are pushed again.
    pub(crate) push_again: Vec<String>,
    deed: Deed,
}

enum Deed {
    /// All rows of a repository that is not there.
    Leftovers(i64),
    Unlink(i64, String),
    Size(i64, String, u64),
    DropManifest(i64, String),
    Untag(i64, String),
    DropReferences(i64, String),
    Refer(i64, String, Vec<Digest>),
}

/// A row about something with a digest.
struct Row {
    repository: i64,
    name: String,
    digest: String,
    size: u64,
    media_type: String,
}

/// Everything that is wrong; with `full` what manifests name is compared with what is held for them.
pub(crate) fn faults(store: &Store, full: bool) -> Result<Vec<Fault>> {
    let mut faults = store.database().read(leftovers)?;
    for row in rows(store, "SELECT b.repository, r.name, b.digest, b.size, '' FROM repository_blobs b")? {
        faults.extend(blob(store, row)?);
    }
    for row in rows(store, "SELECT b.repository, r.name, b.digest, b.size, b.media_type FROM repository_manifests b")? {
        faults.extend(manifest(store, row, full)?);
    }
    faults.extend(store.database().read(tags_and_references)?);
    Ok(faults)
}

/// The repositories that show a blob.
pub(crate) fn holders(store: &Store, digest: &Digest) -> Result<Vec<String>> {
    let sql = "SELECT r.name FROM repositories r WHERE EXISTS
                 (SELECT 1 FROM repository_blobs b WHERE b.repository = r.id AND b.digest = ?1)
               OR EXISTS (SELECT 1 FROM repository_manifests m WHERE m.repository = r.id AND m.digest = ?1) ORDER BY 1";
    store.database().read(|db| db.prepare(sql)?.query_map([digest.as_str()], |row| row.get(0))?.collect())
}

/// Does what mends a fault.
pub(crate) fn mend(store: &Store, fault: &Fault) -> Result<()> {
    store.database().write(|db| match &fault.deed {
        Deed::Leftovers(id) => TABLES
            .iter()
            .try_for_each(|table| db.execute(&format!("DELETE FROM {table} WHERE repository = ?1"), [id]).map(drop)),
        Deed::Unlink(id, digest) => {
            db.execute("DELETE FROM repository_blobs WHERE repository = ?1 AND digest = ?2", (id, digest)).map(drop)
        }
        Deed::Size(id, digest, size) => {
            let sql = "UPDATE repository_blobs SET size = ?3 WHERE repository = ?1 AND digest = ?2";
            db.execute(sql, (id, digest, signed(*size)))?;
            let sql = "UPDATE repository_manifests SET size = ?3 WHERE repository = ?1 AND digest = ?2";
            db.execute(sql, (id, digest, signed(*size))).map(drop)
        }
        Deed::DropManifest(id, digest) => manifests::forget(db, *id, digest).map(drop),
        Deed::Untag(id, name) => {
            db.execute("DELETE FROM repository_tags WHERE repository = ?1 AND name = ?2", (id, name)).map(drop)
        }
        Deed::DropReferences(id, manifest) => db
            .execute("DELETE FROM repository_references WHERE repository = ?1 AND manifest = ?2", (id, manifest))
            .map(drop),
        Deed::Refer(id, manifest, children) => manifests::refer(db, *id, manifest, children.iter()),
    })
}

/// The tables that say of which repository a row is.
const TABLES: &[&str] = &["repository_blobs", "repository_manifests", "repository_references", "repository_tags"];

fn rows(store: &Store, select: &str) -> Result<Vec<Row>> {
    store.database().read(|db| {
        let mut query = db.prepare(&format!("{select} JOIN repositories r ON r.id = b.repository"))?;
        let row = |row: &rusqlite::Row<'_>| {
            Ok(Row {
                repository: row.get(0)?,
                name: row.get(1)?,
                digest: row.get(2)?,
                size: unsigned(row.get(3)?),
                media_type: row.get(4)?,
            })
        };
        query.query_map([], row)?.collect()
    })
}

fn leftovers(db: &Connection) -> rusqlite::Result<Vec<Fault>> {
    let mut ids = std::collections::BTreeSet::new();
    for table in TABLES {
        let sql =
            format!("SELECT DISTINCT repository FROM {table} WHERE repository NOT IN (SELECT id FROM repositories)");
        for id in db.prepare(&sql)?.query_map([], |row| row.get::<_, i64>(0))? {
            ids.insert(id?);
        }
    }
    let fault = |id| Fault {
        kind: "repository",
        name: format!("#{id}"),
        why: "there are rows of it, but it is gone itself".into(),
        mending: "the rows were removed",
        push_again: Vec::new(),
        deed: Deed::Leftovers(id),
    };
    Ok(ids.into_iter().map(fault).collect())
}

/// How many bytes a blob has, wherever it is kept.
fn size(store: &Store, digest: &str) -> Result<Option<u64>> {
    let Ok(digest) = Digest::parse(digest) else { return Ok(None) };
    match store.blob_size(&digest) {
        Some(size) => Ok(Some(size)),
        None => Packed::of(store).size(&digest),
    }
}

fn blob(store: &Store, row: Row) -> Result<Option<Fault>> {
    let actual = size(store, &row.digest)?;
    if actual == Some(row.size) || !still(store, "repository_blobs", &row)? {
        return Ok(None);
    }
    let name = format!("{}@{}", row.name, row.digest);
    Ok(Some(match actual {
        Some(size) => Fault {
            kind: "blob",
            name,
            why: format!("it has {size} bytes, not {}", row.size),
            mending: "put right",
            push_again: Vec::new(),
            deed: Deed::Size(row.repository, row.digest, size),
        },
        None => Fault {
            kind: "blob",
            name,
            why: "the repository shows it, but it is gone".into(),
            mending: "it is not shown any more, so that it can be pushed again",
            push_again: store.database().read(|db| needing(db, &row))?,
            deed: Deed::Unlink(row.repository, row.digest),
        },
    }))
}

fn manifest(store: &Store, row: Row, full: bool) -> Result<Option<Fault>> {
    let name = format!("{}@{}", row.name, row.digest);
    let digest = Digest::parse(&row.digest).ok();
    let bytes = digest.filter(|digest| store.has_blob(digest)).map(|digest| match full {
        true => store.read_blob(&digest),
        false => Ok(Vec::new()),
    });
    let bytes = match bytes {
        Some(Ok(bytes)) => bytes,
        gone => {
            if !still(store, "repository_manifests", &row)? {
                return Ok(None);
            }
            let why = match gone {
                Some(Err(error)) => error.message,
                _ => "the repository shows it, but it is gone".into(),
            };
            let push_again = store.database().read(|db| tags_of(db, &row.name, row.repository, &row.digest))?;
            return Ok(Some(Fault {
                kind: "manifest",
                name,
                why,
                mending: "it and its tags are not shown any more",
                push_again,
                deed: Deed::DropManifest(row.repository, row.digest),
            }));
        }
    };
    if !full {
        return Ok(None);
    }
    let Ok(document) = Document::parse(&bytes, Some(&row.media_type)) else { return Ok(None) };
    let children: Vec<Digest> = match document {
        Document::Manifest(manifest) => {
            [manifest.config].into_iter().chain(manifest.layers).map(|entry| entry.digest).collect()
        }
        Document::Index(index) => index.manifests.into_iter().map(|entry| entry.digest).collect(),
    };
    let missing: Vec<Digest> = store.database().read(|db| {
        let mut is_loose = db.prepare(
            "SELECT NOT EXISTS (SELECT 1 FROM repository_references WHERE repository = ?1 AND manifest = ?2 AND child = ?3)
             AND (EXISTS (SELECT 1 FROM repository_blobs WHERE repository = ?1 AND digest = ?3)
                  OR EXISTS (SELECT 1 FROM repository_manifests WHERE repository = ?1 AND digest = ?3))",
        )?;
        let mut missing = Vec::new();
        for child in children {
            if is_loose.query_row((row.repository, &row.digest, child.as_str()), |row| row.get(0))? {
                missing.push(child);
            }
        }
        Ok(missing)
    })?;
    if missing.is_empty() || !still(store, "repository_manifests", &row)? {
        return Ok(None);
    }
    Ok(Some(Fault {
        kind: "manifest",
        name,
        why: format!("{} of the blobs that it names are not held for it", missing.len()),
        mending: "they are held again",
        push_again: Vec::new(),
        deed: Deed::Refer(row.repository, row.digest, missing),
    }))
}

fn tags_and_references(db: &Connection) -> rusqlite::Result<Vec<Fault>> {
    let mut faults = Vec::new();
    let mut query = db.prepare(
        "SELECT t.repository, r.name, t.name, t.digest FROM repository_tags t JOIN repositories r ON r.id = t.repository
         WHERE NOT EXISTS (SELECT 1 FROM repository_manifests m WHERE m.repository = t.repository AND m.digest = t.digest)",
    )?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (id, repository, tag, digest): (i64, String, String, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let name = format!("{repository}:{tag}");
        faults.push(Fault {
            kind: "tag",
            name: name.clone(),
            why: format!("it names manifest {digest}, which is gone"),
            mending: "removed",
            push_again: vec![name],
            deed: Deed::Untag(id, tag),
        });
    }
    let mut query = db.prepare(
        "SELECT DISTINCT f.repository, r.name, f.manifest FROM repository_references f
         JOIN repositories r ON r.id = f.repository WHERE NOT EXISTS
         (SELECT 1 FROM repository_manifests m WHERE m.repository = f.repository AND m.digest = f.manifest)",
    )?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (id, repository, manifest): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        faults.push(Fault {
            kind: "manifest",
            name: format!("{repository}@{manifest}"),
            why: "blobs are held for it, but it is gone".into(),
            mending: "they are not held any more",
            push_again: Vec::new(),
            deed: Deed::DropReferences(id, manifest),
        });
    }
    Ok(faults)
}

/// Whether nobody has removed the row meanwhile.
fn still(store: &Store, table: &str, row: &Row) -> Result<bool> {
    let sql = format!("SELECT 1 FROM {table} WHERE repository = ?1 AND digest = ?2");
    store.database().read(|db| db.prepare(&sql)?.exists((row.repository, &row.digest)))
}

/// What has to be pushed again when a blob is gone: the names of the manifests that need it.
fn needing(db: &Connection, row: &Row) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT manifest FROM repository_references WHERE repository = ?1 AND child = ?2 ORDER BY 1";
    let mut query = db.prepare(sql)?;
    let manifests: Vec<String> =
        query.query_map(params![row.repository, row.digest], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut names = Vec::new();
    for manifest in manifests {
        names.extend(tags_of(db, &row.name, row.repository, &manifest)?);
    }
    names.dedup();
    Ok(names)
}

/// The tags of a manifest, or itself if it has none.
fn tags_of(db: &Connection, name: &str, repository: i64, digest: &str) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT name FROM repository_tags WHERE repository = ?1 AND digest = ?2 ORDER BY 1";
    let mut query = db.prepare(sql)?;
    let tags = query.query_map(params![repository, digest], |row| row.get::<_, String>(0))?;
    let mut names: Vec<String> = tags.map(|tag| Ok(format!("{name}:{}", tag?))).collect::<rusqlite::Result<_>>()?;
    if names.is_empty() {
        names.push(format!("{name}@{digest}"));
    }
    Ok(names)
}
