//! Owns the error of this module. Every message about a file names the file and, when writing, the value.

use std::path::Path;

/// What kind of failure, for callers that react.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request makes no sense.
    Invalid,
    /// The kernel or its set-up here cannot do it.
    Unsupported,
    /// There is no such cgroup (any more).
    NotFound,
    /// Processes are in the way.
    Busy,
    /// The caller may not.
    Denied,
    /// The kernel refused.
    System,
}

/// A failure with its explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What kind.
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl Error {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into() }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, message)
    }

    /// What was asked for but cannot be had here.
    pub(super) fn unsupported(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Unsupported, message)
    }

    /// `verb path: reason`.
    pub(super) fn io(verb: &str, path: &Path, error: &std::io::Error) -> Error {
        const EBUSY: i32 = 16;
        const ENODEV: i32 = 19;
        const EOPNOTSUPP: i32 = 95;
        let kind = match (error.kind(), error.raw_os_error()) {
            (_, Some(EOPNOTSUPP)) => ErrorKind::Unsupported,
            (std::io::ErrorKind::NotFound, _) | (_, Some(ENODEV)) => ErrorKind::NotFound,
            (_, Some(EBUSY)) => ErrorKind::Busy,
            (std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem, _) => ErrorKind::Denied,
            _ => ErrorKind::System,
        };
        Error::new(kind, format!("{verb} {}: {}", path.display(), reason(error)))
    }
}

/// Names the field of the specification that an error is about.
pub(super) trait Field<T> {
    /// Puts `linux.resources.<name>: ` in front of the message.
    fn field(self, name: &str) -> Result<T>;
}

impl<T> Field<T> for Result<T> {
    fn field(self, name: &str) -> Result<T> {
        self.map_err(|error| Error { message: format!("linux.resources.{name}: {}", error.message), ..error })
    }
}

/// What happens to limits that this kernel cannot keep.
pub(super) struct Dropped<'a> {
    /// Where they are told about.
    pub(super) warnings: &'a mut Vec<String>,
    /// Refuse them instead.
    pub(super) strict: bool,
}

impl Dropped<'_> {
    /// The limit in `field` cannot be kept; `warning` says so in Docker's words.
    pub(super) fn limit(&mut self, field: &str, needs: &str, warning: impl Into<String>) -> Result<()> {
        if self.strict {
            return Err(Error::unsupported(format!("cannot be set: {needs} is not available here"))).field(field);
        }
        self.warnings.push(warning.into());
        Ok(())
    }
}

/// The kernel's words without Rust's "(os error 16)".
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
