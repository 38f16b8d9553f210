//! Tests against this machine's hierarchies, with cgroups that are removed whatever happens, and of version 2's files on a
//! directory that only looks like one. Owns nothing else.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use brig_oci::runtime::{BlockIo, Cpu, DeviceCgroup, HugepageLimit, Memory, Pids, ThrottleDevice};

use super::*;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A parent of its own for one test, with what was started in it.
struct Scratch {
    layout: Layout,
    parent: String,
    children: Vec<Child>,
    strict: bool,
}

impl Scratch {
    fn new(layout: Layout) -> Scratch {
        let parent = format!("brig-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Scratch { layout, parent, children: Vec::new(), strict: false }
    }

    fn here() -> Scratch {
        Scratch::new(Layout::detect().unwrap())
    }

    /// Version 2 alone, in a directory of its own that plays the mount; `None` (said aloud) where there is none.
    fn version_2() -> Option<Scratch> {
        let Some(mount) = Layout::detect().unwrap().v2 else {
            println!("skipped: cgroup v2 is not mounted");
            return None;
        };
        Some(Scratch::new(Layout { v1: Vec::new(), v2: Some(mount) }))
    }

    fn create(&self, resources: &Resources) -> Result<Cgroup> {
        Cgroup::create(&self.layout, Place { strict: self.strict, ..Place::below(&self.parent, "c1")? }, resources)
    }

    /// Starts a shell that waits for a line, puts it in, then lets it run.
    fn run(&mut self, cgroup: &Cgroup, script: &str) -> i32 {
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(format!("read -r line; {script}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        cgroup.add(pid).unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        self.children.push(child);
        pid
    }

    /// Runs a script in the cgroup to its end: did it succeed?
    fn succeeds(&mut self, cgroup: &Cgroup, script: &str) -> bool {
        self.run(cgroup, script);
        self.children.pop().unwrap().wait().unwrap().success()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let cgroup = Cgroup::at(&self.layout, Place::below("", &self.parent).unwrap());
        let killed = cgroup.kill();
        for child in &mut self.children {
            child.kill().ok();
            child.wait().ok();
        }
        let removed = cgroup.remove();
        if !std::thread::panicking() {
            killed.unwrap();
            removed.unwrap();
            assert!(!cgroup.exists());
        }
    }
}

/// Asks the kernel's files until something is so: version 1 has no events for any of it.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        // See above.
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn memory(limit: i64, swap: Option<i64>) -> Resources {
    Resources { memory: Some(Memory { limit: Some(limit), swap, ..Memory::default() }), ..Resources::default() }
}

fn v1_file(cgroup: &Cgroup, controller: &str, file: &str) -> Option<String> {
    let text = files::read_if_present(&cgroup.directory(controller)?, file).unwrap()?;
    Some(text.trim().to_owned())
}

/// Compares where this machine has the controller on version 1.
fn expect(cgroup: &Cgroup, controller: &str, file: &str, value: &str) {
    match v1_file(cgroup, controller, file) {
        Some(found) => assert_eq!(found, value, "{file}"),
        None => println!("skipped: no {file} here"),
    }
}

#[test]
fn limits_arrive_and_everything_goes_away() {
    let scratch = Scratch::here();
    let resources = Resources {
        memory: Some(Memory {
            limit: Some(64 << 20),
            swap: Some(128 << 20),
            reservation: Some(32 << 20),
            swappiness: Some(10),
            ..Memory::default()
        }),
        cpu: Some(Cpu {
            shares: Some(512),
            quota: Some(50_000),
            period: Some(100_000),
            cpus: "0".into(),
            ..Cpu::default()
        }),
        pids: Some(Pids { limit: 20 }),
        ..Resources::default()
    };
    let start = Instant::now();
    let cgroup = scratch.create(&resources).unwrap();
    println!("created in {:?}, warnings {:?}", start.elapsed(), cgroup.warnings());
    if scratch.layout.mode() != Mode::V2 {
        expect(&cgroup, "memory", "memory.limit_in_bytes", "67108864");
        expect(&cgroup, "memory", "memory.memsw.limit_in_bytes", "134217728");
        expect(&cgroup, "memory", "memory.soft_limit_in_bytes", "33554432");
        expect(&cgroup, "memory", "memory.swappiness", "10");
        expect(&cgroup, "cpu", "cpu.shares", "512");
        expect(&cgroup, "cpu", "cpu.cfs_quota_us", "50000");
        expect(&cgroup, "cpuset", "cpuset.cpus", "0");
        expect(&cgroup, "cpuset", "cpuset.mems", "0");
        expect(&cgroup, "pids", "pids.max", "20");
    }
    let stats = cgroup.stats().unwrap();
    assert_eq!((stats.memory.limit, stats.pids.limit, stats.pids.current), (Some(64 << 20), Some(20), 0));
    assert!(cgroup.directories().iter().all(|dir| dir.exists()));
    let start = Instant::now();
    cgroup.remove().unwrap();
    println!("removed in {:?}", start.elapsed());
    assert!(!cgroup.exists());
    cgroup.remove().unwrap();
    cgroup.kill().unwrap();
    assert_eq!(cgroup.stats().unwrap(), Stats::default());
    assert!(cgroup.processes().unwrap().is_empty() && !cgroup.frozen().unwrap());
}

#[test]
fn memory_grows_and_shrinks_together_with_swap() {
    let scratch = Scratch::here();
    if scratch.layout.hierarchy("memory").is_none() {
        println!("skipped: the memory controller is not on version 1");
        return;
    }
    let cgroup = scratch.create(&memory(64 << 20, Some(64 << 20))).unwrap();
    for (limit, total) in [(256 << 20, 512 << 20), (16 << 20, 16 << 20), (32 << 20, -1), (-1, 0)] {
        cgroup.update(&memory(limit, Some(total))).unwrap();
    }
    assert_eq!(cgroup.stats().unwrap().memory.limit, None);
    let error = cgroup.update(&memory(64 << 20, Some(32 << 20))).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    let error = cgroup
        .update(&Resources {
            memory: Some(Memory { swappiness: Some(101), ..Memory::default() }),
            ..Resources::default()
        })
        .unwrap_err();
    assert!(error.message.contains("swappiness value: 101"), "{error}");
}

#[test]
fn a_limit_below_use_is_refused_with_the_numbers() {
    let mut scratch = Scratch::here();
    if scratch.layout.hierarchy("memory").is_none() {
        println!("skipped: the memory controller is not on version 1");
        return;
    }
    let cgroup = scratch.create(&Resources::default()).unwrap();
    scratch.run(&cgroup, "x=$(head -c 20000000 /dev/zero | tr '\\0' a); sleep 1000");
    until("memory in use", || cgroup.stats().unwrap().memory.stat.get("rss").is_some_and(|rss| *rss > 18 << 20));
    let error = cgroup.update(&memory(1 << 20, None)).unwrap_err();
    println!("{error}");
    let start = format!("linux.resources.memory.limit: unable to set memory limit to {} (current usage: ", 1 << 20);
    assert!(error.message.starts_with(&start) && error.kind == ErrorKind::Busy, "{error}");
}

#[test]
fn forking_processes_are_frozen_thawed_and_killed() {
    let layouts = [Some(Scratch::here()), Scratch::version_2()];
    for mut scratch in layouts.into_iter().flatten() {
        let cgroup = scratch.create(&Resources::default()).unwrap();
        let pid = scratch.run(&cgroup, "while :; do sleep 0.01 & sleep 0.02; done");
        until("running", || cgroup.processes().unwrap().len() > 1);
        assert!(cgroup.processes().unwrap().contains(&pid));
        cgroup.freeze().unwrap();
        assert!(cgroup.frozen().unwrap());
        let before = cgroup.processes().unwrap();
        // Time in which it would fork several times; that nothing happens has no event.
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(cgroup.processes().unwrap(), before, "nothing forks");
        cgroup.thaw().unwrap();
        assert!(!cgroup.frozen().unwrap());
        until("going on", || cgroup.processes().unwrap() != before);
        cgroup.freeze().unwrap();
        let start = Instant::now();
        cgroup.kill().unwrap();
        println!("{:?}: killed in {:?}", scratch.layout.mode(), start.elapsed());
        assert!(cgroup.processes().unwrap().is_empty());
        cgroup.remove().unwrap();
    }
}

/// What is used where version 2 is not mounted at all.
#[test]
fn version_1_alone_kills_by_signal() {
    let mut layout = Layout::detect().unwrap();
    layout.v2 = None;
    if layout.hierarchy("freezer").is_none() {
        println!("skipped: no freezer on version 1");
        return;
    }
    let mut scratch = Scratch::new(layout);
    let cgroup = scratch.create(&Resources::default()).unwrap();
    scratch.run(&cgroup, "trap '' TERM HUP INT; while :; do sleep 0.01 & sleep 0.01 & wait; done");
    until("running", || cgroup.processes().unwrap().len() > 1);
    cgroup.kill().unwrap();
    assert!(cgroup.processes().unwrap().is_empty());
    cgroup.remove().unwrap();
    assert!(!cgroup.exists());
}

#[test]
fn removal_waits_for_the_end_and_takes_nested_ones_along() {
    let mut scratch = Scratch::here();
    let cgroup = scratch.create(&Resources::default()).unwrap();
    for dir in cgroup.directories() {
        std::fs::create_dir_all(dir.join("nested/deeper")).unwrap();
    }
    scratch.run(&cgroup, "sleep 0.3");
    let start = Instant::now();
    cgroup.remove().unwrap();
    println!("removed after {:?}", start.elapsed());
    assert!(!cgroup.exists());
}

#[test]
fn an_occupied_name_is_refused_and_left_alone() {
    let mut scratch = Scratch::here();
    let cgroup = scratch.create(&Resources::default()).unwrap();
    let pid = scratch.run(&cgroup, "sleep 1000");
    let error = scratch.create(&Resources::default()).unwrap_err();
    assert!(error.kind == ErrorKind::Busy && error.message.contains("container's cgroup is not empty: "), "{error}");
    assert!(cgroup.processes().unwrap().contains(&pid), "still alive");
    cgroup.kill().unwrap();
    scratch.create(&Resources::default()).unwrap();
}

#[test]
fn a_failed_creation_leaves_nothing() {
    let scratch = Scratch::here();
    let bad = Resources { cpu: Some(Cpu { cpus: "9999".into(), ..Cpu::default() }), ..Resources::default() };
    if let Err(error) = scratch.create(&bad) {
        println!("{error}");
        assert!(error.message.contains("write \"9999\" to ") && error.message.contains("cpuset.cpus"), "{error}");
    } else {
        assert_eq!(scratch.layout.mode(), Mode::V2, "only a missing controller makes this a warning");
    }
    assert!(
        !Cgroup::at(&scratch.layout, Place::below(&scratch.parent, "c1").unwrap()).exists()
            || scratch.layout.mode() == Mode::V2
    );
}

#[test]
fn names_cannot_leave_the_hierarchy() {
    for (parent, id) in [
        ("/brig", "../x"),
        ("/brig", "a/b"),
        ("/brig", ".."),
        ("/brig", "."),
        ("/brig", ""),
        ("../brig", "x"),
        ("/a/../b", "x"),
        ("/brig", "cgroup.procs"),
        ("/brig", "a\0b"),
        ("/brig", "tasks"),
    ] {
        let error = Place::below(parent, id).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{parent} {id}");
    }
    assert_eq!(Place::below("/brig/sub", "x").unwrap().path(), Path::new("brig/sub/x"));
    assert_eq!(Place::below("", "x").unwrap().path(), Path::new("x"));
}

#[test]
fn the_kernels_kill_is_counted_and_reported() {
    let mut scratch = Scratch::here();
    let cgroup = scratch.create(&memory(12 << 20, Some(24 << 20))).unwrap();
    if !cgroup.warnings().is_empty() {
        println!("skipped: {:?}", cgroup.warnings());
        return;
    }
    let watch = cgroup.watch_oom().unwrap();
    let readable = |milliseconds: u32| {
        let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: i64::from(milliseconds) * 1_000_000 };
        rustix::event::poll(&mut [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)], Some(&timeout))
            .unwrap()
            > 0
    };
    assert!(!readable(0));
    assert_eq!(cgroup.oom_kills().unwrap(), 0);
    assert!(!scratch.succeeds(&cgroup, "exec tail /dev/zero"));
    assert!(readable(900));
    watch.clear();
    assert!(!readable(0));
    assert!(cgroup.oom_kills().unwrap() >= 1);
    assert!(cgroup.stats().unwrap().memory.fail_count > 0);
}

#[test]
fn a_process_can_join_version_1_by_itself() {
    let mut scratch = Scratch::here();
    let cgroup = scratch.create(&Resources::default()).unwrap();
    let files = cgroup.join_files().unwrap();
    let Some(file) = files.into_iter().next() else {
        println!("skipped: nothing is on version 1");
        return;
    };
    let dir = scratch.layout.v1[0].mount.join(cgroup.path());
    let child = Command::new("sh").args(["-c", "echo 0 >&0; exec sleep 1000"]).stdin(file).spawn().unwrap();
    let pid = child.id().to_string();
    scratch.children.push(child);
    until("joined", || files::read(&dir, "cgroup.procs").unwrap().trim() == pid);
}

fn device(allow: bool, type_: &str, major: i64, minor: i64, access: &str) -> DeviceCgroup {
    DeviceCgroup { allow, type_: type_.into(), major: Some(major), minor: Some(minor), access: access.into() }
}

/// The same rules with the same effect through `devices.*` (version 1) and through a program (version 2).
#[test]
fn device_rules_hold() {
    let layouts = [Some(Scratch::here()), Scratch::version_2()];
    for mut scratch in layouts.into_iter().flatten() {
        let deny = device(false, "a", -1, -1, "rwm");
        let mut cgroup = scratch.create(&Resources { devices: vec![deny.clone()], ..Resources::default() }).unwrap();
        let mode = scratch.layout.mode();
        // kmsg (1:11) is readable for root anywhere; opening it does not consume anything.
        let kmsg = "exec 3</dev/kmsg";
        let mut check = |cgroup: &Cgroup, read: bool, write: bool| {
            assert!(
                scratch.succeeds(cgroup, "exec 3<>/dev/null 4</dev/urandom 5</dev/zero"),
                "{mode:?}: the runtime's own"
            );
            assert_eq!(scratch.succeeds(cgroup, kmsg), read, "{mode:?}: read");
            assert_eq!(scratch.succeeds(cgroup, "exec 3>/dev/kmsg"), write, "{mode:?}: write");
        };
        check(&cgroup, false, false);
        let update = |cgroup: &Cgroup, rules: &[DeviceCgroup]| {
            cgroup.update(&Resources { devices: rules.to_vec(), ..Resources::default() }).unwrap();
        };
        update(&cgroup, &[deny.clone(), device(true, "c", 1, 11, "rw")]);
        check(&cgroup, true, true);
        update(&cgroup, &[deny.clone(), device(true, "c", 1, 11, "r")]);
        check(&cgroup, true, false);
        update(&cgroup, std::slice::from_ref(&deny));
        check(&cgroup, false, false);
        // Absent rules change nothing.
        cgroup.update(&Resources::default()).unwrap();
        check(&cgroup, false, false);
        if mode == Mode::V2 {
            let fd = cgroup.fd_for_clone().unwrap();
            assert_eq!(
                brig_sys::bpf::device_programs(std::os::fd::AsFd::as_fd(&fd)).unwrap().len(),
                1,
                "programs are replaced, not piled up"
            );
        }
        // Privileged, from the start and back again.
        cgroup.remove().unwrap();
        cgroup = scratch
            .create(&Resources { devices: vec![device(true, "a", -1, -1, "rwm")], ..Resources::default() })
            .unwrap();
        let mut check =
            |cgroup: &Cgroup, expected: bool| assert_eq!(scratch.succeeds(cgroup, kmsg), expected, "{mode:?}");
        check(&cgroup, true);
        update(&cgroup, &[deny]);
        check(&cgroup, false);
    }
}

#[test]
fn what_version_1_cannot_do() {
    let scratch = Scratch::here();
    if scratch.layout.mode() == Mode::V2 {
        println!("skipped: this machine is on version 2");
        return;
    }
    let unified = Resources { unified: [("memory.high".to_owned(), "1".to_owned())].into(), ..Resources::default() };
    let error = scratch.create(&unified).unwrap_err();
    assert!(error.kind == ErrorKind::Unsupported && error.message.contains("needs cgroup v2"), "{error}");
    let weight =
        Resources { block_io: Some(BlockIo { weight: Some(300), ..BlockIo::default() }), ..Resources::default() };
    let cgroup = scratch.create(&weight).unwrap();
    if !cgroup
        .directory("blkio")
        .is_some_and(|dir| dir.join("blkio.weight").exists() || dir.join("blkio.bfq.weight").exists())
    {
        assert_eq!(
            cgroup.warnings(),
            ["Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."]
        );
    }
}

/// Version 2's files, on a directory that has them.
#[test]
fn version_2_files() {
    let dir = tempfile::tempdir().unwrap();
    let names = [
        "memory.max",
        "memory.low",
        "memory.swap.max",
        "memory.current",
        "cpu.weight",
        "cpu.max",
        "cpu.max.burst",
        "cpuset.cpus",
        "cpuset.mems",
        "pids.max",
        "io.weight",
        "io.max",
        "hugetlb.2MB.max",
        "memory.high",
    ];
    for name in names {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    std::fs::write(dir.path().join("memory.current"), "5000000\n").unwrap();
    let resources = Resources {
        memory: Some(Memory {
            limit: Some(1 << 20),
            swap: Some(3 << 20),
            reservation: Some(1000),
            disable_oom_killer: Some(true),
            swappiness: Some(60),
            ..Memory::default()
        }),
        cpu: Some(Cpu {
            shares: Some(1024),
            quota: Some(20_000),
            period: Some(50_000),
            burst: Some(100),
            cpus: "0-1".into(),
            mems: "0".into(),
            ..Cpu::default()
        }),
        pids: Some(Pids { limit: -1 }),
        block_io: Some(BlockIo {
            weight: Some(500),
            throttle_read_bps_device: vec![ThrottleDevice { major: 8, minor: 0, rate: 1024 }],
            ..BlockIo::default()
        }),
        hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }],
        unified: [("memory.high".to_owned(), "900000".to_owned())].into(),
        ..Resources::default()
    };
    let mut warnings = Vec::new();
    let mut apply = |resources: &Resources, strict: bool| {
        v2::apply(dir.path(), resources, Dropped { warnings: &mut warnings, strict })
    };
    apply(&resources, true).unwrap();
    let file = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let expected = [
        ("memory.max", "1048576"),
        ("memory.swap.max", "2097152"),
        ("memory.low", "1000"),
        ("memory.high", "900000"),
        ("cpu.weight", "100"),
        ("cpu.max", "20000 50000"),
        ("cpuset.cpus", "0-1"),
        ("pids.max", "max"),
        ("io.weight", "default 4950"),
        ("io.max", "8:0 rbps=1024"),
        ("hugetlb.2MB.max", "4194304"),
    ];
    for (name, value) in expected {
        assert_eq!(file(name), value, "{name}");
    }
    let checked = Resources {
        memory: Some(Memory { limit: Some(4096), check_before_update: Some(true), ..Memory::default() }),
        ..Resources::default()
    };
    assert_eq!(
        apply(&checked, true).unwrap_err().message,
        "linux.resources.memory.limit: rejecting memory limit 4096 <= usage 5000000"
    );
    // A period alone keeps the quota, and no limit of processes is none that was asked for.
    let period = Resources {
        cpu: Some(Cpu { period: Some(70_000), ..Cpu::default() }),
        pids: Some(Pids { limit: 0 }),
        ..Resources::default()
    };
    std::fs::write(dir.path().join("pids.max"), "7").unwrap();
    apply(&period, true).unwrap();
    assert_eq!((file("cpu.max").as_str(), file("pids.max").as_str()), ("20000 70000", "7"));
    // Written line by line, as the kernel takes it.
    let lines = Resources {
        unified: [("io.max".to_owned(), "8:0 riops=3\n\n8:16 riops=5\n".to_owned())].into(),
        ..Resources::default()
    };
    apply(&lines, true).unwrap();
    assert_eq!(file("io.max"), "8:16 riops=5\n");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("swappiness") && warnings[1].contains("OomKillDisable"));
    for key in ["../x", "cgroup.procs", "memory/max", "memory", ".x", "memory.max\n", "", "cgroup.kill", "a b.c"] {
        assert_eq!(v2::check_unified(key).unwrap_err().kind, ErrorKind::Invalid, "{key}");
    }
}

