//! The host inside a static library that `rust-host build --header` wrote, which may be linked into any program.
//!
//! A shared library, opened from memory by the few lines of C in that library (`csrc/host.c`): so nothing of Rust, and no
//! name but the model's own functions, is in the program that links it, which may be of another Rust or have several models.
//! Nothing here prints, exits or unwinds into its caller.
#![expect(unsafe_code, reason = "a C interface: the caller's pointers, which C cannot describe better")]

mod model;

use model::Embedded;
use rust_host_engine::{Error, Result};
use std::{
    cell::RefCell,
    ffi::{CStr, CString, c_char, c_int},
    panic::{self, AssertUnwindSafe},
    ptr, slice,
    sync::Once,
};

thread_local! {
    /// What went wrong last on this thread.
    static LAST: RefCell<CString> = RefCell::default();
}

/// Opens the model of a package. It is never closed; null, with a sentence, if it cannot be opened.
///
/// # Safety
/// `package` is `length` bytes and `name` a text that live as long as the process.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rust_host_embedded_open(
    package: *const u8,
    length: u64,
    name: *const c_char,
) -> *const Embedded {
    static ONCE: Once = Once::new();
    // A panic is told by the sentence alone. This library has a standard library of its own: nobody else's hook is taken.
    ONCE.call_once(|| panic::set_hook(Box::new(|_| {})));
    // SAFETY: as the caller promises.
    let (package, name) = unsafe { (slice::from_raw_parts(package, length as usize), CStr::from_ptr(name)) };
    let mut opened = ptr::null();
    told(|| {
        opened = Box::leak(Box::new(Embedded::open(package, &name.to_string_lossy())?));
        Ok(())
    });
    opened
}

/// Runs it: sizes of the free axes, then where inputs begin, then where outputs begin, in the order of the contract. Returns
/// 0, or 1 with a sentence.
///
/// # Safety
/// `model` was opened; `arguments` are as many as that, and every place holds a row-major tensor of the contract's shape at
/// those sizes, which nobody else writes to, and reads from if it is an output.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rust_host_embedded_run(model: &Embedded, arguments: *const usize) -> c_int {
    told(|| {
        // SAFETY: as the caller promises.
        unsafe { model.run(slice::from_raw_parts(arguments, model.arguments())) }
    })
}

/// Replays the golden examples: 0 if the model reproduces them here, else 1 with a sentence.
#[unsafe(no_mangle)]
pub extern "C" fn rust_host_embedded_verify(model: &Embedded) -> c_int {
    told(|| model.verify())
}

/// The sentence about what went wrong last on this thread, until the next one; empty if nothing has.
#[unsafe(no_mangle)]
pub extern "C" fn rust_host_embedded_error() -> *const c_char {
    // A thread that ends has none any more.
    LAST.try_with(|text| text.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// 0, or 1 after the sentence was kept for this thread.
fn told(work: impl FnOnce() -> Result<()>) -> c_int {
    let done = panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<&str>().map(ToString::to_string);
        let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no reason given".into());
        Err(Error::internal(format!("internal error: {said}")))
    });
    let Err(error) = done else { return 0 };
    let text = match error.hint {
        Some(hint) => format!("{} ({hint})", error.message),
        None => error.message,
    };
    let text = CString::new(text.replace(['\0', '\n'], " ")).unwrap_or_default();
    // A thread that ends keeps none.
    let _kept = LAST.try_with(|last| last.replace(text));
    1
}
