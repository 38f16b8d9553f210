//! Checkpoint and restore of a container through CRIU.
//! Owns what the two directions share: options, names of what comes from outside of the container, the log's last words.
//! Must not believe an image: a restore goes by the specification, and what came of the image is compared with it.

mod criu;
mod descriptors;
mod dump;
mod images;
mod mountinfo;
mod protobuf;
mod restore;
mod rpc;
mod stage;
mod verify;

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use brig_sys::clone::flags;
use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result};
use crate::mounts::{Kind as MountKind, Planned};
use rpc::{Kind, Number, Opts, Response, Switch, Text};

pub use criu::find as find_criu;
pub use descriptors::given as given_streams;
pub use restore::{RestoreRequest, Restored, restore};
pub use rpc::CgroupsMode;

/// The configuration file that CRIU reads unless the annotation `org.criu.config` names another: runc's, so that what
/// administrators have set holds here too.
const CONFIG_FILE: &str = "/etc/criu/runc.conf";

/// What a checkpoint or a restore may be told. Names are CRIU's.
#[derive(Debug, Default)]
pub struct Options {
    /// The directory of the images.
    pub images: PathBuf,
    /// Where CRIU works and logs; the images' directory if `None`.
    pub work: Option<PathBuf>,
    /// Images of an earlier pre-dump, relative to `images`.
    pub parent: Option<String>,
    /// The container goes on after its checkpoint.
    pub leave_running: bool,
    /// Take memory only; the container goes on.
    pub pre_dump: bool,
    /// Established TCP connections are part of it.
    pub tcp_established: bool,
    /// TCP connections that are being opened are left out.
    pub tcp_skip_in_flight: bool,
    /// Unlinked files get a name again.
    pub link_remap: bool,
    /// Unix sockets may be connected to the outside.
    pub ext_unix_sk: bool,
    /// Its terminal may be the caller's.
    pub shell_job: bool,
    /// File locks are part of it.
    pub file_locks: bool,
    /// Pages that the parent images have are not written again.
    pub auto_dedup: bool,
    /// Memory is served, or fetched, on demand.
    pub lazy_pages: bool,
    /// Gets a NUL when pages are ready to be served.
    pub status_fd: Option<OwnedFd>,
    /// Address and port of a page server.
    pub page_server: Option<(String, u16)>,
    /// What happens to cgroups.
    pub cgroups: CgroupsMode,
    /// Another security label for what is restored: `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    /// Another SELinux context for mounts.
    pub lsm_mount_context: Option<String>,
    /// What the container's streams were when it got them ([`given_streams`]); empty if that is not known.
    pub streams: Vec<String>,
}

/// The directories of images and work, open: CRIU gets them as descriptors of this process.
#[derive(Debug)]
struct Directories {
    images: OwnedFd,
    work: Option<OwnedFd>,
    log: PathBuf,
}

impl Directories {
    /// Opens both; the work directory, and with `make` that of the images, are made if they are missing.
    fn open(options: &Options, make: bool, log: &str) -> Result<Directories> {
        if options.images.as_os_str().is_empty() {
            return Err(Error::invalid("invalid directory to save checkpoint"));
        }
        if make {
            make_directory(&options.images)?;
        }
        if let Some(work) = &options.work {
            make_directory(work)?;
        }
        Ok(Directories {
            images: open_directory(&options.images)?,
            work: options.work.as_deref().map(open_directory).transpose()?,
            log: options.work.as_ref().unwrap_or(&options.images).join(log),
        })
    }

    /// The numbers of both in this process.
    fn own(&self) -> (i32, Option<i32>) {
        (self.images.as_raw_fd(), self.work.as_ref().map(AsRawFd::as_raw_fd))
    }

    /// Both as the caller's mount namespace has them: in another one than theirs nothing can be mounted on them. Images first.
    fn again(&self) -> Result<[OwnedFd; 2]> {
        let work = self.work.as_ref().map_or_else(|| open_again(&self.images), open_again)?;
        Ok([open_again(&self.images)?, work])
    }

