//! Restart policies: a pure decision after each exit, and the waits between restarts.

use std::time::Duration;

use brig_api::container::{HostConfig, RestartPolicy};

use crate::error::{Error, Result};

/// Wait before the first restart (Docker's).
pub const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait (Docker's).
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A run that lasted this long starts the waits anew (Docker's).
pub const CALM: Duration = Duration::from_secs(10);

/// What comes after an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start it again after the wait.
    Restart,
    /// Leave it.
    Stay,
}

/// Decides after an exit while the daemon runs.
pub fn decide(policy: &RestartPolicy, exit_code: i64, stopped_by_user: bool, restarts: i64) -> Verdict {
    let restart = !stopped_by_user
        && match policy.name.as_str() {
            "always" | "unless-stopped" => true,
            "on-failure" => {
                exit_code != 0 && (policy.maximum_retry_count == 0 || restarts < policy.maximum_retry_count)
            }
            _ => false,
        };
    if restart { Verdict::Restart } else { Verdict::Stay }
}

/// Decides when the daemon starts and finds the container stopped: `always` comes back even if a person stopped it.
pub fn decide_at_boot(
    policy: &RestartPolicy,
    was_running: bool,
    exit_code: i64,
    stopped_by_user: bool,
    restarts: i64,
) -> Verdict {
    match policy.name.as_str() {
        "always" => Verdict::Restart,
        "unless-stopped" if !stopped_by_user => Verdict::Restart,
        "on-failure" if was_running => decide(policy, exit_code, stopped_by_user, restarts),
        _ => Verdict::Stay,
    }
}

/// Refuses policies that make no sense, in Docker's words.
pub fn check(host: &HostConfig) -> Result<()> {
    let policy = &host.restart_policy;
    match policy.name.as_str() {
        "" | "no" | "always" | "unless-stopped" => {
            if policy.maximum_retry_count != 0 {
                return Err(Error::invalid(
                    "invalid restart policy: maximum retry count can only be used with 'on-failure'",
                ));
            }
        }
        "on-failure" => {
            if policy.maximum_retry_count < 0 {
                return Err(Error::invalid("invalid restart policy: maximum retry count cannot be negative"));
            }
        }
        other => {
            return Err(Error::invalid(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )));
        }
    }
    if host.auto_remove && !matches!(policy.name.as_str(), "" | "no") {
        return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, most: i64) -> RestartPolicy {
        RestartPolicy { name: name.into(), maximum_retry_count: most }
    }

    #[test]
    fn what_a_person_stopped_stays_until_the_daemon_starts() {
        assert_eq!(decide(&policy("always", 0), 0, true, 0), Verdict::Stay);
        assert_eq!(decide_at_boot(&policy("always", 0), false, 0, true, 0), Verdict::Restart);
        assert_eq!(decide_at_boot(&policy("unless-stopped", 0), false, 0, true, 0), Verdict::Stay);
    }

    #[test]
    fn on_failure_counts() {
        assert_eq!(decide(&policy("on-failure", 2), 1, false, 1), Verdict::Restart);
        assert_eq!(decide(&policy("on-failure", 2), 1, false, 2), Verdict::Stay);
        assert_eq!(decide(&policy("on-failure", 0), 0, false, 0), Verdict::Stay);
        assert_eq!(decide(&policy("", 0), 1, false, 0), Verdict::Stay);
    }
}
