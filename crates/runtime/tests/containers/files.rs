//! Files: owners, read-only, binds, tmpfs, and the throw-away root.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};

use brig_runtime::{ErrorKind, Rootfs};

use crate::harness::*;

pub const TESTS: &[(&str, fn())] = &[
    ("layers_keep_plain_ids", layers_keep_plain_ids),
    ("volatile_restarts", volatile_restarts),
    ("read_only_root", read_only_root),
    ("binds_show_owners", binds_show_owners),
    ("bind_options", bind_options),
    ("bind_of_what_cannot_be_mapped", bind_of_what_cannot_be_mapped),
    ("bind_with_own_mapping", bind_with_own_mapping),
    ("tmpfs_options", tmpfs_options),
    ("tmpcopyup_copies", tmpcopyup_copies),
    ("directory_as_root", directory_as_root),
    ("throw_away_root_of_the_host", throw_away_root_of_the_host),
    ("bind_missing", bind_missing),
];

fn owner(path: &std::path::Path) -> (u32, u32) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

fn layers_keep_plain_ids() {
    let place = Place::new("plain");
    let script = "touch /tmp/root; echo more >>/etc/passwd; chown 1000:1000 /tmp/root; mkdir /tmp/dir; rm -r /home/user; mkdir /home/user; stat -c %u:%g /etc/passwd /tmp/dir /home/user";
    assert_eq!(shell(&place, &mut spec(&[]), script), "0:0\n0:0\n0:0\n");
    assert_eq!(owner(&place.path("upper/tmp/root")), (1000, 1000));
    assert_eq!(owner(&place.path("upper/etc/passwd")), (0, 0));
    assert_eq!(owner(&place.path("upper/tmp/dir")), (0, 0));
    assert_eq!(owner(&place.path("work/work")), (0, 0));
    assert_eq!(fs::read_to_string(place.path("lower/etc/passwd")).unwrap().lines().count(), 2);
}

fn volatile_restarts() {
    let place = Place::new("again");
    for round in ["1", "2", "3"] {
        assert_eq!(shell(&place, &mut spec(&[]), "echo x >>/count; wc -l </count").trim(), round);
    }
}

fn read_only_root() {
    let place = Place::new("ro");
    let mut spec = spec(&[]);
    spec.root.as_mut().unwrap().readonly = true;
    process(&mut spec).cwd = "/made/by/us".into();
    let text = shell(
        &place,
        &mut spec,
        "pwd; { touch /x; } 2>&1 | grep -c Read-only; touch /dev/shm/x && echo shm; touch /dev/x && echo dev",
    );
    assert_eq!(text, "/made/by/us\n1\nshm\ndev\n");
}

fn binds_show_owners() {
    let place = Place::new("bind");
    let source = place.path("canary");
    fs::write(source.join("mine"), "x").unwrap();
    chown(source.join("mine"), Some(1000), Some(1001)).unwrap();
    fs::write(place.path("hosts"), "1.2.3.4 x\n").unwrap();
    let mut spec = spec(&[]);
    spec.mounts.push(mount("/data", "bind", source.to_str().unwrap(), &["rbind", "rprivate"]));
    spec.mounts.push(mount("/etc/hosts", "bind", place.path("hosts").to_str().unwrap(), &["bind"]));
    let text = shell(
        &place,
        &mut spec,
        "stat -c %u:%g /data /data/mine /etc/hosts; cat /etc/hosts; echo y >/data/new; chown 7:8 /data/mine; stat -c %u:%g /data/mine",
    );
    assert_eq!(text, "0:0\n1000:1001\n0:0\n1.2.3.4 x\n7:8\n");
    assert_eq!((owner(&source.join("new")), owner(&source.join("mine"))), ((0, 0), (7, 8)));
    // Without mapping they are nobody's.
    let (stdio, output) = pipes();
    process(&mut spec).args = ["stat", "-c", "%u", "/data"].map(str::to_owned).to_vec();
    let mut container = brig_runtime::create(brig_runtime::CreateRequest {
        idmap_binds: false,
        ..request(&place, &spec, place.overlay(), stdio)
    })
    .unwrap();
    container.start().unwrap();
    assert_eq!(output.collect(container.pidfd()).stdout, "65534\n");
    container.delete().unwrap();
}

fn bind_options() {
    let place = Place::new("bindopt");
    let source = place.path("canary");
    fs::create_dir(source.join("sub")).unwrap();
    let mut spec = spec(&[]);
    let from = source.to_str().unwrap();
    spec.mounts.push(mount("/ro", "bind", from, &["rbind", "ro", "nosuid", "noexec"]));
    spec.mounts.push(mount("/rro", "none", from, &["rbind", "rro"]));
    spec.mounts.push(mount(
        "/sub",
        "bind",
        source.join("sub").to_str().unwrap(),
        &["bind", "nodev", "noatime", "rslave"],
    ));
    let text = shell(
        &place,
        &mut spec,
        "for d in /ro /rro; do { touch $d/x; } 2>&1 | grep -c Read-only; done; grep -E ' /(ro|rro|sub) ' /proc/self/mountinfo | { while read a b c d e f g; do echo $e $f; done; }",
    );
    assert_eq!(
        text.replace(",idmapped", ""),
        "1\n1\n/ro ro,nosuid,noexec,relatime\n/rro ro,relatime\n/sub rw,nodev,noatime\n"
    );
}

