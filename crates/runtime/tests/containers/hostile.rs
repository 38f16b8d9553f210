//! Images that lie, and specifications that contradict themselves. Rows of the security plan are named where one is meant.

use std::fs;
use std::os::unix::fs::symlink;

use brig_runtime::Rootfs;

use crate::harness::*;

pub const TESTS: &[(&str, fn())] = &[
    ("links_instead_of_dev", links_instead_of_dev),
    ("links_instead_of_proc_and_sys", links_instead_of_proc_and_sys),
    ("links_at_mount_points", links_at_mount_points),
    ("null_device_of_the_image", null_device_of_the_image),
    ("destinations_in_proc", destinations_in_proc),
    ("devices_of_the_image_are_dead", devices_of_the_image_are_dead),
    ("privileges_cannot_be_regained", privileges_cannot_be_regained),
    ("failed_create_leaves_nothing", failed_create_leaves_nothing),
    ("contradictions_are_refused", contradictions_are_refused),
    ("passwd_is_a_fifo", passwd_is_a_fifo),
    ("init_cannot_be_looked_into", init_cannot_be_looked_into),
];

/// What the image's links point to must stay as it was.
fn canary(place: &Place) -> String {
    let canary = place.path("canary");
    fs::create_dir_all(canary.join("dir")).unwrap();
    fs::write(canary.join("ptmx"), "keep").unwrap();
    fs::write(canary.join("file"), "keep").unwrap();
    canary.to_str().unwrap().to_owned()
}

fn assert_canary(place: &Place) {
    assert_eq!(names(&place.path("canary")), ["dir", "file", "ptmx"]);
    assert_eq!(names(&place.path("canary/dir")), [""; 0]);
    for file in ["file", "ptmx"] {
        assert_eq!(fs::read_to_string(place.path("canary").join(file)).unwrap(), "keep");
    }
}

/// T-RT-16.
fn links_instead_of_dev() {
    for (root, target) in
        [("overlay", "absolute"), ("overlay", "relative"), ("directory", "absolute"), ("directory", "relative")]
    {
        let place = Place::new("ldev");
        let canary = canary(&place);
        let link = if target == "absolute" { canary.clone() } else { "../../../../../../..".to_owned() + &canary };
        symlink(link, place.path("lower/dev")).unwrap();
        let rootfs = if root == "overlay" { place.overlay() } else { Rootfs::Directory(place.path("lower")) };
        let mut spec = spec(&["sh", "-c", "ls /dev/null /dev/pts/ptmx"]);
        process(&mut spec).terminal = false;
        let ran = run_with(&place, &spec, rootfs, false).unwrap();
        assert_eq!(ran.stdout, "/dev/null\n/dev/pts/ptmx\n", "{ran:?}");
        assert_canary(&place);
    }
}

/// T-RT-09.
fn links_instead_of_proc_and_sys() {
    for name in ["proc", "sys"] {
        for target in ["tmp", "/tmp", "../proc", "."] {
            let place = Place::new("lproc");
            symlink(target, place.path("lower").join(name)).unwrap();
            let error = run(&place, &spec(&["true"])).unwrap_err();
            assert!(error.message.contains("is a symbolic link in the image"), "{name} -> {target}: {error}");
        }
        let place = Place::new("fproc");
        fs::write(place.path("lower").join(name), "").unwrap();
        assert!(run(&place, &spec(&["true"])).unwrap_err().message.contains("not a directory"));
    }
}

