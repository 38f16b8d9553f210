//! What a registry's lost database knew of, found again by what it is: manifests say which blobs are theirs. What they were
//! called is lost, so they are shown in a repository of their own until somebody has looked at them.
//! Must not touch what something else leads to, nor take anything away by itself.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use brig_oci::{Digest, Document};
use serde_json::Value;

use super::manifests::{NewManifest, Source};
use super::{Repositories, before, find};
use crate::collect;
use crate::error::Result;
use crate::packed::Packed;
use crate::store::Store;

/// The repository.
pub(crate) const LOST_AND_FOUND: &str = "lost-and-found";
/// What the tags begin with that are given there; the beginning of the digest follows.
const TAG: &str = "lost-";
/// An explicit prune takes what has been shown there for so long.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A manifest that nothing leads to.
struct Found {
    media_type: String,
    blobs: Vec<Digest>,
    manifests: Vec<Digest>,
    subject: Option<Digest>,
    artifact_type: Option<String>,
    annotations: BTreeMap<String, String>,
}

/// Takes up what nothing leads to after the database was lost: all of it would go with the next collection.
pub(crate) fn take_up(store: &Store) -> Result<()> {
    // If one of those cannot be read, what it leads to is shown here as well.
    let mut live = collect::live_blobs(store, &store.catalog()).unwrap_or_else(|error| {
        tracing::error!("it is not known what images lead to: {error}");
        HashSet::new()
    });
    live.extend(super::live_blobs(store)?);
    let (mut found, mut others) = (HashMap::new(), HashMap::new());
    collect::each_blob(store, &mut |_, digest, size| {
        if live.contains(&digest) {
            return Ok(());
        }
        let bytes = if size <= crate::MAX_BLOB_SIZE { store.read_blob(&digest).ok() } else { None };
        match bytes.and_then(|bytes| read(&bytes)) {
            Some(manifest) => drop(found.insert(digest, manifest)),
            None => drop(others.insert(digest, size)),
        }
        Ok(())
    })?;
    if found.is_empty() && others.is_empty() {
        return Ok(());
    }
    // An index is shown with what it lists, also where that is an image's.
    let mut listed: Vec<Digest> = found.values().flat_map(|manifest| manifest.manifests.clone()).collect();
    while let Some(digest) = listed.pop() {
        if !found.contains_key(&digest)
            && let Some(manifest) = store.read_blob(&digest).ok().and_then(|bytes| read(&bytes))
        {
            listed.extend(manifest.manifests.iter().cloned());
            found.insert(digest, manifest);
        }
    }
    let repositories = Repositories::of(store);
    let named: HashSet<&Digest> = found.values().flat_map(|manifest| manifest.blobs.iter()).collect();
    let strays = others.keys().filter(|digest| !named.contains(digest)).count();
    for (digest, size) in &others {
        repositories.link_blob(LOST_AND_FOUND, digest, *size)?;
    }
    let listed: HashSet<&Digest> = found.values().flat_map(|manifest| manifest.manifests.iter()).collect();
    for (digest, manifest) in &found {
        // What is somewhere else as well: other repositories show it, or it is a form of a layer.
        for blob in manifest.blobs.iter().filter(|blob| !others.contains_key(blob)) {
            if let Some(size) = store.blob_size(blob).or(Packed::of(store).size(blob)?) {
                repositories.show_blob(LOST_AND_FOUND, blob, size)?;
            }
        }
        let new = NewManifest {
            source: Source::Registry,
            digest,
            bytes: &store.read_blob(digest)?,
            media_type: &manifest.media_type,
            blobs: &manifest.blobs,
            manifests: &manifest.manifests,
            subject: manifest.subject.as_ref(),
            artifact_type: manifest.artifact_type.as_deref(),
            annotations: &manifest.annotations,
        };
        // What belongs to another one is found by that.
        let is_part = listed.contains(digest) || manifest.subject.as_ref().is_some_and(|of| found.contains_key(of));
        let tags = if is_part { Vec::new() } else { vec![format!("{TAG}{}", digest.short())] };
        repositories.put_manifest(LOST_AND_FOUND, &new, &tags)?;
    }
    tracing::error!(
        "{} manifests that no name leads to any more are kept in the repository {LOST_AND_FOUND}, with their blobs; so are {strays} \
         blobs that none of them names, of pushes that have not come to their end",
        found.len()
    );
    Ok(())
}

/// What a blob is, if it is a manifest or an index.
fn read(bytes: &[u8]) -> Option<Found> {
    let document = Document::parse(bytes, None).ok()?;
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let subject = value["subject"]["digest"].as_str().and_then(|digest| Digest::parse(digest).ok());
    let artifact_type = text(&value["artifactType"]);
    Some(match document {
        Document::Index(index) => Found {
            media_type: index.media_type,
            blobs: Vec::new(),
            manifests: index.manifests.into_iter().map(|entry| entry.digest).collect(),
            subject,
            artifact_type,
            annotations: index.annotations,
        },
        Document::Manifest(manifest) => Found {
            media_type: manifest.media_type,
            artifact_type: artifact_type.or(Some(manifest.config.media_type)),
            blobs: std::iter::once(manifest.config.digest)
                .chain(manifest.layers.into_iter().map(|layer| layer.digest))
                .collect(),
            manifests: Vec::new(),
            subject,
            annotations: manifest.annotations,
        },
    })
}

/// How many manifests are shown there.
pub(crate) fn count(store: &Store) -> Result<u64> {
    let sql =
        "SELECT count(*) FROM repository_manifests m JOIN repositories r ON r.id = m.repository WHERE r.name = ?1";
    store.database().read(|db| db.query_row(sql, [LOST_AND_FOUND], |row| row.get::<_, i64>(0)).map(super::unsigned))
}

/// Takes away what has been shown there for long; part of an explicit prune.
pub(crate) fn prune(store: &Store) -> Result<()> {
    if count(store)? == 0 {
        return Ok(());
    }
    let old = before(KEPT);
    store.database().write(|db| {
        let Some(id) = find(db, LOST_AND_FOUND)? else { return Ok(()) };
        let stays: bool = db.query_row(
            "SELECT EXISTS (SELECT 1 FROM repository_manifests WHERE repository = ?1 AND pushed_at > ?2)",
            (id, old),
            |row| row.get(0),
        )?;
        let tables = ["repository_tags", "repository_references", "repository_manifests", "repository_blobs"];
        match stays {
            true => Ok(()),
            false => tables.iter().try_for_each(|table| {
                db.execute(&format!("DELETE FROM {table} WHERE repository = ?1"), [id]).map(drop)
            }),
        }
    })
}
