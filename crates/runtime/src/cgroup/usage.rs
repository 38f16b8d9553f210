//! Owns reading what `events --stats` prints. More files than [`super::stats`] reads, so it is for people who ask once in a
//! while. It must not compute rates.

use std::collections::BTreeMap;
use std::path::Path;

use brig_oci::runtime::usage::{
    BlockIo, BlockIoEntry, Cpuset, HugePages, Memory, MemoryEntry, Pids, Pressure, PressureShare, RdmaEntry,
    Throttling, Usage,
};

use super::error::{ErrorKind, Result};
use super::files::{number, pair, pairs, read_if_present};
use super::stats::{NS_PER_TICK, device};
use super::v1::Directories;

/// Version 1, with what of it lives on version 2 beside it. What is not mounted counts as zero.
pub(super) fn v1(directories: &dyn Directories, v2_directory: Option<&Path>) -> Result<Usage> {
    let mut usage = Usage::default();
    if let Some(dir) = directories.directory("memory") {
        usage.memory = v1_memory(&dir)?;
    }
    if let Some(dir) = directories.directory("cpuacct") {
        usage.cpu.usage.total = number(&dir, "cpuacct.usage")?.unwrap_or(0);
        let ticks = text(&dir, "cpuacct.stat")?;
        usage.cpu.usage.user = pair(&ticks, "user").unwrap_or(0) * NS_PER_TICK;
        usage.cpu.usage.kernel = pair(&ticks, "system").unwrap_or(0) * NS_PER_TICK;
        usage.cpu.usage.percpu = words(&text(&dir, "cpuacct.usage_percpu")?);
        // A heading, then `processor user system`.
        let columns = text(&dir, "cpuacct.usage_all")?;
        let column = |index: usize| {
            columns.lines().skip(1).filter_map(|line| line.split_whitespace().nth(index)?.parse().ok()).collect()
        };
        usage.cpu.usage.percpu_user = column(1);
        usage.cpu.usage.percpu_kernel = column(2);
    }
    if let Some(dir) = directories.directory("cpu") {
        usage.cpu.throttling = throttling(&text(&dir, "cpu.stat")?, "throttled_time", 1);
    }
    if let Some(dir) = directories.directory("cpuset") {
        usage.cpuset = cpuset(&dir)?;
    }
    if let Some(dir) = directories.directory("pids") {
        usage.pids = pids(&dir)?;
    }
    if let Some(dir) = directories.directory("blkio") {
        usage.blkio = v1_block_io(&dir)?;
    }
    if let Some(dir) = directories.directory("hugetlb") {
        usage.hugetlb = huge_pages(&dir, v1_huge)?;
    } else if let Some(dir) = v2_directory {
        usage.hugetlb = huge_pages(dir, v2_huge)?;
    }
    if let Some(dir) = directories.directory("rdma") {
        rdma(&mut usage, &dir)?;
    }
    Ok(usage)
}

/// Version 2.
pub(super) fn v2(dir: &Path) -> Result<Usage> {
    let mut usage = Usage { memory: v2_memory(dir)?, pids: pids(dir)?, blkio: v2_block_io(dir)?, ..Usage::default() };
    let cpu = text(dir, "cpu.stat")?;
    let micros = |name: &str| pair(&cpu, name).unwrap_or(0).saturating_mul(1000);
    usage.cpu.usage.total = micros("usage_usec");
    usage.cpu.usage.user = micros("user_usec");
    usage.cpu.usage.kernel = micros("system_usec");
    usage.cpu.throttling = throttling(&cpu, "throttled_usec", 1000);
    usage.cpu.psi = pressure(dir, "cpu.pressure")?;
    if usage.pids == Pids::default() {
        // Without the controller: what is listed.
        usage.pids.current = text(dir, "cgroup.threads").unwrap_or_default().lines().count() as u64;
    }
    usage.hugetlb = huge_pages(dir, v2_huge)?;
    rdma(&mut usage, dir)?;
    Ok(usage)
}

/// The content; nothing where the kernel has no such file.
fn text(dir: &Path, file: &str) -> Result<String> {
    Ok(read_if_present(dir, file)?.unwrap_or_default())
}

