//! What only tells: `state`, `list`, `ps`, `spec`, `features`, `--version`.
//!
//! Owns: the forms that other engines parse. Must not: change anything but the file that `spec` writes.

use std::io::Write;
use std::path::PathBuf;

use brig_runtime::cgroup::{Layout, Mode};
use serde_json::{Value, json};

use crate::oci::Fault;
use crate::oci::arguments::CommandLine;
use crate::oci::control::{cgroup, describe};
use crate::oci::record::{Condition, Record, Records};

/// Prints text on stdout.
pub(crate) fn print(text: &str) -> Result<u8, Fault> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Fault::new(format!("writing to stdout: {error}")))?;
    Ok(0)
}

fn print_json(value: &Value) -> Result<u8, Fault> {
    print(&format!("{value:#}\n"))
}

/// `--version`: callers parse the lines.
pub(crate) fn version() -> Result<u8, Fault> {
    print(&format!("brig-rt version {}\nspec: {}\n", env!("CARGO_PKG_VERSION"), brig_oci::runtime::VERSION))
}

fn state_of(record: &Record, records: &Records) -> Result<Value, Fault> {
    let condition = records.condition(record);
    let spec = records.spec(&record.id)?;
    let rootfs = spec.root.map(|root| record.bundle.join(root.path)).unwrap_or_default();
    let mut state = json!({
        "ociVersion": brig_oci::runtime::VERSION,
        "id": record.id,
        "pid": if condition == Condition::Stopped { 0 } else { record.pid },
        "status": describe(record, condition)?,
        "bundle": record.bundle,
        "rootfs": rootfs,
        "created": record.created,
        "owner": "",
    });
    if !spec.annotations.is_empty() {
        state["annotations"] = json!(spec.annotations);
    }
    Ok(state)
}

/// `state`.
pub(crate) fn state(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    let record = records.load(line.id()?)?;
    print_json(&state_of(&record, records)?)
}

/// `list`.
pub(crate) fn list(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    // One that is being made or removed at this moment is not there.
    let found = records.ids().into_iter().filter_map(|id| records.load(&id).ok());
    let states: Vec<Value> = found.filter_map(|record| state_of(&record, records).ok()).collect();
    if line.has("quiet") {
        let ids: String =
            states.iter().map(|state| format!("{}\n", state["id"].as_str().unwrap_or_default())).collect();
        return print(&ids);
    }
    match line.value("format").unwrap_or("table") {
        "json" => print(&format!("{}\n", Value::Array(states))),
        "table" => {
            let mut text = format!("{:<24} {:>8} {:<10} {:<40} CREATED\n", "ID", "PID", "STATUS", "BUNDLE");
            for state in &states {
                let word = |name: &str| state[name].as_str().unwrap_or_default();
                text.push_str(&format!(
                    "{:<24} {:>8} {:<10} {:<40} {}\n",
                    word("id"),
                    state["pid"],
                    word("status"),
                    word("bundle"),
                    word("created")
                ));
            }
            print(&text)
        }
        other => Err(Fault::new(format!("invalid format option {other:?}: table or json"))),
    }
}

/// `ps`.
pub(crate) fn ps(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    let record = records.load(line.id()?)?;
    let mut pids = cgroup(&record)?.processes()?;
    pids.sort_unstable();
    match line.value("format").unwrap_or("table") {
        "json" => print(&format!("{}\n", json!(pids))),
        "table" => {
            let mut text = format!("{:>8} CMD\n", "PID");
            for pid in pids {
                let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                text.push_str(&format!("{pid:>8} {}\n", command.trim_end()));
            }
            print(&text)
        }
        other => Err(Fault::new(format!("invalid format option {other:?}: table or json"))),
    }
}

/// `spec`: a bundle's first `config.json`.
pub(crate) fn spec(line: &CommandLine) -> Result<u8, Fault> {
    if line.has("rootless") {
        return Err(Fault::new("--rootless: not supported"));
    }
    let path = line.path("bundle").unwrap_or_else(|| PathBuf::from(".")).join("config.json");
    let text = format!("{:#}\n", example());
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Fault::new(format!("file {} exists. Remove it first", path.display())),
        _ => Fault::io("write", &path, &error),
    })?;
    Ok(0)
}

fn example() -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let quiet = ["nosuid", "noexec", "nodev"];
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
        "hostname": "brig",
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
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                "/proc/sched_debug", "/sys/firmware", "/proc/scsi"
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// `features`: what this build can do, in the specification's form.
pub(crate) fn features() -> Result<u8, Fault> {
    let mode = Layout::detect()?.mode();
    print_json(&json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": brig_oci::runtime::VERSION,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "capabilities": brig_oci::capabilities::ALL.as_slice(),
            "cgroup": {
                "v1": mode != Mode::V2, "v2": mode == Mode::V2, "systemd": false, "systemdUser": false, "rdma": false,
            },
            "seccomp": {"enabled": true, "archs": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]},
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}},
        },
    }))
}