/// T-RT-18, T-RT-19.
fn links_at_mount_points() {
    let place = Place::new("lmount");
    let canary = canary(&place);
    fs::remove_file(place.path("lower/etc/hosts")).unwrap_or_default();
    symlink(format!("{canary}/file"), place.path("lower/etc/hosts")).unwrap();
    symlink(format!("../../../../../..{canary}/new"), place.path("lower/etc/resolv.conf")).unwrap();
    symlink(format!("{canary}/dir"), place.path("lower/data")).unwrap();
    symlink(format!("{canary}/dir/made"), place.path("lower/work")).unwrap();
    symlink("loop", place.path("lower/loop")).unwrap();
    fs::write(place.path("hosts"), "ours\n").unwrap();
    let mut spec = spec(&["cat", "/etc/hosts", "/etc/resolv.conf", "/data/x/hosts"]);
    let source = place.path("hosts").to_str().unwrap().to_owned();
    for destination in ["/etc/hosts", "/etc/resolv.conf", "/data/x/hosts"] {
        spec.mounts.push(mount(destination, "bind", &source, &["bind", "ro"]));
    }
    process(&mut spec).cwd = "/work".into();
    let ran = run(&place, &spec).unwrap();
    assert_eq!(ran.stdout, "ours\nours\nours\n", "{ran:?}");
    assert_canary(&place);
    spec.mounts.push(mount("/loop/x", "tmpfs", "tmpfs", &[]));
    assert!(run(&place, &spec).unwrap_err().message.contains("ELOOP"));
}

/// T-RT-13: what covers a masked path is our own null device, whatever the image has.
fn null_device_of_the_image() {
    let place = Place::new("lnull");
    fs::create_dir(place.path("lower/dev")).unwrap();
    symlink("/proc/sys/kernel/hostname", place.path("lower/dev/null")).unwrap();
    let mut spec = spec(&[]);
    spec.mounts.retain(|mount| !mount.destination.starts_with("/dev"));
    linux(&mut spec).masked_paths = vec!["/proc/interrupts".into()];
    assert_eq!(
        shell(&place, &mut spec, "stat -c %t:%T /proc/interrupts /dev/null; cat /proc/interrupts"),
        "1:3\n1:3\n"
    );
}

/// T-RT-03, T-RT-15.
fn destinations_in_proc() {
    let place = Place::new("inproc");
    let canary = canary(&place);
    symlink("/proc/self", place.path("lower/sneak")).unwrap();
    for (destination, type_) in [
        ("/proc", "bind"),
        ("/proc/self/attr", "bind"),
        ("/proc/sys/net", "tmpfs"),
        ("/sys", "bind"),
        ("/sneak/attr", "bind"),
        ("/sneak/attr", "tmpfs"),
    ] {
        let mut spec = spec(&["true"]);
        spec.mounts.push(mount(destination, type_, &canary, if type_ == "bind" { &["bind"] } else { &[] }));
        assert!(run(&place, &spec).is_err(), "{destination} {type_}");
    }
    let mut spec = spec(&["cat", "/proc/uptime"]);
    spec.mounts.push(mount("/proc/uptime", "bind", &format!("{canary}/file"), &["bind", "ro"]));
    assert_eq!(run(&place, &spec).unwrap().stdout, "keep");
    assert_canary(&place);
}

fn devices_of_the_image_are_dead() {
    let place = Place::new("imgdev");
    let dev = rustix::fs::makedev(1, 5);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.path("lower/zero"),
        rustix::fs::FileType::CharacterDevice,
        0o666.into(),
        dev,
    )
    .unwrap();
    let text = shell(
        &place,
        &mut spec(&[]),
        "{ head -c 1 /zero; } 2>&1 | grep -c denied; { mknod /x c 1 5; } 2>&1 | grep -c permitted; grep ' / / ' /proc/self/mountinfo | grep -c nodev",
    );
    assert_eq!(text, "1\n1\n1\n");
}

/// T-RT-26, without any filter.
fn privileges_cannot_be_regained() {
    let place = Place::new("regain");
    let text = shell(
        &place,
        &mut spec(&[]),
        "for c in 'mount -t tmpfs x /tmp' 'mount -o remount,rw /sys' 'umount /proc/kcore' 'hostname x'; do $c 2>/dev/null && echo $c; done; ls /sys/fs/cgroup/*/release_agent 2>/dev/null | wc -l",
    );
    assert_eq!(text, "0\n");
}

