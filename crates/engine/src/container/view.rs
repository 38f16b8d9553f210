//! What is true of a container right now: an immutable picture that its task publishes after each change. `ps`,
//! `inspect`, `logs` and waiters read pictures and never wait for the task. Must not change anything.

use std::sync::Arc;

use super::policy::Status;
use super::record::Record;
use crate::id::ZERO_TIME;

/// One published picture.
#[derive(Debug, Clone)]
pub struct View {
    /// What was asked for.
    pub record: Arc<Record>,
    /// The derived status.
    pub status: Status,
    /// Process id of init on the host, 0 without one.
    pub pid: i32,
    /// Exit code of the last run.
    pub exit_code: i64,
    /// Whether the kernel killed a process of the last run for lack of memory.
    pub oom_killed: bool,
    /// Why the last start failed; empty when it did not.
    pub error: String,
    /// When the last run began, RFC 3339 or Docker's zero time.
    pub started_at: String,
    /// When the last run ended, RFC 3339 or Docker's zero time.
    pub finished_at: String,
    /// How many runs have ended since this daemon began: what waiters for the next exit compare.
    pub exits: u64,
    /// How many starts have failed since this daemon began: waiters and attached clients go home on it.
    pub failed_starts: u64,
    /// Whether the container is gone.
    pub removed: bool,
    /// Why removing it failed, for those who wait for its removal.
    pub removal_error: Option<String>,
}

impl View {
    /// The picture of a container that was never started.
    pub fn created(record: Arc<Record>) -> Self {
        let (exit_code, error) = record.start_error.clone().unwrap_or_default();
        Self {
            record,
            status: Status::Created,
            pid: 0,
            exit_code,
            oom_killed: false,
            error,
            started_at: ZERO_TIME.into(),
            finished_at: ZERO_TIME.into(),
            exits: 0,
            failed_starts: 0,
            removed: false,
            removal_error: None,
        }
    }

    /// Whether it has a live process or will have one by its restart policy: more may come into its log.
    pub fn goes_on(&self) -> bool {
        !self.removed && (self.status.is_alive() || self.status == Status::Restarting)
    }

    /// Whether something is, or is about to be, done for it though nobody asks: it goes on, or goes away as `--rm` wants.
    pub fn needs_care(&self) -> bool {
        let has_ended = self.exits > 0 || self.failed_starts > 0;
        let is_going = match self.status {
            Status::Removing => true,
            Status::Created | Status::Exited => has_ended && self.record.host_config.auto_remove,
            Status::Running | Status::Paused | Status::Restarting | Status::Dead => false,
        };
        self.goes_on() || is_going && !self.removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(auto_remove: bool) -> View {
        let record = Record {
            id: "0".repeat(64),
            name: "one".into(),
            created: ZERO_TIME.into(),
            image: String::new(),
            image_id: String::new(),
            chain: None,
            platform: "linux/amd64".into(),
            config: brig_api::container::Config::default(),
            host_config: brig_api::container::HostConfig { auto_remove, ..Default::default() },
            endpoint: None,
            mounts: Vec::new(),
            path: "true".into(),
            args: Vec::new(),
            restart_count: 0,
            stopped_by_user: false,
            run: None,
            start_error: None,
            was_started: true,
        };
        View { status: Status::Exited, exits: 1, ..View::created(Arc::new(record)) }
    }

    #[test]
    fn what_is_about_to_be_removed_needs_care_until_it_is_gone() {
        assert!(!ended(false).needs_care());
        assert!(ended(true).needs_care(), "its process has ended, but it is still there");
        assert!(View { status: Status::Removing, ..ended(false) }.needs_care());
        assert!(!View { status: Status::Removing, removed: true, ..ended(true) }.needs_care());
        assert!(!View { status: Status::Dead, ..ended(true) }.needs_care(), "nothing more is tried by itself");
        let new = View { status: Status::Created, exits: 0, ..ended(true) };
        assert!(!new.needs_care(), "it was never started");
        assert!(View { failed_starts: 1, ..new }.needs_care());
        assert!(View { status: Status::Restarting, ..ended(false) }.needs_care());
    }
}
