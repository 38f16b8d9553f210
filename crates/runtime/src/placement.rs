//! Which CPUs a process runs on and when, and where its memory comes from: `process.execCPUAffinity`, `process.scheduler`,
//! `process.ioPriority` and `linux.memoryPolicy`, checked and as the kernel takes them.
//! Owns the meaning of those. Must not apply them to any process but the calling one.

use brig_oci::runtime::{CpuAffinity, IoPriority, MemoryPolicy, Scheduler};
use brig_sys::process::{self, CpuSet, Scheduling};

use crate::error::{Error, Result, Step};

/// CPUs of an exec: of the runtime's own process that starts it, and of the program.
#[derive(Debug, Default)]
pub(crate) struct Affinity {
    pub initial: Option<CpuSet>,
    pub last: Option<CpuSet>,
}

/// A memory policy as `set_mempolicy(2)` takes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    mode: i32,
    nodes: Vec<u64>,
}

impl Affinity {
    pub fn compile(affinity: &CpuAffinity) -> Result<Affinity> {
        let set = |field: &str, list: &Option<String>| match list.as_deref().unwrap_or_default() {
            "" => Ok(None),
            text => cpus(&format!("process.execCPUAffinity.{field}"), text).map(Some),
        };
        Ok(Affinity { initial: set("initial", &affinity.initial)?, last: set("final", &affinity.final_)? })
    }

    /// Runs `start` on the first CPUs; what it makes inherits them.
    pub fn starting<T>(&self, start: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(initial) = &self.initial else { return start() };
        let step = || "process.execCPUAffinity.initial".to_owned();
        let before = process::affinity()?;
        process::set_affinity(initial).step(step)?;
        let started = start();
        process::set_affinity(&before).step(step)?;
        started
    }

    /// In the started process, once it is in its cgroup.
    pub fn settle(&self) -> Result<()> {
        match (&self.initial, &self.last) {
            (_, Some(last)) => process::set_affinity(last).step(|| "process.execCPUAffinity.final".to_owned()),
            (Some(_), None) => Ok(()),
            (None, None) => {
                on_every_cpu();
                Ok(())
            }
        }
    }
}

/// The CPUs that a caller was confined to are not the container's business: its cgroup says which it has. Since Linux 6.2 that
/// alone no longer widens what a process inherited. Best effort, as some filters around runtimes forbid the call.
pub(crate) fn on_every_cpu() {
    process::set_affinity(&process::every_cpu()).unwrap_or_default();
}

/// `0-3,7` as numbers below `limit`. Spaces and empty parts are nothing, as in the kernel's own lists.
fn list(field: &str, text: &str, limit: usize) -> Result<Vec<usize>> {
    let bad = |why: &str| Error::invalid(format!("{field}: {text:?}: {why}"));
    let mut numbers = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number: Option<usize> = text.parse().ok().filter(|_| digits);
            number.ok_or_else(|| bad(&format!("{part:?} is neither a number nor a range")))
        };
        let (first, last) = (number(first.trim())?, number(last.trim())?);
        if first > last {
            return Err(bad(&format!("{part:?} ends before it begins")));
        }
        if last >= limit {
            return Err(bad(&format!("{last} is above {}", limit - 1)));
        }
        numbers.extend(first..=last);
    }
    if numbers.is_empty() {
        return Err(bad("names none"));
    }
    Ok(numbers)
}

fn cpus(field: &str, text: &str) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    list(field, text, CpuSet::MAX_CPU)?.into_iter().for_each(|cpu| set.set(cpu));
    Ok(set)
}

/// `linux.memoryPolicy.mode`, in the order of the kernel's numbers (linux/mempolicy.h).
pub const MEMORY_MODES: [&str; 7] = [
    "MPOL_DEFAULT",
    "MPOL_PREFERRED",
    "MPOL_BIND",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];
/// `linux.memoryPolicy.flags`, in the order of the kernel's bits, the first of which is 13.
pub const MEMORY_FLAGS: [&str; 3] = ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"];

/// The kernel's largest `MAX_NUMNODES`.
const MAX_NODES: usize = 1024;

