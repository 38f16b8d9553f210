//! `features`: what this build can do, in the specification's form.
//!
//! Owns: that it tells the truth. Must not: promise what this machine's kernel has to decide.

use serde_json::json;

use crate::oci::Fault;
use crate::oci::describe::print;

/// What callers of runc know. Flags that only newer callers know work too.
const FLAGS: [&str; 3] = ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"];

/// `features`.
pub(crate) fn features() -> Result<u8, Fault> {
    let checkpoint = if brig_runtime::checkpoint::find_criu().is_some() { "true" } else { "false" };
    let document = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": brig_oci::runtime::VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": brig_runtime::MOUNT_OPTIONS.as_slice(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": brig_oci::capabilities::ALL.as_slice(),
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ",
                    "SCMP_CMP_NE",
                ],
                "archs": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
                "knownFlags": FLAGS,
                "supportedFlags": FLAGS,
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "memoryPolicy": {"modes": brig_runtime::MEMORY_MODES, "flags": brig_runtime::MEMORY_FLAGS},
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": true},
        },
        "annotations": {
            "org.brig.version": env!("CARGO_PKG_VERSION"),
            // Callers look for the checkpoint verb here; without CRIU it only fails.
            "org.opencontainers.runc.checkpoint.enabled": checkpoint,
        },
        "potentiallyUnsafeConfigAnnotations": ["org.systemd.property.", "org.criu.config"],
    });
    print(&format!("{document:#}\n"))
}
