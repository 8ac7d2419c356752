//! Who may call a model that keeps state between calls: one caller, one call at a time. Two threads on one state would mix
//! what they compute, and nobody would notice.

use crate::{Error, Result};
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, ThreadId},
};

/// The calls of one state.
#[derive(Debug)]
pub(crate) struct Turns {
    busy: AtomicBool,
    /// `None` where the state is a session's, whose holder is its caller on whatever thread.
    owner: Option<OnceLock<ThreadId>>,
}

/// Ends the call when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a>(&'a AtomicBool);

impl Turns {
    /// Of a model that was opened: it belongs to the thread that calls it first.
    pub(crate) fn of_a_model() -> Self {
        Self { busy: AtomicBool::new(false), owner: Some(OnceLock::new()) }
    }

    /// Of a session: it may move between threads.
    pub(crate) fn of_a_session() -> Self {
        Self { busy: AtomicBool::new(false), owner: None }
    }

    /// Begins a call, or refuses; it never waits, so it cannot deadlock.
    ///
    /// # Errors
    /// `InvalidInput` on another thread than the owner's, or while another call goes on.
    pub(crate) fn take(&self) -> Result<Turn<'_>> {
        let me = thread::current().id();
        if let Some(owner) = &self.owner
            && *owner.get_or_init(|| me) != me
        {
            return Err(Error::invalid_input(
                "the model keeps state between calls and belongs to the thread that called it first, this is another one",
            )
            .hint("`model.session()` gives every caller a state of its own"));
        }
        self.busy.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).map_err(|_| {
            Error::invalid_input("the session is busy with another call, and two at once would mix their states")
                .hint("`model.session()` gives every caller a state of its own")
        })?;
        Ok(Turn(&self.busy))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_belongs_to_the_thread_that_called_it_first() {
        let turns = Turns::of_a_model();
        drop(turns.take().unwrap());
        let e = thread::scope(|s| s.spawn(|| turns.take().map(drop).unwrap_err()).join().unwrap());
        assert!(e.message.contains("belongs to the thread") && e.hint.unwrap().contains("model.session()"));
        drop(turns.take().unwrap());
    }

    #[test]
    fn a_session_may_move_but_not_be_called_twice_at_once() {
        let turns = Turns::of_a_session();
        drop(turns.take().unwrap());
        thread::scope(|s| s.spawn(|| drop(turns.take().unwrap())).join().unwrap());
        let turn = turns.take().unwrap();
        assert!(turns.take().unwrap_err().message.contains("busy with another call"));
        drop(turn);
        drop(turns.take().unwrap());
    }
}
