//! Resource usage as `GET /containers/{id}/stats` sends it.
//! Data only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::go::{empty, null};

/// What a container uses now, and one reading before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Name of the container for which the stats were collected.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub name: String,
    /// ID of the container for which the stats were collected.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub id: String,
    /// Date and time at which this sample was collected. The value is formatted as [RFC
    /// 3339](https://www.ietf.org/rfc/rfc3339.txt) with nano-seconds.
    #[serde(deserialize_with = "null")]
    pub read: String,
    /// Time of the reading before, RFC 3339; the zero time if there is none.
    #[serde(deserialize_with = "null")]
    pub preread: String,
    /// PidsStats contains Linux-specific stats of a container's process-IDs (PIDs).
    #[serde(deserialize_with = "null")]
    pub pids_stats: PidsStats,
    /// BlkioStats stores all IO service stats for data read and write.
    #[serde(deserialize_with = "null")]
    pub blkio_stats: BlkioStats,
    /// The number of processors on the system.
    #[serde(deserialize_with = "null")]
    pub num_procs: u32,
    /// StorageStats is the disk I/O stats for read/write on Windows.
    #[serde(deserialize_with = "null")]
    pub storage_stats: StorageStats,
    /// CPU related info of the container
    #[serde(deserialize_with = "null")]
    pub cpu_stats: CpuStats,
    /// The CPU reading before, for computing a rate.
    #[serde(deserialize_with = "null")]
    pub precpu_stats: CpuStats,
    /// Aggregates all memory stats since container inception on Linux. Windows returns stats for
    /// commit and private working set only.
    #[serde(deserialize_with = "null")]
    pub memory_stats: MemoryStats,
    /// Traffic by interface in the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<BTreeMap<String, NetworkStats>>,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PidsStats {
    /// Current is the number of PIDs in the cgroup.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub current: u64,
    /// Limit; absent if there is none.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub limit: u64,
}

/// Block IO by device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioStats {
    /// Bytes moved.
    pub io_service_bytes_recursive: Option<Vec<BlkioEntry>>,
    /// Operations done.
    pub io_serviced_recursive: Option<Vec<BlkioEntry>>,
    /// Operations waiting (cgroup v1).
    pub io_queue_recursive: Option<Vec<BlkioEntry>>,
    /// Time spent (cgroup v1).
    pub io_service_time_recursive: Option<Vec<BlkioEntry>>,
    /// Time waited (cgroup v1).
    pub io_wait_time_recursive: Option<Vec<BlkioEntry>>,
    /// Operations merged (cgroup v1).
    pub io_merged_recursive: Option<Vec<BlkioEntry>>,
    /// Device time (cgroup v1).
    pub io_time_recursive: Option<Vec<BlkioEntry>>,
    /// Sectors moved (cgroup v1).
    pub sectors_recursive: Option<Vec<BlkioEntry>>,
}

/// One counter of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioEntry {
    /// Major number of the device.
    #[serde(deserialize_with = "null")]
    pub major: u64,
    /// Minor number of the device.
    #[serde(deserialize_with = "null")]
    pub minor: u64,
    /// `read`, `write` …
    #[serde(deserialize_with = "null")]
    pub op: String,
    /// The counter.
    #[serde(deserialize_with = "null")]
    pub value: u64,
}

/// Disk IO on Windows; always empty here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageStats {}

/// CPU time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuStats {
    /// Time used by the container.
    #[serde(deserialize_with = "null")]
    pub cpu_usage: CpuUsage,
    /// Time of all CPUs of the host since it started, in nanoseconds.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub system_cpu_usage: u64,
    /// CPUs of the host that are online.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub online_cpus: u32,
    /// How often the quota stopped the container.
    #[serde(deserialize_with = "null")]
    pub throttling_data: ThrottlingData,
}

/// CPU time used, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    /// All of it.
    #[serde(deserialize_with = "null")]
    pub total_usage: u64,
    /// By CPU (cgroup v1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percpu_usage: Option<Vec<u64>>,
    /// In the kernel.
    #[serde(deserialize_with = "null")]
    pub usage_in_kernelmode: u64,
    /// In user space.
    #[serde(deserialize_with = "null")]
    pub usage_in_usermode: u64,
}

/// How often the quota stopped a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThrottlingData {
    /// Periods passed.
    #[serde(deserialize_with = "null")]
    pub periods: u64,
    /// Periods in which it was stopped.
    #[serde(deserialize_with = "null")]
    pub throttled_periods: u64,
    /// Time it was stopped, in nanoseconds.
    #[serde(deserialize_with = "null")]
    pub throttled_time: u64,
}

/// Memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStats {
    /// Bytes used now.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub usage: u64,
    /// Most ever used (cgroup v1).
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub max_usage: u64,
    /// The counters of `memory.stat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<BTreeMap<String, u64>>,
    /// How often the limit was hit (cgroup v1).
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub failcnt: u64,
    /// The limit in bytes; the host's memory if there is none.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub limit: u64,
}

/// Traffic of one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStats {
    /// Bytes received.
    #[serde(deserialize_with = "null")]
    pub rx_bytes: u64,
    /// Packets received.
    #[serde(deserialize_with = "null")]
    pub rx_packets: u64,
    /// Errors while receiving.
    #[serde(deserialize_with = "null")]
    pub rx_errors: u64,
    /// Packets dropped while receiving.
    #[serde(deserialize_with = "null")]
    pub rx_dropped: u64,
    /// Bytes sent.
    #[serde(deserialize_with = "null")]
    pub tx_bytes: u64,
    /// Packets sent.
    #[serde(deserialize_with = "null")]
    pub tx_packets: u64,
    /// Errors while sending.
    #[serde(deserialize_with = "null")]
    pub tx_errors: u64,
    /// Packets dropped while sending.
    #[serde(deserialize_with = "null")]
    pub tx_dropped: u64,
}
