//! Uploads of blobs: begun, sent whole or in pieces, asked about, finished, given up; or a blob mounted from another
//! repository instead. Must not trust a digest or an offset that a client says.

use std::ops::Range;

use brig_oci::Digest;
use brig_store::{ErrorKind, Lease};
use hyper::StatusCode;
use hyper::header::{CONTENT_RANGE, HeaderName, LOCATION, RANGE};

use super::receive::Receiver;
use super::{Ask, CONTENT_DIGEST, done};
use crate::body::Answer;
use crate::peers;
use crate::range;
use crate::refusal::Refusal;
use crate::registry::{Inner, Registry};
use crate::route;
use crate::told::Client;

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// `POST`: mounts a blob, takes a whole one, or begins an upload.
pub(super) async fn begin(ask: Ask, name: String) -> Result<Answer, Refusal> {
    ask.must_be_writable()?;
    if let Some(digest) = ask.query.one("mount")? {
        let from = ask.query.one("from")?.filter(|from| !from.is_empty()).map(str::to_owned);
        // What cannot be mounted, for whatever reason, is to be uploaded ("Mounting a blob from another repository").
        if from.as_deref().is_none_or(route::is_name)
            && let Ok(digest) = route::digest(digest)
            && mount(&ask, &name, digest.clone(), from).await?
        {
            ask.registry.inner.told.note(&name, &digest, ask.client());
            return created(&name, &digest);
        }
    }
    let digest = ask.query.one("digest")?.map(route::digest).transpose()?;
    let client = ask.client();
    let id = new_upload(&ask, &name).await?;
    let Ask { registry, body, .. } = ask;
    let Some(digest) = digest else { return progress(StatusCode::ACCEPTED, &name, &id, 0) };
    let expected = body.announced();
    let receiver = Receiver::open(&registry, &id).await?;
    match receiver.add(body, expected).await {
        Ok(()) => publish(&registry, receiver, &name, &id, digest, client).await,
        Err(refusal) => {
            // Nobody was told the id.
            forget(&registry, receiver, id).await?;
            Err(refusal)
        }
    }
}

/// Notes an upload, if there may be another one.
async fn new_upload(ask: &Ask, repository: &str) -> Result<String, Refusal> {
    let (repository, owner) = (repository.to_owned(), ask.visitor.name.clone());
    let client = peers::client(ask.peer).to_string();
    let begin =
        move |inner: &Inner| Ok(inner.repositories.uploads().begin(&repository, &owner, &client, inner.uploads)?);
    ask.registry.blocking(begin).await?.ok_or_else(|| {
        let text = "too many uploads were begun and not ended, from this address or from all: finish some, or give them up (DELETE)";
        Refusal::too_many(text, "60")
    })
}

/// Whether the blob could be taken from a repository that the visitor may read. A blob that others hide is like one that
/// is not there.
async fn mount(ask: &Ask, name: &str, digest: Digest, from: Option<String>) -> Result<bool, Refusal> {
    let (visitor, to) = (ask.visitor.clone(), name.to_owned());
    ask.registry
        .blocking(move |inner| {
            if inner.stored_size(&digest).is_none() {
                return Ok(false);
            }
            let may_read = |repository: &str| visitor.may_read(repository);
            if inner.repositories.mount_blob(from.as_deref(), &to, &digest, may_read)?.is_some() {
                return Ok(true);
            }
            let others = from.map_or_else(|| inner.shelved_repositories(), |from| [from].into());
            let mut readable = others.iter().filter(|from| may_read(from));
            let Some(size) = readable.find_map(|from| inner.shelved_blob(from, &digest)) else { return Ok(false) };
            Ok(inner.repositories.mount_shown(&to, &digest, size)?)
        })
        .await
}

/// Checks that there is such an upload, for this repository and by this visitor.
async fn check(ask: &Ask, name: &str, id: &str) -> Result<(), Refusal> {
    // Ids are made here: 32 hex digits. Whatever else a client writes is none, and never comes near a file name.
    if id.len() != 32 || !id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Refusal::upload_unknown());
    }
    let wanted = id.to_owned();
    let upload = ask.registry.blocking(move |inner| Ok(inner.repositories.uploads().find(&wanted)?)).await?;
    match upload {
        Some(upload) if upload.repository == name && upload.owner == ask.visitor.name => Ok(()),
        _ => Err(Refusal::upload_unknown()),
    }
}

/// `GET`: how much is there.
pub(super) async fn status(ask: Ask, name: String, id: String) -> Result<Answer, Refusal> {
    check(&ask, &name, &id).await?;
    let length = match ask.registry.inner.written(&id) {
        Some(length) => length,
        None => Receiver::open(&ask.registry, &id).await?.len(),
    };
    progress(StatusCode::NO_CONTENT, &name, &id, length)
}

/// `PATCH`: adds a piece.
pub(super) async fn add(ask: Ask, name: String, id: String) -> Result<Answer, Refusal> {
    ask.must_be_writable()?;
    check(&ask, &name, &id).await?;
    let length = receive(ask, &name, &id).await?.len();
    progress(StatusCode::ACCEPTED, &name, &id, length)
}

