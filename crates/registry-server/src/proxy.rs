//! Standing in for another registry: what is not here, or what a tag means now, is asked there, and kept.
//! Owns when that registry is asked. Must not give out what it has not verified: everything goes through the store.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use brig_oci::{Digest, Reference};
use brig_registry::documents::fetch;
use brig_registry::{Auth, Client, Config, Error, ErrorKind, fetch_blob};
use brig_store::{Lease, PartialReader, Source};
use hyper::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::handlers::{Ask, keep_manifest};
use crate::refusal::Refusal;
use crate::registry::{Inner, Registry};
use crate::turns::Turn;

/// The registry behind a cache.
pub struct Proxy {
    client: Client,
    host: String,
    auth: Option<Auth>,
    /// Blobs that are being fetched, each for a repository: whoever wants one too follows it.
    fetching: Mutex<HashMap<(String, Digest), watch::Receiver<Stage>>>,
    /// Room for those who are given one while it arrives.
    followers: Arc<Semaphore>,
}

/// A blob of at least this length is given out while it arrives, in bytes: of a smaller one it is known first that it is whole.
const LARGE: u64 = 1 << 20;
/// How many clients are given a blob while it arrives: each holds a thread that waits, and there are only so many.
const FOLLOWERS: usize = 64;
/// How long a fetch waits for another one of the same blob.
const ANOTHER: Duration = Duration::from_secs(600);

/// Where a fetch is.
#[derive(Clone)]
enum Stage {
    Asking,
    Arriving(Arc<Arriving>),
    /// As [`Proxy::judge`] has it.
    Ended(Result<bool, Refusal>),
}

/// A blob on its way in.
struct Arriving {
    reader: PartialReader,
    size: u64,
}

/// A blob that was asked for.
pub(crate) enum Had {
    /// It is here.
    Kept,
    /// It is not, and the other registry could not be asked.
    Away,
    /// It arrives, with its length in bytes. Its end fails if it is not what was asked for.
    Arriving(Along, u64),
}

/// Reads a blob while it arrives.
pub(crate) struct Along {
    reader: PartialReader,
    _place: OwnedSemaphorePermit,
}

impl Read for Along {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl Proxy {
    /// `address` is `host[:port]` or `https://host[:port]`; `docker.io` is Docker Hub. Plain HTTP is spoken with this machine
    /// only, and where the address says `http://`.
    ///
    /// # Errors
    /// Names what is wrong with the address.
    pub fn new(address: &str, auth: Option<Auth>) -> Result<Proxy, String> {
        let (scheme, host) = address.split_once("://").unwrap_or(("https", address));
        let host = host.trim_end_matches('/');
        let insecure = match scheme {
            "https" => Vec::new(),
            "http" => vec![host.to_owned()],
            _ => return Err(format!("{address}: a registry is reached by https:// or http://")),
        };
        Reference::parse(&format!("{host}/name:tag"))
            .ok()
            .filter(|reference| reference.domain() == host)
            .ok_or_else(|| format!("{address}: not the address of a registry, which is host[:port]"))?;
        let client = Client::new(Config { insecure, ..Config::default() }).map_err(|error| error.message)?;
        Ok(Proxy {
            client,
            host: host.to_owned(),
            auth,
            fetching: Mutex::default(),
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
        })
    }

    fn reference(&self, name: &str, rest: &str) -> Result<Reference, Refusal> {
        // The path of an image of Docker Hub's own has a word before it that nobody writes.
        let text = format!("{}/{name}{rest}", self.host);
        Reference::parse(&text).map_err(|error| Refusal::manifest_invalid(error.to_string()))
    }

    /// Asks what a tag means there, or for the manifest with a digest, and keeps it. `Ok(false)`: it could not be asked.
    pub(crate) async fn manifest(&self, registry: &Registry, name: &str, reference: &str) -> Result<bool, Refusal> {
        let separator = if reference.contains(':') { '@' } else { ':' };
        let wanted = self.reference(name, &format!("{separator}{reference}"))?;
        let named = match fetch(&self.client, &registry.inner.store, &wanted, self.auth.as_ref()).await {
            Ok(named) => named,
            Err(error) => return self.judge(&error, name),
        };
        let (name, tag) = (name.to_owned(), wanted.tag().map(str::to_owned));
        let keep = move |inner: &Inner| keep_manifest(inner, &name, &named.digest, &named.bytes, tag, Source::Registry);
        registry.blocking(keep).await?;
        Ok(true)
    }

