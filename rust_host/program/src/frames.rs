//! Where the unwinder finds the frames of a function. The static libgcc asks glibc's `_dl_find_object`, which is new in 2.35; this
//! answers the same from `dl_iterate_phdr`, which every glibc has.
#![expect(unsafe_code, reason = "it is called by libgcc, and reads the loader's list of what is mapped")]

use std::{
    ffi::{c_int, c_ulonglong, c_void},
    ptr,
};

/// `struct dl_find_object` (glibc's dlfcn.h) on x86-64 and aarch64.
#[repr(C)]
pub(crate) struct Found {
    flags: c_ulonglong,
    map_start: *const c_void,
    map_end: *const c_void,
    link_map: *const c_void,
    eh_frame: *const c_void,
    reserved: [c_ulonglong; 7],
}

struct Search {
    wanted: usize,
    found: Option<(usize, usize, usize)>,
}

/// 0 and what holds the address `pc`, or -1.
///
/// # Safety
/// `result` can be written to.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn __wrap__dl_find_object(pc: *const c_void, result: *mut Found) -> c_int {
    let mut search = Search { wanted: pc.addr(), found: None };
    // SAFETY: `visit` takes what is passed, and is not called after this returns.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    let Some((start, end, eh_frame)) = search.found else { return -1 };
    let at = ptr::with_exposed_provenance;
    let found = Found {
        flags: 0,
        map_start: at(start),
        map_end: at(end),
        link_map: ptr::null(),
        eh_frame: at(eh_frame),
        reserved: [0; 7],
    };
    // SAFETY: the caller's place.
    unsafe { result.write(found) };
    0
}

unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _: usize, search: *mut c_void) -> c_int {
    // SAFETY: the loader passes one entry of its list, and what was given to it.
    let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
    // SAFETY: the loader says where the headers of the object are and how many.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let base = info.dlpi_addr as usize;
    let range = |h: &libc::Elf64_Phdr| {
        let start = base.wrapping_add(h.p_vaddr as usize);
        start..start.wrapping_add(h.p_memsz as usize)
    };
    let loaded = headers.iter().filter(|h| h.p_type == libc::PT_LOAD).map(range);
    let Some(part) = loaded.into_iter().find(|part| part.contains(&search.wanted)) else { return 0 };
    if let Some(frames) = headers.iter().find(|h| h.p_type == libc::PT_GNU_EH_FRAME) {
        search.found = Some((part.start, part.end, range(frames).start));
    }
    1
}
