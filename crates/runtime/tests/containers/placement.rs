//! What a process runs on and how: CPUs, scheduling, I/O priority, execution domain, memory policy, OOM score, umask, limits;
//! for the first process and for execs.

use brig_oci::runtime::{
    CpuAffinity, IoPriority, MemoryPolicy, Personality, Process, Resources, Rlimit, Scheduler, Spec,
};
use brig_runtime::ErrorKind;

use crate::harness::*;

pub const TESTS: &[(&str, fn())] = &[
    ("exec_affinity", exec_affinity),
    ("affinity_of_the_caller_is_not_inherited", affinity_of_the_caller_is_not_inherited),
    ("schedulers", schedulers),
    ("deadline_needs_all_cpus", deadline_needs_all_cpus),
    ("io_priorities_and_domain", io_priorities_and_domain),
    ("memory_policy", memory_policy),
    ("score_umask_and_limits", score_umask_and_limits),
];

fn sh(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

/// A specification without a user namespace: most of these need rights over the machine's CPUs.
fn of_host_users(args: &[&str]) -> Spec {
    let mut spec = spec(args);
    linux(&mut spec).namespaces.retain(|namespace| namespace.type_ != "user");
    linux(&mut spec).uid_mappings.clear();
    linux(&mut spec).gid_mappings.clear();
    spec
}

const CPUS: &str = "grep Cpus_allowed_list: /proc/self/status";

fn cpus(text: &str) -> String {
    text.trim().strip_prefix("Cpus_allowed_list:\t").unwrap_or_else(|| panic!("{text:?}")).to_owned()
}

fn own_cpus() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    cpus(status.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap())
}

fn exec_affinity() {
    let all = own_cpus();
    if !all.contains(['-', ',']) {
        return skip("exec_affinity", "this machine has one CPU");
    }
    let place = Place::new("affinity");
    let mut spec = spec(&["sh", "-c", &format!("{CPUS}; exec sleep 1000")]);
    let affinity = |initial: Option<&str>, last: Option<&str>| CpuAffinity {
        initial: initial.map(Into::into),
        final_: last.map(Into::into),
    };
    process(&mut spec).exec_cpu_affinity = Some(affinity(Some("0"), Some("0")));
    let (stdio, output) = pipes();
    let mut container = brig_runtime::create(request(&place, &spec, place.overlay(), stdio)).unwrap();
    container.start().unwrap();
    assert_eq!(cpus(&output.line()), all, "the first process is none of an exec's business");
    let run = |affinity: CpuAffinity| {
        exec(&container, &spec, |process| {
            process.args = sh(CPUS);
            process.exec_cpu_affinity = Some(affinity);
        })
    };
    for (initial, last, seen) in [
        (Some("0"), Some("1"), "1"),
        (Some("1"), Some("0-1"), "0-1"),
        (Some("1"), None, "1"),
        (None, Some(" 1, "), "1"),
        (None, None, all.as_str()),
        (Some(""), Some(""), all.as_str()),
    ] {
        let found = cpus(&run(affinity(initial, last)).unwrap().stdout);
        // Before Linux 6.2 the move into the cgroup gives a process all CPUs that the cgroup has.
        let widened = last.is_none() && found == all;
        assert!(found == seen || widened, "{initial:?} {last:?}: {found}");
        assert_eq!(own_cpus(), all, "the caller is where it was");
    }
    for (initial, last, field) in [
        (Some("x"), None, "initial"),
        (Some("900"), None, "initial"),
        (None, Some("1-"), "final"),
        (None, Some("1000"), "final"),
    ] {
        let error = run(affinity(initial, last)).unwrap_err();
        assert!(error.message.starts_with(&format!("process.execCPUAffinity.{field}")), "{error}");
        assert_eq!(own_cpus(), all);
    }
    container.delete().unwrap();
}

