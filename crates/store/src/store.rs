//! Opening the store, and its blobs and layers.
//! Owns the directories and the lock. What images, tags and writable layers mean is in `images` and `active`.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use brig_oci::Digest;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::catalog::{Catalog, LayerInfo, SCHEMA};
use crate::copy::Copier;
use crate::database::Database;
use crate::digest::{self, Hasher, HashingReader};
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::layer::LayerIngest;
use crate::lock::Lock;
use crate::packed::Packer;
use crate::partial::{self, PartialDir, Partials};
use crate::quarantine::Quarantine;
use crate::recipe::LayerTar;
use crate::repositories;
use crate::reserve::{RESERVE_SIZE, Reserve};
use crate::trash::Trash;
use crate::unpacker::Unpacker;
use crate::upkeep::Upkeep;
use crate::usage::Measured;
use crate::{lease, lock, rescue, sweep};

/// The largest blob that is kept whole, in bytes: configurations, manifests and indexes, never layers.
pub const MAX_BLOB_SIZE: u64 = 16 * 1024 * 1024;

/// How a store works.
#[derive(Debug, Default)]
pub struct Options {
    /// The confined process in which layers are unpacked; without it they are in the process that has the store open.
    pub unpacker: Option<Unpacker>,
}

/// The store: blobs, layers, images and writable layers beneath one directory. Cheap to clone, blocking.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) dirs: Dirs,
    pub(crate) database: Arc<Database>,
    catalog: RwLock<Catalog>,
    pub(crate) trash: Trash,
    pub(crate) partials: PartialDir,
    pub(crate) packer: Packer,
    /// Once everything that keeps its records in the database is up.
    pub(crate) copier: OnceLock<Copier>,
    pub(crate) reserve: Arc<Reserve>,
    pub(crate) quarantine: Quarantine,
    /// Held while what is reachable is decided or added to, so that nothing in use is collected.
    gate: Mutex<()>,
    /// Held while layers are compared with what they should be.
    pub(crate) proving: Mutex<()>,
    /// Held while freed space is measured.
    pub(crate) freeing: Mutex<()>,
    /// What layers take of the disk, as far as it was measured.
    pub(crate) measured: Mutex<Measured>,
    /// Where layers are unpacked, if not here.
    pub(crate) unpacker: Option<Unpacker>,
    /// Locked for as long as the store is open.
    _lock: Lock,
}

/// The directories of the store, open.
pub(crate) struct Dirs {
    pub(crate) sha256: OwnedFd,
    pub(crate) sha512: OwnedFd,
    pub(crate) ingest: OwnedFd,
    pub(crate) layers: OwnedFd,
    pub(crate) active: OwnedFd,
}

impl Store {
    /// Opens the store in `root`, making what is missing. Work that an earlier process left unfinished is removed; what is
    /// damaged is said in the log and does not keep it from opening.
    /// Fails with [`ErrorKind::Busy`] while another process has it open.
    pub fn open(root: &Path) -> Result<Store> {
        Store::open_with(root, Options::default())
    }

    /// As [`Store::open`], with more said about how it works.
    pub fn open_with(root: &Path, options: Options) -> Result<Store> {
        std::fs::create_dir_all(root.parent().unwrap_or(root))
            .map_err(|error| Error::io(format!("mkdir {}", root.display()), error))?;
        drop(durable::directory(root)?);
        sweep::clear_lock(root)?;
        let lock = lock::take(root)?;
        let quarantine = Quarantine::new(root);
        sweep::clear_the_way(root, &quarantine)?;
        let make = |name: &str| durable::directory(&root.join(name));
        drop(make("blobs")?);
        let dirs = Dirs {
            sha256: make("blobs/sha256")?,
            sha512: make("blobs/sha512")?,
            ingest: make("ingest")?,
            layers: make("layers")?,
            active: make("active")?,
        };
        let partials = PartialDir::open(&root.join("partial"))?;
        let reserve = Arc::new(Reserve::open(root, RESERVE_SIZE)?);
        let trash = Trash::open(&root.join("trash"), reserve.clone())?;
        let database = Arc::new(rescue::open(root, &quarantine, &reserve)?);
        database.migrate("store", SCHEMA)?;
        database.migrate("repositories", repositories::SCHEMA)?;
        let packer = Packer::open(root, &database)?;
        let catalog = RwLock::new(Catalog::load(&database)?);
        let root = root.to_owned();
        let (gate, proving, freeing, measured) = Default::default();
        let unpacker = options.unpacker;
        let inner = Inner {
            root,
            dirs,
            database,
            catalog,
            trash,
            partials,
            packer,
            copier: OnceLock::new(),
            reserve,
            quarantine,
            gate,
            proving,
            freeing,
            unpacker,
            measured,
            _lock: lock,
        };
        let store = Store { inner: Arc::new(inner) };
        store.inner.packer.belongs_to(&store);
        sweep::sweep(&store)?;
        store.upkeep().note_cut_off()?;
        store.partials().expire(partial::EXPIRY)?;
        Ok(store)
    }

