//! bpf(2), as far as device control on cgroup v2 needs it: load a `CGROUP_DEVICE` program, attach it, find what is attached.
//! Owns these calls. Must not generate programs or know what a container is.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::{Error, Result};

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_TYPE_CGROUP_DEVICE: u32 = 6;
/// Other programs may be attached beside ours; all must agree.
const F_ALLOW_MULTI: u32 = 1 << 1;
const F_REPLACE: u32 = 1 << 2;

/// More device programs than this on one cgroup do not exist (`BPF_CGROUP_MAX_PROGS` is 64).
const MAX_PROGRAMS: usize = 64;

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// For `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// For `BPF_PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// For `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

fn bpf<T>(command: libc::c_int, attr: &mut T, call: impl FnOnce() -> String) -> Result<libc::c_long> {
    // SAFETY: `attr` is one of the repr(C) structs above, laid out as the head of `union bpf_attr` for this command, and its
    // exact size is passed, so the kernel neither reads nor writes beyond it. The pointers inside are set by the callers
    // below from buffers that outlive the call, with their true lengths.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL);
        return Err(Error::new(call(), errno));
    }
    Ok(result)
}

fn owned(fd: libc::c_long) -> OwnedFd {
    let fd = i32::try_from(fd).unwrap_or(-1);
    // SAFETY: the kernel has just made this descriptor (close-on-exec) for the caller, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Loads a `BPF_PROG_TYPE_CGROUP_DEVICE` program; each element is one `struct bpf_insn`.
///
/// # Errors
/// EINVAL or EACCES when the verifier refuses the program, EPERM without CAP_BPF.
pub fn load_device_program(instructions: &[u64]) -> Result<OwnedFd> {
    // The program calls no helper that is reserved for GPL code.
    let license = c"Apache-2.0";
    let mut attr = LoadAttr {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        prog_name: *b"brig_devices\0\0\0\0",
        ..LoadAttr::default()
    };
    let fd = bpf(PROG_LOAD, &mut attr, || {
        format!("bpf(BPF_PROG_LOAD, BPF_PROG_TYPE_CGROUP_DEVICE, {} instructions)", instructions.len())
    })?;
    Ok(owned(fd))
}

/// Attaches a device program to a cgroup directory, in the same step taking the place of `replace` if given.
///
/// # Errors
/// EPERM when the cgroup's parent has a program that allows no others beside it; ENOENT when `replace` is not attached.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let mut attr = AttachAttr {
        target_fd: raw(cgroup),
        attach_bpf_fd: raw(program),
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        attach_flags: F_ALLOW_MULTI | if replace.is_some() { F_REPLACE } else { 0 },
        replace_bpf_fd: replace.map_or(0, raw),
    };
    bpf(PROG_ATTACH, &mut attr, || "bpf(BPF_PROG_ATTACH, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI)".to_owned()).map(drop)
}

/// Detaches a device program from a cgroup directory.
///
/// # Errors
/// ENOENT when it is not attached.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let mut attr = AttachAttr {
        target_fd: raw(cgroup),
        attach_bpf_fd: raw(program),
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        ..AttachAttr::default()
    };
    bpf(PROG_DETACH, &mut attr, || "bpf(BPF_PROG_DETACH, BPF_CGROUP_DEVICE)".to_owned()).map(drop)
}

/// The device programs attached to this very cgroup, oldest first.
///
/// # Errors
/// EPERM without CAP_BPF; ENOENT when a program was detached meanwhile.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>> {
    let mut ids = [0u32; MAX_PROGRAMS];
    let mut attr = QueryAttr {
        target_fd: raw(cgroup),
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MAX_PROGRAMS as u32,
        ..QueryAttr::default()
    };
    bpf(PROG_QUERY, &mut attr, || "bpf(BPF_PROG_QUERY, BPF_CGROUP_DEVICE)".to_owned())?;
    let count = (attr.prog_cnt as usize).min(MAX_PROGRAMS);
    let open = |id: &u32| {
        let mut attr = IdAttr { id: *id, ..IdAttr::default() };
        bpf(PROG_GET_FD_BY_ID, &mut attr, || format!("bpf(BPF_PROG_GET_FD_BY_ID, {id})")).map(owned)
    };
    ids[..count].iter().map(open).collect()
}
