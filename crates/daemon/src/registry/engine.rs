//! The registry of a daemon: over the engine's storage, its images beside what is pushed. Owns how the engine's words for
//! images become the registry's, and its start and end. Must not decide what an image is called.

use std::collections::BTreeSet;
use std::time::Duration;

use brig_engine::{Engine, ErrorKind};
use brig_registry_server::{Acceptor, Digest, Registry, Settings, Shelf, ShelfError, Taken};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Options;

/// The images of an engine.
struct EngineShelf(brig_engine::Shelf);

fn from_engine(error: brig_engine::Error) -> ShelfError {
    ShelfError { is_clients: error.kind == ErrorKind::InvalidParameter, message: error.message }
}

impl Shelf for EngineShelf {
    fn repositories(&self) -> BTreeSet<String> {
        self.0.repositories()
    }

    fn tags(&self, repository: &str) -> BTreeSet<String> {
        self.0.tags(repository)
    }

    fn tops(&self, repository: &str) -> Vec<Digest> {
        self.0.tops(repository)
    }

    fn meaning(&self, repository: &str, tag: &str) -> Option<Digest> {
        self.0.meaning(repository, tag)
    }

    fn manifest(&self, repository: &str, tag: &str) -> Result<Option<Digest>, ShelfError> {
        // What is wrong with an image that is here is not the fault of whoever asks for it.
        let found = self.0.manifest(repository, tag);
        found.map_err(|error| ShelfError { is_clients: false, message: error.message })
    }

    fn take(&self, repository: &str, digest: &Digest, tags: &[String]) -> Result<Taken, ShelfError> {
        self.0.take(repository, digest, tags).map_err(from_engine).map(|taken| match taken {
            brig_engine::Taken::Image => Taken::Image,
            brig_engine::Taken::Other => Taken::Other,
            brig_engine::Taken::Broken(why) => Taken::Broken(why),
        })
    }

    fn untag(&self, repository: &str, tag: &str) -> Result<bool, ShelfError> {
        self.0.untag(repository, tag).map_err(from_engine)
    }

    fn forget(&self, digest: &Digest) -> Result<(), ShelfError> {
        self.0.forget(digest).map_err(from_engine)
    }
}

/// A daemon's registry while it is served.
pub(crate) struct Served {
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    upkeep: Option<JoinHandle<()>>,
}

impl Served {
    /// Listens, and serves from now on.
    ///
    /// # Errors
    /// Names the file or the address that cannot be used.
    pub(crate) async fn begin(options: &Options, engine: &Engine) -> Result<Served, String> {
        let shelf = brig_engine::Shelf::of(&engine.images);
        let store = shelf.store().clone();
        let settings = Settings { shelf: Some(Box::new(EngineShelf(shelf))), ..super::settings(options)? };
        let tls = super::acceptor(options)?;
        let registry = Registry::new(store, settings);
        let listener = super::listen(options, tls.is_some()).await?;
        let upkeep = super::keep_tidy(&registry, options);
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(async move { registry.serve(Acceptor { listener, tls }, stopped).await });
        Ok(Served { stop, serving, upkeep })
    }

    /// Takes no more requests; those that are under way have so long to end. What a client sent is not lost: it goes on where it was
    /// when the daemon is back.
    pub(crate) async fn end(self, patience: Duration) {
        self.stop.send_replace(true);
        let mut serving = self.serving;
        if tokio::time::timeout(patience, &mut serving).await.is_err() {
            serving.abort();
        }
        if let Some(upkeep) = self.upkeep {
            upkeep.abort();
        }
    }
}
