//! A root with busybox, a specification like Docker's, and running a command in a container of both.
//! Owns clean-up and the leak check after each test. Must not use threads.

use std::fs;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use brig_oci::runtime::{Capabilities, IdMapping, Linux, LinuxNamespace, Mount, Process, Root, Spec};
use brig_runtime::{About, Container, CreateRequest, Error, ExecRequest, Rootfs, Stdio};
use brig_sys::pidfd::{self, Exit};

/// The first host id of the test containers.
pub const BASE: u32 = 1_000_000;

/// A directory for one test: `lower` with busybox, `upper`, `work`.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub id: String,
    mounts_before: String,
}

impl Place {
    pub fn new(name: &str) -> Place {
        let dir = tempfile::Builder::new().prefix("brig-rt-").tempdir().unwrap();
        // Root in a container must be able to pass through.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let place = Place { id: format!("test-{name}-{}", std::process::id()), dir, mounts_before: mountinfo() };
        for part in ["lower/bin", "lower/etc", "lower/tmp", "lower/home/user", "upper", "work", "canary"] {
            fs::create_dir_all(place.path(part)).unwrap();
        }
        fs::copy("/bin/busybox", place.path("lower/bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "ls", "id", "echo", "stat", "mount", "true", "false", "sleep", "touch", "mkdir", "head",
            "hostname", "readlink", "grep", "ps", "pwd", "chown", "rm", "env", "tty", "kill", "wc", "stty", "ln",
            "mknod", "umount", "dd", "sort",
        ] {
            symlink("busybox", place.path("lower/bin").join(applet)).unwrap();
        }
        fs::write(
            place.path("lower/etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
        )
        .unwrap();
        chown(place.path("lower/home/user"), Some(1000), Some(1000)).unwrap();
        place
    }

    pub fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join(inside)
    }

    pub fn overlay(&self) -> Rootfs {
        Rootfs::Overlay {
            lower: vec![self.path("lower")],
            upper: self.path("upper"),
            work: self.path("work"),
            volatile: true,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What the failed test left running.
            let layout = brig_runtime::cgroup::Layout::detect().unwrap();
            let cgroup = brig_runtime::cgroup::Cgroup::at(
                &layout,
                brig_runtime::cgroup::Place::below("/brig-test", &self.id).unwrap(),
            );
            cgroup.kill().and_then(|()| cgroup.remove()).unwrap_or_default();
        } else {
            assert_eq!(mountinfo(), self.mounts_before, "mounts were left behind");
            for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
                let left = hierarchy.path().join("brig-test").join(&self.id);
                assert!(!left.exists(), "{} was left behind", left.display());
            }
        }
    }
}

fn mountinfo() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

pub fn mount(destination: &str, type_: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.into(),
        type_: type_.into(),
        source: Some(source.into()),
        options: options.iter().map(|word| (*word).to_owned()).collect(),
        ..Mount::default()
    }
}

