//! What the C library's allocator does with memory that was freed. Must not be called once there are threads.

/// From this size on, in bytes, an allocation is a mapping of its own, which goes back to the kernel when it is freed.
const OWN_MAPPING: i32 = 128 * 1024;
/// So much may stay at the end of a heap, in bytes.
const KEPT: i32 = 256 * 1024;
/// Heaps that threads share: each keeps what is free between what is used.
const HEAPS: i32 = 4;

/// Has freed memory go back to the kernel, in a process that works hard now and then and waits for long. By itself glibc raises
/// both limits to the largest buffer that was ever freed (up to 32 and 64 MiB) and makes eight heaps per processor: a daemon
/// keeps for good what a push took for seconds. (mallopt(3); other C libraries do as they like.)
pub fn give_back_what_is_free() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_MMAP_THRESHOLD, OWN_MAPPING), (libc::M_TRIM_THRESHOLD, KEPT), (libc::M_ARENA_MAX, HEAPS)]
    {
        // SAFETY: integers only; it is a matter of degree, so there is nothing to do about a refusal.
        unsafe { libc::mallopt(parameter, value) };
    }
}
