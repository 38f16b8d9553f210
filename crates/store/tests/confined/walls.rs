//! A process that confines itself as the unpacking one does, by the same code, and then tries what it must not.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Stdio};

use brig_store::unpacker::{PIECES, Piece, isolate, lock, share};
use brig_sys::clone::flags;
use brig_sys::fdpass::{self, Channel};
use brig_sys::idmap::{self, Kind, Range};
use brig_sys::seccomp::Instruction;
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
    let (missing, worked) = run_where(pieces, "");
    assert!(missing.is_empty(), "{missing:?}");
    worked
}

/// As [`run`], where the kernel is made to refuse a piece; gives also the names of the pieces that were missed.
fn run_where(pieces: &[Piece], refused: &str) -> (Vec<String>, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = fdpass::pair().unwrap();
    let names: Vec<String> = pieces.iter().map(|piece| format!("{piece:?}")).collect();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["probe", &names.join(","), &listener.local_addr().unwrap().to_string(), refused])
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
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let (missing, worked) = worked.split_once("worked:").unwrap();
    (words(missing), words(worked))
}

/// Has the kernel refuse what a piece is made with, for this process and all that it starts.
pub fn refuse(piece: &str) {
    let step = |code, k, jt, jf| Instruction { code, jt, jf, k };
    let (load, and, equal, give) = (0x20, 0x54, 0x15, 0x06);
    let refused = 0x0005_0000 | libc::EPERM as u32;
    let (call, mask) = match piece {
        "User" => (libc::SYS_unshare, libc::CLONE_NEWUSER as u32),
        "Mounts" => (libc::SYS_unshare, libc::CLONE_NEWNS as u32),
        "Network" => (libc::SYS_unshare, libc::CLONE_NEWNET as u32),
        "Landlock" => (libc::SYS_landlock_create_ruleset, 0),
        "Filter" => (libc::SYS_seccomp, 0),
        _ => return,
    };
    let program = [
        step(load, 0, 0, 0),
        step(equal, u32::try_from(call).unwrap(), 0, 4),
        // Without a bit to look for, all calls are refused.
        step(load, 16, 0, 0),
        step(and, mask, 0, 0),
        step(equal, mask, 0, 1),
        step(give, refused, 0, 0),
        step(give, 0x7fff_0000, 0, 0),
    ];
    brig_sys::seccomp::load(&program, 0).unwrap();
}

/// The other process.
pub fn probe(pieces: &str, address: &str, refused: &str) -> ExitCode {
    refuse(refused);
    let pieces: Vec<Piece> =
        PIECES.iter().copied().filter(|piece| pieces.split(',').any(|name| name == format!("{piece:?}"))).collect();
    let parent = Pid::from_raw(rustix::process::getppid().unwrap().as_raw_nonzero().get()).unwrap();
    let hostname = rustix::system::uname().nodename().to_bytes().to_vec();
    let channel = Channel::from_fd(inherited::take(0).unwrap());
    let (mut missing, user) = isolate(&pieces, share(&pieces));
    channel.send(if user { b"user" } else { b"none" }, &[]).unwrap();
    let directory = channel.receive().unwrap().fds.pop().unwrap();
    let later = lock(directory.as_fd(), &pieces, &missing);
    missing.extend(later);
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
    let mut worked: String = missing.iter().map(|missing| format!("{:?} ", missing.piece)).collect();
    worked.push_str("worked:");
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

pub fn a_kernel_that_refuses_a_wall() {
    for piece in [Piece::User, Piece::Mounts, Piece::Network, Piece::Landlock, Piece::Filter] {
        let name = format!("{piece:?}");
        let (missing, worked) = run_where(PIECES, &name);
        assert_eq!(missing, [name.as_str()], "it is named");
        assert_eq!(worked, [""; 0], "without {name} the others hold");
    }
}

/// The process of the store itself, with a kernel that refuses a piece: the layer is the same, and the daemon says what it
/// goes without.
pub fn a_layer_without_a_wall() {
    for piece in ["User", "Mounts", "Network", "Landlock", "Filter"] {
        let unpacker = brig_store::unpacker::Unpacker::new(std::env::current_exe().unwrap(), ["refused", piece]);
        let (_dir, store) = crate::same::with(unpacker);
        let tar = crate::common::Tar::new().dir("d", 0o711).file("d/x", b"content").finish();
        let mut ingest = store.begin_layer().unwrap();
        let unpacked = ingest.unpack_blob(&tar[..], None).unwrap_or_else(|error| panic!("{piece}: {error}"));
        assert_eq!(unpacked.diff_id, brig_store::digest::sha256_of(&tar));
        let info = store.commit_layer(ingest, None).unwrap();
        let listing = crate::common::listing(&crate::common::diff(&store, &info.chain_id));
        assert!(listing["d"].starts_with("dir 711") && listing["d/x"].starts_with("file"), "{piece}: {listing:?}");
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
