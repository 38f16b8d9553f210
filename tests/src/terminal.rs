//! A program in a terminal of its own, as a person at a keyboard would run it.
//! Owns the terminal's other end: typing, reading, resizing.

use crate::command::{self, Run};
use crate::wait::PATIENCE;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const UNBROKEN: &str = "nobody panics with the screen locked";

/// All that was ever shown, and who waits for more.
#[derive(Default)]
struct Screen {
    shown: Mutex<Vec<u8>>,
    more: Condvar,
}

/// A running program and the keyboard and screen in front of it.
pub struct Terminal {
    master: File,
    child: Child,
    screen: Arc<Screen>,
    shown: String,
    read_to: usize,
}

impl Terminal {
    /// Starts a program as the leader of a session whose controlling terminal this is.
    pub fn new(run: Run, shown: &str, rows: u16, columns: u16) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal can be opened");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("a terminal can be unlocked");
        let name = ptsname(&master, Vec::new()).expect("a terminal has a name").into_string().expect("in ASCII");
        tcsetwinsize(&master, size(rows, columns)).expect("a terminal can be sized");
        // What is run becomes `setsid --ctty --wait program …`: a session of its own, with the terminal as its own.
        let run = run.with(|command| {
            let slave = || {
                let mut options = std::fs::OpenOptions::new();
                options.read(true).write(true);
                std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, 0o400);
                options.open(&name).expect("the terminal can be opened")
            };
            let program = command.get_program().to_owned();
            let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
            let variables: Vec<_> = command.get_envs().map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned))).collect();
            let mut wrapped = std::process::Command::new("setsid");
            wrapped.args(["--ctty", "--wait"]).arg(program).args(arguments).env_clear();
            wrapped.envs(variables.into_iter().filter_map(|(name, value)| Some((name, value?))));
            wrapped.stdin(slave()).stdout(slave()).stderr(slave());
            *command = wrapped;
        });
        let child = run.spawn();
        let screen = Arc::new(Screen::default());
        let master = File::from(master);
        let (mut from, to) = (master.try_clone().expect("a descriptor can be copied"), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                to.shown.lock().expect(UNBROKEN).extend_from_slice(&buffer[..count]);
                to.more.notify_all();
            }
        });
        Terminal { master, child, screen, shown: shown.to_owned(), read_to: 0 }
    }

    /// Types.
    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("a terminal takes input");
    }

    /// Waits until something new appears on the screen; everything up to it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        match self.appears(text, PATIENCE) {
            Some(seen) => seen,
            None => panic!("{}: {text:?} did not appear on\n{}", self.shown, self.screen()),
        }
    }

    /// Waits until something new appears on the screen, at most so long; everything up to it.
    pub fn appears(&mut self, text: &str, limit: Duration) -> Option<String> {
        let is_missing = |shown: &mut Vec<u8>| {
            !String::from_utf8_lossy(shown).get(self.read_to..).is_some_and(|new| new.contains(text))
        };
        let shown = self.screen.shown.lock().expect(UNBROKEN);
        let (shown, _) = self.screen.more.wait_timeout_while(shown, limit, is_missing).expect(UNBROKEN);
        let screen = String::from_utf8_lossy(&shown);
        let end = self.read_to + screen.get(self.read_to..)?.find(text)? + text.len();
        let seen = screen[self.read_to..end].to_owned();
        self.read_to = end;
        Some(seen)
    }

    /// All that was ever shown.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.shown.lock().expect(UNBROKEN)).into_owned()
    }

    /// Changes the window's size.
    pub fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.master, size(rows, columns)).expect("a terminal can be sized");
    }

    /// Whether the terminal is as a shell wants it: echoing, line by line.
    pub fn is_cooked(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&self.master).expect("a terminal has modes").local_modes;
        modes.contains(rustix::termios::LocalModes::ECHO | rustix::termios::LocalModes::ICANON)
    }

    /// Waits for the program's end; its exit code.
    #[track_caller]
    pub fn finish(&mut self) -> i32 {
        if !command::wait(&self.child, PATIENCE) {
            self.child.kill().ok();
            panic!("{} did not end; the screen:\n{}", self.shown, self.screen());
        }
        let status = self.child.wait().expect("a child can be waited for");
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
