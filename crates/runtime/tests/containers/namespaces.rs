//! Namespaces that are joined or missing, shifted clocks, and roots that are entered without `pivot_root`.

use std::fs;
use std::path::Path;

use brig_oci::runtime::{LinuxNamespace, Spec, TimeOffset};
use brig_runtime::{CreateRequest, Error, Rootfs};
use brig_sys::pidfd::Exit;

use crate::harness::*;

pub const TESTS: &[(&str, fn())] = &[
    ("clocks_are_shifted", clocks_are_shifted),
    ("joins_namespaces_by_path", joins_namespaces_by_path),
    ("joins_a_mount_namespace", joins_a_mount_namespace),
    ("joined_maps_must_agree", joined_maps_must_agree),
    ("without_a_mount_namespace", without_a_mount_namespace),
    ("without_pivot", without_pivot),
    ("wrong_namespaces_are_refused", wrong_namespaces_are_refused),
];

/// A container with the caller's user namespace; its root is `lower`.
fn plain(args: &[&str]) -> Spec {
    let mut spec = spec(args);
    let linux = linux(&mut spec);
    linux.namespaces.retain(|entry| entry.type_ != "user");
    (linux.uid_mappings, linux.gid_mappings) = Default::default();
    spec
}

fn set(spec: &mut Spec, type_: &str, path: Option<String>) {
    let list = &mut linux(spec).namespaces;
    list.retain(|entry| entry.type_ != type_);
    list.push(LinuxNamespace { type_: type_.into(), path: path.map(Into::into) });
}

