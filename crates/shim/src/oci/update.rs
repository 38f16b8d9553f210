//! `update`: other limits for a container.
//!
//! Owns: what the flags mean, how they are laid over the limits that the container has, and that later calls know. Must not:
//! change device rules, which callers may have changed behind our back.

use std::io::Read;

use brig_oci::runtime::Resources;

use crate::oci::Fault;
use crate::oci::arguments::CommandLine;
use crate::oci::control::cgroup;
use crate::oci::log;
use crate::oci::record::{Condition, Records};

/// As much as anybody needs for limits.
const LARGEST: u64 = 1 << 20;

/// Changes limits.
pub(crate) fn update(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    let id = line.id()?;
    let _lock = records.lock(id)?;
    let record = records.load(id)?;
    let asked = match line.value("resources") {
        Some(file) => read(file)?,
        None => from_flags(line)?,
    };
    for (flag, feature) in [("l3-cache-schema", "L3 cache"), ("mem-bw-schema", "memory bandwidth")] {
        if line.value(flag).is_some() {
            return Err(Fault::new(format!("--{flag}: Intel RDT: the {feature} schema cannot be changed by update")));
        }
    }
    if records.condition(&record) == Condition::Stopped {
        return Err(Fault::new("container not running"));
    }
    let mut spec = records.spec(id)?;
    let own = spec.linux.get_or_insert_default().resources.get_or_insert_default();
    let mut wanted = merge(own.clone(), asked);
    let devices = std::mem::take(&mut wanted.devices);
    let cgroup = cgroup(&record)?;
    match cgroup.update(&wanted) {
        Ok(warnings) => warnings.iter().for_each(|warning| log::warn(warning)),
        Err(error) => {
            // What came before the one that was refused goes back.
            let before = Resources { devices: Vec::new(), ..own.clone() };
            if let Err(again) = cgroup.update(&before) {
                log::warn(&format!("setting back the limits failed: {again}"));
            }
            return Err(error.into());
        }
    }
    *own = Resources { devices, ..wanted };
    records.save(&record, &spec)?;
    Ok(0)
}

fn read(file: &str) -> Result<Resources, Fault> {
    let failed = |error: std::io::Error| Fault::new(format!("--resources {file}: {error}"));
    let source: Box<dyn Read> = match file {
        "-" => Box::new(std::io::stdin()),
        path => Box::new(std::fs::File::open(path).map_err(failed)?),
    };
    let mut text = Vec::new();
    source.take(LARGEST).read_to_end(&mut text).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|error| Fault::new(format!("--resources {file}: {error}")))
}

fn from_flags(line: &CommandLine) -> Result<Resources, Fault> {
    let invalid = |flag: &str, value: &str| Fault::new(format!("invalid value for {flag}: {value:?}"));
    let unsigned = |flag: &str| -> Result<Option<u64>, Fault> {
        line.value(flag).map(|value| value.parse().map_err(|_| invalid(flag, value))).transpose()
    };
    let signed = |flag: &str| -> Result<Option<i64>, Fault> {
        line.value(flag).map(|value| value.parse().map_err(|_| invalid(flag, value))).transpose()
    };
    let bytes = |flag: &str| -> Result<Option<i64>, Fault> {
        line.value(flag).map(|value| parse_bytes(value).ok_or_else(|| invalid(flag, value))).transpose()
    };
    let mut resources = Resources::default();
    let cpu = resources.cpu.get_or_insert_default();
    cpu.shares = unsigned("cpu-share")?;
    cpu.quota = signed("cpu-quota")?;
    cpu.burst = unsigned("cpu-burst")?;
    cpu.period = unsigned("cpu-period")?;
    cpu.realtime_period = unsigned("cpu-rt-period")?;
    cpu.realtime_runtime = signed("cpu-rt-runtime")?;
    cpu.idle = signed("cpu-idle")?;
    line.value("cpuset-cpus").unwrap_or_default().clone_into(&mut cpu.cpus);
    line.value("cpuset-mems").unwrap_or_default().clone_into(&mut cpu.mems);
    let memory = resources.memory.get_or_insert_default();
    memory.limit = bytes("memory")?;
    memory.swap = bytes("memory-swap")?;
    memory.reservation = bytes("memory-reservation")?;
    let ignored = [bytes("kernel-memory")?, bytes("kernel-memory-tcp")?];
    if ignored.iter().any(Option::is_some) {
        log::warn("Kernel memory settings are ignored and will be removed");
    }
    if let Some(limit) = signed("pids-limit")? {
        resources.pids.get_or_insert_default().limit = limit;
    }
    if let Some(weight) = unsigned("blkio-weight")?.filter(|weight| *weight != 0) {
        let weight = u16::try_from(weight).map_err(|_| invalid("blkio-weight", &weight.to_string()))?;
        resources.block_io.get_or_insert_default().weight = Some(weight);
    }
    Ok(resources)
}