fn failed_create_leaves_nothing() {
    let place = Place::new("fail");
    let children =
        || fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id())).unwrap_or_default();
    let before = (children(), names("/proc/self/fd".as_ref()).len());
    for step in 0..6 {
        let mut spec = spec(&["true"]);
        match step {
            0 => spec.mounts.push(mount("/x", "bogusfs", "x", &[])),
            1 => spec.mounts.push(mount("/x", "bind", "/absent", &["bind"])),
            2 => linux(&mut spec).uid_mappings[0].host_id = u32::MAX - 10,
            3 => process(&mut spec).user.gid = 65536,
            4 => process(&mut spec).apparmor_profile = "none-such".into(),
            _ => process(&mut spec).cwd = "/etc/passwd".into(),
        }
        let error = run(&place, &spec).unwrap_err();
        assert!(!error.message.is_empty(), "{step}");
    }
    assert_eq!((children(), names("/proc/self/fd".as_ref()).len()), before);
}

fn contradictions_are_refused() {
    let place = Place::new("contra");
    type Change = fn(&mut brig_oci::runtime::Spec);
    let cases: &[(&str, Change)] = &[
        ("ociVersion", |spec| spec.oci_version = "2.0.0".into()),
        ("linux", |spec| spec.linux = None),
        ("process", |spec| spec.process = None),
        ("hostname", |spec| linux(spec).namespaces.retain(|entry| entry.type_ != "uts")),
        ("linux.sysctl", |spec| linux(spec).namespaces.retain(|entry| entry.type_ != "network")),
        ("linux.uidMappings", |spec| linux(spec).namespaces.retain(|entry| entry.type_ != "user")),
        ("linux.namespaces", |spec| linux(spec).uid_mappings.clear()),
        ("linux.namespaces", |spec| linux(spec).namespaces.retain(|entry| entry.type_ != "mount")),
        ("linux.rootfsPropagation", |spec| linux(spec).rootfs_propagation = "sideways".into()),
        ("linux.maskedPaths", |spec| linux(spec).masked_paths = vec!["relative".into()]),
        ("linux.readonlyPaths", |spec| linux(spec).readonly_paths = vec!["/a/../..".into()]),
        ("linux.intelRdt", |spec| linux(spec).intel_rdt = Some(brig_oci::runtime::IntelRdt::default())),
        ("linux.mountLabel", |spec| linux(spec).mount_label = "x".into()),
        ("process.terminal", |spec| process(spec).terminal = true),
        ("process.selinuxLabel", |spec| process(spec).selinux_label = "x".into()),
    ];
    for (field, change) in cases {
        let mut spec = spec(&["true"]);
        change(&mut spec);
        let Err(error) = run(&place, &spec) else { panic!("{field}: not refused") };
        assert!(error.message.starts_with(field), "{field}: {error}");
    }
}

fn passwd_is_a_fifo() {
    let place = Place::new("fifo");
    fs::remove_file(place.path("lower/etc/passwd")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, place.path("lower/etc/passwd"), rustix::fs::FileType::Fifo, 0o666.into(), 0)
        .unwrap();
    assert_eq!(run(&place, &spec(&["sh", "-c", "echo $HOME"])).unwrap().stdout, "/\n");
}

/// T-RT-01: while a process is on its way in, the container sees nothing of it.
fn init_cannot_be_looked_into() {
    let place = Place::new("peek");
    let mut spec = spec(&[
        "sh",
        "-c",
        "while :; do for p in /proc/[0-9]*; do ls -l $p/cwd $p/root $p/exe $p/fd 2>/dev/null; done; done >/log",
    ]);
    process(&mut spec).capabilities.as_mut().unwrap().bounding.push("CAP_SYS_PTRACE".into());
    process(&mut spec).capabilities.as_mut().unwrap().permitted.push("CAP_SYS_PTRACE".into());
    process(&mut spec).capabilities.as_mut().unwrap().effective.push("CAP_SYS_PTRACE".into());
    let container = sleeper(&place, &spec);
    for _ in 0..100 {
        exec(&container, &spec, |process| process.args = vec!["true".into()]).unwrap();
    }
    let log = fs::read_to_string(place.path("upper/log")).unwrap();
    container.kill(9).unwrap();
    container.delete().unwrap();
    for line in log.lines().filter_map(|line| line.split_once(" -> ")).map(|(_, target)| target) {
        let known = ["/", "/bin/busybox", "/log", "/dev/null"].contains(&line)
            || line.starts_with("pipe:")
            || line.starts_with("/proc");
        assert!(known, "{line}");
    }
    assert!(log.contains("-> /bin/busybox"));
}