/// Docker's defaults in an own user namespace.
pub fn spec(args: &[&str]) -> Spec {
    let caps: Vec<String> = brig_oci::capabilities::DEFAULT.iter().map(|name| (*name).to_owned()).collect();
    let mapping = vec![IdMapping { container_id: 0, host_id: BASE, size: 65536 }];
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup", "user"];
    Spec {
        oci_version: "1.2.1".into(),
        process: Some(Process {
            args: args.iter().map(|word| (*word).to_owned()).collect(),
            env: vec!["PATH=/usr/bin:/bin".into()],
            cwd: "/".into(),
            capabilities: Some(Capabilities {
                bounding: caps.clone(),
                effective: caps.clone(),
                permitted: caps,
                ..Capabilities::default()
            }),
            ..Process::default()
        }),
        root: Some(Root::default()),
        hostname: "box".into(),
        mounts: vec![
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount(
                "/dev/pts",
                "devpts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]),
        ],
        linux: Some(Linux {
            uid_mappings: mapping.clone(),
            gid_mappings: mapping,
            namespaces: namespaces.iter().map(|type_| LinuxNamespace { type_: (*type_).into(), path: None }).collect(),
            masked_paths: ["/proc/interrupts", "/proc/keys", "/proc/acpi", "/sys/firmware", "/proc/absent"]
                .map(str::to_owned)
                .to_vec(),
            readonly_paths: ["/proc/bus", "/proc/sys", "/proc/sysrq-trigger"].map(str::to_owned).to_vec(),
            sysctl: [("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())].into(),
            ..Linux::default()
        }),
        ..Spec::default()
    }
}

pub fn process(spec: &mut Spec) -> &mut Process {
    spec.process.as_mut().unwrap()
}

pub fn linux(spec: &mut Spec) -> &mut Linux {
    spec.linux.as_mut().unwrap()
}

/// A pipe for each output and `/dev/null` for input.
pub struct Output {
    stdout: OwnedFd,
    stderr: OwnedFd,
}

pub fn pipes() -> (Stdio, Output) {
    let (stdout, stdout_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (stderr, stderr_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let stdin = fs::File::open("/dev/null").unwrap().into();
    (Stdio::Pipes { stdin, stdout: stdout_write, stderr: stderr_write }, Output { stdout, stderr })
}

/// How a process ended and what it wrote.
#[derive(Debug)]
pub struct Ran {
    pub exit: Exit,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The first line, of a program that goes on.
    pub fn line(&self) -> String {
        let mut line = Vec::new();
        let mut byte = [0u8];
        while rustix::io::read(&self.stdout, &mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    pub fn collect(self, pidfd: std::os::fd::BorrowedFd<'_>) -> Ran {
        let read = |fd: OwnedFd| {
            let mut bytes = Vec::new();
            fs::File::from(fd).read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (stdout, stderr) = (read(self.stdout), read(self.stderr));
        Ran { exit: pidfd::reap(pidfd).unwrap(), stdout, stderr }
    }
}

pub fn request<'a>(place: &'a Place, spec: &'a Spec, rootfs: Rootfs, stdio: Stdio) -> CreateRequest<'a> {
    CreateRequest {
        about: About { id: place.id.clone(), bundle: place.dir.path().to_owned() },
        idmap_binds: true,
        ..CreateRequest::new(&place.id, spec, rootfs, stdio, "/brig-test")
    }
}

/// Creates, starts, waits, deletes.
pub fn run_with(place: &Place, spec: &Spec, rootfs: Rootfs, init: bool) -> Result<Ran, Error> {
    let (stdio, output) = pipes();
    let mut container = brig_runtime::create(CreateRequest { init, ..request(place, spec, rootfs, stdio) })?;
    container.wait_ready()?;
    container.start()?;
    let ran = output.collect(container.pidfd());
    container.delete()?;
    Ok(ran)
}

pub fn run(place: &Place, spec: &Spec) -> Result<Ran, Error> {
    run_with(place, spec, place.overlay(), false)
}

/// What a shell script in a default container writes.
pub fn shell(place: &Place, spec: &mut Spec, script: &str) -> String {
    process(spec).args = vec!["sh".into(), "-c".into(), script.into()];
    let ran = run(place, spec).unwrap_or_else(|error| panic!("{error}"));
    assert!(ran.stderr.is_empty(), "{script}: {}", ran.stderr);
    ran.stdout
}

/// A container that sleeps.
pub fn sleeper(place: &Place, spec: &Spec) -> Container {
    let (stdio, _) = pipes();
    let mut container =
        brig_runtime::create(request(place, spec, place.overlay(), stdio)).unwrap_or_else(|error| panic!("{error}"));
    container.start().unwrap_or_else(|error| panic!("{error}"));
    container
}

pub fn exec(container: &Container, spec: &Spec, change: impl FnOnce(&mut Process)) -> Result<Ran, Error> {
    let mut process = spec.process.clone().unwrap();
    change(&mut process);
    let (stdio, output) = pipes();
    let done = container.exec(ExecRequest::new(&process, spec.linux.as_ref(), stdio))?;
    Ok(output.collect(done.pidfd.as_fd()))
}

pub fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Says loudly that a test cannot run here; `BRIG_SKIPS` names the file in which such are counted.
pub fn skip(test: &str, reason: &str) {
    use std::io::Write as _;
    eprintln!("SKIP: {test}: {reason}");
    if let Some(path) = std::env::var_os("BRIG_SKIPS") {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(file, "SKIP: {test}: {reason}").unwrap();
    }
}
