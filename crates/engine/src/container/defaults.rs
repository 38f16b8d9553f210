//! What a container's settings are where the client left them open: filled in when it is made, so that `inspect` tells
//! what is in force, as Docker's does. Pure; must not refuse anything.

use brig_api::container::HostConfig;

use super::security;

/// Size of `/dev/shm` where none is asked for, in bytes (Docker's).
pub const SHM_SIZE: i64 = 64 << 20;

/// Fills in what was left open.
pub fn fill(host: &mut HostConfig) {
    if host.shm_size == 0 {
        host.shm_size = SHM_SIZE;
    }
    for mode in [&mut host.ipc_mode, &mut host.cgroupns_mode] {
        if mode.is_empty() {
            "private".clone_into(mode);
        }
    }
    if host.runtime.is_empty() {
        "brig-rt".clone_into(&mut host.runtime);
    }
    let limits = &mut host.resources;
    if limits.memory > 0 && limits.memory_swap == 0 {
        limits.memory_swap = limits.memory.saturating_mul(2);
    }
    limits.memory_swappiness = limits.memory_swappiness.filter(|n| *n != -1);
    limits.pids_limit = limits.pids_limit.filter(|n| *n > 0);
    if !host.privileged {
        host.masked_paths.get_or_insert_with(|| security::masked_paths().to_vec());
        host.readonly_paths.get_or_insert_with(|| security::READONLY_PATHS.map(str::to_owned).to_vec());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_filled_in() {
        let mut host = HostConfig::default();
        host.resources.memory = 64 << 20;
        host.resources.memory_swappiness = Some(-1);
        host.resources.pids_limit = Some(0);
        fill(&mut host);
        assert_eq!(
            (host.ipc_mode.as_str(), host.cgroupns_mode.as_str(), host.shm_size),
            ("private", "private", SHM_SIZE)
        );
        assert_eq!((host.resources.memory_swap, host.resources.memory_swappiness), (128 << 20, None));
        assert_eq!(host.resources.pids_limit, None);
        assert!(host.masked_paths.unwrap().contains(&"/proc/kcore".to_owned()));
    }

    #[test]
    fn what_was_said_stays() {
        let mut host = HostConfig { ipc_mode: "host".into(), masked_paths: Some(Vec::new()), ..HostConfig::default() };
        host.resources.memory = 64 << 20;
        host.resources.memory_swap = -1;
        fill(&mut host);
        assert_eq!((host.ipc_mode.as_str(), host.resources.memory_swap), ("host", -1));
        assert_eq!(host.masked_paths, Some(Vec::new()));
        let mut privileged = HostConfig { privileged: true, ..HostConfig::default() };
        fill(&mut privileged);
        assert_eq!(privileged.masked_paths, None);
    }
}
