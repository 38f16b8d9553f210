//! Where damaged and unknown things go instead of being deleted: `quarantine/<UTC time>/<what>/<name>`, by rename, so that
//! whoever has them open or mounted goes on with them. Nothing in there is ever looked at or removed again by the store.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::durable;
use crate::error::{Error, Result};

/// The directory of this process's findings, made when the first thing goes there.
pub(crate) struct Quarantine {
    parent: PathBuf,
    made: Mutex<Option<PathBuf>>,
}

impl Quarantine {
    pub(crate) fn new(root: &Path) -> Quarantine {
        Quarantine { parent: root.join("quarantine"), made: Mutex::default() }
    }

    /// Moves `name` of `from` there, under `kind`. What is not there is fine: `None`.
    pub(crate) fn take(&self, from: BorrowedFd<'_>, name: &OsStr, kind: &str) -> Result<Option<PathBuf>> {
        let parent = self.directory()?.join(kind);
        let dir = durable::directory(&parent)?;
        let base = Path::new(name).file_name().unwrap_or(name);
        for n in 0.. {
            let mut target = base.to_owned();
            if n > 0 {
                target.push(format!(".{n}"));
            }
            match rustix::fs::renameat_with(from, name, dir.as_fd(), &*target, RenameFlags::NOREPLACE) {
                Ok(()) => {
                    let path = parent.join(target);
                    durable::sync(dir.as_fd(), &path)?;
                    return Ok(Some(path));
                }
                Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => {
                    return Err(Error::io(format!("move {} to {}", name.display(), parent.display()), errno));
                }
            }
        }
        Ok(None)
    }

    /// As [`Quarantine::take`], for a path of this program's own on the same file system.
    pub(crate) fn take_path(&self, path: &Path, kind: &str) -> Result<Option<PathBuf>> {
        self.take(CWD, path.as_os_str(), kind)
    }

    /// Writes down what cannot be moved: a row of the database.
    pub(crate) fn keep(&self, kind: &str, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let parent = self.directory()?.join(kind);
        let dir = durable::directory(&parent)?;
        let path = parent.join(name);
        durable::publish(dir.as_fd(), &durable::unique_name()?, dir.as_fd(), name, &path, bytes)?;
        Ok(path)
    }

    /// The directory for what is found now.
    pub(crate) fn directory(&self) -> Result<PathBuf> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &*made {
            return Ok(path.clone());
        }
        if self.parent.symlink_metadata().is_ok() && !self.parent.is_dir() {
            let aside = self.parent.with_extension(durable::unique_name()?);
            std::fs::rename(&self.parent, &aside).map_err(|error| {
                Error::io(format!("rename {} to {}", self.parent.display(), aside.display()), error)
            })?;
        }
        drop(durable::directory(&self.parent)?);
        let path = self.parent.join(timestamp(SystemTime::now()));
        drop(durable::directory(&path)?);
        *made = Some(path.clone());
        Ok(path)
    }
}

/// `2026-01-31T23-59-59Z`: sorts by time and needs no quoting.
fn timestamp(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{second:02}Z")
}

/// The date so many days after 1970-01-01 in the Gregorian calendar, whose pattern repeats every 146,097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    // Counted from a March 1st, so that the day that may be missing is a year's last.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let in_month = day - (153 * month + 2) / 5 + 1;
    let calendar = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(calendar <= 2), calendar, in_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_513), (2026, 3, 1));
        assert_eq!(timestamp(UNIX_EPOCH + std::time::Duration::from_secs(951_868_799)), "2000-02-29T23-59-59Z");
    }

    #[test]
    fn nothing_is_overwritten() {
        let root = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::new(root.path());
        for n in 0..3 {
            std::fs::write(root.path().join("x"), n.to_string()).unwrap();
            assert!(quarantine.take_path(&root.path().join("x"), "stray").unwrap().is_some());
        }
        assert_eq!(quarantine.take_path(&root.path().join("x"), "stray").unwrap(), None);
        let kept = quarantine.directory().unwrap().join("stray");
        assert_eq!(std::fs::read_dir(kept).unwrap().count(), 3);
    }
}
