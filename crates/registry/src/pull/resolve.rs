//! Owns the way from a name to one image's manifest and config: media types, digests, indexes, platforms. Only documents
//! that fit into memory; layers are not its business.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use brig_oci::{
    Descriptor, Digest, Document, ImageConfig, Index, MAX_CONFIG_SIZE, MAX_LAYERS, MAX_MANIFEST_SIZE, Manifest,
    Platform, media_type,
};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};

use crate::answer::{Asked, refusal};
use crate::backoff::{Backoff, retried};
use crate::error::{Error, ErrorKind, Failure, printable};
use crate::hash::{digest_of, sha256};
use crate::net::transport::{Outgoing, Response};
use crate::session::{Session, check_encoding};

/// Indexes within indexes.
const DEEPEST_INDEX: usize = 3;
/// Documents fetched to find one image.
const MOST_DOCUMENTS: usize = 16;
const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What the search needs from the pull it belongs to.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    /// Documents that are in the store already, by digest.
    pub(crate) local: &'a (dyn Fn(&Digest) -> Option<Vec<u8>> + Send + Sync),
    /// Hears of every wait before another try.
    pub(crate) waiting: &'a (dyn Fn(Duration) + Send + Sync),
}

/// A document as fetched: its bytes are what its digest is over.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) digest: Digest,
    pub(crate) bytes: Vec<u8>,
    pub(crate) document: Document,
}

/// The image that a name stands for on a platform.
pub(super) struct Image {
    /// What the name points to; the digest people see.
    pub(super) top: Digest,
    /// The image's own manifest.
    pub(super) manifest: Manifest,
    pub(super) manifest_digest: Digest,
    /// All documents on the way, the named one first.
    pub(super) documents: Vec<Fetched>,
}

/// Finds the image. `wanted` is `None` for "what suits this machine".
pub(super) async fn image(session: &Session, wanted: Option<&Platform>, around: Around<'_>) -> Result<Image, Failure> {
    let mut fetched = named(session, around).await?;
    let top = fetched.digest.clone();
    let platform = wanted.map_or_else(Platform::host, Platform::normalized);
    let mut documents: Vec<Fetched> = Vec::new();
    let mut seen = BTreeSet::new();
    loop {
        seen.insert(fetched.digest.clone());
        documents.push(fetched.clone());
        let index = match fetched.document {
            Document::Manifest(manifest) => {
                check_image(session, &manifest)?;
                return Ok(Image { top, manifest, manifest_digest: fetched.digest, documents });
            }
            Document::Index(index) => index,
        };
        if documents.len() > DEEPEST_INDEX || documents.len() > MOST_DOCUMENTS {
            return Err(invalid(session, &format!("indexes are nested deeper than {DEEPEST_INDEX}")));
        }
        let entry = choose(session, &index, &platform)?;
        if !seen.insert(entry.digest.clone()) {
            return Err(invalid(session, &format!("index {} leads back to itself", entry.digest)));
        }
        fetched = by_descriptor(session, entry, around).await?;
    }
}

fn invalid(session: &Session, why: &str) -> Failure {
    Failure::fatal(ErrorKind::Invalid, format!("invalid image {}: {}", session.reference.familiar(), printable(why)))
}

/// The entry for the platform; failing that, a nested index, which may hold one.
fn choose<'i>(session: &Session, index: &'i Index, platform: &Platform) -> Result<&'i Descriptor, Failure> {
    let nested = || index.manifests.iter().find(|d| media_type::is_index(&d.media_type) && d.platform.is_none());
    index.select(platform).or_else(nested).ok_or_else(|| {
        let mut offered: Vec<String> = index
            .manifests
            .iter()
            .filter_map(|d| d.platform.as_ref())
            .filter(|p| p.os != "unknown")
            .map(|p| p.to_string())
            .collect();
        offered.truncate(20);
        let offered = if offered.is_empty() { "none with a platform".into() } else { printable(&offered.join(", ")) };
        let text = format!(
            "no matching manifest for {platform} in the manifest list entries of {} (it offers: {offered})",
            session.reference.familiar()
        );
        Failure::fatal(ErrorKind::NotFound, text)
    })
}

