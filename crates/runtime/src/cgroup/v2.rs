//! Owns applying limits to the version 2 hierarchy: files, delegation of controllers, the device program.
//! It must not know version 1.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use brig_oci::runtime::{BlockIo, Cpu, Memory, Resources};

use super::convert;
use super::device_bpf;
use super::devices::Policy;
use super::error::{Error, ErrorKind, Result};
use super::files::{number, pair, read, read_if_present, write, write_if_present};
use super::v1::huge_pages;

/// What containers want to limit.
const CONTROLLERS: [&str; 7] = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma"];

/// Gives every controller that is there to the children of each directory from `mount` down to `leaf`'s parent.
///
/// A cgroup with processes of its own can have no controllers in its children ("no internal processes").
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
    let has = |list: &str, name: &str| list.split_whitespace().any(|known| known == name);
    let missing: Vec<String> = CONTROLLERS
        .iter()
        .filter(|name| has(&there, name) && !has(&given, name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    write(dir, "cgroup.subtree_control", &missing.join(" ")).map_err(|error| match error.kind {
        ErrorKind::Busy => Error::new(
            ErrorKind::Busy,
            format!(
                "{}: processes live in {} itself; move them into a cgroup below it first",
                error.message,
                dir.display()
            ),
        ),
        _ => error,
    })
}

/// Applies everything that `resources` names, except devices.
pub(super) fn apply(dir: &Path, resources: &Resources, warnings: &mut Vec<String>) -> Result<()> {
    let mut set = Setter { dir, warnings };
    if let Some(memory) = &resources.memory {
        set.memory(memory)?;
    }
    if let Some(cpu) = &resources.cpu {
        set.cpu(cpu)?;
    }
    if let Some(pids) = &resources.pids {
        let limit = if pids.limit > 0 { pids.limit.to_string() } else { "max".to_owned() };
        set.or_warn("pids.max", &limit, "PIDs limit capabilities", "PIDs limit")?;
    }
    if let Some(block_io) = &resources.block_io {
        set.block_io(block_io)?;
    }
    if let Some(network) = &resources.network
        && (network.class_id.is_some() || !network.priorities.is_empty())
    {
        return Err(Error::new(ErrorKind::Unsupported, "network classes and priorities exist on cgroup v1 only"));
    }
    huge_pages(dir, resources, "max")?;
    for (device, limit) in &resources.rdma {
        let number = |value: Option<u32>| value.map_or_else(|| "max".to_owned(), |value| value.to_string());
        write(
            dir,
            "rdma.max",
            &format!("{device} hca_handle={} hca_object={}", number(limit.hca_handles), number(limit.hca_objects)),
        )?;
    }
    // Last, so that what the user wrote by name wins over what was converted.
    for (file, value) in &resources.unified {
        check_unified(file)?;
        write(dir, file, value)?;
    }
    Ok(())
}

/// `controller.file` and nothing that could leave the directory or move processes.
pub(super) fn check_unified(file: &str) -> Result<()> {
    let plain = file.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if !plain || !file.contains('.') || file.starts_with('.') || file.starts_with("cgroup.") {
        return Err(Error::invalid(format!(
            "unified resource {file:?}: expected the name of a controller's file, such as memory.high"
        )));
    }
    Ok(())
}

struct Setter<'a> {
    dir: &'a Path,
    warnings: &'a mut Vec<String>,
}

