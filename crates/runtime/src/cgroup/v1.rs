//! Owns applying limits to version 1 hierarchies. It must not know version 2.

use std::path::{Path, PathBuf};

use brig_oci::runtime::{BlockIo, Cpu, Memory, NetworkLimits, Pids, Resources};

use super::devices::{Policy, v1_text};
use super::error::{Dropped, Error, ErrorKind, Field, Result};
use super::files::{number, read, read_if_present, write, write_each, write_if_present};

/// Where a cgroup lives, by controller.
pub(super) trait Directories {
    /// The directory in the hierarchy of `controller`, `None` when that is not mounted.
    fn directory(&self, controller: &str) -> Option<PathBuf>;
}

/// Applies everything that `resources` names, except devices and huge pages.
pub(super) fn apply(directories: &dyn Directories, resources: &Resources, dropped: Dropped<'_>) -> Result<()> {
    let mut set = Setter { directories, dropped };
    if let Some(memory) = &resources.memory {
        set.memory(memory)?;
    }
    if let Some(cpu) = &resources.cpu {
        set.cpu(cpu)?;
        set.cpuset(cpu)?;
    }
    if let Some(pids) = &resources.pids {
        set.pids(pids)?;
    }
    if let Some(block_io) = &resources.block_io {
        set.block_io(block_io)?;
        set.throttle(block_io)?;
    }
    if let Some(network) = &resources.network {
        set.network(network)?;
    }
    if !resources.rdma.is_empty() {
        rdma(&set.required("rdma", "rdma")?, resources)?;
    }
    Ok(())
}

/// RDMA limits, the same on both versions; what is not named stays as it is.
pub(super) fn rdma(dir: &Path, resources: &Resources) -> Result<()> {
    for (device, limit) in &resources.rdma {
        let mut line = device.clone();
        for (name, value) in [("hca_handle", limit.hca_handles), ("hca_object", limit.hca_objects)] {
            if let Some(value) = value {
                line.push_str(&format!(" {name}={value}"));
            }
        }
        write(dir, "rdma.max", &line).field("rdma")?;
    }
    Ok(())
}

struct Setter<'a> {
    directories: &'a dyn Directories,
    dropped: Dropped<'a>,
}