/// The document that the reference itself names.
pub(crate) async fn named(session: &Session, around: Around<'_>) -> Result<Fetched, Failure> {
    if let Some(digest) = session.reference.digest() {
        return fetch(session, &digest.to_string(), Some(digest), None, around).await;
    }
    let tag = session.reference.tag().unwrap_or("latest");
    fetch(session, tag, None, None, around).await
}

async fn by_descriptor(session: &Session, entry: &Descriptor, around: Around<'_>) -> Result<Fetched, Failure> {
    if entry.size > MAX_MANIFEST_SIZE {
        return Err(invalid(
            session,
            &format!("manifest {} of {} bytes is larger than {MAX_MANIFEST_SIZE}", entry.digest, entry.size),
        ));
    }
    let fetched =
        fetch(session, &entry.digest.to_string(), Some(&entry.digest), Some(&entry.media_type), around).await?;
    if fetched.bytes.len() as u64 != entry.size {
        let text = format!("manifest {}: expected {} bytes, got {}", entry.digest, entry.size, fetched.bytes.len());
        return Err(Failure::fatal(ErrorKind::Mismatch, text));
    }
    Ok(fetched)
}

async fn fetch(
    session: &Session,
    name: &str,
    digest: Option<&Digest>,
    declared: Option<&str>,
    around: Around<'_>,
) -> Result<Fetched, Failure> {
    let mut backoff = Backoff::at_beginning(session.inner.config.retry_delay);
    retried(&mut backoff, around.waiting, || fetch_once(session, name, digest, declared, around)).await
}

async fn fetch_once(
    session: &Session,
    name: &str,
    digest: Option<&Digest>,
    declared: Option<&str>,
    around: Around<'_>,
) -> Result<Fetched, Failure> {
    // Registries meter GET, not HEAD: what is here already is not fetched again. A refusal is left to GET to explain.
    let head = request(session, name, Method::HEAD).await?;
    if head.status == StatusCode::OK {
        let offered = head.header(&DOCKER_CONTENT_DIGEST).and_then(|v| Digest::parse(v).ok());
        let known =
            offered.filter(|o| digest.is_none_or(|d| d == o)).and_then(|o| (around.local)(&o).map(|bytes| (o, bytes)));
        if let Some((digest, bytes)) = known {
            let declared = declared.or(head.header(&CONTENT_TYPE));
            return parse(session, digest, bytes, declared);
        }
    }
    head.discard().await;
    let mut response = request(session, name, Method::GET).await?;
    if response.status != StatusCode::OK {
        return Err(refusal(response, Asked::Manifest(&session.reference)).await);
    }
    check_encoding(&response)?;
    let content_type =
        response.header(&CONTENT_TYPE).map(|v| media_type::essence(v).to_owned()).filter(|v| !v.is_empty());
    let offered = response.header(&DOCKER_CONTENT_DIGEST).map(str::to_owned);
    let bytes = response.collect(MAX_MANIFEST_SIZE as usize).await?;
    let digest = verify(session, &bytes, digest, offered.as_deref())?;
    if let (Some(promised), Some(sent)) = (declared, content_type.as_deref())
        && media_type::essence(promised) != sent
    {
        return Err(invalid(session, &format!("manifest {digest} is declared as {promised:?} but served as {sent:?}")));
    }
    parse(session, digest, bytes, declared.or(content_type.as_deref()))
}

async fn request<'s>(session: &'s Session, name: &str, method: Method) -> Result<Response<'s>, Failure> {
    let url = session.url(&format!("manifests/{name}")).await?;
    let accept =
        HeaderValue::try_from(media_type::ACCEPTED_MANIFESTS.join(", ")).expect("media types are header values");
    session.send(Outgoing::new(method, url).header(ACCEPT, accept)).await
}

