//! The thread that looks for recipes: one blob at a time, at the lowest priority, and only while nothing urgent runs.
//! Owns the order: recipe written and synced, seen to make the very blob, recorded, and only then the blob goes.
//! On the way it finds layers whose files are not those of their diff id, and has them put out of use.
//! What fails for a reason that is not its own is tried again later, a few times.
//! Must not hold the store for longer than that takes: it ends when the store is closed, and goes on at the next opening.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use brig_oci::Digest;
use brig_sys::memory;
use brig_sys::process::{Scheduling, set_io_priority, set_scheduling_of};
use rustix::fs::{Mode, OFlags};

use super::blob::LayerBlob;
use super::retry::Retries;
use super::tables::{self, State};
use super::{BLOB, Files, Form, NEW};
use crate::check::marks::Damage;
use crate::database::Database;
use crate::digest::Hasher;
use crate::durable;
use crate::error::{Error, Result};
use crate::recipe::LayerTar;
use crate::sources;
use crate::store::{Inner, Store};

/// `SCHED_OTHER` and `SCHED_IDLE` (sched(7)).
const ORDINARY: u32 = 0;
const IDLE: u32 = 5;
/// The I/O class "idle" (ioprio_set(2)).
const IDLE_IO: u8 = 3;
/// So much memory, in bytes, may stay with the allocator when no image is moved any more.
const KEPT_MEMORY: usize = 16 << 20;
/// How long none is moved before that is looked at.
const CALM: Duration = Duration::from_secs(2);
/// After so long what has failed is tried again for the first time.
const FIRST_RETRY: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(30) };
/// A recipe longer than one in this many bytes of the blob is not worth the work of using it.
const WORTHLESS: u64 = 2;

/// The thread, as the store sees it.
pub(super) struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<Work>,
    changed: Condvar,
    /// Whom to tell of a layer that lies, once it is open.
    store: OnceLock<Weak<Inner>>,
}

#[derive(Default)]
struct Work {
    /// Grows with each blob that is handed in.
    wanted: u64,
    /// What of that has been looked at.
    done: u64,
    pauses: usize,
    /// How many there were.
    moves: u64,
    /// Who waits for the end: then it is not idle work any more.
    waiters: usize,
    /// The thread's id, once it runs.
    thread: Option<i32>,
    closing: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Work> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while there is something more urgent; `false` when it is time to end.
    fn go_on(&self) -> bool {
        let state = self.state();
        let waiting = |state: &mut Work| state.pauses > 0 && !state.closing;
        !self.changed.wait_while(state, waiting).unwrap_or_else(PoisonError::into_inner).closing
    }