/// `PUT`: adds the last piece, if there is one, and makes it a blob.
pub(super) async fn finish(ask: Ask, name: String, id: String) -> Result<Answer, Refusal> {
    ask.must_be_writable()?;
    check(&ask, &name, &id).await?;
    let digest = ask.query.one("digest")?.ok_or_else(|| Refusal::digest_invalid("digest parameter missing"))?;
    let digest = route::digest(digest)?;
    let (registry, client) = (ask.registry.clone(), ask.client());
    let receiver = receive(ask, &name, &id).await?;
    publish(&registry, receiver, &name, &id, digest, client).await
}

/// `DELETE`: gives an upload up.
pub(super) async fn cancel(ask: Ask, name: String, id: String) -> Result<Answer, Refusal> {
    check(&ask, &name, &id).await?;
    // Not from under another request.
    let receiver = Receiver::open(&ask.registry, &id).await?;
    forget(&ask.registry, receiver, id).await?;
    done(StatusCode::NO_CONTENT, &[])
}

/// Takes a body in where it says it belongs.
async fn receive(ask: Ask, name: &str, id: &str) -> Result<Receiver, Refusal> {
    let invalid = |text: &str| Refusal::upload_invalid(format!("invalid Content-Range {text:?}"));
    let part = ask.header(CONTENT_RANGE)?.map(|text| range::sent(text).ok_or_else(|| invalid(text))).transpose()?;
    let announced = ask.body.announced();
    let length = part.as_ref().map(|part| part.end - part.start);
    if let (Some(announced), Some(length)) = (announced, length)
        && announced != length
    {
        return Err(Refusal::size_invalid(format!("Content-Range is about {length} bytes, the body has {announced}")));
    }
    let Ask { registry, body, .. } = ask;
    let receiver = Receiver::open(&registry, id).await?;
    if let Some(part) = part.filter(|part| part.start != receiver.len()) {
        return Err(out_of_order(name, id, &part, receiver.len()));
    }
    // Both before and after: an upload must not expire while a long piece arrives, nor right after.
    touch(&registry, id).await?;
    receiver.add(body, length.or(announced)).await?;
    touch(&registry, id).await?;
    Ok(receiver)
}

async fn touch(registry: &Registry, id: &str) -> Result<(), Refusal> {
    let id = id.to_owned();
    match registry.blocking(move |inner| Ok(inner.repositories.uploads().touch(&id)?)).await? {
        true => Ok(()),
        false => Err(Refusal::upload_unknown()),
    }
}

/// The piece does not begin where the upload ends; the answer says where that is.
fn out_of_order(name: &str, id: &str, part: &Range<u64>, length: u64) -> Refusal {
    let text = format!("the piece begins at byte {}, the upload has {length} bytes", part.start);
    Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", text)
        .header(LOCATION, &location(name, id))
        .header(RANGE, &present(length))
        .header(UPLOAD_ID, id)
}

/// Makes an upload a blob that the repository shows.
async fn publish(
    registry: &Registry,
    receiver: Receiver,
    name: &str,
    id: &str,
    digest: Digest,
    client: Option<Client>,
) -> Result<Answer, Refusal> {
    let (partial, writing) = receiver.into_parts()?;
    let (repository, id, wanted) = (name.to_owned(), id.to_owned(), digest.clone());
    registry
        .blocking(move |inner| {
            // Until the link leads to it.
            let _lease = Lease::begin(&inner.store);
            let committed = partial.commit(&wanted);
            // Content with another digest is not kept, and the upload is over. Where the disk was full it may go on.
            if committed.as_ref().err().is_none_or(|error| error.kind == ErrorKind::Mismatch) {
                inner.repositories.uploads().end(&id)?;
            }
            inner.repositories.link_blob(&repository, &wanted, committed?)?;
            drop(writing);
            Ok(())
        })
        .await?;
    registry.inner.told.note(name, &digest, client);
    created(name, &digest)
}

/// Removes an upload and its bytes. Nobody else comes between.
async fn forget(registry: &Registry, receiver: Receiver, id: String) -> Result<(), Refusal> {
    let (partial, writing) = receiver.into_parts()?;
    registry
        .blocking(move |inner| {
            inner.repositories.uploads().end(&id)?;
            partial.discard()?;
            drop(writing);
            Ok(())
        })
        .await
}

fn created(name: &str, digest: &Digest) -> Result<Answer, Refusal> {
    let location = format!("/v2/{name}/blobs/{digest}");
    done(StatusCode::CREATED, &[(LOCATION, &location), (CONTENT_DIGEST, digest.as_str())])
}

fn progress(status: StatusCode, name: &str, id: &str, length: u64) -> Result<Answer, Refusal> {
    done(status, &[(LOCATION, &location(name, id)), (RANGE, &present(length)), (UPLOAD_ID, id)])
}

fn location(name: &str, id: &str) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

/// What is there, as `first-last`; nothing looks like one byte, as it always has in this protocol.
fn present(length: u64) -> String {
    format!("0-{}", length.saturating_sub(1))
}
