//! The process in which the daemon has layers unpacked: seen from outside while it works, and killed.

use brig_tests::{Image, Layer, TestHost, eventually};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// An import whose archive has not ended yet.
fn import(host: &TestHost, name: &str) -> Child {
    let streams = |command: &mut std::process::Command| {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    };
    let mut import = host.brig_run(&["import", "-", name]).with(streams).spawn();
    let tar = Layer::new().file("big", 0o644, vec![7u8; 3 << 20]).bytes();
    import.stdin.as_mut().unwrap().write_all(&tar[..2 << 20]).unwrap();
    import
}

/// The daemon's children that are at work on a layer, confined.
fn all_unpacking(host: &TestHost) -> Vec<i32> {
    let children = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let is_child = status.contains(&format!("\nPPid:\t{}\n", host.daemon_pid()));
        (is_child && line == b"brig\0unpack\0" && status.contains("\nSeccomp:\t2\n")).then_some(pid)
    });
    children.collect()
}

fn unpacking(host: &TestHost) -> i32 {
    eventually("a confined process unpacks", || all_unpacking(host).pop())
}

#[test]
fn layers_are_unpacked_by_a_process_that_can_reach_nothing() {
    let host = TestHost::new();
    let mut import = import(&host, "confined:1");
    let pid = unpacking(&host);
    let read = |what: &str| std::fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap();
    let status = read("status");
    for line in ["NoNewPrivs:\t1", "CapBnd:\t000000000000001b", "CapEff:\t000000000000001b"] {
        assert!(status.contains(line), "{status}");
    }
    for namespace in ["user", "mnt", "net", "ipc", "uts", "cgroup"] {
        let of = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_ne!(of(pid.cast_unsigned()), of(host.daemon_pid()), "{namespace}");
    }
    let mounts = read("mountinfo");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains("/v1/ingest/") && mounts.contains("nosuid,nodev,noexec"), "{mounts}");
    assert_eq!(read("oom_score_adj").trim(), "800");
    // It ends, and the daemon does not mind.
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    drop(import.stdin.take());
    let output = import.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("was killed by signal 9"), "{said}");
    assert_eq!(std::fs::read_dir(host.data_root.join("v1/ingest")).unwrap().count(), 0);
    assert_eq!(host.brig(&["images", "-q"]).ok(), "");
}

#[test]
fn no_more_layers_are_unpacked_at_once_than_there_is_room_for() {
    let host = TestHost::with(&["--max-concurrent-downloads", "2"]);
    let registry = host.registry();
    let room = 2 + std::thread::available_parallelism().unwrap().get();
    let layer = |nth: usize| {
        let content: String =
            (0..200_000u64).map(|line| format!("{nth} {:x}\n", line.wrapping_mul(0x9e37_79b9))).collect();
        Layer::new().file(&format!("file{nth}"), 0o644, content)
    };
    let image = (0..room + 12).fold(Image::busybox(), |image, nth| image.with(layer(nth), &[]));
    let layers = image.layers.len();
    registry.push(&image, "many", "1");
    let piped = |command: &mut std::process::Command| {
        command.stdout(Stdio::piped());
    };
    let mut pull = host.brig_run(&["pull", &registry.name("many:1")]).with(piped).spawn();
    let output = BufReader::new(pull.stdout.take().unwrap());
    let complete = AtomicUsize::new(0);
    // One may have ended meanwhile.
    let signal = |pid: i32, signal| kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap_or_default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for line in output.lines().map_while(Result::ok) {
                complete.fetch_add(usize::from(line.contains("Download complete")), Ordering::Relaxed);
            }
        });
        // Whoever is seen at work is stopped there, until all blobs are here: who has room to unpack has begun by then.
        let stopped = eventually("everything is downloaded", || {
            let all = all_unpacking(&host);
            all.iter().for_each(|pid| signal(*pid, Signal::STOP));
            (complete.load(Ordering::Relaxed) == layers).then_some(all)
        });
        assert!(stopped.len() <= room, "{} at once, {room} is enough", stopped.len());
        assert!(stopped.len() > 1, "they were too fast for this test");
        stopped.iter().for_each(|pid| signal(*pid, Signal::CONT));
    });
    assert!(pull.wait().unwrap().success());
}