/// Lays `asked` over `own`. Only what is asked for is changed, except where two values only make sense together.
fn merge(own: Resources, asked: Resources) -> Resources {
    let mut merged = own;
    if let Some(asked) = asked.cpu {
        let cpu = merged.cpu.get_or_insert_default();
        cpu.shares = match (asked.shares, asked.idle) {
            // What is idle has the least share; the old one would be refused.
            (None, Some(_)) => Some(0),
            (shares, _) => shares.or(cpu.shares),
        };
        cpu.quota = asked.quota.or(cpu.quota);
        cpu.period = asked.period.or(cpu.period);
        // Nothing but a new value is written: what callers changed on their own stays.
        cpu.burst = asked.burst;
        cpu.idle = asked.idle;
        cpu.cpus = asked.cpus;
        cpu.mems = asked.mems;
        cpu.realtime_period = asked.realtime_period.or(cpu.realtime_period);
        cpu.realtime_runtime = asked.realtime_runtime.or(cpu.realtime_runtime);
    }
    if let Some(asked) = asked.memory {
        let memory = merged.memory.get_or_insert_default();
        memory.swap = match (asked.limit, asked.swap) {
            // Without a limit of memory there can be none for both together.
            (Some(-1), None) => Some(-1),
            (_, swap) => swap.or(memory.swap),
        };
        memory.limit = asked.limit.or(memory.limit);
        memory.reservation = asked.reservation.or(memory.reservation);
        memory.check_before_update = asked.check_before_update;
    }
    if let Some(asked) = asked.pids {
        merged.pids = Some(asked);
    }
    if let Some(asked) = asked.block_io {
        let own = merged.block_io.get_or_insert_default();
        own.weight = asked.weight.or(own.weight);
        own.leaf_weight = asked.leaf_weight.or(own.leaf_weight);
        for device in asked.weight_device {
            own.weight_device.retain(|known| (known.major, known.minor) != (device.major, device.minor));
            own.weight_device.push(device);
        }
        for (own, asked) in [
            (&mut own.throttle_read_bps_device, asked.throttle_read_bps_device),
            (&mut own.throttle_write_bps_device, asked.throttle_write_bps_device),
            (&mut own.throttle_read_iops_device, asked.throttle_read_iops_device),
            (&mut own.throttle_write_iops_device, asked.throttle_write_iops_device),
        ] {
            for device in asked {
                own.retain(|known| (known.major, known.minor) != (device.major, device.minor));
                own.push(device);
            }
        }
    }
    merged.unified = asked.unified;
    merged
}

