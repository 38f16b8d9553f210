//! Where a shim's last words go.
//!
//! Owns: `shim.log`, which exists only if something went wrong. Must not: be needed for anything else.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::client::FAILURE_LOG;
use crate::timestamp::Timestamp;

static FILE: OnceLock<PathBuf> = OnceLock::new();

/// From now on reports, and panics, go to `shim.log` in `dir`.
pub(crate) fn write_to(dir: &Path) {
    if FILE.set(dir.join(FAILURE_LOG)).is_ok() {
        std::panic::set_hook(Box::new(|panic| report(&panic.to_string())));
    }
}

/// Adds a line to `shim.log`. Failing to do so is ignored: there is nobody left to tell.
pub(crate) fn report(message: &str) {
    let Some(path) = FILE.get() else { return };
    if let Ok(mut file) = OpenOptions::new().append(true).create(true).mode(0o600).open(path) {
        file.write_all(format!("{} {message}\n", Timestamp::now()).as_bytes()).ok();
    }
}
