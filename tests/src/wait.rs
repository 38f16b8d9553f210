//! Waiting for something to become true, with a limit. Owns no fixed pauses: a condition is asked until it holds.

use std::time::{Duration, Instant};

/// How long a loaded machine may take for something that takes milliseconds on an idle one.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until `ready` gives something; panics with `what` after [`PATIENCE`].
pub fn eventually<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not after {} s", PATIENCE.as_secs());
        // Whatever is asked about has no event, or its test would wait for that.
        std::thread::sleep(Duration::from_millis(5));
    }
}