fn directory(place: &Place, spec: &Spec, change: impl FnOnce(&mut CreateRequest<'_>)) -> Result<Ran, Error> {
    let (stdio, output) = pipes();
    let mut request = request(place, spec, Rootfs::Directory(place.path("lower")), stdio);
    change(&mut request);
    let mut container = brig_runtime::create(request)?;
    container.start()?;
    let ran = output.collect(container.pidfd());
    container.delete()?;
    Ok(ran)
}

fn clocks_are_shifted() {
    let place = Place::new("time");
    for (base, user) in [(spec as fn(&[&str]) -> Spec, true), (plain, false)] {
        let mut spec = base(&["cat", "/proc/self/timens_offsets"]);
        set(&mut spec, "time", None);
        let words = |text: String| text.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(words(run(&place, &spec).unwrap().stdout), "monotonic 0 0 boottime 0 0", "user {user}");
        linux(&mut spec).time_offsets = [
            ("monotonic".to_owned(), TimeOffset { secs: 7881, nanosecs: 2_718_281 }),
            ("boottime".to_owned(), TimeOffset { secs: -3, nanosecs: 3_141_519 }),
        ]
        .into();
        let shifted = "monotonic 7881 2718281 boottime -3 3141519";
        assert_eq!(words(run(&place, &spec).unwrap().stdout), shifted, "user {user}");
        // An exec is in the same time.
        process(&mut spec).args = vec!["sleep".into(), "1000".into()];
        let container = sleeper(&place, &spec);
        let ran = exec(&container, &spec, |process| {
            process.args = vec!["cat".into(), "/proc/self/timens_offsets".into()];
        });
        assert_eq!(words(ran.unwrap().stdout), shifted, "user {user}");
        container.delete().unwrap();
        // Before the machine was started.
        let offset = TimeOffset { secs: -1_000_000_000, nanosecs: 0 };
        linux(&mut spec).time_offsets = [("boottime".to_owned(), offset)].into();
        let error = run(&place, &spec).unwrap_err();
        assert!(error.message.starts_with("linux.timeOffsets: boottime: write(") && error.message.contains("ERANGE"));
    }
}

fn joins_namespaces_by_path() {
    let place = Place::new("join");
    let first = sleeper(&place, &spec(&["sleep", "1000"]));
    let second = Place::new("join2");
    for with_user in [true, false] {
        let kinds = ["pid", "network", "ipc", "uts", "cgroup"];
        let mut spec = if with_user { spec(&[]) } else { plain(&[]) };
        let files = kinds.iter().chain(with_user.then_some(&"user"));
        let mut script = String::new();
        let mut wanted = String::new();
        for kind in files {
            let file = if *kind == "network" { "net" } else { kind };
            let path = format!("/proc/{}/ns/{file}", first.pid());
            wanted += &format!("{}\n", fs::read_link(&path).unwrap().display());
            script += &format!("readlink /proc/self/ns/{file};");
            set(&mut spec, kind, Some(path));
        }
        spec.hostname = String::new();
        linux(&mut spec).sysctl.clear();
        process(&mut spec).args = vec!["sh".into(), "-c".into(), script];
        let ran = run(&second, &spec).unwrap_or_else(|error| panic!("user {with_user}: {error}"));
        assert_eq!(ran.stdout, wanted, "{ran:?}");
    }
    first.delete().unwrap();
}

/// Nobody else in that namespace gets another root.
fn joins_a_mount_namespace() {
    let place = Place::new("joinmnt");
    // A namespace with a tmpfs where the host has none.
    let holder = place.path("canary");
    let mut helper = std::process::Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c"])
        .arg(format!("mount -t tmpfs brig-joined {} && echo up && exec sleep 1000", holder.display()))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut up = [0u8; 3];
    std::io::Read::read_exact(helper.stdout.as_mut().unwrap(), &mut up).unwrap();
    let path = format!("/proc/{}/ns/mnt", helper.id());
    let root = fs::read_link(format!("/proc/{}/root", helper.id())).unwrap();
    let before = fs::read_to_string(format!("/proc/{}/mountinfo", helper.id())).unwrap();
    let mut spec = plain(&["sh", "-c", "readlink /proc/self/ns/mnt; ls /; ls /proc/self/fd/ | wc -l"]);
    set(&mut spec, "mount", Some(path.clone()));
    (linux(&mut spec).masked_paths, linux(&mut spec).readonly_paths) = Default::default();
    let ran = directory(&place, &spec, |_| {}).unwrap();
    let mut lines = ran.stdout.lines();
    assert_eq!(lines.next().unwrap(), fs::read_link(&path).unwrap().to_str().unwrap());
    assert!(ran.stdout.contains("\nhome\n"), "{ran:?}");
    assert_eq!(fs::read_link(format!("/proc/{}/root", helper.id())).unwrap(), root);
    let after = fs::read_to_string(format!("/proc/{}/mountinfo", helper.id())).unwrap();
    assert!(after.contains("brig-joined") && after.len() > before.len());
    helper.kill().unwrap();
    helper.wait().unwrap();
}

fn joined_maps_must_agree() {
    let place = Place::new("joinmap");
    let first = sleeper(&place, &spec(&["sleep", "1000"]));
    let second = Place::new("joinmap2");
    let mut spec = spec(&["cat", "/proc/self/uid_map"]);
    set(&mut spec, "user", Some(format!("/proc/{}/ns/user", first.pid())));
    assert!(run(&second, &spec).unwrap().stdout.contains("1000000"));
    linux(&mut spec).uid_mappings[0].host_id += 1;
    let error = run(&second, &spec).unwrap_err();
    assert!(error.message.starts_with("linux.uidMappings: is not the map"), "{error}");
    (linux(&mut spec).uid_mappings, linux(&mut spec).gid_mappings) = Default::default();
    assert!(run(&second, &spec).unwrap().stdout.contains("1000000"));
    first.delete().unwrap();
}

fn without_a_mount_namespace() {
    let place = Place::new("nomnt");
    let mut spec = plain(&["sleep", "1000"]);
    linux(&mut spec).namespaces.retain(|entry| entry.type_ != "mount");
    let error = directory(&place, &spec, |_| {}).unwrap_err();
    assert!(error.message.contains("cannot mask paths without a private mount namespace"), "{error}");
    (linux(&mut spec).masked_paths, linux(&mut spec).readonly_paths) = Default::default();
    assert!(run(&place, &spec).unwrap_err().message.contains("a root made of layers needs a mount namespace"));
    // What fails leaves no mount: the harness looks.
    spec.mounts.push(mount("/proc/self", "bind", "/etc", &["bind"]));
    assert!(directory(&place, &spec, |_| {}).is_err());
    spec.mounts.pop();
    process(&mut spec).cwd = "/etc/passwd".into();
    assert!(directory(&place, &spec, |_| {}).is_err());
    process(&mut spec).cwd = "/".into();
    let (stdio, _) = pipes();
    let mut container =
        brig_runtime::create(request(&place, &spec, Rootfs::Directory(place.path("lower")), stdio)).unwrap();
    container.start().unwrap();
    let same = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    assert_eq!(same(container.pid()), same(std::process::id() as i32));
    let ran = exec(&container, &spec, |process| process.args = vec!["ls".into(), "/".into()]).unwrap();
    assert!(ran.stdout.contains("home\n") && !ran.stdout.contains("boot\n"), "{ran:?}");
    container.delete().unwrap();
    // As the host shares these mounts, they are its own to take away.
    brig_sys::mount::detach_at(&place.path("lower")).unwrap();
}

fn without_pivot() {
    let place = Place::new("nopivot");
    for base in [spec as fn(&[&str]) -> Spec, plain] {
        let script = "ls /; readlink /proc/self/root; grep -c . /proc/self/mountinfo; ls -d /boot /opt";
        let mut spec = base(&["sh", "-c", script]);
        let (with, without) = (directory(&place, &spec, |_| {}), directory(&place, &spec, |ask| ask.no_pivot = true));
        assert_eq!(without.unwrap().stdout, with.unwrap().stdout);
        // A user namespace made inside gets no procfs without masks.
        process(&mut spec).capabilities.as_mut().unwrap().bounding.push("CAP_SYS_ADMIN".into());
        process(&mut spec).capabilities.as_mut().unwrap().permitted.push("CAP_SYS_ADMIN".into());
        process(&mut spec).capabilities.as_mut().unwrap().effective.push("CAP_SYS_ADMIN".into());
        let script = "busybox unshare -Urmpf sh -c 'mount -t proc none /proc && echo mounted' 2>&1; true";
        process(&mut spec).args = vec!["sh".into(), "-c".into(), script.into()];
        let ran = directory(&place, &spec, |ask| ask.no_pivot = true).unwrap();
        assert_eq!(ran.exit, Exit::Code(0));
        assert!(!ran.stdout.contains("mounted") && ran.stdout.contains("denied"), "{ran:?}");
        linux(&mut spec).rootfs_propagation = "rprivate".into();
        let error = directory(&place, &spec, |ask| ask.no_pivot = true).unwrap_err();
        assert!(error.message.contains("not safe without pivot_root"), "{error}");
    }
    assert!(Path::new("/proc/self/mountinfo").exists());
}

fn wrong_namespaces_are_refused() {
    let place = Place::new("wrongns");
    for (type_, path, text) in [
        ("network", "/proc/self/ns/uts", "CLONE_NEWUTS, wanted CLONE_NEWNET"),
        ("network", "/etc/passwd", "is no namespace, wanted CLONE_NEWNET"),
        ("ipc", "/proc/4194305/ns/ipc", "ENOENT"),
        ("bogus", "", "unknown type \"bogus\""),
    ] {
        let mut spec = spec(&["true"]);
        set(&mut spec, type_, Some(path.to_owned()).filter(|path| !path.is_empty()));
        let error = run(&place, &spec).unwrap_err();
        assert!(error.message.contains("linux.namespaces") && error.message.contains(text), "{error}");
    }
    let mut spec = spec(&["true"]);
    linux(&mut spec).namespaces.push(LinuxNamespace { type_: "ipc".into(), path: None });
    assert!(run(&place, &spec).unwrap_err().message.contains("is listed twice"));
}