    /// Waits until something is handed in, or until `again`; what was handed in by then, `None` when it is time to end.
    fn wait_for_work(&self, again: Option<Instant>) -> Option<u64> {
        let state = self.state();
        let is_idle = |state: &mut Work| state.done >= state.wanted && !state.closing;
        let state = match again.map(|again| again.saturating_duration_since(Instant::now())) {
            None => self.changed.wait_while(state, is_idle).unwrap_or_else(PoisonError::into_inner),
            Some(left) => {
                self.changed.wait_timeout_while(state, left, is_idle).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        (!state.closing).then_some(state.wanted)
    }

    /// Whoever waits for the thread lends it an ordinary priority: on a busy machine the lowest one means never.
    fn hurry(&self, state: &Work, hurried: bool) {
        let policy = if hurried { ORDINARY } else { IDLE };
        if let Some(thread) = state.thread
            && let Err(error) = set_scheduling_of(thread, Scheduling { policy, ..Scheduling::default() })
        {
            tracing::debug!("cannot change the priority of packing: {error}");
        }
    }
}

/// Stops the work while it lives: images are being moved.
pub struct Pause(Arc<Shared>);

impl Drop for Pause {
    fn drop(&mut self) {
        let left = {
            let mut state = self.0.state();
            state.pauses -= 1;
            state.pauses
        };
        self.0.changed.notify_all();
        if left == 0 && memory::kept() > KEPT_MEMORY {
            let shared = self.0.clone();
            let work = move || give_back_when_calm(&shared);
            // Without a thread the memory stays until the next time.
            drop(std::thread::Builder::new().name("store-memory".into()).spawn(work));
        }
    }
}

/// Whoever moves one image after the other finds the memory where it was.
fn give_back_when_calm(shared: &Shared) {
    let state = shared.state();
    let moves = state.moves;
    let is_calm = |state: &mut Work| state.moves == moves && !state.closing;
    let waited = shared.changed.wait_timeout_while(state, CALM, is_calm).unwrap_or_else(PoisonError::into_inner);
    if waited.1.timed_out() {
        drop(waited);
        memory::give_back();
    }
}

impl Worker {
    pub(super) fn start(files: Arc<Files>, database: Arc<Database>) -> Result<Worker> {
        let shared = Arc::new(Shared::default());
        shared.state().wanted = 1;
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("store-pack".into())
            .spawn(move || run(&of_thread, &files, &database))
            .map_err(|error| Error::io("start the thread that packs layers", error))?;
        Ok(Worker { shared, thread: Some(thread) })
    }

    pub(super) fn belongs_to(&self, store: &Store) {
        // There is only one that it can belong to.
        drop(self.shared.store.set(Arc::downgrade(&store.inner)));
    }

    pub(super) fn wake(&self) {
        self.shared.state().wanted += 1;
        self.shared.changed.notify_all();
    }

    pub(super) fn wait(&self) {
        let mut state = self.shared.state();
        state.waiters += 1;
        self.shared.hurry(&state, true);
        let is_busy = |state: &mut Work| state.done < state.wanted && !state.closing;
        let mut state = self.shared.changed.wait_while(state, is_busy).unwrap_or_else(PoisonError::into_inner);
        state.waiters -= 1;
        if state.waiters == 0 {
            self.shared.hurry(&state, false);
        }
    }

    pub(super) fn pause(&self) -> Pause {
        let mut state = self.shared.state();
        state.pauses += 1;
        state.moves += 1;
        drop(state);
        self.shared.changed.notify_all();
        Pause(self.shared.clone())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.closing = true;
        self.shared.hurry(&state, true);
        drop(state);
        self.shared.changed.notify_all();
        let is_another = |thread: &JoinHandle<()>| thread.thread().id() != std::thread::current().id();
        if let Some(thread) = self.thread.take().filter(is_another) {
            // A panic in there is its own; what it was at is found again at the next opening.
            thread.join().ok();
        }
    }
}

fn run(shared: &Shared, files: &Files, database: &Database) {
    let mut state = shared.state();
    state.thread = Some(rustix::thread::gettid().as_raw_nonzero().get());
    // Somebody may be waiting already.
    if state.waiters == 0 && !state.closing {
        shared.hurry(&state, false);
    }
    drop(state);
    if let Err(error) = set_io_priority(IDLE_IO, 0) {
        tracing::debug!("packing reads and writes with ordinary priority: {error}");
    }
    // The list of what waits has no digest.
    let mut retries: Retries<Option<Digest>> = Retries::new(FIRST_RETRY);
    while let Some(upto) = shared.wait_for_work(retries.next()) {
        match tables::waiting(database) {
            Ok(waiting) => {
                let digests: HashSet<&Digest> = waiting.iter().map(|form| &form.digest).collect();
                retries.retain(|failed| failed.as_ref().is_some_and(|digest| digests.contains(digest)));
                drop(digests);
                for form in waiting {
                    if !retries.is_due(&Some(form.digest.clone()), Instant::now()) {
                        continue;
                    }
                    match (Job { shared, files, database, form: &form }).run() {
                        Ok(true) => retries.retain(|failed| failed.as_ref() != Some(&form.digest)),
                        Ok(false) => return,
                        Err(error) => {
                            tracing::warn!("layer {} stays as it came for now: {error}", form.digest);
                            retries.note(Some(form.digest), Instant::now());
                        }
                    }
                }
            }
            Err(error) => {
                tracing::warn!("cannot find out which layers are to be packed: {error}");
                retries.note(None, Instant::now());
            }
        }
        shared.state().done = upto;
        shared.changed.notify_all();
    }
}

/// One blob.
struct Job<'a> {
    shared: &'a Shared,
    files: &'a Files,
    database: &'a Database,
    form: &'a Form,
}

impl Job<'_> {
    /// `false` when it is time to end.
    fn run(&mut self) -> Result<bool> {
        if !self.shared.go_on() {
            return Ok(false);
        }
        let hex = self.form.digest.hex();
        let new = format!("{hex}{NEW}");
        let Some(blob) = self.files.open(&format!("{hex}{BLOB}"))? else { return Ok(true) };
        if tables::chains(self.database, &self.form.diff_id)?.is_empty() {
            // The layer may be committed a moment later, or never: then a collection takes the blob.
            return Ok(true);
        }
        let outcome = self.try_recipe(blob, &new);
        if !matches!(outcome, Ok(Outcome::Works(_))) {
            self.files.remove(&new)?;
        }
        match outcome? {
            Outcome::Works(others) => {
                self.take_recipe(&new)?;
                // One from which it could not be made may be why somebody cannot have it.
                Ok(!matches!(self.sound_layers(&others)?, Sound::Stopped))
            }
            Outcome::Fails(why) => {
                // It may be for want of a recipe, or because the layer is not what it should be.
                match self.sound_layers(&tables::chains(self.database, &self.form.diff_id)?)? {
                    Sound::Some => {}
                    Sound::None => return Ok(true),
                    Sound::Stopped => return Ok(false),
                }
                tracing::debug!("layer {} is kept compressed as well: {why}", self.form.digest);
                self.keep_blob().map(|()| true)
            }
            Outcome::Damaged => {
                tracing::warn!("the compressed form {} of a layer is damaged and dropped", self.form.digest);
                tables::lose(self.database, &self.form.digest)?;
                self.files.remove(&format!("{hex}{BLOB}")).map(|()| true)
            }
            Outcome::NoLayer => Ok(true),
            Outcome::Stopped => Ok(false),
        }
    }

