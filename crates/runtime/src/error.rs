//! What went wrong between a specification and a running process.
//! Owns the kinds that callers decide on. Must not know exit codes or HTTP (callers map kinds to those).

use serde::{Deserialize, Serialize};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What a caller may decide on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The program to run does not exist in the container (a shell would exit with 127).
    NotFound,
    /// The program exists but cannot be executed (126).
    NotExecutable,
    /// The specification contradicts itself or asks for something impossible.
    Invalid,
    /// The specification asks for something that this kernel or this runtime does not do.
    Unsupported,
    /// The kernel refused a step.
    System,
}

/// A failed step. The message names the step and either the system call with its arguments or the field of the specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// What a caller may decide on.
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
}

impl Error {
    /// An error of any kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into() }
    }

    /// The specification is wrong.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, message)
    }

    /// The specification asks for what cannot be done here.
    pub fn unsupported(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Unsupported, message)
    }

    /// The kernel or the machine refused.
    pub fn system(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::System, message)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<brig_sys::Error> for Error {
    fn from(error: brig_sys::Error) -> Error {
        Error::system(error.to_string())
    }
}

impl From<crate::cgroup::Error> for Error {
    fn from(error: crate::cgroup::Error) -> Error {
        let kind = match error.kind {
            crate::cgroup::ErrorKind::Invalid => ErrorKind::Invalid,
            crate::cgroup::ErrorKind::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::System,
        };
        Error::new(kind, error.to_string())
    }
}

/// Names the step that an error happened in.
pub(crate) trait Step<T> {
    /// Puts `what` and a colon in front of the message.
    fn step(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Error>> Step<T> for std::result::Result<T, E> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let error = error.into();
            Error { kind: error.kind, message: format!("{}: {}", what(), error.message) }
        })
    }
}
