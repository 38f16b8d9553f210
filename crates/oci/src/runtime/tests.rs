//! Checks of the JSON spelling against what other runtimes write.

use super::*;

/// Shortened from what `runc spec` and dockerd write, with `null` for an empty Go slice.
const SPEC: &str = r#"{
  "ociVersion": "1.2.0",
  "process": {
    "terminal": true, "consoleSize": {"height": 24, "width": 80},
    "user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [5, 6]},
    "args": ["sh", "-c", "true"], "env": null, "cwd": "/",
    "capabilities": {"bounding": ["CAP_KILL"], "ambient": null},
    "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 512}],
    "noNewPrivileges": true, "apparmorProfile": "x", "oomScoreAdj": -5, "selinuxLabel": "l",
    "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 4},
    "execCPUAffinity": {"initial": "0-1", "final": "1"}
  },
  "root": {"path": "rootfs", "readonly": true},
  "hostname": "h",
  "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
             {"destination": "/b", "type": "bind", "source": "/s", "options": ["rbind"],
              "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}]}],
  "linux": {
    "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 65536}],
    "resources": {"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"}],
                  "memory": {"disableOOMKiller": false, "limit": 5}, "blockIO": {"throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 5}]},
                  "pids": {"limit": 10}, "network": {"classID": 7}},
    "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/n"}],
    "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0}],
    "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}]}]},
    "timeOffsets": {"monotonic": {"secs": -3, "nanosecs": 4}},
    "intelRdt": {"closID": "a", "enableCMT": true},
    "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"]
  },
  "unknownFutureField": {}
}"#;

#[test]
fn reads_what_others_write() {
    let spec: Spec = serde_json::from_str(SPEC).unwrap();
    let process = spec.process.as_ref().unwrap();
    assert_eq!(
        process.user,
        User { uid: 1, gid: 2, umask: Some(0o22), additional_gids: vec![5, 6], username: String::new() }
    );
    assert!(process.env.is_empty() && process.no_new_privileges);
    assert_eq!(process.oom_score_adj, Some(-5));
    assert_eq!(process.exec_cpu_affinity.as_ref().unwrap().final_.as_deref(), Some("1"));
    assert_eq!(spec.mounts[1].uid_mappings, [IdMapping { container_id: 0, host_id: 1000, size: 10 }]);
    let linux = spec.linux.as_ref().unwrap();
    assert_eq!(linux.namespaces[1].path.as_deref(), Some(std::path::Path::new("/run/n")));
    assert_eq!(linux.devices[0].file_mode, Some(0o666));
    let resources = linux.resources.as_ref().unwrap();
    assert_eq!(resources.memory.as_ref().unwrap().disable_oom_killer, Some(false));
    assert_eq!(resources.block_io.as_ref().unwrap().throttle_read_iops_device[0].rate, 5);
    assert_eq!(resources.network.as_ref().unwrap().class_id, Some(7));
    assert_eq!(linux.seccomp.as_ref().unwrap().syscalls[0].args[0].value_two, 2);
    assert_eq!(linux.time_offsets["monotonic"].secs, -3);
    assert!(linux.intel_rdt.as_ref().unwrap().enable_cmt);
}

#[test]
fn survives_a_round_trip() {
    let spec: Spec = serde_json::from_str(SPEC).unwrap();
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
    for name in [
        "containerID",
        "closID",
        "blockIO",
        "throttleReadIOPSDevice",
        "execCPUAffinity",
        "disableOOMKiller",
        "oomScoreAdj",
    ] {
        assert!(text.contains(name), "{name} is missing in {text}");
    }
}

#[test]
fn leaves_out_what_is_empty() {
    let text = serde_json::to_string(&Spec {
        linux: Some(Linux::default()),
        process: Some(Process::default()),
        ..Spec::default()
    })
    .unwrap();
    assert_eq!(text, r#"{"ociVersion":"","process":{"user":{"uid":0,"gid":0},"args":[],"cwd":""},"linux":{}}"#);
}

#[test]
fn refuses_ids_that_do_not_fit() {
    for uid in ["4294967296", "-1", "\"1\"", "1.5"] {
        let text = format!(r#"{{"user":{{"uid":{uid},"gid":0}},"args":[],"cwd":"/"}}"#);
        assert!(serde_json::from_str::<Process>(&text).is_err(), "{uid}");
    }
}