fn affinity_of_the_caller_is_not_inherited() {
    let all = own_cpus();
    let place = Place::new("reset");
    let before = brig_sys::process::affinity().unwrap();
    let mut one = brig_sys::process::CpuSet::new();
    one.set(0);
    brig_sys::process::set_affinity(&one).unwrap();
    let mut spec = spec(&["sh", "-c", &format!("{CPUS}; exec sleep 1000")]);
    let (stdio, output) = pipes();
    let mut container = brig_runtime::create(request(&place, &spec, place.overlay(), stdio)).unwrap();
    container.start().unwrap();
    let first = output.line();
    let ran = exec(&container, &spec, |process| process.args = sh(CPUS)).unwrap();
    container.delete().unwrap();
    // What the cgroup says counts.
    linux(&mut spec).resources = Some(Resources {
        cpu: Some(brig_oci::runtime::Cpu { cpus: "0".into(), mems: "0".into(), ..Default::default() }),
        ..Resources::default()
    });
    let confined = shell(&place, &mut spec, CPUS);
    brig_sys::process::set_affinity(&before).unwrap();
    assert_eq!([cpus(&first), cpus(&ran.stdout)], [all.clone(), all]);
    assert_eq!(cpus(&confined), "0");
}

/// Nice value, real-time priority and policy from `/proc/PID/stat`.
fn scheduled(text: &str) -> [i64; 3] {
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split_whitespace().collect();
    // Field 3 of proc_pid_stat(5) is the first after the name.
    [19, 40, 41].map(|field| fields[field - 3].parse().unwrap())
}

fn schedulers() {
    let place = Place::new("sched");
    let scheduler =
        |policy: &str, nice, priority| Scheduler { policy: policy.into(), nice, priority, ..Scheduler::default() };
    let mut spec = of_host_users(&["sleep", "1000"]);
    process(&mut spec).scheduler = Some(scheduler("SCHED_BATCH", 19, 0));
    let container = sleeper(&place, &spec);
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", container.pid())).unwrap();
    assert_eq!(scheduled(&stat), [19, 0, 3]);
    let deadline = Scheduler {
        flags: vec!["SCHED_FLAG_RESET_ON_FORK".into()],
        runtime: 42_000,
        deadline: 100_000,
        period: 1_000_000,
        ..scheduler("SCHED_DEADLINE", 0, 0)
    };
    // Only the first two policies have a nice value; with the others it stays the caller's.
    let [own, ..] = scheduled(&std::fs::read_to_string("/proc/self/stat").unwrap());
    for (wanted, seen) in [
        (scheduler("SCHED_OTHER", -5, 0), [-5, 0, 0]),
        (scheduler("SCHED_BATCH", 7, 0), [7, 0, 3]),
        (scheduler("SCHED_IDLE", 0, 0), [own, 0, 5]),
        (scheduler("SCHED_FIFO", 0, 1), [own, 1, 1]),
        (scheduler("SCHED_RR", 0, 2), [own, 2, 2]),
        (deadline, [own, 0, 6]),
    ] {
        let set = |process: &mut Process| {
            process.args = ["cat", "/proc/self/stat"].map(str::to_owned).to_vec();
            process.scheduler = Some(wanted.clone());
        };
        match exec(&container, &spec, set) {
            Ok(ran) => assert_eq!(scheduled(&ran.stdout), seen, "{wanted:?}"),
            // A kernel with real-time group scheduling gives a new group no time at all.
            Err(error) if wanted.policy != "SCHED_OTHER" && error.message.contains("EPERM") => {
                skip("schedulers", &format!("{}: {error}", wanted.policy));
            }
            Err(error) => panic!("{error}"),
        }
    }
    container.delete().unwrap();
}

fn deadline_needs_all_cpus() {
    let place = Place::new("deadline");
    let mut spec = of_host_users(&["true"]);
    process(&mut spec).scheduler = Some(Scheduler {
        policy: "SCHED_DEADLINE".into(),
        runtime: 42_000,
        deadline: 1_000_000,
        period: 1_000_000,
        ..Scheduler::default()
    });
    linux(&mut spec).resources = Some(Resources {
        cpu: Some(brig_oci::runtime::Cpu { cpus: "0".into(), mems: "0".into(), ..Default::default() }),
        ..Resources::default()
    });
    if !own_cpus().contains(['-', ',']) {
        return skip("deadline_needs_all_cpus", "this machine has one CPU");
    }
    let error = run(&place, &spec).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.message.contains("process scheduler can't be used together with AllowedCPUs"), "{error}");
}

