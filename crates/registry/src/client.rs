//! Owns the client: the settings, which may change, and everything that pulls share (connections, tokens, running downloads, the download
//! limit), and logging in. Pulling itself is `pull`'s.

use std::sync::{Arc, PoisonError, RwLock};

use brig_oci::Reference;
use brig_store::Place;
use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::answer::{Asked, refusal};
use crate::auth::{Grant, Tokens};
use crate::config::{Auth, Config, is_hub};
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::{self, Fetch};
use crate::lists::{self, Found};
use crate::net::dial::Dialer;
use crate::net::resolver::Resolver;
use crate::net::tls::Tls;
use crate::net::transport::{Outgoing, Transport};
use crate::net::url::Url;
use crate::pull::describe::{self, Described};
use crate::pull::flight::Flights;

/// A client for any number of registries and pulls at once. Cheap to clone; all clones share connections, tokens, the
/// download limit and running downloads, so one client belongs to one store. Needs a tokio runtime.
#[derive(Clone)]
pub struct Client {
    current: Arc<RwLock<Arc<Inner>>>,
}

/// A client with the settings of one moment: see [`Client::settled`].
pub struct Settled(Arc<Inner>);

impl Settled {
    /// Asks for the file at `url` (`http` or `https`, without a scheme `http`; a user and password before the host are sent
    /// to that host only). Redirects are followed, never from https to http.
    ///
    /// # Errors
    /// Whatever keeps the file from coming, in the words of Docker's `import`.
    pub async fn fetch(&self, url: &str) -> Result<Fetch<'_>> {
        fetch::fetch(&self.0, url).await
    }
}

/// What the clones of a client share, and whatever is under way keeps to its end.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) transport: Transport,
    pub(crate) tokens: Tokens,
    pub(crate) flights: Arc<Flights>,
    pub(crate) limits: Limits,
}

/// How much is done at once.
#[derive(Clone)]
pub(crate) struct Limits {
    pub(crate) downloads: Arc<Semaphore>,
    /// Layers that are unpacked, each in a process: those that wait for their downloads, which may be for ever, and one for
    /// each processor.
    pub(crate) unpacking: Arc<Semaphore>,
}

impl Limits {
    fn new(downloads: usize) -> Limits {
        let downloads = downloads.clamp(1, 64);
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Limits {
            downloads: Arc::new(Semaphore::new(downloads)),
            unpacking: Arc::new(Semaphore::new(downloads + processors)),
        }
    }
}

impl Client {
    /// A client with these settings. Fails if a setting cannot be used, naming it.
    pub fn new(config: Config) -> Result<Client> {
        let inner = inner(config, None)?;
        Ok(Client { current: Arc::new(RwLock::new(Arc::new(inner))) })
    }

    /// Other settings from now on, for all clones. What is under way goes on with those that it began with; connections and
    /// tokens that were had by the old ones are not used any more. Fails, and changes nothing, if a setting cannot be used.
    pub fn reconfigure(&self, config: Config) -> Result<()> {
        let new = Arc::new(inner(config, Some(&self.inner()))?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// What holds now.
    pub(crate) fn inner(&self) -> Arc<Inner> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Verifies credentials for `login`. `host` is as in image references; Docker Hub's names are known. Returns the
    /// identity token to keep instead of the password, if the registry gave one.
    pub async fn check_auth(&self, host: &str, auth: &Auth) -> Result<Option<String>> {
        let domain = host.trim_end_matches('/');
        let domain = if is_hub(host) || is_hub(domain) { "docker.io" } else { strip_scheme(domain) };
        let inner = self.inner();
        let endpoint = inner.config.registry(domain).map_err(Error::invalid)?;
        let origin = inner.choose_origin(&endpoint).await?;
        let request = Outgoing::new(Method::GET, Url::new(&origin, "/v2/"));
        let grant = Grant { origin, auth: Some(auth.clone()), scope: String::new() };
        // A login is a question, not a use: what an earlier one was told must not answer it.
        inner.tokens.forget(&grant);
        let (response, fresh) = inner.send_authorized(&grant, endpoint.trust, request).await?;
        match response.status {
            StatusCode::OK => Ok(fresh.and_then(|f| f.identity_token)),
            StatusCode::UNAUTHORIZED => {
                let text = format!("{}: unauthorized: incorrect username or password", response.context());
                Err(Error::new(ErrorKind::Unauthorized, text))
            }
            _ => Err(refusal(response, Asked::Login).await.into()),
        }
    }

    /// The tags of the repository that `reference` names, in the registry's order, each once. The registry itself is
    /// asked first, because a mirror may know only some; where it cannot be reached its mirrors are.
    pub async fn tags(&self, reference: &Reference, auth: Option<&Auth>) -> Result<Vec<String>> {
        lists::tags(&self.inner(), reference, auth).await
    }

    /// Repositories of the registry `domain` that have to do with `term`, at most `limit`: by Docker's search protocol or,
    /// where the registry does not have that, those of its catalog whose name contains the term.
    pub async fn search(&self, domain: &str, term: &str, limit: usize, auth: Option<&Auth>) -> Result<Vec<Found>> {
        lists::search(&self.inner(), domain, term, limit, auth).await
    }

    /// Waits until one more layer may be unpacked, among those that pulls unpack, and takes that place until the result is
    /// dropped. Blocks; `runtime` is the one that pulls run on.
    pub fn place_to_unpack(&self, runtime: &Handle) -> Place {
        let places = self.inner().limits.unpacking.clone();
        Box::new(runtime.block_on(places.acquire_owned()))
    }

    /// The client with the settings that it has now, whatever becomes of them.
    pub fn settled(&self) -> Settled {
        Settled(self.inner())
    }

    /// Asks what `reference` means at its registry or a mirror of that. Nothing is stored.
    pub async fn describe(&self, reference: &Reference, auth: Option<&Auth>) -> Result<Described> {
        describe::describe(&self.inner(), reference, auth).await
    }
}

/// Settings put to use. Of those `before` the running downloads stay shared, and their limit unless it changes.
fn inner(config: Config, before: Option<&Inner>) -> Result<Inner> {
    let user_agent = HeaderValue::try_from(config.user_agent.as_str())
        .map_err(|_| Error::invalid(format!("user agent {:?} is not a header value", config.user_agent)))?;
    config.check().map_err(Error::invalid)?;
    let dialer = Dialer {
        resolver: Resolver::system(),
        tls: Arc::new(Tls::new(config.ca_dirs.clone(), config.authorities())),
        proxies: config.proxies.clone(),
    };
    let at_once = config.max_concurrent_downloads;
    let limits = match before {
        Some(before) if before.config.max_concurrent_downloads == at_once => before.limits.clone(),
        _ => Limits::new(at_once),
    };
    Ok(Inner {
        transport: Transport::new(dialer, user_agent, config.stall_timeout),
        tokens: Tokens::default(),
        flights: before.map_or_else(Arc::default, |before| Arc::clone(&before.flights)),
        limits,
        config,
    })
}

/// `docker login` accepts URLs.
fn strip_scheme(host: &str) -> &str {
    let rest = host.split_once("://").map_or(host, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_settings_are_named() {
        let refused = |config: Config| Client::new(config).err().map(|e| e.message).unwrap_or_default();
        assert!(refused(Config { mirrors: vec!["ftp://m".into()], ..Config::default() }).contains("ftp://m"));
        assert!(refused(Config { user_agent: "a\nb".into(), ..Config::default() }).contains("user agent"));
        assert_eq!(strip_scheme("https://h:1/v2/"), "h:1");
    }
}