impl Setter<'_> {
    fn or_warn(&mut self, file: &str, value: &str, what: &str, dropped: &str) -> Result<()> {
        // Unlimited is what a kernel without the file does anyway.
        if !write_if_present(self.dir, file, value)? && value != "max" {
            self.warnings.push(format!(
                "Your kernel does not support {what} or the cgroup is not mounted. {dropped} discarded."
            ));
        }
        Ok(())
    }

    fn memory(&mut self, memory: &Memory) -> Result<()> {
        let limit = memory.limit.filter(|limit| *limit != 0);
        let swap = convert::swap_alone(memory.swap, memory.limit)?;
        if let (Some(true), Some(limit)) = (memory.check_before_update, limit.filter(|limit| *limit > 0)) {
            let usage = number(self.dir, "memory.current")?.unwrap_or(0);
            if usage > limit.cast_unsigned() {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!("memory limit {limit} is below what is in use ({usage})"),
                ));
            }
        }
        if let Some(swap) = swap {
            let text = convert::or_max(swap);
            if !write_if_present(self.dir, "memory.swap.max", &text)? && swap > 0 {
                self.warnings.push("Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.".to_owned());
            }
        }
        if let Some(limit) = limit {
            self.or_warn("memory.max", &convert::or_max(limit), "memory limit capabilities", "Limitation")?;
        }
        if let Some(reservation) = memory.reservation.filter(|value| *value != 0) {
            self.or_warn("memory.low", &convert::or_max(reservation), "memory soft limit capabilities", "Limitation")?;
        }
        if memory.swappiness.is_some_and(|value| value <= 100) {
            self.warnings.push("Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.".to_owned());
        }
        if memory.disable_oom_killer == Some(true) {
            self.warnings.push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".to_owned());
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: &Cpu) -> Result<()> {
        if cpu.realtime_runtime.is_some_and(|value| value != 0) || cpu.realtime_period.is_some_and(|value| value != 0) {
            return Err(Error::new(ErrorKind::Unsupported, "real-time CPU limits exist on cgroup v1 only"));
        }
        if let Some(idle) = cpu.idle {
            write(self.dir, "cpu.idle", &idle.to_string())?;
        }
        // An idle group has no weight: the kernel refuses the file.
        if let Some(shares) = cpu.shares.filter(|shares| *shares != 0 && cpu.idle != Some(1)) {
            self.or_warn("cpu.weight", &convert::cpu_weight(shares).to_string(), "CPU shares", "Shares")?;
        }
        if let Some(value) = convert::cpu_max(cpu.quota, cpu.period) {
            // The burst there may not exceed a smaller quota; it is written again below.
            if cpu.burst.is_some() {
                let _present = write_if_present(self.dir, "cpu.max.burst", "0")?;
            }
            self.or_warn("cpu.max", &value, "CPU CFS scheduler", "CPU period/quota")?;
        }
        if let Some(burst) = cpu.burst {
            self.or_warn("cpu.max.burst", &burst.to_string(), "CPU burst", "Burst")?;
        }
        for (file, value) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
            if !value.is_empty() {
                self.or_warn(file, value, "cpuset", "CPUset")?;
            }
        }
        Ok(())
    }

    fn block_io(&mut self, block_io: &BlockIo) -> Result<()> {
        let mut weights: Vec<(String, u16)> = block_io
            .weight
            .filter(|weight| *weight != 0)
            .map(|weight| ("default".to_owned(), weight))
            .into_iter()
            .collect();
        weights.extend(
            block_io
                .weight_device
                .iter()
                .filter_map(|device| Some((format!("{}:{}", device.major, device.minor), device.weight?))),
        );
        for (device, weight) in weights {
            if !(10..=1000).contains(&weight) {
                return Err(Error::invalid(format!("block I/O weight {weight} is out of range: 10 to 1000")));
            }
            // BFQ takes the range of version 1, the generic file its own.
            let written = write_if_present(self.dir, "io.bfq.weight", &format!("{device} {weight}"))?
                || write_if_present(self.dir, "io.weight", &format!("{device} {}", convert::io_weight(weight)))?;
            if !written {
                self.warnings.push(
                    "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
                        .to_owned(),
                );
            }
        }
        let throttles = [
            ("rbps", &block_io.throttle_read_bps_device),
            ("wbps", &block_io.throttle_write_bps_device),
            ("riops", &block_io.throttle_read_iops_device),
            ("wiops", &block_io.throttle_write_iops_device),
        ];
        for (name, devices) in throttles {
            for device in devices {
                let rate = if device.rate == 0 { "max".to_owned() } else { device.rate.to_string() };
                self.or_warn(
                    "io.max",
                    &format!("{}:{} {name}={rate}", device.major, device.minor),
                    "Block I/O limits",
                    "Block I/O limit",
                )?;
            }
        }
        Ok(())
    }
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
