//! Manifests and indexes: taken in if they are well-formed and all that they name is there, given out, deleted.
//! Must not interpret more of one than what it names.

use std::collections::BTreeMap;
use std::sync::Arc;

use brig_oci::{Descriptor, Digest, Document, MAX_MANIFEST_SIZE, media_type};
use brig_store::{ErrorKind, ManifestInfo, NewManifest, PutManifest, Referenced, Removed, Source, digest};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH, LOCATION, WARNING};
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{Ask, CONTENT_DIGEST, done, set};
use crate::body::{Answer, Body, SMALL};
use crate::proxy::Proxy;
use crate::refusal::Refusal;
use crate::registry::Inner;
use crate::route::{self, is_tag};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAG: HeaderName = HeaderName::from_static("oci-tag");

/// The most tags that one push may set. Each has a header in the answer, of which many clients read a hundred.
const MOST_TAGS: usize = 64;

/// How a manifest is called in a path.
enum Name {
    Digest(Digest),
    Tag(String),
}

impl Name {
    /// Reads a reference; what is neither is named by nothing.
    fn parse(text: &str) -> Result<Option<Name>, Refusal> {
        match text.contains(':') {
            true => route::digest(text).map(|digest| Some(Name::Digest(digest))),
            false => Ok(is_tag(text).then(|| Name::Tag(text.to_owned()))),
        }
    }

    fn find(&self, inner: &Inner, repository: &str) -> Result<Option<ManifestInfo>, Refusal> {
        let reference = match self {
            Name::Digest(digest) => Referenced::Digest(digest),
            Name::Tag(tag) => Referenced::Tag(tag),
        };
        if let Name::Tag(tag) = self
            && let Some(info) = inner.shelved_tag(repository, tag)?
        {
            return Ok(Some(info));
        }
        let known = inner.repositories.manifest(repository, &reference)?;
        Ok(match self {
            Name::Digest(digest) => known.or_else(|| inner.shelved_manifest(repository, digest)),
            Name::Tag(_) => known,
        })
    }
}

pub(super) async fn get(ask: Ask, name: String, reference: String) -> Result<Answer, Refusal> {
    let unknown = || Refusal::manifest_unknown(&reference);
    let wanted = Name::parse(&reference)?.ok_or_else(unknown)?;
    let is_head = ask.is_head();
    let mut away = None;
    if let Some(proxy) = &ask.registry.inner.settings.proxy
        && !(matches!(wanted, Name::Digest(_)) && is_here(&ask, &name, &reference).await?)
        && !proxy.manifest(&ask.registry, &name, &reference).await?
    {
        away = Some(proxy);
    }
    let found = ask.registry.blocking(move |inner| read(inner, &name, &wanted, is_head)).await?;
    let (info, body) = found.ok_or_else(|| away.map_or_else(unknown, |proxy: &Arc<Proxy>| proxy.away()))?;
    let tag = format!("\"{}\"", info.digest);
    if ask.header(IF_NONE_MATCH)?.is_some_and(|text| text.split(',').any(|entry| entry.trim() == tag)) {
        return done(StatusCode::NOT_MODIFIED, &[(ETAG, &tag)]);
    }
    let mut answer = Response::new(body);
    let headers = [
        (CONTENT_TYPE, info.media_type.as_str()),
        (CONTENT_LENGTH, &info.size.to_string()),
        (CONTENT_DIGEST, info.digest.as_str()),
        (ETAG, &tag),
    ];
    set(&mut answer, &headers)?;
    Ok(answer)
}

/// Whether a manifest with a digest is here, so that nobody else need be asked.
async fn is_here(ask: &Ask, name: &str, digest: &str) -> Result<bool, Refusal> {
    let (name, digest) = (name.to_owned(), route::digest(digest)?);
    ask.registry
        .blocking(move |inner| {
            let known = inner.repositories.manifest(&name, &Referenced::Digest(&digest))?;
            Ok(known.is_some() && inner.store.has_blob(&digest))
        })
        .await
}

/// Keeps a manifest that nobody pushes; what it names comes when it is asked for, or is here.
pub(crate) fn keep(
    inner: &Inner,
    repository: &str,
    digest: &Digest,
    bytes: &[u8],
    tag: Option<String>,
    source: Source,
) -> Result<(), Refusal> {
    let parsed = parse(bytes, None)?;
    let tags: Vec<String> = tag.into_iter().collect();
    let wanted = Referenced::Digest(digest);
    // Asked about again and again, and the same for the most part.
    if let Some(tag) = tags.first()
        && inner.repositories.manifest(repository, &Referenced::Tag(tag))?.is_some_and(|known| known.digest == *digest)
        && inner.store.has_blob(digest)
    {
        return Ok(());
    }
    if tags.is_empty() && inner.repositories.manifest(repository, &wanted)?.is_some() && inner.store.has_blob(digest) {
        return Ok(());
    }
    store(inner, repository, digest, bytes, &parsed, &tags, source)
}

