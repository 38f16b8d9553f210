//! What a process does to itself on the way to execve: session, limits, priorities, flags, descriptors.
//! Owns the calls. Must not know the order in which a container needs them.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::clone::last_errno;
use crate::error::{Error, Result};

fn check(done: i64, call: impl Fn() -> String) -> Result<i64> {
    if done == -1 { Err(Error::new(call(), last_errno())) } else { Ok(done) }
}

fn prctl(option: i32, argument: u64, call: &str) -> Result<()> {
    // SAFETY: every option used in this module takes integers only.
    let done = unsafe { libc::prctl(option, argument, 0u64, 0u64, 0u64) };
    check(done.into(), || call.to_owned()).map(drop)
}

/// Whether other processes of the same user may look into this one (ptrace, `/proc/PID`); execve sets it again.
pub fn set_dumpable(dumpable: bool) -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, dumpable.into(), "prctl(PR_SET_DUMPABLE)")
}

/// No exec can give more privileges from now on. Cannot be undone.
pub fn set_no_new_privileges() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "prctl(PR_SET_NO_NEW_PRIVS, 1)")
}

/// The signal that this process gets when its parent dies.
pub fn set_parent_death_signal(signal: i32) -> Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as u64, "prctl(PR_SET_PDEATHSIG)")
}

/// A new session, whose leader this process is.
pub fn new_session() -> Result<()> {
    rustix::process::setsid().map(drop).map_err(|errno| Error::new("setsid()", errno))
}

/// A resource of setrlimit(2) by its name (`RLIMIT_NOFILE`).
pub fn resource(name: &str) -> Option<u32> {
    const NAMES: [&str; 16] = [
        "RLIMIT_CPU",
        "RLIMIT_FSIZE",
        "RLIMIT_DATA",
        "RLIMIT_STACK",
        "RLIMIT_CORE",
        "RLIMIT_RSS",
        "RLIMIT_NPROC",
        "RLIMIT_NOFILE",
        "RLIMIT_MEMLOCK",
        "RLIMIT_AS",
        "RLIMIT_LOCKS",
        "RLIMIT_SIGPENDING",
        "RLIMIT_MSGQUEUE",
        "RLIMIT_NICE",
        "RLIMIT_RTPRIO",
        "RLIMIT_RTTIME",
    ];
    // The kernel's numbers on x86-64 and aarch64 are the positions in this list.
    NAMES.iter().position(|known| *known == name).and_then(|index| u32::try_from(index).ok())
}

/// A soft and a hard limit; `u64::MAX` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Limits {
    /// What is in force.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

/// Sets a limit of another process (an unreaped child) or of this one (0); returns the former limits.
///
/// # Errors
/// EPERM if the hard limit would rise without `CAP_SYS_RESOURCE`, or `RLIMIT_NOFILE` above `fs.nr_open`.
pub fn set_limit(pid: i32, resource: u32, limits: Option<Limits>) -> Result<Limits> {
    let mut old = Limits { soft: 0, hard: 0 };
    let new = limits.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both pointers are null or to a rlimit64, which Limits is laid out as.
    let done = unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, new, &raw mut old) };
    check(done, || format!("prlimit({pid}, {resource}, {limits:?})")).map(|_| old)
}

/// Closes every descriptor from `first` on, really (a flag would leave them open to execve itself).
pub fn close_from(first: u32) -> Result<()> {
    close_range(first, u32::MAX)
}

/// `close_range(2)`. Under a filter that does not know the call, one by one: what was opened since such a filter is in force
/// has low numbers.
fn close_range(first: u32, last: u32) -> Result<()> {
    const ONE_BY_ONE: u32 = 1024;
    // SAFETY: callers own no object that uses those descriptors afterwards: it is the last step before execve or a process that only waits.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) };
    match check(done, || format!("close_range({first}, {last})")) {
        Err(error) if matches!(error.errno, rustix::io::Errno::PERM | rustix::io::Errno::NOSYS) => {
            for fd in first..=last.min(first.saturating_add(ONE_BY_ONE)) {
                // SAFETY: as above.
                unsafe { libc::close(fd as i32) };
            }
            Ok(())
        }
        done => done.map(drop),
    }
}