    /// What CRIU is told in both directions; `numbers` are those of the directories in the process that made the conversation.
    fn opts(&self, options: &Options, log: &str, config: Option<&str>, (images, work): (i32, Option<i32>)) -> Opts {
        let mut opts = Opts::default();
        opts.number(Number::ImagesDirFd, images.into());
        if let Some(work) = work {
            opts.number(Number::WorkDirFd, work.into());
        }
        opts.number(Number::LogLevel, 4).text(Text::LogFile, log);
        opts.set(Switch::NotifyScripts, true).set(Switch::OrphanPtsMaster, true).set(Switch::ManageCgroups, true);
        opts.number(Number::ManageCgroupsMode, options.cgroups as i64);
        // What a network namespace holds is set up by whoever made it, not by a runtime: it is never part of an image.
        opts.number(Number::EmptyNs, flags::NEWNET as i64);
        for (field, value) in [
            (Switch::ShellJob, options.shell_job),
            (Switch::TcpEstablished, options.tcp_established),
            (Switch::ExtUnixSk, options.ext_unix_sk),
            (Switch::FileLocks, options.file_locks),
            (Switch::AutoDedup, options.auto_dedup),
            (Switch::LazyPages, options.lazy_pages),
        ] {
            opts.set(field, value);
        }
        if let Some(config) = config {
            opts.text(Text::ConfigFile, config);
        }
        opts
    }

    /// A failed answer as an error, with the log's words.
    fn failure(&self, response: &Response) -> Error {
        let kind = response.kind.map_or("unknown", Kind::name);
        let text = format!("criu failed: type {kind} errno {}", response.errno);
        // CRIU repeats its first error; usually the log has better ones.
        let explained = self.explain(text);
        Error::system(if explained.errors == 0 && !response.message.is_empty() {
            format!("{}: {}", explained.text, response.message.trim())
        } else {
            explained.text
        })
    }

    /// CRIU ended, or said what makes no sense.
    fn broken(&self, error: &Error) -> Error {
        Error::system(self.explain(error.message.clone()).text)
    }

    /// Adds where the log is, and its last errors.
    fn explain(&self, text: String) -> Explained {
        let content = std::fs::read(&self.log).unwrap_or_default();
        let content = String::from_utf8_lossy(&content);
        // Without the right to raise its own limit CRIU goes on, having said so.
        let errors: Vec<&str> =
            content.lines().filter(|line| line.contains("Error") && !line.contains("rlimit: ")).collect();
        let mut text = format!("{text}; log file: {}", self.log.display());
        for line in errors.iter().skip(errors.len().saturating_sub(LOG_LINES)) {
            text.push_str("; ");
            text.push_str(line.trim());
        }
        Explained { text, errors: errors.len() }
    }
}

/// How many errors of the log an error shows.
const LOG_LINES: usize = 3;

/// An error with the log's words, and how many errors the log has.
struct Explained {
    text: String,
    errors: usize,
}

fn make_directory(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| Error::system(format!("mkdir {}: {error}", path.display())))
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| brig_sys::Error::new(format!("open({path:?}, O_DIRECTORY)"), errno).into())
}

/// The same directory through this mount namespace.
fn open_again(directory: &OwnedFd) -> Result<OwnedFd> {
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let path = std::fs::read_link(&link).map_err(|error| Error::system(format!("readlink {link}: {error}")))?;
    let again = open_directory(&path)?;
    let identity = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    if identity(&again) != identity(directory) {
        return Err(Error::system(format!("{}: was replaced", path.display())));
    }
    Ok(again)
}

/// CRIU's configuration file for a container with these annotations; an empty annotation means none.
fn config_file(annotations: &std::collections::BTreeMap<String, String>) -> Option<&str> {
    match annotations.get("org.criu.config").map(String::as_str) {
        None => Some(CONFIG_FILE),
        Some("") => None,
        Some(path) => Some(path),
    }
}

/// Whether a mount comes from outside of the container, so that CRIU is not to make it.
fn is_external(mount: &Planned, user_namespace: bool) -> bool {
    match mount.kind {
        MountKind::Bind => true,
        // Inside a user namespace nobody could make its nodes again.
        MountKind::Dev => user_namespace,
        MountKind::Cgroup | MountKind::FileSystem => false,
    }
}

/// What an image calls a mount from outside: by the specification's own order and words, never by a path that the container's
/// links could lead elsewhere. `beneath` is the place below it of a mount that came with it.
fn external_name(index: usize, mount: &Planned, beneath: &Path) -> String {
    let mut name = format!("brig:{index}:/{}", mount.destination.display());
    if !beneath.as_os_str().is_empty() {
        name.push_str(&format!(":/{}", beneath.display()));
    }
    name
}

/// What an image calls the host's null device, where it masks files.
const NULL: &str = "brig:null";

/// Whether masks are the host's null device: the container has no `/dev` of ours.
fn masks_from_host(mounts: &[Planned]) -> bool {
    !mounts.iter().any(|mount| mount.kind == MountKind::Dev)
}
