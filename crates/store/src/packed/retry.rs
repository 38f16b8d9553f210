//! What failed for a reason that may pass, like a full disk: when it is tried again, and how often. Must not know what it is.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How often something is tried again by itself; after that at the next opening of the store.
const MOST: u32 = 6;
/// Each wait is so many times the one before.
const GROWTH: u32 = 4;

/// What has failed, and when each is tried again.
pub(super) struct Retries<K> {
    /// How long the first wait is.
    first: Duration,
    failed: HashMap<K, Failed>,
}

struct Failed {
    times: u32,
    /// `None` where it was tried often enough.
    again: Option<Instant>,
}

impl<K: Eq + Hash> Retries<K> {
    pub(super) fn new(first: Duration) -> Retries<K> {
        Retries { first, failed: HashMap::new() }
    }

    /// Something has failed, once more or for the first time.
    pub(super) fn note(&mut self, what: K, now: Instant) {
        let failed = self.failed.entry(what).or_insert(Failed { times: 0, again: None });
        let wait = self.first.saturating_mul(GROWTH.saturating_pow(failed.times));
        failed.times += 1;
        failed.again = (failed.times <= MOST).then(|| now.checked_add(wait)).flatten();
    }

    /// Whether something is to be tried now: it has not failed, or long enough ago.
    pub(super) fn is_due(&self, what: &K, now: Instant) -> bool {
        self.failed.get(what).is_none_or(|failed| failed.again.is_some_and(|again| again <= now))
    }

    /// When the next is to be tried.
    pub(super) fn next(&self) -> Option<Instant> {
        self.failed.values().filter_map(|failed| failed.again).min()
    }

    /// Forgets what does not matter any more.
    pub(super) fn retain(&mut self, matters: impl Fn(&K) -> bool) {
        self.failed.retain(|what, _| matters(what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        const FIRST: Duration = Duration::from_secs(30);
        let mut retries = Retries::new(FIRST);
        let mut now = Instant::now();
        assert!(retries.is_due(&"a", now) && retries.next().is_none());
        let mut waits = Vec::new();
        loop {
            retries.note("a", now);
            let Some(next) = retries.next() else { break };
            assert!(!retries.is_due(&"a", next - Duration::from_millis(1)) && retries.is_due(&"b", now));
            waits.push((next - now).as_secs());
            now = next;
            assert!(retries.is_due(&"a", now));
        }
        assert_eq!(waits, [30, 120, 480, 1920, 7680, 30_720]);
        assert!(!retries.is_due(&"a", now + FIRST * 100_000), "it was tried often enough");
        retries.note("b", now);
        retries.retain(|what| *what == "b");
        assert!(retries.is_due(&"a", now) && !retries.is_due(&"b", now));
    }
}
