//! What a container uses now, as told to the engine.
//!
//! Owns: the shape of the answer to `stats`, in kernel units and independent of the cgroup version. Must not: read cgroups
//! (the runtime does) or know Docker's JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a container uses now. What the machine's cgroups do not count is 0 or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Processor time.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Processes and threads.
    pub pids: PidStats,
    /// Block devices.
    pub io: Vec<IoStats>,
}

/// Processor time since the container was created.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuStats {
    /// All of it, in ns.
    pub usage_ns: u64,
    /// In user mode, in ns.
    pub user_ns: u64,
    /// In the kernel, in ns.
    pub system_ns: u64,
    /// By processor, in ns (cgroup v1 only).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub per_cpu_ns: Vec<u64>,
    /// Enforcement periods that passed under a quota.
    pub periods: u64,
    /// Periods in which it was throttled.
    pub throttled_periods: u64,
    /// For how long it was throttled, in ns.
    pub throttled_ns: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStats {
    /// In use now, page cache included.
    pub usage: u64,
    /// The most that was ever in use.
    pub max_usage: u64,
    /// The limit; absent when there is none.
    pub limit: Option<u64>,
    /// How often the limit was hit.
    pub fail_count: u64,
    /// The kernel's own breakdown (`memory.stat`), in its names.
    pub detail: BTreeMap<String, u64>,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PidStats {
    /// How many there are.
    pub current: u64,
    /// How many there may be; absent when there is no limit.
    pub limit: Option<u64>,
}

/// What went to and from one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IoStats {
    /// Device major number.
    pub major: u32,
    /// Device minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read operations.
    pub read_ops: u64,
    /// Write operations.
    pub write_ops: u64,
}
