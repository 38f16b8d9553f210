//! Blobs: given out, whole or in part, and deleted. Must not show one that the repository does not link.

use std::fs::File;
use std::io::Read;

use brig_oci::Digest;
use brig_store::{ErrorKind, LayerBlob, Packed, Removed};
use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use hyper::{Response, StatusCode};

use super::{Ask, CONTENT_DIGEST, done, set};
use crate::body::{Answer, Body};
use crate::proxy::{Along, Had};
use crate::range::{self, Wanted};
use crate::refusal::Refusal;
use crate::registry::Inner;
use crate::route;
use crate::turns::Turn;

/// What has a digest for a name never changes.
const FOR_EVER: &str = "max-age=31536000";

pub(super) async fn get(ask: Ask, name: String, digest: String) -> Result<Answer, Refusal> {
    let digest = route::digest(&digest)?;
    let (wanted, repository) = (digest.clone(), name.clone());
    let question = question(&ask, &name, &digest);
    let found = ask.registry.blocking(move |inner| find(inner, &repository, &wanted, question)).await;
    let (source, size) = match (found, &ask.registry.inner.settings.proxy) {
        (Err(refusal), Some(proxy)) if refusal.status == StatusCode::NOT_FOUND => {
            match proxy.blob(&ask, &name, &digest, question == Question::Content).await? {
                Had::Away => return Err(proxy.away()),
                Had::Arriving(along, size) => (Source::Arriving(along), size),
                Had::Kept => {
                    let wanted = digest.clone();
                    ask.registry.blocking(move |inner| find(inner, &name, &wanted, question)).await?
                }
            }
        }
        (found, _) => found?,
    };
    give(&ask, &digest, source, size).await
}

