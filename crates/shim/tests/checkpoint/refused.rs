//! What a checkpoint or a restore refuses, and that it leaves nothing then. Owns the tampering with images.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};

use super::bundle::Bundle;
use super::{CHECKPOINT, RESTORE, counting, counts_on, skipped};

/// A saved counter with a read-only bind mount of `data` at `/vol`.
fn saved(change: impl FnOnce(&mut Value)) -> Bundle {
    let bundle = running(super::COUNTER, change);
    counts_on(&bundle, 2);
    bundle.ok(&CHECKPOINT);
    bundle.clean();
    bundle
}

/// A container with that mount, running.
fn running(script: &str, change: impl FnOnce(&mut Value)) -> Bundle {
    let mut bundle = Bundle::new(script);
    fs::create_dir(bundle.path("data")).unwrap();
    let source = bundle.text("data");
    bundle.change(|spec| {
        let mount = json!({"destination": "/vol", "type": "bind", "source": source, "options": ["rbind", "ro"]});
        spec["mounts"].as_array_mut().unwrap().push(mount);
        change(spec);
    });
    bundle.ok(&["run", "--detach", "ID"]);
    bundle
}

/// The images of mounts.
fn mount_images(bundle: &Bundle) -> Vec<PathBuf> {
    let entries = fs::read_dir(bundle.path("images")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("mountpoints-")).collect()
}

/// Replaces bytes in every image of mounts by as many others.
fn tamper(bundle: &Bundle, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let mut found = false;
    for path in mount_images(bundle) {
        let mut content = fs::read(&path).unwrap();
        while let Some(place) = content.windows(from.len()).position(|part| part == from) {
            content[place..place + to.len()].copy_from_slice(to);
            found = true;
        }
        fs::write(path, content).unwrap();
    }
    assert!(found, "{from:?} is in no image");
}

#[test]
fn only_a_running_container_can_be_saved() {
    let bundle = Bundle::new("sleep 1000");
    bundle.refused(&CHECKPOINT, "container does not exist");
    bundle.ok(&["create", "ID"]);
    let called = bundle.call(&CHECKPOINT);
    assert!(called.stderr.contains("Container cannot be checkpointed in created state"), "{called:?}");
    bundle.ok(&["start", "ID"]);
    let pid = bundle.pid();
    bundle.ok(&["kill", "ID", "KILL"]);
    bundle.reap_init(pid);
    let called = bundle.call(&CHECKPOINT);
    assert!(called.stderr.contains("Container cannot be checkpointed in stopped state"), "{called:?}");
    bundle.ok(&["delete", "ID"]);
    bundle.clean();
}

#[test]
fn without_criu_nothing_happens() {
    let bundle = counting(|_| ());
    counts_on(&bundle, 2);
    let without = |arguments: &[&str]| {
        let output = bundle.command(arguments).env("PATH", "/nowhere").output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (done, words) = without(&CHECKPOINT);
    assert!(!done && words.contains("there is no executable criu in PATH"), "{words}");
    assert_eq!(bundle.state()["status"], "running");
    let features = bundle.command(&["features"]).env("PATH", "/nowhere").output().unwrap();
    let features: Value = serde_json::from_slice(&features.stdout).unwrap();
    assert_eq!(features["annotations"]["org.opencontainers.runc.checkpoint.enabled"], "false");
    bundle.ok(&["delete", "--force", "ID"]);
    let (done, words) = without(&RESTORE);
    assert!(!done && !words.is_empty(), "{words}");
    bundle.clean();
}

#[test]
fn a_failed_restore_leaves_nothing() {
    if skipped("a_failed_restore_leaves_nothing") {
        return;
    }
    let bundle = saved(|_| ());
    bundle.refused(&["restore", "-d", "--image-path", "absent", "ID"], "absent");
    // CRIU fails late, when tasks exist already.
    for entry in fs::read_dir(bundle.path("images")).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.file_name().unwrap().to_str().unwrap().starts_with("pagemap-") {
            fs::write(entry, "no pages").unwrap();
        }
    }
    bundle.refused(&RESTORE, "restore.log");
}

#[test]
fn images_do_not_make_a_mount_writable() {
    if skipped("images_do_not_make_a_mount_writable") {
        return;
    }
    let bundle = saved(|_| ());
    // flags (field 5) and root (field 6) of the mount: MS_RDONLY | MS_RELATIME becomes MS_RELATIME.
    let root = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!root.is_empty());
    let mut changed = false;
    for path in mount_images(&bundle) {
        let mut content = fs::read(&path).unwrap();
        let name = b"/vol";
        let place = content.windows(name.len() + 1).position(|part| part[0] == 4 && &part[1..] == name).unwrap();
        let flags = (0..place).rev().find(|at| content[*at] == 0x28 && content[at + 1] & 0x7f == 1).unwrap() + 1;
        content[flags] &= !1;
        changed = true;
        fs::write(path, content).unwrap();
    }
    assert!(changed);
    bundle.refused(&RESTORE, "the images' mount at /vol is refused: the bundle has it ro");
}

