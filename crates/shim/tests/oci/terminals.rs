//! `run` and `exec` on the caller's terminal. Owns: what is typed and shown. Must not: leave anything behind.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Winsize};
use serde_json::json;

use crate::bench::Bench;

/// A terminal and the program on it.
struct Seat {
    master: File,
    slave: OwnedFd,
    shown: String,
    child: Child,
}

impl Seat {
    /// Calls brig-rt with a terminal that controls it.
    fn new(bench: &Bench, arguments: &[&str]) -> Seat {
        Seat::start(bench, arguments, None)
    }

    /// The same, with another standard output.
    fn with_stdout(bench: &Bench, arguments: &[&str], stdout: OwnedFd) -> Seat {
        Seat::start(bench, arguments, Some(stdout))
    }

    fn start(bench: &Bench, arguments: &[&str], stdout: Option<OwnedFd>) -> Seat {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        let stream = || Stdio::from(slave.try_clone().unwrap());
        // Every setsid there is knows this much. As it leads no group of processes it becomes the program, without a child.
        let mut command = Command::new("setsid");
        command.args(["-c", env!("CARGO_BIN_EXE_brig-rt"), "--root"]).arg(bench.path("state"));
        command.args(arguments).current_dir(bench.plan.dir.path());
        let child = command.stdin(stream()).stdout(stdout.map_or_else(&stream, Stdio::from)).stderr(stream());
        let seat_size = |rows, columns| Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, seat_size(33, 44)).unwrap();
        let child = child.spawn().unwrap();
        Seat { master: master.into(), slave, shown: String::new(), child }
    }

    fn read_until(&mut self, text: &str) {
        let mut bytes = [0u8; 512];
        while !self.shown.contains(text) {
            let mut polled = [PollFd::new(&self.master, PollFlags::IN)];
            let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
            assert!(poll(&mut polled, Some(&limit)).unwrap() > 0, "{text:?} never comes after {:?}", self.shown);
            let count = self.master.read(&mut bytes).unwrap();
            self.shown.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
    }

    fn write(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, size).unwrap();
    }

    fn is_cooked(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&self.slave).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }
}

const SCRIPT: &str = "stty size; until [ \"$(stty size)\" = '50 60' ]; do sleep 0.05; done; echo resized; \
                      read x; echo \"got $x\"; exit 6";

#[test]
fn run_on_the_callers_terminal() {
    let mut bench = Bench::new(SCRIPT);
    bench.plan.spec["process"]["terminal"] = json!(true);
    bench.write();
    let mut seat = Seat::new(&bench, &["run", "box"]);
    assert!(seat.is_cooked());
    seat.read_until("33 44");
    // What is typed goes in as it is: the terminal inside echoes it and knows what ^C means.
    assert!(!seat.is_cooked());
    seat.resize(50, 60);
    seat.read_until("resized");
    seat.write("hello\r");
    seat.read_until("got hello");
    assert_eq!(seat.child.wait().unwrap().code(), Some(6));
    assert!(seat.is_cooked());
    assert_eq!(seat.shown.matches("hello").count(), 2, "{}", seat.shown);
    bench.clean();
}

#[test]
fn exec_on_the_callers_terminal() {
    let bench = Bench::new("sleep 100");
    bench.command(&["run", "-d", "box"]).stdout(Stdio::null()).status().unwrap();
    let mut seat = Seat::new(&bench, &["exec", "-t", "box", "sh", "-c", SCRIPT]);
    seat.read_until("33 44");
    seat.resize(50, 60);
    seat.read_until("resized");
    seat.write("hello\r");
    seat.read_until("got hello");
    assert_eq!(seat.child.wait().unwrap().code(), Some(6));
    assert!(seat.is_cooked());
    // ^C is for the program inside.
    let mut seat = Seat::new(&bench, &["exec", "-t", "box", "sh", "-c", "echo on; sleep 100"]);
    seat.read_until("on");
    seat.write("\x03");
    assert_eq!(seat.child.wait().unwrap().code(), Some(128 + 2));
    bench.ok(&["delete", "--force", "box"]);
    bench.clean();
}

/// Fails if a process does something in a second of nothing to do.
fn assert_idle(child: &Child) {
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    // The second is what is measured.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let used = ticks() - before;
    assert!(used < 20, "{used} hundredths of a second of CPU in a second of waiting");
}

/// A terminal that goes away leaves the program running, and the one who waits for it waiting.
#[test]
fn a_terminal_that_is_hung_up() {
    let mut bench = Bench::new("trap '' HUP; echo on; while [ ! -e /go ]; do sleep 0.1; done; echo lost; exit 6");
    bench.plan.spec["process"]["terminal"] = json!(true);
    bench.write();
    let mut seat = Seat::new(&bench, &["run", "box"]);
    seat.read_until("on");
    let Seat { master, slave, mut child, .. } = seat;
    drop((master, slave));
    assert_idle(&child);
    std::fs::write(bench.path("lower/go"), "").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(6));
    bench.clean();
}

/// Output that nobody takes yet is kept for them, at no cost, although the process that wrote it is gone.
#[test]
fn output_that_waits_for_its_reader() {
    const PIPE: usize = 64 << 10;
    const MORE: usize = 2000;
    let mut bench = Bench::new(&format!("head -c {} /dev/zero", PIPE + MORE));
    bench.plan.spec["process"]["terminal"] = json!(true);
    bench.write();
    let (mut ours, theirs) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&theirs, true).unwrap();
    let mut seat = Seat::with_stdout(&bench, &["run", "box"], theirs.into());
    // Until it is created there is no state to ask for.
    bench.wait_until(|| {
        let state = bench.command(&["state", "box"]).output().unwrap().stdout;
        String::from_utf8(state).unwrap().contains("stopped")
    });
    assert_idle(&seat.child);
    let mut shown = Vec::new();
    ours.read_to_end(&mut shown).unwrap();
    assert_eq!(shown.len(), PIPE + MORE);
    assert_eq!(seat.child.wait().unwrap().code(), Some(0));
    bench.clean();
}

#[test]
fn without_a_terminal_there_is_none_to_give() {
    let mut bench = Bench::new("true");
    bench.plan.spec["process"]["terminal"] = json!(true);
    bench.write();
    // A session without a controlling terminal, and streams that are none.
    let output = Command::new("setsid")
        .args([env!("CARGO_BIN_EXE_brig-rt"), "--root"])
        .arg(bench.path("state"))
        .args(["run", "box"])
        .current_dir(bench.plan.dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("/dev/tty"), "{said}");
    bench.refused(&["run", "--detach", "box"], "without setting console socket");
    bench.clean();
}