fn words(text: &str) -> Vec<u64> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn throttling(stat: &str, time: &str, unit: u64) -> Throttling {
    Throttling {
        periods: pair(stat, "nr_periods").unwrap_or(0),
        throttled_periods: pair(stat, "nr_throttled").unwrap_or(0),
        throttled_time: pair(stat, time).unwrap_or(0).saturating_mul(unit),
    }
}

fn pids(dir: &Path) -> Result<Pids> {
    Ok(Pids {
        current: number(dir, "pids.current")?.unwrap_or(0),
        // `max` does not parse, and none is 0 here.
        limit: number(dir, "pids.max")?.unwrap_or(0),
    })
}

fn raw(dir: &Path) -> Result<BTreeMap<String, u64>> {
    Ok(pairs(&text(dir, "memory.stat")?).map(|(name, value)| (name.to_owned(), value)).collect())
}

fn v1_memory(dir: &Path) -> Result<Memory> {
    let entry = |name: &str| -> Result<MemoryEntry> {
        let value = |file: &str| -> Result<u64> { Ok(number(dir, &format!("memory.{name}{file}"))?.unwrap_or(0)) };
        Ok(MemoryEntry {
            limit: value("limit_in_bytes")?,
            usage: value("usage_in_bytes")?,
            max: value("max_usage_in_bytes")?,
            failcnt: value("failcnt")?,
        })
    };
    let raw = raw(dir)?;
    Ok(Memory {
        cache: raw.get("cache").copied().unwrap_or(0),
        usage: entry("")?,
        swap: entry("memsw.")?,
        kernel: entry("kmem.")?,
        kernel_tcp: entry("kmem.tcp.")?,
        raw,
        psi: None,
    })
}

fn v2_memory(dir: &Path) -> Result<Memory> {
    let entry = |name: &str| -> Result<Option<MemoryEntry>> {
        let Some(usage) = number(dir, &format!("memory.{name}current"))? else { return Ok(None) };
        Ok(Some(MemoryEntry {
            limit: number(dir, &format!("memory.{name}max"))?.unwrap_or(u64::MAX),
            usage,
            max: number(dir, &format!("memory.{name}peak"))?.unwrap_or(0),
            failcnt: 0,
        }))
    };
    let raw = raw(dir)?;
    let usage = entry("")?.unwrap_or_default();
    // Version 1 counts memory and swap together, and that is what readers of this expect.
    let swap = entry("swap.")?.unwrap_or_default();
    let swap = MemoryEntry {
        limit: swap.limit.saturating_add(usage.limit),
        usage: swap.usage.saturating_add(usage.usage),
        ..MemoryEntry::default()
    };
    Ok(Memory {
        cache: raw.get("file").copied().unwrap_or(0),
        usage,
        swap,
        raw,
        psi: pressure(dir, "memory.pressure")?,
        ..Memory::default()
    })
}

fn cpuset(dir: &Path) -> Result<Cpuset> {
    // With the option "noprefix" the files have no prefix.
    let prefix = if dir.join("cpuset.cpus").exists() { "cpuset." } else { "" };
    let list = |name: &str| -> Result<Vec<u16>> { Ok(list(&text(dir, &format!("{prefix}{name}"))?)) };
    let value = |name: &str| -> Result<u64> { Ok(number(dir, &format!("{prefix}{name}"))?.unwrap_or(0)) };
    let level = text(dir, &format!("{prefix}sched_relax_domain_level"))?;
    Ok(Cpuset {
        cpus: list("cpus")?,
        cpu_exclusive: value("cpu_exclusive")?,
        mems: list("mems")?,
        mem_hardwall: value("mem_hardwall")?,
        mem_exclusive: value("mem_exclusive")?,
        memory_migrate: value("memory_migrate")?,
        memory_spread_page: value("memory_spread_page")?,
        memory_spread_slab: value("memory_spread_slab")?,
        memory_pressure: value("memory_pressure")?,
        sched_load_balance: value("sched_load_balance")?,
        sched_relax_domain_level: level.trim().parse().unwrap_or(0),
    })
}

