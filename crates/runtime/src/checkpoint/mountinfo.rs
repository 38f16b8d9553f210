//! `/proc/PID/mountinfo`, read.
//! Owns its format. Must not judge what it reads.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Mount attributes that take something away from whoever sees the mount, as bits of mount(2).
pub(super) const RESTRICTIONS: [(&str, u32); 4] = [("ro", 1), ("nosuid", 2), ("nodev", 4), ("noexec", 8)];

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub id: u64,
    /// `major:minor` of the file system.
    pub device: String,
    /// Which directory or file of the file system is mounted.
    pub root: PathBuf,
    /// Where, as the process sees it.
    pub point: PathBuf,
    /// Bits of [`RESTRICTIONS`].
    pub restrictions: u32,
    /// The file system's type.
    pub fs: String,
}

/// The mounts that a process sees, in the order in which they were made.
pub(super) fn of_process(pid: i32) -> Result<Vec<Entry>> {
    let path = format!("/proc/{pid}/mountinfo");
    let content = std::fs::read(&path).map_err(|error| Error::system(format!("read {path}: {error}")))?;
    parse(&content).ok_or_else(|| Error::system(format!("{path}: has a line that is no mount")))
}

fn parse(content: &[u8]) -> Option<Vec<Entry>> {
    content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Entry> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let text = |index: usize| words.get(index).and_then(|word| std::str::from_utf8(word).ok());
    let dash = words.iter().skip(6).position(|word| *word == b"-")? + 6;
    Some(Entry {
        id: text(0)?.parse().ok()?,
        device: text(2)?.to_owned(),
        root: unescape(words.get(3)?),
        point: unescape(words.get(4)?),
        restrictions: restrictions(text(5)?),
        fs: text(dash + 1)?.to_owned(),
    })
}

fn restrictions(options: &str) -> u32 {
    let bit = |word: &str| RESTRICTIONS.iter().find(|(name, _)| *name == word).map_or(0, |(_, bit)| *bit);
    options.split(',').fold(0, |bits, word| bits | bit(word))
}

/// `\040` and its kin.
fn unescape(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let octal = |digits: &[u8]| std::str::from_utf8(digits).ok().and_then(|text| u8::from_str_radix(text, 8).ok());
        match after.get(..3).filter(|_| *first == b'\\').and_then(octal) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// The words of restriction bits, for people.
pub(super) fn words(bits: u32) -> String {
    let names: Vec<&str> = RESTRICTIONS.iter().filter(|(_, bit)| bits & bit != 0).map(|(name, _)| *name).collect();
    names.join(",")
}

/// The mount whose place is `point`, the topmost if there are several.
pub(super) fn at<'a>(mounts: &'a [Entry], point: &Path) -> Option<&'a Entry> {
    mounts.iter().rev().find(|mount| mount.point == point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text =
            b"36 35 98:0 /mnt\\040one /mnt2/\\134x rw,noatime,nosuid master:1 - ext3 /dev/root rw,errors=continue\n\
            37 36 0:5 / /proc ro,nodev,noexec - proc proc rw\n";
        let mounts = parse(text).unwrap();
        assert_eq!(mounts.len(), 2);
        assert_eq!(
            (mounts[0].root.as_path(), mounts[0].point.as_path()),
            (Path::new("/mnt one"), Path::new("/mnt2/\\x"))
        );
        assert_eq!((mounts[0].id, mounts[0].device.as_str(), mounts[0].restrictions), (36, "98:0", 2));
        assert_eq!((mounts[1].fs.as_str(), words(mounts[1].restrictions).as_str()), ("proc", "ro,nodev,noexec"));
        assert_eq!(at(&mounts, Path::new("/proc")).map(|mount| mount.id), Some(37));
        assert!(parse(b"not a mount\n").is_none());
        assert!(!of_process(std::process::id() as i32).unwrap().is_empty());
    }
}
