//! Whose container it is, as the caller calls it.
//! Owns what hooks, seccomp agents and the key store are told besides the specification. Must not name cgroups.

use std::ffi::CString;
use std::path::PathBuf;

/// What the outside calls a container. Its cgroup may be called otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// The container's id, one path component.
    pub id: String,
    /// The directory of its `config.json`, absolute.
    pub bundle: PathBuf,
}

impl About {
    /// The name of the container's session keyring, which its execs join.
    pub(crate) fn keyring(&self) -> CString {
        // An id with a NUL byte has been refused as a cgroup's name long before.
        CString::new(format!("_ses.{}", self.id)).unwrap_or_default()
    }
}