/// `0-2,5` → 0, 1, 2, 5.
fn list(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// The scheduler that is in use decides which files say something; they are asked in runc's order.
fn v1_block_io(dir: &Path) -> Result<BlockIo> {
    let read = |file: &str| -> Result<Vec<BlockIoEntry>> {
        let text = text(dir, &format!("blkio.{file}"))?;
        Ok(text.lines().filter_map(v1_entry).collect())
    };
    for prefix in ["bfq.", ""] {
        let operations = read(&format!("{prefix}io_serviced_recursive"))?;
        if operations.is_empty() {
            continue;
        }
        return Ok(BlockIo {
            io_service_bytes_recursive: read(&format!("{prefix}io_service_bytes_recursive"))?,
            io_serviced_recursive: operations,
            io_queued_recursive: read(&format!("{prefix}io_queued_recursive"))?,
            io_service_time_recursive: read(&format!("{prefix}io_service_time_recursive"))?,
            io_wait_time_recursive: read(&format!("{prefix}io_wait_time_recursive"))?,
            io_merged_recursive: read(&format!("{prefix}io_merged_recursive"))?,
            io_time_recursive: read(&format!("{prefix}time_recursive"))?,
            sectors_recursive: read(&format!("{prefix}sectors_recursive"))?,
            psi: None,
        });
    }
    let suffix = if dir.join("blkio.throttle.io_serviced_recursive").exists() { "_recursive" } else { "" };
    Ok(BlockIo {
        io_service_bytes_recursive: read(&format!("throttle.io_service_bytes{suffix}"))?,
        io_serviced_recursive: read(&format!("throttle.io_serviced{suffix}"))?,
        ..BlockIo::default()
    })
}

/// `8:0 Read 4096`, or `8:0 4096`; the sum over all devices (`Total 4096`) is left out.
fn v1_entry(line: &str) -> Option<BlockIoEntry> {
    let mut words = line.split_whitespace();
    let (major, minor) = device(words.next()?)?;
    let (op, value) = match (words.next()?, words.next()) {
        (op, Some(value)) => (op, value),
        (value, None) => ("", value),
    };
    Some(BlockIoEntry { major, minor, op: op.to_owned(), value: value.parse().ok()? })
}

fn v2_block_io(dir: &Path) -> Result<BlockIo> {
    let mut block_io = BlockIo { psi: pressure(dir, "io.pressure")?, ..BlockIo::default() };
    for line in text(dir, "io.stat")?.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(device) else { continue };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, op) = match name {
                "rbytes" => (&mut block_io.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut block_io.io_service_bytes_recursive, "Write"),
                "rios" => (&mut block_io.io_serviced_recursive, "Read"),
                "wios" => (&mut block_io.io_serviced_recursive, "Write"),
                _ => continue,
            };
            list.push(BlockIoEntry { major, minor, op: op.to_owned(), value: value.parse().unwrap_or(0) });
        }
    }
    Ok(block_io)
}

/// Every size of huge page that this cgroup knows.
fn huge_pages(dir: &Path, read: impl Fn(&Path, &str) -> Result<HugePages>) -> Result<BTreeMap<String, HugePages>> {
    let mut all = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(all) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let size = name.to_str().and_then(|name| {
            let size = name.strip_prefix("hugetlb.")?;
            size.strip_suffix(".max").or_else(|| size.strip_suffix(".limit_in_bytes"))
        });
        if let Some(size) = size.filter(|size| !size.contains('.')) {
            all.insert(size.to_owned(), read(dir, size)?);
        }
    }
    Ok(all)
}

fn v1_huge(dir: &Path, size: &str) -> Result<HugePages> {
    let value = |name: &str| number(dir, &format!("hugetlb.{size}.{name}"));
    let reserved = value("rsvd.usage_in_bytes")?;
    let prefix = if reserved.is_some() { "rsvd." } else { "" };
    Ok(HugePages {
        usage: reserved.map_or_else(|| value("usage_in_bytes"), |reserved| Ok(Some(reserved)))?.unwrap_or(0),
        max: value(&format!("{prefix}max_usage_in_bytes"))?.unwrap_or(0),
        failcnt: value(&format!("{prefix}failcnt"))?.unwrap_or(0),
    })
}

