//! `--init`: the first process stays ours, runs the program as its child, hands signals on and reaps what is orphaned.
//! Owns that loop. Must not hold anything open, nor outlive the program.

use brig_sys::fdpass::Channel;
use brig_sys::pidfd::Exit;

use super::finish;
use crate::error::{Error, Result};
use crate::seccomp::Program;
use crate::wire::{self, Report};

/// SIGCHLD on every architecture that is supported.
const SIGCHLD: i32 = 17;
/// Stops of the terminal that the program, not its init, is to obey.
const SIGTTIN: i32 = 21;
const SIGTTOU: i32 = 22;

/// Forks, runs `program` in the child, and returns the exit code of this process when the child has ended.
pub(super) fn run(channel: &Channel, filter: Option<&Program>, program: impl FnOnce() -> Error) -> Result<i32> {
    brig_sys::signal::block_all()?;
    let child = brig_sys::clone::fork(|| {
        let failed = own_group().err().unwrap_or_else(program);
        let code = super::exit_code(&failed);
        // If the parent is gone there is nobody left to tell.
        wire::report(channel, &Report::Failed(failed)).unwrap_or_default();
        code
    })?;
    brig_sys::process::close_from(0)?;
    if let Some(filter) = filter {
        finish::load(filter)?;
    }
    Ok(forward(child))
}

/// The program leads a group of its own, in the foreground if there is a terminal; its signals are as a program expects them.
fn own_group() -> Result<()> {
    brig_sys::signal::new_group()?;
    let stdin = rustix::stdio::stdin();
    if rustix::termios::isatty(stdin) {
        brig_sys::pty::set_foreground(stdin)?;
    }
    Ok(brig_sys::signal::reset()?)
}

fn forward(child: i32) -> i32 {
    loop {
        match brig_sys::signal::wait() {
            Ok(SIGCHLD) => {
                while let Ok(Some((pid, exit))) = brig_sys::signal::reap_any() {
                    if pid == child {
                        return match exit {
                            Exit::Code(code) => code,
                            Exit::Signal(signal) => 128 + signal,
                        };
                    }
                }
            }
            Ok(SIGTTIN | SIGTTOU) => {}
            // A child that ended in between is reaped by the next SIGCHLD.
            Ok(signal) => brig_sys::signal::send(child, signal).unwrap_or_default(),
            Err(_) => return 125,
        }
    }
}
