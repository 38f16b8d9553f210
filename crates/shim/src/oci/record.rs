//! What the OCI runtime remembers of a container between two calls.
//!
//! Owns: `<root>/<id>/`: its lock, `state.json`, the copy of the spec, the note of a cgroup that is being made; and whether a process still is the one
//! that was started. Must not: change anything in the kernel.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use brig_oci::runtime::Spec;
use brig_runtime::Unfinished;
use brig_runtime::cgroup::Place;
use serde::{Deserialize, Serialize};

use crate::client::read_file;
use crate::oci::Fault;

/// Where the cgroup is noted while there is no record yet.
const NOTE: &str = "cgroup.json";

/// The content of `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// The container's id.
    pub(crate) id: String,
    /// The bundle's directory, absolute.
    pub(crate) bundle: PathBuf,
    /// The first process as the host sees it.
    pub(crate) pid: i32,
    /// When it was started, in clock ticks since boot: the same pid with another time is another process.
    pub(crate) start_time: u64,
    /// The boot in which that was.
    pub(crate) boot_id: String,
    /// When the container was created (RFC 3339, UTC).
    pub(crate) created: String,
    /// Where its cgroup is.
    pub(crate) cgroup: Place,
    /// What its streams are that came from outside, in CRIU's words; none for a terminal.
    #[serde(default)]
    pub(crate) streams: Vec<String>,
    /// Whether it has a session keyring of its own, which its execs join.
    pub(crate) session_keyring: bool,
}

/// What has become of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It waits for `start`.
    Created,
    /// The program runs.
    Running,
    /// The first process has ended.
    Stopped,
}

impl Condition {
    /// The specification's word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Condition::Created => "created",
            Condition::Running => "running",
            Condition::Stopped => "stopped",
        }
    }
}

/// The directory of all containers.
#[derive(Debug, Clone)]
pub(crate) struct Records(PathBuf);

impl Records {
    /// Uses `root`, which is made when the first container is.
    pub(crate) fn new(root: PathBuf) -> Records {
        Records(root)
    }

    /// The directory of one container.
    pub(crate) fn directory(&self, id: &str) -> PathBuf {
        self.0.join(id)
    }

    /// Claims a new id.
    ///
    /// Errors: it exists already.
    pub(crate) fn claim(&self, id: &str) -> Result<PathBuf, Fault> {
        DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&self.0)
            .map_err(|error| Fault::io("create", &self.0, &error))?;
        let directory = self.directory(id);
        match DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => Ok(directory),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Fault::new("container with given ID already exists"))
            }
            Err(error) => Err(Fault::io("create", &directory, &error)),
        }
    }

    /// Reads one; an id that was claimed but whose creation never finished counts as not there.
    pub(crate) fn load(&self, id: &str) -> Result<Record, Fault> {
        let path = self.directory(id).join("state.json");
        let content = match read_file(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Fault::new("container does not exist"));
            }
            Err(error) => return Err(Fault::io("read", &path, &error)),
        };
        serde_json::from_slice(&content).map_err(|error| Fault::new(format!("{}: {error}", path.display())))
    }

    /// Writes one, whole or not at all.
    pub(crate) fn save(&self, record: &Record, spec: &Spec) -> Result<(), Fault> {
        let directory = self.directory(&record.id);
        let failed = |error: serde_json::Error| Fault::new(format!("{}: {error}", directory.display()));
        replace(&directory.join("config.json"), &serde_json::to_vec(spec).map_err(failed)?)?;
        replace(&directory.join("state.json"), &serde_json::to_vec(record).map_err(failed)?)
    }

    /// Keeps where the cgroup of a container that is being made is.
    pub(crate) fn note(&self, id: &str, unfinished: &Unfinished) -> Result<(), Fault> {
        let path = self.directory(id).join(NOTE);
        let content = serde_json::to_vec(unfinished);
        replace(&path, &content.map_err(|error| Fault::new(format!("{}: {error}", path.display())))?)
    }

    /// What a creation whose process was killed has noted, if it came that far.
    pub(crate) fn unfinished(&self, id: &str) -> Result<Option<Unfinished>, Fault> {
        let path = self.directory(id).join(NOTE);
        match read_file(&path) {
            Ok(content) => serde_json::from_slice(&content)
                .map(Some)
                .map_err(|error| Fault::new(format!("{}: {error}", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Fault::io("read", &path, &error)),
        }
    }

    /// The copy of the spec that was made at create: later edits of the bundle change nothing.
    pub(crate) fn spec(&self, id: &str) -> Result<Spec, Fault> {
        let path = self.directory(id).join("config.json");
        let content = read_file(&path).map_err(|error| Fault::io("read", &path, &error))?;
        serde_json::from_slice(&content).map_err(|error| Fault::new(format!("{}: {error}", path.display())))
    }

    /// Forgets one; not being there is as good.
    pub(crate) fn forget(&self, id: &str) -> Result<(), Fault> {
        let directory = self.directory(id);
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Fault::io("remove", &directory, &error)),
            _ => Ok(()),
        }
    }

    /// The ids of all containers, sorted.
    pub(crate) fn ids(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.0) else { return Vec::new() };
        let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut ids: Vec<String> = directories.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        ids.sort_unstable();
        ids
    }

    /// Keeps other calls away from this container until the result is dropped.
    pub(crate) fn lock(&self, id: &str) -> Result<File, Fault> {
        let directory = self.directory(id);
        let file = File::open(&directory).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Fault::new("container does not exist"),
            _ => Fault::io("open", &directory, &error),
        })?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|errno| Fault::new(format!("flock({}): {errno}", directory.display())))?;
        Ok(file)
    }

    /// What has become of one.
    pub(crate) fn condition(&self, record: &Record) -> Condition {
        if !is_alive(record) {
            Condition::Stopped
        } else if brig_runtime::gate::is_closed(&self.directory(&record.id)) {
            Condition::Created
        } else {
            Condition::Running
        }
    }
}