impl Memory {
    pub fn compile(policy: &MemoryPolicy) -> Result<Memory> {
        let mode = (0..).zip(MEMORY_MODES).find(|(_, known)| *known == policy.mode).map(|(mode, _)| mode);
        let mut mode: i32 =
            mode.ok_or_else(|| Error::invalid(format!("linux.memoryPolicy.mode: unknown mode {:?}", policy.mode)))?;
        let nodes = match policy.nodes.trim() {
            "" => Vec::new(),
            text => list("linux.memoryPolicy.nodes", text, MAX_NODES)?,
        };
        let plain = matches!(mode, 0 | 4);
        if plain && (!nodes.is_empty() || !policy.flags.is_empty()) {
            return Err(Error::invalid(format!("linux.memoryPolicy: {} has neither nodes nor flags", policy.mode)));
        }
        // Without nodes MPOL_PREFERRED means the local one.
        if nodes.is_empty() && !plain && mode != 1 {
            return Err(Error::invalid(format!("linux.memoryPolicy.nodes: {} needs some", policy.mode)));
        }
        for flag in &policy.flags {
            let bit = (13..).zip(MEMORY_FLAGS).find(|(_, known)| known == flag).map(|(bit, _)| bit);
            mode |=
                1 << bit.ok_or_else(|| Error::invalid(format!("linux.memoryPolicy.flags: unknown flag {flag:?}")))?;
        }
        let mut mask = vec![0u64; nodes.iter().max().map_or(0, |last| last / 64 + 1)];
        nodes.into_iter().for_each(|node| mask[node / 64] |= 1 << (node % 64));
        Ok(Memory { mode, nodes: mask })
    }

    /// Applies to this process and what comes of it.
    pub fn apply(&self) -> Result<()> {
        process::set_memory_policy(self.mode, &self.nodes).step(|| "linux.memoryPolicy".to_owned())
    }
}

/// `process.scheduler`.
pub(crate) fn scheduling(scheduler: &Scheduler) -> Result<Scheduling> {
    const DEADLINE: u32 = 6;
    let policy = match scheduler.policy.as_str() {
        "SCHED_OTHER" => 0,
        "SCHED_FIFO" => 1,
        "SCHED_RR" => 2,
        "SCHED_BATCH" => 3,
        "SCHED_IDLE" => 5,
        "SCHED_DEADLINE" => DEADLINE,
        "SCHED_ISO" => {
            return Err(Error::unsupported(
                "process.scheduler.policy: SCHED_ISO is in the specification, but in no Linux",
            ));
        }
        "" => return Err(Error::invalid("process.scheduler.policy: is missing")),
        other => return Err(Error::invalid(format!("process.scheduler.policy: {other:?} is not one that Linux has"))),
    };
    let mut flags = 0;
    for flag in &scheduler.flags {
        flags |= match flag.as_str() {
            "SCHED_FLAG_RESET_ON_FORK" => 1,
            "SCHED_FLAG_RECLAIM" => 2,
            "SCHED_FLAG_DL_OVERRUN" => 4,
            "SCHED_FLAG_KEEP_POLICY" => 8,
            "SCHED_FLAG_KEEP_PARAMS" => 16,
            "SCHED_FLAG_UTIL_CLAMP_MIN" => 32,
            "SCHED_FLAG_UTIL_CLAMP_MAX" => 64,
            other => return Err(Error::invalid(format!("process.scheduler.flags: unknown flag {other:?}"))),
        };
    }
    let priority =
        u32::try_from(scheduler.priority).map_err(|_| Error::invalid("process.scheduler.priority: is negative"))?;
    if priority != 0 && !matches!(policy, 1 | 2) {
        return Err(Error::invalid("process.scheduler.priority: is for SCHED_FIFO and SCHED_RR"));
    }
    let deadline = scheduler.runtime != 0 || scheduler.deadline != 0 || scheduler.period != 0;
    if deadline && policy != DEADLINE {
        return Err(Error::invalid("process.scheduler: runtime, deadline and period are for SCHED_DEADLINE"));
    }
    if !(-20..=19).contains(&scheduler.nice) {
        return Err(Error::invalid("process.scheduler.nice: not between -20 and 19"));
    }
    Ok(Scheduling {
        policy,
        flags,
        nice: scheduler.nice,
        priority,
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
        most: 1024,
        ..Scheduling::default()
    })
}

