//! What can go wrong when a network is set up, in words for people.
//! Owns the classes that callers decide on. Must not know HTTP statuses.

use std::fmt;

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// The class of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A host port is held by another container or another program.
    PortInUse,
    /// A subnet or address overlaps with something that exists, or none is free.
    NoAddress,
    /// The named thing does not exist.
    NotFound,
    /// The request makes no sense.
    Invalid,
    /// The kernel lacks what is needed.
    Unsupported,
    /// A system call failed.
    System,
}

/// A failure: its class and a sentence that names the thing, its state and, where there is one, the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What to decide on.
    pub kind: ErrorKind,
    /// What to show.
    pub message: String,
}

impl Error {
    /// An error of class `kind` that reads `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into() }
    }

    /// The same error, said to have happened while doing `what`.
    #[must_use]
    pub fn during(mut self, what: &str) -> Error {
        self.message = format!("{what}: {}", self.message);
        self
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
        Error::new(ErrorKind::System, error.to_string())
    }
}
