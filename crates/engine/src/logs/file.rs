//! Reads the json-file logs that shims write, across rotation. Owns finding the place to begin and the next record;
//! must not wait (the follower does) and must not write.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How much is read at a time when looking for the last lines.
const BLOCK: usize = 64 << 10;
/// A record longer than this is damage: the shim splits lines at 16 KiB, JSON escaping grows them six times at most.
const LONGEST_RECORD: usize = 1 << 20;

/// A position in a log of several files, oldest first.
pub struct LogFile {
    path: PathBuf,
    older: VecDeque<File>,
    current: Option<BufReader<File>>,
    inode: u64,
    partial: Vec<u8>,
}

impl LogFile {
    /// Opens the log at its beginning, or at its last `tail` records. A log that does not exist yet is empty.
    pub fn open(path: &Path, tail: Option<u64>) -> io::Result<Self> {
        let mut files = open_all(path)?;
        if let Some(tail) = tail {
            seek_to_tail(&mut files, tail)?;
        }
        let mut older: VecDeque<File> = files.into();
        let newest = older.pop_back();
        let inode = newest.as_ref().map(|f| f.metadata().map(|m| m.ino())).transpose()?.unwrap_or(0);
        let mut log = Self { path: path.to_owned(), older, current: None, inode, partial: Vec::new() };
        if let Some(newest) = newest {
            log.older.push_back(newest);
        }
        log.advance();
        Ok(log)
    }

    /// The next whole record without its newline, or `None` when there is none yet.
    pub fn next_record(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let Some(reader) = self.current.as_mut() else {
                if self.reopen()? {
                    continue;
                }
                return Ok(None);
            };
            reader.by_ref().take(LONGEST_RECORD as u64).read_until(b'\n', &mut self.partial)?;
            if self.partial.last() == Some(&b'\n') {
                self.partial.pop();
                return Ok(Some(std::mem::take(&mut self.partial)));
            }
            if self.partial.len() >= LONGEST_RECORD {
                self.partial.clear();
                continue;
            }
            // The end of this file: an older one is finished for good, the newest may have been rotated away.
            if !self.advance() && !self.reopen()? {
                return Ok(None);
            }
        }
    }

    /// Goes on to the next file that is already open.
    fn advance(&mut self) -> bool {
        match self.older.pop_front() {
            Some(file) => {
                self.partial.clear();
                self.current = Some(BufReader::new(file));
                true
            }
            None => false,
        }
    }

    /// Opens the log's path again if another file stands there now.
    fn reopen(&mut self) -> io::Result<bool> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        let inode = file.metadata()?.ino();
        if inode == self.inode && self.current.is_some() {
            return Ok(false);
        }
        if self.current.is_some() && self.has_more()? {
            return Ok(true);
        }
        self.inode = inode;
        self.partial.clear();
        self.current = Some(BufReader::new(file));
        Ok(true)
    }

    /// Whether the writer added to the current file between our reaching its end and its being rotated away.
    fn has_more(&mut self) -> io::Result<bool> {
        match self.current.as_mut() {
            Some(reader) => Ok(!reader.fill_buf()?.is_empty()),
            None => Ok(false),
        }
    }
}

/// The log's files, oldest first: `path.N` … `path.1`, `path`.
fn open_all(path: &Path) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    for number in 0.. {
        let mut name = path.as_os_str().to_owned();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        match File::open(&name) {
            Ok(file) => files.push(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if number > 0 {
                    break;
                }
            }
            Err(e) => return Err(e),
        }
    }
    files.reverse();
    Ok(files)
}

/// Drops and seeks the files so that `tail` records remain.
fn seek_to_tail(files: &mut Vec<File>, tail: u64) -> io::Result<()> {
    let mut missing = tail;
    for index in (0..files.len()).rev() {
        if missing == 0 {
            files[index].seek(SeekFrom::End(0))?;
            files.drain(..index);
            return Ok(());
        }
        let found = seek_last_lines(&mut files[index], missing)?;
        missing -= found;
        if missing == 0 {
            files.drain(..index);
            return Ok(());
        }
    }
    Ok(())
}

/// Seeks to where the last `wanted` lines begin and gives how many there are, at most `wanted`.
fn seek_last_lines(file: &mut File, wanted: u64) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut seen = 0;
    let mut block = vec![0u8; BLOCK];
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let length = (end - start) as usize;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..length])?;
        for at in (0..length).rev() {
            if block[at] == b'\n' {
                if seen == wanted {
                    file.seek(SeekFrom::Start(start + at as u64 + 1))?;
                    return Ok(wanted);
                }
                seen += 1;
            }
        }
        end = start;
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn drain(log: &mut LogFile) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(record) = log.next_record().unwrap() {
            out.push(String::from_utf8(record).unwrap());
        }
        out
    }

    #[test]
    fn reads_across_rotated_files_and_tails() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        std::fs::write(dir.path().join("x.log.2"), "1\n2\n").unwrap();
        std::fs::write(dir.path().join("x.log.1"), "3\n4\n").unwrap();
        std::fs::write(&path, "5\n6\n").unwrap();
        assert_eq!(drain(&mut LogFile::open(&path, None).unwrap()), ["1", "2", "3", "4", "5", "6"]);
        assert_eq!(drain(&mut LogFile::open(&path, Some(1)).unwrap()), ["6"]);
        assert_eq!(drain(&mut LogFile::open(&path, Some(2)).unwrap()), ["5", "6"]);
        assert_eq!(drain(&mut LogFile::open(&path, Some(3)).unwrap()), ["4", "5", "6"]);
        assert_eq!(drain(&mut LogFile::open(&path, Some(99)).unwrap()), ["1", "2", "3", "4", "5", "6"]);
        assert!(drain(&mut LogFile::open(&path, Some(0)).unwrap()).is_empty());
    }

    #[test]
    fn goes_on_where_the_writer_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut log = LogFile::open(&path, None).unwrap();
        assert!(drain(&mut log).is_empty());
        let mut writer = File::create(&path).unwrap();
        writer.write_all(b"a\nhalf").unwrap();
        assert_eq!(drain(&mut log), ["a"]);
        writer.write_all(b" whole\nb\n").unwrap();
        // Rotated before the reader saw the end of it.
        std::fs::rename(&path, dir.path().join("x.log.1")).unwrap();
        std::fs::write(&path, "c\n").unwrap();
        assert_eq!(drain(&mut log), ["half whole", "b", "c"]);
    }

    #[test]
    fn the_last_of_many_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let lines: Vec<String> = (0..40_000).map(|n| format!("line {n}")).collect();
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        assert_eq!(drain(&mut LogFile::open(&path, Some(30_000)).unwrap()), lines[10_000..]);
    }
}
