//! What is left of a container whose shim was killed: its processes and its cgroup.
//!
//! Owns: ending and removing them. Must not: be run while the shim lives; the engine, which cannot reach the shim, decides.

use std::path::Path;

use brig_oci::runtime::Spec;
use brig_runtime::cgroup::{Cgroup, Layout};

use crate::client::{CONFIG, SPEC};
use crate::launch::load;
use crate::protocol::{Config, Failure, FailureKind};

/// Kills every process of the container in `dir` and removes its cgroup. Nothing left is success.
pub(crate) fn clean_up(dir: &Path) -> Result<(), Failure> {
    if !dir.join(SPEC).exists() {
        return Ok(());
    }
    let spec: Spec = load(&dir.join(SPEC))?;
    let config: Config = load(&dir.join(CONFIG))?;
    let path = spec.linux.map(|linux| linux.cgroups_path).unwrap_or_default();
    let (parent, name) = match path.rsplit_once('/') {
        Some((parent, name)) => (parent, name),
        None => (config.cgroup_parent.as_str(), config.id.as_str()),
    };
    let failed = |error: brig_runtime::cgroup::Error| Failure::new(FailureKind::System, error.to_string());
    let cgroup = Cgroup::open(&Layout::detect().map_err(failed)?, parent, name).map_err(failed)?;
    if !cgroup.exists() {
        return Ok(());
    }
    cgroup.kill().map_err(failed)?;
    cgroup.remove().map_err(failed)
}