/// The digest of the bytes received, which must be the one asked for and the one the server names.
fn verify(session: &Session, bytes: &[u8], asked: Option<&Digest>, offered: Option<&str>) -> Result<Digest, Failure> {
    let mismatch = |expected: &Digest, actual: &Digest| {
        let text = format!(
            "manifest for {}: digest mismatch: expected {expected}, got {actual}",
            session.reference.familiar()
        );
        Failure::fatal(ErrorKind::Mismatch, text)
    };
    let offered = match offered.map(Digest::parse) {
        Some(Err(error)) => {
            return Err(invalid(session, &format!("Docker-Content-Digest: {error}")));
        }
        Some(Ok(digest)) => Some(digest),
        None => None,
    };
    for expected in asked.iter().copied().chain(offered.as_ref()) {
        let actual = digest_of(bytes, expected);
        if actual != *expected {
            return Err(mismatch(expected, &actual));
        }
    }
    Ok(asked.cloned().or(offered).unwrap_or_else(|| sha256(bytes)))
}

fn parse(session: &Session, digest: Digest, bytes: Vec<u8>, declared: Option<&str>) -> Result<Fetched, Failure> {
    let document = Document::parse(&bytes, declared).map_err(|why| invalid(session, &why.to_string()))?;
    Ok(Fetched { digest, bytes, document })
}

/// Refuses, before anything is fetched, what is not a runnable image.
fn check_image(session: &Session, manifest: &Manifest) -> Result<(), Failure> {
    if !media_type::is_image_config(&manifest.config.media_type) {
        let kind = manifest.artifact_type.as_deref().unwrap_or(&manifest.config.media_type);
        return Err(invalid(session, &format!("it is an artifact of type {kind:?}, not a container image")));
    }
    if manifest.layers.len() > MAX_LAYERS {
        return Err(invalid(session, &format!("{} layers; at most {MAX_LAYERS} are possible", manifest.layers.len())));
    }
    match manifest.layers.iter().find(|l| media_type::layer_compression(&l.media_type).is_none()) {
        Some(layer) => Err(invalid(
            session,
            &format!("layer {} has the unsupported media type {:?}", layer.digest, layer.media_type),
        )),
        None => Ok(()),
    }
}

/// Fetches the image's config from the first of `sources` that has it, and checks that it fits manifest and platform.
/// `explicit` is the platform that the caller asked for by name.
pub(super) async fn config(
    sources: &[Arc<Session>],
    image: &Image,
    explicit: Option<&Platform>,
    around: Around<'_>,
) -> Result<(Vec<u8>, ImageConfig), Failure> {
    let descriptor = &image.manifest.config;
    let session = sources.first().expect("a pull has a source");
    let mut result = match (around.local)(&descriptor.digest) {
        Some(bytes) => Ok(bytes),
        None => Err(invalid(session, "no source")),
    };
    for session in sources {
        if result.is_ok() {
            break;
        }
        result = session.small_blob(&descriptor.digest, descriptor.size, MAX_CONFIG_SIZE, "image config").await;
    }
    let bytes = result?;
    let config = ImageConfig::parse(&bytes).map_err(|why| invalid(session, &why.to_string()))?;
    check_config(session, image, &config, explicit)?;
    Ok((bytes, config))
}

fn check_config(
    session: &Session,
    image: &Image,
    config: &ImageConfig,
    explicit: Option<&Platform>,
) -> Result<(), Failure> {
    let (layers, ids) = (image.manifest.layers.len(), config.rootfs.diff_ids.len());
    if layers != ids {
        return Err(invalid(session, &format!("the manifest has {layers} layers, the config {ids}")));
    }
    if let Some(bad) = config.rootfs.diff_ids.iter().find(|d| d.algorithm() != "sha256") {
        return Err(invalid(session, &format!("diff id {bad} is not a sha256 digest")));
    }
    let actual = config.platform();
    if !actual.os.is_empty() && actual.normalized().os != "linux" {
        let text = format!("image operating system {:?} cannot be used on this platform", printable(&actual.os));
        return Err(Failure::from(Error::new(ErrorKind::NotFound, text)));
    }
    match explicit {
        Some(wanted) if !actual.architecture.is_empty() && wanted.normalized().rank(&actual).is_none() => {
            let text = format!(
                "image with reference {} was found but does not provide the specified platform: wanted {}, actual: {}",
                session.reference.familiar(),
                wanted.normalized(),
                printable(&actual.to_string())
            );
            Err(Failure::from(Error::new(ErrorKind::NotFound, text)))
        }
        _ => Ok(()),
    }
}
