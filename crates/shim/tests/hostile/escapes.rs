//! Rows of the table of runtime vulnerabilities that need a whole runtime: programs that try to get at the host from
//! inside. What images and mounts can do is in the runtime's own tests.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::json;

use crate::bundle::{Bundle, runtime};

/// T-RT-02, CVE-2019-5736: a program whose interpreter is the process that starts it.
#[test]
fn the_runtime_cannot_be_run_from_inside_and_written() {
    let before = fs::read(runtime()).unwrap();
    for exec in [false, true] {
        let mut bundle = Bundle::new("sleep 100");
        // Should it be the runtime that runs, it waits for somebody to read its log.
        let evil = bundle.path("rootfs/bin/evil");
        fs::write(&evil, "#!/proc/self/exe --log\n").unwrap();
        fs::set_permissions(&evil, fs::Permissions::from_mode(0o755)).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, bundle.path("rootfs/fifo"), rustix::fs::FileType::Fifo, 0o666.into(), 0)
            .unwrap();
        let mut child = if exec {
            bundle.ok(&["run", "--detach", "ID"]);
            bundle.command(&["exec", "ID", "/bin/evil", "--log", "/fifo", "state", "x"]).spawn().unwrap()
        } else {
            bundle.change(|spec| spec["process"]["args"] = json!(["/bin/evil", "--log", "/fifo", "state", "x"]));
            bundle.command(&["run", "ID"]).spawn().unwrap()
        };
        // Whatever runs in the container: its program must not be a file of the host that could be written to.
        let own = fs::metadata(runtime()).unwrap();
        let begun = std::time::Instant::now();
        let mut seen = false;
        while !seen && child.try_wait().unwrap().is_none() && begun.elapsed().as_secs() < 20 {
            for pid in bundle.inside() {
                let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                if !command.starts_with(b"/proc/self/exe\0--log\0/bin/evil\0") {
                    continue;
                }
                seen = true;
                let exe = format!("/proc/{pid}/exe");
                let same = fs::metadata(&exe).is_ok_and(|exe| (exe.dev(), exe.ino()) == (own.dev(), own.ino()));
                // While it runs, the kernel refuses to write to it anyway; what counts is how it was opened.
                let read_only = rustix::fs::statvfs(exe.as_str())
                    .is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
                assert!(!same || read_only, "the runtime's own file runs in the container, and could be written to");
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        // A reader lets it end.
        let reader = rustix::fs::open(
            bundle.path("rootfs/fifo"),
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK,
            rustix::fs::Mode::empty(),
        );
        child.wait().unwrap();
        drop(reader);
        assert!(seen, "the program did not run");
        bundle.call(&["delete", "--force", "ID"]);
        bundle.clean();
    }
    assert!(before == fs::read(runtime()).unwrap(), "the runtime was overwritten");
}
