//! Owns how long to wait before trying again, and when to stop. It must not sleep or report itself.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use crate::error::Retry;

/// Tries in a row that brought nothing before giving up.
const MOST_TRIES: u32 = 5;
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// All waits that servers asked for, together.
const MOST_SERVER_WAIT: Duration = Duration::from_secs(120);

/// Exponential back-off with jitter.
#[derive(Debug)]
pub(crate) struct Backoff {
    first_delay: Duration,
    fruitless: u32,
    progressed: bool,
    server_wait: Duration,
}

impl Backoff {
    pub(crate) fn new(first_delay: Duration) -> Backoff {
        Backoff { first_delay, fruitless: 0, progressed: false, server_wait: Duration::ZERO }
    }

    /// Something arrived before it failed: the count begins anew, after this failure.
    pub(crate) fn progress(&mut self) {
        self.progressed = true;
    }

    /// How long to wait before the next try; `None` to give up.
    pub(crate) fn next(&mut self, retry: Retry) -> Option<Duration> {
        self.fruitless = if std::mem::take(&mut self.progressed) { 0 } else { self.fruitless + 1 };
        if self.fruitless >= MOST_TRIES {
            return None;
        }
        match retry {
            Retry::Never => None,
            Retry::Soon | Retry::Reconnect => {
                let delay = self.first_delay.saturating_mul(1 << self.fruitless.saturating_sub(1)).min(LONGEST_DELAY);
                // Between half and all of it, so that many clients do not come back at the same instant.
                let half = delay / 2;
                let random = RandomState::new().build_hasher().finish() % 1024;
                Some(half + half.mul_f64(random as f64 / 1024.0))
            }
            Retry::After(wait) => {
                self.server_wait += wait;
                (self.server_wait <= MOST_SERVER_WAIT).then_some(wait)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        let waits: Vec<_> = std::iter::from_fn(|| backoff.next(Retry::Soon)).collect();
        assert_eq!(waits.len(), 4);
        for (nth, wait) in waits.iter().enumerate() {
            let full = Duration::from_secs(1 << nth);
            assert!(*wait >= full / 2 && *wait <= full, "{nth}: {wait:?}");
        }
        backoff.progress();
        assert!(backoff.next(Retry::Soon).unwrap() <= Duration::from_secs(1));
        assert_eq!(backoff.next(Retry::Never), None);
        let mut patient = Backoff::new(Duration::from_secs(1));
        assert_eq!(patient.next(Retry::After(Duration::from_secs(60))), Some(Duration::from_secs(60)));
        assert!(patient.next(Retry::After(Duration::from_secs(60))).is_some());
        assert_eq!(patient.next(Retry::After(Duration::from_secs(60))), None);
    }
}
