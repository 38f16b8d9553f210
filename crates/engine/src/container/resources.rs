//! Limits: from Docker's numbers to those of the runtime specification. Owns the checks that Docker makes before a
//! container exists; must not touch a cgroup.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use brig_api::container::{DeviceMapping, HostConfig, Resources as Limits, ThrottleDevice, Ulimit};
use brig_oci::runtime::{BlockIo, Cpu, DeviceCgroup, LinuxDevice, Memory, Pids, Resources, Rlimit};

use crate::error::{Error, Result};

/// The least memory a container can be given, in bytes (Docker's limit).
const LEAST_MEMORY: i64 = 6 << 20;
/// Length of the period that `--cpus` counts in, in microseconds.
const CPU_PERIOD: i64 = 100_000;

/// Refuses what Docker refuses, in its words.
pub fn check(host: &HostConfig) -> Result<()> {
    let limits = &host.resources;
    check_memory(limits)?;
    check_cpu(limits)?;
    if limits.blkio_weight != 0 && !(10..=1000).contains(&limits.blkio_weight) {
        return Err(Error::invalid("range of blkio weight is from 10 to 1000"));
    }
    if host.oom_score_adj < -1000 || host.oom_score_adj > 1000 {
        return Err(Error::invalid(format!(
            "invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    if host.shm_size < 0 {
        return Err(Error::invalid("SHM size can not be less than 0"));
    }
    for rule in limits.device_cgroup_rules.iter().flatten() {
        device_rule(rule)?;
    }
    if limits.device_requests.as_ref().is_some_and(|requests| !requests.is_empty()) {
        return Err(Error::not_implemented(
            "could not select a device driver: brig has none for --gpus or CDI requests yet; use --device",
        ));
    }
    for ulimit in limits.ulimits.iter().flatten() {
        rlimit(&ulimit.name, ulimit.soft, ulimit.hard)?;
    }
    Ok(())
}

fn check_memory(limits: &Limits) -> Result<()> {
    let Limits { memory, memory_swap, memory_reservation, .. } = *limits;
    if memory != 0 && memory < LEAST_MEMORY {
        return Err(Error::invalid("Minimum memory limit allowed is 6MB"));
    }
    if memory > 0 && memory_swap > 0 && memory_swap < memory {
        return Err(Error::invalid("Minimum memoryswap limit should be larger than memory limit, see usage"));
    }
    if memory == 0 && memory_swap > 0 {
        return Err(Error::invalid("You should always set the Memory limit when using Memoryswap limit, see usage"));
    }
    if limits.memory_swappiness.is_some_and(|n| n != -1 && !(0..=100).contains(&n)) {
        return Err(Error::invalid(format!(
            "Invalid value: {}, valid memory swappiness range is 0-100",
            limits.memory_swappiness.unwrap_or_default()
        )));
    }
    if memory_reservation > 0 && memory_reservation < LEAST_MEMORY {
        return Err(Error::invalid("Minimum memory reservation allowed is 6MB"));
    }
    if memory > 0 && memory_reservation > memory {
        return Err(Error::invalid("Minimum memory limit can not be less than memory reservation limit, see usage"));
    }
    Ok(())
}

fn check_cpu(limits: &Limits) -> Result<()> {
    if limits.nano_cpus > 0 && (limits.cpu_period > 0 || limits.cpu_quota > 0) {
        return Err(Error::invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set"));
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let most = i64::try_from(processors).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    if limits.nano_cpus < 0 || limits.nano_cpus > most {
        return Err(Error::invalid(format!(
            "range of CPUs is from 0.01 to {processors}.00, as there are only {processors} CPUs available"
        )));
    }
    if limits.cpu_shares < 0 {
        return Err(Error::invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            limits.cpu_shares
        )));
    }
    if limits.cpu_period != 0 && !(1_000..=1_000_000).contains(&limits.cpu_period) {
        return Err(Error::invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if limits.cpu_quota > 0 && limits.cpu_quota < 1_000 {
        return Err(Error::invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    for (set, what) in [(&limits.cpuset_cpus, "cpuset cpus"), (&limits.cpuset_mems, "cpuset mems")] {
        if !is_list(set) {
            return Err(Error::invalid(format!("Invalid value {set} for {what}")));
        }
    }
    // Without these files (another architecture, a test) the kernel is asked at the start.
    for (set, what, file) in [
        (&limits.cpuset_cpus, "CPUs", "/sys/devices/system/cpu/online"),
        (&limits.cpuset_mems, "memory nodes", "/sys/devices/system/node/has_memory"),
    ] {
        let available = std::fs::read_to_string(file).unwrap_or_default();
        let available = available.trim();
        if !set.is_empty() && !available.is_empty() && !is_within(set, available) {
            return Err(Error::invalid(format!(
                "Requested {what} are not available - requested {set}, available: {available}"
            )));
        }
    }
    Ok(())
}

/// Whether every number of one kernel list is in another.
fn is_within(list: &str, available: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.trim().parse::<u32>().unwrap_or(u32::MAX);
            number(first)..=number(last)
        };
        text.split(',').flat_map(range).collect()
    };
    let available = numbers(available);
    numbers(list).iter().all(|number| available.contains(number))
}

/// Whether the text is a kernel list such as `0-3,5` of numbers below 8192.
fn is_list(text: &str) -> bool {
    let number = |part: &str| part.trim().parse::<u32>().ok().filter(|n| *n < 8192);
    text.is_empty()
        || text.split(',').all(|part| match part.split_once('-') {
            Some((first, last)) => matches!((number(first), number(last)), (Some(a), Some(b)) if a <= b),
            None => number(part).is_some(),
        })
}

/// The limits as the runtime wants them. Device rules are not among them: see [`device_rules`].
pub fn convert(limits: &Limits) -> Resources {
    let some = |value: i64| (value != 0).then_some(value);
    let memory = Memory {
        limit: some(limits.memory),
        reservation: some(limits.memory_reservation),
        // Without a word about swap, Docker allows as much swap as memory.
        swap: some(limits.memory_swap).or_else(|| some(limits.memory).map(|memory| memory.saturating_mul(2))),
        swappiness: limits.memory_swappiness.and_then(|n| u64::try_from(n).ok()),
        disable_oom_killer: limits.oom_kill_disable.filter(|on| *on),
        ..Memory::default()
    };
    let (quota, period) = if limits.nano_cpus > 0 {
        (some(limits.nano_cpus / (1_000_000_000 / CPU_PERIOD)), u64::try_from(CPU_PERIOD).ok())
    } else {
        (some(limits.cpu_quota), some(limits.cpu_period).and_then(|n| u64::try_from(n).ok()))
    };
    let cpu = Cpu {
        shares: some(limits.cpu_shares).and_then(|n| u64::try_from(n).ok()),
        quota,
        period,
        realtime_runtime: some(limits.cpu_realtime_runtime),
        realtime_period: some(limits.cpu_realtime_period).and_then(|n| u64::try_from(n).ok()),
        cpus: limits.cpuset_cpus.clone(),
        mems: limits.cpuset_mems.clone(),
        ..Cpu::default()
    };
    Resources {
        memory: (memory != Memory::default()).then_some(memory),
        cpu: (cpu != Cpu::default()).then_some(cpu),
        pids: limits.pids_limit.filter(|n| *n != 0).map(|limit| Pids { limit }),
        block_io: block_io(limits),
        ..Resources::default()
    }
}

fn block_io(limits: &Limits) -> Option<BlockIo> {
    let throttles = |list: &Option<Vec<ThrottleDevice>>| {
        list.iter()
            .flatten()
            .filter_map(|device| {
                let rdev = std::fs::metadata(&device.path).ok()?.rdev();
                let (major, minor) = numbers(rdev);
                Some(brig_oci::runtime::ThrottleDevice { major, minor, rate: device.rate })
            })
            .collect::<Vec<_>>()
    };
    let weights = limits.blkio_weight_device.iter().flatten().filter_map(|device| {
        let (major, minor) = numbers(std::fs::metadata(&device.path).ok()?.rdev());
        Some(brig_oci::runtime::WeightDevice { major, minor, weight: Some(device.weight), leaf_weight: None })
    });
    let block_io = BlockIo {
        weight: (limits.blkio_weight != 0).then_some(limits.blkio_weight),
        weight_device: weights.collect(),
        throttle_read_bps_device: throttles(&limits.blkio_device_read_bps),
        throttle_write_bps_device: throttles(&limits.blkio_device_write_bps),
        throttle_read_iops_device: throttles(&limits.blkio_device_read_iops),
        throttle_write_iops_device: throttles(&limits.blkio_device_write_iops),
        ..BlockIo::default()
    };
    (block_io != BlockIo::default()).then_some(block_io)
}

fn numbers(rdev: u64) -> (i64, i64) {
    (i64::from(rustix::fs::major(rdev)), i64::from(rustix::fs::minor(rdev)))
}

/// The devices that a container is given and the cgroup rules that go with them, on top of the runtime's defaults.
pub fn devices(host: &HostConfig) -> Result<(Vec<LinuxDevice>, Vec<DeviceCgroup>)> {
    if host.privileged {
        let all = DeviceCgroup { allow: true, access: "rwm".into(), ..DeviceCgroup::default() };
        return Ok((all_host_devices(), vec![all]));
    }
    let mut nodes = Vec::new();
    let mut rules = vec![DeviceCgroup { allow: false, access: "rwm".into(), ..DeviceCgroup::default() }];
    for mapping in host.resources.devices.iter().flatten() {
        for (node, rule) in mapped_devices(mapping)? {
            nodes.push(node);
            rules.push(rule);
        }
    }
    for rule in host.resources.device_cgroup_rules.iter().flatten() {
        rules.push(device_rule(rule)?);
    }
    Ok((nodes, rules))
}

/// `--device`: one node, or every node below a directory.
fn mapped_devices(mapping: &DeviceMapping) -> Result<Vec<(LinuxDevice, DeviceCgroup)>> {
    let access = if mapping.cgroup_permissions.is_empty() { "rwm" } else { &mapping.cgroup_permissions };
    if !access.bytes().all(|b| matches!(b, b'r' | b'w' | b'm')) {
        return Err(Error::invalid(format!("invalid device mode: {access}")));
    }
    let target = if mapping.path_in_container.is_empty() { &mapping.path_on_host } else { &mapping.path_in_container };
    let unavailable = |why: String| {
        Error::invalid(format!(
            "error gathering device information while adding custom device {:?}: {why}",
            mapping.path_on_host
        ))
    };
    let metadata = std::fs::metadata(&mapping.path_on_host).map_err(|e| {
        unavailable(if e.kind() == std::io::ErrorKind::NotFound {
            "no such device on the host".into()
        } else {
            e.to_string()
        })
    })?;
    let mut found = Vec::new();
    if metadata.is_dir() {
        let entries = std::fs::read_dir(&mapping.path_on_host).map_err(|e| unavailable(e.to_string()))?;
        for entry in entries.flatten() {
            let inside = format!("{target}/{}", entry.file_name().to_string_lossy());
            found.extend(entry.metadata().ok().and_then(|m| device(&inside, &m)));
        }
    } else {
        found.extend(device(target, &metadata));
    }
    if found.is_empty() {
        return Err(unavailable("not a device node".into()));
    }
    Ok(found
        .into_iter()
        .map(|node| {
            let rule = DeviceCgroup {
                allow: true,
                type_: node.type_.clone(),
                major: Some(node.major),
                minor: Some(node.minor),
                access: access.into(),
            };
            (node, rule)
        })
        .collect())
}

fn device(path: &str, metadata: &std::fs::Metadata) -> Option<LinuxDevice> {
    let kind = metadata.file_type();
    let type_ = if kind.is_block_device() {
        "b"
    } else if kind.is_char_device() {
        "c"
    } else {
        return None;
    };
    let (major, minor) = numbers(metadata.rdev());
    Some(LinuxDevice {
        type_: type_.into(),
        path: path.into(),
        major,
        minor,
        file_mode: Some(metadata.mode() & 0o7777),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
    })
}

/// Every device node below `/dev`, without what the container has of its own.
fn all_host_devices() -> Vec<LinuxDevice> {
    const OWN: [&str; 6] = ["pts", "shm", "fd", "mqueue", "console", "ptmx"];
    fn walk(directory: &std::path::Path, depth: u32, found: &mut Vec<LinuxDevice>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if depth == 0 && OWN.iter().any(|own| name == *own) {
                continue;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() && depth < 4 {
                walk(&entry.path(), depth + 1, found);
            } else if let Some(node) = device(&entry.path().to_string_lossy(), &metadata) {
                found.push(node);
            }
        }
    }
    let mut found = Vec::new();
    walk(std::path::Path::new("/dev"), 0, &mut found);
    found
}

/// Parses `c 13:* rwm`.
fn device_rule(text: &str) -> Result<DeviceCgroup> {
    let bad = || Error::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let mut parts = text.split_whitespace();
    let (Some(type_), Some(numbers), Some(access), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad());
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    let number = |part: &str| match part {
        "*" => Ok(None),
        part => part.parse::<u32>().map(|n| Some(i64::from(n))).map_err(|_| bad()),
    };
    let access_is_good = !access.is_empty() && access.bytes().all(|b| matches!(b, b'r' | b'w' | b'm'));
    if !matches!(type_, "a" | "b" | "c") || !access_is_good {
        return Err(bad());
    }
    Ok(DeviceCgroup {
        allow: true,
        type_: type_.into(),
        major: number(major)?,
        minor: number(minor)?,
        access: access.into(),
    })
}

/// `--ulimit`s over the daemon's defaults.
pub fn rlimits(host: &HostConfig, defaults: &[(String, i64, i64)]) -> Result<Vec<Rlimit>> {
    let given = host.resources.ulimits.as_deref().unwrap_or_default();
    let missing = defaults.iter().filter(|(name, ..)| !given.iter().any(|ulimit| ulimit.name == *name));
    given
        .iter()
        .map(|Ulimit { name, soft, hard }| rlimit(name, *soft, *hard))
        .chain(missing.map(|(name, soft, hard)| rlimit(name, *soft, *hard)))
        .collect()
}

fn rlimit(name: &str, soft: i64, hard: i64) -> Result<Rlimit> {
    const NAMES: [&str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    if !NAMES.contains(&name) {
        return Err(Error::invalid(format!("invalid ulimit type: {name}")));
    }
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(Error::invalid(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        )));
    }
    // -1 stands for no limit, which the kernel writes as all ones.
    let number = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    Ok(Rlimit { type_: format!("RLIMIT_{}", name.to_ascii_uppercase()), soft: number(soft), hard: number(hard) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(change: impl FnOnce(&mut Limits)) -> HostConfig {
        let mut host = HostConfig::default();
        change(&mut host.resources);
        host
    }

    #[test]
    fn processors_must_be_there() {
        assert!(is_within("0-1,3", "0-3"));
        assert!(is_within("2", "0,2-4"));
        assert!(!is_within("0-4", "0-3"));
        assert!(!is_within("99", "0-3"));
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        for bad in [
            host(|l| l.memory = 1 << 20),
            host(|l| l.memory_swap = 1 << 30),
            host(|l| (l.memory, l.memory_swap) = (64 << 20, 32 << 20)),
            host(|l| l.nano_cpus = 10_000_000_000_000),
            host(|l| (l.nano_cpus, l.cpu_quota) = (1, 1000)),
            host(|l| l.cpuset_cpus = "0-".into()),
            host(|l| l.cpuset_cpus = "0-4294967295".into()),
            host(|l| l.blkio_weight = 5),
            host(|l| l.device_cgroup_rules = Some(vec!["c 1:3".into()])),
            host(|l| l.ulimits = Some(vec![Ulimit { name: "files".into(), ..Ulimit::default() }])),
            host(|l| l.ulimits = Some(vec![Ulimit { name: "nofile".into(), soft: 2, hard: 1 }])),
        ] {
            assert!(check(&bad).is_err(), "{:?}", bad.resources);
        }
        check(&host(|l| (l.memory, l.nano_cpus, l.cpuset_cpus) = (64 << 20, 500_000_000, "0,0-0".into()))).unwrap();
    }

    #[test]
    fn numbers_become_the_runtimes() {
        let resources =
            convert(&host(|l| (l.memory, l.nano_cpus, l.pids_limit) = (64 << 20, 500_000_000, Some(7))).resources);
        let memory = resources.memory.unwrap();
        assert_eq!((memory.limit, memory.swap), (Some(64 << 20), Some(128 << 20)));
        let cpu = resources.cpu.unwrap();
        assert_eq!((cpu.quota, cpu.period), (Some(50_000), Some(100_000)));
        assert_eq!(resources.pids.unwrap().limit, 7);
        assert_eq!(convert(&Limits::default()), Resources::default());
    }

    #[test]
    fn device_rules() {
        let rule = device_rule("c 13:* rw").unwrap();
        assert_eq!((rule.major, rule.minor, rule.access.as_str()), (Some(13), None, "rw"));
        let null = DeviceMapping { path_on_host: "/dev/null".into(), ..DeviceMapping::default() };
        let found = mapped_devices(&null).unwrap();
        assert_eq!((found[0].0.major, found[0].0.minor), (1, 3));
        let missing = DeviceMapping { path_on_host: "/dev/no-such".into(), ..DeviceMapping::default() };
        assert!(mapped_devices(&missing).unwrap_err().message.contains("/dev/no-such"));
    }

    #[test]
    fn ulimits_override_defaults() {
        let given = host(|l| l.ulimits = Some(vec![Ulimit { name: "nofile".into(), soft: 10, hard: 20 }]));
        let limits = rlimits(&given, &[("nofile".into(), 1, 1), ("core".into(), -1, -1)]).unwrap();
        assert_eq!(limits.len(), 2);
        assert_eq!((limits[0].soft, limits[0].hard), (10, 20));
        assert_eq!(limits[1].hard, u64::MAX);
    }
}
