//! What the C library's allocator keeps of memory that was freed. By itself glibc keeps for good what a daemon took for
//! seconds: it makes eight heaps per processor, and raises the limits below to the largest buffer that was ever freed (up to 32
//! and 64 MiB). Other C libraries do as they like. (mallopt(3), mallinfo2(3), malloc_trim(3).)

/// From this size on, in bytes, an allocation is a mapping of its own, which goes back to the kernel when it is freed. Buffers
/// of pieces of a stream are smaller: to get the pages of each anew takes longer than to fill them.
#[cfg(target_env = "gnu")]
const OWN_MAPPING: libc::c_int = 2 << 20;
/// So much may stay free at the end of a heap, in bytes.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 1 << 20;
/// Heaps that threads share.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 4;

/// Has little memory kept. To be called while there is one thread.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_MMAP_THRESHOLD, OWN_MAPPING), (libc::M_TRIM_THRESHOLD, KEPT), (libc::M_ARENA_MAX, HEAPS)]
    {
        // SAFETY: integers only; it is a matter of degree, so there is nothing to do about a refusal.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// How much is kept though it is free, in bytes.
pub fn kept() -> usize {
    #[cfg(target_env = "gnu")]
    // SAFETY: it reads the heaps under their own locks.
    return unsafe { libc::mallinfo2() }.fordblks;
    #[cfg(not(target_env = "gnu"))]
    0
}

/// Gives back what is free between what is used, too. Takes milliseconds, for which others wait that allocate: not for a thread
/// of the lowest priority.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches nothing but free memory, under the heaps' own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