fn v2_huge(dir: &Path, size: &str) -> Result<HugePages> {
    let value = |name: &str| number(dir, &format!("hugetlb.{size}.{name}"));
    let reserved = value("rsvd.current")?;
    Ok(HugePages {
        usage: reserved.map_or_else(|| value("current"), |reserved| Ok(Some(reserved)))?.unwrap_or(0),
        max: 0,
        failcnt: pair(&text(dir, &format!("hugetlb.{size}.events"))?, "max").unwrap_or(0),
    })
}

/// Lines of `mlx4_0 hca_handle=2 hca_object=2000`.
fn rdma(usage: &mut Usage, dir: &Path) -> Result<()> {
    let parse = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let value = |name: &str| {
            let value = rest.split_whitespace().find_map(|word| word.strip_prefix(name))?;
            if value == "max" { Some(u32::MAX) } else { value.parse().ok() }
        };
        let entry = RdmaEntry { hca_handles: value("hca_handle=")?, hca_objects: value("hca_object=")? };
        Some((device.to_owned(), entry))
    };
    for (device, current) in text(dir, "rdma.current")?.lines().filter_map(parse) {
        usage.rdma.entry(device).or_default().current = current;
    }
    for (device, limit) in text(dir, "rdma.max")?.lines().filter_map(parse) {
        usage.rdma.entry(device).or_default().limit = limit;
    }
    Ok(())
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and the same with `full`.
fn pressure(dir: &Path, file: &str) -> Result<Option<Pressure>> {
    let text = match read_if_present(dir, file) {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(None),
        // EOPNOTSUPP: the kernel counts it, but was told not to.
        Err(error) if error.kind == ErrorKind::Unsupported => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let share = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        *share = share_of(words);
    }
    Ok(Some(pressure))
}