    /// Fetches a blob and keeps it, once for all who ask meanwhile. With `along` a large one is given out while it arrives. The
    /// fetch goes on though its client leaves.
    pub(crate) async fn blob(
        self: &Arc<Self>,
        ask: &Ask,
        name: &str,
        digest: &Digest,
        along: bool,
    ) -> Result<Had, Refusal> {
        let key = (name.to_owned(), digest.clone());
        let mut stage = match self.running(&key) {
            Some(stage) => stage,
            None => {
                // Outlives the request, as the fetch does.
                let turn = ask.registry.inner.fetching.take(ask.peer, ANOTHER).await?;
                self.begin(&ask.registry, key, turn)
            }
        };
        loop {
            match stage.borrow_and_update().clone() {
                Stage::Ended(outcome) => return outcome.map(|kept| if kept { Had::Kept } else { Had::Away }),
                Stage::Arriving(arriving) if along => {
                    if let Ok(place) = self.followers.clone().try_acquire_owned() {
                        let size = arriving.size;
                        return Ok(Had::Arriving(Along { reader: arriving.reader.again(), _place: place }, size));
                    }
                }
                Stage::Arriving(_) | Stage::Asking => {}
            }
            stage.changed().await.map_err(Refusal::internal)?;
        }
    }

    /// The fetch of a blob that is under way.
    fn running(&self, key: &(String, Digest)) -> Option<watch::Receiver<Stage>> {
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Begins to fetch a blob, unless that is under way.
    fn begin(self: &Arc<Self>, registry: &Registry, key: (String, Digest), turn: Turn) -> watch::Receiver<Stage> {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = fetching.get(&key) {
            return running.clone();
        }
        let (tell, stage) = watch::channel(Stage::Asking);
        fetching.insert(key.clone(), stage.clone());
        let (proxy, registry) = (self.clone(), registry.clone());
        tokio::spawn(async move {
            let outcome = proxy.fetch(&registry, &key.0, &key.1, &tell).await;
            proxy.fetching.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            tell.send_replace(Stage::Ended(outcome));
            drop(turn);
        });
        stage
    }

    /// Whether it could be fetched.
    async fn fetch(
        &self,
        registry: &Registry,
        name: &str,
        digest: &Digest,
        tell: &watch::Sender<Stage>,
    ) -> Result<bool, Refusal> {
        let (repository, wanted) = (name.to_owned(), digest.clone());
        // One that has just ended may have brought it.
        let is_here = move |inner: &crate::registry::Inner| {
            let linked = inner.repositories.blob_size(&repository, &wanted)?;
            Ok(linked.is_some_and(|size| inner.store.blob_size(&wanted) == Some(size)))
        };
        if registry.blocking(is_here).await? {
            return Ok(true);
        }
        let partial_name = format!("proxy-{}-{}", digest.algorithm(), digest.hex());
        // The same for another repository, where somebody else may see it, is waited for.
        let partial = registry
            .blocking(move |inner| Ok(inner.store.partials().open_within(&partial_name, ANOTHER)?))
            .await
            .map(Arc::new)?;
        let wanted = self.reference(name, &format!("@{digest}"))?;
        let begun = |size: Option<u64>| {
            if let Some(size) = size.filter(|size| *size >= LARGE) {
                tell.send_replace(Stage::Arriving(Arc::new(Arriving { reader: partial.reader(), size })));
            }
        };
        if let Err(error) = fetch_blob(&self.client, &wanted, digest, &partial, self.auth.as_ref(), &begun).await {
            partial.fail(std::io::ErrorKind::ConnectionAborted, error.message.clone());
            return self.judge(&error, name);
        }
        let (repository, digest) = (name.to_owned(), digest.clone());
        registry
            .blocking(move |inner| {
                let partial = Arc::into_inner(partial)
                    .ok_or_else(|| Refusal::internal("a blob from elsewhere is still being written"))?;
                let _lease = Lease::begin(&inner.store);
                // Another digest there is no fault of the client's.
                let size = partial.commit(&digest).map_err(Refusal::internal)?;
                Ok(inner.repositories.link_blob(&repository, &digest, size)?)
            })
            .await?;
        Ok(true)
    }

    /// Whether what is here may be given out instead: not if the other registry has said that there is no such thing.
    fn judge(&self, error: &Error, name: &str) -> Result<bool, Refusal> {
        match error.kind {
            ErrorKind::NotFound => Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "MANIFEST_UNKNOWN",
                format!("{} does not have it: {}", self.host, error.message),
            )),
            _ => {
                tracing::warn!("{} could not be asked for {name}, what is here will do: {error}", self.host);
                Ok(false)
            }
        }
    }

    /// Nothing is here and nothing could be had.
    pub(crate) fn away(&self) -> Refusal {
        let text = format!("it is not here yet, and {} cannot be asked for it: the log has the cause", self.host);
        Refusal::new(StatusCode::BAD_GATEWAY, "UNKNOWN", text)
    }
}
