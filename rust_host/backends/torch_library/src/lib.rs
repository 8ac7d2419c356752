//! `librust_host_torch_library.so`: the torch backend for hosts that do without libtorch until a model needs it. Loading libtorch
//! takes 50 to 190 ms, and without it `--help`, `info`, `doctor`, `import rust_host` and compiled packages answer at once, also
//! where libtorch is missing.
#![expect(unsafe_code, reason = "two names that can be looked up")]

mod guarded;

use guarded::{Guarded, guarded};
use rust_host_engine::{
    BUILD, Backend, Result,
    interrupt::{self, Questions},
};
use std::sync::Arc;

/// What the library was built from; its opener compares before it calls anything else.
// SAFETY: the name is used nowhere else.
#[unsafe(no_mangle)]
pub fn rust_host_torch_build() -> &'static str {
    BUILD
}

/// The backend, for an opener that keeps time limits and signals.
///
/// # Errors
/// `Unavailable` if libtorch cannot be set up.
// SAFETY: the name is used nowhere else.
#[unsafe(no_mangle)]
pub fn rust_host_torch_backend(opener: Questions) -> Result<Arc<dyn Backend>> {
    interrupt::answer_by(opener);
    guarded(|| Ok(Arc::new(Guarded(rust_host_torch::backend()?)) as Arc<dyn Backend>))
}
