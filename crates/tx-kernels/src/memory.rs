//! What the system does with memory.

use std::mem::MaybeUninit;

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

/// Asks for large pages where they fit into memory that was not used before.
pub(crate) fn prefer_large_pages<T>(memory: &mut [MaybeUninit<T>]) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const PAGE: usize = 1 << 12;
        let range = memory.as_mut_ptr_range();
        let (start, end) = (range.start.addr().next_multiple_of(PAGE), range.end.addr() / PAGE * PAGE);
        // SAFETY: this changes nothing but the size of pages. That it was refused is no error.
        unsafe { libc::madvise(range.start.with_addr(start).cast(), end.saturating_sub(start), libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = memory;
}
