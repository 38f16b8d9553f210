//! A thread that has large files written to the disk while the rest of the layer is still unpacked: it waits where the disk is
//! slower, so that unpacking does not. Owns nothing that must be done: whoever publishes the layer waits for all of it.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use brig_sys::process;

/// Parts that wait for the disk. Beyond that it is busy, and more of them would only keep files open.
const WAITING: usize = 64;

/// A part of a file.
struct Part {
    file: File,
    offset: u64,
    length: u64,
}

/// See the module. Ends with what it is at.
pub(crate) struct WriteBack {
    parts: Option<SyncSender<Part>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl WriteBack {
    /// Where no thread can be had everything is written later.
    pub(crate) fn start() -> WriteBack {
        let (parts, waiting) = sync_channel(WAITING);
        let is_over = Arc::new(AtomicBool::new(false));
        let until = is_over.clone();
        let thread = std::thread::Builder::new().name("store-write".into()).spawn(move || work(&waiting, &until)).ok();
        WriteBack { parts: Some(parts), is_over, thread }
    }

    /// Begins to write a part of a file to the disk, now or soon or not at all.
    pub(super) fn begin(&self, file: &File, offset: u64, length: u64) {
        if let (Some(parts), Ok(file)) = (&self.parts, file.try_clone()) {
            // What finds no place is written with the layer.
            drop(parts.try_send(Part { file, offset, length }));
        }
    }
}

impl Drop for WriteBack {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.parts = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell.
            drop(thread.join());
        }
    }
}

fn work(waiting: &Receiver<Part>, is_over: &AtomicBool) {
    while let Ok(part) = waiting.recv() {
        if !is_over.load(Ordering::Relaxed) {
            process::start_write_back(part.file.as_fd(), part.offset, part.length);
        }
    }
}