#[test]
fn images_do_not_choose_what_is_mounted() {
    if skipped("images_do_not_choose_what_is_mounted") {
        return;
    }
    let index = |bundle: &Bundle| bundle.spec["mounts"].as_array().unwrap().len() - 1;
    let bundle = saved(|_| ());
    let name = format!("brig:{}:/vol", index(&bundle));
    tamper(&bundle, name.as_bytes(), format!("brig:{}:/etc", index(&bundle)).as_bytes());
    bundle.refused(&RESTORE, "which no mount of this bundle is");
    tamper(&bundle, format!("brig:{}:/etc", index(&bundle)).as_bytes(), name.as_bytes());
    // A place, and a source, that lead out.
    tamper(&bundle, b"\x3a\x04/vol", b"\x3a\x04/../");
    bundle.refused(&RESTORE, "/.. is refused: its path has");
    tamper(&bundle, b"\x3a\x04/../", b"\x3a\x04/vol");
    bundle.ok(&RESTORE);
    bundle.ok(&["delete", "--force", "ID"]);
    bundle.clean();
}

/// The vulnerability of runc, crun and CRIU of 2026: a link in the root leads the mount of a name elsewhere.
#[test]
fn links_of_the_root_lead_no_mount_elsewhere() {
    if skipped("links_of_the_root_lead_no_mount_elsewhere") {
        return;
    }
    let bundle = saved(|_| ());
    fs::remove_dir(bundle.path("rootfs/vol")).unwrap();
    symlink(bundle.path("canary/dir"), bundle.path("rootfs/vol")).unwrap();
    bundle.refused(&RESTORE, "its place leads through a link");
    fs::remove_file(bundle.path("rootfs/vol")).unwrap();
    // A link that stays inside is no place of the images' either.
    fs::create_dir(bundle.path("rootfs/elsewhere")).unwrap();
    symlink("elsewhere", bundle.path("rootfs/vol")).unwrap();
    bundle.refused(&RESTORE, "its place leads through a link");
}

#[test]
fn descriptors_are_streams_only() {
    if skipped("descriptors_are_streams_only") {
        return;
    }
    let bundle = saved(|_| ());
    for text in [r#"["extRootPidNS","",""]"#, r#"["","","",""]"#, "{}", r#"["mnt[x]"]"#] {
        fs::write(bundle.path("images/descriptors.json"), text).unwrap();
        bundle.refused(&RESTORE, "descriptors.json");
    }
    fs::remove_file(bundle.path("images/descriptors.json")).unwrap();
    symlink("/dev/zero", bundle.path("images/descriptors.json")).unwrap();
    bundle.refused(&RESTORE, "descriptors.json");
}

/// The images are as they were saved, and the bundle now gives less: what a create would give counts.
#[test]
fn a_bundle_that_gives_less_wins() {
    if skipped("a_bundle_that_gives_less_wins") {
        return;
    }
    let mut bundle = saved(|spec| spec["process"]["noNewPrivileges"] = json!(false));
    let original = bundle.spec.clone();
    let nothing = json!({"bounding": [], "effective": [], "permitted": []});
    let filter =
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]});
    type Change<'a> = Box<dyn Fn(&mut Value) + 'a>;
    let cases: Vec<(&str, Change<'_>)> = vec![
        ("process.capabilities gives 0x0", Box::new(|spec| spec["process"]["capabilities"] = nothing.clone())),
        ("process.noNewPrivileges says no", Box::new(|spec| spec["process"]["noNewPrivileges"] = json!(true))),
        ("linux.seccomp: ", Box::new(|spec| spec["linux"]["seccomp"] = filter.clone())),
        ("is not ro", Box::new(|spec| spec["root"]["readonly"] = json!(true))),
        ("/proc/uptime can be seen", Box::new(|spec| spec["linux"]["maskedPaths"] = json!(["/proc/uptime"]))),
        ("/proc/fs can be written to", Box::new(|spec| spec["linux"]["readonlyPaths"] = json!(["/proc/fs"]))),
        (
            "process.rlimits has 9",
            Box::new(|spec| spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 9}])),
        ),
        ("which no mount of this bundle is", Box::new(|spec| drop(spec["mounts"].as_array_mut().unwrap().pop()))),
        (
            "its uts namespace is not",
            Box::new(|spec| {
                spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|entry| entry["type"] != "uts");
                spec.as_object_mut().unwrap().remove("hostname");
            }),
        ),
    ];
    for (text, change) in cases {
        bundle.spec = original.clone();
        bundle.change(|spec| change(spec));
        bundle.refused(&RESTORE, text);
    }
    bundle.spec = original;
    bundle.write();
    bundle.ok(&RESTORE);
    bundle.ok(&["delete", "--force", "ID"]);
    bundle.clean();
}

/// Truncates `/alive` as fast as it can: whatever runs of it for an instant leaves a date there.
const RESTLESS: &str = "while :; do : > /alive; done";

