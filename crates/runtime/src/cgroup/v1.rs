//! Owns applying limits to version 1 hierarchies. It must not know version 2.

use std::path::{Path, PathBuf};

use brig_oci::runtime::{BlockIo, Cpu, Memory, NetworkLimits, Pids, Resources};

use super::devices::{Policy, v1_text};
use super::error::{Error, ErrorKind, Result};
use super::files::{number, read, read_if_present, write, write_if_present};

/// Where a cgroup lives, by controller.
pub(super) trait Directories {
    /// The directory in the hierarchy of `controller`, `None` when that is not mounted.
    fn directory(&self, controller: &str) -> Option<PathBuf>;
}

/// Applies everything that `resources` names, except devices.
pub(super) fn apply(directories: &dyn Directories, resources: &Resources, warnings: &mut Vec<String>) -> Result<()> {
    let mut set = Setter { directories, warnings };
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
    }
    if let Some(network) = &resources.network {
        set.network(network)?;
    }
    for (device, limit) in &resources.rdma {
        let dir = set.required("rdma", "an RDMA limit")?;
        let number = |value: Option<u32>| value.map_or_else(|| "max".to_owned(), |value| value.to_string());
        write(
            &dir,
            "rdma.max",
            &format!("{device} hca_handle={} hca_object={}", number(limit.hca_handles), number(limit.hca_objects)),
        )?;
    }
    Ok(())
}

struct Setter<'a> {
    directories: &'a dyn Directories,
    warnings: &'a mut Vec<String>,
}

