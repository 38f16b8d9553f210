//! Mounts as bundles have them: relative paths, sources in the container's own root, what becomes read-only last, and device
//! nodes in any place.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};

use brig_oci::runtime::{IdMapping, LinuxDevice, Spec};
use brig_runtime::{Error, Rootfs};

use crate::harness::*;

pub const TESTS: &[(&str, fn())] = &[
    ("paths_of_a_bundle", paths_of_a_bundle),
    ("sources_in_the_root", sources_in_the_root),
    ("sources_in_the_root_with_maps", sources_in_the_root_with_maps),
    ("tmpfs_is_like_its_place", tmpfs_is_like_its_place),
    ("read_only_comes_last", read_only_comes_last),
    ("recursive_attributes_of_a_tmpfs", recursive_attributes_of_a_tmpfs),
    ("directories_inherit_their_group", directories_inherit_their_group),
    ("proc_and_sys_of_the_host", proc_and_sys_of_the_host),
    ("nodes_outside_of_dev", nodes_outside_of_dev),
    ("dev_of_the_host", dev_of_the_host),
    ("old_filters_start_programs", old_filters_start_programs),
];

/// A container as a bundle makes it: the caller's user namespace, the root a directory as it is.
fn bundle(args: &[&str]) -> Spec {
    let mut spec = spec(args);
    let linux = linux(&mut spec);
    linux.namespaces.retain(|entry| entry.type_ != "user");
    (linux.uid_mappings, linux.gid_mappings) = Default::default();
    spec
}

fn run_bundle(place: &Place, spec: &Spec) -> Result<Ran, Error> {
    let (stdio, output) = pipes();
    let mut request = request(place, spec, Rootfs::Directory(place.path("lower")), stdio);
    request.idmap_binds = false;
    let mut container = brig_runtime::create(request)?;
    container.start()?;
    let ran = output.collect(container.pidfd());
    container.delete()?;
    Ok(ran)
}

fn sh(place: &Place, spec: &mut Spec, script: &str) -> String {
    process(spec).args = vec!["sh".into(), "-c".into(), script.into()];
    let ran = run_bundle(place, spec).unwrap_or_else(|error| panic!("{error}"));
    assert!(ran.stderr.is_empty(), "{script}: {}", ran.stderr);
    ran.stdout
}

fn paths_of_a_bundle() {
    let place = Place::new("mpaths");
    fs::write(place.path("canary/file"), "of the bundle").unwrap();
    let mut spec = bundle(&[]);
    spec.mounts.push(mount("somewhere/inside", "bind", "canary", &["bind", "ro"]));
    assert_eq!(sh(&place, &mut spec, "cat /somewhere/inside/file"), "of the bundle");
}

fn sources_in_the_root() {
    let place = Place::new("minner");
    for name in ["a/x", "b/y", "c/z"] {
        fs::create_dir_all(place.path("canary").join(name)).unwrap();
        fs::write(place.path("canary").join(name).join("file"), name).unwrap();
    }
    let root = place.path("lower");
    let inside = |path: &str| root.join(path).to_str().unwrap().to_owned();
    let outside = |name: &str| place.path("canary").join(name).to_str().unwrap().to_owned();
    let mut spec = bundle(&[]);
    spec.mounts.push(mount("/mnt", "bind", &outside("a"), &["bind"]));
    spec.mounts.push(mount("/mnt/x", "bind", &outside("b"), &["bind"]));
    spec.mounts.push(mount(&inside("final"), "bind", &inside("mnt"), &["rbind", "ro"]));
    spec.mounts.push(mount("/only", "bind", &inside("mnt"), &["bind"]));
    let text = sh(&place, &mut spec, "cat /final/x/y/file /only/x/file; touch /final/new 2>/dev/null || echo ro");
    assert_eq!(text, "b/ya/xro\n");
    // A link cannot lead out of the root.
    std::os::unix::fs::symlink("../../../../../../../etc", root.join("out")).unwrap();
    spec.mounts.push(mount("/again", "bind", &inside("out"), &["rbind"]));
    assert_eq!(sh(&place, &mut spec, "ls /again"), "passwd\n");
}

