//! What `--security-opt`, `--cap-add`, `--cap-drop` and `--privileged` make of a container's process. Owns the parsing
//! and the defaults' choice; must not load anything into a kernel.

use std::sync::OnceLock;

use brig_api::container::HostConfig;
use brig_oci::capabilities;
use brig_oci::runtime::{Capabilities, Seccomp};
use brig_oci::seccomp_profile::{self, KernelVersion, NATIVE_ARCH};

use super::modes::{Mode, Modes};
use crate::error::{Error, Result};

/// Paths that give away or let change what belongs to the host.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths that may be read but not written.
pub const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The security options, parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecurityOptions {
    /// `no-new-privileges`, where it was said.
    pub no_new_privileges: Option<bool>,
    /// `seccomp=`: `None` for Docker's default profile.
    pub seccomp: Option<SeccompChoice>,
    /// `apparmor=`.
    pub apparmor: Option<String>,
    /// `systempaths=unconfined`.
    pub unconfined_paths: bool,
}

/// What was said about seccomp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeccompChoice {
    /// No filter.
    Unconfined,
    /// A profile in Docker's JSON.
    Profile(String),
}

impl SecurityOptions {
    /// Parses `--security-opt` values.
    pub fn parse(options: &[String]) -> Result<Self> {
        let mut parsed = Self::default();
        for option in options {
            if option == "no-new-privileges" {
                parsed.no_new_privileges = Some(true);
                continue;
            }
            // The colon is Docker's old separator, still in scripts.
            let Some((key, value)) = option.split_once('=').or_else(|| option.split_once(':')) else {
                return Err(Error::invalid(format!("invalid --security-opt 1: {option:?}")));
            };
            parsed.set(option, key, value)?;
        }
        Ok(parsed)
    }

    fn set(&mut self, option: &str, key: &str, value: &str) -> Result<()> {
        match key {
            "no-new-privileges" => {
                let on = value.parse().map_err(|_| Error::invalid(format!("invalid --security-opt 2: {option:?}")))?;
                self.no_new_privileges = Some(on);
            }
            "seccomp" => {
                self.seccomp = match value {
                    "unconfined" => Some(SeccompChoice::Unconfined),
                    "builtin" | "" => None,
                    profile => Some(SeccompChoice::Profile(profile.into())),
                }
            }
            "apparmor" => self.apparmor = (value != "unconfined" && !value.is_empty()).then(|| value.into()),
            "systempaths" if value == "unconfined" => self.unconfined_paths = true,
            "label" if value == "disable" => {}
            "label" => {
                return Err(Error::not_implemented(format!(
                    "--security-opt {option:?}: SELinux labels are not in brig yet; leave the option out"
                )));
            }
            "writable-cgroups" => {
                return Err(Error::not_implemented("--security-opt writable-cgroups is not in brig yet"));
            }
            _ => return Err(Error::invalid(format!("invalid --security-opt 2: {option:?}"))),
        }
        Ok(())
    }
}

/// The capability sets of a container's first process. A process of another user than root starts with none of them
/// effective, as Docker has it.
pub fn capabilities(host: &HostConfig, uid: u32) -> Result<Capabilities> {
    let bounding = bounding(host)?;
    let held = if uid == 0 { bounding.clone() } else { Vec::new() };
    Ok(Capabilities { bounding, effective: held.clone(), permitted: held, ..Capabilities::default() })
}

/// The names that the container may ever have.
pub fn bounding(host: &HostConfig) -> Result<Vec<String>> {
    let add = host.cap_add.as_deref().unwrap_or_default();
    let drop = host.cap_drop.as_deref().unwrap_or_default();
    let set = capabilities::tweak(&capabilities::DEFAULT, add, drop, host.privileged, last_capability())
        .map_err(|e| Error::invalid(e.to_string()))?;
    let own_users = Modes::of(host)?.user != Mode::Host;
    Ok(grantable(set, own_users))
}

/// Among the host's users a container can have no more than this daemon may give (a daemon in a container, or on a host
/// that withholds some, has less than all); in its own user namespace the kernel grants everything.
fn grantable(set: Vec<&'static str>, own_users: bool) -> Vec<String> {
    let own = own_bounding_set();
    let may = |name: &&str| own_users || capabilities::number(name).is_some_and(|n| own >> n & 1 == 1);
    set.into_iter().filter(may).map(str::to_owned).collect()
}

