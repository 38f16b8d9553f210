//! How a compressed layer is made again, byte for byte, from its text and a little more: the recipe.
//!
//! Owns: taking gzip streams apart, guessing the encoder, the recipe's format; compressing layers so that the same text
//! gives the same bytes. Must not: touch files or know what a layer is. What comes in may be hostile: memory is bounded,
//! and what cannot be described is refused, never described wrongly without the caller's check finding it.
//!
//! A recipe is believed by nobody: whoever has one makes the stream again and compares its digest.

mod analyse;
mod bits;
mod compress;
mod emit;
mod header;
mod huffman;
mod parallel;
mod predict;
mod range;
mod rebuild;
mod segment;
mod token;

pub use analyse::{Analysed, analyse};
pub use compress::{Form, compress};
pub use rebuild::rebuild;

/// Why something could not be done.
#[derive(Debug)]
pub enum Error {
    /// The stream is none, is damaged, or does what no known encoder does: keep it as it is.
    Unsupported(&'static str),
    /// The recipe is damaged, or belongs to another text.
    Damaged(&'static str),
    /// The caller asked to stop.
    Stopped,
    /// Reading or writing failed.
    Io(std::io::Error),
}

/// What this crate's functions give.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Unsupported(why) => write!(f, "{why}"),
            Error::Damaged(what) => write!(f, "the recipe is damaged: {what}"),
            Error::Stopped => f.write_str("stopped"),
            Error::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::Io(error)
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> std::io::Error {
        match error {
            Error::Io(error) => error,
            other => std::io::Error::new(std::io::ErrorKind::InvalidData, other.to_string()),
        }
    }
}

/// The first bytes of a recipe that describes a stream.
const MAGIC: &[u8; 8] = b"brigdef1";
/// The first bytes of a recipe that only names our own encoder.
const MADE: &[u8; 8] = b"brigmade";
