//! The OCI runtime specification 1.2 (`config.json` and the state document) as data.
//!
//! Owns: the field names, their JSON spelling and what may be left out. Must not: validate meaning (the runtime does), read
//! files, or know Docker. Unknown fields are ignored on reading, as the specification asks of runtimes; unknown values of
//! closed sets stay strings so that the runtime can refuse them by name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

mod linux;
mod resources;
mod seccomp;
pub mod usage;

pub use linux::*;
pub use resources::*;
pub use seccomp::*;

/// The specification version that is written into new specs.
pub const VERSION: &str = "1.2.1";

/// Serde helper: leave a `false` out.
pub(crate) fn is_false(value: &bool) -> bool {
    !*value
}

/// Serde helper: a list or map that is JSON `null` (as Go writes an empty one) reads as empty.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A whole `config.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// `ociVersion`: the specification version, semver.
    pub oci_version: String,
    /// What to run; absent for a container that is only created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The root filesystem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// Host name inside the UTS namespace; empty means unchanged.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// NIS domain name inside the UTS namespace; empty means unchanged.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domainname: String,
    /// Mounts in the order in which they are made.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub mounts: Vec<Mount>,
    /// Programs run at points of the container's life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// Free-form labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
    /// What only Linux has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux: Option<Linux>,
}

/// The process to run, at create or by exec.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// Give the process a pseudo terminal.
    #[serde(skip_serializing_if = "is_false")]
    pub terminal: bool,
    /// The terminal's first size, in characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<ConsoleSize>,
    /// Who runs it.
    pub user: User,
    /// `argv`.
    #[serde(deserialize_with = "null_as_default")]
    pub args: Vec<String>,
    /// `NAME=value` strings; the whole environment.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub env: Vec<String>,
    /// Working directory inside the container, absolute.
    pub cwd: String,
    /// Capability sets; absent means none at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// Resource limits.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub rlimits: Vec<Rlimit>,
    /// Set `PR_SET_NO_NEW_PRIVS`.
    #[serde(skip_serializing_if = "is_false")]
    pub no_new_privileges: bool,
    /// AppArmor profile to change to on exec; empty means none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub apparmor_profile: String,
    /// The kernel's badness adjustment, -1000 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// CPU scheduling policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// SELinux label of the process; empty means none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selinux_label: String,
    /// I/O scheduling class.
    #[serde(rename = "ioPriority", skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<IoPriority>,
    /// CPU masks of the runtime's exec (1.2).
    #[serde(rename = "execCPUAffinity", skip_serializing_if = "Option::is_none")]
    pub exec_cpu_affinity: Option<CpuAffinity>,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsoleSize {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

/// The ids that a process runs with, as the container sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// File mode creation mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// Supplementary groups.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub additional_gids: Vec<u32>,
    /// Only Windows uses it; refused here when set.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
}

/// The root filesystem.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Root {
    /// Directory, absolute or relative to the bundle.
    pub path: PathBuf,
    /// Mount it read-only.
    #[serde(skip_serializing_if = "is_false")]
    pub readonly: bool,
}

/// One mount inside the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    /// Absolute path inside the container.
    pub destination: PathBuf,
    /// File system type; `bind` or empty together with a bind option means a bind mount.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub type_: String,
    /// Device, or for a bind the path on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
    /// Options in fstab's style.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub options: Vec<String>,
    /// Own user id mappings of this mount (binds only).
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub uid_mappings: Vec<IdMapping>,
    /// Own group id mappings of this mount (binds only).
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub gid_mappings: Vec<IdMapping>,
}

/// Capability sets by name (`CAP_…`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// What may ever be gained.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub bounding: Vec<String>,
    /// What is in force.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub effective: Vec<String>,
    /// What file capabilities may pass on.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub inheritable: Vec<String>,
    /// What may be put in force.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub permitted: Vec<String>,
    /// What survives the exec of an ordinary file by a user who is not root.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub ambient: Vec<String>,
}

