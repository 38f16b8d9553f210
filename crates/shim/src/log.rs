//! The container's log: output cut into lines, written to files that are rotated by size.
//!
//! Owns: where a line begins and ends (Docker's 16 KiB pieces), rotation, what happens on a full disk. Must not: stop the
//! container: a line that cannot be written is counted and left out, whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::log_line;
use crate::protocol::{Channel, LogConfig, LogDriver};
use crate::timestamp::Timestamp;

/// Longest piece of a line in one log entry, in bytes; longer lines become several entries without `\n`, and a last one with it.
const PIECE: usize = 16 * 1024;

/// Entries are handed to the kernel when this many bytes are ready, and always before the shim waits for more output.
const BATCH: usize = 64 * 1024;

/// Where output is kept; or nowhere.
#[derive(Debug, Default)]
pub(crate) struct Log {
    file: Option<LogFile>,
    /// JSON of `attrs`, or empty.
    attrs: String,
    stdout: Unfinished,
    stderr: Unfinished,
}

/// The beginning of a line whose end has not come yet.
#[derive(Debug, Default)]
struct Unfinished {
    text: Vec<u8>,
    /// The time of the line's first piece, once that was written.
    since: Option<String>,
}

impl Log {
    /// Opens the log that `config` asks for. A half-written last line, left by a kill, is removed.
    ///
    /// Errors: the file cannot be opened or created; the text names it.
    pub(crate) fn open(config: &LogConfig) -> io::Result<Log> {
        let file = match config.driver {
            LogDriver::None => None,
            LogDriver::JsonFile => Some(LogFile::open(config).map_err(|error| {
                io::Error::new(error.kind(), format!("log file {}: {error}", config.path.display()))
            })?),
        };
        let attrs = if config.attrs.is_empty() {
            String::new()
        } else {
            serde_json::to_string(&config.attrs).expect("a map of strings serialises")
        };
        Ok(Log { file, attrs, ..Log::default() })
    }

    /// Takes output that came from `channel`. When this returns, every line that it completed is the kernel's.
    pub(crate) fn write(&mut self, channel: Channel, mut output: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let unfinished = match channel {
            Channel::Stdout => &mut self.stdout,
            Channel::Stderr => &mut self.stderr,
        };
        let now = Timestamp::now().to_string();
        while !output.is_empty() {
            let room = PIECE - unfinished.text.len();
            let end = output.iter().take(room).position(|&byte| byte == b'\n');
            let taken = end.unwrap_or(room.min(output.len()));
            let time = unfinished.since.as_deref().unwrap_or(&now);
            if let (Some(_), true) = (end, unfinished.text.is_empty()) {
                file.append(&output[..taken], true, channel, &self.attrs, time);
                *unfinished = Unfinished::default();
            } else {
                unfinished.text.extend_from_slice(&output[..taken]);
                if end.is_some() {
                    file.append(&unfinished.text, true, channel, &self.attrs, time);
                    *unfinished = Unfinished::default();
                } else if unfinished.text.len() == PIECE {
                    let whole = whole_characters(&unfinished.text);
                    file.append(&unfinished.text[..whole], false, channel, &self.attrs, time);
                    unfinished.text.drain(..whole);
                    unfinished.since.get_or_insert(now.clone());
                }
            }
            output = &output[taken + usize::from(end.is_some())..];
        }
        file.flush();
    }

    /// Writes what `channel` printed after its last newline: it will print no more.
    pub(crate) fn finish(&mut self, channel: Channel) {
        let Some(file) = &mut self.file else { return };
        let unfinished = match channel {
            Channel::Stdout => std::mem::take(&mut self.stdout),
            Channel::Stderr => std::mem::take(&mut self.stderr),
        };
        if !unfinished.text.is_empty() {
            let time = unfinished.since.unwrap_or_else(|| Timestamp::now().to_string());
            file.append(&unfinished.text, false, channel, &self.attrs, &time);
            file.flush();
        }
    }