    fn try_recipe(&self, blob: File, new: &str) -> Result<Outcome> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&self.files.dir, new, flags, Mode::from_raw_mode(0o600))
            .map(File::from)
            .map_err(|errno| self.files.failed("create", new, errno))?;
        let failed = |error: std::io::Error| self.files.failed("write", new, error);
        let mut output = BufWriter::new(file);
        let mut blob = HashedInput { input: blob, hasher: Hasher::like(&self.form.digest) };
        let analysed = brig_deflate::analyse(&mut blob, &mut output, &mut || self.shared.go_on());
        let analysed = match analysed {
            Ok(analysed) => analysed,
            Err(brig_deflate::Error::Stopped) => return Ok(Outcome::Stopped),
            Err(brig_deflate::Error::Io(error)) => return Err(failed(error)),
            Err(why) => {
                // Whether it is worth keeping: after a power cut it may be anything.
                let is_whole = blob.drain().map_err(failed)? == self.form.digest;
                return Ok(if is_whole { Outcome::Fails(why.to_string()) } else { Outcome::Damaged });
            }
        };
        if blob.drain().map_err(failed)? != self.form.digest {
            return Ok(Outcome::Damaged);
        }
        if analysed.recipe_bytes > self.form.size_bytes / WORTHLESS {
            return Ok(Outcome::Fails(format!("its recipe has {} bytes", analysed.recipe_bytes)));
        }
        output.flush().map_err(failed)?;
        let file = output.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(|error| self.files.failed("fsync", new, error))?;
        drop(file);
        let outcome = self.verify(new)?;
        if let Outcome::Works(_) = outcome {
            let (packed, recipe) = (self.form.size_bytes, analysed.recipe_bytes);
            tracing::debug!("layer {}: {recipe} bytes in place of {packed}, {}", self.form.digest, analysed.encoder);
        }
        Ok(outcome)
    }

    /// Makes the blob from the layer as it lies here, and looks whether it is the same; if it is not, from the next with this
    /// diff id.
    fn verify(&self, new: &str) -> Result<Outcome> {
        let chains = tables::chains(self.database, &self.form.diff_id)?;
        let (mut others, mut why) = (Vec::new(), "its layer's tar cannot be made again".to_owned());
        let mut failed = None;
        for chain in &chains {
            match self.verify_from(chain, new) {
                Ok(Some(Outcome::Works(_))) => return Ok(Outcome::Works(others)),
                Ok(Some(Outcome::Fails(text))) => {
                    others.push(chain.clone());
                    why = text;
                }
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            // What cannot be read now may be what it can be made from.
            Some(error) => Err(error),
            None if chains.is_empty() => Ok(Outcome::NoLayer),
            None => Ok(Outcome::Fails(why)),
        }
    }

    /// As [`Job::verify`], of one layer; `None` if that has no tar.
    fn verify_from(&self, chain: &Digest, new: &str) -> Result<Option<Outcome>> {
        let tar = LayerTar::open(&self.files.layers.join(chain.hex()), &self.form.diff_id, None)?;
        let Some(tar) = tar else { return Ok(None) };
        let Some(recipe) = self.files.open(new)? else { return Ok(Some(Outcome::NoLayer)) };
        let made = match brig_deflate::rebuild(tar, std::io::BufReader::new(recipe), 1) {
            Ok(made) => made,
            Err(error) => return Ok(Some(Outcome::Fails(error.to_string()))),
        };
        let made = LayerBlob::new(made, &self.form.digest, self.form.size_bytes);
        Ok(Some(match self.read_through(made)? {
            None => Outcome::Stopped,
            // Of the whole tar, which has its digest.
            Some(Ok(())) => Outcome::Works(Vec::new()),
            Some(Err(error)) => Outcome::Fails(error.to_string()),
        }))
    }

    /// Reads everything; `None` when it is time to end.
    fn read_through(&self, mut input: impl Read) -> Result<Option<std::io::Result<()>>> {
        let mut buffer = vec![0; 128 * 1024];
        loop {
            if !self.shared.go_on() {
                return Ok(None);
            }
            match input.read(&mut buffer) {
                Ok(0) => return Ok(Some(Ok(()))),
                Ok(_) => {}
                Err(error) => return Ok(Some(Err(error))),
            }
        }
    }

    /// Makes the tar of each of these layers, which it is a form of, and puts those out of use that have not the right one.
    fn sound_layers(&self, chains: &[Digest]) -> Result<Sound> {
        let mut sound = Sound::None;
        for chain in chains {
            // One without a recipe is for a check to tell.
            let Some(tar) = LayerTar::open(&self.files.layers.join(chain.hex()), &self.form.diff_id, None)? else {
                sound = Sound::Some;
                continue;
            };
            match self.read_through(tar)? {
                None => return Ok(Sound::Stopped),
                Some(Ok(())) => sound = Sound::Some,
                Some(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
                    let Some(inner) = self.shared.store.get().and_then(Weak::upgrade) else { continue };
                    sources::condemn(&Store { inner }, chain, Damage { why: error.to_string(), usable: false })?;
                }
                Some(Err(error)) => return Err(Error::io(format!("read layer {chain}"), error)),
            }
        }
        Ok(sound)
    }

    fn take_recipe(&self, new: &str) -> Result<()> {
        let hex = self.form.digest.hex();
        rustix::fs::renameat(&self.files.dir, new, &self.files.dir, hex)
            .map_err(|errno| self.files.failed("rename to", hex, errno))?;
        durable::sync(self.files.dir.as_fd(), &self.files.path)?;
        if !tables::settle(self.database, &self.form.digest, State::Recipe)? {
            // Collected meanwhile.
            return self.files.remove(hex);
        }
        self.files.remove(&format!("{hex}{BLOB}"))
    }

    fn keep_blob(&self) -> Result<()> {
        let name = format!("{}{BLOB}", self.form.digest.hex());
        if let Some(file) = self.files.open(&name)? {
            file.sync_all().map_err(|error| self.files.failed("fsync", &name, error))?;
            durable::sync(self.files.dir.as_fd(), &self.files.path)?;
        }
        tables::settle(self.database, &self.form.digest, State::Blob).map(drop)
    }
}

enum Outcome {
    /// The recipe makes the blob; from these layers, which were tried before, it does not.
    Works(Vec<Digest>),
    /// There is none.
    Fails(String),
    /// The blob is not what it should be.
    Damaged,
    /// No layer to make it from.
    NoLayer,
    Stopped,
}

/// Whether a form has a layer with the right tar.
enum Sound {
    Some,
    None,
    Stopped,
}

/// Hashes what is read.
struct HashedInput {
    input: File,
    hasher: Hasher,
}

impl HashedInput {
    /// The digest of everything.
    fn drain(mut self) -> std::io::Result<Digest> {
        let mut buffer = vec![0; 64 * 1024];
        while self.read(&mut buffer)? > 0 {}
        Ok(self.hasher.finish())
    }
}

impl Read for HashedInput {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.input.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}