fn sources_in_the_root_with_maps() {
    let place = Place::new("minnermap");
    fs::create_dir_all(place.path("canary/a")).unwrap();
    fs::write(place.path("canary/a/file"), "").unwrap();
    let outside = place.path("canary/a");
    let inside = place.path("lower/mnt");
    let map = vec![IdMapping { container_id: 0, host_id: BASE, size: 65536 }];
    // The first leaves the places behind that the second, with a user namespace, could not make.
    for (base, owner) in [(bundle as fn(&[&str]) -> Spec, BASE), (spec, 0)] {
        let mut spec = base(&[]);
        spec.mounts.push(mount("/mnt", "bind", outside.to_str().unwrap(), &["bind"]));
        let mut mapped = mount("/mapped", "bind", inside.to_str().unwrap(), &["bind", "ro"]);
        (mapped.uid_mappings, mapped.gid_mappings) = (map.clone(), map.clone());
        spec.mounts.push(mapped);
        let script = "stat -c %u:%g /mapped/file; touch /mapped/new 2>/dev/null || echo ro";
        assert_eq!(sh(&place, &mut spec, script), format!("{owner}:{owner}\nro\n"));
    }
}

fn tmpfs_is_like_its_place() {
    let place = Place::new("mtmpfs");
    let covered = place.path("lower/covered");
    fs::create_dir(&covered).unwrap();
    fs::set_permissions(&covered, fs::Permissions::from_mode(0o710)).unwrap();
    fs::create_dir(covered.join("dir")).unwrap();
    fs::set_permissions(covered.join("dir"), fs::Permissions::from_mode(0o777)).unwrap();
    for (path, options, mode) in [
        ("/covered", &["nodev"][..], "710"),
        ("/covered", &["nodev", "mode=1500"], "1500"),
        ("/covered", &["tmpcopyup"], "710"),
        ("/covered", &["tmpcopyup", "mode=1770"], "1770"),
        ("/none/such", &["nodev"], "1777"),
    ] {
        let mut spec = bundle(&[]);
        spec.mounts.push(mount(path, "tmpfs", "tmpfs", options));
        assert_eq!(sh(&place, &mut spec, &format!("stat -c %a {path}")).trim(), mode, "{path} {options:?}");
        fs::remove_dir_all(place.path("lower/none")).unwrap_or_default();
        assert_eq!(fs::metadata(&covered).unwrap().mode() & 0o7777, 0o710);
    }
    let mut spec = bundle(&[]);
    spec.mounts.push(mount("/covered", "tmpfs", "tmpfs", &["tmpcopyup", "ro"]));
    assert_eq!(sh(&place, &mut spec, "stat -c %a /covered/dir; touch /covered/x 2>/dev/null || echo ro"), "777\nro\n");
}

fn read_only_comes_last() {
    let place = Place::new("mro");
    for base in [bundle as fn(&[&str]) -> Spec, spec] {
        let mut spec = base(&[]);
        for entry in &mut spec.mounts {
            if entry.destination == std::path::Path::new("/dev") {
                entry.options.push("ro".into());
            }
        }
        spec.mounts.push(mount("/outer", "tmpfs", "tmpfs", &["ro", "mode=755"]));
        spec.mounts.push(mount("/outer/inner", "tmpfs", "tmpfs", &["mode=755"]));
        spec.root.as_mut().unwrap().readonly = true;
        let script = "grep -E '^[^ ]* /(dev|outer)?(/inner)? ' /proc/mounts | sort -k2 | while read a b c d e; do echo $b ${d%%,*}; done; \
             touch /outer/inner/x; for d in /dev /outer / ; do touch $d/x 2>/dev/null && echo $d; done; true";
        process(&mut spec).args = vec!["sh".into(), "-c".into(), script.into()];
        let ran = run(&place, &spec).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(ran.stdout, "/ ro\n/dev ro\n/outer ro\n/outer/inner rw\n", "{ran:?}");
    }
}

fn recursive_attributes_of_a_tmpfs() {
    let place = Place::new("mrec");
    let mut spec = bundle(&[]);
    spec.mounts.push(mount("/t", "tmpfs", "tmpfs", &["rro", "rnoexec", "mode=700"]));
    let text = sh(&place, &mut spec, "grep ' /t ' /proc/mounts");
    assert!(text.contains(" ro,noexec,relatime,mode=700"), "{text}");
}

fn directories_inherit_their_group() {
    let place = Place::new("msgid");
    fs::create_dir(place.path("lower/shared")).unwrap();
    fs::set_permissions(place.path("lower/shared"), fs::Permissions::from_mode(0o7755)).unwrap();
    let mut spec = bundle(&[]);
    spec.mounts.push(mount("/shared/a/b", "tmpfs", "tmpfs", &["mode=755"]));
    sh(&place, &mut spec, "true");
    for (name, mode) in [("shared", 0o7755), ("shared/a", 0o2755), ("shared/a/b", 0o2755)] {
        assert_eq!(fs::metadata(place.path("lower").join(name)).unwrap().mode() & 0o7777, mode, "{name}");
    }
}