/// The blob, or the part of it that is asked for.
async fn give(ask: &Ask, digest: &Digest, source: Source, size: u64) -> Result<Answer, Refusal> {
    let tag = format!("\"{digest}\"");
    let lists = |text: &str| text.split(',').any(|entry| matches!(entry.trim(), "*") || entry.trim() == tag);
    if ask.header(IF_NONE_MATCH)?.is_some_and(lists) {
        return done(StatusCode::NOT_MODIFIED, &[(ETAG, &tag), (CACHE_CONTROL, FOR_EVER)]);
    }
    let is_whole = ask.is_head() || ask.header(IF_RANGE)?.is_some_and(|text| text.trim() != tag);
    let wanted = if is_whole { Wanted::All } else { range::wanted(ask.header(RANGE)?, size) };
    let (status, part) = match wanted {
        Wanted::All => (StatusCode::OK, 0..size),
        Wanted::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        Wanted::Nothing => {
            let text = format!("the blob has {size} bytes");
            let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", text);
            return Err(refusal.header(CONTENT_RANGE, &format!("bytes */{size}")));
        }
    };
    let body = match source {
        _ if ask.is_head() => Body::empty(),
        Source::File(file) => Body::file(file, part.start, part.end),
        Source::Arriving(along) => {
            let turn = ask.registry.inner.making.take(ask.peer, ask.registry.inner.settings.patience).await?;
            Body::made(Held { reader: along, _turn: turn }, part.start, part.end)
        }
        Source::Packed => {
            let turn = ask.registry.inner.making.take(ask.peer, ask.registry.inner.settings.patience).await?;
            let blob = made(ask, digest, size).await?;
            Body::made(Held { reader: blob, _turn: turn }, part.start, part.end)
        }
        Source::Known => return Err(Refusal::internal(format!("blob {digest} was only asked about"))),
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    if status == StatusCode::PARTIAL_CONTENT {
        set(&mut answer, &[(CONTENT_RANGE, &format!("bytes {}-{}/{size}", part.start, part.end - 1))])?;
    }
    let length = (part.end - part.start).to_string();
    let headers = [
        (CONTENT_TYPE, "application/octet-stream"),
        (CONTENT_LENGTH, &length),
        (CONTENT_DIGEST, digest.as_str()),
        (ETAG, &tag),
        (ACCEPT_RANGES, "bytes"),
        (CACHE_CONTROL, FOR_EVER),
    ];
    set(&mut answer, &headers)?;
    Ok(answer)
}

/// Where a blob's bytes are.
enum Source {
    File(File),
    /// Not all there yet.
    Arriving(Along),
    /// In a layer, of which they can be made again.
    Packed,
    /// They can be had, and were not asked for.
    Known,
}

/// A blob that is made while it is sent, and the turn for it.
struct Held<R> {
    reader: R,
    _turn: Turn,
}

impl<R: Read> Read for Held<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// Begins to make a blob again.
async fn made(ask: &Ask, digest: &Digest, size: u64) -> Result<LayerBlob, Refusal> {
    let wanted = digest.clone();
    let blob = ask.registry.blocking(move |inner| match Packed::of(&inner.store).blob(&wanted) {
        Ok(blob) => Ok(Some(blob).filter(|blob| blob.size() == size)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    });
    // Gone while it had to wait for its turn.
    blob.await?.ok_or_else(|| Refusal::blob_unknown(digest))
}

/// What is asked about a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// Its bytes.
    Content,
    /// Whether it is there.
    Existence,
    /// The same, of somebody who may push a manifest next that needs it.
    Promise,
    /// The same, of somebody who has just been told.
    PromiseAgain,
}

fn question(ask: &Ask, name: &str, digest: &Digest) -> Question {
    match (ask.is_head(), ask.may_push(name)) {
        (false, _) => Question::Content,
        (true, false) => Question::Existence,
        (true, true) if ask.registry.inner.told.take(name, digest, ask.client()) => Question::PromiseAgain,
        (true, true) => Question::Promise,
    }
}

/// A blob that the repository shows.
fn find(inner: &Inner, name: &str, digest: &Digest, question: Question) -> Result<(Source, u64), Refusal> {
    let unknown = || Refusal::blob_unknown(digest);
    let repositories = &inner.repositories;
    let is_promise = matches!(question, Question::Promise | Question::PromiseAgain);
    let linked = match is_promise {
        true => repositories.promise_blob(name, digest, question == Question::PromiseAgain)?,
        false => repositories.blob_size(name, digest)?,
    };
    let size = match linked {
        Some(size) => size,
        None => {
            let size = inner.shelved_blob(name, digest).ok_or_else(unknown)?;
            if is_promise && !repositories.promise_shown(name, digest, size)? {
                return Err(unknown());
            }
            size
        }
    };
    let found = open(inner, digest, question != Question::Content)?.filter(|(_, length)| *length == size);
    // Said to be unknown it is pushed again, which mends it.
    found.ok_or_else(|| {
        tracing::error!("blob {digest} of {name} is lost or damaged: push it again");
        unknown()
    })
}

fn open(inner: &Inner, digest: &Digest, is_question: bool) -> Result<Option<(Source, u64)>, Refusal> {
    if is_question {
        return Ok(inner.stored_size(digest).map(|size| (Source::Known, size)));
    }
    match inner.store.open_blob(digest) {
        Ok((file, length)) => return Ok(Some((Source::File(file), length))),
        Err(error) if error.kind == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Packed::of(&inner.store).size(digest)?.map(|size| (Source::Packed, size)))
}

pub(super) async fn delete(ask: Ask, name: String, digest: String) -> Result<Answer, Refusal> {
    ask.must_delete()?;
    let digest = route::digest(&digest)?;
    let wanted = digest.clone();
    match ask.registry.blocking(move |inner| Ok(inner.repositories.unlink_blob(&name, &wanted)?)).await? {
        Removed::Gone => {
            ask.registry.inner.deleted.notify_one();
            done(StatusCode::ACCEPTED, &[(CONTENT_DIGEST, digest.as_str())])
        }
        Removed::Absent => Err(Refusal::blob_unknown(&digest)),
        Removed::InUse => Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "DENIED",
            "a manifest of the repository needs the blob: delete that first",
        )),
    }
}
