//! Rows of the table of runtime vulnerabilities that need a whole runtime: programs that try to get at the host from
//! inside. What images and mounts can do is in the runtime's own tests.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::json;

use crate::bundle::{Bundle, copy_program, runtime};

/// T-RT-02, CVE-2019-5736: a program whose interpreter is the process that starts it.
#[test]
fn the_runtime_cannot_be_run_from_inside_and_written() {
    let before = fs::read(runtime()).unwrap();
    for exec in [false, true] {
        let mut bundle = Bundle::new("sleep 100");
        // Should it be the runtime that runs, it waits for somebody to read its log.
        let evil = bundle.path("rootfs/bin/evil");
        fs::write(&evil, "#!/proc/self/exe --log\n").unwrap();
        fs::set_permissions(&evil, fs::Permissions::from_mode(0o755)).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, bundle.path("rootfs/fifo"), rustix::fs::FileType::Fifo, 0o666.into(), 0)
            .unwrap();
        let mut child = if exec {
            bundle.ok(&["run", "--detach", "ID"]);
            bundle.command(&["exec", "ID", "/bin/evil", "--log", "/fifo", "state", "x"]).spawn().unwrap()
        } else {
            bundle.change(|spec| spec["process"]["args"] = json!(["/bin/evil", "--log", "/fifo", "state", "x"]));
            bundle.command(&["run", "ID"]).spawn().unwrap()
        };
        // Whatever runs in the container: its program must not be a file of the host that could be written to.
        let own = fs::metadata(runtime()).unwrap();
        let begun = std::time::Instant::now();
        let mut seen = false;
        while !seen && child.try_wait().unwrap().is_none() && begun.elapsed().as_secs() < 20 {
            for pid in bundle.inside() {
                let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                if !command.starts_with(b"/proc/self/exe\0--log\0/bin/evil\0") {
                    continue;
                }
                seen = true;
                let exe = format!("/proc/{pid}/exe");
                let same = fs::metadata(&exe).is_ok_and(|exe| (exe.dev(), exe.ino()) == (own.dev(), own.ino()));
                // While it runs, the kernel refuses to write to it anyway; what counts is how it was opened.
                let read_only = rustix::fs::statvfs(exe.as_str())
                    .is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
                assert!(!same || read_only, "the runtime's own file runs in the container, and could be written to");
            }
            // What a process runs is only seen by looking.
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        // A reader lets it end.
        let reader = rustix::fs::open(
            bundle.path("rootfs/fifo"),
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK,
            rustix::fs::Mode::empty(),
        );
        child.wait().unwrap();
        drop(reader);
        assert!(seen, "the program did not run");
        bundle.call(&["delete", "--force", "ID"]);
        bundle.clean();
    }
    assert!(before == fs::read(runtime()).unwrap(), "the runtime was overwritten");
}

/// T-RT-01, CVE-2016-9962: what joins a container shows nothing of the host there, even to one that may trace everything.
#[test]
fn processes_on_their_way_in_show_nothing_of_the_host() {
    let mut bundle = Bundle::new(
        "while [ ! -e /stop ]; do for p in /proc/[0-9]*; do ls -l $p/cwd $p/root $p/exe $p/fd 2>/dev/null; done; done >/log; true",
    );
    bundle.change(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_SYS_PTRACE"));
        }
    });
    bundle.ok(&["run", "--detach", "ID"]);
    let pid = bundle.pid();
    for _ in 0..25 {
        bundle.ok(&["exec", "ID", "/bin/true"]);
    }
    fs::write(bundle.path("rootfs/stop"), "").unwrap();
    assert_eq!(bundle.reap_init(pid), 0);
    let log = fs::read_to_string(bundle.path("rootfs/log")).unwrap();
    let host = bundle.path("").parent().unwrap().to_str().unwrap().to_owned();
    let targets = log.lines().filter_map(|line| line.split_once(" -> ")).map(|(_, target)| target);
    for target in targets {
        let known = ["/", "/bin/busybox", "/log", "/dev/null", "/brig-rt", "/etc/passwd"].contains(&target)
            || ["pipe:", "socket:", "anon_inode:", "/proc"].iter().any(|kind| target.starts_with(kind))
            // Files that this test gave as output.
            || ["/out", "/err"].iter().any(|name| target.ends_with(name));
        assert!(known && !target.contains(&host) || target.ends_with("/out") || target.ends_with("/err"), "{target}");
    }
    assert!(log.contains("-> /bin/busybox"));
    bundle.ok(&["delete", "ID"]);
    bundle.clean();
}

