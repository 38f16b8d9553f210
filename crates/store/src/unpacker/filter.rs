//! The system calls that unpacking needs; every other one fails with EPERM. Owns the list and the program made of it.
//! Must not grow by what could reach beyond the open descriptors: no sockets, other processes, mounts or programs.

use brig_sys::Result;
use brig_sys::seccomp::{self, Instruction};

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;
/// x86-64's numbers with this bit are the x32 ABI's.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const EQUAL: u16 = 0x15;
#[cfg(target_arch = "x86_64")]
const AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Where `struct seccomp_data` has the number, the architecture, and the low half of an argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

/// Beneath open directories, on open files, memory, threads, time. Both architectures have them.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_sync_file_range,
    libc::SYS_close,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_readlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_fsetxattr,
    libc::SYS_fcntl,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_ppoll,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_geteuid,
    libc::SYS_getegid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[libc::c_long] = &[libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

/// Loads the filter into this thread and what it starts from now on.
pub(super) fn load() -> Result<()> {
    seccomp::load(&program(), 0).map(drop)
}

fn program() -> Vec<Instruction> {
    let step = |code, k, jt, jf| Instruction { code, jt, jf, k };
    let number = |call: libc::c_long| u32::try_from(call).unwrap_or(u32::MAX);
    let mut program = vec![
        step(LOAD, ARCHITECTURE, 0, 0),
        step(EQUAL, ARCH, 1, 0),
        step(RETURN, KILL, 0, 0),
        step(LOAD, NUMBER, 0, 0),
    ];
    #[cfg(target_arch = "x86_64")]
    program.extend([step(AT_LEAST, X32, 0, 1), step(RETURN, KILL, 0, 0)]);
    for call in ALLOWED.iter().chain(ALLOWED_HERE) {
        program.extend([step(EQUAL, number(*call), 0, 1), step(RETURN, ALLOW, 0, 0)]);
    }
    // The C library then uses clone, whose flags can be seen.
    let unknown = ERRNO | u32::from(libc::ENOSYS.unsigned_abs() as u16);
    program.extend([step(EQUAL, number(libc::SYS_clone3), 0, 1), step(RETURN, unknown, 0, 0)]);
    let refused = ERRNO | u32::from(libc::EPERM.unsigned_abs() as u16);
    // A call that is allowed if an argument has none, or all, of these bits.
    let mut masked = |call: libc::c_long, index: u32, mask: u32, wanted: u32| {
        program.extend([
            step(EQUAL, number(call), 0, 5),
            step(LOAD, argument(index), 0, 0),
            step(AND, mask, 0, 0),
            step(EQUAL, wanted, 0, 1),
            step(RETURN, ALLOW, 0, 0),
            step(RETURN, refused, 0, 0),
        ]);
    };
    let thread = (libc::CLONE_THREAD | libc::CLONE_VM) as u32;
    // All bits of new namespaces, so that a thread is all that can be started.
    let namespaces = 0x7e02_0080;
    masked(libc::SYS_clone, 0, thread | namespaces, thread);
    masked(libc::SYS_mmap, 2, libc::PROT_EXEC as u32, 0);
    masked(libc::SYS_mprotect, 2, libc::PROT_EXEC as u32, 0);
    masked(libc::SYS_prctl, 0, u32::MAX, libc::PR_SET_NAME as u32);
    // How a process ends itself that has run out of memory.
    masked(libc::SYS_tgkill, 0, u32::MAX, std::process::id());
    program.push(step(RETURN, refused, 0, 0));
    program
}
