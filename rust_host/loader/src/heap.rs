//! glibc's allocator as a host of libtorch wants it. For programs of our own only: it changes the whole process, so the wheel
//! leaves it alone.

/// What libtorch's initialisers allocate, in very many small pieces, rounded up to whole huge pages.
const ROOM: usize = 48 << 20;
const HUGE_PAGE: usize = 2 << 20;
/// Larger than most activations: below it memory comes from the heap and stays there. By default every large tensor is
/// mapped anew, and its pages are zeroed again by the kernel, call after call (8.6 → 5.6 ms for 32 digits where it was
/// measured; both settings are needed).
const LARGEST_FROM_HEAP: libc::c_int = 32 << 20;

/// Keeps freed memory, and lets the heap grow at once by [`ROOM`] of huge pages: page by page the kernel takes a fifth of the
/// whole start for it. Where huge pages are switched off that part changes nothing.
pub(crate) fn prepare() {
    // SAFETY: mallopt, malloc, free, sbrk(0) and madvise as their manuals say; the range lies between two ends of the heap
    // that this process was given, and MADV_HUGEPAGE changes no content.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST_FROM_HEAP);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        let start = libc::sbrk(0) as usize;
        libc::mallopt(libc::M_TOP_PAD, ROOM as libc::c_int);
        // Does not fit into what is left, so the heap grows. Without black_box the compiler drops the pair.
        libc::free(std::hint::black_box(libc::malloc(1 << 20)));
        libc::mallopt(libc::M_TOP_PAD, 1 << 20);
        let end = libc::sbrk(0) as usize;
        let first = start.next_multiple_of(HUGE_PAGE);
        if end > first {
            libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_HUGEPAGE);
        }
    }
}
