//! Contradictory and hostile `config.json`: each refused in words that name the field, and nothing left (rows O01 to O23 of
//! the security plan). A row that is not refused any more is a change of what the runtime promises.

use serde_json::{Value, json};

use crate::bundle::Bundle;

/// What is changed, how, and a word of the refusal.
type Row = (&'static str, fn(&mut Value, &Bundle), &'static str);

/// Refuses each row on a bundle of its own kind, and looks for what is left after each.
fn refuse(rows: &[Row]) {
    let mut bundle = Bundle::new("true");
    let whole = bundle.spec.clone();
    let mut failed = Vec::new();
    for (name, change, text) in rows {
        let mut spec = whole.clone();
        change(&mut spec, &bundle);
        bundle.change(|old| *old = spec);
        let called = bundle.call(&["create", "ID"]);
        if called.code == 0 || !called.stderr.contains(text) || called.stderr.contains("panicked") {
            failed.push(format!("{name}: wanted {text:?}, got {} {}", called.code, called.stderr));
        }
        if called.code == 0 {
            bundle.call(&["delete", "--force", "ID"]);
            bundle.reap();
        }
        bundle.clean();
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn namespaces(spec: &mut Value) -> &mut Vec<Value> {
    spec["linux"]["namespaces"].as_array_mut().unwrap()
}

fn mount(spec: &mut Value, mount: Value) {
    spec["mounts"].as_array_mut().unwrap().push(mount);
}

fn resources(spec: &mut Value, name: &str, value: Value) {
    spec["linux"]["resources"][name] = value;
}

fn device(spec: &mut Value, device: Value) {
    spec["linux"]["devices"] = json!([device]);
}

fn users(spec: &mut Value, uids: Value) {
    namespaces(spec).push(json!({"type": "user"}));
    spec["linux"]["uidMappings"] = uids;
    spec["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 231_072, "size": 65536}]);
}

#[test]
fn o01_versions() {
    refuse(&[
        ("none", |s, _| s["ociVersion"] = json!(""), "ociVersion"),
        ("0.1", |s, _| s["ociVersion"] = json!("0.1.0"), "ociVersion"),
        ("2.0", |s, _| s["ociVersion"] = json!("2.0.0"), "ociVersion"),
        ("a number", |s, _| s["ociVersion"] = json!(1), "invalid type"),
    ]);
    let mut bundle = Bundle::new("true");
    for version in ["1.0.0", "1.0.2-dev", "1.99.0"] {
        bundle.change(|spec| spec["ociVersion"] = json!(version));
        bundle.run();
    }
    bundle.clean();
}

#[test]
fn o02_roots() {
    refuse(&[
        ("none", |s, _| s["root"] = Value::Null, "root"),
        ("absent", |s, _| s["root"]["path"] = json!("nope"), "root.path"),
        ("the host's", |s, _| s["root"]["path"] = json!("/"), "root.path"),
        ("the host's in disguise", |s, _| s["root"]["path"] = json!("/../.."), "root.path"),
        ("a file", |s, _| s["root"]["path"] = json!("config.json"), "root.path"),
        (
            "a link",
            |s, b| {
                std::os::unix::fs::symlink("rootfs", b.path("link")).unwrap();
                s["root"]["path"] = json!("link");
            },
            "root.path",
        ),
    ]);
}

#[test]
fn o03_processes() {
    refuse(&[
        ("none", |s, _| s["process"] = Value::Null, "process"),
        ("no arguments", |s, _| s["process"]["args"] = json!([]), "process.args"),
        ("an empty program", |s, _| s["process"]["args"] = json!([""]), "process.args"),
        ("a NUL in an argument", |s, _| s["process"]["args"] = json!(["/bin/true", "a\0b"]), "process.args"),
        ("a NUL in a variable", |s, _| s["process"]["env"] = json!(["A=\0"]), "process.env"),
        ("a relative directory", |s, _| s["process"]["cwd"] = json!("tmp"), "process.cwd"),
        ("no directory", |s, _| s["process"]["cwd"] = json!(""), "process.cwd"),
        ("a file as directory", |s, _| s["process"]["cwd"] = json!("/etc/passwd"), "process.cwd"),
        ("a descriptor as directory", |s, _| s["process"]["cwd"] = json!("/proc/self/fd/7"), "process.cwd"),
        ("absent program", |s, _| s["process"]["args"] = json!(["nope"]), "executable file not found in $PATH"),
        ("absent path", |s, _| s["process"]["args"] = json!(["/nope"]), "no such file or directory"),
        ("not a program", |s, _| s["process"]["args"] = json!(["/etc/not-a-program"]), "permission denied"),
        ("a directory", |s, _| s["process"]["args"] = json!(["/etc"]), "is a directory"),
    ]);
}

#[test]
fn o04_terminals() {
    let mut bundle = Bundle::new("true");
    bundle.refused(&["create", "--console-socket", "x", "ID"], "console socket");
    bundle.change(|spec| spec["process"]["terminal"] = json!(true));
    bundle.refused(&["create", "ID"], "console socket");
    bundle.refused(&["create", "--console-socket", "absent", "ID"], "absent");
    bundle.refused(&["create", "--console-socket", &"x".repeat(200), "ID"], "xxx");
    // A socket that nobody listens at.
    drop(std::os::unix::net::UnixListener::bind(bundle.path("dead")).unwrap());
    bundle.refused(&["create", "--console-socket", "dead", "ID"], "dead");
}

#[test]
fn o05_namespaces() {
    refuse(&[
        ("twice", |s, _| namespaces(s).push(json!({"type": "pid"})), "linux.namespaces"),
        ("unknown", |s, _| namespaces(s).push(json!({"type": "space"})), "linux.namespaces"),
        (
            "another kind",
            |s, _| {
                namespaces(s).retain(|entry| entry["type"] != "network");
                namespaces(s).push(json!({"type": "network", "path": "/proc/self/ns/ipc"}));
            },
            "linux.namespaces",
        ),
        (
            "a dead process",
            |s, _| {
                namespaces(s).retain(|entry| entry["type"] != "network");
                namespaces(s).push(json!({"type": "network", "path": "/proc/4194304/ns/net"}));
            },
            "linux.namespaces",
        ),
        (
            "a file",
            |s, b| {
                namespaces(s).retain(|entry| entry["type"] != "network");
                namespaces(s).push(json!({"type": "network", "path": b.text("config.json")}));
            },
            "linux.namespaces",
        ),
        (
            "a long path (CVE-2021-43784)",
            |s, _| {
                namespaces(s).retain(|entry| entry["type"] != "network");
                namespaces(s).push(json!({"type": "network", "path": "/".to_owned() + &"a".repeat(70_000)}));
            },
            "linux.namespaces",
        ),
        ("no maps", |s, _| namespaces(s).push(json!({"type": "user"})), "linux.namespaces"),
        (
            "an empty map",
            |s, _| users(s, json!([{"containerID": 0, "hostID": 231_072, "size": 0}])),
            "linux.uidMappings",
        ),
        (
            "beyond the last id",
            |s, _| users(s, json!([{"containerID": 0, "hostID": 4_294_967_295_u32, "size": 2}])),
            "linux.uidMappings",
        ),
        (
            "an id that does not fit",
            |s, _| users(s, json!([{"containerID": 0, "hostID": 4_294_967_296_u64, "size": 1}])),
            "invalid value",
        ),
        (
            "overlapping",
            |s, _| {
                users(
                    s,
                    json!([{"containerID": 0, "hostID": 231_072, "size": 10}, {"containerID": 5, "hostID": 300_000, "size": 10}]),
                );
            },
            "linux.uidMappings",
        ),
        (
            "too many (CVE-2021-43784)",
            |s, _| users(s, (0..341).map(|id| json!({"containerID": id, "hostID": 231_072 + id, "size": 1})).collect()),
            "linux.uidMappings",
        ),
        (
            "maps of nothing",
            |s, _| s["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 231_072, "size": 1}]),
            "linux.uidMappings",
        ),
        (
            "clocks of no namespace",
            |s, _| s["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 1}}),
            "linux.timeOffsets",
        ),
        (
            "an unknown clock",
            |s, _| {
                namespaces(s).push(json!({"type": "time"}));
                s["linux"]["timeOffsets"] = json!({"realtime": {"secs": 1}});
            },
            "linux.timeOffsets",
        ),
    ]);
}

#[test]
fn o06_names_and_parameters() {
    fn parameter(spec: &mut Value, name: &str, value: &str) {
        spec["linux"]["sysctl"] = json!({name: value});
    }
    refuse(&[
        ("a name without its namespace", |s, _| namespaces(s).retain(|entry| entry["type"] != "uts"), "hostname"),
        ("a long name", |s, _| s["hostname"] = json!("x".repeat(65)), "name"),
        (
            "net without its namespace",
            |s, _| {
                namespaces(s).retain(|entry| entry["type"] != "network");
                parameter(s, "net.ipv4.ip_forward", "1");
            },
            "linux.sysctl",
        ),
        ("a program of the host (CVE-2022-0811)", |s, _| parameter(s, "kernel.core_pattern", "|/x"), "linux.sysctl"),
        ("the machine's", |s, _| parameter(s, "vm.swappiness", "1"), "linux.sysctl"),
        ("a way out", |s, _| parameter(s, "net/../kernel/core_pattern", "|/x"), "linux.sysctl"),
        ("a way out with dots", |s, _| parameter(s, "net.ipv4.../../../kernel.core_pattern", "|/x"), "linux.sysctl"),
        ("two lines", |s, _| parameter(s, "kernel.msgmax", "1\n2"), "linux.sysctl"),
        (
            "two options (CVE-2022-0811)",
            |s, _| parameter(s, "kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x"),
            "linux.sysctl",
        ),
        ("absent", |s, _| parameter(s, "net.ipv4.nope", "1"), "linux.sysctl"),
        ("empty", |s, _| parameter(s, "", "1"), "linux.sysctl"),
    ]);
    let mut bundle = Bundle::new(
        "cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/net/ipv4/conf/lo/forwarding /proc/sys/kernel/msgmax",
    );
    bundle.change(|spec| {
        spec["linux"]["sysctl"] =
            json!({"net/ipv4/ip_default_ttl": "33", "net.ipv4.conf.lo.forwarding": "1", "kernel.msgmax": "9999"});
    });
    assert_eq!(bundle.run(), "33\n1\n9999\n");
    bundle.clean();
}

#[test]
fn o07_mounts() {
    refuse(&[
        ("nowhere", |s, _| mount(s, json!({"type": "tmpfs", "source": "x"})), "destination"),
        ("the root", |s, _| mount(s, json!({"destination": "/", "type": "tmpfs", "source": "x"})), "mounts"),
        ("the root in disguise", |s, _| mount(s, json!({"destination": "/.", "type": "tmpfs"})), "mounts"),
        ("upwards", |s, _| mount(s, json!({"destination": "/a/../..", "type": "tmpfs"})), "mounts"),
        (
            "over proc's files",
            |s, _| mount(s, json!({"destination": "/proc/sys/kernel", "type": "tmpfs"})),
            "mounts: /proc/sys/kernel",
        ),
        (
            "over labels (CVE-2019-16884)",
            |s, b| {
                mount(
                    s,
                    json!({"destination": "/proc/self/attr", "type": "bind", "source": b.text("canary/dir"), "options": ["bind"]}),
                )
            },
            "mounts: /proc/self/attr",
        ),
        (
            "over proc (CVE-2019-16884)",
            |s, b| {
                mount(
                    s,
                    json!({"destination": "/proc", "type": "bind", "source": b.text("canary/dir"), "options": ["rbind"]}),
                )
            },
            "mounts: /proc",
        ),
        (
            "over sys",
            |s, b| {
                mount(
                    s,
                    json!({"destination": "/sys", "type": "bind", "source": b.text("canary/dir"), "options": ["rbind"]}),
                )
            },
            "mounts: /sys",
        ),
        (
            "an absent source",
            |s, _| mount(s, json!({"destination": "/a", "type": "bind", "source": "/nope", "options": ["bind"]})),
            "/nope",
        ),
        ("no source", |s, _| mount(s, json!({"destination": "/a", "type": "bind", "options": ["bind"]})), "mounts: /a"),
        (
            "a descriptor as source",
            |s, _| {
                mount(s, json!({"destination": "/a", "type": "bind", "source": "/proc/self/fd/9", "options": ["bind"]}))
            },
            "/proc/self/fd/9",
        ),
        (
            "an unknown file system",
            |s, _| mount(s, json!({"destination": "/a", "type": "fs-of-nobody", "source": "x"})),
            "fs-of-nobody",
        ),
        (
            "an unknown option",
            |s, _| mount(s, json!({"destination": "/a", "type": "tmpfs", "options": ["sideways"]})),
            "sideways",
        ),
        (
            "data for a bind",
            |s, b| {
                mount(
                    s,
                    json!({"destination": "/a", "type": "bind", "source": b.text("canary/dir"), "options": ["bind", "size=1m"]}),
                )
            },
            "size",
        ),
        (
            "a negative size",
            |s, _| mount(s, json!({"destination": "/a", "type": "tmpfs", "options": ["size=-1"]})),
            "size",
        ),
        (
            "ids of a tmpfs",
            |s, _| {
                mount(
                    s,
                    json!({"destination": "/a", "type": "tmpfs", "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}], "gidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}),
                )
            },
            "mounts: /a",
        ),
        ("a NUL", |s, _| mount(s, json!({"destination": "/a\0b", "type": "tmpfs"})), "mounts"),
        (
            "a loop",
            |s, b| {
                std::os::unix::fs::symlink("loop", b.path("rootfs/loop")).unwrap();
                mount(s, json!({"destination": "/loop/x", "type": "tmpfs"}));
            },
            "mounts: /loop/x",
        ),
    ]);
}

#[test]
fn o08_devices() {
    refuse(&[
        (
            "an unknown type",
            |s, _| device(s, json!({"type": "x", "path": "/dev/a", "major": 1, "minor": 3})),
            "linux.devices",
        ),
        (
            "a negative number",
            |s, _| device(s, json!({"type": "c", "path": "/dev/a", "major": -1, "minor": 3})),
            "linux.devices",
        ),
        (
            "a number too large",
            |s, _| device(s, json!({"type": "c", "path": "/dev/a", "major": 4_294_967_296_u64, "minor": 3})),
            "linux.devices",
        ),
        ("no numbers", |s, _| device(s, json!({"type": "c", "path": "/dev/a"})), "linux.devices"),
        (
            "upwards",
            |s, _| device(s, json!({"type": "c", "path": "/dev/../x", "major": 1, "minor": 3})),
            "linux.devices",
        ),
        ("relative", |s, _| device(s, json!({"type": "c", "path": "dev/a", "major": 1, "minor": 3})), "linux.devices"),
        ("no path", |s, _| device(s, json!({"type": "c", "path": "", "major": 1, "minor": 3})), "linux.devices"),
        (
            "another null",
            |s, _| device(s, json!({"type": "c", "path": "/dev/null", "major": 1, "minor": 5})),
            "linux.devices",
        ),
        (
            "twice",
            |s, _| {
                s["linux"]["devices"] = json!([
                    {"type": "c", "path": "/dev/a", "major": 1, "minor": 3}, {"type": "c", "path": "/dev/a", "major": 1, "minor": 5}
                ]);
            },
            "linux.devices",
        ),
    ]);
}

#[test]
fn o09_device_rules() {
    fn rule(spec: &mut Value, rule: Value) {
        resources(spec, "devices", json!([rule]));
    }
    refuse(&[
        ("an unknown type", |s, _| rule(s, json!({"allow": true, "type": "x", "access": "rwm"})), "device"),
        ("unknown access", |s, _| rule(s, json!({"allow": true, "type": "c", "access": "x"})), "device"),
        (
            "a number too low",
            |s, _| rule(s, json!({"allow": true, "type": "c", "major": -5, "access": "rwm"})),
            "device",
        ),
        (
            "a number too large",
            |s, _| rule(s, json!({"allow": true, "type": "c", "major": 4_294_967_296_u64, "access": "rwm"})),
            "device",
        ),
    ]);
}

#[test]
fn o10_cgroup_paths() {
    refuse(&[
        ("upwards", |s, _| s["linux"]["cgroupsPath"] = json!("../../x"), "cgroup"),
        ("upwards from the root", |s, _| s["linux"]["cgroupsPath"] = json!("/a/../../x"), "cgroup"),
        ("the root itself", |s, _| s["linux"]["cgroupsPath"] = json!("/"), "cgroup"),
        ("a NUL", |s, _| s["linux"]["cgroupsPath"] = json!("/a\0b"), "cgroup"),
        ("two lines", |s, _| s["linux"]["cgroupsPath"] = json!("/a\nb"), "cgroup"),
    ]);
}

#[test]
fn o11_resources() {
    refuse(&[
        ("one byte", |s, _| resources(s, "memory", json!({"limit": 1})), "memory"),
        ("less than none", |s, _| resources(s, "memory", json!({"limit": -5})), "memory"),
        ("swap below memory", |s, _| resources(s, "memory", json!({"limit": 64 << 20, "swap": 32 << 20})), "memory"),
        (
            "a number that does not fit",
            |s, _| resources(s, "memory", json!({"limit": 9_223_372_036_854_775_808_u64})),
            "invalid value",
        ),
        ("a quota of 1", |s, _| resources(s, "cpu", json!({"quota": 1})), "cpu"),
        ("a period of 1", |s, _| resources(s, "cpu", json!({"period": 1, "quota": 1})), "cpu"),
        ("absent processors", |s, _| resources(s, "cpu", json!({"cpus": "99999"})), "cpus"),
        ("half a range", |s, _| resources(s, "cpu", json!({"cpus": "0-"})), "cpus"),
        ("pages of no size", |s, _| resources(s, "hugepageLimits", json!([{"pageSize": "3MB", "limit": 1}])), "3MB"),
        (
            "pages of a path",
            |s, _| resources(s, "hugepageLimits", json!([{"pageSize": "../2MB", "limit": 1}])),
            "../2MB",
        ),
        ("a weight too large", |s, _| resources(s, "blockIO", json!({"weight": 5000})), "weight"),
        ("a file of nobody's", |s, _| resources(s, "unified", json!({"nope.max": "1"})), "nope.max"),
        ("a file of another", |s, _| resources(s, "unified", json!({"../x.max": "1"})), "x.max"),
        ("membership as a limit", |s, _| resources(s, "unified", json!({"cgroup.procs": "1"})), "cgroup.procs"),
    ]);
}

#[test]
fn o12_capabilities() {
    fn sets(spec: &mut Value, change: &[(&str, &[&str])]) {
        for (name, list) in change {
            spec["process"]["capabilities"][*name] = json!(list);
        }
    }
    refuse(&[
        (
            "effective beyond permitted",
            |s, _| sets(s, &[("permitted", &["CAP_KILL"]), ("effective", &["CAP_KILL", "CAP_CHOWN"])]),
            "process.capabilities",
        ),
        (
            "inheritable beyond bounding",
            |s, _| sets(s, &[("bounding", &[]), ("inheritable", &["CAP_KILL"])]),
            "process.capabilities",
        ),
    ]);
    // As runc: said on stderr, and not granted.
    let mut bundle = Bundle::new("grep -E 'CapAmb|CapPrm|CapBnd' /proc/self/status");
    bundle.change(|spec| {
        sets(spec, &[("bounding", &["CAP_KILL", "CAP_NO_SUCH"]), ("inheritable", &["CAP_KILL"])]);
        sets(spec, &[("permitted", &["CAP_KILL", "CAP_CHOWN"]), ("effective", &["CAP_KILL"])]);
        sets(spec, &[("ambient", &["CAP_KILL", "CAP_CHOWN"])]);
    });
    let called = bundle.call(&["run", "ID"]);
    assert_eq!(called.code, 0, "{}", called.stderr);
    for text in
        ["ignoring unknown or unavailable capabilities: [CAP_NO_SUCH]", "can't raise ambient capability CAP_CHOWN"]
    {
        assert!(called.stderr.contains(text), "{}", called.stderr);
    }
    assert_eq!(called.stdout.matches("0000000000000020").count(), 3, "{}", called.stdout);
    bundle.clean();
}

#[test]
fn o13_limits() {
    fn limit(spec: &mut Value, limits: Value) {
        spec["process"]["rlimits"] = limits;
    }
    refuse(&[
        ("unknown", |s, _| limit(s, json!([{"type": "RLIMIT_NOPE", "soft": 1, "hard": 1}])), "process.rlimits"),
        ("soft above hard", |s, _| limit(s, json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}])), "process.rlimits"),
        (
            "twice",
            |s, _| {
                limit(
                    s,
                    json!([{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]),
                )
            },
            "process.rlimits",
        ),
        ("negative", |s, _| limit(s, json!([{"type": "RLIMIT_CORE", "soft": -1, "hard": 1}])), "invalid value"),
    ]);
}

#[test]
fn o14_filters() {
    fn filter(spec: &mut Value, filter: Value) {
        spec["linux"]["seccomp"] = filter;
    }
    fn rule(spec: &mut Value, rule: Value) {
        filter(
            spec,
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule]}),
        );
    }
    refuse(&[
        ("no action", |s, _| filter(s, json!({"syscalls": []})), "seccomp"),
        ("an unknown action", |s, _| filter(s, json!({"defaultAction": "SCMP_ACT_MAYBE"})), "seccomp"),
        (
            "an unknown machine",
            |s, _| filter(s, json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_PDP11"]})),
            "seccomp",
        ),
        (
            "an unknown flag",
            |s, _| filter(s, json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_NOPE"]})),
            "seccomp",
        ),
        (
            "an unknown action of a rule",
            |s, _| rule(s, json!({"names": ["read"], "action": "SCMP_ACT_MAYBE"})),
            "seccomp",
        ),
        (
            "an unknown operator",
            |s, _| {
                rule(
                    s,
                    json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_XX"}]}),
                )
            },
            "seccomp",
        ),
        (
            "a seventh argument",
            |s, _| {
                rule(
                    s,
                    json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}),
                )
            },
            "seccomp",
        ),
        ("no names", |s, _| rule(s, json!({"names": [], "action": "SCMP_ACT_ERRNO"})), "seccomp"),
        (
            "an error that is none",
            |s, _| rule(s, json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000})),
            "seccomp",
        ),
        ("nobody to ask", |s, _| rule(s, json!({"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"})), "seccomp"),
        (
            "asked about all",
            |s, b| {
                filter(s, json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": b.text("nobody")}));
            },
            "seccomp",
        ),
        (
            "a listener that is not there",
            |s, b| {
                rule(s, json!({"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}));
                s["linux"]["seccomp"]["listenerPath"] = json!(b.text("nobody"));
            },
            "seccomp",
        ),
        (
            "too large a program",
            |s, _| {
                let args = |n: u64| json!([{"index": 0, "value": n, "op": "SCMP_CMP_EQ"}]);
                let rules: Vec<Value> = (0..5000)
                    .map(|n| json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": args(n)}))
                    .collect();
                filter(s, json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}));
            },
            "seccomp",
        ),
    ]);
}

#[test]
fn o15_labels() {
    refuse(&[
        (
            "an absent profile",
            |s, _| s["process"]["apparmorProfile"] = json!("brig-nobody-has-this"),
            "process.apparmorProfile",
        ),
        ("two lines", |s, _| s["process"]["apparmorProfile"] = json!("x\nfoo"), "process.apparmorProfile"),
        ("a label of nothing", |s, _| s["process"]["selinuxLabel"] = json!("a:b:c:d"), "process.selinuxLabel"),
        ("two lines of a label", |s, _| s["process"]["selinuxLabel"] = json!("a:b\nc:d"), "process.selinuxLabel"),
        ("a label of mounts", |s, _| s["linux"]["mountLabel"] = json!("a:b:c:d"), "linux.mountLabel"),
    ]);
}

#[test]
fn o16_hidden_paths() {
    fn masked(spec: &mut Value, path: &str) {
        spec["linux"]["maskedPaths"] = json!([path]);
    }
    fn read_only(spec: &mut Value, path: &str) {
        spec["linux"]["readonlyPaths"] = json!([path]);
    }
    refuse(&[
        ("relative", |s, _| masked(s, "proc/keys"), "linux.maskedPaths"),
        ("relative and read-only", |s, _| read_only(s, "proc/sys"), "linux.readonlyPaths"),
        ("upwards", |s, _| masked(s, "/proc/../.."), "linux.maskedPaths"),
        ("everything", |s, _| masked(s, "/"), "linux.maskedPaths"),
        ("everything, read-only", |s, _| read_only(s, "/"), "linux.readonlyPaths"),
    ]);
    // What is not there needs no hiding, a link stays in the root, and many paths are no problem.
    let mut bundle =
        Bundle::new("cat /etc/hidden; grep -c . /proc/self/mountinfo; readlink /bin/link | grep -c canary");
    std::os::unix::fs::symlink(bundle.path("canary/file"), bundle.path("rootfs/bin/link")).unwrap();
    std::fs::write(bundle.path("rootfs/etc/hidden"), "secret").unwrap();
    bundle.change(|spec| {
        let mut paths: Vec<Value> = (0..1000).map(|number| json!(format!("/absent/{number}"))).collect();
        paths.extend([json!("/etc/hidden"), json!("/bin/link")]);
        spec["linux"]["maskedPaths"] = json!(paths);
    });
    let shown = bundle.run();
    assert!(shown.ends_with("\n1\n") && !shown.contains("secret"), "{shown}");
    bundle.clean();
}

#[test]
fn o18_other_fields() {
    refuse(&[
        ("oom score", |s, _| s["process"]["oomScoreAdj"] = json!(5000), "oomScoreAdj"),
        ("scheduler", |s, _| s["process"]["scheduler"] = json!({"policy": "SCHED_NOPE"}), "process.scheduler"),
        ("nice", |s, _| s["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 100}), "process.scheduler"),
        (
            "io priority",
            |s, _| s["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_NOPE", "priority": 1}),
            "process.ioPriority",
        ),
        (
            "io priority's number",
            |s, _| s["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 100}),
            "process.ioPriority",
        ),
        ("personality", |s, _| s["linux"]["personality"] = json!({"domain": "VAX"}), "personality"),
        ("umask", |s, _| s["process"]["user"]["umask"] = json!(0o10000), "umask"),
        ("the id that is none", |s, _| s["process"]["user"]["uid"] = json!(u32::MAX), "process.user"),
        ("the group that is none", |s, _| s["process"]["user"]["additionalGids"] = json!([u32::MAX]), "process.user"),
        ("an id that does not fit", |s, _| s["process"]["user"]["uid"] = json!(4_294_967_296_u64), "invalid value"),
        (
            "too many groups",
            |s, _| s["process"]["user"]["additionalGids"] = json!((0..100_000).collect::<Vec<u32>>()),
            "additionalGids",
        ),
        ("propagation", |s, _| s["linux"]["rootfsPropagation"] = json!("sideways"), "linux.rootfsPropagation"),
        ("a class of a path", |s, _| s["linux"]["intelRdt"] = json!({"closID": "../x"}), "linux.intelRdt"),
        ("a device of a path", |s, _| s["linux"]["netDevices"] = json!({"../x": {}}), "linux.netDevices"),
        (
            "a memory policy",
            |s, _| s["linux"]["memoryPolicy"] = json!({"mode": "MPOL_NOPE", "nodes": "0"}),
            "linux.memoryPolicy",
        ),
    ]);
}

/// What is no JSON, or too much of it, is refused before anything is made, in bounded time and memory.
#[test]
fn o19_documents() {
    let bundle = Bundle::new("true");
    let write = |content: &[u8]| std::fs::write(bundle.path("config.json"), content).unwrap();
    let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    let nested = [b"{\"ociVersion\":\"1.2.0\",\"annotations\":".to_vec(), b"{\"a\":".repeat(100_000)].concat();
    for content in
        [b"".as_slice(), b"{", b"1", b"null", b"\xff\xfe", b"{\"ociVersion\": \"1.2.0\"} trailing", &deep, &nested]
    {
        write(content);
        bundle.refused(&["create", "ID"], "config.json");
    }
    for (key, value) in [("process", json!("x")), ("mounts", json!({})), ("linux", json!("x")), ("hostname", json!(1))]
    {
        let mut spec = bundle.spec.clone();
        spec[key] = value;
        write(spec.to_string().as_bytes());
        bundle.refused(&["create", "ID"], "config.json");
    }
    let mut huge = bundle.spec.clone();
    huge["annotations"] = json!({"a": "x".repeat(17 << 20)});
    write(huge.to_string().as_bytes());
    bundle.refused(&["create", "ID"], "config.json");
    // A file that never ends, and one that nobody ever writes to.
    std::fs::remove_file(bundle.path("config.json")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", bundle.path("config.json")).unwrap();
    bundle.refused(&["create", "ID"], "config.json");
    std::fs::remove_file(bundle.path("config.json")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, bundle.path("config.json"), fifo, 0o600.into(), 0).unwrap();
    bundle.refused(&["create", "ID"], "config.json");
    // Fields that no version knows yet are no reason to refuse, nor is a large annotation.
    std::fs::remove_file(bundle.path("config.json")).unwrap();
    let mut newer = bundle.spec.clone();
    newer["fieldOfTomorrow"] = json!({"a": 1});
    newer["annotations"] = json!({"a": "x".repeat(1 << 20)});
    write(newer.to_string().as_bytes());
    bundle.run();
    bundle.clean();
}

#[test]
fn o20_odd_roots() {
    use std::os::unix::fs::PermissionsExt;
    let mut bundle = Bundle::new("ls -d /proc /dev /sys /made/up; stat -c %a /");
    for name in ["proc", "sys", "dev"] {
        std::fs::remove_dir(bundle.path("rootfs").join(name)).unwrap();
    }
    bundle.change(|spec| mount(spec, json!({"destination": "/made/up", "type": "tmpfs", "source": "x"})));
    // Missing mount points are made, and a root that nobody may enter is root's to enter.
    std::fs::set_permissions(bundle.path("rootfs"), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(bundle.run(), "/dev\n/made/up\n/proc\n/sys\n700\n");
    bundle.clean();
    for (name, text) in [("proc", "/proc"), ("dev", "/dev"), ("sys", "/sys")] {
        let bundle = Bundle::new("true");
        std::fs::remove_dir(bundle.path("rootfs").join(name)).unwrap();
        std::fs::write(bundle.path("rootfs").join(name), "").unwrap();
        bundle.refused(&["create", "ID"], text);
    }
}

#[test]
fn o21_ids_and_states() {
    let bundle = Bundle::new("sleep 100");
    let long = "x".repeat(2000);
    for id in ["../x", "a/b", ".", "..", "", "a b", "a\nb", &long] {
        bundle.refused(&["create", id], "");
        for verb in ["state", "start", "delete", "kill", "exec"] {
            bundle.refused(&[verb, id, "true"], "");
        }
    }
    assert!(!bundle.path("x").exists());
    bundle.refused(&["create", "-v"], "");
    for verb in
        [["state", "ID"].as_slice(), &["start", "ID"], &["kill", "ID", "9"], &["delete", "ID"], &["exec", "ID", "true"]]
    {
        bundle.refused(verb, "does not exist");
    }
    // The pid file is written beside and renamed: what a link points to stays as it is.
    std::os::unix::fs::symlink(bundle.path("canary/file"), bundle.path("pid")).unwrap();
    bundle.ok(&["create", "--pid-file", "pid", "ID"]);
    bundle.canary();
    let pid = bundle.pid();
    assert_eq!(std::fs::read_to_string(bundle.path("pid")).unwrap(), pid.to_string());
    let failing = |arguments: &[&str], text: &str| {
        let called = bundle.call(arguments);
        assert!(called.code != 0 && called.stderr.contains(text), "{arguments:?}: {called:?}");
    };
    failing(&["create", "ID"], "already exists");
    failing(&["kill", "ID", "SIGNOPE"], "signal");
    failing(&["kill", "ID", "99"], "signal");
    failing(&["kill", "ID", "0x9"], "signal");
    bundle.ok(&["start", "ID"]);
    failing(&["start", "ID"], "already running");
    failing(&["delete", "ID"], "not stopped");
    // What half a create left is nobody's container, and can be removed by force.
    std::fs::create_dir(bundle.path("state/half")).unwrap();
    failing(&["state", "half"], "does not exist");
    bundle.ok(&["delete", "--force", "half"]);
    bundle.ok(&["delete", "--force", "ID"]);
    assert_eq!(bundle.reap_init(pid), 137);
    bundle.clean();
}

/// T-RT-24 and O22: the copy that was made at create is what counts.
#[test]
fn o22_a_bundle_that_changes_under_way() {
    let mut bundle = Bundle::new("echo first; id -u");
    let mut command = bundle.command(&["create", "ID"]);
    command.stdout(std::fs::File::create(bundle.path("output")).unwrap());
    assert!(command.status().unwrap().success());
    bundle.change(|spec| {
        spec["process"]["args"] = json!(["/bin/echo", "second"]);
        spec["process"]["user"] = json!({"uid": 7, "gid": 7});
    });
    let pid = bundle.pid();
    bundle.ok(&["start", "ID"]);
    assert_eq!(bundle.reap_init(pid), 0);
    assert_eq!(std::fs::read_to_string(bundle.path("output")).unwrap(), "first\n0\n");
    std::fs::remove_file(bundle.path("config.json")).unwrap();
    assert_eq!(bundle.state()["status"], "stopped");
    bundle.ok(&["delete", "ID"]);
    bundle.clean();
}

#[test]
fn o23_execs() {
    let bundle = Bundle::new("sleep 100");
    bundle.ok(&["run", "--detach", "ID"]);
    let pid = bundle.pid();
    let refused = |change: fn(&mut Value), text: &str| {
        let mut process = crate::bundle::process(&["/bin/true"]);
        change(&mut process);
        std::fs::write(bundle.path("process.json"), process.to_string()).unwrap();
        let called = bundle.call(&["exec", "--process", "process.json", "ID"]);
        assert!(called.code != 0 && called.stderr.contains(text), "{text}: {called:?}");
    };
    refused(|process| process["cwd"] = json!("/proc/self/fd/7"), "process.cwd");
    refused(|process| process["cwd"] = json!("/nope"), "process.cwd");
    refused(|process| process["apparmorProfile"] = json!("brig-nobody-has-this"), "process.apparmorProfile");
    refused(|process| process["args"] = json!([]), "args must not be empty");
    refused(|process| process["args"] = json!(["/nope"]), "no such file or directory");
    refused(|process| process["terminal"] = json!(true), "terminal");
    refused(|process| process["user"]["uid"] = json!(u32::MAX), "process.user");
    refused(|process| process["rlimits"] = json!([{"type": "RLIMIT_NOPE", "soft": 1, "hard": 1}]), "process.rlimits");
    bundle.ok(&["pause", "ID"]);
    let called = bundle.call(&["exec", "ID", "true"]);
    assert!(called.code != 0 && called.stderr.contains("paused"), "{called:?}");
    bundle.ok(&["resume", "ID"]);
    assert_eq!(serde_json::from_str::<Vec<i32>>(&bundle.ok(&["ps", "--format", "json", "ID"])).unwrap(), [pid]);
    bundle.ok(&["kill", "ID", "9"]);
    assert_eq!(bundle.reap_init(pid), 137);
    let called = bundle.call(&["exec", "ID", "true"]);
    assert!(called.code != 0 && called.stderr.contains("stopped"), "{called:?}");
    bundle.ok(&["delete", "ID"]);
    bundle.clean();
}
