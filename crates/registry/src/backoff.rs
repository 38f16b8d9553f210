//! Owns asking again: how long to wait before it, the waiting, and when to stop. It must not know what is asked for, nor report.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use crate::error::{Failure, Retry};

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
    waits_for_connections: bool,
}

/// Runs `ask` until it works or asking again is of no use. `waiting` hears of every wait before it.
///
/// # Errors
/// The last failure.
pub(crate) async fn retried<T, F: Future<Output = Result<T, Failure>>>(
    backoff: &mut Backoff,
    waiting: impl Fn(Duration),
    mut ask: impl FnMut() -> F,
) -> Result<T, Failure> {
    loop {
        match ask().await {
            Ok(done) => return Ok(done),
            Err(failure) => backoff.wait(failure, |wait, _| waiting(wait)).await?,
        }
    }
}

impl Backoff {
    /// For the middle of work: a server that cannot be reached may be back in a moment.
    pub(crate) fn new(first_delay: Duration) -> Backoff {
        let server_wait = Duration::ZERO;
        Backoff { first_delay, fruitless: 0, progressed: false, server_wait, waits_for_connections: true }
    }

    /// For the beginning of work: nothing is lost by failing at once when there is no connection.
    pub(crate) fn at_beginning(first_delay: Duration) -> Backoff {
        Backoff { waits_for_connections: false, ..Backoff::new(first_delay) }
    }

    /// The beginning is over.
    pub(crate) fn begun(self) -> Backoff {
        Backoff { waits_for_connections: true, ..self }
    }

    /// Something arrived before it failed: the count begins anew, after this failure.
    pub(crate) fn progress(&mut self) {
        self.progressed = true;
    }

    /// Waits before the next try, after `waiting` has heard for how long and why.
    ///
    /// # Errors
    /// The failure, if there is to be none.
    pub(crate) async fn wait(
        &mut self,
        failure: Failure,
        waiting: impl FnOnce(Duration, &Failure),
    ) -> Result<(), Failure> {
        let Some(wait) = self.next(failure.retry) else { return Err(failure) };
        waiting(wait, &failure);
        // A back-off: no registry tells when it answers again.
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// How long to wait before the next try; `None` to give up.
    fn next(&mut self, retry: Retry) -> Option<Duration> {
        self.fruitless = if std::mem::take(&mut self.progressed) { 0 } else { self.fruitless + 1 };
        if self.fruitless >= MOST_TRIES {
            return None;
        }
        match retry {
            Retry::Never => None,
            Retry::Reconnect if !self.waits_for_connections => None,
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
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::error::ErrorKind;

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

    #[test]
    fn a_connection_is_waited_for_only_in_the_middle_of_work() {
        let mut backoff = Backoff::at_beginning(Duration::from_secs(1));
        assert!(backoff.next(Retry::Soon).is_some());
        assert_eq!(backoff.next(Retry::Reconnect), None);
        assert!(backoff.begun().next(Retry::Reconnect).is_some());
    }

    #[tokio::test]
    async fn what_fails_is_asked_for_again_until_it_works_or_that_is_of_no_use() {
        let (asked, waits) = (Cell::new(0), RefCell::new(Vec::new()));
        let ask = async |good: u32, retry: Retry| {
            asked.set(0);
            let mut backoff = Backoff::new(Duration::from_millis(1));
            let waiting = |wait| waits.borrow_mut().push(wait);
            retried(&mut backoff, waiting, || async {
                asked.set(asked.get() + 1);
                let failure = Failure { retry, ..Failure::transient(ErrorKind::Network, asked.get().to_string()) };
                if asked.get() == good { Ok(good) } else { Err(failure) }
            })
            .await
            .map_err(|failure| failure.error.message)
        };
        let begun = std::time::Instant::now();
        let asked_for = Duration::from_millis(7);
        assert_eq!(ask(3, Retry::After(asked_for)).await, Ok(3));
        assert_eq!(waits.take(), [asked_for; 2]);
        assert!(begun.elapsed() >= asked_for * 2, "it did not wait");
        assert_eq!(ask(9, Retry::Soon).await, Err("5".into()));
        assert_eq!(waits.take().len(), 4);
        assert_eq!(ask(2, Retry::Never).await, Err("1".into()));
        assert!(waits.take().is_empty());
    }
}