/// Far from every date that a run could leave.
fn long_ago() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1000)
}

fn last_alive(bundle: &Bundle) -> SystemTime {
    fs::metadata(bundle.path("rootfs/alive")).and_then(|stat| stat.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A saved container that says whether it ran.
fn saved_restless() -> Bundle {
    let bundle = running(RESTLESS, |_| ());
    let begun = Instant::now();
    while last_alive(&bundle) == SystemTime::UNIX_EPOCH {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not run");
        // The container writes to its own file system, which is not watched from outside.
        std::thread::sleep(Duration::from_millis(5));
    }
    bundle.ok(&CHECKPOINT);
    bundle.clean();
    fs::File::options().write(true).open(bundle.path("rootfs/alive")).unwrap().set_modified(long_ago()).unwrap();
    bundle
}

/// A restore whose runtime gets a signal when everything stands still; returns when what is left does nothing any more.
fn end_at_the_last_moment(bundle: &Bundle, signal: Signal, to_all: bool) -> ExitStatus {
    let log = bundle.path("images/restore.log");
    fs::remove_file(&log).ok();
    let stream = |name: &str| fs::File::create(bundle.path(name)).unwrap();
    let mut restore = bundle.command(&RESTORE).stdout(stream("out")).stderr(stream("err")).spawn().unwrap();
    let pid = Pid::from_raw(restore.id().cast_signed()).unwrap();
    let begun = Instant::now();
    while !fs::read_to_string(&log).is_ok_and(|text| text.contains("pre-resume scripts")) {
        assert!(begun.elapsed() < Duration::from_secs(30), "CRIU does not come to its last notification");
    }
    // It may have refused already.
    if to_all { kill_process_group(pid, signal) } else { kill_process(pid, signal) }.ok();
    let ended = restore.wait().unwrap();
    while last_alive(bundle) == long_ago() && bundle.inside().into_iter().any(|pid| !stands_still(pid)) {
        assert!(begun.elapsed() < Duration::from_secs(30), "what is left does not come to rest");
        bundle.reap();
        std::thread::yield_now();
    }
    ended
}

/// Ended, stopped by whoever traces it, or waiting for something: CRIU, for an answer.
fn stands_still(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['t', 'S', 'Z']))
}

/// All of it stands still until it has been compared with the bundle; what is refused then has not run for an instant.
#[test]
fn what_is_refused_never_runs() {
    if skipped("what_is_refused_never_runs") {
        return;
    }
    let mut bundle = saved_restless();
    let original = bundle.spec.clone();
    for _ in 0..10 {
        let nothing = json!({"bounding": [], "effective": [], "permitted": []});
        bundle.change(|spec| spec["process"]["capabilities"] = nothing);
        bundle.refused(&RESTORE, "process.capabilities gives 0x0");
        assert_eq!(last_alive(&bundle), long_ago(), "it ran");
    }
    // Nor if whoever compares is killed at that moment, or (as Ctrl-C does it) its whole process group is ended.
    for (signal, to_all) in [(Signal::KILL, false), (Signal::TERM, true)].repeat(5) {
        let ended = end_at_the_last_moment(&bundle, signal, to_all);
        assert_eq!(last_alive(&bundle), long_ago(), "it ran after {signal:?} to all: {to_all}; {ended:?}");
        bundle.ok(&["delete", "--force", "ID"]);
        bundle.clean();
        assert_eq!(last_alive(&bundle), long_ago(), "it ran when it was deleted");
    }
    bundle.spec = original;
    bundle.write();
    bundle.ok(&RESTORE);
    bundle.ok(&["delete", "--force", "ID"]);
    bundle.clean();
    assert_ne!(last_alive(&bundle), long_ago(), "whether it runs cannot be seen by its file");
}

/// Not for a moment does any process see the source of a read-only bind mount writable through the container.
#[test]
fn read_only_stays_so_all_the_time() {
    if skipped("read_only_stays_so_all_the_time") {
        return;
    }
    let bundle = saved(|_| ());
    let data = bundle.text("data");
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = (0, Vec::new());
            while !done.load(Ordering::Relaxed) {
                look(&data, &mut seen);
            }
            seen
        });
        bundle.ok(&RESTORE);
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap()
    });
    bundle.ok(&["delete", "--force", "ID"]);
    bundle.clean();
    assert!(seen.0 > 0, "the mount was never seen");
    assert!(seen.1.is_empty(), "{:?}", seen.1);
}

/// Counts read-only mounts of `data` in all processes, and keeps the writable ones.
fn look(data: &str, seen: &mut (usize, Vec<String>)) {
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(mounts) = fs::read_to_string(Path::new(&entry.path()).join("mountinfo")) else { continue };
        for line in mounts.lines().filter(|line| line.split(' ').nth(3) == Some(data)) {
            match line.split(' ').nth(5).is_some_and(|options| options.split(',').any(|word| word == "ro")) {
                true => seen.0 += 1,
                false => seen.1.push(line.to_owned()),
            }
        }
    }
}
