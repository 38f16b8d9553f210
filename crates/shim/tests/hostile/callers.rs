//! What Docker, containerd and Podman ask for, and once did not get. Where they are installed, `tests/` runs them.

use serde_json::json;

use crate::bundle::Bundle;

/// Docker on cgroup v1 gives no cgroup namespace; the container must not see the machine's groups for that.
#[test]
fn without_a_cgroup_namespace_its_own_cgroups_are_shown() {
    for bundle in [Bundle::new, Bundle::with_user_namespace] {
        let mut bundle = bundle(
            "cd /sys/fs/cgroup; cat pids/pids.max pids.max 2>/dev/null; cat pids/tasks cgroup.procs 2>/dev/null | grep -c .; \
             mkdir pids/x x 2>/dev/null; ls -d */brig-hostile-* brig-hostile-* 2>/dev/null; true",
        );
        bundle.change(|spec| {
            spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|entry| entry["type"] != "cgroup");
            spec["linux"]["resources"]["pids"] = json!({"limit": 77});
        });
        let shown = bundle.run();
        let mut lines = shown.lines();
        assert_eq!(lines.next(), Some("77"), "{shown}");
        // The shell, and the two programs of the pipe; the machine has many more.
        assert!(lines.next().unwrap().parse::<u32>().unwrap() <= 3, "{shown}");
        assert_eq!(lines.next(), None, "{shown}");
        bundle.clean();
    }
}

/// Not every root has CAP_SYS_RESOURCE, without which nobody's limits but one's own can be changed.
#[test]
fn limits_of_another_user_are_set() {
    let mut bundle = Bundle::new("ulimit -n; ulimit -Hn; id -u; sleep 100");
    bundle.change(|spec| {
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
        spec["process"]["args"] = json!(["/bin/sh", "-c", "ulimit -n; ulimit -Hn; id -u"]);
    });
    assert_eq!(bundle.run(), "100\n200\n1000\n");
    bundle.change(|spec| spec["process"]["args"] = json!(["/bin/sleep", "100"]));
    bundle.ok(&["run", "--detach", "ID"]);
    let pid = bundle.pid();
    assert_eq!(
        bundle.ok(&["exec", "--user", "2000:2000", "ID", "sh", "-c", "ulimit -n; ulimit -Hn; id -u"]),
        "100\n200\n2000\n"
    );
    bundle.ok(&["delete", "--force", "ID"]);
    assert_eq!(bundle.reap_init(pid), 137);
    bundle.clean();
}

/// Whose the files of the root are is settled by the caller: dockerd and podman prepare it for the container's ids.
#[test]
fn a_root_keeps_its_owners() {
    let bundle = Bundle::with_user_namespace("stat -c %u /etc/passwd; touch /new && stat -c %u /new");
    assert_eq!(bundle.run(), "0\n0\n");
    assert_eq!(rustix::fs::stat(bundle.path("rootfs/new")).unwrap().st_uid, 231_072);
    bundle.clean();
}
