//! Signals that this process receives, handed to a function on a thread of their own.
//! Owns the thread; what a signal means is the caller's.

use crate::failure::{Failure, Result};
use std::sync::mpsc;
use tokio::signal::unix::{SignalKind, signal};

/// Every signal that Docker's client forwards, with its name; those that cannot be caught, SIGCHLD and SIGPIPE are not among them.
pub const FORWARDED: [(i32, &str); 18] = [
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (10, "USR1"),
    (12, "USR2"),
    (14, "ALRM"),
    (15, "TERM"),
    (18, "CONT"),
    (20, "TSTP"),
    (21, "TTIN"),
    (22, "TTOU"),
    (24, "XCPU"),
    (25, "XFSZ"),
    (26, "VTALRM"),
    (27, "PROF"),
    (28, "WINCH"),
    (29, "IO"),
    (30, "PWR"),
];

/// SIGWINCH.
pub const WINDOW: i32 = 28;

/// The signals that end a process that does nothing about them: HUP, INT, QUIT, TERM.
pub const ENDING: [i32; 4] = [1, 2, 3, 15];

/// Calls `handle` for each of these signals from now on. Returns when they are caught.
///
/// # Errors
/// The thread or the handlers cannot be set up.
pub fn listen(signals: Vec<i32>, handle: impl Fn(i32) + Send + 'static) -> Result<()> {
    let (ready, is_ready) = mpsc::channel();
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(error))),
        };
        runtime.block_on(async move {
            let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
            for number in signals {
                let mut stream = match signal(SignalKind::from_raw(number)) {
                    Ok(stream) => stream,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let sender = sender.clone();
                tokio::spawn(async move { while stream.recv().await.is_some() && sender.send(number).is_ok() {} });
            }
            drop(ready.send(Ok(())));
            while let Some(number) = received.recv().await {
                handle(number);
            }
        });
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(body)
        .map_err(|e| Failure::new(format!("start a thread for signals: {e}")))?;
    match is_ready.recv() {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::new(format!("catch signals: {error}"))),
        Err(_) => Err(Failure::new("the thread for signals ended")),
    }
}