/// T-RT-10, CVE-2024-21626: a directory of the host that stayed open.
#[test]
fn descriptors_lead_nowhere() {
    let mut bundle = Bundle::new("sleep 100");
    for number in 3..8 {
        for cwd in [format!("/proc/self/fd/{number}"), format!("/w{number}"), format!("/proc/self/fd/{number}/../..")] {
            std::os::unix::fs::symlink(
                format!("/proc/self/fd/{number}"),
                bundle.path("rootfs").join(format!("w{number}")),
            )
            .ok();
            bundle.change(|spec| {
                spec["process"]["cwd"] = json!(cwd);
                spec["process"]["args"] = json!(["/bin/ls"]);
            });
            bundle.refused(&["run", "ID"], "process.cwd");
        }
        bundle.change(|spec| {
            spec["process"]["cwd"] = json!("/");
            spec["process"]["args"] = json!([format!("/proc/self/fd/{number}/bin/busybox"), "ls"]);
        });
        bundle.refused(&["run", "ID"], "exec: ");
    }
    // Descriptors that the caller forgot to close do not get in, neither through `run` nor through `exec`.
    bundle.change(|spec| spec["process"]["args"] = json!(["/bin/ls", "-l", "/proc/self/fd"]));
    let with_open_directory = |bundle: &Bundle, arguments: &[&str]| {
        let mut command = std::process::Command::new("/bin/busybox");
        command.args(["sh", "-c", "exec 7</ 8</etc/passwd 9</proc; exec \"$0\" \"$@\""]);
        command.arg(runtime()).arg("--root").arg(bundle.path("state")).args(arguments);
        command.current_dir(bundle.path("")).stdin(std::process::Stdio::null());
        let shown = crate::bundle::output(command);
        let open: Vec<&str> = shown.lines().filter_map(|line| line.split(" -> ").next()?.rsplit(' ').next()).collect();
        assert!(open.iter().all(|number| ["0", "1", "2", "3", "total"].contains(number)), "{shown}");
        // That is the listing's own.
        assert!(shown.lines().filter(|line| line.contains(" 3 -> ")).all(|line| line.contains("-> /proc/")), "{shown}");
    };
    with_open_directory(&bundle, &["run", &bundle.id]);
    bundle.clean();
    bundle.change(|spec| spec["process"]["args"] = json!(["/bin/sleep", "100"]));
    bundle.ok(&["run", "--detach", "ID"]);
    for number in 3..8 {
        let cwd = format!("/proc/self/fd/{number}");
        let called = bundle.call(&["exec", "--cwd", &cwd, "ID", "/bin/ls"]);
        assert!(called.code != 0 && called.stdout.is_empty() && called.stderr.contains("process.cwd"), "{called:?}");
    }
    with_open_directory(&bundle, &["exec", &bundle.id, "/bin/ls", "-l", "/proc/self/fd"]);
    bundle.ok(&["delete", "--force", "ID"]);
    bundle.clean();
}

