//! What is left of a container whose shim was killed: its processes and its cgroup.
//!
//! Owns: ending and removing them. Must not: be run while the shim lives; the engine, which cannot reach the shim, decides.

use std::path::Path;

use brig_oci::runtime::Spec;
use brig_runtime::cgroup::{Cgroup, Driver, Layout, Place, Wish};

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
    let failed = |error: brig_runtime::cgroup::Error| Failure::new(FailureKind::System, error.to_string());
    let place = Place::of(&Wish {
        path: &path,
        parent: &config.cgroup_parent,
        id: &config.id,
        driver: Driver::Cgroupfs,
        annotations: &std::collections::BTreeMap::new(),
        rootless: false,
        strict: false,
    });
    let cgroup = Cgroup::at(&Layout::detect().map_err(failed)?, place.map_err(failed)?);
    if !cgroup.exists() {
        return Ok(());
    }
    cgroup.kill().map_err(failed)?;
    cgroup.remove().map_err(failed)
}
