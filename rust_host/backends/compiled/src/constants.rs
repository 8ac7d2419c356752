//! The weights in a package's library, where a program has it mapped from its own file: they are not copied into the memory
//! that the library is opened from, but mapped a second time, over the place that it has for them. The code uses them there.

use object::{
    Endianness,
    elf::{FileHeader64, PF_R, PT_LOAD},
    read::elf::{FileHeader, ProgramHeader, SectionHeader},
};
use std::{
    ffi::c_void,
    fs::File,
    io,
    ops::Range,
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, Ordering},
};

/// As the loader maps; a multiple of it would do as well.
const PAGE: usize = 4096;
/// Fewer bytes are copied as quickly.
const WORTH_IT: usize = 64 << 10;

static ALONE: AtomicBool = AtomicBool::new(false);

/// Says that this process is a program that opens one model, from its own file, which it has mapped shared, and ends.
pub fn one_model_from_own_file() {
    ALONE.store(true, Ordering::Relaxed);
}

/// Whole pages of a library that hold nothing but constants.
pub(crate) struct Pages {
    /// In the file.
    pub(crate) range: Range<usize>,
    /// Behind the place where the library begins in memory.
    address: usize,
}

impl Pages {
    /// Those of that code, if there are enough of them and the code lies so that they can be mapped.
    pub(crate) fn of(code: &[u8]) -> Option<Self> {
        if !ALONE.load(Ordering::Relaxed) || !code.as_ptr().addr().is_multiple_of(PAGE) {
            return None;
        }
        let header = FileHeader64::<Endianness>::parse(code).ok()?;
        let endian = header.endian().ok()?;
        // Of this section alone: the loader and the library's constructors look at all others.
        let (_, section) = header.sections(endian, code).ok()?.section_by_name(endian, b".lrodata")?;
        let (start, size) = section.file_range(endian)?;
        let (address, end) = (section.sh_addr(endian), start.checked_add(size)?);
        let holds_it = |part: &object::elf::ProgramHeader64<Endianness>| {
            let (first, size) = part.file_range(endian);
            part.p_type(endian) == PT_LOAD
                && part.p_flags(endian) == PF_R
                && first <= start
                && first.checked_add(size).is_some_and(|last| last >= end)
                && part.p_vaddr(endian).checked_sub(first) == address.checked_sub(start)
        };
        let (start, end) = (usize::try_from(start).ok()?, usize::try_from(end).ok()?);
        let range = start.checked_next_multiple_of(PAGE)?..end / PAGE * PAGE;
        let address = usize::try_from(address).ok()?;
        let whole = header.program_headers(endian, code).ok()?.iter().any(holds_it)
            && end <= code.len()
            && address % PAGE == start % PAGE;
        (whole && range.len() >= WORTH_IT).then(|| Self { address: address + (range.start - start), range })
    }

    /// Maps them where the library that begins at `base` has its own, which is as long. If that is not to be had it is `false`, and
    /// [`restore`](Self::restore) must follow: what was at the place may be gone.
    ///
    /// # Safety
    /// `base` is where a library of that code is mapped.
    pub(crate) unsafe fn map_over(&self, code: &[u8], base: *mut c_void) -> bool {
        let Some(pages) = code.get(self.range.clone()) else { return false };
        let (from, to) = (pages.as_ptr().cast_mut().cast(), base.wrapping_byte_add(self.address));
        // SAFETY: an old length of 0 leaves the old pages where they are and adds a second place for them, of the kernel's choice.
        let second = unsafe { libc::mremap(from, 0, pages.len(), libc::MREMAP_MAYMOVE) };
        if second == libc::MAP_FAILED {
            return false;
        }
        let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: the second place is moved to the library's own: nothing else is there, and its bytes are only read, as these.
        let moved = unsafe { libc::mremap(second, pages.len(), pages.len(), how, to) };
        if moved != to {
            // SAFETY: it is ours, and nobody knows of it.
            unsafe { libc::munmap(second, pages.len()) };
        }
        moved == to
    }

    /// Maps them from the library's file, which has them by now, as the loader did.
    ///
    /// # Errors
    /// What the system says.
    ///
    /// # Safety
    /// `base` is where a library of that file is mapped.
    pub(crate) unsafe fn restore(&self, file: &File, base: *mut c_void) -> io::Result<()> {
        let (to, how) = (base.wrapping_byte_add(self.address), libc::MAP_PRIVATE | libc::MAP_FIXED);
        let offset = libc::off_t::try_from(self.range.start).map_err(io::Error::other)?;
        // SAFETY: the place is the library's own, for just these bytes, which are only read.
        let mapped = unsafe { libc::mmap(to, self.range.len(), libc::PROT_READ, how, file.as_raw_fd(), offset) };
        if mapped == to { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, ptr, slice};

    /// Three pages, of the numbers 1, 2 and 3.
    fn pages() -> File {
        let mut file = File::from(rustix::fs::memfd_create("pages", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        (1..=3).for_each(|number| file.write_all(&[number; PAGE]).unwrap());
        file
    }

    fn mapped(file: &File, flags: libc::c_int) -> &'static [u8] {
        // SAFETY: the kernel chooses the place; the file is as long as the mapping, which lives as long as the process.
        unsafe {
            let place = libc::mmap(ptr::null_mut(), 3 * PAGE, libc::PROT_READ, flags, file.as_raw_fd(), 0);
            assert_ne!(place, libc::MAP_FAILED);
            slice::from_raw_parts(place.cast(), 3 * PAGE)
        }
    }

    #[test]
    fn shared_pages_are_seen_a_second_time_and_private_ones_are_not() {
        let of_last_two = Pages { range: PAGE..3 * PAGE, address: 0 };
        for (flags, expected) in [(libc::MAP_SHARED, (true, 2, 3)), (libc::MAP_PRIVATE, (false, 1, 2))] {
            let file = pages();
            let (code, library) = (mapped(&file, flags), mapped(&file, libc::MAP_PRIVATE));
            let base = library.as_ptr().cast_mut().cast();
            // SAFETY: the place is a mapping of our own, longer than what goes over it.
            let done = unsafe { of_last_two.map_over(code, base) };
            assert_eq!((done, library[0], library[2 * PAGE - 1]), expected);
            assert_eq!((code[0], code[PAGE], library[2 * PAGE]), (1, 2, 3));
            // SAFETY: as above.
            unsafe { of_last_two.restore(&file, base) }.unwrap();
            assert_eq!((library[0], library[PAGE], library[2 * PAGE]), (2, 3, 3));
        }
    }

    #[test]
    fn what_is_no_library_and_what_is_not_the_programs_own_is_left_alone() {
        let shared = mapped(&pages(), libc::MAP_SHARED);
        assert!(Pages::of(shared).is_none());
        one_model_from_own_file();
        assert!(Pages::of(shared).is_none() && Pages::of(b"").is_none());
        ALONE.store(false, Ordering::Relaxed);
    }
}
