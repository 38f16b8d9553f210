//! Pushing images. Owns what names mean to `push` and Docker's progress lines; the bytes are the registry's.

use brig_api::progress::Message;
use brig_api::system::AuthConfig;
use brig_oci::{Digest, Platform, Reference};
use brig_registry::{Auth, PushEvent};
use brig_store::Lease;
use serde_json::json;
use tokio::sync::mpsc;

use super::transfer::{LINES, Progress, failure, from_registry, status, to_auth, with_detail};
use super::{Images, platforms};
use crate::error::{Error, Result, from_store};

/// Pushes a tag, or without one all tags of a repository. What goes wrong is the last line, as in Docker. Dropping
/// the receiver ends the push.
pub(super) fn push(
    images: &Images,
    name: &str,
    tag: &str,
    platform: &str,
    auth: Option<AuthConfig>,
) -> Result<Progress> {
    let invalid = |error: brig_oci::ReferenceError| Error::invalid(error.to_string());
    let named = Reference::parse_bare(name).map_err(invalid)?;
    if named.digest().is_some() || tag.contains(':') {
        return Err(Error::invalid("cannot push a digest reference"));
    }
    let target = if tag.is_empty() { named } else { named.with_tag(tag).map_err(invalid)? };
    let platform = (!platform.is_empty()).then(|| super::archive::platform(platform)).transpose()?;
    let (sender, lines) = mpsc::channel::<Message>(LINES);
    let images = images.clone();
    let auth = auth.map(to_auth);
    tokio::spawn(async move {
        let work = push_all(&images, &target, platform.as_ref(), auth.as_ref(), &sender);
        let result = tokio::select! {
            result = work => result,
            () = sender.closed() => return,
        };
        if let Err(error) = result {
            sender.send(failure(&error.message)).await.ok();
        }
    });
    Ok(lines)
}

async fn push_all(
    images: &Images,
    target: &Reference,
    platform: Option<&Platform>,
    auth: Option<&Auth>,
    lines: &mpsc::Sender<Message>,
) -> Result<()> {
    let say = |line: Message| async { lines.send(line).await.ok() };
    say(status(format!("The push refers to repository [{}]", target.name()), "")).await;
    let tags = images.store.tags().into_iter().filter_map(|tag| Some((Reference::parse(&tag.name).ok()?, tag.image)));
    let ours: Vec<(Reference, Digest)> = tags.filter(|(name, _)| name.name() == target.name()).collect();
    if ours.is_empty() {
        let text = format!("An image does not exist locally with the tag: {}", target.familiar_name());
        return Err(Error::not_found(text));
    }
    let wanted: Vec<_> =
        ours.into_iter().filter(|(name, _)| target.tag().is_none() || name.tag() == target.tag()).collect();
    if wanted.is_empty() {
        return Err(Error::not_found(format!("tag does not exist: {}", target.familiar())));
    }
    for (name, id) in wanted {
        let canonical = name.canonical();
        let family = images.find_family(&canonical)?.1.filter(|it| platform.is_none() && platforms::goes_whole(it));
        let id = match platform {
            Some(_) => images.find_for(&canonical, platform)?.id,
            None => id,
        };
        let show = |event: PushEvent| {
            // A client that reads too slowly misses a step of a progress bar, nothing else.
            lines.try_send(event_line(event)).ok();
        };
        // The manifest that is made for a push is nobody's until the name leads to it.
        let _lease = Lease::begin(&images.store);
        let pushed = match &family {
            Some(family) => platforms::push(images, family, &name, auth, &show).await?,
            None => images.client.push(&images.store, &id, &name, auth, &show).await.map_err(from_registry)?,
        };
        // Whoever gave the name away meanwhile has the last word.
        if images.store.resolve(&name.canonical()).is_some_and(|tag| tag.image == id) {
            images.store.tag(&name.canonical(), &id, Some(&pushed.digest)).map_err(from_store)?;
        }
        images.emit("push", &name.familiar(), &name.familiar_name());
        let tag = name.tag().unwrap_or("latest");
        say(status(format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size), "")).await;
        let aux = json!({ "Tag": tag, "Digest": pushed.digest, "Size": pushed.size });
        say(Message { aux: Some(aux), ..with_detail("", "", 0, 0) }).await;
    }
    Ok(())
}

fn event_line(event: PushEvent) -> Message {
    match event {
        PushEvent::Preparing { id } => with_detail("Preparing", &id, 0, 0),
        PushEvent::AlreadyExists { id } => with_detail("Layer already exists", &id, 0, 0),
        PushEvent::Mounted { id, from } => with_detail(&format!("Mounted from {from}"), &id, 0, 0),
        PushEvent::Skipped { id } => with_detail("Skipped foreign layer", &id, 0, 0),
        PushEvent::Pushing { id, current, total } => with_detail("Pushing", &id, current, total),
        PushEvent::Retrying { id, in_seconds } => with_detail(&format!("Retrying in {in_seconds} seconds"), &id, 0, 0),
        PushEvent::Pushed { id } => with_detail("Pushed", &id, 0, 0),
    }
}