/// The capabilities that this daemon can ever have, a bit each.
fn own_bounding_set() -> u64 {
    static OWN: OnceLock<u64> = OnceLock::new();
    *OWN.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
        // Unreadable: as many as there are, and the kernel decides.
        line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(u64::MAX)
    })
}

/// Everything that a process of this container can be given, for `exec --privileged`.
pub fn all_capabilities(host: &HostConfig) -> Result<Capabilities> {
    let last = last_capability();
    let own_users = Modes::of(host)?.user != Mode::Host;
    let all = grantable(capabilities::ALL.into_iter().take(usize::from(last) + 1).collect(), own_users);
    Ok(Capabilities { bounding: all.clone(), effective: all.clone(), permitted: all, ..Capabilities::default() })
}

fn last_capability() -> u8 {
    static LAST: OnceLock<u8> = OnceLock::new();
    *LAST.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
        // Without the file the kernel is older than any capability past 37.
        text.trim().parse().unwrap_or(37)
    })
}

/// The filter of a container, or `None` for none.
pub fn seccomp(host: &HostConfig, options: &SecurityOptions) -> Result<Option<Seccomp>> {
    if host.privileged && options.seccomp.is_none() {
        return Ok(None);
    }
    let caps = bounding(host)?;
    let caps: Vec<&str> = caps.iter().map(String::as_str).collect();
    let kernel = kernel_version();
    match &options.seccomp {
        Some(SeccompChoice::Unconfined) => Ok(None),
        Some(SeccompChoice::Profile(text)) => seccomp_profile::from_docker_json(text, &caps, NATIVE_ARCH, kernel)
            .map(Some)
            .map_err(|e| Error::invalid(format!("--security-opt seccomp: decoding the profile failed: {e}"))),
        None => Ok(Some(seccomp_profile::docker_default(&caps, NATIVE_ARCH, kernel))),
    }
}

fn kernel_version() -> KernelVersion {
    static VERSION: OnceLock<KernelVersion> = OnceLock::new();
    *VERSION.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        // An unreadable version counts as the oldest: rules for newer kernels only ever allow more.
        KernelVersion::parse(&text).unwrap_or(KernelVersion(0, 0))
    })
}

/// The masked paths of this machine: the fixed list and each processor's throttling counters.
pub fn masked_paths() -> &'static [String] {
    static PATHS: OnceLock<Vec<String>> = OnceLock::new();
    PATHS.get_or_init(|| {
        let mut paths: Vec<String> = MASKED_PATHS.iter().map(|path| (*path).to_owned()).collect();
        let processors = std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
        let mut throttles: Vec<String> = processors
            .filter(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.strip_prefix("cpu").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
            })
            .map(|entry| entry.path().join("thermal_throttle"))
            .filter(|path| path.exists())
            .map(|path| path.to_string_lossy().into_owned())
            .collect();
        throttles.sort();
        paths.append(&mut throttles);
        paths
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<SecurityOptions> {
        SecurityOptions::parse(&options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options() {
        let parsed = parse(&["no-new-privileges", "seccomp=unconfined", "systempaths=unconfined"]).unwrap();
        assert_eq!(parsed.no_new_privileges, Some(true));
        assert_eq!(parsed.seccomp, Some(SeccompChoice::Unconfined));
        assert!(parsed.unconfined_paths);
        assert_eq!(parse(&["no-new-privileges:false"]).unwrap().no_new_privileges, Some(false));
        for bad in ["foo", "foo=bar", "no-new-privileges=maybe", "label=type:x"] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn another_user_starts_without_effective_capabilities() {
        let caps = capabilities(&HostConfig::default(), 1000).unwrap();
        assert_eq!(caps.bounding.len(), 14);
        assert!(caps.effective.is_empty() && caps.permitted.is_empty() && caps.inheritable.is_empty());
        assert_eq!(capabilities(&HostConfig::default(), 0).unwrap().effective.len(), 14);
    }

    #[test]
    fn privileged_has_no_filter_unless_asked() {
        let host = HostConfig { privileged: true, ..HostConfig::default() };
        assert!(seccomp(&host, &SecurityOptions::default()).unwrap().is_none());
        assert!(seccomp(&HostConfig::default(), &SecurityOptions::default()).unwrap().is_some());
    }
}
