//! Owns reading and writing the small files of a cgroup directory. It must not know what they mean.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;

use super::error::{Error, ErrorKind, Result};

/// No file of a cgroup is anywhere near this, except lists of processes, which are read in full below it.
const MAX_BYTES: u64 = 16 << 20;

/// Writes `value` in one write(2), as these files want it.
pub(super) fn write(dir: &Path, file: &str, value: &str) -> Result<()> {
    let path = dir.join(file);
    let result = OpenOptions::new().write(true).open(&path).and_then(|mut opened| opened.write_all(value.as_bytes()));
    result.map_err(|error| Error::io(&format!("write {value:?} to"), &path, &error))
}

/// Writes each value in one write(2), with the file opened once.
pub(super) fn write_each<'a>(dir: &Path, file: &str, values: impl Iterator<Item = &'a String>) -> Result<()> {
    let mut opened = None;
    for value in values {
        let path = dir.join(file);
        let written = match &mut opened {
            Some(opened) => Ok(opened),
            empty => OpenOptions::new().write(true).open(&path).map(|file| empty.insert(file)),
        };
        let written = written.and_then(|opened: &mut std::fs::File| opened.write_all(value.as_bytes()));
        written.map_err(|error| Error::io(&format!("write {value:?} to"), &path, &error))?;
    }
    Ok(())
}

/// Writes, or returns false when the kernel has no such file.
pub(super) fn write_if_present(dir: &Path, file: &str, value: &str) -> Result<bool> {
    if !dir.join(file).exists() {
        return Ok(false);
    }
    write(dir, file, value).map(|()| true)
}

pub(super) fn read(dir: &Path, file: &str) -> Result<String> {
    let path = dir.join(file);
    let mut text = String::new();
    let result = std::fs::File::open(&path).and_then(|opened| opened.take(MAX_BYTES).read_to_string(&mut text));
    match result {
        Ok(_) => Ok(text),
        Err(error) => Err(Error::io("read", &path, &error)),
    }
}

/// The content, `None` when the kernel has no such file or the cgroup is gone.
pub(super) fn read_if_present(dir: &Path, file: &str) -> Result<Option<String>> {
    match read(dir, file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A single number; `max` and what v1 means by it (anything near 2⁶³) is `None` inside.
pub(super) fn number(dir: &Path, file: &str) -> Result<Option<u64>> {
    Ok(read_if_present(dir, file)?.and_then(|text| text.trim().parse().ok()))
}

/// Lines of `name value`.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once([' ', '\t'])?;
        Some((name, value.trim().parse().ok()?))
    })
}

/// The value of `name` in such lines.
pub(super) fn pair(text: &str, name: &str) -> Option<u64> {
    pairs(text).find(|(known, _)| *known == name).map(|(_, value)| value)
}
