//! Owns applying limits to the version 2 hierarchy: files, delegation of controllers, the device program.
//! It must not know version 1.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use brig_oci::runtime::{BlockIo, Cpu, Memory, Resources};

use super::convert;
use super::device_bpf;
use super::devices::Policy;
use super::error::{Dropped, Error, ErrorKind, Field, Result};
use super::files::{number, pair, read, read_if_present, write, write_if_present};
use super::v1::{check_weight, huge_pages, rdma};

/// Gives every controller that is there to the children of each directory from `mount` down to `leaf`'s parent.
///
/// A cgroup with processes of its own can have no controllers in its children ("no internal processes"), and without
/// root's rights most may not be given. Neither is an error yet: only a limit that cannot be kept for it is.
pub(super) fn delegate(mount: &Path, leaf: &Path) -> Result<()> {
    let below = leaf.strip_prefix(mount).unwrap_or(leaf);
    let mut dir = mount.to_path_buf();
    let mut names = below.components();
    // The leaf itself gives nothing on.
    names.next_back();
    delegate_one(&dir)?;
    for name in names {
        dir.push(name);
        delegate_one(&dir)?;
    }
    Ok(())
}

fn delegate_one(dir: &Path) -> Result<()> {
    let there = read(dir, "cgroup.controllers")?;
    let given = read(dir, "cgroup.subtree_control")?;
    let missing: Vec<String> = there
        .split_whitespace()
        .filter(|name| !given.split_whitespace().any(|known| known == *name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() || write(dir, "cgroup.subtree_control", &missing.join(" ")).is_ok() {
        return Ok(());
    }
    // One that cannot be given must not keep the others back.
    for name in missing {
        write(dir, "cgroup.subtree_control", &name).ok();
    }
    Ok(())
}

/// Whether limits are asked for that a threaded cgroup cannot have.
fn needs_domain(resources: &Resources) -> bool {
    let cpu = |cpu: &Cpu| {
        cpu.shares.or(cpu.period).unwrap_or(0) != 0
            || cpu.quota.unwrap_or(0) != 0
            || cpu.idle.is_some()
            || cpu.burst.is_some()
    };
    let memory =
        |memory: &Memory| [memory.limit, memory.reservation, memory.swap].iter().flatten().any(|limit| *limit != 0);
    resources.memory.as_ref().is_some_and(memory)
        || resources.block_io.as_ref().is_some_and(|block_io| *block_io != BlockIo::default())
        || resources.cpu.as_ref().is_some_and(cpu)
        || !resources.hugepage_limits.is_empty()
}

/// Below a cgroup with processes of its own a new one is invalid until it is made threaded, which not every limit allows.
pub(super) fn settle_type(dir: &Path, resources: &Resources) -> Result<()> {
    let kind = read_if_present(dir, "cgroup.type")?.unwrap_or_default();
    let kind = kind.trim();
    let how = match kind {
        "domain invalid" => "it is in an invalid state".to_owned(),
        "domain threaded" | "threaded" => format!("it is in {kind} mode"),
        _ => return Ok(()),
    };
    if needs_domain(resources) {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "cannot enter cgroupv2 {:?} with domain controllers -- {how}: processes live in a cgroup above it; move \
                 them into one below that first",
                dir.display().to_string()
            ),
        ));
    }
    if kind == "domain invalid" { write(dir, "cgroup.type", "threaded") } else { Ok(()) }
}

/// Applies everything that `resources` names, except devices.
pub(super) fn apply(dir: &Path, resources: &Resources, dropped: Dropped<'_>) -> Result<()> {
    let mut set = Setter { dir, dropped };
    // Before anything is written: what is refused for its name changes nothing.
    resources.unified.keys().try_for_each(|file| check_unified(file))?;
    if let Some(pids) = resources.pids.as_ref().filter(|pids| pids.limit != 0) {
        let limit = if pids.limit > 0 { pids.limit.to_string() } else { "max".to_owned() };
        set.or_drop("pids.limit", "pids.max", &limit, "PIDs limit capabilities", "PIDs limit")?;
    }
    if let Some(memory) = &resources.memory {
        set.memory(memory)?;
    }
    if let Some(block_io) = &resources.block_io {
        set.block_io(block_io)?;
    }
    if let Some(cpu) = &resources.cpu {
        set.cpu(cpu)?;
    }
    if let Some(network) = &resources.network
        && (network.class_id.is_some_and(|class| class != 0) || !network.priorities.is_empty())
    {
        return Err(Error::unsupported("network classes and priorities exist on cgroup v1 only")).field("network");
    }
    huge_pages(dir, resources, "max")?;
    rdma(dir, resources)?;
    // Last, so that what the user wrote by name wins over what was converted.
    resources.unified.iter().try_for_each(|(file, value)| unified(dir, file, value))
}

