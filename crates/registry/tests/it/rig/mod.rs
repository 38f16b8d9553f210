//! Owns what the tests share: a registry with a hook for faults, images made on the spot, and a box with a store and a
//! client in it.

pub mod image;
pub mod server;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brig_oci::{Digest, Platform, Reference};
use brig_registry::{Auth, Client, Config, Error, Proxies, PullEvent, Pulled, PushEvent, Pushed};
use brig_store::Store;

pub use image::{Image, Layer, Packing};
pub use server::{Registry, Reply, Seen};

/// A store and a client in a directory of their own.
pub struct TestBox {
    pub dir: tempfile::TempDir,
    pub store: Store,
    pub client: Client,
    pub events: Arc<Mutex<Vec<PullEvent>>>,
}

/// Settings with short waits and no proxies.
pub fn quick() -> Config {
    Config {
        proxies: Proxies::default(),
        ca_dirs: Vec::new(),
        retry_delay: Duration::from_millis(20),
        stall_timeout: Duration::from_millis(1500),
        ..Config::default()
    }
}

impl TestBox {
    pub fn new() -> TestBox {
        TestBox::with(quick())
    }

    pub fn with(config: Config) -> TestBox {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("v1")).unwrap();
        TestBox { dir, store, client: Client::new(config).unwrap(), events: Arc::default() }
    }

    /// One whose store is on a file system of this size. Only in a mount namespace of one's own.
    pub fn new_on_small_disk(size: &str) -> TestBox {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size},mode=700");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "brig-test"])
            .arg(dir.path())
            .status();
        assert!(mounted.unwrap().success());
        let store = Store::open(&dir.path().join("v1")).unwrap();
        TestBox { dir, store, client: Client::new(quick()).unwrap(), events: Arc::default() }
    }

    pub async fn pull(&self, name: &str) -> Result<Pulled, Error> {
        self.pull_as(name, None, None).await
    }

    pub async fn pull_as(&self, name: &str, auth: Option<&Auth>, platform: Option<&Platform>) -> Result<Pulled, Error> {
        let reference = Reference::parse(name).unwrap();
        let record = |event| self.events.lock().unwrap().push(event);
        let pull = self.client.pull(&self.store, &reference, auth, platform, &record);
        tokio::time::timeout(Duration::from_secs(60), pull).await.expect("the pull ends")
    }

    /// Pushes the image to `name` and gives it that name.
    pub async fn push(&self, id: &Digest, name: &str, auth: Option<&Auth>) -> Result<(Pushed, Vec<PushEvent>), Error> {
        let reference = Reference::parse(name).unwrap();
        let events = Mutex::new(Vec::new());
        let record = |event| events.lock().unwrap().push(event);
        let push = self.client.push(&self.store, id, &reference, auth, &record);
        let pushed = tokio::time::timeout(Duration::from_secs(60), push).await.expect("the push ends")?;
        self.store.tag(&reference.canonical(), id, Some(&pushed.digest)).unwrap();
        Ok((pushed, events.into_inner().unwrap()))
    }

    /// The error of a pull that must fail and must leave nothing behind.
    pub async fn refused(&self, name: &str) -> Error {
        let error = self.pull(name).await.expect_err("the pull fails");
        self.assert_clean().await;
        error
    }

    /// No layer, no blob and no unfinished ingest.
    pub async fn assert_clean(&self) {
        self.assert_no_ingest().await;
        for kind in ["layers", "blobs/sha256"] {
            let left = names(&self.dir.path().join("v1").join(kind));
            assert!(left.is_empty(), "left in {kind}: {left:?}");
        }
    }

    /// Nothing half-made; removal may be running in the background.
    pub async fn assert_no_ingest(&self) {
        let ingest = self.dir.path().join("v1/ingest");
        eventually(|| format!("unfinished: {:?}", names(&ingest)), || names(&ingest).is_empty()).await;
    }

    /// No blob that is not whole; one that was given up goes in the background.
    pub async fn assert_no_partial(&self) {
        let partial = self.dir.path().join("v1/partial");
        eventually(|| format!("unfinished: {:?}", names(&partial)), || names(&partial).is_empty()).await;
    }

    pub fn layers(&self) -> usize {
        names(&self.dir.path().join("v1/layers")).len()
    }

    pub fn events(&self) -> Vec<PullEvent> {
        self.events.lock().unwrap().clone()
    }
}

/// Asks until something is so; for at most twenty seconds, then it fails with what `state` says.
pub async fn eventually(state: impl Fn() -> String, is_so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < until, "{}", state());
        // Files and requests of others, and tasks that were dropped: none of them tells.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
}