/// Starts writing a part of a file to the disk without waiting for it (`sync_file_range(2)`). Promises nothing, so that there
/// is nothing to fail: a file system that cannot do it does it later.
pub fn start_write_back(file: BorrowedFd<'_>, offset: u64, length: u64) {
    // SAFETY: integers only, and a descriptor that is open.
    unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset.cast_signed(),
            length.cast_signed(),
            libc::SYNC_FILE_RANGE_WRITE,
        );
    }
}

/// Marks every descriptor from `first` on close-on-exec.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: sets a flag only.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    check(done, || format!("close_range({first}, ~0, CLOSE_RANGE_CLOEXEC)")).map(drop)
}

/// Closes all descriptors from 3 on except `keep`; really, as [`close_from`]. For a process that will never drop the
/// owners of the closed ones: a fresh child that ends in execve or `_exit`.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> Result<()> {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_from(first)
}

/// Makes `fds` the descriptors 3, 4, … of the program that is executed next; every other one above 2 is not given to it. For a
/// fresh child that ends in execve or `_exit`; what it needs until then must be above those numbers.
pub fn give_from_three(fds: &[BorrowedFd<'_>]) -> Result<()> {
    let beyond = i32::try_from(fds.len()).unwrap_or(i32::MAX - 3) + 3;
    let call = |errno| Error::new(format!("fcntl(F_DUPFD_CLOEXEC, {beyond})"), errno);
    // First out of the way of each other.
    let lifted = fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, beyond).map_err(call));
    let lifted = lifted.collect::<Result<Vec<_>>>()?;
    for (number, fd) in (3..).zip(&lifted) {
        // SAFETY: as in close_from: whoever owned that number here never uses it again.
        let done = unsafe { libc::dup2(fd.as_raw_fd(), number) };
        check(done.into(), || format!("dup2({}, {number})", fd.as_raw_fd()))?;
    }
    close_on_exec_from(beyond as u32)
}

/// Makes `fd` the descriptor `number` (0 to 2), without close-on-exec.
pub fn duplicate_to(fd: BorrowedFd<'_>, number: i32) -> Result<()> {
    if fd.as_raw_fd() == number {
        return rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())
            .map_err(|errno| Error::new(format!("fcntl({number}, F_SETFD, 0)"), errno));
    }
    // SAFETY: 0 to 2 belong to no OwnedFd in this program.
    let done = unsafe { libc::dup2(fd.as_raw_fd(), number) };
    check(done.into(), || format!("dup2({}, {number})", fd.as_raw_fd())).map(drop)
}

/// Lets a descriptor live through execve.
pub fn keep_over_exec(fd: BorrowedFd<'_>) -> Result<()> {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())
        .map_err(|errno| Error::new(format!("fcntl({}, F_SETFD, 0)", fd.as_raw_fd()), errno))
}

/// A NULL terminated array of C strings, ready for execve.
#[derive(Debug)]
pub struct StringArray {
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl StringArray {
    /// Takes the strings.
    pub fn new(strings: Vec<CString>) -> StringArray {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect();
        StringArray { _strings: strings, pointers }
    }

    /// The array as the kernel takes it, for as long as this lives.
    pub(crate) fn as_ptr(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr()
    }
}

/// `execve(2)`. Returns only on failure.
pub fn execute(path: &CStr, arguments: &StringArray, environment: &StringArray) -> Error {
    // SAFETY: the path is a C string; both arrays are NULL terminated and point into strings that they own.
    unsafe { libc::execve(path.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr()) };
    Error::new(format!("execve({path:?})"), last_errno())
}

/// Sets the host name of this UTS namespace.
pub fn set_host_name(name: &str) -> Result<()> {
    rustix::system::sethostname(name.as_bytes()).map_err(|errno| Error::new(format!("sethostname({name:?})"), errno))
}

/// Sets the NIS domain name of this UTS namespace.
pub fn set_domain_name(name: &str) -> Result<()> {
    rustix::system::setdomainname(name.as_bytes())
        .map_err(|errno| Error::new(format!("setdomainname({name:?})"), errno))
}

/// `sched_setattr(2)` of this process. Times in ns.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Scheduling {
    /// Filled in here.
    pub size: u32,
    /// `SCHED_…`.
    pub policy: u32,
    /// `SCHED_FLAG_…`.
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Real-time priority.
    pub priority: u32,
    /// Deadline runtime.
    pub runtime: u64,
    /// Deadline.
    pub deadline: u64,
    /// Deadline period.
    pub period: u64,
    /// Least utilisation hint, 0 to 1024.
    pub least: u32,
    /// Largest utilisation hint, 0 to 1024.
    pub most: u32,
}

