//! Owns what a container uses, in the shape that Docker's statistics need. It must not compute rates or percentages.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::Result;
use super::files::{number, pair, pairs, read_if_present};
use super::v1::Directories;

/// Counters and gauges of one cgroup and everything below it. Counters begin at zero with the cgroup.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Memory, in bytes.
    pub memory: MemoryStats,
    /// Processor time, in nanoseconds.
    pub cpu: CpuStats,
    /// Tasks.
    pub pids: PidsStats,
    /// Block I/O.
    pub block_io: BlockIoStats,
}

/// Memory in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStats {
    /// In use, page cache included.
    pub usage: u64,
    /// Most ever in use, where the kernel keeps it.
    pub max_usage: Option<u64>,
    /// The limit; `None` is unlimited.
    pub limit: Option<u64>,
    /// How often the limit was hit.
    pub fail_count: u64,
    /// Memory + swap in use (v1) or swap alone (v2), where accounted.
    pub swap_usage: Option<u64>,
    /// `memory.stat` as it is; the names differ between versions 1 and 2.
    pub stat: BTreeMap<String, u64>,
}

/// Processor time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuStats {
    /// All of it, nanoseconds.
    pub total_ns: u64,
    /// In user mode, nanoseconds.
    pub user_ns: u64,
    /// In the kernel, nanoseconds.
    pub kernel_ns: u64,
    /// By processor, nanoseconds; v1 only.
    pub per_cpu_ns: Vec<u64>,
    /// Periods in which a quota was in force.
    pub periods: u64,
    /// Of these, in how many the group ran out.
    pub throttled_periods: u64,
    /// How long it was held back, nanoseconds.
    pub throttled_ns: u64,
}

/// Tasks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PidsStats {
    /// Processes and threads.
    pub current: u64,
    /// The limit; `None` is unlimited.
    pub limit: Option<u64>,
}

/// Block I/O.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockIoStats {
    /// Bytes, Docker's `io_service_bytes_recursive`.
    pub bytes: Vec<BlockIoEntry>,
    /// Operations, Docker's `io_serviced_recursive`.
    pub operations: Vec<BlockIoEntry>,
}

/// One counter of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockIoEntry {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, …, `Total` as version 1 spells them; `read` and `write` on version 2.
    pub op: String,
    /// The count.
    pub value: u64,
}

/// Version 1 writes "no limit" as the largest multiple of the page size below 2⁶³.
const V1_UNLIMITED: u64 = 1 << 62;
/// Unit of `cpuacct.stat`: a tick of USER_HZ, 100 per second on every architecture that runs containers.
pub(super) const NS_PER_TICK: u64 = 10_000_000;

/// Reads version 1. Files that are missing count as zero: they were never mounted or the container has just ended.
pub(super) fn v1(directories: &dyn Directories) -> Result<Stats> {
    let mut stats = Stats::default();
    if let Some(dir) = directories.directory("memory") {
        stats.memory = MemoryStats {
            usage: number(&dir, "memory.usage_in_bytes")?.unwrap_or(0),
            max_usage: number(&dir, "memory.max_usage_in_bytes")?,
            limit: number(&dir, "memory.limit_in_bytes")?.filter(|limit| *limit < V1_UNLIMITED),
            fail_count: number(&dir, "memory.failcnt")?.unwrap_or(0),
            swap_usage: number(&dir, "memory.memsw.usage_in_bytes")?,
            stat: map(&dir, "memory.stat")?,
        };
    }
    if let Some(dir) = directories.directory("cpuacct") {
        stats.cpu.total_ns = number(&dir, "cpuacct.usage")?.unwrap_or(0);
        let ticks = read_if_present(&dir, "cpuacct.stat")?.unwrap_or_default();
        stats.cpu.user_ns = pair(&ticks, "user").unwrap_or(0) * NS_PER_TICK;
        stats.cpu.kernel_ns = pair(&ticks, "system").unwrap_or(0) * NS_PER_TICK;
        let per_cpu = read_if_present(&dir, "cpuacct.usage_percpu")?.unwrap_or_default();
        stats.cpu.per_cpu_ns = per_cpu.split_whitespace().filter_map(|value| value.parse().ok()).collect();
    }
    if let Some(text) = directories.directory("cpu").map(|dir| read_if_present(&dir, "cpu.stat")).transpose()?.flatten()
    {
        stats.cpu.periods = pair(&text, "nr_periods").unwrap_or(0);
        stats.cpu.throttled_periods = pair(&text, "nr_throttled").unwrap_or(0);
        stats.cpu.throttled_ns = pair(&text, "throttled_time").unwrap_or(0);
    }
    if let Some(dir) = directories.directory("pids") {
        stats.pids = pids(&dir)?;
    }
    if let Some(dir) = directories.directory("blkio") {
        // BFQ counts only what goes through it; the throttling layer counts everything.
        stats.block_io.bytes =
            v1_block_io(&dir, ["blkio.throttle.io_service_bytes_recursive", "blkio.bfq.io_service_bytes_recursive"])?;
        stats.block_io.operations =
            v1_block_io(&dir, ["blkio.throttle.io_serviced_recursive", "blkio.bfq.io_serviced_recursive"])?;
    }
    Ok(stats)
}

