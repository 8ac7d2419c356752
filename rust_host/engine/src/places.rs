//! How many calls of a model run at once: as many as `rust-host tune` found to be best, the others wait for their turn. More
//! calls than cores take the cores away from one another in the middle of an operator, and all get slower.

use crate::{Result, interrupt};
use std::{
    process,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long a caller waits before it asks whether its call should end.
const ASK: Duration = Duration::from_millis(20);

/// The places of a model's calls.
#[derive(Debug)]
pub(crate) struct Places {
    /// At least one.
    pub count: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    taken: usize,
    waiting: usize,
    process: u32,
}

/// Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a>(&'a Places);

impl Places {
    pub(crate) fn new(count: usize) -> Self {
        let state = State { taken: 0, waiting: 0, process: process::id() };
        Self { count: count.max(1), state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Begins a call, when there is room for it.
    ///
    /// # Errors
    /// `Timeout` if the call should end while it waits.
    pub(crate) fn take(&self) -> Result<Place<'_>> {
        let mut state = self.lock();
        if state.taken >= self.count {
            state.waiting += 1;
            while state.taken >= self.count {
                // Who ran when this process was forked is not here to give a place back.
                if state.process != process::id() {
                    *state = State { taken: 0, waiting: 1, process: process::id() };
                    break;
                }
                // Asking may run code of the process, which may call this model.
                drop(state);
                let is_over = interrupt::is_wanted();
                state = self.lock();
                if is_over {
                    state.waiting = state.waiting.saturating_sub(1);
                    return Err(interrupt::error());
                }
                if state.taken >= self.count {
                    state = self.changed.wait_timeout(state, ASK).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
            state.waiting = state.waiting.saturating_sub(1);
        }
        state.taken += 1;
        Ok(Place(self))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.taken = state.taken.saturating_sub(1);
        let someone_waits = state.waiting > 0;
        drop(state);
        // Not without need: it is a call of the kernel.
        if someone_waits {
            self.0.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    #[test]
    fn no_more_calls_run_at_once_than_there_are_places_and_all_run() {
        let (places, now, most, all) = (Places::new(2), AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let _place = places.take().unwrap();
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        thread::sleep(Duration::from_micros(200));
                        now.fetch_sub(1, Ordering::SeqCst);
                        all.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!((most.into_inner(), all.into_inner()), (2, 120));
        let state = places.lock();
        assert_eq!((state.taken, state.waiting), (0, 0));
    }

    #[test]
    fn who_waits_for_too_long_is_told_so_and_takes_no_place() {
        let places = Places::new(0);
        let place = places.take().unwrap();
        let late = interrupt::within(Duration::from_millis(1), || places.take().map(drop).unwrap_err());
        assert_eq!(late.kind, ErrorKind::Timeout);
        drop(place);
        drop(places.take().unwrap());
    }

    #[test]
    fn a_forked_process_does_not_wait_for_callers_that_it_does_not_have() {
        let places = Places::new(1);
        std::mem::forget(places.take().unwrap());
        places.lock().process = 0;
        drop(interrupt::within(Duration::from_secs(5), || places.take()).unwrap());
        assert_eq!(places.lock().process, process::id());
    }
}
