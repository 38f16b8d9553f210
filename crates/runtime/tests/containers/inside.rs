//! What a program sees of itself and of the machine from inside.

use crate::harness::*;

pub const TESTS: &[(&str, fn())] = &[
    ("namespaces_differ", namespaces_differ),
    ("ids_are_mapped", ids_are_mapped),
    ("capabilities_are_exact", capabilities_are_exact),
    ("ambient_capabilities", ambient_capabilities),
    ("devices_are_there", devices_are_there),
    ("extra_devices", extra_devices),
    ("masks_and_read_only_paths", masks_and_read_only_paths),
    ("cgroups_are_private", cgroups_are_private),
    ("no_descriptors_leak", no_descriptors_leak),
    ("sysctl_is_written", sysctl_is_written),
    ("limits_and_oom_score", limits_and_oom_score),
    ("without_user_namespace", without_user_namespace),
    ("joins_namespaces", joins_namespaces),
    ("joins_user_namespace_too", joins_user_namespace_too),
    ("time_namespace", time_namespace),
    ("seccomp_is_loaded", seccomp_is_loaded),
    ("old_kernels_overlay", old_kernels_overlay),
];

fn namespaces_differ() {
    let place = Place::new("ns");
    let text = shell(
        &place,
        &mut spec(&[]),
        "for n in pid net ipc uts mnt cgroup user; do readlink /proc/self/ns/$n; done; hostname; echo $$; ls /proc | grep -c '^[0-9]'",
    );
    let lines: Vec<&str> = text.lines().collect();
    for (name, inside) in ["pid", "net", "ipc", "uts", "mnt", "cgroup", "user"].iter().zip(&lines) {
        let outside = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(outside.to_str().unwrap(), *inside, "{name}");
    }
    assert_eq!(&lines[7..9], ["box", "1"]);
}

fn ids_are_mapped() {
    let place = Place::new("ids");
    let text = shell(
        &place,
        &mut spec(&[]),
        "id -u; cat /proc/self/uid_map; cat /proc/self/setgroups; stat -c %u:%g / /bin/busybox /home/user /tmp",
    );
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "1000000", "65536", "allow", "0:0", "0:0", "1000:1000", "0:0"]);
}

fn status(text: &str, key: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
}

fn capabilities_are_exact() {
    let place = Place::new("caps");
    let mut spec = spec(&["cat", "/proc/self/status"]);
    let text = run(&place, &spec).unwrap().stdout;
    let default = 0xa804_25fb;
    for (key, value) in [("CapBnd", default), ("CapEff", default), ("CapPrm", default), ("CapInh", 0), ("CapAmb", 0)] {
        assert_eq!(status(&text, key), value, "{key}");
    }
    assert!(text.contains("NoNewPrivs:\t0"));
    process(&mut spec).capabilities = None;
    process(&mut spec).no_new_privileges = true;
    process(&mut spec).user.uid = 1000;
    let text = run(&place, &spec).unwrap().stdout;
    for key in ["CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(status(&text, key), 0, "{key}");
    }
    assert!(text.contains("NoNewPrivs:\t1"));
}

fn ambient_capabilities() {
    let place = Place::new("amb");
    let mut spec = spec(&["cat", "/proc/self/status"]);
    let caps = process(&mut spec).capabilities.as_mut().unwrap();
    caps.inheritable = vec!["CAP_NET_RAW".into()];
    caps.ambient = vec!["CAP_NET_RAW".into()];
    process(&mut spec).user.uid = 1000;
    let text = run(&place, &spec).unwrap().stdout;
    assert_eq!(
        (status(&text, "CapAmb"), status(&text, "CapEff"), status(&text, "CapInh")),
        (1 << 13, 1 << 13, 1 << 13)
    );
}

fn devices_are_there() {
    let place = Place::new("dev");
    let script = "cd /dev; stat -c '%n %F %t:%T %a %u:%g' null zero full random urandom tty; for l in fd stdin ptmx; do readlink $l; done; \
                  echo x >null; head -c 2 zero | wc -c; ls -ld shm mqueue pts | wc -l; stat -c %a shm";
    let text = shell(&place, &mut spec(&[]), script);
    assert!(text.contains("null character special file 1:3 666 0:0\n"), "{text}");
    assert!(
        text.contains("tty character special file 5:0 666 0:0\n/proc/self/fd\n/proc/self/fd/0\npts/ptmx\n2\n3\n1777\n"),
        "{text}"
    );
}

fn extra_devices() {
    let place = Place::new("devx");
    let mut spec = spec(&[]);
    linux(&mut spec).devices = vec![brig_oci::runtime::LinuxDevice {
        path: "/dev/net/tun".into(),
        type_: "c".into(),
        major: 10,
        minor: 200,
        file_mode: Some(0o640),
        uid: Some(5),
        gid: Some(6),
    }];
    assert_eq!(
        shell(&place, &mut spec, "stat -c '%F %t:%T %a %u:%g' /dev/net/tun; stat -c %u /dev/net"),
        "character special file a:c8 640 5:6\n0\n"
    );
}

