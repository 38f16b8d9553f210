//! Pulling images, and checking credentials. Owns Docker's progress lines; the bytes are the registry's and the store's.

use std::sync::atomic::Ordering;

use brig_api::progress::{Detail, ErrorDetail, Message};
use brig_api::system::{AuthConfig, AuthResponse};
use brig_oci::{Platform, Reference};
use brig_registry::{Auth, PullEvent};
use brig_store::Lease;
use tokio::sync::mpsc;

use super::{Images, platforms};
use crate::error::{Error, ErrorKind, Result, from_store};

/// How many lines may wait for a slow client before the work waits too.
pub(super) const LINES: usize = 256;

/// A client's progress lines.
pub type Progress = mpsc::Receiver<Message>;

/// What stands for all platforms where one could be named.
const ALL_PLATFORMS: &str = "all";

/// For which platforms a pull is.
enum Wanted {
    /// The one that suits this machine.
    Here,
    One(Platform),
    /// All that the name leads to.
    All,
}

pub(super) fn status(text: impl Into<String>, id: &str) -> Message {
    Message { status: text.into(), id: id.into(), ..Message::default() }
}

pub(super) fn with_detail(text: &str, id: &str, current: u64, total: u64) -> Message {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let detail = Detail { current: number(current), total: number(total), ..Detail::default() };
    Message { progress_detail: Some(detail), ..status(text, id) }
}

pub(super) fn failure(message: &str) -> Message {
    Message {
        error: message.into(),
        error_detail: Some(ErrorDetail { code: 0, message: message.into() }),
        ..Message::default()
    }
}

impl Images {
    /// Pulls an image. What keeps it from beginning (no such image, no access) is the error; what happens later is the
    /// last line. Dropping the receiver ends the pull. `platform` is one as text, or `all` for everything that the name
    /// leads to, which is then kept as a whole.
    pub async fn pull(
        &self,
        name: &str,
        tag: Option<&str>,
        platform: Option<&str>,
        auth: Option<AuthConfig>,
    ) -> Result<Progress> {
        let reference = pull_reference(name, tag)?;
        let wanted = match platform.filter(|text| !text.is_empty()) {
            None if self.all_platforms.load(Ordering::Relaxed) => Wanted::All,
            None => Wanted::Here,
            Some(ALL_PLATFORMS) => Wanted::All,
            Some(text) => Wanted::One(Platform::parse(text).map_err(|e| Error::invalid(e.to_string()))?),
        };
        let (sender, mut events) = mpsc::channel::<Message>(LINES);
        let images = self.clone();
        let mut work = tokio::spawn(async move {
            let auth = auth.map(to_auth);
            let one = reference.tag().is_some() || reference.digest().is_some();
            let pulled = match one {
                true => images.pull_into_store(&reference, auth.as_ref(), &wanted, &sender).await,
                false => images.pull_all_tags(&reference, auth.as_ref(), &wanted, &sender).await,
            };
            pulled.map(|last| (sender, last))
        });
        // The first line means that the image was found; an error before it is the answer.
        let first = tokio::select! {
            biased;
            first = events.recv() => first,
            result = &mut work => {
                let (sender, last) = finished(result)?;
                let (relay, lines) = mpsc::channel(LINES);
                drop(sender);
                tokio::spawn(async move {
                    while let Some(line) = events.recv().await {
                        if relay.send(line).await.is_err() { return; }
                    }
                    for line in last {
                        if relay.send(line).await.is_err() { return; }
                    }
                });
                return Ok(lines);
            }
        };
        let Some(first) = first else {
            return finished(work.await).map(|_| mpsc::channel(1).1);
        };
        let (relay, lines) = mpsc::channel(LINES);
        tokio::spawn(relay_lines(first, events, work, relay));
        Ok(lines)
    }