/// T-RT-07, CVE-2022-29162 and its kin: nothing is inheritable unless the specification says so.
#[test]
fn file_capabilities_give_nothing_to_users() {
    let script = "grep -h CapInh /proc/self/status; grep -h CapAmb /proc/self/status; grep CapEff /proc/self/status";
    let mut bundle = Bundle::new("sleep 100");
    copy_program(Path::new("/bin/busybox"), &bundle.path("rootfs/bin/grep-raw"));
    fs::remove_file(bundle.path("rootfs/bin/grep")).unwrap();
    fs::rename(bundle.path("rootfs/bin/grep-raw"), bundle.path("rootfs/bin/grep")).unwrap();
    // Version 2, effective; permitted nothing, inheritable cap_kill (bit 5) and cap_net_raw (bit 13).
    let mut value = vec![1, 0, 0, 2, 0, 0, 0, 0];
    value.extend_from_slice(&(1u32 << 5 | 1 << 13).to_le_bytes());
    value.extend_from_slice(&[0; 8]);
    let file = bundle.path("rootfs/bin/grep");
    rustix::fs::setxattr(&file, "security.capability", &value, rustix::fs::XattrFlags::empty()).unwrap();
    let none = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\nCapEff:\t0000000000000000\n";
    bundle.change(|spec| {
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        spec["process"]["args"] = json!(["/bin/sh", "-c", script]);
    });
    assert_eq!(bundle.run(), none);
    bundle.change(|spec| spec["process"]["args"] = json!(["/bin/sleep", "100"]));
    bundle.ok(&["run", "--detach", "ID"]);
    assert_eq!(bundle.ok(&["exec", "ID", "/bin/sh", "-c", script]), none);
    bundle.ok(&["delete", "--force", "ID"]);
    bundle.clean();
}

/// T-RT-12, GHSA-g54h-m393-cpwq: no list of devices is no permission for all devices.
#[test]
fn no_device_rules_allow_no_devices() {
    let mut bundle =
        Bundle::new("mknod /t b 7 0; head -c 1 /t; mknod /u c 1 1; head -c 1 /u; head -c 1 /dev/zero | wc -c");
    for rules in [json!(null), json!([])] {
        bundle.change(|spec| spec["linux"]["resources"]["devices"] = rules);
        let called = bundle.call(&["run", "ID"]);
        assert_eq!(
            (called.stdout.as_str(), called.stderr.matches("Operation not permitted").count()),
            ("1\n", 2),
            "{called:?}"
        );
        for node in ["t", "u"] {
            fs::remove_file(bundle.path("rootfs").join(node)).unwrap();
        }
        bundle.clean();
    }
    bundle.change(|spec| {
        spec["linux"].as_object_mut().unwrap().remove("resources");
    });
    let called = bundle.call(&["run", "ID"]);
    assert_eq!(called.stderr.matches("Operation not permitted").count(), 2, "{called:?}");
    bundle.clean();
}

/// T-RT-13, CVE-2025-31133: what covers a masked path is our null device, whatever the image has at `/dev/null`.
#[test]
fn masks_are_ours() {
    use rustix::fs::{CWD, FileType, makedev, mknodat};
    for kind in ["link", "file", "fifo", "directory", "zero"] {
        let mut bundle = Bundle::new("stat -c '%t:%T' /proc/interrupts; cat /proc/interrupts; head -c 1 /etc/hidden");
        let null = bundle.path("rootfs/dev/null");
        match kind {
            "link" => std::os::unix::fs::symlink("/proc/sys/kernel/hostname", &null).unwrap(),
            "file" => fs::write(&null, "the image's").unwrap(),
            "fifo" => mknodat(CWD, &null, FileType::Fifo, 0o666.into(), 0).unwrap(),
            "directory" => fs::create_dir(&null).unwrap(),
            _ => mknodat(CWD, &null, FileType::CharacterDevice, 0o666.into(), makedev(1, 5)).unwrap(),
        }
        fs::write(bundle.path("rootfs/etc/hidden"), "secret").unwrap();
        bundle.change(|spec| {
            spec["mounts"]
                .as_array_mut()
                .unwrap()
                .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
            spec["linux"]["maskedPaths"] = json!(["/proc/interrupts", "/etc/hidden"]);
        });
        let called = bundle.call(&["run", "ID"]);
        assert!(called.code != 0 && !called.stderr.is_empty() || called.stdout == "1:3\n", "{kind}: {called:?}");
        bundle.clean();
    }
}

