//! The engine's errors: a class that the HTTP layer maps to a status, and a sentence for people.
//! Owns the mapping from the errors of the subsystems to those classes; must not know HTTP statuses.

use std::fmt;

/// What kind of thing went wrong, as Docker's clients distinguish it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The named object does not exist.
    NotFound,
    /// The request contradicts the state of the object or of another one.
    Conflict,
    /// The request itself is wrong.
    InvalidParameter,
    /// Nothing had to be done.
    NotModified,
    /// The caller's credentials were refused.
    Unauthorized,
    /// The caller may not do this.
    Forbidden,
    /// Docker has it, brig does not have it yet.
    NotImplemented,
    /// The daemon cannot do it now, a later try may succeed.
    Unavailable,
    /// Something below the engine failed.
    System,
}

/// An error with its class and a sentence that names the thing, its state and, where there is one, the next step.
#[derive(Debug, Clone)]
pub struct Error {
    /// The class.
    pub kind: ErrorKind,
    /// The sentence, in Docker's words where clients match on them.
    pub message: String,
}

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of the given class.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
    /// The named object does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }
    /// The request contradicts a state.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }
    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidParameter, message)
    }
    /// Something below failed.
    pub fn system(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::System, message)
    }
    /// A feature of Docker's that brig does not have yet.
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotImplemented, message)
    }
    /// The same class with words put in front.
    pub fn context(mut self, prefix: &str) -> Self {
        self.message = format!("{prefix}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// A store's error in the engine's classes.
pub fn from_store(e: brig_store::Error) -> Error {
    use brig_store::ErrorKind as K;
    let kind = match e.kind {
        K::NotFound => ErrorKind::NotFound,
        K::Invalid => ErrorKind::InvalidParameter,
        K::Busy | K::Mismatch | K::NoSpace | K::Corrupt | K::Io => ErrorKind::System,
    };
    Error::new(kind, e.message)
}
