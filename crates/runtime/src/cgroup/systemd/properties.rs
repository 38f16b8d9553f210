//! Limits as properties of a systemd unit, so that what systemd knows of it is what the kernel does.
//! Owns: the conversion. Must not: talk to systemd.

use brig_oci::runtime::{Cpu, Resources};

use super::value::Value;
use crate::cgroup::convert;
use crate::cgroup::devices::{MKNOD, Policy, READ, WRITE};
use crate::cgroup::error::{Error, Field, Result};

/// A property of a unit.
pub type Property = (String, Value);

/// The kernel's own, if nobody sets one.
const DEFAULT_PERIOD: u64 = 100_000;

/// What `resources` come to on version 2. `version` is systemd's: older ones do not know all properties; what they do not
/// know still is written to the files.
pub fn version_2(resources: &Resources, version: u32) -> Result<Vec<Property>> {
    let mut properties = Properties(Vec::new());
    if let Some(memory) = &resources.memory {
        properties.bytes("MemoryMax", memory.limit);
        properties.bytes("MemoryLow", memory.reservation);
        let swap = convert::swap_alone(memory.swap, memory.limit).field("memory.swap")?;
        if let Some(swap) = swap {
            properties.number("MemorySwapMax", swap.cast_unsigned());
        }
    }
    if let Some(cpu) = &resources.cpu {
        // A weight of 0 is how systemd spells idle.
        if cpu.idle == Some(1) && version >= 252 {
            properties.number("CPUWeight", 0);
        } else if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
            properties.number("CPUWeight", convert::cpu_weight(shares));
        }
        properties.cpu(cpu, version)?;
    }
    if let Some(weight) = resources.block_io.as_ref().and_then(|block_io| block_io.weight).filter(|weight| *weight != 0)
    {
        properties.number("IOWeight", convert::io_weight(weight));
    }
    properties.tasks(resources);
    resources
        .unified
        .iter()
        .try_for_each(|(file, value)| properties.unified(file, value.trim(), resources, version))?;
    Ok(properties.0)
}

/// What `resources` come to on version 1.
pub fn version_1(resources: &Resources, version: u32) -> Result<Vec<Property>> {
    let mut properties = Properties(Vec::new());
    if let Some(memory) = &resources.memory {
        properties.bytes("MemoryLimit", memory.limit);
    }
    if let Some(cpu) = &resources.cpu {
        if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
            properties.number("CPUShares", shares);
        }
        properties.cpu(cpu, version)?;
    }
    if let Some(weight) = resources.block_io.as_ref().and_then(|block_io| block_io.weight).filter(|weight| *weight != 0)
    {
        properties.number("BlockIOWeight", u64::from(weight));
    }
    properties.tasks(resources);
    Ok(properties.0)
}

/// The quota as systemd keeps it: in hundredths of a processor, rounded up. The same goes into the file.
pub fn rounded_quota(cpu: &Cpu) -> Option<i64> {
    let quota = cpu.quota.filter(|quota| *quota > 0)?;
    let period = cpu.period.filter(|period| *period != 0).unwrap_or(DEFAULT_PERIOD);
    let per_second = per_second(quota, period);
    if i128::from(per_second) * i128::from(period) / 1_000_000 == i128::from(quota) {
        return Some(quota);
    }
    i64::try_from(i128::from(per_second) * i128::from(period) / 1_000_000).ok()
}

fn per_second(quota: i64, period: u64) -> u64 {
    let exact = u128::from(quota.unsigned_abs()) * 1_000_000 / u128::from(period.max(1));
    u64::try_from(exact.next_multiple_of(10_000)).unwrap_or(u64::MAX)
}

/// Device rules. systemd knows lists of what is allowed only; for the other kind the rules stay with the runtime's own
/// program, which is there in any case.
pub fn devices(policy: &Policy) -> Vec<Property> {
    let clear = ("DeviceAllow".to_owned(), Value::Array("(ss)".to_owned(), Vec::new()));
    let mode = |mode: &str| ("DevicePolicy".to_owned(), Value::Str(mode.to_owned()));
    if policy.allow {
        return vec![clear, mode("auto")];
    }
    let list = policy.exceptions.iter().filter_map(|(devices, bits)| {
        let kind = if devices.block { "block" } else { "char" };
        let path = match (devices.major, devices.minor) {
            (None, None) => format!("{kind}-*"),
            (Some(major), None) => format!("{kind}-{major}"),
            (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
            // It has no words for this.
            (None, Some(_)) => return None,
        };
        let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
        let access: String = letters.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, letter)| *letter).collect();
        Some(Value::Struct(vec![Value::Str(path), Value::Str(access)]))
    });
    let allow = ("DeviceAllow".to_owned(), Value::Array("(ss)".to_owned(), list.collect()));
    vec![clear, mode("strict"), allow]
}

struct Properties(Vec<Property>);

impl Properties {
    fn add(&mut self, name: &str, value: Value) {
        self.0.push((name.to_owned(), value));
    }