/// T-RT-14, CVE-2025-52565: a terminal where the image has links and pipes.
#[test]
fn terminals_are_ours() {
    for (kind, with_dev) in [("link", false), ("pts", false), ("fifo", false), ("link", true)] {
        let mut bundle = Bundle::new("ls -l /dev/console | grep -c 136,; tty");
        let dev = bundle.path("rootfs/dev");
        match kind {
            "link" => std::os::unix::fs::symlink(bundle.path("canary/new"), dev.join("console")).unwrap(),
            "pts" => {
                fs::create_dir(dev.join("pts")).unwrap();
                for number in 0..4 {
                    std::os::unix::fs::symlink(bundle.path("canary/file"), dev.join(format!("pts/{number}"))).unwrap();
                }
            }
            _ => {
                rustix::fs::mknodat(rustix::fs::CWD, dev.join("console"), rustix::fs::FileType::Fifo, 0o666.into(), 0)
                    .unwrap();
            }
        }
        bundle.change(|spec| {
            spec["process"]["terminal"] = json!(true);
            if !with_dev {
                // The image's own /dev, with our devpts in it or (then it must be refused) without.
                spec["mounts"].as_array_mut().unwrap().retain(|mount| {
                    mount["destination"] != "/dev" && (kind != "pts" || mount["destination"] != "/dev/pts")
                });
            }
        });
        let listener = std::os::unix::net::UnixListener::bind(bundle.path("console")).unwrap();
        let created = bundle.call(&["create", "--console-socket", "console", "ID"]);
        if created.code == 0 {
            let (socket, _) = listener.accept().unwrap();
            let master = brig_sys::fdpass::Channel::from_fd(socket.into()).receive().unwrap().fds.pop().unwrap();
            let pid = bundle.pid();
            bundle.ok(&["start", "ID"]);
            bundle.reap_init(pid);
            let mut output = String::new();
            // The end of a terminal is an error, after everything was read.
            std::io::Read::read_to_string(&mut fs::File::from(master), &mut output).ok();
            assert!(output.contains("1\r\n/dev/pts/0"), "{kind}: {output}");
            bundle.ok(&["delete", "ID"]);
        } else {
            assert!(kind != "link" || !with_dev, "{created:?}");
            assert!(!created.stderr.contains("panicked"), "{created:?}");
        }
        bundle.clean();
    }
}

/// T-RT-20, CVE-2026-30892: a user is all digits, or refused; never root by accident.
#[test]
fn users_are_numbers_in_full() {
    let bundle = Bundle::new("sleep 100");
    bundle.ok(&["run", "--detach", "ID"]);
    for (user, ids) in [("1", "1:0"), ("1:2", "1:2"), ("0:5", "0:5"), ("4294967294", "4294967294:0")] {
        assert_eq!(
            bundle.ok(&["exec", "--user", user, "ID", "sh", "-c", "echo $(id -u):$(id -g)"]).trim(),
            ids,
            "{user}"
        );
    }
    for user in [
        ":1",
        "+1",
        "0x1",
        " 1",
        "1 ",
        "4294967295",
        "4294967296",
        "-1",
        "1:4294967295",
        "1:4294967296",
        "1:-1",
        "1:+1",
        "1:2:3",
        "nosuch",
        "1:nosuch",
        "\u{661}",
        "1.0",
        "1e3",
    ] {
        let called = bundle.call(&["exec", "--user", user, "ID", "id"]);
        assert!(called.code != 0 && called.stdout.is_empty(), "{user:?}: {called:?}");
    }
    bundle.ok(&["delete", "--force", "ID"]);
    bundle.clean();
}

