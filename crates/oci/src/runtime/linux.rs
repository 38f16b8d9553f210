//! The `linux` object of the runtime specification, except resources and seccomp.
//!
//! Owns: field names and JSON spelling. Must not: give meaning to them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Resources, Seccomp, is_false, null_as_default};

/// What only Linux has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Linux {
    /// User ids of a new user namespace.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids of a new user namespace.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub gid_mappings: Vec<IdMapping>,
    /// Kernel parameters (`net.ipv4.ip_forward` → `1`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub sysctl: BTreeMap<String, String>,
    /// Limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Path of the cgroup, absolute = from the mount point; empty lets the runtime choose.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cgroups_path: String,
    /// Namespaces to make or join.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub namespaces: Vec<LinuxNamespace>,
    /// Device nodes to make in `/dev` besides the default ones.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub devices: Vec<LinuxDevice>,
    /// Network devices to move into the network namespace (1.2.1), by host name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub net_devices: BTreeMap<String, NetDevice>,
    /// System call filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
    /// Propagation of the root mount: `shared`, `slave`, `private`, `unbindable` or with `r` in front; empty means `rslave`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rootfs_propagation: String,
    /// Paths that the container must not be able to read.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub masked_paths: Vec<String>,
    /// Paths that the container must not be able to write.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub readonly_paths: Vec<String>,
    /// SELinux label of the mounts; empty means none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mount_label: String,
    /// Intel resource director technology.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<IntelRdt>,
    /// Execution domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub personality: Option<Personality>,
    /// Offsets of a new time namespace: `monotonic` and `boottime`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub time_offsets: BTreeMap<String, TimeOffset>,
    /// NUMA memory policy (1.3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_policy: Option<MemoryPolicy>,
}

/// Where memory comes from (`set_mempolicy(2)`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryPolicy {
    /// `MPOL_DEFAULT`, `MPOL_PREFERRED`, `MPOL_BIND`, `MPOL_INTERLEAVE`, `MPOL_LOCAL`, `MPOL_PREFERRED_MANY` or
    /// `MPOL_WEIGHTED_INTERLEAVE`.
    pub mode: String,
    /// List of nodes, e.g. `0-3,7`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub nodes: String,
    /// `MPOL_F_NUMA_BALANCING`, `MPOL_F_RELATIVE_NODES`, `MPOL_F_STATIC_NODES`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub flags: Vec<String>,
}

/// One range of ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IdMapping {
    /// First id inside.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// First id on the host.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many ids.
    pub size: u32,
}

/// A namespace to make (no path) or to join (path).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxNamespace {
    /// `pid`, `network`, `mount`, `ipc`, `uts`, `user`, `cgroup` or `time`.
    #[serde(rename = "type")]
    pub type_: String,
    /// A namespace file to join.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// A device node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LinuxDevice {
    /// `c`, `u` (= c), `b` or `p`.
    #[serde(rename = "type")]
    pub type_: String,
    /// Absolute path inside the container.
    pub path: PathBuf,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permission bits, e.g. `0o666`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// Owner as the container sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group as the container sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// What a moved network device is called inside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetDevice {
    /// Name inside; empty keeps the host's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// Intel resource director technology.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IntelRdt {
    /// Class of service directory.
    #[serde(rename = "closID", skip_serializing_if = "String::is_empty")]
    pub clos_id: String,
    /// Lines of the schemata file (1.2.1).
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub schemata: Vec<String>,
    /// L3 schema.
    #[serde(rename = "l3CacheSchema", skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema: String,
    /// Memory bandwidth schema.
    #[serde(rename = "memBwSchema", skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema: String,
    /// Cache monitoring.
    #[serde(rename = "enableCMT", skip_serializing_if = "is_false")]
    pub enable_cmt: bool,
    /// Bandwidth monitoring.
    #[serde(rename = "enableMBM", skip_serializing_if = "is_false")]
    pub enable_mbm: bool,
    /// Monitoring group (1.2.1).
    #[serde(skip_serializing_if = "is_false")]
    pub enable_monitoring: bool,
}

/// Execution domain (`personality(2)`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Personality {
    /// `LINUX` or `LINUX32`.
    pub domain: String,
    /// None is defined by the specification.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub flags: Vec<String>,
}

/// An offset of a clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimeOffset {
    /// Whole seconds.
    pub secs: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanosecs: u32,
}
