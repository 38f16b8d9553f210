//! The harness itself: a leak of every kind is found, so that a test that passes says something.

use brig_tests::{TestHost, eventually};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What the leak check says when a host is dropped after `leak` has been made.
fn complaint(leak: impl FnOnce(&TestHost)) -> String {
    let mut host = TestHost::without_daemon(&[]);
    host.grace = std::time::Duration::from_millis(300);
    leak(&host);
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(host)));
    let panic = dropped.expect_err("the leak was not found");
    panic.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn every_kind_of_leak_is_found() {
    drop(TestHost::without_daemon(&[]));

    let said = complaint(|host| std::fs::create_dir_all(host.exec_root().join("a".repeat(64))).unwrap());
    assert!(said.contains("file: "), "{said}");

    let said = complaint(|host| std::fs::create_dir_all(host.data_root.join("v1/active/x")).unwrap());
    assert!(said.contains("file: ") && said.contains("active/x"), "{said}");

    let said = complaint(|host| {
        host.program("ip", &["link", "add", "veth123", "type", "veth", "peer", "name", "other"]).output().ok();
    });
    assert!(said.contains("interface: veth123"), "{said}");

    let said = complaint(|host| {
        let rules = "add table ip brig; add set ip brig taken { type ipv4_addr; elements = { 172.17.0.9 }; }";
        host.program("nft", &[rules]).output().ok();
    });
    assert!(said.contains("172.17.0.9"), "{said}");

    let said = complaint(|host| {
        let child = host.program("sleep", &["1000"]).with(|command| {
            command.stdin(std::process::Stdio::null());
        });
        // The check ends it.
        std::thread::spawn(move || child.spawn().wait());
        eventually("it runs", || {
            let table = std::process::Command::new("ps").args(["ax", "-o", "args"]).output().unwrap();
            String::from_utf8_lossy(&table.stdout).contains("sleep 1000").then_some(())
        });
    });
    assert!(said.contains("process ") && said.contains("sleep 1000"), "{said}");

    let mut mounted = String::new();
    let said = complaint(|host| {
        let folder = host.root.join("mounted");
        std::fs::create_dir(&folder).unwrap();
        mounted = folder.display().to_string();
        brig_tests::Run::new("mount", &["-t", "tmpfs", "none", &mounted]).output().ok();
    });
    brig_tests::Run::new("umount", &[&mounted]).output().ok();
    std::fs::remove_dir_all(std::path::Path::new(&mounted).parent().unwrap()).unwrap();
    assert!(said.contains("mount: ") && said.contains(&mounted), "{said}");

    let mut group = std::path::PathBuf::new();
    let said = complaint(|host| {
        let memory = std::path::Path::new("/sys/fs/cgroup/memory");
        let root = if memory.is_dir() { memory } else { std::path::Path::new("/sys/fs/cgroup") };
        group = root.join(&host.name).join("left");
        std::fs::create_dir_all(&group).unwrap();
    });
    assert!(said.contains("cgroup: ") && said.contains("/left"), "{said}");
    assert!(!group.exists(), "it was swept");
}