impl Setter<'_> {
    /// The directory, or a warning in Docker's words that this limit is dropped.
    fn optional(&mut self, controller: &str, what: &str, dropped: &str) -> Option<PathBuf> {
        let dir = self.directories.directory(controller);
        if dir.is_none() {
            self.warnings.push(format!(
                "Your kernel does not support {what} or the cgroup is not mounted. {dropped} discarded."
            ));
        }
        dir
    }

    fn required(&self, controller: &str, what: &str) -> Result<PathBuf> {
        self.directories.directory(controller).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("{what} was asked for, but the {controller} cgroup controller is not mounted"),
            )
        })
    }

    fn memory(&mut self, memory: &Memory) -> Result<()> {
        let limits = [memory.limit, memory.reservation, memory.swap];
        let asked = limits.iter().flatten().any(|limit| *limit > 0) || memory.disable_oom_killer == Some(true);
        let Some(dir) = self.directories.directory("memory") else {
            if asked {
                self.warnings.push("Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.".to_owned());
            }
            return Ok(());
        };
        self.memory_and_swap(&dir, memory)?;
        if let Some(reservation) = memory.reservation.filter(|value| *value != 0) {
            write(&dir, "memory.soft_limit_in_bytes", &reservation.to_string())?;
        }
        if memory.kernel.is_some_and(|limit| limit > 0) {
            self.warnings.push("Specifying a kernel memory limit is deprecated and has no effect on this kernel. Limitation discarded.".to_owned());
        }
        if let Some(limit) = memory.kernel_tcp.filter(|limit| *limit != 0) {
            write(&dir, "memory.kmem.tcp.limit_in_bytes", &limit.to_string())?;
        }
        // Docker passes "not set" as the largest number.
        match memory.swappiness.filter(|value| *value != u64::MAX && i64::try_from(*value).is_ok()) {
            Some(value @ 0..=100) => write(&dir, "memory.swappiness", &value.to_string())?,
            Some(value) => {
                return Err(Error::invalid(format!("memory swappiness {value} is out of range: 0 to 100")));
            }
            None => {}
        }
        match memory.disable_oom_killer {
            Some(true) => write(&dir, "memory.oom_control", "1"),
            // Writing the default to a new cgroup would be one call for nothing.
            Some(false) if read(&dir, "memory.oom_control")?.contains("oom_kill_disable 1") => {
                write(&dir, "memory.oom_control", "0")
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
            )));
        }
        if total.is_some() && !dir.join(TOTAL).exists() {
            if total.is_some_and(|total| total > 0) {
                self.warnings.push("Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.".to_owned());
            }
            total = None;
        }
        let grows = match (total, number(dir, LIMIT)?) {
            (Some(-1), _) => true,
            (Some(total), Some(current)) => current < total.cast_unsigned(),
            _ => false,
        };
        let writes = [(LIMIT, limit), (TOTAL, total)];
        let order = if grows && total.is_some() { [1, 0] } else { [0, 1] };
        for index in order {
            let (file, value) = writes[index];
            if let Some(value) = value {
                write(dir, file, &value.to_string()).map_err(|error| with_usage(dir, error))?;
            }
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: &Cpu) -> Result<()> {
        if let Some(shares) = cpu.shares.filter(|shares| *shares != 0)
            && let Some(dir) = self.optional("cpu", "CPU shares", "Shares")
        {
            if !(2..=262_144).contains(&shares) {
                return Err(Error::invalid(format!("CPU shares {shares} are out of range: 2 to 262144")));
            }
            write(&dir, "cpu.shares", &shares.to_string())?;
        }
        let period = cpu.period.filter(|period| *period != 0);
        let quota = cpu.quota.filter(|quota| *quota != 0);
        let burst = cpu.burst;
        if (period.is_some() || quota.is_some() || burst.is_some())
            && let Some(dir) = self.optional("cpu", "CPU CFS scheduler", "CPU period/quota")
        {
            bandwidth(&dir, period, quota, burst)?;
        }
        let idle = cpu.idle.map(|value| ("cpu.idle", value.to_string()));
        let realtime_period =
            cpu.realtime_period.filter(|value| *value != 0).map(|value| ("cpu.rt_period_us", value.to_string()));
        let realtime =
            cpu.realtime_runtime.filter(|value| *value != 0).map(|value| ("cpu.rt_runtime_us", value.to_string()));
        for (file, value) in [idle, realtime_period, realtime].into_iter().flatten() {
            write(&self.required("cpu", file)?, file, &value)?;
        }
        Ok(())
    }

    fn cpuset(&mut self, cpu: &Cpu) -> Result<()> {
        for (file, value) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
            if value.is_empty() {
                continue;
            }
            if let Some(dir) = self.optional("cpuset", "cpuset", "CPUset") {
                write(&dir, file, value)?;
            }
        }
        Ok(())
    }

    fn pids(&mut self, pids: &Pids) -> Result<()> {
        let limit = if pids.limit > 0 { pids.limit.to_string() } else { "max".to_owned() };
        if self.directories.directory("pids").is_none() && pids.limit <= 0 {
            return Ok(());
        }
        match self.optional("pids", "PIDs limit capabilities", "PIDs limit") {
            Some(dir) => write(&dir, "pids.max", &limit),
            None => Ok(()),
        }
    }

    fn block_io(&mut self, block_io: &BlockIo) -> Result<()> {
        let weight = block_io.weight.filter(|weight| *weight != 0);
        if weight.is_some_and(|weight| !(10..=1000).contains(&weight)) {
            return Err(Error::invalid(format!(
                "block I/O weight {} is out of range: 10 to 1000",
                weight.unwrap_or(0)
            )));
        }
        let dir = self.directories.directory("blkio");
        let first_present = |names: [&str; 2], value: &str| -> Result<bool> {
            let Some(dir) = &dir else { return Ok(false) };
            Ok(write_if_present(dir, names[0], value)? || write_if_present(dir, names[1], value)?)
        };
        if let Some(weight) = weight
            && !first_present(["blkio.weight", "blkio.bfq.weight"], &weight.to_string())?
        {
            self.warnings.push(
                "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
                    .to_owned(),
            );
        }
        for device in &block_io.weight_device {
            let value = format!("{}:{} {}", device.major, device.minor, device.weight.unwrap_or(0));
            if !first_present(["blkio.weight_device", "blkio.bfq.weight_device"], &value)? {
                self.warnings.push("Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.".to_owned());
            }
        }
        self.throttle(block_io)
    }

    fn throttle(&mut self, block_io: &BlockIo) -> Result<()> {
        let dir = self.directories.directory("blkio");
        let throttles = [
            ("read_bps", "BPS Block I/O read limit", "Block I/O BPS read limit", &block_io.throttle_read_bps_device),
            (
                "write_bps",
                "BPS Block I/O write limit",
                "Block I/O BPS write limit",
                &block_io.throttle_write_bps_device,
            ),
            ("read_iops", "IOPS Block read limit", "Block I/O IOPS read limit", &block_io.throttle_read_iops_device),
            (
                "write_iops",
                "IOPS Block write limit",
                "Block I/O IOPS write limit",
                &block_io.throttle_write_iops_device,
            ),
        ];
        for (name, what, dropped, devices) in throttles {
            for device in devices {
                let file = format!("blkio.throttle.{name}_device");
                let present = dir.as_ref().is_some_and(|dir| dir.join(&file).exists());
                let Some(dir) = self.directories.directory("blkio").filter(|_| present) else {
                    self.warnings.push(format!(
                        "Your kernel does not support {what} or the cgroup is not mounted. {dropped} discarded."
                    ));
                    break;
                };
                write(&dir, &file, &format!("{}:{} {}", device.major, device.minor, device.rate))?;
            }
        }
        Ok(())
    }

    fn network(&mut self, network: &NetworkLimits) -> Result<()> {
        if let Some(class) = network.class_id {
            write(&self.required("net_cls", "a network class")?, "net_cls.classid", &class.to_string())?;
        }
        for priority in &network.priorities {
            write(
                &self.required("net_prio", "a network priority")?,
                "net_prio.ifpriomap",
                &format!("{} {}", priority.name, priority.priority),
            )?;
        }
        Ok(())
    }
}

