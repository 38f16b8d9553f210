//! Blobs of any size on their way in: files in `partial/` that survive restarts, and their publication.
//! Owns which of their bytes are certainly there. Must not know where bytes come from, nor believe a digest it has not
//! computed.
//!
//! A file that was only ever written from its front holds as much as it is long. The first piece beyond the front makes a
//! map beside it (`<name>.map`), a list of written ranges, each added after its bytes; from then on only those count. Nothing
//! is synced before publication: after a power cut the bytes may differ from the map, and the digest tells.

mod dir;
mod reader;
mod spans;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use brig_oci::Digest;
use rustix::fs::OFlags;

pub(crate) use self::dir::{LOADING, PartialDir};
use self::dir::{MAP, is_plain, record};
pub use self::reader::PartialReader;
use self::spans::Spans;
use crate::digest::Hasher;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::lease;
use crate::store::{self, Store};
use crate::trash;

/// For how long a blob that nobody works on is left for somebody to go on with.
pub const EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);
/// How much of what arrived out of order is hashed with each piece that arrives.
const CATCH_UP: usize = 1024 * 1024;

/// The blobs of a store that are not whole yet.
pub struct Partials(Store);

/// A blob on its way in. Dropping it leaves what is there for later. Blocking; may be shared by threads that write
/// different parts.
pub struct Partial {
    store: Store,
    name: String,
    shared: Arc<Shared>,
    hash: Mutex<Hashed>,
    unwanted: AtomicBool,
}

/// What is known about an unfinished blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialInfo {
    /// The name that it was opened by.
    pub name: String,
    /// The length of its file in bytes.
    pub len: u64,
    /// When something was last added.
    pub modified: SystemTime,
    /// Whether somebody is working on it.
    pub open: bool,
}

/// What writer and readers share.
struct Shared {
    file: File,
    state: Mutex<State>,
    grown: Condvar,
}

struct State {
    spans: Spans,
    /// What is being written now.
    writing: Vec<Range<u64>>,
    map: Option<File>,
    /// Grows when bytes that were there are given up.
    generation: u64,
    end: End,
}

enum End {
    Open,
    Finished,
    Failed(io::ErrorKind, String),
}

