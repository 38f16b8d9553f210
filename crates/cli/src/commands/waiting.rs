//! Waiting for a container's end, registered before it starts.
//! Owns the reading of the answer; prints nothing.

use crate::client::{Client, Path, Pending, decode};
use crate::failure::Result;
use crate::http::Response;
use brig_api::container::WaitResponse;
use std::io::Read;

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Code(u8),
    /// The daemon could not tell, and says why.
    Refused(String),
}

/// Asks to be told of the next exit, or of the removal after it.
///
/// # Errors
/// No connection.
pub fn begin(client: &Client, id: &str, removed: bool) -> Result<Pending> {
    let condition = if removed { "removed" } else { "next-exit" };
    client.begin("POST", &Path::new("/containers/{}/wait", &[id]).query("condition", condition), false)
}

/// Waits until it happens.
///
/// # Errors
/// A broken connection.
pub fn end(mut answer: Response) -> Result<Ended> {
    let mut bytes = Vec::new();
    answer.read_to_end(&mut bytes)?;
    let told: WaitResponse = decode(&bytes)?;
    Ok(match told.error.filter(|e| !e.message.is_empty()) {
        Some(error) => Ended::Refused(error.message),
        // An exit status has eight bits.
        None => Ended::Code(u8::try_from(told.status_code & 0xff).unwrap_or(125)),
    })
}
