//! Ctrl-C while a model runs: Python only notes a signal, and its handler waits until the call is over. Loops of the model ask
//! here every now and then, so that an endless one ends as KeyboardInterrupt.

use crate::calls;
use pyo3::prelude::*;
use rust_host_engine::interrupt;
use std::cell::RefCell;

thread_local! {
    /// What the handler raised, until the call that it ended has returned.
    static RAISED: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

/// Lets running models ask for signals; only the main thread of Python gets any.
pub(crate) fn watch() {
    interrupt::ask(|| {
        if calls::is_left_behind() {
            return true;
        }
        Python::attach(|py| match py.check_signals() {
            Ok(()) => false,
            Err(raised) => {
                RAISED.set(Some(raised));
                true
            }
        })
    });
}

/// The exception of the handler that ended this thread's call, if one did.
pub(crate) fn take_raised() -> Option<PyErr> {
    RAISED.take()
}
