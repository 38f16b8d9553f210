//! Work on pieces of a stream, side by side on several threads, its results in order.
//! Owns the threads and how far they run ahead. Must not know what the pieces are.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::{Error, Result};

/// The most threads that are of use.
const MOST_THREADS: usize = 16;

/// The work on one piece.
pub(crate) type Task<T> = Box<dyn FnOnce() -> Result<T> + Send>;

/// Work for a thread, and where its result goes.
type Asked<T> = (Task<T>, SyncSender<Result<T>>);

enum Pending<T> {
    /// Done here, when it is asked for.
    Here(Task<T>),
    There(Receiver<Result<T>>),
}

/// Threads, and what they are at.
pub(crate) struct Parallel<T> {
    lanes: Vec<SyncSender<Asked<T>>>,
    threads: Vec<JoinHandle<()>>,
    next: usize,
    pending: VecDeque<Pending<T>>,
}

impl<T: Send + 'static> Parallel<T> {
    /// With one thread the work is done where its result is taken.
    pub(crate) fn new(threads: usize) -> Parallel<T> {
        let mut parallel = Parallel { lanes: Vec::new(), threads: Vec::new(), next: 0, pending: VecDeque::new() };
        for _ in 0..if threads > 1 { threads.min(MOST_THREADS) } else { 0 } {
            let (lane, tasks) = sync_channel::<Asked<T>>(1);
            let work = move || {
                while let Ok((task, answer)) = tasks.recv() {
                    // Whoever asked may have gone.
                    answer.send(task()).ok();
                }
            };
            // With fewer threads it takes longer.
            if let Ok(thread) = std::thread::Builder::new().name("deflate".into()).spawn(work) {
                parallel.lanes.push(lane);
                parallel.threads.push(thread);
            }
        }
        parallel
    }

    /// Whether another piece may be begun before a result is taken.
    pub(crate) fn has_room(&self) -> bool {
        self.pending.len() < self.lanes.len() + 1
    }

    /// Begins the work on the next piece.
    pub(crate) fn begin(&mut self, task: Task<T>) {
        self.next += 1;
        let pending = match self.lanes.get(self.next % self.lanes.len().max(1)) {
            None => Pending::Here(task),
            Some(lane) => {
                let (answer, made) = sync_channel(1);
                match lane.send((task, answer)) {
                    Ok(()) => Pending::There(made),
                    Err(back) => Pending::Here(back.0.0),
                }
            }
        };
        self.pending.push_back(pending);
    }

    /// The result of the first piece that was not taken yet; `None` if there is none.
    pub(crate) fn take(&mut self) -> Option<Result<T>> {
        Some(match self.pending.pop_front()? {
            Pending::Here(task) => task(),
            Pending::There(made) => made.recv().unwrap_or(Err(Error::Damaged("work on a piece ended unexpectedly"))),
        })
    }
}

impl<T> Drop for Parallel<T> {
    fn drop(&mut self) {
        self.lanes.clear();
        self.pending.clear();
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}
