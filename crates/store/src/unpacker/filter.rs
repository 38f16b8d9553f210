//! The system calls that unpacking needs; every other one fails with EPERM. Owns the list and the programs made of it.
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

/// Commands of fcntl: duplicates and flags. Not F_SETOWN, by which whoever is root, as this is to the kernel, has signals sent
/// to any process.
const FCNTL: &[libc::c_int] =
    &[libc::F_DUPFD, libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL];

/// Loads the filter into this thread and what it starts from now on.
pub(super) fn load() -> Result<()> {
    seccomp::load(&program(), 0).map(drop)
}

/// From now on none of this process's threads starts another one, of which no limit would stop root from making as many as
/// the host has numbers for.
pub(super) fn no_more_threads() -> Result<()> {
    seccomp::load(&without_threads(), seccomp::ALL_THREADS).map(drop)
}

const REFUSED: u32 = ERRNO | libc::EPERM as u32;
/// The C library then uses clone, whose flags can be seen.
const UNKNOWN: u32 = ERRNO | libc::ENOSYS as u32;

const fn step(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

/// What all programs begin with; leaves the call's number to be looked at.
fn begin() -> Vec<Instruction> {
    let mut program = vec![
        step(LOAD, ARCHITECTURE, 0, 0),
        step(EQUAL, ARCH, 1, 0),
        step(RETURN, KILL, 0, 0),
        step(LOAD, NUMBER, 0, 0),
    ];
    #[cfg(target_arch = "x86_64")]
    program.extend([step(AT_LEAST, X32, 0, 1), step(RETURN, KILL, 0, 0)]);
    program
}

/// Answers one call.
fn answer(program: &mut Vec<Instruction>, call: libc::c_long, action: u32) {
    program.extend([step(EQUAL, number(call), 0, 1), step(RETURN, action, 0, 0)]);
}

fn program() -> Vec<Instruction> {
    let mut program = begin();
    for call in ALLOWED.iter().chain(ALLOWED_HERE) {
        answer(&mut program, *call, ALLOW);
    }
    answer(&mut program, libc::SYS_clone3, UNKNOWN);
    // A call that is allowed if an argument, under a mask, is one of a few values.
    let mut only = |call: libc::c_long, index: u32, mask: u32, values: &[u32]| {
        let skipped = u8::try_from(2 * values.len() + 3).unwrap_or(u8::MAX);
        program.extend([
            step(EQUAL, number(call), 0, skipped),
            step(LOAD, argument(index), 0, 0),
            step(AND, mask, 0, 0),
        ]);
        for value in values {
            program.extend([step(EQUAL, *value, 0, 1), step(RETURN, ALLOW, 0, 0)]);
        }
        program.push(step(RETURN, REFUSED, 0, 0));
    };
    let thread = (libc::CLONE_THREAD | libc::CLONE_VM) as u32;
    // All bits of new namespaces, so that a thread is all that can be started.
    let namespaces = 0x7e02_0080;
    only(libc::SYS_clone, 0, thread | namespaces, &[thread]);
    only(libc::SYS_mmap, 2, libc::PROT_EXEC as u32, &[0]);
    only(libc::SYS_mprotect, 2, libc::PROT_EXEC as u32, &[0]);
    only(libc::SYS_fcntl, 1, u32::MAX, &FCNTL.iter().map(|command| command.unsigned_abs()).collect::<Vec<_>>());
    only(libc::SYS_prctl, 0, u32::MAX, &[libc::PR_SET_NAME as u32]);
    // How a process ends itself that has run out of memory.
    only(libc::SYS_tgkill, 0, u32::MAX, &[std::process::id()]);
    // A further filter only ever takes away.
    only(libc::SYS_seccomp, 1, u32::MAX, &[seccomp::ALL_THREADS]);
    program.push(step(RETURN, REFUSED, 0, 0));
    program
}

fn without_threads() -> Vec<Instruction> {
    let mut program = begin();
    for call in [libc::SYS_clone, libc::SYS_clone3, libc::SYS_seccomp] {
        answer(&mut program, call, REFUSED);
    }
    program.push(step(RETURN, ALLOW, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with a call.
    fn judge(program: &[Instruction], call: libc::c_long, arguments: [u64; 6]) -> u32 {
        let data = |at: u32| match at {
            NUMBER => number(call),
            ARCHITECTURE => ARCH,
            at => arguments[(at as usize - 16) / 8] as u32,
        };
        let (mut at, mut value) = (0, 0);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            let jump = |holds: bool| usize::from(if holds { jt } else { jf });
            at += 1 + match code {
                LOAD => {
                    value = data(k);
                    0
                }
                AND => {
                    value &= k;
                    0
                }
                EQUAL => jump(value == k),
                RETURN => return k,
                #[cfg(target_arch = "x86_64")]
                AT_LEAST => jump(value >= k),
                other => panic!("{other:#x}"),
            };
        }
    }

    #[test]
    fn what_reaches_others_is_refused() {
        let program = program();
        let first = |call, arguments: &[u64]| {
            let mut all = [0; 6];
            all[..arguments.len()].copy_from_slice(arguments);
            judge(&program, call, all)
        };
        for call in [
            libc::SYS_execve,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_rt_sigqueueinfo,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_send_signal,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_prlimit64,
            libc::SYS_setpriority,
            libc::SYS_mount,
            libc::SYS_open_tree,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_ioctl,
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_perf_event_open,
            libc::SYS_open_by_handle_at,
            libc::SYS_memfd_create,
        ] {
            assert_eq!(first(call, &[]), REFUSED, "{call}");
        }
        let signals = [libc::F_SETOWN, 10, 15, libc::F_SETLEASE, libc::F_NOTIFY, libc::F_SETPIPE_SZ, libc::F_ADD_SEALS];
        for command in signals {
            assert_eq!(first(libc::SYS_fcntl, &[3, u64::from(command.unsigned_abs())]), REFUSED, "fcntl {command}");
        }
        for command in FCNTL {
            assert_eq!(first(libc::SYS_fcntl, &[3, u64::from(command.unsigned_abs())]), ALLOW, "fcntl {command}");
        }
        let thread = (libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND) as u64;
        assert_eq!(first(libc::SYS_clone, &[thread]), ALLOW);
        assert_eq!(first(libc::SYS_clone, &[libc::SIGCHLD as u64]), REFUSED);
        assert_eq!(first(libc::SYS_clone, &[thread | libc::CLONE_NEWUSER as u64]), REFUSED);
        assert_eq!(first(libc::SYS_clone3, &[]), UNKNOWN);
        assert_eq!(first(libc::SYS_mmap, &[0, 4096, libc::PROT_EXEC as u64]), REFUSED);
        assert_eq!(first(libc::SYS_mmap, &[0, 4096, libc::PROT_WRITE as u64]), ALLOW);
        assert_eq!(first(libc::SYS_tgkill, &[1]), REFUSED);
        assert_eq!(first(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE as u64, 1]), REFUSED);
        let second = without_threads();
        assert_eq!(judge(&second, libc::SYS_clone, [thread, 0, 0, 0, 0, 0]), REFUSED);
        assert_eq!(judge(&second, libc::SYS_clone3, [0; 6]), REFUSED);
        assert_eq!(judge(&second, libc::SYS_read, [0; 6]), ALLOW);
    }
}