/// A size as Docker writes it: `-1`, a number, or one with a unit of 1024s (`32M`, `1.5gb`, `2KiB`).
fn parse_bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let digits = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if matches!(unit.as_str(), "" | "b") => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(1 << power);
    }
    let bytes = number.parse::<f64>().ok()? * f64::from(power).exp2();
    (bytes.is_finite() && (0.0..9.0e18).contains(&bytes)).then_some(bytes as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn flags(flags: &str) -> Result<Resources, Fault> {
        let arguments: Vec<std::ffi::OsString> =
            format!("update {flags} c1").split_whitespace().map(Into::into).collect();
        from_flags(&CommandLine::parse(&arguments).map_err(|(_, misuse)| misuse)?)
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("-1", Some(-1)),
            ("0", Some(0)),
            ("33554432", Some(33_554_432)),
            ("32M", Some(33_554_432)),
            ("32mb", Some(33_554_432)),
            ("1.5k", Some(1536)),
            ("2KiB", Some(2048)),
            ("1 g", Some(1 << 30)),
            ("7b", Some(7)),
            ("7ib", None),
            ("", None),
            ("M", None),
            ("1x", None),
            ("-2", None),
            ("1..5k", None),
            ("99999999999p", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text:?}");
        }
    }

    #[test]
    fn every_flag_has_its_field() {
        let resources = flags(
            "--blkio-weight 500 --cpu-period 1000 --cpu-quota 2000 --cpu-burst 3 --cpu-share 100 --cpu-rt-period 4 \
             --cpu-rt-runtime 5 --cpuset-cpus 0-1 --cpuset-mems 0 --memory 64M --memory-swap 96M \
             --memory-reservation 33554432 --pids-limit 20 --cpu-idle 1 --kernel-memory 1M",
        )
        .unwrap();
        assert_eq!(
            serde_json::to_value(&resources).unwrap(),
            json!({
                "blockIO": {"weight": 500},
                "cpu": {"period": 1000, "quota": 2000, "burst": 3, "shares": 100, "realtimePeriod": 4,
                        "realtimeRuntime": 5, "cpus": "0-1", "mems": "0", "idle": 1},
                "memory": {"limit": 67_108_864, "swap": 100_663_296, "reservation": 33_554_432},
                "pids": {"limit": 20},
            })
        );
        assert!(flags("--memory x").unwrap_err().to_string().contains("invalid value for memory"));
        assert!(flags("--cpu-share -1").unwrap_err().to_string().contains("invalid value for cpu-share"));
    }

    fn merged(own: serde_json::Value, flag: &str) -> serde_json::Value {
        let own = serde_json::from_value(own).unwrap();
        serde_json::to_value(merge(own, flags(flag).unwrap())).unwrap()
    }

    #[test]
    fn what_is_not_asked_for_stays() {
        let own = json!({"cpu": {"quota": 1, "period": 2, "shares": 3}, "memory": {"limit": 4, "swap": 5}, "pids": {"limit": 6}});
        let after = merged(own.clone(), "--cpu-period 7");
        assert_eq!(after["cpu"], json!({"quota": 1, "period": 7, "shares": 3}));
        assert_eq!((&after["memory"], &after["pids"]), (&own["memory"], &own["pids"]));
        assert_eq!(merged(own.clone(), "--memory -1")["memory"], json!({"limit": -1, "swap": -1}));
        assert_eq!(merged(own.clone(), "--memory 9")["memory"], json!({"limit": 9, "swap": 5}));
        assert_eq!(merged(own.clone(), "--cpu-idle 1")["cpu"]["shares"], 0);
        assert_eq!(merged(own, "--pids-limit 8")["pids"], json!({"limit": 8}));
    }

    #[test]
    fn devices_are_found_again_by_number() {
        let own = json!({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}, {"major": 9, "minor": 0, "rate": 2}]}});
        let asked = json!({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 3}]}});
        let merged = merge(serde_json::from_value(own).unwrap(), serde_json::from_value(asked).unwrap());
        let rates: Vec<u64> =
            merged.block_io.unwrap().throttle_read_bps_device.iter().map(|device| device.rate).collect();
        assert_eq!(rates, [2, 3]);
    }
}