    fn number(&mut self, name: &str, value: u64) {
        self.add(name, Value::U64(value));
    }

    /// -1 is the largest number, which is how systemd spells unlimited.
    fn bytes(&mut self, name: &str, value: Option<i64>) {
        if let Some(value) = value.filter(|value| *value != 0) {
            self.number(name, value.cast_unsigned());
        }
    }

    fn tasks(&mut self, resources: &Resources) {
        if let Some(limit) = resources.pids.as_ref().map(|pids| pids.limit).filter(|limit| *limit != 0) {
            self.number("TasksMax", limit.max(-1).cast_unsigned());
        }
    }

    fn cpu(&mut self, cpu: &Cpu, version: u32) -> Result<()> {
        self.quota(cpu.quota.unwrap_or(0), cpu.period.unwrap_or(0), version);
        for (name, field, list) in
            [("AllowedCPUs", "cpu.cpus", &cpu.cpus), ("AllowedMemoryNodes", "cpu.mems", &cpu.mems)]
        {
            if !list.is_empty() && version >= 244 {
                self.add(name, bits(list).field(field)?);
            }
        }
        Ok(())
    }

    fn quota(&mut self, quota: i64, period: u64, version: u32) {
        if period != 0 && version >= 242 {
            self.number("CPUQuotaPeriodUSec", period);
        }
        if quota != 0 || period != 0 {
            let period = if period == 0 { DEFAULT_PERIOD } else { period };
            self.number("CPUQuotaPerSecUSec", if quota > 0 { per_second(quota, period) } else { u64::MAX });
        }
    }

    /// What of the unified keys systemd has words for.
    fn unified(&mut self, file: &str, value: &str, resources: &Resources, version: u32) -> Result<()> {
        let wrong = || Error::invalid(format!("unified resource {file:?} value conversion error: {value:?}"));
        let number = |text: &str| match text {
            "max" => Ok(u64::MAX),
            text => text.parse().map_err(|_| wrong()).field("unified"),
        };
        let idle = |value: &str| value.trim() == "1" && version >= 252;
        match file {
            "cpu.idle" if idle(value) => self.number("CPUWeight", 0),
            "cpu.weight" if !resources.unified.get("cpu.idle").is_some_and(|value| idle(value)) => {
                self.number("CPUWeight", number(value)?);
            }
            "cpu.max" => {
                let mut words = value.split_whitespace();
                let quota = match words.next() {
                    Some("max") => -1,
                    Some(quota) => quota.parse().map_err(|_| wrong()).field("unified")?,
                    None => return Err(wrong()).field("unified"),
                };
                let period = words.next().map_or(Ok(DEFAULT_PERIOD), |period| period.parse().map_err(|_| wrong()));
                self.quota(quota, period.field("unified")?, version);
            }
            "cpuset.cpus" if version >= 244 => self.add("AllowedCPUs", bits(value).field("unified")?),
            "cpuset.mems" if version >= 244 => self.add("AllowedMemoryNodes", bits(value).field("unified")?),
            "memory.high" => self.number("MemoryHigh", number(value)?),
            "memory.low" => self.number("MemoryLow", number(value)?),
            "memory.min" => self.number("MemoryMin", number(value)?),
            "memory.max" => self.number("MemoryMax", number(value)?),
            "memory.swap.max" => self.number("MemorySwapMax", number(value)?),
            "pids.max" => self.number("TasksMax", number(value)?),
            _ => {}
        }
        Ok(())
    }
}

