//! What a container may see and do, and what it may not: ids, capabilities, filters, masks, descriptors, the host's files.

use brig_tests::TestHost;
use std::os::unix::fs::MetadataExt;

fn host() -> TestHost {
    let host = TestHost::new();
    host.load_busybox();
    host
}

fn run(host: &TestHost, arguments: &[&str], command: &[&str]) -> String {
    let mut all = vec!["run", "--rm"];
    all.extend(arguments);
    all.push("busybox");
    all.extend(command);
    host.brig(&all).ok()
}

#[test]
fn root_inside_is_nobody_outside() {
    let host = host();
    let map = |arguments: &[&str]| {
        run(&host, arguments, &["cat", "/proc/self/uid_map"])
            .split_whitespace()
            .map(|n| n.parse::<u64>().unwrap())
            .collect::<Vec<_>>()
    };
    let (one, two) = (map(&[]), map(&[]));
    assert_eq!((one[0], one[2]), (0, 65536), "{one:?}");
    assert!(one[1] >= 65536, "{one:?}");
    drop(two);
    host.brig(&["run", "-d", "--name", "aa", "busybox", "sleep", "1000"]).ok();
    host.brig(&["run", "-d", "--name", "bb", "busybox", "sleep", "1000"]).ok();
    let owner = |name: &str| std::fs::metadata(format!("/proc/{}", host.pid(name))).unwrap().uid();
    assert!(
        owner("aa") >= 65536 && owner("bb") >= 65536 && owner("aa").abs_diff(owner("bb")) >= 65536,
        "ranges of their own"
    );
    for host_users in [&["--privileged"][..], &["--userns=host"], &["--pid=host"], &["--network=host"]] {
        let own = map(host_users);
        assert_eq!(own, [0, 0, 4_294_967_295], "{host_users:?}");
    }
}

#[test]
fn files_keep_plain_ids() {
    let host = host();
    let shared = host.root.join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::os::unix::fs::chown(&shared, Some(1000), Some(1000)).unwrap();
    std::fs::write(shared.join("theirs"), "x").unwrap();
    std::os::unix::fs::chown(shared.join("theirs"), Some(1234), Some(1234)).unwrap();
    let bind = format!("{}:/shared", shared.display());
    let script = "stat -c %u /shared /shared/theirs; touch /shared/new; chown 77:88 /shared/new; touch /shared/root";
    assert_eq!(run(&host, &["-v", &bind], &["sh", "-c", script]), "1000\n1234");
    let owner = |name: &str| shared.join(name).metadata().map(|m| (m.uid(), m.gid())).unwrap();
    assert_eq!((owner("new"), owner("root"), owner("theirs")), ((77, 88), (0, 0), (1234, 1234)));
    run(&host, &["-v", "vol:/v"], &["sh", "-c", "touch /v/f; chown 5 /v/f"]);
    assert_eq!(run(&host, &["-v", "vol:/v"], &["stat", "-c", "%u", "/v/f"]), "5");
    assert_eq!(host.data_root.join("v1/volumes/vol/_data/f").metadata().unwrap().uid(), 5);
    host.brig(&["volume", "rm", "vol"]).ok();
    let read_only = format!("{}:/shared:ro", shared.display());
    let refused = host.brig(&["run", "--rm", "-v", &read_only, "busybox", "touch", "/shared/x"]);
    assert!(refused.code == 1 && refused.stderr.contains("Read-only file system"), "{refused}");
}