/// `process.ioPriority`: class and level.
pub(crate) fn io_priority(priority: &IoPriority) -> Result<(u8, u8)> {
    let class = match priority.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => return Err(Error::invalid(format!("process.ioPriority.class: unknown class {other:?}"))),
    };
    match u8::try_from(priority.priority) {
        Ok(level @ 0..=7) => Ok((class, level)),
        _ => Err(Error::invalid("process.ioPriority.priority: not between 0 and 7")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let read = |text: &str| list("x", text, 1024);
        assert_eq!(read("0-2,5").unwrap(), [0, 1, 2, 5]);
        assert_eq!(read(" 1 , ,3-3,").unwrap(), [1, 3]);
        for bad in ["3-1", "", ",", "0-", "-1", "0-99999", "+1", "1-2-3", "0x1", "١"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        let compiled =
            Affinity::compile(&CpuAffinity { initial: Some("0".into()), final_: Some(String::new()) }).unwrap();
        assert!(compiled.initial.unwrap().is_set(0) && compiled.last.is_none());
    }

    #[test]
    fn memory_policies() {
        let compile = |mode: &str, nodes: &str, flags: &[&str]| {
            let flags = flags.iter().map(|flag| format!("MPOL_F_{flag}")).collect();
            Memory::compile(&MemoryPolicy { mode: format!("MPOL_{mode}"), nodes: nodes.into(), flags })
        };
        let memory = |mode, nodes: &[u64]| Memory { mode, nodes: nodes.to_vec() };
        assert_eq!(compile("DEFAULT", "", &[]).unwrap(), memory(0, &[]));
        assert_eq!(compile("PREFERRED", "", &[]).unwrap(), memory(1, &[]));
        assert_eq!(compile("BIND", "0-1,64", &["STATIC_NODES"]).unwrap(), memory(2 | 1 << 15, &[3, 1]));
        assert_eq!(compile("INTERLEAVE", "0", &["RELATIVE_NODES"]).unwrap(), memory(3 | 1 << 14, &[1]));
        assert_eq!(compile("LOCAL", "", &[]).unwrap(), memory(4, &[]));
        assert_eq!(compile("PREFERRED_MANY", "1", &["NUMA_BALANCING"]).unwrap(), memory(5 | 1 << 13, &[2]));
        assert_eq!(compile("WEIGHTED_INTERLEAVE", "0", &[]).unwrap(), memory(6, &[1]));
        for (mode, nodes, flags, field) in [
            ("NONE", "0", &[][..], "mode"),
            ("BIND", "", &[], "nodes"),
            ("BIND", "x", &[], "nodes"),
            ("BIND", "4096", &[], "nodes"),
            ("BIND", "0", &["X"], "flags"),
            ("DEFAULT", "0", &[], "neither"),
            ("LOCAL", "", &["STATIC_NODES"], "neither"),
        ] {
            let error = compile(mode, nodes, flags).unwrap_err();
            assert!(error.message.starts_with("linux.memoryPolicy") && error.message.contains(field), "{error}");
        }
    }

    #[test]
    fn schedulers() {
        let compile = |change: fn(&mut Scheduler)| {
            let mut scheduler = Scheduler { policy: "SCHED_FIFO".into(), priority: 3, ..Scheduler::default() };
            change(&mut scheduler);
            scheduling(&scheduler)
        };
        let plain = compile(|s| s.flags = vec!["SCHED_FLAG_RESET_ON_FORK".into(), "SCHED_FLAG_KEEP_PARAMS".into()]);
        let plain = plain.unwrap();
        assert_eq!((plain.policy, plain.priority, plain.flags), (1, 3, 17));
        type Change = fn(&mut Scheduler);
        let refused: [(&str, Change); 9] = [
            ("policy: is missing", |s| s.policy.clear()),
            ("SCHED_ISO", |s| s.policy = "SCHED_ISO".into()),
            ("\"SCHED_EXT\"", |s| s.policy = "SCHED_EXT".into()),
            ("priority: is negative", |s| s.priority = -1),
            ("priority: is for", |s| s.policy = "SCHED_BATCH".into()),
            ("nice", |s| s.nice = 20),
            ("nice", |s| s.nice = -21),
            ("flags", |s| s.flags = vec!["SCHED_RESET".into()]),
            ("deadline", |s| s.period = 1),
        ];
        for (text, change) in refused {
            let error = compile(change).unwrap_err();
            assert!(error.message.starts_with("process.scheduler") && error.message.contains(text), "{error}");
        }
    }
}