/// T-RT-21, CVE-2026-88265: streams that are the null device are not looked up in the image, and nobody's file is given away.
#[test]
fn streams_are_not_the_images() {
    let mut bundle = Bundle::new("id -u");
    std::os::unix::fs::symlink("/x", bundle.path("rootfs/dev/null")).unwrap();
    let source = bundle.text("canary/file");
    bundle.change(|spec| {
        spec["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        spec["mounts"].as_array_mut().unwrap().push(json!(
            {"destination": "/x", "type": "bind", "source": source, "options": ["bind"]}
        ));
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        spec["linux"]["maskedPaths"] = json!([]);
    });
    bundle.call(&["run", "ID"]);
    bundle.clean();
}

/// T-RT-08, T-RT-26 and CVE-2022-0492, without any filter: cgroups are read-only, and what asks for more rights is refused.
#[test]
fn rights_cannot_be_widened() {
    for bundle in [Bundle::new, Bundle::with_user_namespace] {
        let bundle = bundle(
            "for c in 'mount -t tmpfs x /tmp' 'mount -o remount,rw /sys' 'mount -o remount,rw /proc/sys' 'hostname x'; do
                 $c 2>/dev/null && echo $c; done
             for f in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $f/x 2>/dev/null && echo $f; done
             for f in /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/*/cgroup.procs /proc/sys/kernel/core_pattern \
                      /proc/sysrq-trigger /sys/kernel/uevent_helper; do { echo 1 >$f; } 2>/dev/null && echo $f; done; true",
        );
        assert_eq!(bundle.run(), "");
        bundle.clean();
    }
}

/// T-RT-04, T-RT-05, T-RT-11 (CVE-2019-19921, CVE-2021-30465, CVE-2024-45310): another container swaps a directory of a
/// shared volume for a link while mounts are made in it.
#[test]
fn a_volume_that_changes_under_way() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use std::sync::atomic::{AtomicBool, Ordering};
    let rounds = std::env::var("BRIG_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(32);
    let mut bundle = Bundle::new("grep -c /vol/ /proc/self/mountinfo; stat -f -c %t /proc");
    fs::create_dir_all(bundle.path("vol/a")).unwrap();
    fs::create_dir_all(bundle.path("source")).unwrap();
    let volume = bundle.text("vol");
    let source = bundle.text("source");
    bundle.change(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/vol", "type": "bind", "source": volume, "options": ["rbind"]}));
        mounts.push(json!({"destination": "/vol/a/x", "type": "tmpfs", "source": "tmpfs"}));
        mounts.push(json!({"destination": "/vol/a/made/y", "type": "bind", "source": source, "options": ["rbind"]}));
    });
    let mut outcomes = [0, 0];
    for target in
        [bundle.text("canary/dir"), "/".to_owned(), "../../../../../../../../..".to_owned(), "/proc".to_owned()]
    {
        fs::remove_file(bundle.path("vol/b")).ok();
        std::os::unix::fs::symlink(&target, bundle.path("vol/b")).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (a, b) = (bundle.path("vol/a"), bundle.path("vol/b"));
                while !stop.load(Ordering::Relaxed) {
                    renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
                }
            });
            for _ in 0..rounds / 4 {
                let called = bundle.call(&["run", "ID"]);
                outcomes[usize::from(called.code == 0)] += 1;
                assert!(!called.stderr.contains("EAGAIN") && !called.stderr.contains("panicked"), "{called:?}");
                assert!(called.code != 0 || called.stdout.ends_with("9fa0\n"), "{called:?}");
                bundle.canary();
            }
            stop.store(true, Ordering::Relaxed);
        });
        bundle.clean();
        let real = if bundle.path("vol/a").is_symlink() { "vol/b" } else { "vol/a" };
        if real == "vol/b" {
            renameat_with(CWD, bundle.path("vol/a"), CWD, bundle.path("vol/b"), RenameFlags::EXCHANGE).unwrap();
        }
    }
    assert!(outcomes[1] > 0, "none succeeded: {outcomes:?}");
    assert!(!std::path::Path::new("/made").exists() && !std::path::Path::new("/x").exists());
}
