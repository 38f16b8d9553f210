//! The rows of compressed forms. Owns their meaning in SQL. Must not touch files.
//!
//! Rows are written without waiting for the disk: losing the last ones loses forms, never layers.

use brig_oci::Digest;
use rusqlite::OptionalExtension;

use super::Form;
use crate::database::Database;
use crate::error::Result;

const SCHEMA: &[&str] = &[
    "
    CREATE TABLE store_packed (
        digest TEXT PRIMARY KEY, diff_id TEXT NOT NULL, media_type TEXT NOT NULL, size_bytes INTEGER NOT NULL,
        state INTEGER NOT NULL
    ) WITHOUT ROWID;
",
    "CREATE TABLE store_packed_lost (digest TEXT PRIMARY KEY) WITHOUT ROWID;",
];

/// What there is of a form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// The blob; a recipe is still to be looked for.
    Waiting,
    /// A recipe.
    Recipe,
    /// The blob: it has no recipe.
    Blob,
}

/// One form.
pub(super) struct Row {
    pub(super) form: Form,
    pub(super) state: State,
}

impl Row {
    /// Of a blob that has no recipe yet.
    pub(super) fn waiting(digest: &Digest, diff_id: &Digest, media_type: &str, size_bytes: u64) -> Row {
        let (digest, diff_id, media_type) = (digest.clone(), diff_id.clone(), media_type.to_owned());
        Row { form: Form { digest, diff_id, media_type, size_bytes, has_recipe: false }, state: State::Waiting }
    }
}

fn number(state: State) -> i64 {
    match state {
        State::Waiting => 0,
        State::Recipe => 1,
        State::Blob => 2,
    }
}

/// `None` for rows that make no sense: they are as good as none.
fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Row>> {
    let (digest, diff_id): (String, String) = (row.get(0)?, row.get(1)?);
    let (size_bytes, state): (i64, i64) = (row.get(3)?, row.get(4)?);
    let state = match state {
        0 => State::Waiting,
        1 => State::Recipe,
        _ => State::Blob,
    };
    let (Ok(digest), Ok(diff_id)) = (Digest::parse(&digest), Digest::parse(&diff_id)) else { return Ok(None) };
    let size_bytes = u64::try_from(size_bytes).unwrap_or_default();
    let has_recipe = state == State::Recipe;
    Ok(Some(Row { form: Form { digest, diff_id, media_type: row.get(2)?, size_bytes, has_recipe }, state }))
}

const COLUMNS: &str = "digest, diff_id, media_type, size_bytes, state";

pub(super) fn migrate(database: &Database) -> Result<()> {
    database.migrate("packed", SCHEMA)
}

pub(super) fn all(database: &Database) -> Result<Vec<Row>> {
    database.read(|db| {
        let mut query = db.prepare(&format!("SELECT {COLUMNS} FROM store_packed"))?;
        query.query_map([], row)?.filter_map(rusqlite::Result::transpose).collect()
    })
}

/// The forms of a layer.
pub(super) fn of_layer(database: &Database, diff_id: &Digest) -> Result<Vec<Form>> {
    forms(database, "diff_id = ?1", [diff_id.as_str()])
}

pub(super) fn find(database: &Database, digest: &Digest) -> Result<Option<Row>> {
    let sql = format!("SELECT {COLUMNS} FROM store_packed WHERE digest = ?1");
    Ok(database.read(|db| db.query_row(&sql, [digest.as_str()], row).optional())?.flatten())
}

pub(super) fn insert(database: &Database, row: &Row) -> Result<()> {
    let Form { digest, diff_id, media_type, size_bytes, .. } = &row.form;
    let size = i64::try_from(*size_bytes).unwrap_or(i64::MAX);
    let sql = format!("INSERT OR REPLACE INTO store_packed ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5)");
    database.write_relaxed(|db| {
        db.execute("DELETE FROM store_packed_lost WHERE digest = ?1", [digest.as_str()])?;
        db.execute(&sql, (digest.as_str(), diff_id.as_str(), media_type, size, number(row.state))).map(drop)
    })
}

/// Sets the state of a form that was waiting; `false` if it is gone.
pub(super) fn settle(database: &Database, digest: &Digest, state: State) -> Result<bool> {
    let sql = "UPDATE store_packed SET state = ?2 WHERE digest = ?1 AND state = 0";
    // Durable: afterwards the blob goes.
    database.write(|db| Ok(db.execute(sql, (digest.as_str(), number(state)))? == 1))
}

pub(super) fn delete(database: &Database, digests: &[Digest]) -> Result<()> {
    database.write_relaxed(|db| {
        let mut delete = db.prepare("DELETE FROM store_packed WHERE digest = ?1")?;
        digests.iter().try_for_each(|digest| delete.execute([digest.as_str()]).map(drop))
    })
}

/// Takes out a form that was damaged, and notes that it was here: a pull brings it back.
pub(super) fn lose(database: &Database, digest: &Digest) -> Result<()> {
    database.write_relaxed(|db| {
        db.execute("DELETE FROM store_packed WHERE digest = ?1", [digest.as_str()])?;
        db.execute("INSERT OR REPLACE INTO store_packed_lost (digest) VALUES (?1)", [digest.as_str()]).map(drop)
    })
}

/// Whether a form was lost.
pub(super) fn is_lost(database: &Database, digest: &Digest) -> Result<bool> {
    database
        .read(|db| db.prepare_cached("SELECT 1 FROM store_packed_lost WHERE digest = ?1")?.exists([digest.as_str()]))
}

/// The forms that were lost.
pub(super) fn lost(database: &Database) -> Result<Vec<Digest>> {
    database.read(|db| {
        let mut query = db.prepare("SELECT digest FROM store_packed_lost")?;
        let lost: Vec<String> = query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok(lost.iter().filter_map(|digest| Digest::parse(digest).ok()).collect())
    })
}

/// Forgets that these were lost.
pub(super) fn unlose(database: &Database, digests: &[Digest]) -> Result<()> {
    database.write_relaxed(|db| {
        let mut delete = db.prepare("DELETE FROM store_packed_lost WHERE digest = ?1")?;
        digests.iter().try_for_each(|digest| delete.execute([digest.as_str()]).map(drop))
    })
}

/// The forms that wait for a recipe.
pub(super) fn waiting(database: &Database) -> Result<Vec<Form>> {
    forms(database, "state = ?1", [number(State::Waiting)])
}

fn forms(database: &Database, condition: &str, parameters: impl rusqlite::Params) -> Result<Vec<Form>> {
    let sql = format!("SELECT {COLUMNS} FROM store_packed WHERE {condition}");
    database.read(|db| {
        let mut query = db.prepare_cached(&sql)?;
        query.query_map(parameters, row)?.filter_map(rusqlite::Result::transpose).map(|row| Ok(row?.form)).collect()
    })
}

/// The layers with this diff id that are not marked as damaged.
pub(super) fn chains(database: &Database, diff_id: &Digest) -> Result<Vec<Digest>> {
    database.read(|db| {
        let mut query = db.prepare(
            "SELECT chain_id FROM store_layers WHERE diff_id = ?1 AND chain_id NOT IN (SELECT chain_id FROM store_damaged)",
        )?;
        let chains: Vec<String> =
            query.query_map([diff_id.as_str()], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok(chains.iter().filter_map(|chain| Digest::parse(chain).ok()).collect())
    })
}