    /// The database, for the tables of others.
    pub fn database(&self) -> &Database {
        &self.inner.database
    }

    /// The directory that the store is in.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Moves something of the caller's own, on the store's file system, out of sight and removes it in the background.
    /// What is not there is fine. `path` must not be one that others can influence.
    pub fn discard(&self, path: &Path) -> Result<()> {
        self.inner.reserve.make_room();
        self.inner.trash.take_path(path).map(drop)
    }

    /// Waits until everything discarded so far has been removed.
    pub fn wait_for_removals(&self) {
        self.inner.trash.wait_empty();
    }

    /// What keeps the store in order: collecting, measuring, checking.
    pub fn upkeep(&self) -> Upkeep<'_> {
        Upkeep { store: self }
    }

    /// Whether this blob is in the store, complete.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        rustix::fs::statat(self.inner.blobs(digest), digest.hex(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// The size in bytes of a blob that is here.
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        let stat = rustix::fs::statat(self.inner.blobs(digest), digest.hex(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        u64::try_from(stat.st_size).ok()
    }

    /// The blobs that are not whole yet.
    pub fn partials(&self) -> Partials {
        Partials::new(self)
    }

    /// Stores bytes under their SHA-256 digest; durable when this returns. At most [`MAX_BLOB_SIZE`].
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = digest::sha256_of(bytes);
        store_blobs(self, &[(&digest, bytes)])?;
        Ok(digest)
    }

    /// As [`Store::put_blob`], under digests of whichever algorithm, which are verified. The disk is waited for once: durable
    /// when this returns, all of them; on an error none that was not here before, unless the disk failed while they were
    /// given their names.
    pub fn put_blobs(&self, blobs: &[(&Digest, &[u8])]) -> Result<()> {
        for (digest, bytes) in blobs {
            if !digest::matches(digest, bytes) {
                let text = format!("content of {} bytes does not match {digest}", bytes.len());
                return Err(Error::new(ErrorKind::Mismatch, text));
            }
        }
        store_blobs(self, blobs)
    }

    /// A blob's bytes, verified again. At most [`MAX_BLOB_SIZE`].
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.inner.blob_path(digest);
        let (file, size) = self.open_blob(digest)?;
        if size > MAX_BLOB_SIZE {
            return Err(Error::invalid(format!(
                "blob {digest} has {size} bytes: at most {MAX_BLOB_SIZE} are read whole"
            )));
        }
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_BLOB_SIZE + 1), &mut bytes)
            .map_err(|error| Error::io(format!("read {}", path.display()), error))?;
        if !digest::matches(digest, &bytes) {
            let text = format!(
                "{} is damaged: its content does not match its name; remove and pull what uses it",
                path.display()
            );
            return Err(Error::corrupt(text));
        }
        Ok(bytes)
    }

    /// Opens a blob of any size to be read, and tells its size. Its content is not verified again.
    pub fn open_blob(&self, digest: &Digest) -> Result<(File, u64)> {
        let path = self.inner.blob_path(digest);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(self.inner.blobs(digest), digest.hex(), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Err(Error::not_found(format!("blob {digest} is not in the store"))),
            Err(errno) => return Err(Error::io(format!("open {}", path.display()), errno)),
        };
        let metadata = file.metadata().map_err(|error| Error::io(format!("stat {}", path.display()), error))?;
        if !metadata.is_file() {
            return Err(Error::corrupt(format!("{} is damaged: it is not a regular file", path.display())));
        }
        Ok((file, metadata.len()))
    }

    /// The layer with this chain id, if it is here and whole.
    pub fn layer(&self, chain: &Digest) -> Option<LayerInfo> {
        let info = {
            let catalog = self.catalog();
            let whole = catalog.layers.get(chain).filter(|_| !catalog.damaged.contains_key(chain));
            whole?.clone()
        };
        match rustix::fs::statat(&self.inner.dirs.layers, chain.hex(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Some(info),
            Err(errno) => {
                tracing::error!(
                    "layer {chain} is damaged, its directory cannot be used ({errno}): pull its images again"
                );
                None
            }
        }
    }

    /// Starts a layer: several may be unpacked side by side and in any order; they are committed from below.
    pub fn begin_layer(&self) -> Result<LayerIngest> {
        LayerIngest::begin(self)
    }

    /// Makes an unpacked layer part of the store, on top of `parent`: durable when this returns. If it is already
    /// here the new copy is dropped. On failure nothing stays behind.
    pub fn commit_layer(&self, ingest: LayerIngest, parent: Option<&Digest>) -> Result<LayerInfo> {
        let committed = LayerIngest::commit_all(vec![ingest], parent)?.pop();
        committed.ok_or_else(|| Error::invalid("no layer was committed"))
    }

    /// The uncompressed tar that a layer was unpacked from, made again byte for byte. The layer stays while it is read.
    pub fn layer_tar(&self, chain: &Digest) -> Result<LayerTar> {
        let info = self.layer(chain).ok_or_else(|| Error::not_found(format!("layer {chain} is not in the store")))?;
        let pin = self.pin(std::slice::from_ref(chain));
        LayerTar::open(&self.inner.root.join("layers").join(chain.hex()), &info.diff_id, Some(pin))?.ok_or_else(|| {
            let text = format!(
                "layer {} was stored without what its archive is made from again: remove the image and pull it again",
                info.diff_id
            );
            Error::not_found(text)
        })
    }

    pub(crate) fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.inner.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn catalog_mut(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.inner.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Taken by everything that adds to or takes from what is reachable.
    pub(crate) fn gate(&self) -> MutexGuard<'_, ()> {
        self.inner.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    pub(crate) fn blobs(&self, digest: &Digest) -> &OwnedFd {
        match digest.algorithm() {
            "sha512" => &self.dirs.sha512,
            _ => &self.dirs.sha256,
        }
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm()).join(digest.hex())
    }
}