impl Setter<'_> {
    /// The directory, or that this limit is dropped.
    fn optional(&mut self, controller: &str, field: &str, what: &str, dropped: &str) -> Result<Option<PathBuf>> {
        let dir = self.directories.directory(controller);
        if dir.is_none() {
            self.unsupported(field, &format!("the {controller} cgroup controller"), what, dropped)?;
        }
        Ok(dir)
    }

    fn unsupported(&mut self, field: &str, needs: &str, what: &str, dropped: &str) -> Result<()> {
        let warning = format!("Your kernel does not support {what} or the cgroup is not mounted. {dropped} discarded.");
        self.dropped.limit(field, needs, warning)
    }

    fn required(&self, controller: &str, field: &str) -> Result<PathBuf> {
        self.directories
            .directory(controller)
            .ok_or_else(|| Error::unsupported(format!("the {controller} cgroup controller is not mounted")))
            .field(field)
    }

    fn memory(&mut self, memory: &Memory) -> Result<()> {
        let limits = [memory.limit, memory.reservation, memory.swap];
        let asked = limits.iter().flatten().any(|limit| *limit > 0) || memory.disable_oom_killer == Some(true);
        let Some(dir) = self.directories.directory("memory") else {
            if asked {
                self.unsupported("memory", "the memory cgroup controller", "memory limit capabilities", "Limitation")?;
            }
            return Ok(());
        };
        self.memory_and_swap(&dir, memory)?;
        if let Some(reservation) = memory.reservation.filter(|value| *value != 0) {
            write(&dir, "memory.soft_limit_in_bytes", &reservation.to_string()).field("memory.reservation")?;
        }
        if memory.kernel.is_some_and(|limit| limit > 0) {
            // Gone from the kernel, and ignored by every runtime: never an error.
            self.dropped.warnings.push("Specifying a kernel memory limit is deprecated and has no effect on this kernel. Limitation discarded.".to_owned());
        }
        if let Some(limit) = memory.kernel_tcp.filter(|limit| *limit != 0)
            && !write_if_present(&dir, "memory.kmem.tcp.limit_in_bytes", &limit.to_string())
                .field("memory.kernelTCP")?
        {
            self.dropped.warnings.push("Your kernel does not support kernel memory TCP limit capabilities or the cgroup is not mounted. Limitation discarded.".to_owned());
        }
        // Docker passes "not set" as the largest number.
        match memory.swappiness.filter(|value| *value != u64::MAX && i64::try_from(*value).is_ok()) {
            Some(value @ 0..=100) => {
                write(&dir, "memory.swappiness", &value.to_string()).field("memory.swappiness")?;
            }
            Some(value) => {
                return Err(Error::invalid(format!("invalid memory swappiness value: {value} (valid range is 0-100)")))
                    .field("memory.swappiness");
            }
            None => {}
        }
        match memory.disable_oom_killer {
            Some(true) => write(&dir, "memory.oom_control", "1").field("memory.disableOOMKiller"),
            // Writing the default to a new cgroup would be one call for nothing.
            Some(false) if read(&dir, "memory.oom_control")?.contains("oom_kill_disable 1") => {
                write(&dir, "memory.oom_control", "0").field("memory.disableOOMKiller")
            }
            _ => Ok(()),
        }
    }

    /// Memory may never exceed memory + swap, so growing and shrinking go in opposite orders.
    fn memory_and_swap(&mut self, dir: &Path, memory: &Memory) -> Result<()> {
        const LIMIT: &str = "memory.limit_in_bytes";
        const TOTAL: &str = "memory.memsw.limit_in_bytes";
        let limit = memory.limit.filter(|value| *value != 0);
        let mut total = memory.swap.filter(|value| *value != 0);
        if limit == Some(-1) && total.is_none() {
            total = Some(-1);
        }
        if let (Some(limit), Some(total)) = (limit, total)
            && total > 0
            && total < limit
        {
            return Err(Error::invalid(format!(
                "memory+swap limit {total} should be at least the memory limit {limit}"
            )))
            .field("memory.swap");
        }
        if total.is_some() && !dir.join(TOTAL).exists() {
            if total.is_some_and(|total| total > 0) {
                self.dropped.limit(
                    "memory.swap",
                    "accounting of swap",
                    "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
                )?;
            }
            total = None;
        }
        let grows = match (limit, total, number(dir, LIMIT)?) {
            (_, Some(-1), _) => true,
            (Some(_), Some(total), Some(current)) => current < total.cast_unsigned(),
            _ => false,
        };
        let writes = [(LIMIT, "memory.limit", limit), (TOTAL, "memory.swap", total)];
        for index in if grows { [1, 0] } else { [0, 1] } {
            let (file, field, value) = writes[index];
            if let Some(value) = value {
                write(dir, file, &value.to_string()).map_err(|error| with_usage(dir, value, error)).field(field)?;
            }
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: &Cpu) -> Result<()> {
        if let Some(shares) = cpu.shares.filter(|shares| *shares != 0)
            && let Some(dir) = self.optional("cpu", "cpu.shares", "CPU shares", "Shares")?
        {
            // The kernel would take the nearest it knows and say nothing.
            let bound = match shares {
                0..=1 => Some("minimum allowed cpu-shares is 2"),
                2..=262_144 => None,
                _ => Some("maximum allowed cpu-shares is 262144"),
            };
            if let Some(bound) = bound {
                return Err(Error::invalid(format!("{shares}: the {bound}"))).field("cpu.shares");
            }
            write(&dir, "cpu.shares", &shares.to_string()).field("cpu.shares")?;
        }
        let period = cpu.period.filter(|period| *period != 0);
        let quota = cpu.quota.filter(|quota| *quota != 0);
        if (period.is_some() || quota.is_some() || cpu.burst.is_some())
            && let Some(dir) = self.optional("cpu", "cpu.quota", "CPU CFS scheduler", "CPU period/quota")?
        {
            bandwidth(&dir, period, quota, cpu.burst)?;
        }
        if let Some(idle) = cpu.idle {
            write(&self.required("cpu", "cpu.idle")?, "cpu.idle", &idle.to_string()).field("cpu.idle")?;
        }
        let period = cpu.realtime_period.filter(|value| *value != 0);
        let runtime = cpu.realtime_runtime.filter(|value| *value != 0);
        if period.is_none() && runtime.is_none() {
            return Ok(());
        }
        let dir = self.required("cpu", "cpu.realtimeRuntime")?;
        let steps = [
            ("cpu.rt_period_us", "cpu.realtimePeriod", period.map(|value| value.to_string())),
            ("cpu.rt_runtime_us", "cpu.realtimeRuntime", runtime.map(|value| value.to_string())),
        ];
        either_order(&dir, &steps)
    }

    fn cpuset(&mut self, cpu: &Cpu) -> Result<()> {
        for (file, field, value) in [("cpuset.cpus", "cpu.cpus", &cpu.cpus), ("cpuset.mems", "cpu.mems", &cpu.mems)] {
            if value.is_empty() {
                continue;
            }
            if let Some(dir) = self.optional("cpuset", field, "cpuset", "CPUset")? {
                write(&dir, file, value).field(field)?;
            }
        }
        Ok(())
    }

    fn pids(&mut self, pids: &Pids) -> Result<()> {
        let limit = match pids.limit {
            // Not set, as every runtime has it.
            0 => return Ok(()),
            limit @ 1.. => limit.to_string(),
            _ => "max".to_owned(),
        };
        if self.directories.directory("pids").is_none() && pids.limit < 0 {
            return Ok(());
        }
        match self.optional("pids", "pids.limit", "PIDs limit capabilities", "PIDs limit")? {
            Some(dir) => write(&dir, "pids.max", &limit).field("pids.limit"),
            None => Ok(()),
        }
    }

    fn block_io(&mut self, block_io: &BlockIo) -> Result<()> {
        let dir = self.directories.directory("blkio");
        let written = |names: &[&str], value: &str| -> Result<bool> {
            let Some(dir) = &dir else { return Ok(false) };
            for name in names {
                if write_if_present(dir, name, value)? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let own = [
            (
                "blockIO.weight",
                block_io.weight,
                ["blkio.weight", "blkio.bfq.weight"].as_slice(),
                "Block I/O weight",
                "Weight",
            ),
            (
                "blockIO.leafWeight",
                block_io.leaf_weight,
                ["blkio.leaf_weight"].as_slice(),
                "Block I/O leaf weight",
                "Leaf weight",
            ),
        ];
        for (field, weight, files, what, dropped) in own {
            if let Some(weight) = weight.filter(|weight| *weight != 0) {
                check_weight(weight).field(field)?;
                if !written(files, &weight.to_string()).field(field)? {
                    self.unsupported(field, files[0], what, dropped)?;
                }
            }
        }
        for device in &block_io.weight_device {
            let weights = [
                (device.weight, ["blkio.weight_device", "blkio.bfq.weight_device"].as_slice()),
                (device.leaf_weight, ["blkio.leaf_weight_device"].as_slice()),
            ];
            for (weight, files) in weights {
                let field = "blockIO.weightDevice";
                let Some(weight) = weight.filter(|weight| *weight != 0) else { continue };
                check_weight(weight).field(field)?;
                let value = format!("{}:{} {weight}", device.major, device.minor);
                if !written(files, &value).field(field)? {
                    self.unsupported(field, files[0], "Block I/O weight_device", "Weight-device")?;
                }
            }
        }
        Ok(())
    }

    fn throttle(&mut self, block_io: &BlockIo) -> Result<()> {
        let dir = self.directories.directory("blkio");
        let throttles = [
            (
                ("read_bps", "blockIO.throttleReadBpsDevice"),
                ("BPS Block I/O read limit", "Block I/O BPS read limit"),
                &block_io.throttle_read_bps_device,
            ),
            (
                ("write_bps", "blockIO.throttleWriteBpsDevice"),
                ("BPS Block I/O write limit", "Block I/O BPS write limit"),
                &block_io.throttle_write_bps_device,
            ),
            (
                ("read_iops", "blockIO.throttleReadIOPSDevice"),
                ("IOPS Block read limit", "Block I/O IOPS read limit"),
                &block_io.throttle_read_iops_device,
            ),
            (
                ("write_iops", "blockIO.throttleWriteIOPSDevice"),
                ("IOPS Block write limit", "Block I/O IOPS write limit"),
                &block_io.throttle_write_iops_device,
            ),
        ];
        for ((name, field), (what, dropped), devices) in throttles {
            let file = format!("blkio.throttle.{name}_device");
            for device in devices {
                let Some(dir) = dir.as_ref().filter(|dir| dir.join(&file).exists()) else {
                    self.unsupported(field, &file, what, dropped)?;
                    break;
                };
                let value = format!("{}:{} {}", device.major, device.minor, device.rate);
                write(dir, &file, &value).field(field)?;
            }
        }
        Ok(())
    }

    fn network(&mut self, network: &NetworkLimits) -> Result<()> {
        if let Some(class) = network.class_id.filter(|class| *class != 0) {
            let field = "network.classID";
            write(&self.required("net_cls", field)?, "net_cls.classid", &class.to_string()).field(field)?;
        }
        for priority in &network.priorities {
            let field = "network.priorities";
            let value = format!("{} {}", priority.name, priority.priority);
            write(&self.required("net_prio", field)?, "net_prio.ifpriomap", &value).field(field)?;
        }
        Ok(())
    }
}

/// Both versions take weights in version 1's terms.
pub(super) fn check_weight(weight: u16) -> Result<()> {
    if (10..=1000).contains(&weight) {
        return Ok(());
    }
    Err(Error::invalid(format!("block I/O weight {weight} is out of range: 10 to 1000")))
}

/// Writes values that the kernel checks against each other: what it refuses at first is tried again at the end.
fn either_order(dir: &Path, steps: &[(&str, &str, Option<String>)]) -> Result<()> {
    let mut refused = Vec::new();
    for (file, field, value) in steps {
        let Some(value) = value else { continue };
        if let Err(error) = write(dir, file, value) {
            if error.kind == ErrorKind::NotFound || steps.len() == 1 {
                return Err(error).field(field);
            }
            refused.push((file, field, value));
        }
    }
    refused.into_iter().try_for_each(|(file, field, value)| write(dir, file, value).field(field))
}

/// Period, burst and quota. A kernel without bursts is no reason to refuse a container.
fn bandwidth(dir: &Path, period: Option<u64>, quota: Option<i64>, burst: Option<u64>) -> Result<()> {
    let burst = burst.filter(|_| dir.join("cpu.cfs_burst_us").exists());
    let steps = [
        ("cpu.cfs_period_us", "cpu.period", period.map(|period| period.to_string())),
        ("cpu.cfs_burst_us", "cpu.burst", burst.map(|burst| burst.to_string())),
        ("cpu.cfs_quota_us", "cpu.quota", quota.map(|quota| quota.to_string())),
    ];
    either_order(dir, &steps)
}

/// A limit below what is in use is refused with EBUSY; say how much that is.
fn with_usage(dir: &Path, limit: i64, error: Error) -> Error {
    if error.kind != ErrorKind::Busy {
        return error;
    }
    let usage = number(dir, "memory.usage_in_bytes").ok().flatten().unwrap_or(0);
    let peak = number(dir, "memory.max_usage_in_bytes").ok().flatten().unwrap_or(0);
    Error::new(
        ErrorKind::Busy,
        format!(
            "unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak}): {}",
            error.message
        ),
    )
}

/// Gives a new cpuset the processors and memory nodes of its parent: without them nothing can be put in.
pub(super) fn inherit_cpuset(dir: &Path) -> Result<()> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        // Above the mount there is no such file: then there is nothing to inherit any more.
        let Some(mut value) = read_if_present(parent, file)? else { return Ok(()) };
        if value.trim().is_empty() {
            inherit_cpuset(parent)?;
            value = read(parent, file)?;
        }
        if !value.trim().is_empty() && read(dir, file)?.trim().is_empty() {
            write(dir, file, value.trim())?;
        }
    }
    Ok(())
}