#[test]
fn capabilities_seccomp_and_no_new_privileges() {
    let host = host();
    let status = |arguments: &[&str], field: &str| {
        run(&host, arguments, &["grep", field, "/proc/self/status"]).split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(status(&[], "CapEff"), "00000000a80425fb");
    assert_eq!(status(&[], "CapBnd"), "00000000a80425fb");
    assert_eq!(status(&["--cap-drop", "ALL"], "CapEff"), "0000000000000000");
    assert_eq!(status(&["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"], "CapEff"), "0000000000001000");
    assert_eq!(status(&[], "Seccomp:"), "2");
    assert_eq!(status(&["--security-opt", "seccomp=unconfined"], "Seccomp:"), "0");
    assert_eq!(status(&["--privileged"], "Seccomp:"), "0");
    assert_eq!(status(&["--security-opt", "no-new-privileges"], "NoNewPrivs"), "1");
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim().to_owned();
    assert_eq!(status(&["--privileged"], "CapEff"), own, "all that the machine has");
    for line in run(&host, &[], &["probe", "syscalls"]).lines() {
        assert!(!line.contains("allowed"), "{line}");
    }
}

#[test]
fn masked_and_read_only_paths() {
    let host = host();
    for line in run(&host, &[], &["probe", "touch-proc"]).lines() {
        assert!(line.ends_with("refused"), "{line}");
    }
    let masked = "cat /proc/keys /proc/timer_list 2>/dev/null | wc -c; ls /proc/acpi /proc/scsi /sys/firmware | grep -v ':$' | grep -v '^$' | wc -l";
    assert_eq!(run(&host, &[], &["sh", "-c", masked]), "0\n0");
    let mounts = run(&host, &[], &["cat", "/proc/mounts"]);
    assert!(mounts.lines().any(|line| line.contains(" /sys sysfs ro,")), "{mounts}");
    assert!(mounts.lines().any(|line| line.contains(" /proc proc rw,nosuid,nodev,noexec")), "{mounts}");
    assert!(!mounts.contains(&host.exec_root().display().to_string()), "{mounts}");
    let devices = run(&host, &[], &["ls", "/dev"]);
    let expected = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(devices.split_whitespace().filter(|name| *name != "core").collect::<Vec<_>>().join(" "), expected);
    let use_them = "echo x > /dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c";
    assert_eq!(run(&host, &[], &["sh", "-c", use_them]), "4\n4");
}

#[test]
fn no_descriptor_and_no_process_of_the_host() {
    let host = host();
    let fds = run(&host, &[], &["probe", "fds"]);
    assert_eq!(fds.lines().count(), 3, "{fds}");
    host.brig(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    let fds = host.brig(&["exec", "box", "probe", "fds"]).ok();
    assert_eq!(fds.lines().count(), 3, "{fds}");
    let processes = run(&host, &[], &["sh", "-c", "ls -d /proc/[0-9]* | wc -l"]);
    assert!(processes.parse::<u32>().unwrap() <= 4, "{processes}");
    let seen = run(&host, &["--pid=host"], &["sh", "-c", "ls -d /proc/[0-9]* | wc -l"]);
    assert!(seen.parse::<u32>().unwrap() > 10, "{seen}");
    let cgroup = run(&host, &[], &["cat", "/proc/self/cgroup"]);
    assert!(cgroup.lines().all(|line| line.ends_with(":/")), "its own group is its root: {cgroup}");
    let pid = host.pid("box");
    let outside = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(outside.lines().filter(|line| line.contains(&host.name)).count() >= 1, "{outside}");
}

#[test]
fn the_hosts_root_cannot_be_changed() {
    let host = TestHost::new();
    let canary = host.root.join("canary");
    std::fs::write(&canary, "alive").unwrap();
    let path = canary.display().to_string();
    let script = format!(
        "echo dead > {path}; cat {path}; rm -f {path}; rm -rf /var/tmp/* /etc/hostname; touch /brig-was-here; mount -o remount,rw / 2>/dev/null; echo -n"
    );
    let output = host.brig(&["run", "--rm", "--rootfs", "/", "sh", "-c", &script]);
    assert_eq!(output.code, 0, "{output}");
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), "alive");
    assert!(!std::path::Path::new("/brig-was-here").exists());
    assert!(std::path::Path::new("/etc/hostname").exists() && host.root.exists());
    // Root inside is not root of the host's secrets, nor of its devices and sockets.
    let disk = host
        .brig(&["run", "--rm", "--rootfs", "/", "sh", "-c", "ls /dev/vda /dev/sda /dev/mem 2>/dev/null; echo none"])
        .ok();
    assert_eq!(disk, "none");
}

#[test]
fn a_mounted_api_socket_works_for_root_inside() {
    let host = host();
    let bind = format!("{}:/var/run/docker.sock", host.socket().display());
    let brig = brig_tests::host::binary("brig").display().to_string();
    let program = format!("{brig}:/bin/brig:ro");
    let version = run(
        &host,
        &["-v", &bind, "-v", &program, "-e", "DOCKER_HOST=unix:///var/run/docker.sock"],
        &["sh", "-c", "until brig ps -q | grep .; do sleep 0.05; done"],
    );
    assert_eq!(version.len(), 12, "it sees itself: {version}");
}

#[test]
fn a_source_that_cannot_be_idmapped_is_refused_by_name() {
    let host = host();
    // Files of a namespace or of /proc have no file system that could be mapped.
    let refused = host.brig(&["run", "--rm", "-v", "/proc/sys:/x", "busybox", "true"]).fails(125);
    assert!(refused.contains("/proc/sys") && refused.contains("--userns=host"), "{refused}");
    host.brig(&["run", "--rm", "--userns=host", "-v", "/proc/sys:/x:ro", "busybox", "true"]).ok();
}

#[test]
fn privileged_and_devices() {
    let host = host();
    let mount = "mkdir /m && mount -t tmpfs t /m && echo mounted";
    assert_eq!(run(&host, &["--privileged"], &["sh", "-c", mount]), "mounted");
    assert_ne!(host.brig(&["run", "--rm", "busybox", "sh", "-c", mount]).code, 0);
    assert_eq!(run(&host, &["--privileged"], &["sh", "-c", "test -c /dev/kmsg && echo there"]), "there");
    assert_eq!(run(&host, &["--device", "/dev/kmsg"], &["sh", "-c", "test -c /dev/kmsg && echo there"]), "there");
    assert_eq!(run(&host, &[], &["sh", "-c", "test -c /dev/kmsg || echo absent"]), "absent");
}

#[test]
fn the_shim_is_small_and_so_is_the_daemon() {
    let host = TestHost::new();
    // An unoptimised program has twice the code to page in; what the daemon itself takes is the same in both.
    let (resident, anonymous) = (memory(host.daemon_pid(), "Rss:"), memory(host.daemon_pid(), "Anonymous:"));
    let most = if cfg!(debug_assertions) { 32 << 10 } else { 20 << 10 };
    assert!(resident <= most, "the idle daemon has {resident} KiB resident, at most {most}");
    assert!(anonymous <= 6 << 10, "the idle daemon has {anonymous} KiB of memory of its own, at most 6 MiB");
    host.load_busybox();
    for name in ["aa", "bb"] {
        host.brig(&["run", "-d", "--name", name, "busybox", "sleep", "1000"]).ok();
    }
    for name in ["aa", "bb"] {
        let shim = host.shim_pid(name);
        let private = memory(shim, "Private_Clean:") + memory(shim, "Private_Dirty:");
        assert!(private <= 1 << 10, "the shim of {name} has {private} KiB of its own, at most 1 MiB");
    }
}

fn memory(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
