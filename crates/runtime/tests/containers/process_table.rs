//! The process of a specification, contradictory or hostile (rows O03, O12 to O15 and O18 of the security plan): each refused
//! in words that name the field, for the first process and, where it can be asked for there, for an exec; nothing is left.

use brig_oci::runtime::{
    Capabilities, CpuAffinity, IoPriority, MemoryPolicy, NetDevice, Personality, Process, Rlimit, Scheduler, Seccomp,
    SeccompArg, SeccompRule, Spec,
};

use crate::harness::*;

pub const TESTS: &[(&str, fn())] = &[
    ("processes_are_refused_by_field", processes_are_refused_by_field),
    ("filters_are_refused_by_field", filters_are_refused_by_field),
    ("what_is_odd_but_right_runs", what_is_odd_but_right_runs),
];

/// A row, a word of the refusal, and the change.
type OfProcess = (&'static str, &'static str, fn(&mut Process));

fn sets(process: &mut Process) -> &mut Capabilities {
    process.capabilities.as_mut().unwrap()
}

fn limit(process: &mut Process, limits: &[(&str, u64, u64)]) {
    let limit = |(type_, soft, hard): &(&str, u64, u64)| Rlimit { type_: (*type_).into(), soft: *soft, hard: *hard };
    process.rlimits = limits.iter().map(limit).collect();
}

fn scheduler(process: &mut Process, change: impl FnOnce(&mut Scheduler)) {
    change(process.scheduler.insert(Scheduler { policy: "SCHED_OTHER".into(), ..Scheduler::default() }));
}

fn affinity(process: &mut Process, initial: &str, last: &str) {
    process.exec_cpu_affinity = Some(CpuAffinity { initial: Some(initial.into()), final_: Some(last.into()) });
}

const PROCESSES: &[OfProcess] = &[
    ("O03 no arguments", "process.args", |p| p.args.clear()),
    ("O03 empty program", "process.args", |p| p.args = vec![String::new()]),
    ("O03 NUL in an argument", "process.args", |p| p.args.push("a\0b".into())),
    ("O03 NUL in a variable", "process.env", |p| p.env.push("A=\0".into())),
    ("O03 relative cwd", "process.cwd", |p| p.cwd = "tmp".into()),
    ("O03 empty cwd", "process.cwd", |p| p.cwd = String::new()),
    ("O03 a file as cwd", "process.cwd", |p| p.cwd = "/etc/passwd".into()),
    ("O03 a descriptor as cwd", "process.cwd", |p| p.cwd = "/proc/self/fd/7".into()),
    ("O12 unknown capability", "process.capabilities.bounding", |p| sets(p).bounding.push("CAP_NO_SUCH".into())),
    ("O12 lower case", "process.capabilities.effective", |p| sets(p).effective.push("cap_kill".into())),
    ("O12 without its prefix", "process.capabilities.ambient", |p| sets(p).ambient.push("KILL".into())),
    ("O12 effective beyond permitted", "process.capabilities: effective", |p| {
        sets(p).permitted.retain(|name| name != "CAP_KILL")
    }),
    ("O12 permitted beyond bounding", "process.capabilities: permitted", |p| {
        sets(p).bounding.retain(|name| name != "CAP_KILL")
    }),
    ("O12 inheritable beyond bounding", "process.capabilities: inheritable", |p| {
        sets(p).inheritable.push("CAP_SYS_ADMIN".into())
    }),
    ("O12 ambient beyond inheritable", "process.capabilities: ambient", |p| sets(p).ambient.push("CAP_KILL".into())),
    ("O13 twice", "process.rlimits: RLIMIT_CORE is listed twice", |p| {
        limit(p, &[("RLIMIT_CORE", 0, 0), ("RLIMIT_CORE", 1, 1)])
    }),
    ("O13 soft above hard", "process.rlimits", |p| limit(p, &[("RLIMIT_CORE", 2, 1)])),
    ("O13 unlimited above hard", "process.rlimits", |p| limit(p, &[("RLIMIT_CORE", u64::MAX, 1)])),
    ("O13 unknown", "process.rlimits", |p| limit(p, &[("RLIMIT_NOPE", 1, 1)])),
    ("O13 lower case", "process.rlimits", |p| limit(p, &[("rlimit_core", 1, 1)])),
    ("O15 line break in a profile", "process.apparmorProfile", |p| p.apparmor_profile = "x\nfoo".into()),
    ("O15 absent profile", "process.apparmorProfile", |p| p.apparmor_profile = "no-such-profile".into()),
    ("O15 line break in a label", "process.selinuxLabel", |p| p.selinux_label = "x\nfoo".into()),
    ("O15 label without a module", "process.selinuxLabel", |p| p.selinux_label = "u:r:t:s0".into()),
    ("O18 OOM score", "process.oomScoreAdj", |p| p.oom_score_adj = Some(5000)),
    ("O18 OOM score below", "process.oomScoreAdj", |p| p.oom_score_adj = Some(-1001)),
    ("O18 policy", "process.scheduler.policy", |p| scheduler(p, |s| s.policy = "SCHED_NOPE".into())),
    ("O18 no policy", "process.scheduler.policy", |p| scheduler(p, |s| s.policy.clear())),
    ("O18 priority of the wrong policy", "process.scheduler.priority", |p| scheduler(p, |s| s.priority = 1)),
    ("O18 deadline of the wrong policy", "process.scheduler", |p| scheduler(p, |s| s.deadline = 1)),
    ("O18 scheduling flag", "process.scheduler.flags", |p| scheduler(p, |s| s.flags = vec!["X".into()])),
    ("O18 nice value", "process.scheduler.nice", |p| scheduler(p, |s| s.nice = 20)),
    ("O18 deadline that cannot be", "process.scheduler", |p| {
        scheduler(p, |s| (s.policy, s.runtime, s.deadline, s.period) = ("SCHED_DEADLINE".into(), 5, 2, 1))
    }),
    ("O18 I/O class", "process.ioPriority.class", |p| {
        p.io_priority = Some(IoPriority { class: "IOPRIO_CLASS_NONE".into(), priority: 0 })
    }),
    ("O18 I/O priority", "process.ioPriority.priority", |p| {
        p.io_priority = Some(IoPriority { class: "IOPRIO_CLASS_BE".into(), priority: 8 })
    }),
    ("O18 first CPUs", "process.execCPUAffinity.initial", |p| affinity(p, "0-", "")),
    ("O18 CPUs", "process.execCPUAffinity.final", |p| affinity(p, "0", "99999")),
    ("O18 umask", "process.user.umask", |p| p.user.umask = Some(0o7777)),
    ("O18 groups", "process.user.additionalGids", |p| p.user.additional_gids = (0..100_000).collect()),
    ("O18 no user", "process.user", |p| p.user.uid = u32::MAX),
    ("O18 no group", "process.user", |p| p.user.additional_gids = vec![u32::MAX]),
    ("O18 user outside of the map", "process.user", |p| p.user.uid = 65536),
    ("O18 group outside of the map", "process.user", |p| p.user.additional_gids = vec![70_000]),
    ("O18 user by name", "process.user.username", |p| p.user.username = "root".into()),
];

