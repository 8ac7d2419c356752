//! How many calls of a model run at once: as many as `rust-host tune` found to be best, the others wait for their turn. More
//! calls than cores take the cores away from one another in the middle of an operator, and all get slower.

use crate::{Result, interrupt, process};
use std::{
    cell::RefCell,
    marker::PhantomData,
    ptr,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// How long a caller waits before it asks whether its call should end.
const ASK: Duration = Duration::from_millis(20);

thread_local! {
    /// Where this thread has a place, by address.
    static HELD: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// The places of a model's calls.
#[derive(Debug)]
pub(crate) struct Places {
    /// At least one.
    pub count: usize,
    of: OfProcess,
}

/// Each process has a state of its own: who ran or waited when it was forked is not there, and may have held the lock.
#[derive(Debug)]
struct OfProcess {
    process: u32,
    state: Mutex<State>,
    child: OnceLock<Box<OfProcess>>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    /// In order; who comes later has the higher ticket.
    waiting: Vec<Waiting>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    thread: Thread,
    /// It runs code of the process, which may call this model: nobody waits for it meanwhile.
    asks: bool,
}

/// Given back when it is dropped, on the thread that took it.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// And the process that it was taken in; `None` inside another call of the thread.
    of: Option<(&'a Places, &'a OfProcess)>,
    _thread: PhantomData<*const ()>,
}

impl Places {
    pub(crate) fn new(count: usize) -> Self {
        Self { count: count.max(1), of: OfProcess::new(process::id()) }
    }

    /// Begins a call, when there is room for it: in the order in which they came. A call inside another one of the same thread
    /// (a signal handler's) needs no place, or it would wait for its own thread.
    ///
    /// # Errors
    /// `Timeout` if the call should end while it waits.
    pub(crate) fn take(&self) -> Result<Place<'_>> {
        let here = ptr::from_ref(self).addr();
        if HELD.with_borrow(|held| held.contains(&here)) {
            return Ok(Place { of: None, _thread: PhantomData });
        }
        let of = self.of_this_process();
        let mut state = of.lock();
        match self.has_room(&state, state.next_ticket) {
            true => state.taken += 1,
            false => self.wait(of, state)?,
        }
        HELD.with_borrow_mut(|held| held.push(here));
        Ok(Place { of: Some((self, of)), _thread: PhantomData })
    }

    /// Takes a place as soon as it is this thread's turn.
    fn wait<'a>(&self, of: &'a OfProcess, mut state: MutexGuard<'a, State>) -> Result<()> {
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push(Waiting { ticket, thread: thread::current(), asks: false });
        let mut asked = Instant::now();
        while !self.has_room(&state, ticket) {
            let left = interrupt::deadline().map_or(ASK, |end| end.saturating_duration_since(asked)).min(ASK);
            if let Some(left) = left.checked_sub(asked.elapsed()).filter(|left| !left.is_zero()) {
                drop(state);
                thread::park_timeout(left);
                state = of.lock();
                continue;
            }
            state.asks(ticket, true);
            self.wake_next(state);
            let is_over = interrupt::is_wanted();
            asked = Instant::now();
            state = of.lock();
            if is_over {
                state.leave(ticket);
                return Err(interrupt::error());
            }
            state.asks(ticket, false);
        }
        state.leave(ticket);
        state.taken += 1;
        // There may be room for one more.
        self.wake_next(state);
        Ok(())
    }

    fn has_room(&self, state: &State, ticket: u64) -> bool {
        state.taken < self.count && state.waiting.iter().all(|other| other.ticket >= ticket || other.asks)
    }

    fn wake_next(&self, state: MutexGuard<'_, State>) {
        let next = state.waiting.iter().find(|other| !other.asks).filter(|_| state.taken < self.count);
        let next = next.map(|other| other.thread.clone());
        drop(state);
        // Not without need: it is a call of the kernel.
        if let Some(next) = next {
            next.unpark();
        }
    }

    fn of_this_process(&self) -> &OfProcess {
        let process = process::id();
        let mut of = &self.of;
        while of.process != process {
            of = of.child.get_or_init(|| Box::new(OfProcess::new(process)));
        }
        of
    }
}

