//! From a recipe and a text to the stream, stretches side by side on several threads.
//! Owns the order and what is in memory. Must not say that the result is right: the caller compares its digest.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::analyse::StretchHead;
use crate::predict::{Flavour, HISTORY};
use crate::segment::{self, Place};
use crate::{Error, MAGIC, Result};

/// Makes a stream again. `text` is what it was made from, in full; one that is longer or shorter is an error. Each thread
/// needs about 8 MiB. With one thread the work is done where it is read.
pub fn rebuild(text: impl Read + Send, recipe: impl Read + Send, threads: usize) -> impl Read + Send {
    Rebuild {
        source: Source { text, recipe, history: Vec::new(), begun: false, ended: false },
        workers: if threads > 1 { Some(Workers::new(threads)) } else { None },
        pending: VecDeque::new(),
        ready: Vec::new(),
        at: 0,
        leftover: 0,
        failed: false,
    }
}

/// A stretch's stream: its bytes, then the bits of the byte it ends in.
type Made = Result<(Vec<u8>, u8)>;

/// What is needed to make a stretch.
struct Job {
    head: StretchHead,
    flavour: Flavour,
    coded: Vec<u8>,
    text: Vec<u8>,
    place: Place,
}

impl Job {
    fn run(&self) -> Made {
        let segment = segment::decode(&self.coded, &self.text, self.place, self.flavour)?;
        let made = segment::emit(&segment, &self.text[self.place.start..], (0, u32::from(self.head.bits)))?;
        let (bytes, bits, _) = made.finish();
        Ok((bytes, bits))
    }
}

struct Source<T, R> {
    text: T,
    recipe: R,
    /// The end of the text so far.
    history: Vec<u8>,
    begun: bool,
    ended: bool,
}

impl<T: Read, R: Read> Source<T, R> {
    fn next(&mut self) -> Result<Option<Job>> {
        if self.ended {
            return Ok(None);
        }
        let cut = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::Damaged("it is cut off"),
            _ => Error::Io(error),
        };
        if !std::mem::replace(&mut self.begun, true) {
            let mut magic = [0; MAGIC.len()];
            self.recipe.read_exact(&mut magic).map_err(cut)?;
            if magic != *MAGIC {
                return Err(Error::Damaged("its first bytes"));
            }
        }
        let mut head = [0; StretchHead::SIZE];
        self.recipe.read_exact(&mut head[..1]).map_err(cut)?;
        if head[0] == 0 {
            self.ended = true;
            let mut more = [0];
            if self.text.read(&mut more)? > 0 {
                return Err(Error::Damaged("the text is longer"));
            }
            return Ok(None);
        }
        self.recipe.read_exact(&mut head[1..]).map_err(cut)?;
        let head = StretchHead::from_bytes(&head).ok_or(Error::Damaged("the head of a stretch"))?;
        let flavour = Flavour::from_number(head.flavour).ok_or(Error::Damaged("an encoder that is not known"))?;
        let mut coded = Vec::new();
        self.recipe.by_ref().take(u64::from(head.coded_bytes)).read_to_end(&mut coded)?;
        if coded.len() != head.coded_bytes as usize {
            return Err(Error::Damaged("it is cut off"));
        }
        let mut text = std::mem::take(&mut self.history);
        let start = text.len();
        text.reserve_exact(head.text_bytes as usize);
        self.text.by_ref().take(u64::from(head.text_bytes)).read_to_end(&mut text)?;
        if text.len() - start != head.text_bytes as usize {
            return Err(Error::Damaged("the text is shorter"));
        }
        self.history = text[text.len().saturating_sub(HISTORY)..].to_vec();
        let floor = start.saturating_sub(head.floor_back as usize);
        let origin = start as i64 - i64::from(head.origin_back);
        Ok(Some(Job { head, flavour, coded, text, place: Place { start, floor, origin } }))
    }
}

/// Threads that make stretches, in turn.
struct Workers {
    lanes: Vec<SyncSender<(Job, SyncSender<Made>)>>,
    threads: Vec<std::thread::JoinHandle<()>>,
    next: usize,
}

impl Workers {
    fn new(count: usize) -> Workers {
        let mut workers = Workers { lanes: Vec::new(), threads: Vec::new(), next: 0 };
        for _ in 0..count.min(16) {
            let (lane, jobs) = sync_channel::<(Job, SyncSender<Made>)>(1);
            let work = move || {
                while let Ok((job, answer)) = jobs.recv() {
                    // Whoever asked may have gone.
                    answer.send(job.run()).ok();
                }
            };
            // With fewer threads it takes longer.
            if let Ok(thread) = std::thread::Builder::new().name("rebuild".into()).spawn(work) {
                workers.lanes.push(lane);
                workers.threads.push(thread);
            }
        }
        workers
    }

    fn start(&mut self, job: Job) -> Pending {
        let (answer, made) = sync_channel(1);
        self.next += 1;
        match self.lanes.get(self.next % self.lanes.len().max(1)) {
            Some(lane) => match lane.send((job, answer)) {
                Ok(()) => Pending::Started(made),
                Err(back) => Pending::Made(back.0.0.run()),
            },
            None => Pending::Made(job.run()),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.lanes.clear();
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

enum Pending {
    Made(Made),
    Started(Receiver<Made>),
}

struct Rebuild<T, R> {
    source: Source<T, R>,
    workers: Option<Workers>,
    pending: VecDeque<Pending>,
    ready: Vec<u8>,
    at: usize,
    /// The bits of the byte that the stretch before ended in.
    leftover: u8,
    failed: bool,
}

impl<T: Read, R: Read> Rebuild<T, R> {
    /// The next stretch's bytes; `false` at the end.
    fn advance(&mut self) -> Result<bool> {
        let ahead = self.workers.as_ref().map_or(1, |workers| workers.lanes.len() + 1);
        while self.pending.len() < ahead {
            let Some(job) = self.source.next()? else { break };
            let pending = match &mut self.workers {
                Some(workers) => workers.start(job),
                None => Pending::Made(job.run()),
            };
            self.pending.push_back(pending);
        }
        let (bytes, bits) = match self.pending.pop_front() {
            None => return Ok(false),
            Some(Pending::Made(made)) => made?,
            Some(Pending::Started(made)) => {
                made.recv().unwrap_or(Err(Error::Damaged("a stretch could not be made again")))?
            }
        };
        (self.ready, self.at) = (bytes, 0);
        match self.ready.first_mut() {
            Some(first) => {
                *first |= self.leftover;
                self.leftover = bits;
            }
            None => self.leftover |= bits,
        }
        Ok(true)
    }
}

impl<T: Read, R: Read> Read for Rebuild<T, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.ready.len() {
            if self.failed || buffer.is_empty() {
                return Ok(0);
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(error) => {
                    self.failed = true;
                    return Err(match error {
                        Error::Io(error) => error,
                        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
                    });
                }
            }
        }
        let length = buffer.len().min(self.ready.len() - self.at);
        buffer[..length].copy_from_slice(&self.ready[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}
