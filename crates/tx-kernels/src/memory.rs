//! What the allocator does with memory that is given back.

/// Tells the allocator of this process to keep freed memory for the next operation.
///
/// A model allocates and frees blocks of the same sizes in every layer. By default the C library gives large ones back
/// to the system each time, and getting a fresh page costs as much as computing what is written to it. A program calls
/// this once, at its start; a library never does. Where the C library is not glibc this does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: these settings may be changed at any time.
    unsafe {
        // One arena, so that threads share what they freed; 32 MiB is the most that the library allows.
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}