fn share_of<'a>(words: impl Iterator<Item = &'a str>) -> PressureShare {
    let mut share = PressureShare::default();
    for (name, value) in words.filter_map(|word| word.split_once('=')) {
        match name {
            "avg10" => share.avg10 = value.parse().unwrap_or(0.0),
            "avg60" => share.avg60 = value.parse().unwrap_or(0.0),
            "avg300" => share.avg300 = value.parse().unwrap_or(0.0),
            "total" => share.total = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    share
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One<'a>(&'a Path);

    impl Directories for One<'_> {
        fn directory(&self, _controller: &str) -> Option<std::path::PathBuf> {
            Some(self.0.to_path_buf())
        }
    }

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn version_2() {
        let dir = directory(&[
            ("memory.current", "4096\n"),
            ("memory.max", "8192\n"),
            ("memory.peak", "5000\n"),
            ("memory.swap.current", "10\n"),
            ("memory.swap.max", "max\n"),
            ("memory.stat", "anon 100\nfile 200\n"),
            (
                "memory.pressure",
                "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n",
            ),
            ("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 7\nnr_throttled 1\nthrottled_usec 9\n"),
            ("pids.current", "2\n"),
            ("pids.max", "max\n"),
            ("io.stat", "8:0 rbytes=90 wbytes=1 rios=2 wios=3 dbytes=0 dios=0\n"),
            ("hugetlb.2MB.max", "max\n"),
            ("hugetlb.2MB.current", "0\n"),
            ("hugetlb.2MB.rsvd.max", "max\n"),
            ("hugetlb.2MB.rsvd.current", "2097152\n"),
            ("hugetlb.2MB.events", "max 4\n"),
            ("rdma.current", "mlx4_0 hca_handle=2 hca_object=2000\n"),
            ("rdma.max", "mlx4_0 hca_handle=max hca_object=3000\n"),
        ]);
        let usage = v2(dir.path()).unwrap();
        let json = serde_json::to_value(&usage).unwrap();
        assert_eq!(json["cpu"]["usage"], serde_json::json!({"total": 5000, "user": 3000, "kernel": 2000}));
        assert_eq!(
            json["cpu"]["throttling"],
            serde_json::json!({"periods": 7, "throttledPeriods": 1, "throttledTime": 9000})
        );
        assert_eq!(
            json["memory"]["usage"],
            serde_json::json!({"limit": 8192, "usage": 4096, "max": 5000, "failcnt": 0})
        );
        assert_eq!(json["memory"]["swap"], serde_json::json!({"limit": u64::MAX, "usage": 4106, "failcnt": 0}));
        assert_eq!((&json["memory"]["cache"], &json["memory"]["raw"]["anon"]), (&200.into(), &100.into()));
        assert_eq!(
            json["memory"]["psi"]["some"],
            serde_json::json!({"avg10": 1.5, "avg60": 0.25, "avg300": 0.0, "total": 77})
        );
        assert_eq!(json["pids"], serde_json::json!({"current": 2}));
        assert_eq!(
            json["blkio"]["ioServiceBytesRecursive"][0],
            serde_json::json!({"major": 8, "op": "Read", "value": 90})
        );
        assert_eq!(json["hugetlb"], serde_json::json!({"2MB": {"usage": 2097152, "failcnt": 4}}));
        assert_eq!(json["rdma"]["mlx4_0"]["limit"]["hca_handles"], u32::MAX);
    }

    #[test]
    fn version_1() {
        let dir = directory(&[
            ("memory.usage_in_bytes", "4096\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.max_usage_in_bytes", "5000\n"),
            ("memory.failcnt", "3\n"),
            ("memory.kmem.tcp.limit_in_bytes", "100\n"),
            ("memory.stat", "cache 200\nrss 100\n"),
            ("cpuacct.usage", "77\n"),
            ("cpuacct.stat", "user 2\nsystem 1\n"),
            ("cpuacct.usage_percpu", "70 7 \n"),
            ("cpuacct.usage_all", "cpu user system\n0 60 10\n1 5 2\n"),
            ("cpu.stat", "nr_periods 7\nnr_throttled 1\nthrottled_time 9\n"),
            ("cpuset.cpus", "0-1,3\n"),
            ("cpuset.mems", "0\n"),
            ("cpuset.sched_relax_domain_level", "-1\n"),
            ("pids.current", "2\n"),
            ("pids.max", "20\n"),
            ("blkio.throttle.io_service_bytes_recursive", "8:0 Read 90\n8:0 Total 90\nTotal 90\n"),
            ("blkio.throttle.io_serviced_recursive", "8:0 Read 2\nTotal 2\n"),
            ("hugetlb.1GB.limit_in_bytes", "1\n"),
            ("hugetlb.1GB.usage_in_bytes", "2\n"),
            ("hugetlb.1GB.max_usage_in_bytes", "3\n"),
            ("hugetlb.1GB.failcnt", "4\n"),
        ]);
        let json = serde_json::to_value(v1(&One(dir.path()), None).unwrap()).unwrap();
        assert_eq!(
            json["memory"]["usage"],
            serde_json::json!({"limit": 9223372036854771712u64, "usage": 4096, "max": 5000, "failcnt": 3})
        );
        assert_eq!(json["memory"]["kernelTCP"]["limit"], 100);
        assert_eq!(
            json["cpu"]["usage"],
            serde_json::json!({"total": 77, "percpu": [70, 7], "percpu_user": [60, 5], "percpu_kernel": [10, 2],
                "user": 20_000_000, "kernel": 10_000_000})
        );
        assert_eq!(json["cpuset"]["cpus"], serde_json::json!([0, 1, 3]));
        assert_eq!(json["cpuset"]["sched_relax_domain_level"], -1);
        assert_eq!(json["pids"], serde_json::json!({"current": 2, "limit": 20}));
        assert_eq!(json["blkio"]["ioServiceBytesRecursive"].as_array().unwrap().len(), 2);
        assert_eq!(json["hugetlb"]["1GB"], serde_json::json!({"usage": 2, "max": 3, "failcnt": 4}));
    }

    #[test]
    fn nothing_is_there() {
        let dir = directory(&[]);
        assert_eq!(v2(dir.path()).unwrap(), Usage::default());
        assert_eq!(v1(&One(dir.path()), None).unwrap(), Usage::default());
    }
}