/// Reads version 2.
pub(super) fn v2(dir: &Path) -> Result<Stats> {
    let cpu = read_if_present(dir, "cpu.stat")?.unwrap_or_default();
    let micros = |name: &str| pair(&cpu, name).unwrap_or(0) * 1000;
    let count = |name: &str| pair(&cpu, name).unwrap_or(0);
    let io = read_if_present(dir, "io.stat")?.unwrap_or_default();
    Ok(Stats {
        memory: MemoryStats {
            usage: number(dir, "memory.current")?.unwrap_or(0),
            max_usage: number(dir, "memory.peak")?,
            limit: number(dir, "memory.max")?,
            fail_count: read_if_present(dir, "memory.events")?.and_then(|text| pair(&text, "max")).unwrap_or(0),
            swap_usage: number(dir, "memory.swap.current")?,
            stat: map(dir, "memory.stat")?,
        },
        cpu: CpuStats {
            total_ns: micros("usage_usec"),
            user_ns: micros("user_usec"),
            kernel_ns: micros("system_usec"),
            per_cpu_ns: Vec::new(),
            periods: count("nr_periods"),
            throttled_periods: count("nr_throttled"),
            throttled_ns: micros("throttled_usec"),
        },
        pids: pids(dir)?,
        block_io: v2_block_io(&io),
    })
}

fn map(dir: &Path, file: &str) -> Result<BTreeMap<String, u64>> {
    let text = read_if_present(dir, file)?.unwrap_or_default();
    Ok(pairs(&text).map(|(name, value)| (name.to_owned(), value)).collect())
}

fn pids(dir: &Path) -> Result<PidsStats> {
    Ok(PidsStats { current: number(dir, "pids.current")?.unwrap_or(0), limit: number(dir, "pids.max")? })
}

pub(super) fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Lines of `8:0 Read 4096`.
fn v1_block_io(dir: &Path, files: [&str; 2]) -> Result<Vec<BlockIoEntry>> {
    for file in files {
        let text = read_if_present(dir, file)?.unwrap_or_default();
        let entry = |line: &str| {
            let mut words = line.split_whitespace();
            let (major, minor) = device(words.next()?)?;
            Some(BlockIoEntry { major, minor, op: words.next()?.to_owned(), value: words.next()?.parse().ok()? })
        };
        let entries: Vec<BlockIoEntry> = text.lines().filter_map(entry).collect();
        if !entries.is_empty() {
            return Ok(entries);
        }
    }
    Ok(Vec::new())
}

/// Lines of `8:0 rbytes=90 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn v2_block_io(text: &str) -> BlockIoStats {
    let mut stats = BlockIoStats::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(device) else {
            continue;
        };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, op) = match name {
                "rbytes" => (&mut stats.bytes, "read"),
                "wbytes" => (&mut stats.bytes, "write"),
                "rios" => (&mut stats.operations, "read"),
                "wios" => (&mut stats.operations, "write"),
                _ => continue,
            };
            list.push(BlockIoEntry { major, minor, op: op.to_owned(), value: value.parse().unwrap_or(0) });
        }
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.stat", "anon 100\nfile 200\n"),
            ("memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n"),
            ("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 7\nnr_throttled 1\nthrottled_usec 9\n"),
            ("pids.current", "2\n"),
            ("pids.max", "100\n"),
            ("io.stat", "8:0 rbytes=90 wbytes=1 rios=2 wios=3 dbytes=0 dios=0\n254:0 \n"),
        ];
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let stats = v2(dir.path()).unwrap();
        assert_eq!(
            (stats.memory.usage, stats.memory.limit, stats.memory.fail_count, stats.memory.stat["file"]),
            (4096, None, 3, 200)
        );
        assert_eq!(
            (stats.cpu.total_ns, stats.cpu.kernel_ns, stats.cpu.throttled_ns, stats.cpu.periods),
            (5000, 2000, 9000, 7)
        );
        assert_eq!(stats.pids, PidsStats { current: 2, limit: Some(100) });
        assert_eq!(stats.block_io.bytes[1], BlockIoEntry { major: 8, minor: 0, op: "write".into(), value: 1 });
        assert_eq!(stats.block_io.operations.len(), 2);
        let text = serde_json::to_string(&stats).unwrap();
        assert_eq!(serde_json::from_str::<Stats>(&text).unwrap(), stats);
    }
}