impl OfProcess {
    fn new(process: u32) -> Self {
        Self { process, state: Mutex::default(), child: OnceLock::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn asks(&mut self, ticket: u64, asks: bool) {
        self.waiting.iter_mut().filter(|one| one.ticket == ticket).for_each(|one| one.asks = asks);
    }

    fn leave(&mut self, ticket: u64) {
        self.waiting.retain(|one| one.ticket != ticket);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some((places, of)) = self.of else { return };
        let here = ptr::from_ref(places).addr();
        HELD.with_borrow_mut(|held| {
            if let Some(at) = held.iter().rposition(|one| *one == here) {
                held.swap_remove(at);
            }
        });
        // One that was taken before a fork is not counted in the child, nor may its lock be touched there.
        if of.process == process::id() {
            let mut state = of.lock();
            state.taken = state.taken.saturating_sub(1);
            places.wake_next(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use std::{
        cell::Cell,
        mem,
        sync::{
            Barrier, LazyLock,
            atomic::{AtomicUsize, Ordering},
        },
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
        let state = places.of_this_process().lock();
        assert_eq!((state.taken, state.waiting.len()), (0, 0));
    }

    #[test]
    fn who_waits_for_too_long_is_told_so_and_takes_no_place() {
        let places = Places::new(0);
        let place = places.take().unwrap();
        let late = || interrupt::within(Duration::from_millis(1), || places.take().map(drop).unwrap_err());
        assert_eq!(thread::scope(|s| s.spawn(late).join().unwrap()).kind, ErrorKind::Timeout);
        assert!(places.of_this_process().lock().waiting.is_empty());
        drop(place);
        drop(places.take().unwrap());
    }

    #[test]
    fn places_go_to_those_who_wait_in_the_order_in_which_they_came() {
        let (places, order) = (Places::new(1), Mutex::new(Vec::new()));
        let place = places.take().unwrap();
        let call = |who| {
            let _place = places.take().unwrap();
            order.lock().unwrap().push(who);
        };
        thread::scope(|scope| {
            for who in 0..3 {
                scope.spawn(move || call(who));
                while places.of_this_process().lock().waiting.len() <= who {
                    thread::yield_now();
                }
            }
            // At once again, before any of them runs.
            drop(place);
            call(3);
        });
        assert_eq!(order.into_inner().unwrap(), [0, 1, 2, 3]);
    }

    #[test]
    fn a_call_inside_a_call_of_the_same_thread_takes_no_place() {
        let (places, others) = (Places::new(1), Places::new(1));
        let place = places.take().unwrap();
        interrupt::within(Duration::from_secs(5), || {
            drop(places.take().unwrap());
            drop((others.take().unwrap(), places.take().unwrap()));
            thread::scope(|scope| {
                let late = || interrupt::within(Duration::from_millis(1), || places.take().map(drop));
                assert!(scope.spawn(late).join().unwrap().is_err());
            });
        });
        drop(place);
        assert_eq!(places.of_this_process().lock().taken, 0);
        assert!(HELD.with_borrow(Vec::is_empty));
    }

    #[test]
    fn code_that_runs_while_a_caller_asks_may_call_the_model_too() {
        static PLACES: LazyLock<Places> = LazyLock::new(|| Places::new(1));
        static OVER: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static HANDLES: Cell<bool> = const { Cell::new(false) });
        let begun = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                let _place = PLACES.take().unwrap();
                begun.wait();
                while OVER.load(Ordering::SeqCst) == 0 {
                    thread::yield_now();
                }
            });
            begun.wait();
            HANDLES.set(true);
            interrupt::ask(|| {
                if HANDLES.replace(false) {
                    OVER.store(1, Ordering::SeqCst);
                    drop(PLACES.take().unwrap());
                    OVER.store(2, Ordering::SeqCst);
                }
                false
            });
            drop(interrupt::within(Duration::from_secs(5), || PLACES.take()).unwrap());
        });
        assert_eq!(OVER.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_forked_process_does_not_wait_for_callers_that_it_does_not_have() {
        let mut places = Places::new(2);
        places.of.process = 0; // the parent's
        let before = Place { of: Some((&places, &places.of)), _thread: PhantomData };
        let mut of_parent = places.of.lock(); // by a thread that is not here
        of_parent.taken = 2;
        thread::scope(|s| s.spawn(|| mem::forget(places.take().unwrap())).join().unwrap());
        assert_eq!(places.of_this_process().lock().taken, 1);
        drop(before);
        assert_eq!(places.of_this_process().lock().taken, 1);
        drop(interrupt::within(Duration::from_secs(5), || places.take()).unwrap());
        assert_eq!(of_parent.taken, 2);
    }
}
