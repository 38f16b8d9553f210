//! What a command ends with when it does not succeed: an exit code and words for a person.
//! Owns no wording of its own beyond the prefix of daemon errors.

use std::fmt;

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Exit code of the process.
    pub code: u8,
    /// What to print on standard error; nothing if empty.
    pub message: String,
    /// HTTP status of the daemon's answer, if it was the daemon that refused.
    pub status: Option<u16>,
}

/// Result of a command or of a step in it.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// Exit code 1.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { code: 1, message: message.into(), status: None }
    }
    /// The daemon refused.
    pub fn daemon(status: u16, message: &str) -> Failure {
        Failure { code: 1, message: format!("Error response from daemon: {message}"), status: Some(status) }
    }
    /// Ends with this code and prints nothing.
    pub fn silent(code: u8) -> Failure {
        Failure { code, message: String::new(), status: None }
    }
    /// The same with another exit code.
    pub fn with_code(mut self, code: u8) -> Failure {
        self.code = code;
        self
    }
    /// In the form of `run` and `create`: prefixed with the program's name and ending in the next step.
    pub fn of_run(self, verb: &str) -> Failure {
        if self.message.is_empty() {
            return self;
        }
        let name = crate::program();
        let message = format!("{name}: {}\n\nRun '{name} {verb} --help' for more information", self.message);
        Failure { message, ..self }
    }
    /// Whether the daemon said that there is no such thing.
    pub fn not_found(&self) -> bool {
        self.status == Some(404)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure::new(message)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::new(error.to_string())
    }
}