/// Whether the bytes of a blob that is here are those of its digest. Reads all of them.
pub(crate) fn is_sound(store: &Store, digest: &Digest) -> bool {
    let hashed = store.open_blob(digest).ok().map(|(file, _)| HashingReader::new(file, Hasher::like(digest)));
    hashed.is_some_and(|mut file| std::io::copy(&mut file, &mut std::io::sink()).is_ok() && file.finish() == *digest)
}

/// Whether these very bytes are here already: what was damaged without becoming shorter is put right by whoever has it.
fn holds(store: &Store, digest: &Digest, bytes: &[u8]) -> bool {
    let size = bytes.len() as u64;
    let Some((file, _)) = store.open_blob(digest).ok().filter(|(_, length)| *length == size) else { return false };
    let mut known = Vec::with_capacity(bytes.len());
    std::io::Read::read_to_end(&mut std::io::Read::take(file, size + 1), &mut known).is_ok() && known == bytes
}

fn store_blobs(store: &Store, blobs: &[(&Digest, &[u8])]) -> Result<()> {
    let mut new: Vec<durable::NewFile<'_>> = Vec::with_capacity(blobs.len());
    for (digest, bytes) in blobs {
        let size = bytes.len() as u64;
        if size > MAX_BLOB_SIZE {
            return Err(Error::invalid(format!("blob of {size} bytes: at most {MAX_BLOB_SIZE} are kept whole")));
        }
        lease::arrives(store, digest);
        if !holds(store, digest, bytes) && new.iter().all(|file| file.name != digest.hex()) {
            let (directory, path) = (store.inner.blobs(digest).as_fd(), store.inner.blob_path(digest));
            let temporary = durable::unique_name()?;
            new.push(durable::NewFile { temporary, directory, name: digest.hex(), path, bytes });
        }
    }
    durable::publish_all(store.inner.dirs.ingest.as_fd(), &new)
}