/// A manifest that the repository shows, with its content unless only its existence is asked for.
fn read(inner: &Inner, name: &str, wanted: &Name, is_head: bool) -> Result<Option<(ManifestInfo, Body)>, Refusal> {
    let Some(info) = wanted.find(inner, name)? else { return Ok(None) };
    let body = match is_head {
        true => inner.store.has_blob(&info.digest).then(Body::empty),
        false => match content(inner, &info.digest) {
            Ok(body) => Some(body),
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Corrupt) => None,
            Err(error) => return Err(error.into()),
        },
    };
    if body.is_none() {
        tracing::error!("manifest {} of {name} is lost or damaged: push it again", info.digest);
    }
    Ok(body.map(|body| (info, body)))
}

/// A manifest, verified. A large one is not in memory for as long as its client takes.
fn content(inner: &Inner, digest: &Digest) -> brig_store::Result<Body> {
    let bytes = inner.store.read_blob(digest)?;
    if bytes.len() <= SMALL {
        return Ok(Body::whole(bytes));
    }
    let (file, size) = inner.store.open_blob(digest)?;
    Ok(Body::file(file, 0, size))
}

/// What a manifest says of itself besides what every reader needs.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct About {
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// What a document names and what it is about.
pub(crate) struct Parsed {
    media_type: String,
    pub(crate) blobs: Vec<Digest>,
    pub(crate) manifests: Vec<Digest>,
    subject: Option<Digest>,
    artifact_type: Option<String>,
    annotations: BTreeMap<String, String>,
}

pub(crate) fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Parsed, Refusal> {
    let invalid = |why: &dyn std::fmt::Display| Refusal::manifest_invalid(format!("manifest invalid: {why}"));
    let document = Document::parse(bytes, declared).map_err(|error| invalid(&error))?;
    let about: About = serde_json::from_slice(bytes).map_err(|error| invalid(&error))?;
    let kind = about.artifact_type.filter(|text| !text.is_empty());
    // What can be had elsewhere need not be here.
    let here = |entry: &Descriptor| entry.urls.is_empty();
    let digests = |entries: Vec<&Descriptor>| entries.into_iter().map(|entry| entry.digest.clone()).collect();
    let (media_type, blobs, manifests, artifact_type) = match document {
        Document::Manifest(manifest) => {
            let layers = manifest.layers.iter().filter(|layer| here(layer));
            let blobs = digests([&manifest.config].into_iter().chain(layers).collect());
            (manifest.media_type, blobs, Vec::new(), kind.or(Some(manifest.config.media_type)))
        }
        Document::Index(index) => {
            let is_manifest = |entry: &&Descriptor| {
                media_type::is_index(&entry.media_type) || media_type::is_manifest(&entry.media_type)
            };
            // Builders' caches list layers in an index.
            let (manifests, blobs): (Vec<_>, Vec<_>) =
                index.manifests.iter().filter(|entry| here(entry)).partition(is_manifest);
            (index.media_type, digests(blobs), digests(manifests), kind)
        }
    };
    let subject = about.subject.map(|subject| subject.digest);
    let annotations = about.annotations.unwrap_or_default();
    Ok(Parsed { media_type, blobs, manifests, subject, artifact_type, annotations })
}

pub(super) async fn put(ask: Ask, name: String, reference: String) -> Result<Answer, Refusal> {
    ask.must_be_writable()?;
    let target = Name::parse(&reference)?.ok_or_else(|| Refusal::manifest_invalid("invalid tag"))?;
    let asked: Vec<String> = ask.query.all("tag").map(str::to_owned).collect();
    if asked.len() > MOST_TAGS || asked.iter().any(|tag| !is_tag(tag)) {
        return Err(Refusal::manifest_invalid("invalid tag, or too many of them"));
    }
    // A push by tag sets that one only.
    let (tags, shown) = match &target {
        Name::Digest(_) => (asked.clone(), asked),
        Name::Tag(tag) => (vec![tag.clone()], Vec::new()),
    };
    let declared = ask.header(CONTENT_TYPE)?.map(str::to_owned);
    let limit = usize::try_from(MAX_MANIFEST_SIZE).unwrap_or(usize::MAX);
    let Ask { registry, body, peer, .. } = ask;
    let whole = body.whole(limit, &registry.inner.large, peer).await?;
    let (bytes, _large) = whole.ok_or_else(|| Refusal::manifest_too_large(MAX_MANIFEST_SIZE))?;
    let repository = name.clone();
    // Goes on to its end though the client leaves.
    let _turn = registry.inner.taking.acquire().await.map_err(Refusal::internal)?;
    let (digest, subject, broken) = registry
        .blocking(move |inner| {
            let digest = match target {
                Name::Digest(digest) if digest::matches(&digest, &bytes) => digest,
                Name::Digest(_) => return Err(Refusal::digest_invalid("the manifest does not have that digest")),
                Name::Tag(_) => digest::sha256_of(&bytes),
            };
            let parsed = parse(&bytes, declared.as_deref())?;
            let broken = inner.shelve(&repository, &digest, &bytes, &parsed, &tags)?;
            inner.told.over(&repository, &parsed.blobs);
            Ok((digest, parsed.subject, broken))
        })
        .await?;
    let location = format!("/v2/{name}/manifests/{digest}");
    let mut answer = done(StatusCode::CREATED, &[(LOCATION, &location), (CONTENT_DIGEST, digest.as_str())])?;
    if let Some(subject) = subject {
        set(&mut answer, &[(SUBJECT, subject.as_str())])?;
    }
    for tag in shown {
        set(&mut answer, &[(TAG, &tag)])?;
    }
    if let Some(why) = broken {
        set(&mut answer, &[(WARNING, &warning(&format!("kept, but it is no image: {why}")))])?;
    }
    Ok(answer)
}