fn masks_and_read_only_paths() {
    let place = Place::new("mask");
    let script = "for f in /proc/interrupts /proc/keys; do stat -c %t:%T $f; head -c 1 $f | wc -c; done; ls -A /sys/firmware | wc -l; \
                  { echo x >/proc/sys/kernel/domainname; } 2>&1 | grep -c Read-only; grep -c ' /proc/bus ro,' /proc/self/mountinfo; \
                  { touch /sys/firmware/x; } 2>&1 | grep -c Read-only; { touch /sys/x; } 2>&1 | grep -c Read-only";
    assert_eq!(shell(&place, &mut spec(&[]), script), "1:3\n0\n1:3\n0\n0\n1\n1\n1\n1\n");
}

fn cgroups_are_private() {
    let place = Place::new("cg");
    let mut spec = spec(&[]);
    linux(&mut spec).resources =
        Some(brig_oci::runtime::Resources { pids: Some(brig_oci::runtime::Pids { limit: 20 }), ..Default::default() });
    let text = shell(
        &place,
        &mut spec,
        "cat /proc/self/cgroup | grep -v ':/$' | wc -l; ls /sys/fs/cgroup | wc -l; { mkdir /sys/fs/cgroup/x; } 2>&1 | grep -c Read-only; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; grep ' /sys/fs/cgroup' /proc/self/mountinfo | grep -v ' / /sys' | wc -l",
    );
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[2], lines[3], lines[4]), ("0", "1", "20", "0"), "{text}");
    assert_ne!(lines[1], "0");
}

fn no_descriptors_leak() {
    let place = Place::new("fds");
    let _held = std::fs::File::open("/").unwrap();
    // Not close-on-exec, on purpose.
    let leaked = rustix::io::dup(std::fs::File::open("/etc").unwrap()).unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let mut spec = spec(&["ls", "-l", "/proc/self/fd"]);
    let text = run(&place, &spec).unwrap().stdout;
    assert_eq!(text.lines().filter(|line| line.contains("->")).count(), 3, "{text}");
    process(&mut spec).args =
        vec!["sh".into(), "-c".into(), "echo x >/dev/stdout; echo y >>/dev/stderr; readlink /proc/1/exe".into()];
    process(&mut spec).user.uid = 1000;
    let ran = run(&place, &spec).unwrap();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("x\n/bin/busybox\n", "y\n"));
}

fn sysctl_is_written() {
    let place = Place::new("sysctl");
    let mut spec = spec(&[]);
    linux(&mut spec).sysctl.insert("kernel.msgmax".into(), "12345".into());
    linux(&mut spec).sysctl.insert("net/ipv4/ip_forward".into(), "1".into());
    let before = std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    let text = shell(
        &place,
        &mut spec,
        "cd /proc/sys; cat kernel/msgmax net/ipv4/ip_forward net/ipv4/ip_unprivileged_port_start",
    );
    assert_eq!(text, "12345\n1\n0\n");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(), before);
    linux(&mut spec).sysctl.insert("net.ipv4.conf.absent.forwarding".into(), "1".into());
    let error = run(&place, &spec).unwrap_err();
    assert!(error.message.contains("absent") && error.message.contains("ENOENT"), "{error}");
}

fn limits_and_oom_score() {
    let place = Place::new("limits");
    let mut spec = spec(&[]);
    process(&mut spec).rlimits = vec![
        brig_oci::runtime::Rlimit { type_: "RLIMIT_NOFILE".into(), soft: 12, hard: 34 },
        brig_oci::runtime::Rlimit { type_: "RLIMIT_CORE".into(), soft: 0, hard: u64::MAX },
    ];
    process(&mut spec).oom_score_adj = Some(123);
    process(&mut spec).user.umask = Some(0o27);
    let text = shell(&place, &mut spec, "ulimit -n; ulimit -Hn; ulimit -Hc; cat /proc/self/oom_score_adj; umask");
    assert_eq!(text, "12\n34\nunlimited\n123\n0027\n");
}

fn without_user_namespace() {
    let place = Place::new("host");
    let mut spec = spec(&[]);
    linux(&mut spec).namespaces.retain(|namespace| namespace.type_ != "user");
    linux(&mut spec).uid_mappings.clear();
    linux(&mut spec).gid_mappings.clear();
    let text = shell(
        &place,
        &mut spec,
        "id -u; cat /proc/self/uid_map; stat -c %u /bin/busybox /home/user; touch /tmp/made; stat -c %u /tmp/made",
    );
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["0", "0", "0", "4294967295", "0", "1000", "0"]);
}

