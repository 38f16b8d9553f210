//! Finding the program in the container, as the user who is going to run it, and that user's home.
//! Owns the texts of 126 and 127. Must not run anything.

use std::ffi::{CStr, CString, OsStr};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};

/// The path that execve gets for `name`; found as a shell would.
///
/// # Errors
/// `NotFound` and `NotExecutable` in the words that Docker's users know.
pub(super) fn program(name: &CStr, path: Option<&[u8]>) -> Result<CString> {
    let shown = OsStr::from_bytes(name.to_bytes());
    if name.to_bytes().contains(&b'/') {
        return match check(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Err(Error::new(
                ErrorKind::NotFound,
                format!("exec: {shown:?}: stat {}: no such file or directory", shown.display()),
            )),
            Err(Errno::ISDIR) => Err(Error::new(ErrorKind::NotExecutable, format!("exec: {shown:?}: is a directory"))),
            Err(_) => Err(Error::new(ErrorKind::NotExecutable, format!("exec: {shown:?}: permission denied"))),
        };
    }
    let mut denied = false;
    for directory in
        path.unwrap_or_default().split(|byte| *byte == b':').filter(|directory| directory.starts_with(b"/"))
    {
        let mut candidate = directory.to_vec();
        candidate.push(b'/');
        candidate.extend_from_slice(name.to_bytes());
        let Ok(candidate) = CString::new(candidate) else { continue };
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::ACCESS) => denied = true,
            Err(_) => {}
        }
    }
    if denied {
        return Err(Error::new(ErrorKind::NotExecutable, format!("exec: {shown:?}: permission denied")));
    }
    Err(Error::new(ErrorKind::NotFound, format!("exec: {shown:?}: executable file not found in $PATH")))
}

/// Whether this process may execute the file, by its effective ids.
fn check(path: &CStr) -> std::result::Result<(), Errno> {
    let stat = rustix::fs::stat(path)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => return Err(Errno::ISDIR),
        FileType::RegularFile => {}
        _ => return Err(Errno::ACCESS),
    }
    match rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        // A filter that does not know the call; execve will tell.
        Err(Errno::PERM | Errno::NOSYS) => Ok(()),
        done => done,
    }
}

/// What an error of execve means to a user.
pub(super) fn exec_error(error: &brig_sys::Error, program: &CStr) -> Error {
    let shown = OsStr::from_bytes(program.to_bytes());
    let shown = shown.display();
    match error.errno {
        // The file was found a moment ago: what is missing is its interpreter.
        Errno::NOENT => Error::new(ErrorKind::NotFound, format!("exec {shown}: no such file or directory")),
        Errno::NOEXEC => Error::new(ErrorKind::NotExecutable, format!("exec {shown}: exec format error")),
        Errno::ACCESS | Errno::PERM => Error::new(ErrorKind::NotExecutable, format!("exec {shown}: permission denied")),
        Errno::ISDIR => Error::new(ErrorKind::NotExecutable, format!("exec {shown}: is a directory")),
        _ => Error::new(ErrorKind::NotExecutable, format!("exec {shown}: {error}")),
    }
}

/// The home of a user by the container's own `/etc/passwd`; `/` if that says nothing.
pub(super) fn home(uid: u32) -> CString {
    home_in_passwd(uid).unwrap_or_else(|| c"/".to_owned())
}

fn home_in_passwd(uid: u32) -> Option<CString> {
    // The image owns this file: it may be a fifo or endless.
    const LIMIT: u64 = 1 << 20;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open("/etc/passwd", flags, Mode::empty()).ok()?;
    if super::mounts::file_type(rustix::fd::AsFd::as_fd(&file)).ok()? != FileType::RegularFile {
        return None;
    }
    let mut text = Vec::new();
    std::fs::File::from(file).take(LIMIT).read_to_end(&mut text).ok()?;
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let id = fields.nth(2)?;
        let home = fields.nth(2)?;
        (std::str::from_utf8(id).ok()?.parse::<u32>().ok()? == uid && home.starts_with(b"/"))
            .then(|| CString::new(home).ok())
            .flatten()
    })
}