/// A warning as the specification has them ("Warnings"): one line of printable ASCII, not too long.
fn warning(text: &str) -> String {
    let clean = |c: char| if matches!(c, ' '..='~') && !matches!(c, '"' | '\\') { c } else { '?' };
    format!("299 - \"{}\"", text.chars().take(1000).map(clean).collect::<String>())
}

pub(crate) fn store(
    inner: &Inner,
    repository: &str,
    digest: &Digest,
    bytes: &[u8],
    parsed: &Parsed,
    tags: &[String],
    source: Source,
) -> Result<(), Refusal> {
    let new = NewManifest {
        source,
        digest,
        bytes,
        media_type: &parsed.media_type,
        blobs: &parsed.blobs,
        manifests: &parsed.manifests,
        subject: parsed.subject.as_ref(),
        artifact_type: parsed.artifact_type.as_deref(),
        annotations: &parsed.annotations,
    };
    match inner.repositories.put_manifest(repository, &new, tags)? {
        PutManifest::Done => Ok(()),
        PutManifest::Missing(missing) => {
            let missing: Vec<&str> = missing.iter().map(Digest::as_str).collect();
            let text = format!("the repository does not have what the manifest names: {}", missing.join(", "));
            let refusal = Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN", text);
            Err(refusal.detail(json!({ "digest": missing.first() })))
        }
    }
}

pub(super) async fn delete(ask: Ask, name: String, reference: String) -> Result<Answer, Refusal> {
    ask.must_delete()?;
    let unknown = || Refusal::manifest_unknown(&reference);
    let target = Name::parse(&reference)?.ok_or_else(unknown)?;
    let registry = ask.registry;
    let removed = registry
        .blocking(move |inner| {
            Ok(match &target {
                Name::Digest(digest) => delete_manifest(inner, &name, digest)?,
                Name::Tag(tag) => match (inner.unshelve_tag(&name, tag)?, inner.repositories.delete_tag(&name, tag)?) {
                    (true, _) => Removed::Gone,
                    (false, removed) => removed,
                },
            })
        })
        .await?;
    match removed {
        Removed::Gone => {
            registry.inner.deleted.notify_one();
            done(StatusCode::ACCEPTED, &[])
        }
        Removed::Absent => Err(unknown()),
        Removed::InUse => Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "DENIED",
            "an index with a tag lists the manifest: delete that first",
        )),
    }
}

fn delete_manifest(inner: &Inner, repository: &str, digest: &Digest) -> Result<Removed, Refusal> {
    let has_tags = inner.unshelve(repository, digest)?;
    let mut removed = inner.repositories.delete_manifest(repository, digest)?;
    if has_tags {
        removed = Removed::Gone;
    } else if removed == Removed::Absent && inner.shelved_manifest(repository, digest).is_some() {
        removed = Removed::InUse;
    }
    if let Some(shelf) = inner.shelf().filter(|_| removed == Removed::Gone) {
        shelf.forget(digest)?;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Registry, Settings};

    #[test]
    fn large_manifests_are_given_out_from_their_files() {
        let dir = tempfile::tempdir().unwrap();
        let store = brig_store::Store::open(dir.path()).unwrap();
        let registry = Registry::new(store.clone(), Settings::default());
        let body = |length: usize| {
            let digest = store.put_blob(&vec![b' '; length]).unwrap();
            content(&registry.inner, &digest).unwrap()
        };
        assert!(matches!(body(SMALL), Body::Whole(Some(bytes)) if bytes.len() == SMALL));
        assert!(matches!(body(SMALL + 1), Body::File(_)));
        let digest = store.put_blob(&vec![b'x'; SMALL + 1]).unwrap();
        std::fs::write(dir.path().join("blobs/sha256").join(digest.hex()), vec![b'y'; SMALL + 1]).unwrap();
        assert_eq!(content(&registry.inner, &digest).err().map(|error| error.kind), Some(ErrorKind::Corrupt));
    }
}
