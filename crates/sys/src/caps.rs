//! Capability sets of the calling thread, as bit masks (bit n = capability number n of capability.h).
//! Owns the calls. Must not know names or which sets a container gets.

use crate::clone::last_errno;
use crate::error::{Error, Result};

/// The five sets that a process is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sets {
    /// What may ever be gained by an exec.
    pub bounding: u64,
    /// What is in force.
    pub effective: u64,
    /// What may be put in force.
    pub permitted: u64,
    /// What file capabilities may pass on.
    pub inheritable: u64,
    /// What survives the exec of an ordinary file by a user who is not root.
    pub ambient: u64,
}

const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn get() -> Result<[Data; 2]> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 takes a header and two data elements.
    let done = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    if done == 0 { Ok(data) } else { Err(Error::new("capget()", last_errno())) }
}

fn set(data: [Data; 2], call: impl Fn() -> String) -> Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: version 3 takes a header and two data elements.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(Error::new(call(), last_errno())) }
}

fn halves(effective: u64, permitted: u64, inheritable: u64) -> [Data; 2] {
    let half = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    [half(0), half(32)]
}

/// Puts everything in force that is permitted.
pub fn raise_all_permitted() -> Result<()> {
    let mut data = get()?;
    for half in &mut data {
        half.effective = half.permitted;
    }
    set(data, || "capset(effective = permitted)".to_owned())
}

/// The capabilities that this thread has permitted.
pub fn permitted() -> Result<u64> {
    let [low, high] = get()?;
    Ok(u64::from(low.permitted) | u64::from(high.permitted) << 32)
}

fn prctl(option: i32, arg2: u64, arg3: u64, call: impl Fn() -> String) -> Result<i32> {
    // SAFETY: every option used in this module takes integers only.
    let done = unsafe { libc::prctl(option, arg2, arg3, 0u64, 0u64) };
    if done >= 0 { Ok(done) } else { Err(Error::new(call(), last_errno())) }
}

/// The number of the last capability that this kernel knows.
pub fn last() -> u32 {
    let known = |cap: u32| prctl(libc::PR_CAPBSET_READ, cap.into(), 0, String::new).is_ok();
    // 40 has been the last since Linux 5.9; look on from there.
    let mut last = 40;
    while last < 63 && known(last + 1) {
        last += 1;
    }
    last
}

/// The bounding set of this thread.
pub fn bounding() -> u64 {
    (0..=last())
        .filter(|cap| prctl(libc::PR_CAPBSET_READ, (*cap).into(), 0, String::new).is_ok_and(|set| set == 1))
        .fold(0, |mask, cap| mask | 1 << cap)
}

/// Drops from the bounding set all that is not in `keep`. Needs `CAP_SETPCAP` if anything is to go.
pub fn limit_bounding(keep: u64) -> Result<()> {
    for cap in (0..=last()).filter(|cap| keep & 1 << cap == 0) {
        prctl(libc::PR_CAPBSET_DROP, cap.into(), 0, || format!("prctl(PR_CAPBSET_DROP, {cap})"))?;
    }
    Ok(())
}

/// Sets permitted, effective and inheritable, then exactly the ambient set.
///
/// # Errors
/// EPERM if a capability is asked for that the thread does not have.
pub fn apply(sets: &Sets) -> Result<()> {
    set(halves(sets.effective, sets.permitted, sets.inheritable), || {
        format!(
            "capset(effective {:#x}, permitted {:#x}, inheritable {:#x})",
            sets.effective, sets.permitted, sets.inheritable
        )
    })?;
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0, || {
        "prctl(PR_CAP_AMBIENT_CLEAR_ALL)".to_owned()
    })?;
    for cap in (0..=last()).filter(|cap| sets.ambient & 1 << cap != 0) {
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, cap.into(), || {
            format!("prctl(PR_CAP_AMBIENT_RAISE, {cap})")
        })?;
    }
    Ok(())
}

/// Keeps the permitted set when all user ids leave 0; the next execve clears the flag.
pub fn keep_over_setuid(keep: bool) -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, keep.into(), 0, || format!("prctl(PR_SET_KEEPCAPS, {})", u8::from(keep))).map(drop)
}