/// One resource limit (`setrlimit(2)`), e.g. `RLIMIT_NOFILE`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rlimit {
    /// `RLIMIT_…`.
    #[serde(rename = "type")]
    pub type_: String,
    /// The soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// The hard limit; `u64::MAX` is unlimited.
    pub hard: u64,
}

/// CPU scheduling of the process (`sched_setattr(2)`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scheduler {
    /// `SCHED_OTHER`, `SCHED_FIFO`, `SCHED_RR`, `SCHED_BATCH`, `SCHED_ISO`, `SCHED_IDLE`, `SCHED_DEADLINE`.
    pub policy: String,
    /// Nice value, -20 to 19.
    #[serde(skip_serializing_if = "is_zero_i32")]
    pub nice: i32,
    /// Real-time priority.
    #[serde(skip_serializing_if = "is_zero_i32")]
    pub priority: i32,
    /// `SCHED_FLAG_…`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub flags: Vec<String>,
    /// Deadline: runtime in ns.
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub runtime: u64,
    /// Deadline: deadline in ns.
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub deadline: u64,
    /// Deadline: period in ns.
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub period: u64,
}

fn is_zero_i32(value: &i32) -> bool {
    *value == 0
}

fn is_zero_u64(value: &u64) -> bool {
    *value == 0
}

/// I/O priority of the process (`ioprio_set(2)`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IoPriority {
    /// `IOPRIO_CLASS_RT`, `IOPRIO_CLASS_BE` or `IOPRIO_CLASS_IDLE`.
    pub class: String,
    /// 0 (highest) to 7.
    pub priority: i32,
}

/// CPU lists of an exec: before and after it is moved into the container's cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuAffinity {
    /// CPU list before the move, e.g. `0-3,7`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial: Option<String>,
    /// CPU list after the move.
    #[serde(rename = "final", skip_serializing_if = "Option::is_none")]
    pub final_: Option<String>,
}

/// Programs run at points of the container's life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// Deprecated: as `create_runtime`, before it.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub prestart: Vec<Hook>,
    /// In the runtime's namespaces, after the namespaces exist, before `pivot_root`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub create_runtime: Vec<Hook>,
    /// In the container's namespaces, before `pivot_root`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub create_container: Vec<Hook>,
    /// In the container's namespaces, at start, before the user's program.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub start_container: Vec<Hook>,
    /// In the runtime's namespaces, after the user's program started.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub poststart: Vec<Hook>,
    /// In the runtime's namespaces, after the container was deleted.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub poststop: Vec<Hook>,
}

impl Hooks {
    /// Whether no hook is listed at all.
    pub fn is_empty(&self) -> bool {
        self.prestart.is_empty()
            && self.create_runtime.is_empty()
            && self.create_container.is_empty()
            && self.start_container.is_empty()
            && self.poststart.is_empty()
            && self.poststop.is_empty()
    }
}

/// One program to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// Absolute path of the program.
    pub path: PathBuf,
    /// `argv`, with the name first.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub args: Vec<String>,
    /// The whole environment.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub env: Vec<String>,
    /// Seconds until it is killed; must be above 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}

/// The state document that hooks read on stdin and `state` prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// `ociVersion` of this document.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// `creating`, `created`, `running` or `stopped`.
    pub status: String,
    /// The init process as the host sees it; absent when stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Absolute path of the bundle directory.
    pub bundle: PathBuf,
    /// Annotations of the spec.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
}

/// The name of the seccomp listener among the descriptors of [`ContainerProcessState`].
pub const SECCOMP_FD: &str = "seccompFd";

/// What a seccomp agent is told about the process whose listener it gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerProcessState {
    /// `ociVersion` of this document.
    pub oci_version: String,
    /// What the descriptors are that come along, in their order.
    #[serde(deserialize_with = "null_as_default")]
    pub fds: Vec<String>,
    /// The process as the runtime sees it.
    pub pid: i32,
    /// The profile's `listenerMetadata`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub metadata: String,
    /// Its container.
    pub state: State,
}

#[cfg(test)]
mod tests;
