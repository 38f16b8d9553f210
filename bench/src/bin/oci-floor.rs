//! The floor of an OCI runtime's `run`: the namespaces and mounts of the benchmark's bundle, the program, and the wait for it.
//! No cgroup, no rights, no filter, no state, no configuration to read. Must not do what no runtime needs.

use brig_sys::clone::{self, flags};
use brig_sys::mount::{self, Attr, Change, Propagation};
use brig_sys::process::{StringArray, execute};
use brig_sys::{Error, Result, pidfd};
use rustix::fs::{FileType, Mode, OFlags};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, program @ ..] = &arguments[..] else {
        eprintln!("usage: oci-floor ROOTFS PROGRAM [ARGUMENT...]");
        return ExitCode::from(2);
    };
    match run(root, program) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("oci-floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(root: &str, program: &[String]) -> Result<u8> {
    let namespaces = flags::NEWNS | flags::NEWPID | flags::NEWNET | flags::NEWIPC | flags::NEWUTS;
    let child = clone::spawn(namespaces, None, || match inside(root, program) {
        Ok(error) | Err(error) => {
            eprintln!("oci-floor: inside: {error}");
            1
        }
    })?;
    let exit = pidfd::reap(child.pidfd.as_fd())?;
    Ok(u8::try_from(exit.shell_code() & 0xff).unwrap_or(u8::MAX))
}

/// The child; returns only an error.
fn inside(root: &str, program: &[String]) -> Result<Error> {
    let host = open("/")?;
    mount::configure(host.as_fd(), true, Change { propagation: Some(Propagation::Slave), ..Change::default() })?;
    let tree = mount::clone_tree_at(Path::new(root), true)?;
    mount::attach(tree.as_fd(), open(root)?.as_fd())?;
    let at = |inside: &str| format!("{root}/{inside}");
    mount::mount_classic("proc", &at("proc"), c"")?;
    mount::mount_classic("tmpfs", &at("dev"), c"mode=755,size=65536k")?;
    let made: [(&str, &str, &CStr); 3] = [
        ("devpts", "dev/pts", c"newinstance,ptmxmode=0666,mode=0620"),
        ("tmpfs", "dev/shm", c"mode=1777,size=65536k"),
        ("mqueue", "dev/mqueue", c""),
    ];
    for (kind, place, data) in made {
        rustix::fs::mkdir(at(place), Mode::from_raw_mode(0o755)).map_err(|errno| Error::new("mkdir()", errno))?;
        mount::mount_classic(kind, &at(place), data)?;
    }
    for (name, major, minor) in DEVICES {
        let (path, number) = (at(&format!("dev/{name}")), rustix::fs::makedev(major, minor));
        rustix::fs::mknodat(rustix::fs::CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), number)
            .map_err(|errno| Error::new("mknod()", errno))?;
    }
    mount::mount_classic("sysfs", &at("sys"), c"")?;
    mount::pivot_into(open(root)?.as_fd())?;
    let read_only = Change { set: Attr::MOUNT_ATTR_RDONLY, ..Change::default() };
    mount::configure(open("/")?.as_fd(), false, read_only)?;
    let strings = program.iter().map(|word| CString::new(word.as_str()).unwrap_or_default()).collect::<Vec<_>>();
    let path = strings.first().cloned().unwrap_or_default();
    Ok(execute(&path, &StringArray::new(strings), &StringArray::new(Vec::new())))
}

fn open(path: &str) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::new(format!("open({path:?})"), errno))
}