/// Children and descriptors of this process: what a refused process would leave.
fn held() -> (String, usize) {
    let children = std::fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id())).unwrap();
    (children, names("/proc/self/fd".as_ref()).len())
}

fn processes_are_refused_by_field() {
    let place = Place::new("ptable");
    let running = Place::new("ptablex");
    let plain = spec(&["sleep", "1000"]);
    let container = sleeper(&running, &plain);
    let before = held();
    let mut failed = Vec::new();
    for (name, field, change) in PROCESSES {
        let mut spec = spec(&["true"]);
        change(process(&mut spec));
        let asked = exec(&container, &plain, |process| {
            process.args = vec!["true".into()];
            change(process);
        });
        let refusals = [run(&place, &spec), asked];
        for (verb, refusal) in ["create", "exec"].iter().zip(refusals) {
            match refusal {
                Err(error) if error.message.starts_with(field) => {}
                other => failed.push(format!("{verb}, {name}: wanted {field:?}, got {other:?}")),
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(held(), before);
    assert_eq!(container.cgroup().processes().unwrap().len(), 1);
    container.delete().unwrap();
}

fn filters_are_refused_by_field() {
    type OfFilter = (&'static str, &'static str, fn(&mut Spec));
    fn filter(spec: &mut Spec, change: impl FnOnce(&mut Seccomp)) {
        let arg = SeccompArg { index: 0, value: 1, value_two: 0, op: "SCMP_CMP_EQ".into() };
        let rule = SeccompRule {
            names: vec!["mkdir".into()],
            action: "SCMP_ACT_ERRNO".into(),
            errno_ret: None,
            args: vec![arg],
        };
        change(linux(spec).seccomp.insert(Seccomp {
            default_action: "SCMP_ACT_ALLOW".into(),
            syscalls: vec![rule],
            ..Seccomp::default()
        }));
    }
    fn policy(spec: &mut Spec, mode: &str, nodes: &str) {
        linux(spec).memory_policy = Some(MemoryPolicy { mode: mode.into(), nodes: nodes.into(), flags: vec![] });
    }
    let rows: &[OfFilter] = &[
        ("O14 no default", "unknown defaultAction", |s| filter(s, |f| f.default_action.clear())),
        ("O14 action", "rule 0 (mkdir): unknown action", |s| filter(s, |f| f.syscalls[0].action = "ERRNO".into())),
        ("O14 operator", "unknown operator", |s| filter(s, |f| f.syscalls[0].args[0].op = "==".into())),
        ("O14 argument", "index 6 is out of range", |s| filter(s, |f| f.syscalls[0].args[0].index = 6)),
        ("O14 no names", "names is empty", |s| filter(s, |f| f.syscalls[0].names.clear())),
        ("O14 architecture", "unknown architecture", |s| filter(s, |f| f.architectures.push("SCMP_ARCH_VAX".into()))),
        ("O14 flag", "unknown flag", |s| filter(s, |f| f.flags = Some(vec!["SECCOMP_FILTER_FLAG_X".into()]))),
        ("O14 errno", "errnoRet 5000", |s| filter(s, |f| f.syscalls[0].errno_ret = Some(5000))),
        ("O14 too much", "4096", |s| {
            filter(s, |f| {
                f.syscalls = (0..3000)
                    .map(|value| {
                        let mut rule = f.syscalls[0].clone();
                        rule.args[0].value = value;
                        rule
                    })
                    .collect();
            })
        }),
        ("O14 asking by default", "cannot be used as default action", |s| {
            filter(s, |f| f.default_action = "SCMP_ACT_NOTIFY".into())
        }),
        ("O14 asking about write", "cannot be used for the write syscall", |s| {
            filter(s, |f| (f.syscalls[0].action, f.syscalls[0].names[0]) = ("SCMP_ACT_NOTIFY".into(), "write".into()))
        }),
        ("O14 nobody to ask", "listenerPath", |s| filter(s, |f| f.syscalls[0].action = "SCMP_ACT_NOTIFY".into())),
        ("O14 absent agent", "failed to connect with seccomp agent", |s| {
            filter(s, |f| {
                f.syscalls[0].action = "SCMP_ACT_NOTIFY".into();
                f.listener_path = Some("/absent.sock".into());
            })
        }),
        ("O18 domain", "linux.personality.domain", |s| {
            linux(s).personality = Some(Personality { domain: "BSD".into(), ..Personality::default() })
        }),
        ("O18 domain's flags", "linux.personality.flags", |s| {
            linux(s).personality = Some(Personality { domain: "LINUX".into(), flags: vec!["X".into()] })
        }),
        ("O18 memory mode", "linux.memoryPolicy.mode", |s| policy(s, "MPOL_NOPE", "")),
        ("O18 memory nodes", "linux.memoryPolicy.nodes", |s| policy(s, "MPOL_BIND", "0--1")),
        ("O18 no memory nodes", "linux.memoryPolicy.nodes", |s| policy(s, "MPOL_INTERLEAVE", "")),
        ("O18 device's name", "linux.netDevices", |s| {
            linux(s).net_devices = [("a/b".to_owned(), NetDevice::default())].into()
        }),
        ("O18 absent device", "linux.netDevices", |s| {
            linux(s).net_devices = [("no-such-dev0".to_owned(), NetDevice::default())].into()
        }),
    ];
    let place = Place::new("ftable");
    let before = held();
    for (name, text, change) in rows {
        let mut spec = spec(&["true"]);
        change(&mut spec);
        let error = run(&place, &spec).map(|ran| panic!("{name}: {ran:?}")).unwrap_err();
        assert!(error.message.starts_with("linux.") && error.message.contains(text), "{name}: {error}");
    }
    assert_eq!(held(), before);
}

fn what_is_odd_but_right_runs() {
    let place = Place::new("odd");
    let rows: &[OfProcess] = &[
        ("a new directory", "/new/deep", |p| (p.cwd, p.args) = ("/new/deep".into(), vec!["pwd".into()])),
        ("no capability at all", "0000000000000000", |p| {
            p.capabilities = None;
            p.args = ["sh", "-c", "grep CapBnd /proc/self/status | while read a b; do echo $b; done"]
                .map(str::to_owned)
                .to_vec();
        }),
        ("inheritable ones are empty", "0000000000000000", |p| {
            p.args = ["sh", "-c", "grep CapInh /proc/self/status | while read a b; do echo $b; done"]
                .map(str::to_owned)
                .to_vec();
        }),
        ("ambient ones reach a user", "0000000000000020", |p| {
            sets(p).inheritable.push("CAP_KILL".into());
            sets(p).ambient.push("CAP_KILL".into());
            p.user.uid = 1000;
            p.args = ["sh", "-c", "grep CapEff /proc/self/status | while read a b; do echo $b; done"]
                .map(str::to_owned)
                .to_vec();
        }),
        ("the largest umask", "0777", |p| {
            p.user.umask = Some(0o777);
            p.args = ["sh", "-c", "umask"].map(str::to_owned).to_vec();
        }),
    ];
    for (name, seen, change) in rows {
        let mut spec = spec(&["true"]);
        change(process(&mut spec));
        let ran = run(&place, &spec).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(ran.stdout.trim(), *seen, "{name}: {ran:?}");
    }
}