    /// How many entries could not be written.
    pub(crate) fn lost(&self) -> u64 {
        self.file.as_ref().map_or(0, |file| file.lost)
    }
}

/// How much of `text` to write so that no character is cut in two: Docker cuts them, and both halves turn into garbage.
fn whole_characters(text: &[u8]) -> usize {
    for back in 1..=3 {
        let at = text.len() - back;
        let length = match text[at] {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => break,
        };
        return if length > back { at } else { text.len() };
    }
    text.len()
}

/// The files.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    /// Bytes in the current file, all of them whole lines.
    size: u64,
    max_size: u64,
    max_files: u32,
    /// Entries not yet written.
    batch: Vec<u8>,
    lost: u64,
}

impl LogFile {
    fn open(config: &LogConfig) -> io::Result<LogFile> {
        let mut file = open_append(&config.path)?;
        let size = without_torn_line(&mut file)?;
        Ok(LogFile {
            path: config.path.clone(),
            file,
            size,
            max_size: config.max_size_bytes.filter(|&size| size > 0).unwrap_or(u64::MAX),
            max_files: config.max_files.max(1),
            batch: Vec::new(),
            lost: 0,
        })
    }

    fn append(&mut self, text: &[u8], newline: bool, channel: Channel, attrs: &str, time: &str) {
        let before = self.batch.len();
        log_line::append(&mut self.batch, text, newline, channel, attrs, time);
        let full = self.size + self.batch.len() as u64 > self.max_size;
        if full && self.size + before as u64 > 0 {
            let line = self.batch.split_off(before);
            self.flush();
            self.rotate();
            self.batch = line;
        }
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    /// Hands the batch to the kernel; what does not fit on the disk is counted and dropped, in whole lines.
    fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let mut written = 0;
        while written < batch.len() {
            match self.file.write(&batch[written..]) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let mut whole = written;
        if written < batch.len() {
            whole = batch[..written].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            self.lost += batch[whole..].iter().filter(|&&byte| byte == b'\n').count() as u64;
            if whole < written && self.file.set_len(self.size + whole as u64).is_err() {
                // The torn line stays; a newline would not fit either. Readers skip what is not JSON.
                whole = written;
            }
        }
        self.size += whole as u64;
        // The allocation is kept for the next batch unless it grew unusually large.
        if batch.capacity() <= BATCH / 2 {
            self.batch = batch;
            self.batch.clear();
        }
    }

    /// Makes room: `<path>` becomes `<path>.1` and so on; the oldest goes.
    fn rotate(&mut self) {
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        if self.max_files == 1 {
            if self.file.set_len(0).is_ok() {
                self.size = 0;
            }
            return;
        }
        for number in (1..self.max_files - 1).rev() {
            // Missing numbers are normal; a rename that fails otherwise only means that an old file is overwritten.
            std::fs::rename(numbered(number), numbered(number + 1)).ok();
        }
        if std::fs::rename(&self.path, numbered(1)).is_err() {
            return;
        }
        // Without a new file (no inode left) the old one, now `.1`, goes on growing: better than losing lines.
        if let Ok(file) = open_append(&self.path) {
            self.file = file;
            self.size = 0;
        }
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)
}

/// Cuts off what follows the last newline and returns the size that is left.
fn without_torn_line(file: &mut File) -> io::Result<u64> {
    const STEP: u64 = 4096;
    let size = file.metadata()?.len();
    let mut end = size;
    while end > 0 {
        let start = end.saturating_sub(STEP);
        let mut part = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        Read::by_ref(file).take(end - start).read_to_end(&mut part)?;
        if let Some(at) = part.iter().rposition(|&byte| byte == b'\n') {
            end = start + at as u64 + 1;
            break;
        }
        end = start;
    }
    if end < size {
        file.set_len(end)?;
    }
    Ok(end)
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
