//! Owns the crate's error: a class callers can map to a status, and words a person can act on. It must not know HTTP
//! statuses of Docker's API (the daemon maps the class) and must never carry a credential or a signed URL's query.

use std::fmt;
use std::time::Duration;

/// What went wrong, as a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The registry has no such repository, manifest, blob or platform.
    NotFound,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// The registry refuses this caller (Docker answers such a pull with "not found").
    Denied,
    /// The registry asks to come back later (429).
    RateLimited,
    /// What came back, or what was asked for, is not acceptable: malformed, too large, of an unsupported kind.
    Invalid,
    /// Content differs from its digest or its promised size.
    Mismatch,
    /// The registry cannot be reached, or the conversation broke off.
    Network,
    /// Nothing arrived for too long.
    Timeout,
    /// The local store failed (full disk, damaged content).
    Storage,
}

/// An error of this crate. [`fmt::Display`] prints the message alone, in Docker's words where Docker has any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The class.
    pub kind: ErrorKind,
    /// The text for people.
    pub message: String,
}

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of class `kind` saying `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn mismatch(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Mismatch, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<brig_store::Error> for Error {
    fn from(error: brig_store::Error) -> Error {
        let kind = match error.kind {
            brig_store::ErrorKind::Invalid => ErrorKind::Invalid,
            brig_store::ErrorKind::Mismatch => ErrorKind::Mismatch,
            _ => ErrorKind::Storage,
        };
        Error::new(kind, error.to_string())
    }
}

/// What trying the same thing again is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// The answer will not change.
    Never,
    /// It may work in a moment.
    Soon,
    /// Not even a connection came about: worth waiting for in the middle of work, not at its beginning.
    Reconnect,
    /// The server named the time to wait.
    After(Duration),
}

/// An [`Error`] on its way up, with what the retry loop needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) retry: Retry,
}

impl Failure {
    pub(crate) fn fatal(kind: ErrorKind, message: impl Into<String>) -> Failure {
        Failure { error: Error::new(kind, message), retry: Retry::Never }
    }

    pub(crate) fn transient(kind: ErrorKind, message: impl Into<String>) -> Failure {
        Failure { error: Error::new(kind, message), retry: Retry::Soon }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { error, retry: Retry::Never }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        failure.error
    }
}

/// Text from the other side, made fit for a terminal and a log: control characters escaped, length bounded.
pub(crate) fn printable(text: &str) -> String {
    const LONGEST: usize = 1024;
    let mut out = String::new();
    for c in text.chars() {
        if out.len() >= LONGEST {
            out.push('…');
            break;
        }
        // Bidirectional overrides reorder what a terminal shows just as escapes do.
        let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || reorders { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn foreign_text_cannot_drive_a_terminal() {
        assert_eq!(printable("a\x1b[31mb\n"), "a\\u{1b}[31mb\\n");
        assert!(printable(&"x".repeat(9000)).len() < 1100);
    }
}