fn bind_of_what_cannot_be_mapped() {
    let place = Place::new("noidmap");
    for source in ["/proc/self", "/sys/kernel", "/proc/self/ns/net"] {
        let mut spec = spec(&["true"]);
        spec.mounts.push(mount("/data", "bind", source, &["bind"]));
        let error = run(&place, &spec).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.message.contains("--userns=host") && error.message.contains(source), "{error}");
    }
}

fn bind_with_own_mapping() {
    let place = Place::new("ownmap");
    let source = place.path("canary");
    chown(&source, Some(50), Some(60)).unwrap();
    let mut spec = spec(&[]);
    let mut data = mount("/data", "bind", source.to_str().unwrap(), &["bind", "idmap"]);
    data.uid_mappings = vec![brig_oci::runtime::IdMapping { container_id: 50, host_id: BASE + 500, size: 1 }];
    data.gid_mappings = vec![brig_oci::runtime::IdMapping { container_id: 60, host_id: BASE + 600, size: 1 }];
    spec.mounts.push(data);
    assert_eq!(shell(&place, &mut spec, "stat -c %u:%g /data"), "500:600\n");
}

fn tmpfs_options() {
    let place = Place::new("tmpfs");
    let mut spec = spec(&[]);
    spec.mounts.push(mount(
        "/t",
        "tmpfs",
        "tmpfs",
        &["size=64k", "mode=1770", "uid=5", "gid=6", "noexec", "nosuid", "nodev"],
    ));
    let text = shell(
        &place,
        &mut spec,
        "stat -c '%a %u:%g' /t; dd if=/dev/zero of=/t/x bs=1k count=100 2>&1 | grep -c space; grep ' /t ' /proc/self/mountinfo | grep -c nosuid,nodev,noexec",
    );
    assert_eq!(text, "1770 5:6\n1\n1\n");
    spec.mounts.push(mount("/u", "tmpfs", "tmpfs", &["bogus=1"]));
    let error = run(&place, &spec).unwrap_err();
    assert!(error.message.contains("/u") && error.message.contains("bogus"), "{error}");
}

fn tmpcopyup_copies() {
    let place = Place::new("copyup");
    let mut spec = spec(&[]);
    spec.mounts.push(mount("/home", "tmpfs", "tmpfs", &["tmpcopyup", "ro"]));
    fs::write(place.path("lower/home/user/file"), "content").unwrap();
    chown(place.path("lower/home/user/file"), Some(1000), Some(1000)).unwrap();
    assert_eq!(
        shell(
            &place,
            &mut spec,
            "cat /home/user/file; stat -c ' %u' /home/user/file; { touch /home/x; } 2>&1 | grep -c Read-only"
        ),
        "content 1000\n1\n"
    );
}

fn directory_as_root() {
    let place = Place::new("dir");
    let spec = spec(&["sh", "-c", "touch /made; stat -c %u /made /bin/busybox; cat /proc/self/mountinfo | head -1"]);
    let ran = run_with(&place, &spec, Rootfs::Directory(place.path("lower")), false).unwrap();
    assert!(ran.stdout.starts_with("0\n0\n"), "{ran:?}");
    assert_eq!(owner(&place.path("lower/made")), (0, 0));
    for bad in ["/", "/etc/passwd", "/absent", "/proc/self/root"] {
        assert!(run_with(&place, &spec, Rootfs::Directory(bad.into()), false).is_err(), "{bad}");
    }
}

fn throw_away_root_of_the_host() {
    let place = Place::new("hostroot");
    let marker = format!("/brig-marker-{}", std::process::id());
    let script = format!(
        "echo x >{marker} && echo y >>/etc/passwd && rm -rf /usr/share/doc /var/log; ls -d /usr/share/doc 2>/dev/null; tail -1 /etc/passwd; \
        stat -c %u:%g /etc/passwd /usr; grep -m1 ' / / ' /proc/self/mountinfo | grep -c nodev; ls {}",
        place.dir.path().display()
    );
    let mut spec = spec(&["sh", "-c", &script]);
    process(&mut spec).env = vec!["PATH=/usr/bin:/bin:/usr/sbin:/sbin".into()];
    let before = fs::read_to_string("/etc/passwd").unwrap();
    let rootfs = Rootfs::OverlayTmpfs { lower: vec!["/".into()], size_bytes: Some(64 << 20) };
    let ran = run_with(&place, &spec, rootfs, false).unwrap();
    assert!(ran.stdout.starts_with("y\n0:0\n0:0\n1\n"), "{ran:?}");
    assert_eq!(fs::read_to_string("/etc/passwd").unwrap(), before);
    assert!(!std::path::Path::new(&marker).exists() && std::path::Path::new("/var/log").exists());
}

fn bind_missing() {
    let place = Place::new("missing");
    let mut spec = spec(&["true"]);
    spec.mounts.push(mount("/data", "bind", "/absent/x", &["rbind"]));
    let error = run(&place, &spec).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.message.ends_with("bind source path does not exist: /absent/x"), "{error}");
}
