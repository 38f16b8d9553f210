//! What the unpacking process gives up before it sees the first byte of an archive.
//! Owns the pieces and their order. Must not start anything, and must be called while there is one thread.
//!
//! In three steps: [`share`] before the process is forked, [`isolate`] while nothing is known of its job, then [`lock`] around
//! the one directory. Each piece holds for
//! itself: with all others gone it would still stand in the way. A piece that the kernel does not have is named and the rest
//! goes on.

use std::os::fd::BorrowedFd;

use brig_sys::beneath::Root;
use brig_sys::clone::flags;
use brig_sys::process::Limits;
use brig_sys::{Error, caps, landlock, mount, namespace, process};

use super::filter;

/// What the process consists of may take, in bytes: its program, threads' stacks, buffers, and a decoder's window.
const MAX_ADDRESSES: u64 = 1 << 30;
/// What of that may hold data, in bytes.
pub(super) const MAX_DATA: u64 = 224 << 20;
/// The end of the largest file, holes included, in bytes.
const MAX_FILE: u64 = 1 << 40;
/// Directories that are kept open, and a few.
const MAX_DESCRIPTORS: u64 = 512;
/// Processor time, in seconds: far beyond what the largest layer takes.
const MAX_SECONDS: u64 = 6 * 3600;

/// Give files away, get at all files of the layer, and set modes on them: rights over files of its own user namespace.
const KEPT_CAPABILITIES: u64 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4;

const SIGKILL: i32 = 9;

/// One of the walls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Its own user namespace: no right over anything outside.
    User,
    /// Its own mount namespace, of which the layer's directory is all.
    Mounts,
    /// A network namespace in which there is nothing; IPC, UTS and cgroup namespaces. Those of the zygote.
    Network,
    /// Files beneath the layer's directory, none of them to be run; no sockets, no signals.
    Landlock,
    /// Only those rights that unpacking needs.
    Capabilities,
    /// Only those system calls that unpacking needs.
    Filter,
    /// Memory, file size, descriptors, processor time.
    Limits,
}

/// All of them.
pub const PIECES: &[Piece] =
    &[Piece::User, Piece::Mounts, Piece::Network, Piece::Landlock, Piece::Capabilities, Piece::Filter, Piece::Limits];

/// A piece that this kernel, or its settings, did not give.
#[derive(Debug, Clone)]
pub struct Missing {
    /// Which.
    pub piece: Piece,
    /// Why.
    pub error: Error,
}

/// First step: namespaces in which there is nothing, so that all who are forked after it may have the same. Tells what is
/// missing.
pub fn share(pieces: &[Piece]) -> Vec<Missing> {
    let mut missing = Vec::new();
    let namespaces = flags::NEWNET | flags::NEWIPC | flags::NEWUTS | flags::NEWCGROUP;
    if pieces.contains(&Piece::Network)
        && let Err(error) = namespace::unshare(namespaces)
    {
        missing.push(Missing { piece: Piece::Network, error });
    }
    missing
}

/// Second step: limits, and a user and a mount namespace. Tells what is missing besides what was `missing` already, and whether there is a user
/// namespace, whose ids somebody with rights outside must map before [`lock`].
pub fn isolate(pieces: &[Piece], mut missing: Vec<Missing>) -> (Vec<Missing>, bool) {
    let mut attempt = |piece: Piece, work: &mut dyn FnMut() -> Result<(), Error>| {
        pieces.contains(&piece) && work().map_err(|error| missing.push(Missing { piece, error })).is_ok()
    };
    attempt(Piece::Limits, &mut limit);
    let user = attempt(Piece::User, &mut || namespace::unshare(flags::NEWUSER));
    attempt(Piece::Mounts, &mut || namespace::unshare(flags::NEWNS));
    (missing, user)
}

/// Third step: everything else, after which only what is beneath `directory` and what is open is there. The directory must
/// be the root of a detached mount for [`Piece::Mounts`].
pub fn lock(directory: BorrowedFd<'_>, pieces: &[Piece], isolated: &[Missing]) -> Vec<Missing> {
    let mut missing = Vec::new();
    let mut attempt = |piece: Piece, work: &mut dyn FnMut() -> Result<(), Error>| {
        if pieces.contains(&piece)
            && !isolated.iter().any(|missing| missing.piece == piece)
            && let Err(error) = work()
        {
            missing.push(Missing { piece, error });
        }
    };
    attempt(Piece::Mounts, &mut || only_mount(directory));
    // The mount's own flags say noexec; this says it once more.
    let refused = landlock::access::EXECUTE
        | landlock::access::MAKE_SOCKET
        | landlock::access::MAKE_BLOCK
        | landlock::access::IOCTL_DEVICE;
    let no_new_privileges = process::set_no_new_privileges();
    attempt(Piece::Landlock, &mut || landlock::restrict_to(directory, refused));
    attempt(Piece::Capabilities, &mut || {
        no_new_privileges.clone()?;
        caps::limit_bounding(KEPT_CAPABILITIES)?;
        let kept = KEPT_CAPABILITIES;
        caps::apply(&caps::Sets { bounding: kept, effective: kept, permitted: kept, inheritable: 0, ambient: 0 })
    });
    // Last of those that change credentials, which undo both.
    attempt(Piece::Limits, &mut || {
        process::set_dumpable(false)?;
        process::set_parent_death_signal(SIGKILL)
    });
    attempt(Piece::Filter, &mut filter::load);
    missing
}

fn limit() -> Result<(), Error> {
    let limits = [
        ("RLIMIT_AS", MAX_ADDRESSES),
        ("RLIMIT_DATA", MAX_DATA),
        ("RLIMIT_FSIZE", MAX_FILE),
        ("RLIMIT_NOFILE", MAX_DESCRIPTORS),
        ("RLIMIT_CPU", MAX_SECONDS),
        ("RLIMIT_CORE", 0),
    ];
    for (name, most) in limits {
        if let Some(resource) = process::resource(name) {
            process::set_limit(0, resource, Some(Limits { soft: most, hard: most }))?;
        }
    }
    Ok(())
}

/// Makes the directory's mount the only one there is.
fn only_mount(directory: BorrowedFd<'_>) -> Result<(), Error> {
    let root = Root::open(std::path::Path::new("/"))?;
    let private = mount::Change { propagation: Some(mount::Propagation::Private), ..mount::Change::default() };
    // Without a user namespace this one's mounts would still be the host's peers.
    mount::configure(root.as_fd(), true, private)?;
    mount::attach(directory, root.as_fd())?;
    mount::pivot_into(directory)
}