/// The digest of the first `upto` bytes.
struct Hashed {
    hasher: Hasher,
    upto: u64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Partials {
    pub(crate) fn new(store: &Store) -> Partials {
        Partials(store.clone())
    }

    /// Opens the unfinished blob of this name, or begins it. `name` is the caller's own choice: letters, digits, `-` and
    /// `_`, at most 160. Fails with [`ErrorKind::Busy`] while somebody has it open.
    pub fn open(&self, name: &str) -> Result<Partial> {
        self.open_within(name, Duration::ZERO)
    }

    /// As [`Partials::open`], waiting that long for whoever has it open.
    pub fn open_within(&self, name: &str, patience: Duration) -> Result<Partial> {
        if !is_plain(name) {
            return Err(Error::invalid(format!("{name:?} cannot be the name of an unfinished blob")));
        }
        let partials = &self.0.inner.partials;
        let in_use = |taken: &mut HashSet<String>| taken.contains(name);
        let waited = partials.closed.wait_timeout_while(partials.taken(), patience, in_use);
        let (mut taken, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if taken.contains(name) {
            let text = format!("the unfinished blob {name} is being worked on: try again when that has ended");
            return Err(Error::new(ErrorKind::Busy, text));
        }
        let file = partials
            .open_file(name, OFlags::RDWR | OFlags::CREATE)
            .map_err(|errno| partials.failed("open", name, errno))?;
        let (spans, map) = partials.load(name, &file)?;
        taken.insert(name.to_owned());
        let state = Mutex::new(State { spans, writing: Vec::new(), map, generation: 0, end: End::Open });
        Ok(Partial {
            store: self.0.clone(),
            name: name.to_owned(),
            shared: Arc::new(Shared { file, state, grown: Condvar::new() }),
            hash: Mutex::new(Hashed { hasher: Hasher::sha256(), upto: 0 }),
            unwanted: AtomicBool::new(false),
        })
    }

    /// The unfinished blobs, in no order.
    pub fn list(&self) -> Result<Vec<PartialInfo>> {
        let partials = &self.0.inner.partials;
        let mut found = Vec::new();
        for name in trash::names(partials.dir.as_fd(), &partials.path)? {
            let Some(name) = name.to_str().filter(|name| !name.contains('.')) else { continue };
            // One that is finished meanwhile is not unfinished.
            let Some(stat) = partials.file(name) else { continue };
            let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
            let len = u64::try_from(stat.st_size).unwrap_or(0);
            let open = partials.taken().contains(name);
            found.push(PartialInfo { name: name.to_owned(), len, modified, open });
        }
        Ok(found)
    }

    /// Removes the unfinished blobs that nobody works on and that nothing was added to for `age`. Tells how many bytes
    /// that gave back.
    pub fn expire(&self, age: Duration) -> Result<u64> {
        let partials = &self.0.inner.partials;
        let mut freed = 0;
        for info in self.list()? {
            let idle = SystemTime::now().duration_since(info.modified).unwrap_or_default();
            // Held while removing, so that nobody opens what is about to go.
            let taken = partials.taken();
            if taken.contains(&info.name) || idle < age {
                continue;
            }
            match partials.delete(&info.name) {
                Ok(()) => freed += info.len,
                // Nothing that is to be opened or collected waits for it.
                Err(error) => tracing::warn!("an unfinished blob that nobody goes on with stays: {error}"),
            }
        }
        Ok(freed)
    }
}

impl Partial {
    /// The name that it was opened by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many bytes are there from the first one on, without a gap.
    pub fn len(&self) -> u64 {
        self.shared.state().spans.prefix_len()
    }

    /// Whether the first byte is still missing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes are there in all.
    pub fn present(&self) -> u64 {
        self.shared.state().spans.total()
    }

    /// What is missing of the first `total` bytes, in order.
    pub fn missing(&self, total: u64) -> Vec<Range<u64>> {
        self.shared.state().spans.gaps(total)
    }

    /// Adds to the end of what is there without a gap. Not for two threads at once; they use [`Partial::write_at`].
    pub fn append(&self, bytes: &[u8]) -> Result<()> {
        self.write_at(self.len(), bytes)
    }

    /// Writes a part anywhere. It counts once everything before it is there. What is there already is not written again:
    /// bytes that were read or hashed never change. Two threads cannot write the same part ([`ErrorKind::Busy`]).
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let range = offset..offset.saturating_add(bytes.len() as u64);
        for gap in self.claim(&range)? {
            // Lossless: a gap lies in the range, which is as long as `bytes`.
            let piece = &bytes[(gap.start - offset) as usize..(gap.end - offset) as usize];
            let written = self.write_gap(&gap, piece);
            self.shared.state().writing.retain(|range| *range != gap);
            written?;
        }
        Ok(())
    }

    /// The parts of a range that are missing, now reserved for the caller.
    fn claim(&self, range: &Range<u64>) -> Result<Vec<Range<u64>>> {
        let mut state = self.shared.state();
        let mut gaps = state.spans.gaps(range.end);
        gaps.iter_mut().for_each(|gap| gap.start = gap.start.max(range.start));
        gaps.retain(|gap| !gap.is_empty());
        let is_claimed = |gap: &Range<u64>| state.writing.iter().any(|o| o.start < gap.end && gap.start < o.end);
        if let Some(gap) = gaps.iter().find(|gap| is_claimed(gap)) {
            let text = format!("bytes {} to {} of {} are being written by another", gap.start, gap.end, self.name);
            return Err(Error::new(ErrorKind::Busy, text));
        }
        let prefix = state.spans.prefix_len();
        // Before the file can have a gap there must be something that says so.
        if state.map.is_none() && gaps.iter().any(|gap| gap.start > prefix) {
            state.map = Some(self.store.inner.partials.new_map(&self.name, prefix)?);
        }
        state.writing.extend(gaps.iter().cloned());
        Ok(gaps)
    }

    fn write_gap(&self, gap: &Range<u64>, bytes: &[u8]) -> Result<()> {
        let partials = &self.store.inner.partials;
        let failed = |call: &str, error| partials.failed(call, &self.name, error);
        self.shared.file.write_all_at(bytes, gap.start).map_err(|error| failed("write", error))?;
        let mut state = self.shared.state();
        if let Some(mut map) = state.map.as_ref() {
            map.write_all(&record(gap)).map_err(|error| failed("write the map of", error))?;
        }
        let before = state.spans.prefix_len();
        state.spans.add(gap.clone());
        let prefix = state.spans.prefix_len();
        drop(state);
        if prefix > before {
            self.shared.grown.notify_all();
        }
        self.hash_some(gap.start, bytes, prefix)
    }

    /// Keeps only the first `len` bytes, or what is there of them without a gap. Readers fail. Nobody may be writing.
    pub fn truncate(&self, len: u64) -> Result<()> {
        let partials = &self.store.inner.partials;
        let mut hash = self.hashed();
        let mut state = self.shared.state();
        let len = len.min(state.spans.prefix_len());
        self.shared.file.set_len(len).map_err(|error| partials.failed("truncate", &self.name, error))?;
        state.map = None;
        partials.remove(&format!("{}{MAP}", self.name))?;
        state.spans = Spans::prefix(len);
        state.generation += 1;
        state.end = End::Open;
        if hash.upto > len {
            *hash = Hashed { hasher: Hasher::sha256(), upto: 0 };
        }
        drop(state);
        self.shared.grown.notify_all();
        Ok(())
    }

    /// A reader from the first byte on that waits for what is still to come. Several may read.
    pub fn reader(&self) -> PartialReader {
        PartialReader::new(self.shared.clone())
    }

    /// Nothing more comes: readers end where the blob does.
    pub fn finish(&self) {
        self.end(End::Finished);
    }

    /// Nothing more comes, and this is why: readers fail with it. What is there stays for later.
    pub fn fail(&self, kind: io::ErrorKind, why: impl Into<String>) {
        self.end(End::Failed(kind, why.into()));
    }

    /// Whether what is there without a gap has this digest; fails with [`ErrorKind::Mismatch`] and tells which it has.
    pub fn verify(&self, digest: &Digest) -> Result<()> {
        let actual = self.actual(digest)?;
        if actual == *digest {
            return Ok(());
        }
        let text = format!("content of {} bytes does not match {digest}: it is {actual}", self.len());
        Err(Error::new(ErrorKind::Mismatch, text))
    }

    /// The digest of what is there without a gap, by the algorithm of `like`. What was not hashed while it arrived is read.
    pub fn actual(&self, like: &Digest) -> Result<Digest> {
        let len = self.len();
        if like.algorithm() == "sha256" {
            let mut hash = self.hashed();
            self.catch_up(&mut hash, len, usize::MAX)?;
            return Ok(hash.hasher.clone().finish());
        }
        let mut hash = Hashed { hasher: Hasher::like(like), upto: 0 };
        self.catch_up(&mut hash, len, usize::MAX)?;
        Ok(hash.hasher.finish())
    }

    /// Makes it a blob of the store: verified, and durable when this returns. Tells its size in bytes. Where the digest is
    /// another one nothing is kept. Bytes beyond a gap are cut off.
    pub fn commit(self, digest: &Digest) -> Result<u64> {
        let len = self.len();
        if let Err(error) = self.verify(digest) {
            if error.kind == ErrorKind::Mismatch {
                self.discard()?;
            }
            return Err(error);
        }
        self.finish();
        // A collection must not see it between the rename and whoever refers to it.
        lease::arrives(&self.store, digest);
        // One that is damaged is replaced.
        if self.store.blob_size(digest) == Some(len) && store::is_sound(&self.store, digest) {
            self.discard()?;
            return Ok(len);
        }
        let partials = &self.store.inner.partials;
        if self.shared.state().map.is_some() {
            self.shared.file.set_len(len).map_err(|error| partials.failed("truncate", &self.name, error))?;
        }
        self.shared.file.sync_all().map_err(|error| partials.failed("fsync", &self.name, error))?;
        let (dir, path) = (self.store.inner.blobs(digest), self.store.inner.blob_path(digest));
        rustix::fs::renameat(&partials.dir, &*self.name, dir, digest.hex())
            .map_err(|errno| Error::io(format!("rename to {}", path.display()), errno))?;
        durable::sync(dir.as_fd(), &path)?;
        partials.remove(&format!("{}{MAP}", self.name))?;
        Ok(len)
    }

    /// Moves the whole blob to another directory of the store's, without waiting for the disk. `path` names that directory.
    /// Tells its size in bytes.
    pub(crate) fn move_to(self, dir: BorrowedFd<'_>, name: &str, path: &Path) -> Result<u64> {
        let len = self.len();
        self.finish();
        let partials = &self.store.inner.partials;
        if self.shared.state().map.is_some() {
            self.shared.file.set_len(len).map_err(|error| partials.failed("truncate", &self.name, error))?;
        }
        rustix::fs::renameat(&partials.dir, &*self.name, dir, name)
            .map_err(|errno| Error::io(format!("rename to {}", path.join(name).display()), errno))?;
        partials.remove(&format!("{}{MAP}", self.name))?;
        Ok(len)
    }

    /// Removes it.
    pub fn discard(self) -> Result<()> {
        self.store.inner.partials.delete(&self.name)
    }

    /// Nobody is to go on with it: dropping it removes it.
    pub fn abandon(&self) {
        self.unwanted.store(true, Ordering::Relaxed);
    }

    fn end(&self, end: End) {
        self.shared.state().end = end;
        self.shared.grown.notify_all();
    }

    fn hashed(&self) -> MutexGuard<'_, Hashed> {
        self.hash.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hashes a piece that has just been written if it is the next one, and otherwise a little of what came earlier.
    fn hash_some(&self, offset: u64, bytes: &[u8], prefix: u64) -> Result<()> {
        // Another thread that is at it takes this along later.
        let Ok(mut hash) = self.hash.try_lock() else { return Ok(()) };
        if hash.upto == offset {
            hash.hasher.update(bytes);
            hash.upto += bytes.len() as u64;
            return Ok(());
        }
        self.catch_up(&mut hash, prefix, CATCH_UP.max(2 * bytes.len()))
    }

    /// Hashes up to `len`, but no more than `most` bytes.
    fn catch_up(&self, hash: &mut Hashed, len: u64, most: usize) -> Result<()> {
        if hash.upto >= len {
            return Ok(());
        }
        let until = len.min(hash.upto.saturating_add(most as u64));
        let mut buffer = vec![0; CATCH_UP];
        while hash.upto < until {
            let wanted = usize::try_from(until - hash.upto).unwrap_or(usize::MAX).min(buffer.len());
            let failed = |error| self.store.inner.partials.failed("read", &self.name, error);
            let read = self.shared.file.read_at(&mut buffer[..wanted], hash.upto).map_err(failed)?;
            if read == 0 {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            hash.hasher.update(&buffer[..read]);
            hash.upto += read as u64;
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if matches!(state.end, End::Open) {
            state.end = End::Failed(io::ErrorKind::ConnectionAborted, "the download was broken off".into());
        }
        drop(state);
        self.shared.grown.notify_all();
        let partials = &self.store.inner.partials;
        if self.unwanted.load(Ordering::Relaxed)
            && let Err(error) = partials.delete(&self.name)
        {
            tracing::warn!("an unfinished blob is left until it expires: {error}");
        }
        partials.taken().remove(&self.name);
        partials.closed.notify_all();
    }
}