fn joins_namespaces() {
    let place = Place::new("joina");
    let other = Place::new("joinb");
    let mut first = spec(&["sleep", "1000"]);
    linux(&mut first).namespaces.retain(|namespace| namespace.type_ != "user");
    linux(&mut first).uid_mappings.clear();
    linux(&mut first).gid_mappings.clear();
    let container = sleeper(&place, &first);
    let mut second = first.clone();
    for namespace in &mut linux(&mut second).namespaces {
        match namespace.type_.as_str() {
            "network" => namespace.path = Some(format!("/proc/{}/ns/net", container.pid()).into()),
            "pid" => namespace.path = Some(format!("/proc/{}/ns/pid", container.pid()).into()),
            _ => {}
        }
    }
    let text =
        shell(&other, &mut second, "for n in net pid; do readlink /proc/self/ns/$n; done; ps -o comm | grep -c sleep");
    let link =
        |name: &str| std::fs::read_link(format!("/proc/{}/ns/{name}", container.pid())).unwrap().display().to_string();
    assert_eq!(text, format!("{}\n{}\n1\n", link("net"), link("pid")));
    container.delete().unwrap();
}

fn joins_user_namespace_too() {
    let place = Place::new("joinu");
    let other = Place::new("joinv");
    let mut first = spec(&["sleep", "1000"]);
    let container = sleeper(&place, &first);
    linux(&mut first).uid_mappings.clear();
    linux(&mut first).gid_mappings.clear();
    for namespace in &mut linux(&mut first).namespaces {
        let name = match namespace.type_.as_str() {
            "network" => "net",
            "user" => "user",
            "ipc" => "ipc",
            _ => continue,
        };
        namespace.path = Some(format!("/proc/{}/ns/{name}", container.pid()).into());
    }
    linux(&mut first).sysctl.clear();
    let text = shell(
        &other,
        &mut first,
        "for n in net user; do readlink /proc/self/ns/$n; done; echo $$; id -u; touch /x; stat -c %u /x /home/user; ls /sys/class/net",
    );
    let link =
        |name: &str| std::fs::read_link(format!("/proc/{}/ns/{name}", container.pid())).unwrap().display().to_string();
    assert_eq!(text, format!("{}\n{}\n1\n0\n0\n1000\nlo\n", link("net"), link("user")));
    container.delete().unwrap();
}

fn time_namespace() {
    let place = Place::new("time");
    let mut spec = spec(&["sleep", "1000"]);
    linux(&mut spec).namespaces.push(brig_oci::runtime::LinuxNamespace { type_: "time".into(), path: None });
    let container = sleeper(&place, &spec);
    let inside = std::fs::read_link(format!("/proc/{}/ns/time", container.pid())).unwrap();
    assert_ne!(inside, std::fs::read_link("/proc/self/ns/time").unwrap());
    let ran =
        exec(&container, &spec, |process| process.args = vec!["readlink".into(), "/proc/self/ns/time".into()]).unwrap();
    assert_eq!(ran.stdout.trim(), inside.to_str().unwrap());
    container.delete().unwrap();
}

fn seccomp_is_loaded() {
    let place = Place::new("seccomp");
    for no_new_privileges in [false, true] {
        for init in [false, true] {
            let mut spec = spec(&["sh", "-c", "grep Seccomp: /proc/self/status; mkdir /tmp/x 2>&1; echo $?"]);
            linux(&mut spec).seccomp = Some(brig_oci::runtime::Seccomp {
                default_action: "SCMP_ACT_ALLOW".into(),
                syscalls: vec![brig_oci::runtime::SeccompRule {
                    names: vec!["mkdir".into(), "mkdirat".into(), "clone3".into()],
                    action: "SCMP_ACT_ERRNO".into(),
                    errno_ret: Some(1),
                    args: vec![],
                }],
                ..Default::default()
            });
            process(&mut spec).no_new_privileges = no_new_privileges;
            let ran = run_with(&place, &spec, place.overlay(), init).unwrap();
            assert_eq!(
                ran.stdout, "Seccomp:\t2\nmkdir: can't create directory '/tmp/x': Operation not permitted\n1\n",
                "{}",
                ran.stderr
            );
        }
    }
}

/// What kernels before 6.15 get, on this one.
fn old_kernels_overlay() {
    let place = Place::new("bypath");
    brig_runtime::testing::force_overlay_by_path(true);
    let text = shell(
        &place,
        &mut spec(&[]),
        "stat -c %u /bin/busybox; touch /etc/new; stat -c %u /etc/new; echo y >>/etc/passwd; cat /etc/passwd | wc -l",
    );
    let throw_away = brig_runtime::Rootfs::OverlayTmpfs { lower: vec![place.path("lower")], size_bytes: None };
    let ran =
        run_with(&place, &spec(&["sh", "-c", "stat -c %u /bin/busybox; rm /etc/passwd; ls /etc"]), throw_away, false)
            .unwrap();
    brig_runtime::testing::force_overlay_by_path(false);
    assert_eq!(ran.stdout, "0\n", "{ran:?}");
    assert_eq!(names(&place.path("lower/etc")), ["passwd"]);
    assert_eq!(text, "0\n0\n3\n");
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(std::fs::metadata(place.path("upper/etc/new")).unwrap().uid(), 0);
}
