//! The one error of this crate: its kind for programs, its message for people.
//! Must not carry more than a caller can act on.

use std::fmt;
use std::io;

/// Result of a store operation.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The named thing is not in the store.
    NotFound,
    /// What was given is malformed, hostile, or beyond a bound.
    Invalid,
    /// Content is not what its digest promised.
    Mismatch,
    /// The file system is full, or a quota is.
    NoSpace,
    /// Another process has the store open.
    Busy,
    /// What the store holds is damaged.
    Corrupt,
    /// A system call failed otherwise.
    Io,
}

/// A failed store operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// For programs.
    pub kind: ErrorKind,
    /// For people: names the thing, its state and where there is one the next step.
    pub message: String,
}

impl Error {
    /// An error of `kind`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        let message = message.into();
        Error { kind, message }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::NotFound, message)
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Corrupt, message)
    }

    /// A failed call while doing `what`, which should name the path.
    pub(crate) fn io(what: impl fmt::Display, error: impl Into<io::Error>) -> Error {
        let error = error.into();
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        Error::new(kind, format!("{what}: {error}"))
    }

    /// A failed read of what somebody else sent: a cut or garbled stream is their fault, not the disk's.
    pub(crate) fn input(what: impl fmt::Display, error: &io::Error) -> Error {
        let kind = match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
                ErrorKind::Invalid
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        Error::new(kind, format!("{what}: {error}"))
    }

    /// Says in which context it happened.
    pub(crate) fn context(self, what: impl fmt::Display) -> Error {
        Error { message: format!("{what}: {}", self.message), ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<brig_sys::Error> for Error {
    fn from(error: brig_sys::Error) -> Error {
        use rustix::io::Errno;
        let kind = match error.errno {
            Errno::NOSPC | Errno::DQUOT => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        Error::new(kind, error.to_string())
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Error {
        use rusqlite::ErrorCode;
        let kind = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => ErrorKind::NoSpace,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::Corrupt,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::Busy,
            _ if matches!(error, rusqlite::Error::QueryReturnedNoRows) => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Error::new(kind, format!("database: {error}"))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error.kind {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::Invalid | ErrorKind::Mismatch | ErrorKind::Corrupt => io::ErrorKind::InvalidData,
            ErrorKind::NoSpace => io::ErrorKind::StorageFull,
            ErrorKind::Busy => io::ErrorKind::ResourceBusy,
            ErrorKind::Io => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