/// The kernel checks quota against period at each write, so which goes first depends on what is there.
fn bandwidth(dir: &Path, period: Option<u64>, quota: Option<i64>, burst: Option<u64>) -> Result<()> {
    let set_period = || period.map_or(Ok(()), |period| write(dir, "cpu.cfs_period_us", &period.to_string()));
    let set_quota = || quota.map_or(Ok(()), |quota| write(dir, "cpu.cfs_quota_us", &quota.max(-1).to_string()));
    if set_period().is_err() {
        set_quota()?;
        set_period()?;
    } else {
        set_quota()?;
    }
    burst.map_or(Ok(()), |burst| write(dir, "cpu.cfs_burst_us", &burst.to_string()))
}

/// A limit below what is in use is refused with EBUSY; say how much that is.
fn with_usage(dir: &Path, error: Error) -> Error {
    if error.kind != ErrorKind::Busy {
        return error;
    }
    let usage = number(dir, "memory.usage_in_bytes").ok().flatten().unwrap_or(0);
    let peak = number(dir, "memory.max_usage_in_bytes").ok().flatten().unwrap_or(0);
    Error::new(ErrorKind::Busy, format!("{} (in use: {usage}, at most so far: {peak})", error.message))
}

/// Gives a new cpuset the processors and memory nodes of its parent: without them nothing can be put in.
pub(super) fn inherit_cpuset(dir: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if !read(dir, file)?.trim().is_empty() {
            continue;
        }
        let Some(parent) = dir.parent() else { continue };
        if let Some(value) = read_if_present(parent, file)? {
            write(dir, file, value.trim())?;
        }
    }
    Ok(())
}

/// Makes `devices.list` say exactly what the policy says. A running container never passes through "nothing allowed":
/// what is new is allowed before what is gone is taken away.
pub(super) fn devices(dir: &Path, policy: &Policy) -> Result<()> {
    let listed = read(dir, "devices.list")?;
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
    for line in wanted.iter().filter(|line| all || !current.contains(&line.as_str())) {
        write(dir, "devices.allow", line)?;
    }
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
        if !size.ends_with('B') || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::invalid(format!("huge page size {size:?}: expected a form such as 2MB")));
        }
        write(dir, &format!("hugetlb.{size}.{suffix}"), &limit.limit.to_string())?;
        // Reservations count only where the kernel tells them apart.
        let _present = write_if_present(dir, &format!("hugetlb.{size}.rsvd.{suffix}"), &limit.limit.to_string())?;
    }
    Ok(())
}