    async fn pull_into_store(
        &self,
        reference: &Reference,
        auth: Option<&Auth>,
        wanted: &Wanted,
        lines: &mpsc::Sender<Message>,
    ) -> Result<Vec<Message>> {
        let before = self.store.resolve(&reference.canonical());
        let named = |digest| self.find_by_digest(reference, digest).is_some();
        let had_digest = before.is_none() && reference.digest().is_some_and(named);
        // Until the name is there nothing leads to what it came with.
        let _lease = Lease::begin(&self.store);
        let show = |event: PullEvent| {
            if let Some(mut line) = event_line(event) {
                if line.status.starts_with("Pulling from ") && reference.digest().is_some() {
                    line.id = reference.familiar();
                }
                // A client that reads too slowly misses a step of a progress bar, nothing else.
                lines.try_send(line).ok();
            }
        };
        let one = match wanted {
            Wanted::All => Err(platforms::pull(self, reference, auth, &show).await?),
            Wanted::Here => Ok(None),
            Wanted::One(platform) => Ok(Some(platform)),
        };
        let (digest, image) = match one {
            Err(pulled) => pulled,
            Ok(platform) => {
                let pulled = self.client.pull(&self.store, reference, auth, platform, &show).await;
                let pulled = pulled.map_err(from_registry)?;
                (pulled.manifest_digest, pulled.image_id)
            }
        };
        self.store.tag(&reference.canonical(), &image, Some(&digest)).map_err(from_store)?;
        self.emit("pull", &reference.familiar(), &reference.familiar_name());
        let unchanged = before.map_or(had_digest, |tag| tag.image == image);
        let word = if unchanged { "Image is up to date for" } else { "Downloaded newer image for" };
        Ok(vec![
            status(format!("Digest: {digest}"), ""),
            status(format!("Status: {word} {}", reference.familiar()), ""),
        ])
    }

    /// Pulls every tag of a repository, one after the other: their layers are mostly the same. Tags that are no image for
    /// this machine are named and passed over.
    async fn pull_all_tags(
        &self,
        repository: &Reference,
        auth: Option<&Auth>,
        wanted: &Wanted,
        lines: &mpsc::Sender<Message>,
    ) -> Result<Vec<Message>> {
        let tags = self.client.tags(repository, auth).await.map_err(from_registry)?;
        let (mut pulled, mut refused) = (false, None);
        let mut newer = false;
        for tag in tags {
            let reference = repository.with_tag(&tag).map_err(|error| Error::invalid(error.to_string()))?;
            let said = match self.pull_into_store(&reference, auth, wanted, lines).await {
                Ok(said) => {
                    pulled = true;
                    newer |= said.iter().any(|line| line.status.contains("Downloaded newer"));
                    said.into_iter().filter(|line| line.status.starts_with("Digest: ")).collect()
                }
                Err(error) if matches!(error.kind, ErrorKind::InvalidParameter | ErrorKind::NotFound) => {
                    let said = vec![status(format!("Skipped: {}", error.message), &tag)];
                    refused.get_or_insert(error);
                    said
                }
                Err(error) => return Err(error),
            };
            for line in said {
                if lines.send(line).await.is_err() {
                    return Ok(Vec::new());
                }
            }
        }
        match (pulled, refused) {
            (false, Some(error)) => Err(error),
            (false, None) => Err(Error::not_found(format!("repository {} has no tags", repository.familiar_name()))),
            (true, _) => {
                let word = if newer { "Downloaded newer image for" } else { "Image is up to date for" };
                Ok(vec![status(format!("Status: {word} {}", repository.familiar_name()), "")])
            }
        }
    }

    /// Asks a registry whether it knows these credentials.
    pub async fn check_auth(&self, auth: AuthConfig) -> Result<AuthResponse> {
        let host = auth.serveraddress.clone();
        let token = self.client.check_auth(&host, &to_auth(auth)).await.map_err(from_registry)?;
        Ok(AuthResponse { identity_token: token.unwrap_or_default(), status: "Login Succeeded".into() })
    }
}

