//! What the allocator keeps of memory that was freed.

/// Gives whole pages that hold nothing back to the system. glibc does so by itself only where they lie at the end of its
/// heap, and whatever outlives a start (a thread's descriptor, a key) lies behind what that start needed.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, moves nothing that is in use, may be called at any time and from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