/// Writes beside, then renames: readers see the old or the new content.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), Fault> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = std::fs::write(&beside, content).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| {
        std::fs::remove_file(&beside).ok();
        Fault::io("write", path, &error)
    })
}

/// Whether the first process still is there, and the same.
fn is_alive(record: &Record) -> bool {
    boot_id() == record.boot_id && start_time(record.pid) == Some(record.start_time)
}

/// The id of this boot of the machine.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// When a process was started, in clock ticks since boot; `None` when there is none or it has ended (a zombie).
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything, parentheses too: the fields begin after the last one.
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let fields: Vec<&str> = std::str::from_utf8(&stat[end + 1..]).ok()?.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        let pid = std::process::id() as i32;
        Record {
            id: id.to_owned(),
            bundle: "/b".into(),
            pid,
            start_time: start_time(pid).unwrap(),
            boot_id: boot_id(),
            created: "t".into(),
            cgroup: Place::below("p", id).unwrap(),
            streams: vec!["pipe:[1]".into()],
            session_keyring: true,
        }
    }

    #[test]
    fn claimed_saved_found_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path().join("root"));
        assert_eq!(records.load("c").unwrap_err().to_string(), "container does not exist");
        records.claim("c").unwrap();
        assert_eq!(records.claim("c").unwrap_err().to_string(), "container with given ID already exists");
        assert_eq!(records.load("c").unwrap_err().to_string(), "container does not exist");
        records.save(&record("c"), &Spec::default()).unwrap();
        assert_eq!(records.load("c").unwrap(), record("c"));
        assert_eq!(records.ids(), ["c"]);
        records.forget("c").unwrap();
        records.forget("c").unwrap();
        assert!(records.ids().is_empty());
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path().to_owned());
        let mut record = record("c");
        assert_eq!(records.condition(&record), Condition::Running);
        std::fs::create_dir(records.directory("c")).unwrap();
        let _gate = brig_runtime::gate::Gate::make(&records.directory("c")).unwrap();
        assert_eq!(records.condition(&record), Condition::Created);
        record.start_time += 1;
        assert_eq!(records.condition(&record), Condition::Stopped);
        record.start_time -= 1;
        record.boot_id.push('x');
        assert_eq!(records.condition(&record), Condition::Stopped);
        assert_eq!(start_time(0), None);
    }
}
