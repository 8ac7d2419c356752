//! Threads between input and output, in order and in bounded memory: one reads, one a core decodes and encodes, the
//! caller's runs the model, one writes. At most `in_flight` pieces exist at a time, and few decoded ones where those are
//! large, so a slow disk or a slow model holds back the reader.

use rust_host_engine::{Error, Result, interrupt};
use std::{
    any::Any,
    collections::{BTreeMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

/// How long the model's thread waits for a piece before it asks whether the run should end.
const ASK: Duration = Duration::from_millis(50);

/// The steps. Those that take `&self` are called from many threads.
pub(crate) trait Steps: Sync {
    /// What was read and not yet decoded.
    type Raw: Send;
    /// What the model's thread collects.
    type Piece: Send;
    /// What the model has run.
    type Batch: Send;
    /// What is to be written.
    type Encoded: Send;

    fn decode(&self, raw: Self::Raw) -> Result<Self::Piece>;
    /// Bytes of memory that a decoded piece takes.
    fn size(&self, piece: &Self::Piece) -> usize;
    fn encode(&self, batch: Self::Batch) -> Result<Self::Encoded>;
}

/// Pieces that are enough for a call of the model, and the call.
pub(crate) trait Stage<S: Steps> {
    /// Takes one more piece; says whether the batch is complete with it.
    fn add(&mut self, piece: S::Piece) -> Result<bool>;
    /// Runs what was collected.
    fn run(&mut self) -> Result<Option<S::Batch>>;
}

pub(crate) struct Sizes {
    pub workers: usize,
    pub in_flight: usize,
    /// Bytes of decoded pieces beyond which no other is decoded, but the one that the model waits for.
    pub decoded: usize,
}

enum Job<S: Steps> {
    Decode(u64, S::Raw),
    Encode(u64, S::Batch, usize),
}

/// What workers do next, and how many more pieces may be read.
struct Shared<S: Steps> {
    state: Mutex<State<S>>,
    changed: Condvar,
}

struct State<S: Steps> {
    jobs: VecDeque<Job<S>>,
    free: usize,
    /// Bytes of pieces that are decoded and were not run yet, and the piece that the model waits for.
    decoded: usize,
    wanted: u64,
    closed: bool,
}

impl<S: Steps> State<S> {
    fn may_start(&self, most: usize) -> bool {
        match self.jobs.front() {
            Some(Job::Decode(number, _)) => self.decoded < most || *number <= self.wanted,
            Some(Job::Encode(..)) => true,
            None => false,
        }
    }
}

impl<S: Steps> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room for one more piece; `false` if there will be none.
    fn take_room(&self) -> bool {
        let state = self.lock();
        let wait = |s: &mut State<S>| s.free == 0 && !s.closed;
        let mut state = self.changed.wait_while(state, wait).unwrap_or_else(PoisonError::into_inner);
        state.free = state.free.saturating_sub(1);
        !state.closed
    }

    fn give_room(&self, pieces: usize) {
        self.lock().free += pieces;
        self.changed.notify_all();
    }

    fn push(&self, job: Job<S>) {
        let mut state = self.lock();
        // What is nearer to the end first: it frees room.
        match job {
            Job::Decode(..) => state.jobs.push_back(job),
            Job::Encode(..) => state.jobs.push_front(job),
        }
        drop(state);
        self.changed.notify_all();
    }

    fn pop(&self, most: usize) -> Option<Job<S>> {
        let state = self.lock();
        let wait = |s: &mut State<S>| !s.may_start(most) && !s.closed;
        let mut state = self.changed.wait_while(state, wait).unwrap_or_else(PoisonError::into_inner);
        state.jobs.pop_front()
    }

    fn decoded(&self, bytes: usize) {
        self.lock().decoded += bytes;
    }

    /// What the model has taken, and what it waits for now.
    fn taken(&self, bytes: usize, wanted: u64) {
        let mut state = self.lock();
        state.decoded = state.decoded.saturating_sub(bytes);
        state.wanted = wanted;
        drop(state);
        self.changed.notify_all();
    }

    fn close(&self, drop_jobs: bool) {
        let mut state = self.lock();
        state.closed = true;
        if drop_jobs {
            state.jobs.clear();
        }
        drop(state);
        self.changed.notify_all();
    }
}

type Numbered<T> = (u64, Result<T>, usize);

/// Runs everything from `next` to `write`; the first error in the order of the input ends it.
pub(crate) fn run<S: Steps>(
    sizes: &Sizes,
    steps: &S,
    mut next: impl FnMut() -> Result<Option<S::Raw>> + Send,
    stage: &mut impl Stage<S>,
    mut write: impl FnMut(S::Encoded) -> Result<()> + Send,
) -> Result<()> {
    let shared = Shared::<S> {
        state: Mutex::new(State {
            jobs: VecDeque::new(),
            free: sizes.in_flight.max(1),
            decoded: 0,
            wanted: 0,
            closed: false,
        }),
        changed: Condvar::new(),
    };
    let (decoded_in, decoded) = mpsc::channel::<Option<Numbered<S::Piece>>>();
    let (encoded_in, encoded) = mpsc::channel::<Numbered<S::Encoded>>();
    std::thread::scope(|scope| {
        let shared = &shared;
        let for_reader = decoded_in.clone();
        scope.spawn(move || read(shared, &mut next, &for_reader));
        for _ in 0..sizes.workers.max(1) {
            let (decoded_in, encoded_in) = (decoded_in.clone(), encoded_in.clone());
            scope.spawn(move || work(shared, steps, sizes.decoded, &decoded_in, &encoded_in));
        }
        drop((decoded_in, encoded_in));
        let writer = scope.spawn(move || -> Result<()> {
            let ended = in_order(&encoded, |item, pieces| {
                caught(|| write(item))?;
                shared.give_room(pieces);
                Ok(())
            });
            if ended.is_err() {
                shared.close(true);
            }
            ended
        });
        let ran = call(shared, steps, &decoded, stage);
        shared.close(ran.is_err());
        let written = writer.join().unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
        // A write that failed stops the model's thread without an error of its own.
        ran.and(written)
    })
}

fn read<S: Steps>(
    shared: &Shared<S>,
    next: &mut impl FnMut() -> Result<Option<S::Raw>>,
    decoded: &mpsc::Sender<Option<Numbered<S::Piece>>>,
) {
    for number in 0.. {
        if !shared.take_room() {
            break;
        }
        match caught(&mut *next) {
            Ok(Some(raw)) => shared.push(Job::Decode(number, raw)),
            Ok(None) => {
                // The model's thread learns how many there are.
                let _gone = decoded.send(Some((number, Err(end()), 0)));
                return;
            }
            Err(e) => {
                let _gone = decoded.send(Some((number, Err(e), 1)));
                return;
            }
        }
    }
    let _gone = decoded.send(None);
}

fn end() -> Error {
    Error::internal("the end of the input")
}

fn work<S: Steps>(
    shared: &Shared<S>,
    steps: &S,
    most: usize,
    decoded: &mpsc::Sender<Option<Numbered<S::Piece>>>,
    encoded: &mpsc::Sender<Numbered<S::Encoded>>,
) {
    while let Some(job) = shared.pop(most) {
        match job {
            Job::Decode(number, raw) => {
                let piece = caught(|| steps.decode(raw));
                shared.decoded(piece.as_ref().map_or(0, |p| steps.size(p)));
                let _gone = decoded.send(Some((number, piece, 1)));
            }
            Job::Encode(number, batch, pieces) => {
                let item = caught(|| steps.encode(batch));
                let _gone = encoded.send((number, item, pieces));
            }
        }
    }
}

/// The model's thread: pieces in order → batches.
fn call<S: Steps>(
    shared: &Shared<S>,
    steps: &S,
    decoded: &mpsc::Receiver<Option<Numbered<S::Piece>>>,
    stage: &mut impl Stage<S>,
) -> Result<()> {
    let (mut waiting, mut wanted, mut batches, mut pieces, mut bytes) = (BTreeMap::new(), 0u64, 0u64, 0usize, 0usize);
    let mut run = |stage: &mut dyn Stage<S>, pieces: &mut usize| -> Result<()> {
        if *pieces > 0
            && let Some(batch) = stage.run()?
        {
            shared.push(Job::Encode(batches, batch, *pieces));
            batches += 1;
        }
        *pieces = 0;
        Ok(())
    };
    loop {
        // Between calls too: the input may be a pipe into which nobody writes.
        if interrupt::is_wanted() {
            return Err(interrupt::error());
        }
        let (number, piece, kind) = match decoded.recv_timeout(ASK) {
            Ok(Some(item)) => item,
            Err(mpsc::RecvTimeoutError::Timeout) => continue,
            // The writer has given up, and says why.
            Ok(None) | Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
        };
        waiting.insert(number, (piece, kind));
        while let Some((piece, kind)) = waiting.remove(&wanted) {
            match (piece, kind) {
                (Err(_), 0) => return run(stage, &mut pieces),
                (Err(e), _) => return Err(e),
                (Ok(piece), _) => {
                    pieces += 1;
                    bytes += steps.size(&piece);
                    wanted += 1;
                    if stage.add(piece)? {
                        run(stage, &mut pieces)?;
                        shared.taken(std::mem::take(&mut bytes), wanted);
                    } else {
                        shared.taken(0, wanted);
                    }
                }
            }
        }
    }
}

/// Hands numbered items on in order.
fn in_order<T>(items: &mpsc::Receiver<Numbered<T>>, mut f: impl FnMut(T, usize) -> Result<()>) -> Result<()> {
    let (mut waiting, mut wanted) = (BTreeMap::new(), 0u64);
    while let Ok((number, item, pieces)) = items.recv() {
        waiting.insert(number, (item, pieces));
        while let Some((item, pieces)) = waiting.remove(&wanted) {
            f(item?, pieces)?;
            wanted += 1;
        }
    }
    Ok(())
}

fn caught<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    Error::internal(format!("internal error: {}", text.unwrap_or("no reason given")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread::sleep,
    };

    /// Pieces that count how many of them exist.
    struct Counted<'a>(u64, &'a AtomicUsize);

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }

    struct Slow {
        bad: Vec<u64>,
    }

    impl Steps for Slow {
        type Raw = Counted<'static>;
        type Piece = Counted<'static>;
        type Batch = Vec<Counted<'static>>;
        type Encoded = Vec<Counted<'static>>;

        fn decode(&self, raw: Self::Raw) -> Result<Self::Piece> {
            // Later pieces are ready before earlier ones.
            sleep(Duration::from_micros(300 * (5 - raw.0 % 5)));
            match self.bad.contains(&raw.0) {
                true if raw.0 % 2 == 0 => panic!("piece {} panicked", raw.0),
                true => Err(Error::failed(format!("piece {} is bad", raw.0))),
                false => Ok(raw),
            }
        }
        fn size(&self, _piece: &Self::Piece) -> usize {
            1
        }
        fn encode(&self, batch: Self::Batch) -> Result<Self::Encoded> {
            sleep(Duration::from_micros(500 * (batch[0].0 % 3)));
            Ok(batch)
        }
    }

    #[derive(Default)]
    struct Pairs(Vec<Counted<'static>>);

    impl Stage<Slow> for Pairs {
        fn add(&mut self, piece: Counted<'static>) -> Result<bool> {
            self.0.push(piece);
            Ok(self.0.len() == 2)
        }
        fn run(&mut self) -> Result<Option<Vec<Counted<'static>>>> {
            Ok(Some(std::mem::take(&mut self.0)))
        }
    }

    /// Runs `count` pieces; what was written, and how many existed at most.
    fn through(count: u64, bad: &[u64], full_after: usize) -> (Result<()>, Vec<u64>, usize) {
        within(&Sizes { workers: 4, in_flight: 8, decoded: usize::MAX }, count, bad, full_after)
    }

    fn within(sizes: &Sizes, count: u64, bad: &[u64], full_after: usize) -> (Result<()>, Vec<u64>, usize) {
        let alive: &'static AtomicUsize = Box::leak(Box::default());
        let (mut given, mut most, mut written) = (0, 0, Vec::new());
        let next = || {
            if given == count {
                return Ok(None);
            }
            given += 1;
            most = most.max(alive.fetch_add(1, Ordering::SeqCst) + 1);
            Ok(Some(Counted(given - 1, alive)))
        };
        let write = |batch: Vec<Counted>| {
            if written.len() >= full_after {
                return Err(Error::unavailable("no space left"));
            }
            written.extend(batch.iter().map(|c| c.0));
            Ok(())
        };
        let result = run(sizes, &Slow { bad: bad.to_vec() }, next, &mut Pairs::default(), write);
        (result, written, most)
    }

    #[test]
    fn everything_is_written_in_order_and_few_pieces_exist_at_a_time() {
        for count in [0, 1, 2, 99, 200] {
            let (result, written, most) = through(count, &[], usize::MAX);
            result.unwrap();
            assert_eq!(written, (0..count).collect::<Vec<_>>());
            assert!(most <= 8, "{most}");
        }
    }

    #[test]
    fn large_pieces_are_decoded_one_at_a_time_and_nothing_waits_for_ever() {
        for decoded in [0, 1, 2, 3] {
            let sizes = Sizes { workers: 4, in_flight: 8, decoded };
            let (result, written, _) = within(&sizes, 100, &[], usize::MAX);
            result.unwrap();
            assert_eq!(written, (0..100).collect::<Vec<_>>());
        }
        // A decoded piece that the model has not got yet: as many as there may be, and one a worker.
        let most: &'static AtomicUsize = Box::leak(Box::default());
        let now: &'static AtomicUsize = Box::leak(Box::default());
        struct Watched(&'static AtomicUsize, &'static AtomicUsize);
        impl Steps for Watched {
            type Raw = ();
            type Piece = ();
            type Batch = usize;
            type Encoded = usize;
            fn decode(&self, (): ()) -> Result<()> {
                self.1.fetch_max(self.0.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                Ok(())
            }
            fn size(&self, (): &()) -> usize {
                1
            }
            fn encode(&self, batch: usize) -> Result<usize> {
                Ok(batch)
            }
        }
        struct Sleepy(&'static AtomicUsize);
        impl Stage<Watched> for Sleepy {
            fn add(&mut self, (): ()) -> Result<bool> {
                Ok(true)
            }
            fn run(&mut self) -> Result<Option<usize>> {
                sleep(Duration::from_millis(2));
                Ok(Some(self.0.fetch_sub(1, Ordering::SeqCst)))
            }
        }
        let mut left = 50;
        let next = || Ok(usize::checked_sub(left, 1).map(|n| left = n));
        let sizes = Sizes { workers: 2, in_flight: 40, decoded: 3 };
        run(&sizes, &Watched(now, most), next, &mut Sleepy(now), |_| Ok(())).unwrap();
        assert!(most.load(Ordering::SeqCst) <= 6, "{most:?}");
    }

    #[test]
    fn the_first_error_in_the_order_of_the_input_ends_the_run() {
        let (result, written, _) = through(100, &[43, 41, 44], usize::MAX);
        assert_eq!(result.unwrap_err().message, "piece 41 is bad");
        assert!(written.len() <= 40);
    }

    #[test]
    fn a_panic_in_a_worker_is_an_error() {
        let (result, ..) = through(100, &[42], usize::MAX);
        assert_eq!(result.unwrap_err().message, "internal error: piece 42 panicked");
    }

    #[test]
    fn a_full_disk_ends_the_run() {
        let (result, written, _) = through(1000, &[], 20);
        assert_eq!((result.unwrap_err().message.as_str(), written.len()), ("no space left", 20));
    }
}
