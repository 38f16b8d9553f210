//! Owns the last step of any push: a blob from memory, and a manifest, each sent once more after a failure that may pass.

use std::fs::File;
use std::sync::Arc;

use brig_oci::{Descriptor, Digest};
use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode};

use super::packed::Content;
use super::upload::{self, Upload};
use crate::answer::{Asked, refusal};
use crate::backoff::{Backoff, retried};
use crate::error::{Error, Result};
use crate::hash::sha256;
use crate::net::transport::Outgoing;
use crate::session::Session;

/// Sends a blob, unless the repository has it.
pub(crate) async fn blob(session: &Session, digest: &Digest, bytes: Bytes) -> Result<()> {
    if upload::exists(session, digest).await? {
        return Ok(());
    }
    let (size, content) = (bytes.len() as u64, Content::Bytes(bytes));
    Ok(Upload { session, digest, size, content: &content }.run(&|_| {}).await?)
}

/// Sends a blob from a file, unless the repository has it. The registry verifies it, as it does every upload.
pub(crate) async fn file(session: &Session, descriptor: &Descriptor, file: File) -> Result<()> {
    let digest = &descriptor.digest;
    if upload::exists(session, digest).await? {
        return Ok(());
    }
    let content = Content::File(Arc::new(file));
    Ok(Upload { session, digest, size: descriptor.size, content: &content }.run(&|_| {}).await?)
}

/// Sends a manifest or index to the tag that the session's reference names, or under its digest if it names one.
pub(crate) async fn manifest(session: &Session, bytes: &[u8], kind: &str) -> Result<()> {
    let digest = sha256(bytes);
    let place = match session.reference.digest() {
        Some(_) => digest.to_string(),
        None => session.reference.tag().unwrap_or("latest").to_owned(),
    };
    let kind = HeaderValue::try_from(kind).map_err(|_| Error::invalid(format!("media type {kind:?}")))?;
    let url = session.url(&format!("manifests/{place}")).await?;
    let mut request = Outgoing::new(Method::PUT, url).header(CONTENT_TYPE, kind);
    request.body = Bytes::copy_from_slice(bytes);
    let mut backoff = Backoff::at_beginning(session.inner.config.retry_delay);
    retried(&mut backoff, drop, || async {
        let response = session.send(request.clone()).await?;
        if !matches!(response.status, StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED) {
            return Err(refusal(response, Asked::Push).await);
        }
        match response.headers.get("docker-content-digest").and_then(|value| value.to_str().ok()) {
            Some(other) if other != digest.as_str() => {
                let text = format!("the registry took the manifest for {}", crate::error::printable(other));
                Err(Error::mismatch(format!("{text}, it is {digest}")).into())
            }
            _ => Ok(()),
        }
    })
    .await?;
    Ok(())
}

/// Sees to it that the repository has a blob that another one of the registry's has.
pub(crate) async fn mount(session: &Session, digest: &Digest, from: &str) -> Result<()> {
    if upload::exists(session, digest).await? || upload::mount(session, digest, from).await? {
        return Ok(());
    }
    let text =
        format!("{digest} of {from} cannot be mounted into {}: push the image there first", session.reference.path());
    Err(Error::invalid(text))
}
