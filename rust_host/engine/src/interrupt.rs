//! Ending a call that goes on for too long, or that nobody waits for any more. A forward pass cannot be stopped from
//! outside; a backend therefore asks [`is_wanted`] wherever it can (at each turn of a loop), on the thread that runs it.

use crate::{Error, ErrorKind};
use std::{
    cell::Cell,
    sync::OnceLock,
    time::{Duration, Instant},
};

thread_local! {
    static DEADLINE: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

static ASK: OnceLock<fn() -> bool> = OnceLock::new();
static OPENER: OnceLock<Questions> = OnceLock::new();

/// What a library of ours that was opened at run time asks its opener. It has this module once more, which nobody sets.
#[derive(Debug, Clone, Copy)]
pub struct Questions {
    is_wanted: fn() -> bool,
    error: fn() -> Error,
}

/// The opener's, to be handed to [`answer_by`] in the library.
pub fn questions() -> Questions {
    Questions { is_wanted, error }
}

/// Has the opener answer in this library from now on.
pub fn answer_by(opener: Questions) {
    let _first = OPENER.set(opener);
}

/// Runs `work` with a time limit for everything that this thread computes in it.
///
/// ```
/// use rust_host_engine::interrupt;
/// let late = interrupt::within(std::time::Duration::ZERO, interrupt::is_wanted);
/// assert!(late && !interrupt::is_wanted());
/// ```
pub fn within<T>(limit: Duration, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<(Instant, Duration)>);
    impl Drop for Restore {
        fn drop(&mut self) {
            DEADLINE.set(self.0);
        }
    }
    let _restore = Restore(DEADLINE.replace(Some((Instant::now() + limit, limit))));
    work()
}

/// Sets a further question that is asked on the computing thread: whether a signal came, for example. The first one stays.
pub fn ask(question: fn() -> bool) {
    let _first = ASK.set(question);
}

/// When this thread's time is over, for a backend that another thread has to stop.
pub fn deadline() -> Option<Instant> {
    DEADLINE.get().map(|(end, _)| end)
}

/// Whether the computation of this thread should end.
pub fn is_wanted() -> bool {
    if let Some(opener) = OPENER.get() {
        return (opener.is_wanted)();
    }
    DEADLINE.get().is_some_and(|(end, _)| Instant::now() >= end) || ASK.get().is_some_and(|question| question())
}

/// The error of a computation that ended because [`is_wanted`] said so.
pub fn error() -> Error {
    if let Some(opener) = OPENER.get() {
        return (opener.error)();
    }
    match DEADLINE.get() {
        Some((end, limit)) if Instant::now() >= end => {
            Error::new(ErrorKind::Timeout, format!("the model did not answer within {} s", limit.as_secs_f64()))
        }
        _ => Error::new(ErrorKind::Timeout, "the call was interrupted"),
    }
}