/// O11, version 2: what is refused names the field.
#[test]
fn version_2_refusals() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cgroup.controllers"), "memory pids\n").unwrap();
    std::fs::write(dir.path().join("memory.max"), "").unwrap();
    let table: [(&str, &str); 16] = [
        (r#"{"memory": {"limit": -2}}"#, "memory.limit: -2 is no number of bytes"),
        (r#"{"memory": {"limit": 100, "swap": 50}}"#, "memory.swap: memory+swap limit 50 should be at least"),
        (r#"{"memory": {"swap": 50}}"#, "memory.swap: unable to set swap limit without memory limit"),
        (r#"{"memory": {"limit": 100, "swap": 200}}"#, "memory.swap: cannot be set: accounting of swap is not"),
        (
            r#"{"memory": {"reservation": 5}}"#,
            "memory.reservation: cannot be set: memory.low (the kernel has no such file)",
        ),
        (r#"{"cpu": {"shares": 5}}"#, "cpu.shares: cannot be set: controller \"cpu\" (not given to "),
        (r#"{"cpu": {"quota": 5}}"#, "cpu.quota: cannot be set: controller \"cpu\""),
        (r#"{"cpu": {"cpus": "0"}}"#, "cpu.cpus: cannot be set: controller \"cpuset\""),
        (r#"{"cpu": {"realtimeRuntime": 5}}"#, "cpu.realtimeRuntime: real-time CPU limits exist on cgroup v1 only"),
        (r#"{"pids": {"limit": 5}}"#, "pids.limit: cannot be set: pids.max"),
        (r#"{"blockIO": {"weight": 5000}}"#, "blockIO.weight: block I/O weight 5000 is out of range"),
        (r#"{"blockIO": {"weight": 500}}"#, "blockIO.weight: cannot be set: controller \"io\""),
        (
            r#"{"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}"#,
            "hugepageLimits: this kernel has no huge pages of 3MB",
        ),
        (r#"{"hugepageLimits": [{"pagesize": "../x", "limit": 1}]}"#, "hugepageLimits: huge page size \"../x\""),
        (r#"{"network": {"classID": 5}}"#, "network: network classes and priorities exist on cgroup v1 only"),
        (
            r#"{"unified": {"fish.max": "1"}}"#,
            "unified: unified resource \"fish.max\" can't be set: controller \"fish\" not available",
        ),
    ];
    for (resources, want) in table {
        let resources: Resources = serde_json::from_str(resources).unwrap();
        let error = v2::apply(dir.path(), &resources, Dropped { warnings: &mut Vec::new(), strict: true }).unwrap_err();
        assert!(error.message.starts_with(&format!("linux.resources.{want}")), "{want}\n{error}");
    }
}

/// O11, version 1, by this machine's kernel: what is refused names the field, and nothing stays.
#[test]
fn version_1_refusals() {
    let mut scratch = Scratch::here();
    if scratch.layout.mode() == Mode::V2 {
        println!("skipped: this machine is on version 2");
        return;
    }
    scratch.strict = true;
    let table: [(&str, &str); 17] = [
        (r#"{"memory": {"limit": 100, "swap": 50}}"#, "memory.swap: memory+swap limit 50 should be at least"),
        (r#"{"memory": {"limit": -2}}"#, "memory.limit: write \"-2\" to "),
        (r#"{"memory": {"swappiness": 101}}"#, "memory.swappiness: invalid memory swappiness value: 101"),
        (r#"{"cpu": {"shares": 1}}"#, "cpu.shares: 1: the minimum allowed cpu-shares is 2"),
        (r#"{"cpu": {"shares": 262145}}"#, "cpu.shares: 262145: the maximum allowed cpu-shares is 262144"),
        (r#"{"cpu": {"quota": 1}}"#, "cpu.quota: write \"1\" to "),
        (r#"{"cpu": {"period": 1}}"#, "cpu.period: write \"1\" to "),
        (r#"{"cpu": {"cpus": "99999"}}"#, "cpu.cpus: write \"99999\" to "),
        (r#"{"cpu": {"cpus": "0-"}}"#, "cpu.cpus: write \"0-\" to "),
        (r#"{"cpu": {"mems": "99"}}"#, "cpu.mems: write \"99\" to "),
        (r#"{"blockIO": {"weight": 5000}}"#, "blockIO.weight: block I/O weight 5000 is out of range"),
        (r#"{"blockIO": {"weight": 9}}"#, "blockIO.weight: block I/O weight 9 is out of range"),
        (
            r#"{"blockIO": {"leafWeight": 20}}"#,
            "blockIO.leafWeight: cannot be set: blkio.leaf_weight is not available here",
        ),
        (r#"{"network": {"priorities": [{"name": "no-such", "priority": 1}]}}"#, "network.priorities: "),
        (
            r#"{"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}"#,
            "hugepageLimits: this kernel has no huge pages of 3MB",
        ),
        (r#"{"unified": {"memory.high": "1"}}"#, "unified: \"memory.high\" needs cgroup v2"),
        (r#"{"unified": {"../x": "1"}}"#, "unified: unified resource \"../x\" must be a file name"),
    ];
    for (resources, want) in table {
        let resources: Resources = serde_json::from_str(resources).unwrap();
        let error = scratch.create(&resources).unwrap_err();
        assert!(error.message.starts_with(&format!("linux.resources.{want}")), "{want}\n{error}");
        assert!(!Cgroup::at(&scratch.layout, Place::below(&scratch.parent, "c1").unwrap()).exists(), "{want}");
    }
    // Absent and "without limit" are both fine.
    for resources in [
        r#"{"pids": {"limit": 0}}"#,
        r#"{"pids": {"limit": -1}}"#,
        r#"{"cpu": {"quota": -1}, "memory": {"limit": -1}}"#,
    ] {
        scratch.create(&serde_json::from_str(resources).unwrap()).unwrap().remove().unwrap();
    }
}

#[test]
fn controllers_are_handed_down_to_the_parent_only() {
    let mount = tempfile::tempdir().unwrap();
    let leaf = mount.path().join("brig/c1");
    std::fs::create_dir_all(&leaf).unwrap();
    for dir in [mount.path(), &mount.path().join("brig"), &leaf] {
        std::fs::write(dir.join("cgroup.controllers"), "cpuset cpu io memory pids misc\n").unwrap();
        std::fs::write(dir.join("cgroup.subtree_control"), "").unwrap();
    }
    std::fs::write(mount.path().join("cgroup.subtree_control"), "memory pids\n").unwrap();
    v2::delegate(mount.path(), &leaf).unwrap();
    let given = |dir: &Path| std::fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap();
    assert!(given(mount.path()).starts_with("+cpuset +cpu +io +misc"), "{}", given(mount.path()));
    assert_eq!(given(&mount.path().join("brig")), "+cpuset +cpu +io +memory +pids +misc");
    assert_eq!(given(&leaf), "");
}
