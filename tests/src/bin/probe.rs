//! A small static program that tests put into containers to look around there and to serve what busybox cannot.
//! Owns its few verbs; prints plain lines.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use std::fs;
use std::net::UdpSocket;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["true"] => {}
        ["udp", address] => udp(address),
        ["fds"] => fds(),
        ["syscalls"] => syscalls(),
        ["touch-proc"] => touch_proc(),
        _ => {
            eprintln!("usage: probe true | udp ADDRESS | fds | syscalls | touch-proc");
            std::process::exit(2);
        }
    }
}

/// Answers every datagram with `got ` and what it said.
fn udp(address: &str) {
    let socket = UdpSocket::bind(address).unwrap();
    println!("ready");
    let mut buffer = [0; 2048];
    loop {
        let (count, from) = socket.recv_from(&mut buffer).unwrap();
        let mut answer = b"got ".to_vec();
        answer.extend_from_slice(&buffer[..count]);
        socket.send_to(&answer, from).unwrap();
    }
}

/// Every descriptor that this program was given, and what it is.
fn fds() {
    let mut numbers: Vec<i32> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
        .collect();
    numbers.sort_unstable();
    for number in numbers {
        // The descriptor of the listing itself is closed by now.
        if let Ok(target) = fs::read_link(format!("/proc/self/fd/{number}")) {
            println!("{number} {}", target.display());
        }
    }
}

/// Some calls that a container must not make, and what came of each.
fn syscalls() {
    let say = |name: &str, outcome: Result<(), rustix::io::Errno>| match outcome {
        Ok(()) => println!("{name} allowed"),
        Err(errno) => println!("{name} {errno:?}"),
    };
    say("unshare-user", rustix_unshare());
    say("mount", rustix::mount::mount("none", "/tmp", "tmpfs", rustix::mount::MountFlags::empty(), None));
    say("sethostname", rustix::system::sethostname(b"other"));
    say("mknod-disk", mknod_disk());
    let time = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    say("settime", rustix::time::clock_settime(rustix::time::ClockId::Realtime, time));
}

fn rustix_unshare() -> Result<(), rustix::io::Errno> {
    let status = std::process::Command::new("/bin/busybox").args(["unshare", "-U", "true"]).status();
    if status.is_ok_and(|status| status.success()) { Ok(()) } else { Err(rustix::io::Errno::PERM) }
}

/// A device node may be made; it must not open.
fn mknod_disk() -> Result<(), rustix::io::Errno> {
    use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat, open};
    mknodat(CWD, "/disk", FileType::BlockDevice, Mode::RUSR | Mode::WUSR, makedev(254, 0))?;
    open("/disk", OFlags::RDONLY, Mode::empty()).map(drop)
}

/// Tries to write where only the host may; prints what could be written.
fn touch_proc() {
    for path in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/release_agent",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/modprobe",
    ] {
        let opened = fs::OpenOptions::new().write(true).open(path);
        println!("{path} {}", if opened.is_ok() { "writable" } else { "refused" });
    }
}
