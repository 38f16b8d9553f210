//! `spec`: a bundle's first `config.json`.
//!
//! Owns: what stands in it. Must not: overwrite one.

use std::io::Write;
use std::path::PathBuf;

use brig_runtime::cgroup::{Layout, Mode};
use serde_json::{Value, json};

use crate::oci::Fault;
use crate::oci::arguments::CommandLine;

/// `spec`.
pub(crate) fn spec(line: &CommandLine) -> Result<u8, Fault> {
    let directory = line.path("bundle").unwrap_or_else(|| PathBuf::from("."));
    let path = directory.join("config.json");
    let mut spec = example(Layout::detect()?.mode() == Mode::V2);
    if line.has("rootless") {
        let [uid, gid] = [rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()];
        make_rootless(&mut spec, uid, gid);
    }
    let mut text = Vec::new();
    let mut form =
        serde_json::Serializer::with_formatter(&mut text, serde_json::ser::PrettyFormatter::with_indent(b"\t"));
    serde::Serialize::serialize(&spec, &mut form)
        .map_err(|error| Fault::new(format!("{}: {error}", path.display())))?;
    text.push(b'\n');
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    file.and_then(|mut file| file.write_all(&text)).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Fault::new(format!("File {} exists. Remove it first", path.display())),
        _ => Fault::io("write", &path, &error),
    })?;
    Ok(0)
}

/// A shell on a terminal, with what a container usually has.
fn example(v2: bool) -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let quiet = ["nosuid", "noexec", "nodev"];
    let mut namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|name| json!({"type": name})).to_vec();
    if v2 {
        namespaces.push(json!({"type": "cgroup"}));
    }
    json!({
        "ociVersion": brig_oci::runtime::VERSION,
        "process": {
            "terminal": true, "user": {"uid": 0, "gid": 0}, "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"], "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "runc",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": quiet},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                "/proc/sched_debug", "/sys/firmware", "/proc/scsi"
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// What a caller without privilege can have: their own id as root's, the host's network and /sys, no limits.
fn make_rootless(spec: &mut Value, uid: u32, gid: u32) {
    let linux = &mut spec["linux"];
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    linux["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
    linux["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
        if mount["destination"] == "/sys" {
            // A sysfs of its own needs a network namespace of its own.
            *mount = json!({"destination": "/sys", "type": "none", "source": "/sys",
                            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
        } else if let Some(options) = mount["options"].as_array_mut() {
            // Ids that are not mapped.
            options.retain(|option| {
                !option.as_str().is_some_and(|option| option.starts_with("uid=") || option.starts_with("gid="))
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use brig_oci::runtime::Spec;

    #[test]
    fn both_can_be_read_back() {
        let mut value = example(true);
        let spec: Spec = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(spec.linux.unwrap().namespaces.len(), 6);
        make_rootless(&mut value, 1000, 1001);
        let spec: Spec = serde_json::from_value(value.clone()).unwrap();
        let linux = spec.linux.unwrap();
        assert_eq!((linux.uid_mappings[0].host_id, linux.gid_mappings[0].host_id), (1000, 1001));
        assert!(linux.resources.is_none() && linux.namespaces.iter().any(|namespace| namespace.type_ == "user"));
        assert!(!value.to_string().contains("gid=5"));
        assert_eq!(example(false)["linux"]["namespaces"].as_array().unwrap().len(), 5);
    }
}
