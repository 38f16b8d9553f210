//! This process's terminal: is it one, how large is it, raw mode and the way back from it.
//! Owns the saved settings; every way out of the process goes through [`restore`].

use crate::failure::{Failure, Result};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;

static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Standard input is a terminal.
pub fn stdin_is_tty() -> bool {
    isatty(rustix::stdio::stdin())
}

/// Standard output is a terminal.
pub fn stdout_is_tty() -> bool {
    isatty(rustix::stdio::stdout())
}

/// Height and width of the terminal that standard output or input is.
pub fn size() -> Option<(u16, u16)> {
    let of = |fd: BorrowedFd<'_>| tcgetwinsize(fd).ok().map(|size| (size.ws_row, size.ws_col));
    of(rustix::stdio::stdout())
        .or_else(|| of(rustix::stdio::stdin()))
        .filter(|(rows, columns)| *rows > 0 && *columns > 0)
}

/// Raw mode for as long as this value lives.
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    /// Switches standard input to raw mode; nothing if it is no terminal or `NORAW` is set.
    ///
    /// # Errors
    /// `tcsetattr` fails.
    pub fn enter() -> Result<Raw> {
        let stdin = rustix::stdio::stdin();
        if std::env::var_os("NORAW").is_some() {
            return Ok(Raw(()));
        }
        if let Ok(settings) = tcgetattr(stdin) {
            let mut raw = settings.clone();
            raw.make_raw();
            *SAVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(settings);
            tcsetattr(stdin, OptionalActions::Now, &raw)
                .map_err(|e| Failure::new(format!("tcsetattr(0, raw): {e}")))?;
        }
        Ok(Raw(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was. May be called at any time, by any thread, more than once.
pub fn restore() {
    let saved = SAVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if let Some(settings) = saved {
        // There is nobody left to tell if the terminal has gone.
        let _gone = tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &settings);
    }
}

/// Prints text on standard output. A reader that has gone ends the command quietly, as SIGPIPE would.
///
/// # Errors
/// Standard output cannot be written.
pub fn print(text: &str) -> Result<()> {
    write(text.as_bytes())
}

/// Prints text and a line break.
///
/// # Errors
/// As [`print`].
pub fn line(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Writes bytes to standard output.
///
/// # Errors
/// As [`print`].
pub fn write(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::silent(141),
        _ => Failure::new(format!("write to standard output: {error}")),
    })
}

/// Says something on standard error; there is nowhere to complain if that fails.
pub fn say(text: &str) {
    let mut err = std::io::stderr().lock();
    let _lost = err.write_all(text.as_bytes()).and_then(|()| err.write_all(b"\n"));
}

/// Asks a yes/no question as Docker's prune commands do.
///
/// # Errors
/// Standard input cannot be read.
pub fn confirm(question: &str) -> Result<bool> {
    print(&format!("{question} [y/N] "))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

/// Typed characters are not shown for as long as this value lives.
///
/// # Errors
/// `tcsetattr` fails.
pub fn hide_typing() -> Result<Raw> {
    let stdin = rustix::stdio::stdin();
    if let Ok(settings) = tcgetattr(stdin) {
        let mut silent = settings.clone();
        silent.local_modes.remove(rustix::termios::LocalModes::ECHO);
        *SAVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(settings);
        tcsetattr(stdin, OptionalActions::Now, &silent)
            .map_err(|e| Failure::new(format!("tcsetattr(0, no echo): {e}")))?;
    }
    Ok(Raw(()))
}