/// Sets policy and priorities of this process.
pub fn set_scheduling(attributes: Scheduling) -> Result<()> {
    set_scheduling_of(0, attributes)
}

/// The same of a thread of this process, by its id.
pub fn set_scheduling_of(thread: i32, mut attributes: Scheduling) -> Result<()> {
    attributes.size = size_of::<Scheduling>() as u32;
    // SAFETY: the struct is a sched_attr (version 1, Linux 5.3) of the size that it names.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, thread, &raw const attributes, 0u32) };
    check(done, || format!("sched_setattr({thread}, {attributes:?})")).map(drop)
}

/// Sets the I/O class (1 real-time, 2 best effort, 3 idle) and priority of this process.
pub fn set_io_priority(class: u8, priority: u8) -> Result<()> {
    const WHO_PROCESS: i32 = 1;
    let value = i32::from(class) << 13 | i32::from(priority);
    // SAFETY: integers only.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) };
    check(done, || format!("ioprio_set(class {class}, priority {priority})")).map(drop)
}

/// Sets the execution domain (`personality(2)`).
pub fn set_personality(domain: u64) -> Result<()> {
    // SAFETY: integers only; affects later system calls' naming of the machine.
    let done = unsafe { libc::syscall(libc::SYS_personality, domain) };
    check(done, || format!("personality({domain:#x})")).map(drop)
}

/// A set of CPUs.
pub use rustix::thread::CpuSet;

/// The CPUs that this process may run on.
pub fn affinity() -> Result<CpuSet> {
    rustix::thread::sched_getaffinity(None).map_err(|errno| Error::new("sched_getaffinity()", errno))
}

/// Sets the CPUs that this process (and its children) may run on. Those that the machine or the cgroup do not have are left
/// out by the kernel.
///
/// # Errors
/// EINVAL if none is left.
pub fn set_affinity(cpus: &CpuSet) -> Result<()> {
    rustix::thread::sched_setaffinity(None, cpus)
        .map_err(|errno| Error::new(format!("sched_setaffinity({cpus:?})"), errno))
}

/// All CPUs there may ever be.
pub fn every_cpu() -> CpuSet {
    let mut cpus = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| cpus.set(cpu));
    cpus
}

/// Where the memory of this process and its children comes from (`set_mempolicy(2)`): a mode with its flags, and a mask of
/// nodes.
///
/// # Errors
/// EINVAL for nodes or a combination that the kernel does not have; ENOSYS from a kernel without NUMA.
pub fn set_memory_policy(mode: i32, nodes: &[u64]) -> Result<()> {
    let mask = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // The kernel takes one bit less than it is told of.
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    // SAFETY: the mask is null or has the number of bits given, rounded up to words.
    let done = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) };
    check(done, || format!("set_mempolicy({mode:#x}, {nodes:x?})")).map(drop)
}

/// Writes `OOM` badness of a process of the caller's own (an unreaped child): -1000 to 1000.
pub fn set_oom_score_adj(pid: i32, value: i32) -> Result<()> {
    crate::idmap::write_file(&format!("/proc/{pid}/oom_score_adj"), value.to_string().as_bytes())
}