fn io_priorities_and_domain() {
    let place = Place::new("ioprio");
    let mut spec = spec(&["sleep", "1000"]);
    process(&mut spec).io_priority = Some(IoPriority { class: "IOPRIO_CLASS_BE".into(), priority: 4 });
    linux(&mut spec).personality = Some(Personality { domain: "LINUX32".into(), ..Personality::default() });
    let container = sleeper(&place, &spec);
    let script = "busybox ionice; busybox ionice -p 1; busybox uname -m";
    let ran = exec(&container, &spec, |process| process.args = sh(script)).unwrap();
    let machine = if cfg!(target_arch = "x86_64") { "i686" } else { "armv8l" };
    assert_eq!(ran.stdout, format!("best-effort: prio 4\nbest-effort: prio 4\n{machine}\n"), "{ran:?}");
    let ran = exec(&container, &spec, |process| {
        process.args = sh("busybox ionice");
        process.io_priority = Some(IoPriority { class: "IOPRIO_CLASS_IDLE".into(), priority: 0 });
    });
    assert!(ran.unwrap().stdout.starts_with("idle"));
    container.delete().unwrap();
    let mut spec = spec_with_domain("LINUX");
    assert_ne!(shell(&place, &mut spec, "busybox uname -m").trim(), machine);
}

fn spec_with_domain(domain: &str) -> Spec {
    let mut spec = spec(&[]);
    linux(&mut spec).personality = Some(Personality { domain: domain.into(), ..Personality::default() });
    spec
}

fn memory_policy() {
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        return skip("memory_policy", "this kernel has no NUMA");
    }
    let place = Place::new("numa");
    let policy = |mode: &str, nodes: &str, flags: &[&str]| MemoryPolicy {
        mode: mode.into(),
        nodes: nodes.into(),
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
    };
    for (policy, seen) in [
        (policy("MPOL_DEFAULT", "", &[]), "default"),
        (policy("MPOL_BIND", "0", &[]), "bind:0"),
        (policy("MPOL_BIND", "0", &["MPOL_F_STATIC_NODES"]), "bind=static:0"),
        (policy("MPOL_PREFERRED", "0", &[]), "prefer:0"),
        (policy("MPOL_INTERLEAVE", "0", &["MPOL_F_RELATIVE_NODES"]), "interleave=relative:0"),
        (policy("MPOL_LOCAL", "", &[]), "local"),
    ] {
        let mut spec = spec(&["sh", "-c", "head -n 1 /proc/self/numa_maps; exec sleep 1000"]);
        linux(&mut spec).memory_policy = Some(policy);
        let (stdio, output) = pipes();
        let mut container = brig_runtime::create(request(&place, &spec, place.overlay(), stdio)).unwrap();
        container.start().unwrap();
        assert_eq!(output.line().split_whitespace().nth(1), Some(seen));
        let ran = exec(&container, &spec, |process| process.args = sh("head -n 1 /proc/self/numa_maps"));
        assert_eq!(ran.unwrap().stdout.split_whitespace().nth(1), Some(seen));
        container.delete().unwrap();
    }
    let mut spec = spec(&["true"]);
    linux(&mut spec).memory_policy = Some(policy("MPOL_BIND", "1000", &[]));
    let error = run(&place, &spec).unwrap_err();
    assert!(error.message.starts_with("linux.memoryPolicy: set_mempolicy("), "{error}");
}

fn score_umask_and_limits() {
    let place = Place::new("score");
    let mut spec = spec(&["sh", "-c", "exec sleep 1000"]);
    process(&mut spec).oom_score_adj = Some(321);
    process(&mut spec).user.umask = Some(0o77);
    process(&mut spec).rlimits = vec![Rlimit { type_: "RLIMIT_NOFILE".into(), soft: 100, hard: 200 }];
    let container = sleeper(&place, &spec);
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", container.pid())).unwrap();
    let line = |text: &str, name: &str| {
        text.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(read("oom_score_adj"), "321\n");
    assert_eq!(line(&read("status"), "Umask"), "Umask: 0077");
    assert_eq!(line(&read("limits"), "Max open files"), "Max open files 100 200 files");
    let script = "cat /proc/self/oom_score_adj; umask; ulimit -Sn; ulimit -Hn";
    let ran = exec(&container, &spec, |process| process.args = sh(script)).unwrap();
    assert_eq!(ran.stdout, "321\n0077\n100\n200\n");
    let ran = exec(&container, &spec, |process| {
        process.args = sh(script);
        process.oom_score_adj = Some(500);
        process.user.umask = Some(0o27);
        process.rlimits[0].soft = 150;
    });
    assert_eq!(ran.unwrap().stdout, "500\n0027\n150\n200\n");
    container.delete().unwrap();
}
