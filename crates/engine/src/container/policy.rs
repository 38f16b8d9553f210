//! "May this happen now?": a pure function from a container's status and a request to allow, ignore or refuse.
//! Owns Docker's rules and sentences for that; must not look at anything but its arguments.

use crate::error::{Error, ErrorKind};

/// A container's status, derived from its record and the facts, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Made, never started.
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// It exited and its restart policy will start it again.
    Restarting,
    /// It is being removed.
    Removing,
    /// Its process ended.
    Exited,
    /// Removing it failed part way; only removing it again makes sense.
    Dead,
}

impl Status {
    /// Docker's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
    /// Whether the container has a live process.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// Everything that may be asked of one container and depends on its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Start the process.
    Start,
    /// End the process in good order.
    Stop,
    /// Send a signal.
    Kill,
    /// Freeze.
    Pause,
    /// Thaw.
    Unpause,
    /// Remove; `force` ends the process first.
    Remove {
        /// Whether a live process may be killed for it.
        force: bool,
    },
    /// Give another name.
    Rename,
    /// Run another process inside.
    Exec,
    /// Tell the terminal its size.
    Resize,
    /// List the processes.
    Top,
    /// Change limits or the restart policy.
    Update,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Allow,
    /// It is so already: answer success without doing anything.
    Ignore,
    /// No, for this reason.
    Refuse(String),
}

/// Decides; `id` and `name` (without the slash) only serve the sentence.
pub fn decide(status: Status, request: Request, id: &str, name: &str) -> Decision {
    use Decision::{Allow, Ignore, Refuse};
    use Request as R;
    use Status as S;
    match (request, status) {
        (R::Start, S::Created | S::Exited | S::Restarting) => Allow,
        (R::Start, S::Running) => Ignore,
        (R::Start, S::Paused) => Refuse("cannot start a paused container, try unpause instead".into()),
        (R::Start, S::Removing | S::Dead) => Refuse("container is marked for removal and cannot be started".into()),
        (R::Stop, S::Running | S::Paused | S::Restarting) => Allow,
        (R::Stop, S::Created | S::Exited | S::Removing | S::Dead) => Ignore,
        (R::Kill, S::Running | S::Paused) => Allow,
        (R::Kill, S::Created | S::Restarting | S::Removing | S::Exited | S::Dead) => {
            Refuse(format!("cannot kill container: {name}: container {id} is not running"))
        }
        (R::Pause, S::Running) => Allow,
        (R::Pause, S::Paused) => Refuse(format!("container {id} is already paused")),
        (R::Pause, S::Restarting) => {
            Refuse(format!("container {id} is restarting, wait until the container is running"))
        }
        (R::Pause, S::Created | S::Removing | S::Exited | S::Dead) => Refuse(format!("container {id} is not running")),
        (R::Unpause, S::Paused) => Allow,
        (R::Unpause, S::Created | S::Running | S::Restarting | S::Removing | S::Exited | S::Dead) => {
            Refuse(format!("container {id} is not paused"))
        }
        (R::Remove { .. }, S::Removing) => Refuse(format!("removal of container {id} is already in progress")),
        (R::Remove { force: false }, S::Running) => Refuse(format!(
            "cannot remove container \"{name}\": container is running: stop the container before removing or force remove"
        )),
        (R::Remove { force: false }, S::Paused) => {
            Refuse(format!("cannot remove container \"{name}\": container is paused and must be unpaused first"))
        }
        (R::Remove { force: false }, S::Restarting) => Refuse(format!(
            "cannot remove container \"{name}\": container is restarting: stop the container before removing or force remove"
        )),
        (R::Remove { .. }, S::Created | S::Running | S::Paused | S::Restarting | S::Exited | S::Dead) => Allow,
        (R::Rename | R::Update, S::Removing | S::Dead) => {
            Refuse(format!("container {id} is marked for removal and cannot be changed"))
        }
        (R::Rename | R::Update, S::Created | S::Running | S::Paused | S::Restarting | S::Exited) => Allow,
        (R::Exec, S::Running) => Allow,
        (R::Exec, S::Paused) => Refuse(format!("container {id} is paused, unpause the container before exec")),
        (R::Exec | R::Top, S::Restarting) => {
            Refuse(format!("container {id} is restarting, wait until the container is running"))
        }
        (R::Top | R::Resize, S::Running | S::Paused) => Allow,
        (R::Exec | R::Top, S::Created | S::Removing | S::Exited | S::Dead) => {
            Refuse(format!("container {id} is not running"))
        }
        (R::Resize, S::Created | S::Restarting | S::Removing | S::Exited | S::Dead) => {
            Refuse(format!("container {id} is not running"))
        }
    }
}

/// [`decide`] as a result: `Ignore` becomes [`ErrorKind::NotModified`], `Refuse` becomes [`ErrorKind::Conflict`].
pub fn check(status: Status, request: Request, id: &str, name: &str) -> Result<(), Error> {
    match decide(status, request, id, name) {
        Decision::Allow => Ok(()),
        Decision::Ignore => Err(Error::new(ErrorKind::NotModified, "")),
        Decision::Refuse(reason) => Err(Error::conflict(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUSES: [Status; 7] = [
        Status::Created,
        Status::Running,
        Status::Paused,
        Status::Restarting,
        Status::Removing,
        Status::Exited,
        Status::Dead,
    ];
    const REQUESTS: [Request; 12] = [
        Request::Start,
        Request::Stop,
        Request::Kill,
        Request::Pause,
        Request::Unpause,
        Request::Remove { force: false },
        Request::Remove { force: true },
        Request::Rename,
        Request::Exec,
        Request::Resize,
        Request::Top,
        Request::Update,
    ];

    #[test]
    fn nothing_that_needs_a_process_is_allowed_without_one() {
        for status in STATUSES.into_iter().filter(|s| !s.is_alive()) {
            for request in
                [Request::Kill, Request::Pause, Request::Unpause, Request::Exec, Request::Resize, Request::Top]
            {
                assert!(matches!(decide(status, request, "id", "n"), Decision::Refuse(_)), "{request:?} in {status:?}");
            }
        }
    }

    #[test]
    fn a_live_container_is_removed_only_by_force() {
        for status in STATUSES.into_iter().filter(|s| s.is_alive()) {
            assert!(matches!(decide(status, Request::Remove { force: false }, "id", "n"), Decision::Refuse(_)));
            assert_eq!(decide(status, Request::Remove { force: true }, "id", "n"), Decision::Allow);
        }
    }

    #[test]
    fn every_refusal_is_a_sentence_and_nothing_happens_while_removing() {
        for status in STATUSES {
            for request in REQUESTS {
                let decision = decide(status, request, "id", "n");
                if let Decision::Refuse(reason) = &decision {
                    assert!(reason.contains("container"), "{reason}");
                }
                if status == Status::Removing {
                    assert_ne!(decision, Decision::Allow, "{request:?}");
                }
            }
        }
    }
}