/// T-RT-03: only what is really a procfs or a sysfs.
fn proc_and_sys_of_the_host() {
    let place = Place::new("mspecial");
    for name in ["proc", "sys"] {
        let point = format!("/{name}");
        let mut spec = bundle(&["true"]);
        spec.mounts.retain(|entry| !entry.destination.starts_with(&point));
        (linux(&mut spec).masked_paths, linux(&mut spec).readonly_paths) = Default::default();
        let canary = place.path("canary");
        for source in [canary.to_str().unwrap(), "/proc/self", "/sys/kernel", "/dev"] {
            spec.mounts.push(mount(&point, "bind", source, &["rbind"]));
            let error = run_bundle(&place, &spec).unwrap_err();
            assert!(error.message.contains("only a whole"), "{source}: {error}");
            spec.mounts.pop();
        }
        spec.mounts.push(mount(&point, "none", &point, &["rbind", "nosuid", "noexec", "nodev", "ro"]));
        let known = if name == "proc" { "/proc/version" } else { "/sys/kernel" };
        assert_eq!(sh(&place, &mut spec, &format!("ls -d {known}")).trim(), known);
    }
}

fn nodes_outside_of_dev() {
    let place = Place::new("mnodes");
    let node = |path: &str, type_: &str, major: i64, minor: i64| LinuxDevice {
        path: path.into(),
        type_: type_.into(),
        major,
        minor,
        file_mode: Some(0o640),
        uid: Some(7),
        gid: Some(8),
    };
    for base in [bundle as fn(&[&str]) -> Spec, spec] {
        let mut spec = base(&[]);
        linux(&mut spec).devices =
            vec![node("/opt/zero", "c", 1, 5), node("/opt/deep/pipe", "p", 0, 0), node("/dev/own", "c", 1, 3)];
        let script = "stat -c '%n %F %t:%T %a %u:%g' /opt/zero /opt/deep/pipe /dev/own";
        process(&mut spec).args = vec!["sh".into(), "-c".into(), script.into()];
        let ran = run(&place, &spec).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            ran.stdout,
            "/opt/zero character special file 1:5 640 7:8\n/opt/deep/pipe fifo 0:0 640 7:8\n/dev/own character special file 1:3 640 7:8\n",
            "{ran:?}"
        );
    }
    // Nothing of it is on the disk, and no link of the image leads out.
    assert!(!fs::symlink_metadata(place.path("upper/opt/zero")).unwrap().file_type().is_char_device());
    let place = Place::new("mnodes2");
    std::os::unix::fs::symlink(place.path("canary"), place.path("lower/opt")).unwrap();
    let mut spec = spec(&["true"]);
    linux(&mut spec).devices = vec![node("/opt/zero", "c", 1, 5)];
    run(&place, &spec).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(names(&place.path("canary")), [""; 0]);
}

/// Privileged containers with `-v /dev:/dev` list every device of the host besides.
fn dev_of_the_host() {
    let place = Place::new("mdev");
    let mut spec = bundle(&[]);
    spec.mounts.retain(|entry| !entry.destination.starts_with("/dev"));
    spec.mounts.push(mount("/dev", "bind", "/dev", &["rbind"]));
    let absent = LinuxDevice {
        path: "/dev/absent-here".into(),
        type_: "c".into(),
        major: 1,
        minor: 3,
        ..LinuxDevice::default()
    };
    linux(&mut spec).devices = vec![absent];
    assert_eq!(
        sh(&place, &mut spec, "echo x >/dev/null; ls /dev/absent-here 2>/dev/null || echo as it is"),
        "as it is\n"
    );
    assert!(!std::path::Path::new("/dev/absent-here").exists());
}

/// Filters from before a few system calls existed, in force before they are needed.
fn old_filters_start_programs() {
    let place = Place::new("moldfilter");
    for no_new_privileges in [false, true] {
        let mut spec = bundle(&["true"]);
        process(&mut spec).no_new_privileges = no_new_privileges;
        process(&mut spec).user.uid = 1000;
        process(&mut spec).cwd = "/home/user".into();
        linux(&mut spec).seccomp = serde_json::from_str(
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
                "syscalls": [{"names": ["openat2", "close_range", "faccessat2", "clone3"], "action": "SCMP_ACT_ERRNO"}]}"#,
        )
        .unwrap();
        assert_eq!(sh(&place, &mut spec, "pwd; ls /proc/self/fd | wc -l"), "/home/user\n4\n");
        for fd in [0, 1, 3, 4, 5] {
            process(&mut spec).cwd = format!("/proc/self/fd/{fd}");
            assert!(run_bundle(&place, &spec).is_err(), "{fd}");
        }
    }
}