/// `0-2,5` as a bit mask, least significant byte first.
fn bits(list: &str) -> Result<Value> {
    let bad = || Error::invalid(format!("{list:?} is no list of numbers such as 0-2,5"));
    // The kernel knows 8,192 processors at most.
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number < 8192).ok_or_else(bad);
    let mut mask = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(bad());
        }
        for bit in first..=last {
            if mask.len() <= bit / 8 {
                mask.resize(bit / 8 + 1, 0u8);
            }
            mask[bit / 8] |= 1 << (bit % 8);
        }
    }
    if mask.is_empty() {
        return Err(bad());
    }
    Ok(Value::Array("y".to_owned(), mask.into_iter().map(Value::Byte).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(json: &str) -> Resources {
        serde_json::from_str(json).unwrap()
    }

    fn numbers(properties: &[Property]) -> Vec<(&str, u64)> {
        let number = |(name, value): &'_ Property| match value {
            Value::U64(value) => (name.clone(), *value),
            other => panic!("{name}: {other:?}"),
        };
        let all: Vec<(String, u64)> = properties.iter().map(number).collect();
        properties.iter().map(|(name, _)| name.as_str()).zip(all.into_iter().map(|pair| pair.1)).collect()
    }

    #[test]
    fn limits_of_version_2() {
        let all = resources(
            r#"{"memory": {"limit": 100, "swap": 150, "reservation": 50}, "cpu": {"shares": 1024, "quota": 50000, "period": 100000},
                "pids": {"limit": 20}, "blockIO": {"weight": 500}}"#,
        );
        assert_eq!(
            numbers(&version_2(&all, 252).unwrap()),
            [
                ("MemoryMax", 100),
                ("MemoryLow", 50),
                ("MemorySwapMax", 50),
                ("CPUWeight", 100),
                ("CPUQuotaPeriodUSec", 100_000),
                ("CPUQuotaPerSecUSec", 500_000),
                ("IOWeight", 4950),
                ("TasksMax", 20),
            ]
        );
        let none = resources(r#"{"memory": {"limit": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}}"#);
        assert_eq!(
            numbers(&version_2(&none, 240).unwrap()),
            [
                ("MemoryMax", u64::MAX),
                ("MemorySwapMax", u64::MAX),
                ("CPUQuotaPerSecUSec", u64::MAX),
                ("TasksMax", u64::MAX),
            ]
        );
        let idle = resources(r#"{"cpu": {"idle": 1, "shares": 5}}"#);
        assert_eq!(numbers(&version_2(&idle, 252).unwrap()), [("CPUWeight", 0)]);
        assert_eq!(version_2(&Resources::default(), 252).unwrap(), []);
    }

    #[test]
    fn unified_keys() {
        let all = resources(
            r#"{"unified": {"cpu.max": "10000 100000", "cpu.weight": "42", "memory.high": "max", "memory.min": " 5\n",
                "memory.oom.group": "1", "pids.max": "99", "io.max": "8:0 riops=3"}}"#,
        );
        assert_eq!(
            numbers(&version_2(&all, 252).unwrap()),
            [
                ("CPUQuotaPeriodUSec", 100_000),
                ("CPUQuotaPerSecUSec", 100_000),
                ("CPUWeight", 42),
                ("MemoryHigh", u64::MAX),
                ("MemoryMin", 5),
                ("TasksMax", 99),
            ]
        );
        for bad in ["cpu.max", "cpu.weight", "memory.max", "pids.max", "cpuset.cpus"] {
            let wrong = Resources { unified: [(bad.to_owned(), "fish".to_owned())].into(), ..Resources::default() };
            let error = version_2(&wrong, 252).unwrap_err();
            assert!(error.message.starts_with("linux.resources.unified: "), "{error}");
        }
    }

    #[test]
    fn limits_of_version_1() {
        let all = resources(
            r#"{"memory": {"limit": 100, "swap": 150}, "cpu": {"shares": 77, "period": 50000}, "blockIO": {"weight": 500}}"#,
        );
        assert_eq!(
            numbers(&version_1(&all, 252).unwrap()),
            [
                ("MemoryLimit", 100),
                ("CPUShares", 77),
                ("CPUQuotaPeriodUSec", 50_000),
                ("CPUQuotaPerSecUSec", u64::MAX),
                ("BlockIOWeight", 500),
            ]
        );
    }

    #[test]
    fn quotas_are_rounded_up_to_hundredths() {
        let cpu = |quota, period| Cpu { quota: Some(quota), period, ..Cpu::default() };
        for (quota, period, want) in [
            (50_000, Some(100_000), 50_000),
            (64_321, Some(100_000), 65_000),
            (1, None, 1000),
            (12_345, Some(50_000), 12_500),
        ] {
            assert_eq!(rounded_quota(&cpu(quota, period)), Some(want), "{quota} {period:?}");
        }
        assert_eq!(rounded_quota(&cpu(-1, None)), None);
    }

    #[test]
    fn lists_as_masks() {
        for (list, want) in
            [("0", vec![1u8]), ("0-2,5", vec![0b10_0111]), ("8", vec![0, 1]), (" 1 , 3-3,", vec![0b1010])]
        {
            assert_eq!(bits(list).unwrap(), Value::Array("y".into(), want.into_iter().map(Value::Byte).collect()));
        }
        for list in ["", ",", "a", "3-1", "-1", "0-99999", "1-2-3"] {
            assert!(bits(list).is_err(), "{list}");
        }
    }

    #[test]
    fn device_rules() {
        let policy = |json: &str| Policy::new(&serde_json::from_str::<Resources>(json).unwrap().devices).unwrap();
        let strict =
            devices(&policy(r#"{"devices": [{"allow": true, "type": "b", "major": 8, "minor": 0, "access": "rw"}]}"#));
        let Value::Array(_, list) = &strict[2].1 else { panic!() };
        let has = |path: &str, access: &str| {
            list.contains(&Value::Struct(vec![Value::Str(path.into()), Value::Str(access.into())]))
        };
        assert!(
            has("/dev/block/8:0", "rw") && has("char-*", "m") && has("char-136", "rwm") && has("/dev/char/1:3", "rwm")
        );
        assert_eq!(strict[1].1, Value::Str("strict".into()));
        let all = devices(&policy(r#"{"devices": [{"allow": true, "access": "rwm"}]}"#));
        assert_eq!((all.len(), &all[1].1), (2, &Value::Str("auto".into())));
    }
}