/// `controller.file` and nothing that could leave the directory or move processes.
pub(super) fn check_unified(file: &str) -> Result<()> {
    let plain = file.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let wrong = if file.contains('/') {
        "must be a file name (no slashes)"
    } else if !plain || file.find('.').unwrap_or(0) == 0 {
        "must be in the form CONTROLLER.PARAMETER"
    } else if file.starts_with("cgroup.") {
        "is the runtime's own: it moves processes or controllers, or stops them"
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!("unified resource {file:?} {wrong}"))).field("unified")
}

/// One file by name. The kernel takes one line at a time.
fn unified(dir: &Path, file: &str, value: &str) -> Result<()> {
    let lines = value.split_inclusive('\n').filter(|line| !line.trim().is_empty());
    let written = lines.into_iter().try_for_each(|line| write(dir, file, line));
    let Err(error) = written else { return Ok(()) };
    let controller = file.split('.').next().unwrap_or(file);
    let there = read_if_present(dir, "cgroup.controllers")?.unwrap_or_default();
    if !dir.join(file).exists() && !there.split_whitespace().any(|known| known == controller) {
        return Err(Error::unsupported(format!(
            "unified resource {file:?} can't be set: controller {controller:?} not available"
        )))
        .field("unified");
    }
    Err(Error { message: format!("unable to set unified resource {file:?}: {}", error.message), ..error })
        .field("unified")
}

struct Setter<'a> {
    dir: &'a Path,
    dropped: Dropped<'a>,
}

impl Setter<'_> {
    fn or_drop(&mut self, field: &str, file: &str, value: &str, what: &str, dropped: &str) -> Result<()> {
        // Unlimited is what a kernel without the file does anyway.
        if !write_if_present(self.dir, file, value).field(field)? && value != "max" {
            self.unsupported(field, file, what, dropped)?;
        }
        Ok(())
    }

    fn unsupported(&mut self, field: &str, file: &str, what: &str, dropped: &str) -> Result<()> {
        let controller = file.split('.').next().unwrap_or(file);
        let there = read_if_present(self.dir, "cgroup.controllers")?.unwrap_or_default();
        let needs = if there.split_whitespace().any(|known| known == controller) {
            format!("{file} (the kernel has no such file)")
        } else {
            format!("controller {controller:?} (not given to {})", self.dir.display())
        };
        let warning = format!("Your kernel does not support {what} or the cgroup is not mounted. {dropped} discarded.");
        self.dropped.limit(field, &needs, warning)
    }

    fn memory(&mut self, memory: &Memory) -> Result<()> {
        let limit = memory.limit.filter(|limit| *limit != 0);
        let swap = convert::swap_alone(memory.swap, memory.limit).field("memory.swap")?;
        check_memory_usage(self.dir, memory)?;
        if let Some(swap) = swap {
            let text = convert::or_max(swap).field("memory.swap")?;
            if !write_if_present(self.dir, "memory.swap.max", &text).field("memory.swap")? && swap > 0 {
                self.dropped.limit(
                    "memory.swap",
                    "accounting of swap",
                    "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
                )?;
            }
        }
        if let Some(limit) = limit {
            let text = convert::or_max(limit).field("memory.limit")?;
            self.or_drop("memory.limit", "memory.max", &text, "memory limit capabilities", "Limitation")?;
        }
        if let Some(reservation) = memory.reservation.filter(|value| *value != 0) {
            let text = convert::or_max(reservation).field("memory.reservation")?;
            let what = "memory soft limit capabilities";
            self.or_drop("memory.reservation", "memory.low", &text, what, "Limitation")?;
        }
        // What version 2 does not have is passed over by every runtime: callers set these without asking which it is.
        let warnings = &mut self.dropped.warnings;
        if memory.swappiness.is_some_and(|value| value <= 100) {
            warnings.push("Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.".to_owned());
        }
        if memory.disable_oom_killer == Some(true) {
            warnings.push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".to_owned());
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: &Cpu) -> Result<()> {
        if cpu.realtime_runtime.is_some_and(|value| value != 0) || cpu.realtime_period.is_some_and(|value| value != 0) {
            return Err(Error::unsupported("real-time CPU limits exist on cgroup v1 only"))
                .field("cpu.realtimeRuntime");
        }
        if let Some(idle) = cpu.idle {
            write(self.dir, "cpu.idle", &idle.to_string()).field("cpu.idle")?;
        }
        // An idle group has no weight: the kernel refuses the file.
        if let Some(shares) = cpu.shares.filter(|shares| *shares != 0 && cpu.idle != Some(1)) {
            let weight = convert::cpu_weight(shares).to_string();
            self.or_drop("cpu.shares", "cpu.weight", &weight, "CPU shares", "Shares")?;
        }
        if let Some(value) = self.cpu_max(cpu)? {
            // The burst there may not exceed a smaller quota; it is written again below.
            if cpu.burst.is_some() {
                let _present = write_if_present(self.dir, "cpu.max.burst", "0").field("cpu.burst")?;
            }
            self.or_drop("cpu.quota", "cpu.max", &value, "CPU CFS scheduler", "CPU period/quota")?;
        }
        if let Some(burst) = cpu.burst {
            self.or_drop("cpu.burst", "cpu.max.burst", &burst.to_string(), "CPU burst", "Burst")?;
        }
        for (file, field, value) in [("cpuset.cpus", "cpu.cpus", &cpu.cpus), ("cpuset.mems", "cpu.mems", &cpu.mems)] {
            if !value.is_empty() {
                self.or_drop(field, file, value, "cpuset", "CPUset")?;
            }
        }
        Ok(())
    }

    /// A period alone leaves the quota as it is, which the file can only be told together with it.
    fn cpu_max(&self, cpu: &Cpu) -> Result<Option<String>> {
        let now = match (cpu.quota.unwrap_or(0), cpu.period.unwrap_or(0)) {
            (0, 1..) => read_if_present(self.dir, "cpu.max")?,
            _ => None,
        };
        let now = now.and_then(|text| text.split_whitespace().next()?.parse().ok());
        Ok(convert::cpu_max(cpu.quota.filter(|quota| *quota != 0).or(now), cpu.period))
    }

    fn block_io(&mut self, block_io: &BlockIo) -> Result<()> {
        let own = block_io.weight.filter(|weight| *weight != 0);
        let mut weights: Vec<(&str, String, u16)> =
            own.map(|weight| ("blockIO.weight", "default".to_owned(), weight)).into_iter().collect();
        weights.extend(block_io.weight_device.iter().filter_map(|device| {
            let weight = device.weight.filter(|weight| *weight != 0)?;
            Some(("blockIO.weightDevice", format!("{}:{}", device.major, device.minor), weight))
        }));
        for (field, device, weight) in weights {
            check_weight(weight).field(field)?;
            // BFQ takes the range of version 1, the generic file its own.
            let converted = format!("{device} {}", convert::io_weight(weight));
            let written = write_if_present(self.dir, "io.bfq.weight", &format!("{device} {weight}")).field(field)?
                || write_if_present(self.dir, "io.weight", &converted).field(field)?;
            if !written {
                self.unsupported(field, "io.weight", "Block I/O weight", "Weight")?;
            }
        }
        let throttles = [
            ("rbps", "blockIO.throttleReadBpsDevice", &block_io.throttle_read_bps_device),
            ("wbps", "blockIO.throttleWriteBpsDevice", &block_io.throttle_write_bps_device),
            ("riops", "blockIO.throttleReadIOPSDevice", &block_io.throttle_read_iops_device),
            ("wiops", "blockIO.throttleWriteIOPSDevice", &block_io.throttle_write_iops_device),
        ];
        for (name, field, devices) in throttles {
            for device in devices {
                let rate = if device.rate == 0 { "max".to_owned() } else { device.rate.to_string() };
                let value = format!("{}:{} {name}={rate}", device.major, device.minor);
                self.or_drop(field, "io.max", &value, "Block I/O limits", "Block I/O limit")?;
            }
        }
        Ok(())
    }
}

