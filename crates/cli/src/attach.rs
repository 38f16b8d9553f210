//! Standard streams of this process joined to a container's or an exec's: raw or framed output, input with half close,
//! detach keys, signals and window size.
//! Owns the copying; starts and stops nothing in the daemon.

use crate::client::{Client, Path};
use crate::failure::{Failure, Result};
use crate::http::Stream;
use crate::{signals, terminal};
use brig_api::detach::Detector;
use brig_api::frame;
use std::io::{BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// What to join.
#[derive(Debug, Clone)]
pub struct Options {
    /// Send standard input.
    pub stdin: bool,
    /// The other side is a terminal: output is raw, and so is this terminal.
    pub tty: bool,
    /// Keys that detach; empty means Docker's default.
    pub detach_keys: String,
}

/// How the joining ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The other side closed its output.
    Closed,
    /// The detach keys were typed.
    Detached,
}

/// Refuses a terminal for the container where there is none here.
///
/// # Errors
/// Docker's words.
pub fn check_terminal(stdin: bool, tty: bool) -> Result<()> {
    if stdin && tty && !terminal::stdin_is_tty() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    Ok(())
}

/// Copies until the other side closes or the detach keys are typed.
///
/// # Errors
/// Malformed detach keys, broken streams.
pub fn copy(stream: BufReader<Stream>, options: &Options) -> Result<End> {
    let detached = Arc::new(AtomicBool::new(false));
    let raw = if options.tty && options.stdin { Some(terminal::Raw::enter()?) } else { None };
    if options.stdin {
        let keys = match options.tty {
            true if options.detach_keys.is_empty() => brig_api::detach::DEFAULT,
            true => &options.detach_keys,
            false => "",
        };
        let keys = if keys.is_empty() { Vec::new() } else { brig_api::detach::parse(keys)? };
        let writer = stream.get_ref().try_clone()?;
        let flag = Arc::clone(&detached);
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || send_input(writer, Detector::new(keys), &flag))?;
    }
    let result = if options.tty { receive_raw(stream) } else { receive_frames(stream) };
    drop(raw);
    if detached.load(Ordering::Acquire) {
        return Ok(End::Detached);
    }
    result.map(|()| End::Closed)
}

fn send_input(mut writer: Stream, mut detector: Detector, detached: &AtomicBool) {
    let mut buffer = [0; 16 << 10];
    let mut passed = Vec::new();
    loop {
        let read = match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => break,
        };
        passed.clear();
        let found = detector.feed(&buffer[..read], &mut passed);
        if writer.write_all(&passed).is_err() {
            return;
        }
        if found {
            detached.store(true, Ordering::Release);
            // Ends the other thread's read.
            let _ended = rustix::net::shutdown(&writer, rustix::net::Shutdown::Both);
            return;
        }
    }
    writer.close_write();
}

fn receive_raw(mut stream: BufReader<Stream>) -> Result<()> {
    let mut buffer = [0; 32 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => terminal::write(&buffer[..read])?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(Failure::new(format!("read from the daemon: {error}"))),
        }
    }
}

/// Copies framed output to standard output and error until it ends.
///
/// # Errors
/// Broken streams, malformed frames, and what the daemon sends as its error.
pub fn receive_frames(mut stream: impl Read) -> Result<()> {
    let mut decoder = frame::Decoder::new();
    let mut buffer = [0; 32 << 10];
    loop {
        let read = match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(Failure::new(format!("read from the daemon: {error}"))),
        };
        let mut trouble = None;
        decoder.feed(&buffer[..read], |source, bytes| {
            let result = match source {
                frame::Stream::Stdin | frame::Stream::Stdout => terminal::write(bytes),
                frame::Stream::Stderr => std::io::stderr().write_all(bytes).map_err(Failure::from),
                frame::Stream::SystemError => {
                    Err(Failure::new(format!("error from daemon in stream: {}", String::from_utf8_lossy(bytes))))
                }
            };
            if let Err(failure) = result {
                trouble.get_or_insert(failure);
            }
        })?;
        if let Some(failure) = trouble {
            return Err(failure);
        }
    }
}

/// Whom signals and window sizes go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A container's main process.
    Container(String),
    /// A process in a container.
    Exec(String),
}

fn resize(client: &Client, target: &Target) -> Result<()> {
    let Some((height, width)) = terminal::size() else { return Ok(()) };
    tell_size(client, target, height, width)
}

/// Makes a program that is attached to again draw its screen or prompt anew: it is told another size, and the right one by
/// [`follow_window`] after that.
pub fn redraw(client: &Client, target: &Target) {
    if let Some((height, width)) = terminal::size() {
        // The process may have ended meanwhile; then there is nothing to draw.
        let _late = tell_size(client, target, height.saturating_add(1), width.saturating_add(1));
    }
}

fn tell_size(client: &Client, target: &Target, height: u16, width: u16) -> Result<()> {
    let path = match target {
        Target::Container(id) => Path::new("/containers/{}/resize", &[id]),
        Target::Exec(id) => Path::new("/exec/{}/resize", &[id]),
    };
    client.post(&path.query("h", &height.to_string()).query("w", &width.to_string()))
}

/// Tells the daemon the terminal's size now and whenever it changes. The process may not run yet: asked again for a while.
/// With `ends`, signals that end a process give the terminal back first.
///
/// # Errors
/// Signals cannot be caught.
pub fn follow_window(client: &Arc<Client>, target: Target, ends: bool) -> Result<()> {
    let (first, first_target) = (Arc::clone(client), target.clone());
    std::thread::Builder::new().name("resize".to_owned()).spawn(move || {
        for attempt in 1..=10 {
            if resize(&first, &first_target).is_ok() {
                return;
            }
            // The API has no event for a process of `exec` that can be resized.
            std::thread::sleep(Duration::from_millis(10 * attempt));
        }
    })?;
    let client = Arc::clone(client);
    let mut caught = vec![signals::WINDOW];
    if ends {
        caught.extend(signals::ENDING);
    }
    signals::listen(caught, move |number| {
        if number == signals::WINDOW {
            // The process may have ended meanwhile; a size nobody needs is no error.
            let _late = resize(&client, &target);
        } else {
            terminal::restore();
            std::process::exit(128 + number);
        }
    })
}

/// Forwards the signals that this process receives to the container. The third request to end ends this process.
///
/// # Errors
/// Signals cannot be caught.
pub fn forward_signals(client: &Arc<Client>, container: String) -> Result<()> {
    let client = Arc::clone(client);
    let asked = AtomicU32::new(0);
    let numbers = signals::FORWARDED.iter().map(|(number, _)| *number).collect();
    signals::listen(numbers, move |number| {
        let name = signals::FORWARDED.iter().find(|(n, _)| *n == number).map_or("", |(_, name)| name);
        if matches!(number, 2 | 15) && asked.fetch_add(1, Ordering::Relaxed) == 2 {
            terminal::say("\ngot 3 SIGTERM/SIGINTs, forcefully exiting");
            std::process::exit(1);
        }
        if number == signals::WINDOW {
            return;
        }
        let path = Path::new("/containers/{}/kill", &[&container]).query("signal", name);
        // Before the start and after the end there is nobody to signal.
        let _nobody = client.post(&path);
    })
}