/// Makes `devices.list` say exactly what the policy says. A running container never passes through "nothing allowed":
/// what is new is allowed before what is gone is taken away.
///
/// `fresh`: nobody is in it yet, so what it has from its parent is not worth comparing.
pub(super) fn devices(dir: &Path, policy: &Policy, fresh: bool) -> Result<()> {
    let listed = if fresh { "a".to_owned() } else { read(dir, "devices.list")? };
    let current: Vec<&str> = listed.lines().collect();
    let all = current.first().is_some_and(|line| line.starts_with('a'));
    if policy.allow {
        // The exceptions of such a policy are denials; the list cannot be compared because it shows only "a".
        write(dir, "devices.allow", "a")?;
        return policy
            .exceptions
            .iter()
            .try_for_each(|(devices, bits)| write(dir, "devices.deny", &v1_text(*devices, *bits)));
    }
    if all {
        write(dir, "devices.deny", "a")?;
    }
    let wanted: Vec<String> = policy.exceptions.iter().map(|(devices, bits)| v1_text(*devices, *bits)).collect();
    write_each(dir, "devices.allow", wanted.iter().filter(|line| all || !current.contains(&line.as_str())))?;
    for line in current.iter().filter(|line| !all && !wanted.iter().any(|wanted| wanted == *line)) {
        // Same device, fewer letters: take away only the letters that are gone.
        let kept = wanted
            .iter()
            .find(|wanted| wanted.rsplit_once(' ').map(|pair| pair.0) == line.rsplit_once(' ').map(|pair| pair.0));
        let Some((device, letters)) = line.rsplit_once(' ') else {
            continue;
        };
        let kept = kept.and_then(|wanted| wanted.rsplit_once(' ')).map_or("", |pair| pair.1);
        let gone: String = letters.chars().filter(|letter| !kept.contains(*letter)).collect();
        if !gone.is_empty() {
            write(dir, "devices.deny", &format!("{device} {gone}"))?;
        }
    }
    Ok(())
}

/// Huge page limits, of use here and on version 2, whose files differ in name only.
pub(super) fn huge_pages(dir: &Path, resources: &Resources, suffix: &str) -> Result<()> {
    for limit in &resources.hugepage_limits {
        let size = &limit.page_size;
        let set = || {
            if !size.ends_with('B') || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(Error::invalid(format!("huge page size {size:?}: expected a form such as 2MB")));
            }
            if !write_if_present(dir, &format!("hugetlb.{size}.{suffix}"), &limit.limit.to_string())? {
                return Err(Error::unsupported(format!("this kernel has no huge pages of {size}")));
            }
            // Reservations count only where the kernel tells them apart.
            write_if_present(dir, &format!("hugetlb.{size}.rsvd.{suffix}"), &limit.limit.to_string())
        };
        let _reserved = set().field("hugepageLimits")?;
    }
    Ok(())
}