/// A limit below what is in use makes the kernel kill: whoever wants to hear of that before says so.
pub(super) fn check_usage(dir: &Path, resources: &Resources) -> Result<()> {
    resources.memory.as_ref().map_or(Ok(()), |memory| check_memory_usage(dir, memory))
}

fn check_memory_usage(dir: &Path, memory: &Memory) -> Result<()> {
    if memory.check_before_update != Some(true) {
        return Ok(());
    }
    let Some(usage) = number(dir, "memory.current")? else { return Ok(()) };
    let limits = [("memory.swap", "memory+swap", memory.swap), ("memory.limit", "memory", memory.limit)];
    for (field, what, limit) in limits {
        if let Some(limit) = limit.filter(|limit| *limit > 0 && limit.cast_unsigned() <= usage) {
            let message = format!("rejecting {what} limit {limit} <= usage {usage}");
            return Err(Error::new(ErrorKind::Busy, message)).field(field);
        }
    }
    Ok(())
}

/// Attaches the program for a policy; earlier programs of this cgroup go, the first of them in the same step.
pub(super) fn devices(dir: &Path, policy: &Policy) -> Result<()> {
    let failed =
        |error: brig_sys::Error| Error::new(ErrorKind::System, format!("device rules of {}: {error}", dir.display()));
    let directory: OwnedFd = std::fs::File::open(dir).map_err(|error| Error::io("open", dir, &error))?.into();
    let program = brig_sys::bpf::load_device_program(&device_bpf::program(policy)).map_err(failed)?;
    let old = brig_sys::bpf::device_programs(directory.as_fd()).map_err(failed)?;
    brig_sys::bpf::attach_device_program(directory.as_fd(), program.as_fd(), old.first().map(AsFd::as_fd))
        .map_err(failed)?;
    for extra in old.iter().skip(1) {
        brig_sys::bpf::detach_device_program(directory.as_fd(), extra.as_fd()).map_err(failed)?;
    }
    Ok(())
}

/// Whether any process is in this cgroup or below it; gone counts as empty.
pub(super) fn populated(dir: &Path) -> Result<bool> {
    Ok(read_if_present(dir, "cgroup.events")?.is_some_and(|text| pair(&text, "populated") == Some(1)))
}