fn pull_reference(name: &str, tag: Option<&str>) -> Result<Reference> {
    let reference = Reference::parse_bare(name).map_err(|e| Error::invalid(e.to_string()))?;
    if reference.familiar_name() == "scratch" {
        return Err(Error::invalid("'scratch' is a reserved name"));
    }
    match tag.filter(|tag| !tag.is_empty()) {
        Some(digest) if digest.contains(':') => {
            let digest = brig_oci::Digest::parse(digest).map_err(|e| Error::invalid(e.to_string()))?;
            Ok(reference.with_digest(&digest))
        }
        Some(tag) => reference.with_tag(tag).map_err(|e| Error::invalid(e.to_string())),
        // Without either it is all tags that are meant.
        None => Ok(reference),
    }
}

type Pull = std::result::Result<Result<(mpsc::Sender<Message>, Vec<Message>)>, tokio::task::JoinError>;

fn finished(result: Pull) -> Result<(mpsc::Sender<Message>, Vec<Message>)> {
    result.unwrap_or_else(|e| Err(Error::system(format!("the pull was cut short: {e}"))))
}

/// Passes lines on; a client that leaves ends the pull.
async fn relay_lines(
    first: Message,
    mut events: mpsc::Receiver<Message>,
    mut work: tokio::task::JoinHandle<Result<(mpsc::Sender<Message>, Vec<Message>)>>,
    relay: mpsc::Sender<Message>,
) {
    let mut next = Some(first);
    let mut ended = None;
    loop {
        if let Some(line) = next.take()
            && relay.send(line).await.is_err()
        {
            work.abort();
            return;
        }
        tokio::select! {
            biased;
            line = events.recv() => match line {
                Some(line) => next = Some(line),
                // The sender is gone: the work has ended, or its result holds the sender and is below.
                None => break,
            },
            result = &mut work, if ended.is_none() => {
                // Dropping the sender that came with the result ends the events above.
                ended = Some(finished(result).map(|(_, last)| last));
            }
            () = relay.closed() => {
                work.abort();
                return;
            }
        }
    }
    let last = match ended {
        Some(last) => last,
        None => finished(work.await).map(|(_, last)| last),
    };
    let lines = last.unwrap_or_else(|e| vec![failure(&e.message)]);
    for line in lines {
        if relay.send(line).await.is_err() {
            return;
        }
    }
}

fn event_line(event: PullEvent) -> Option<Message> {
    Some(match event {
        PullEvent::Resolved { tag, repository } => status(format!("Pulling from {repository}"), &tag),
        PullEvent::LayerQueued { id, .. } => with_detail("Pulling fs layer", &id, 0, 0),
        PullEvent::AlreadyExists { id } => with_detail("Already exists", &id, 0, 0),
        PullEvent::Downloading { id, current, total } => with_detail("Downloading", &id, current, total),
        PullEvent::DownloadComplete { id } => with_detail("Download complete", &id, 0, 0),
        PullEvent::Extracting { id, current, total } => with_detail("Extracting", &id, current, total),
        PullEvent::PullComplete { id } => with_detail("Pull complete", &id, 0, 0),
        PullEvent::Retrying { id, in_seconds } => status(format!("Retrying in {in_seconds} seconds"), &id),
        // Said with the status at the end, when the tag is there too.
        PullEvent::Digest(_) => return None,
    })
}

pub(super) fn to_auth(auth: AuthConfig) -> Auth {
    Auth {
        username: auth.username,
        password: auth.password,
        identity_token: auth.identitytoken,
        registry_token: auth.registrytoken,
    }
}

pub(super) fn from_registry(e: brig_registry::Error) -> Error {
    use brig_registry::ErrorKind as K;
    let kind = match e.kind {
        // Docker says "not found" to whoever may not see an image.
        K::NotFound | K::Denied => ErrorKind::NotFound,
        K::Unauthorized => ErrorKind::Unauthorized,
        K::Invalid => ErrorKind::InvalidParameter,
        K::RateLimited | K::Mismatch | K::Network | K::Timeout | K::Storage => ErrorKind::System,
    };
    Error::new(kind, e.message)
}
