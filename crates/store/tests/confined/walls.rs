//! A process that confines itself as the unpacking one does, by the same code, and then tries what it must not.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Stdio};

use brig_store::unpacker::{PIECES, Piece, isolate, lock};
use brig_sys::clone::flags;
use brig_sys::fdpass::{self, Channel};
use brig_sys::idmap::{self, Kind, Range};
use brig_sys::{inherited, mount, namespace};
use rustix::fs::{FileType, Mode};
use rustix::process::Pid;

/// What it tries, by name; all of it works for a process that is not confined.
const TRIALS: &[&str] = &[
    "passwd", "exec", "tcp", "memory", "fds", "device", "signal", "chroot", "hostname", "unshare", "allocate", "open",
];

/// Which of it each wall refuses by itself.
const ALONE: &[(Piece, &[&str])] = &[
    (Piece::User, &["memory", "fds", "device", "hostname"]),
    (Piece::Mounts, &["passwd", "exec", "memory", "fds"]),
    (Piece::Network, &["tcp"]),
    (Piece::Landlock, &["passwd", "exec", "tcp", "memory", "fds", "signal"]),
    (Piece::Capabilities, &["device", "chroot", "hostname", "unshare"]),
    (Piece::Filter, &["exec", "tcp", "signal", "chroot", "hostname", "unshare"]),
    (Piece::Limits, &["allocate", "open"]),
];

/// Runs a probe with these pieces; gives the names of what worked.
fn run(pieces: &[Piece]) -> Vec<String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = fdpass::pair().unwrap();
    let names: Vec<String> = pieces.iter().map(|piece| format!("{piece:?}")).collect();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["probe", &names.join(","), &listener.local_addr().unwrap().to_string()])
        .stdin(Stdio::from(theirs.into_fd()))
        .spawn()
        .unwrap();
    let ready = ours.receive().unwrap().bytes;
    if ready == b"user" {
        for kind in [Kind::Group, Kind::User] {
            let all = Range { inside: 0, outside: 0, count: u32::MAX };
            idmap::write(child.id() as i32, kind, &[all]).unwrap();
        }
    } else {
        assert_eq!(ready, b"none");
    }
    let tree = mount::clone_tree(std::fs::File::open(directory.path()).unwrap().as_fd(), false).unwrap();
    ours.send(b"go", &[tree.as_fd()]).unwrap();
    let worked = String::from_utf8(ours.receive().unwrap().bytes).unwrap();
    assert!(child.wait().unwrap().success());
    // The other end did get through to this, where it did.
    drop(listener);
    worked.split_whitespace().skip(1).map(str::to_owned).collect()
}

/// The other process.
pub fn probe(pieces: &str, address: &str) -> ExitCode {
    let pieces: Vec<Piece> =
        PIECES.iter().copied().filter(|piece| pieces.split(',').any(|name| name == format!("{piece:?}"))).collect();
    let parent = Pid::from_raw(rustix::process::getppid().unwrap().as_raw_nonzero().get()).unwrap();
    let hostname = rustix::system::uname().nodename().to_bytes().to_vec();
    let channel = Channel::from_fd(inherited::take(0).unwrap());
    let (missing, user) = isolate(&pieces);
    assert!(missing.is_empty(), "{missing:?}");
    channel.send(if user { b"user" } else { b"none" }, &[]).unwrap();
    let directory = channel.receive().unwrap().fds.pop().unwrap();
    let missing = lock(directory.as_fd(), &pieces, &[]);
    assert!(missing.is_empty(), "{missing:?}");
    // What unpacking does must still go.
    let inside = rustix::fs::openat(
        &directory,
        "file",
        rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY,
        Mode::from_raw_mode(0o600),
    );
    rustix::fs::fchown(inside.unwrap(), Some(rustix::fs::Uid::from_raw(70_000)), None).unwrap();
    let proc = |what: &str| format!("/proc/{}/{what}", parent.as_raw_nonzero());
    let device = rustix::fs::makedev(1, 3);
    let mode = Mode::from_raw_mode(0o600);
    let mut worked = "worked:".to_owned();
    for trial in TRIALS {
        let done = match *trial {
            "passwd" => std::fs::read("/etc/passwd").is_ok(),
            "exec" => Command::new("/bin/true").status().is_ok(),
            "tcp" => TcpStream::connect(address).is_ok(),
            "memory" => std::fs::File::open(proc("mem")).is_ok(),
            "fds" => std::fs::read_link(proc("fd/1")).is_ok(),
            "device" => rustix::fs::mknodat(&directory, "null", FileType::CharacterDevice, mode, device).is_ok(),
            "signal" => rustix::process::test_kill_process(parent).is_ok(),
            "allocate" => Vec::<u8>::new().try_reserve_exact(512 << 20).is_ok(),
            "open" => many_descriptors(&directory),
            // These change this process, so they come last.
            "hostname" => rustix::system::sethostname(&hostname).is_ok(),
            "unshare" => namespace::unshare(flags::NEWUTS).is_ok(),
            "chroot" => rustix::process::chroot(".").is_ok(),
            other => panic!("{other}"),
        };
        if done {
            worked.push(' ');
            worked.push_str(trial);
        }
    }
    channel.send(worked.as_bytes(), &[]).unwrap();
    ExitCode::SUCCESS
}

fn many_descriptors(directory: &impl AsFd) -> bool {
    let open = || rustix::fs::openat(directory, ".", rustix::fs::OFlags::PATH, Mode::empty());
    let held: Result<Vec<_>, _> = (0..800).map(|_| open()).collect();
    held.is_ok()
}

pub fn each_wall_stands_alone() {
    assert_eq!(run(&[]), TRIALS, "without any, everything works: what is tried is tried rightly");
    for (piece, refused) in ALONE {
        let worked = run(&[*piece]);
        for trial in *refused {
            assert!(!worked.iter().any(|name| name == trial), "{piece:?} alone lets {trial} through");
        }
    }
}

pub fn all_walls_together() {
    assert_eq!(run(PIECES), Vec::<String>::new());
    // No single one is all that stands between a hostile archive and the host.
    for without in PIECES {
        let others: Vec<Piece> = PIECES.iter().copied().filter(|piece| piece != without).collect();
        let allowed: &[&str] = match without {
            Piece::Limits => &["allocate", "open"],
            _ => &[],
        };
        assert_eq!(run(&others), allowed, "without {without:?}");
    }
}
