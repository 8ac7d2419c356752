//! Parallel code of a package: what its compiler took from libgomp, without its prefixes `GOMP_` and `omp_`. A region gets exactly as many threads as it asks for,
//! because the code has divided its work among them. A call has workers of its own from its first region to its end; between
//! calls they wait for the next one.

use rust_host_engine::process;
use std::{
    cell::Cell,
    env,
    ffi::c_void,
    hint, ptr,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, Thread},
};

/// How often a waiting thread looks before it sleeps: some ten microseconds, as long as a part between two regions takes.
const LOOKS: u32 = 2_000;
/// As libgomp's have where nobody says; pages that are never touched cost nothing.
const STACK: usize = 8 << 20;

type Work = unsafe extern "C" fn(*mut c_void);

/// The threads of one region.
struct Team {
    work: Work,
    data: *mut c_void,
    size: usize,
    /// Members that have not ended.
    running: AtomicUsize,
    /// Members that have come to the barrier, and how often all had.
    arrived: AtomicUsize,
    passed: AtomicU32,
    /// How many `single` parts were begun.
    singles: AtomicUsize,
    first: Thread,
}

/// A thread for regions.
struct Worker {
    thread: Thread,
    post: Arc<Post>,
}

/// Where a worker finds its part.
#[derive(Default)]
struct Post {
    team: AtomicPtr<Team>,
    number: AtomicUsize,
    sleeps: AtomicBool,
}

/// Workers that no call has, and the process that has them: a forked child has not, and somebody may have held the lock.
static IDLE: Mutex<Vec<Worker>> = Mutex::new(Vec::new());
static PROCESS: AtomicU32 = AtomicU32::new(0);
static CRITICAL: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// How many threads a call of this thread may use.
    static MOST: Cell<usize> = const { Cell::new(1) };
    /// The workers of the call.
    static WORKERS: Cell<Vec<Worker>> = const { Cell::new(Vec::new()) };
    /// The region that this thread is in, which of its members it is, and how many `single` parts it has come by.
    static TEAM: Cell<*const Team> = const { Cell::new(ptr::null()) };
    static NUMBER: Cell<usize> = const { Cell::new(0) };
    static SINGLES: Cell<usize> = const { Cell::new(0) };
}

/// The number where nobody says: `OMP_NUM_THREADS`, at most as many as can work at once.
pub(crate) fn usual() -> usize {
    static USUAL: LazyLock<usize> = LazyLock::new(|| {
        let plan = rust_host_engine::threads::plan().count;
        let said = env::var("OMP_NUM_THREADS").ok().and_then(|text| text.trim().parse::<usize>().ok());
        said.filter(|count| *count > 0).map_or(plan, |count| count.min(plan))
    });
    *USUAL
}

/// Makes a call that may use that number of threads.
pub(crate) fn with<T>(count: usize, call: impl FnOnce() -> T) -> T {
    let before = MOST.replace(count.max(1));
    let outer = WORKERS.take();
    let result = call();
    let used = WORKERS.replace(outer);
    if !used.is_empty() && PROCESS.load(SeqCst) == process::id() {
        IDLE.lock().unwrap_or_else(PoisonError::into_inner).extend(used);
    }
    MOST.set(before);
    result
}

/// As many as the call may use and the system lets begin.
pub(crate) extern "C" fn get_max_threads() -> i32 {
    let most = MOST.get();
    if most == 1 || !TEAM.get().is_null() {
        return 1;
    }
    let mut workers = WORKERS.take();
    engage(&mut workers, most - 1);
    let count = workers.len() + 1;
    WORKERS.set(workers);
    i32::try_from(count.min(most)).unwrap_or(1)
}

pub(crate) extern "C" fn get_num_threads() -> i32 {
    // SAFETY: a region lives while its members run.
    i32::try_from(unsafe { TEAM.get().as_ref() }.map_or(1, |team| team.size)).unwrap_or(1)
}

pub(crate) extern "C" fn get_thread_num() -> i32 {
    i32::try_from(NUMBER.get()).unwrap_or(0)
}

/// `#pragma omp parallel`: runs `work` on `count` threads, of which this one is the first, and waits for all.
pub(crate) unsafe extern "C" fn parallel(work: Work, data: *mut c_void, count: u32, _flags: u32) {
    // A region within a region is not divided further.
    let size = match (TEAM.get().is_null(), count) {
        (false, _) => 1,
        (true, 0) => usize::try_from(get_max_threads()).unwrap_or(1),
        (true, count) => count as usize,
    };
    let mut workers = if size > 1 { WORKERS.take() } else { Vec::new() };
    if engage(&mut workers, size - 1) < size - 1 {
        // Only code with a number of its own comes here, and without that many threads it waits for ever.
        std::process::abort();
    }
    let team = Team {
        work,
        data,
        size,
        running: AtomicUsize::new(size),
        arrived: AtomicUsize::new(0),
        passed: AtomicU32::new(0),
        singles: AtomicUsize::new(0),
        first: thread::current(),
    };
    for (worker, number) in workers.iter().take(size - 1).zip(1..) {
        worker.post.number.store(number, SeqCst);
        worker.post.team.store((&raw const team).cast_mut(), SeqCst);
        if worker.post.sleeps.load(SeqCst) {
            worker.thread.unpark();
        }
    }
    // SAFETY: the region lives until all have ended, which is waited for below.
    unsafe { take_part(&team, 0) };
    wait_until(|| team.running.load(SeqCst) == 0, thread::park);
    if size > 1 {
        WORKERS.set(workers);
    }
}

/// `#pragma omp barrier`
pub(crate) extern "C" fn barrier() {
    // SAFETY: a region lives while its members run.
    let Some(team) = (unsafe { TEAM.get().as_ref() }) else { return };
    let passed = team.passed.load(SeqCst);
    if team.arrived.fetch_add(1, SeqCst) + 1 == team.size {
        team.arrived.store(0, SeqCst);
        team.passed.fetch_add(1, SeqCst);
    } else {
        wait_until(|| team.passed.load(SeqCst) != passed, thread::yield_now);
    }
}

/// `#pragma omp single`: whether this member does it.
pub(crate) extern "C" fn single_start() -> bool {
    // SAFETY: a region lives while its members run.
    let Some(team) = (unsafe { TEAM.get().as_ref() }) else { return true };
    let which = SINGLES.replace(SINGLES.get() + 1);
    team.singles.compare_exchange(which, which + 1, SeqCst, SeqCst).is_ok()
}

/// `#pragma omp critical`
pub(crate) extern "C" fn critical_start() {
    wait_until(|| !CRITICAL.swap(true, SeqCst), thread::yield_now);
}

pub(crate) extern "C" fn critical_end() {
    CRITICAL.store(false, SeqCst);
}

/// Gets workers until there are `count`, as far as the system allows; says how many there are.
fn engage(workers: &mut Vec<Worker>, count: usize) -> usize {
    let here = process::id();
    let first = PROCESS.compare_exchange(0, here, SeqCst, SeqCst).map_or_else(|first| first, |_| here);
    if workers.len() < count && first == here {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        let first = idle.len().saturating_sub(count - workers.len());
        workers.extend(idle.drain(first..));
    }
    while workers.len() < count {
        let Some(worker) = Worker::begin() else { break };
        workers.push(worker);
    }
    workers.len()
}

impl Worker {
    /// A thread that never ends, as libgomp's; `None` if the system refuses it.
    fn begin() -> Option<Self> {
        let (post, its) =
            (Arc::new(Post::default()), thread::Builder::new().name("rust_host".into()).stack_size(STACK));
        let for_it = post.clone();
        let thread = its.spawn(move || wait_for_parts(&for_it)).ok()?.thread().clone();
        Some(Self { thread, post })
    }
}

fn wait_for_parts(post: &Post) {
    loop {
        let is_there = || !post.team.load(SeqCst).is_null();
        wait_until(is_there, || {
            post.sleeps.store(true, SeqCst);
            // Whoever posts looks at `sleeps` afterwards: one of the two sees the other.
            if !is_there() {
                thread::park();
            }
            post.sleeps.store(false, SeqCst);
        });
        let team = post.team.swap(ptr::null_mut(), SeqCst);
        // SAFETY: it was posted by a region that waits for this member.
        unsafe { take_part(team, post.number.load(SeqCst)) };
    }
}

/// Does the part of one member. The region may be gone when this returns.
unsafe fn take_part(team: *const Team, number: usize) {
    let (outer, outer_number, singles) = (TEAM.replace(team), NUMBER.replace(number), SINGLES.replace(0));
    // SAFETY: the region lives until this member has ended; `work` is the package's, with its own data.
    let (first, ended) = unsafe {
        ((*team).work)((*team).data);
        (((*team).size > 1).then(|| (*team).first.clone()), &(*team).running)
    };
    TEAM.set(outer);
    NUMBER.set(outer_number);
    SINGLES.set(singles);
    if ended.fetch_sub(1, SeqCst) == 1
        && let Some(first) = first.filter(|_| number > 0)
    {
        first.unpark();
    }
}

/// Looks some times, and then each time that `rest` returns.
fn wait_until(mut is_so: impl FnMut() -> bool, mut rest: impl FnMut()) {
    for _ in 0..LOOKS {
        if is_so() {
            return;
        }
        hint::spin_loop();
    }
    while !is_so() {
        rest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    struct Sums {
        members: AtomicU64,
        numbers: AtomicU64,
        singles: AtomicU64,
        late: AtomicU64,
        critical: Cell<u64>,
    }

    unsafe extern "C" fn work(data: *mut c_void) {
        // SAFETY: the tests pass `Sums`, which outlives the region.
        let sums = unsafe { &*data.cast::<Sums>() };
        sums.members.fetch_add(1, SeqCst);
        sums.numbers.fetch_add(1 << (8 * get_thread_num()), SeqCst);
        for _ in 0..3 {
            if single_start() {
                sums.singles.fetch_add(1, SeqCst);
            }
            barrier();
            sums.late.fetch_add(sums.members.load(SeqCst), SeqCst);
            critical_start();
            sums.critical.set(sums.critical.get() + 1);
            critical_end();
        }
    }

    fn run(count: u32) -> Sums {
        let zero = || AtomicU64::new(0);
        let sums = Sums { members: zero(), numbers: zero(), singles: zero(), late: zero(), critical: Cell::new(0) };
        // SAFETY: `work` takes `Sums`.
        unsafe { parallel(work, (&raw const sums).cast_mut().cast(), count, 0) };
        sums
    }

    #[test]
    fn a_region_has_as_many_members_as_it_asks_for_and_its_barrier_holds_all() {
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for round in 0..200 {
                        let count = round % 5 + 1;
                        let sums = with(4, || run(count));
                        assert_eq!(sums.members.into_inner(), u64::from(count));
                        assert_eq!(sums.numbers.into_inner(), (0..count).map(|n| 1u64 << (8 * n)).sum::<u64>());
                        assert_eq!(sums.singles.into_inner(), 3);
                        assert_eq!(sums.late.into_inner(), 3 * u64::from(count) * u64::from(count));
                        assert_eq!(sums.critical.into_inner(), 3 * u64::from(count));
                    }
                });
            }
        });
        assert!(get_num_threads() == 1 && get_thread_num() == 0 && get_max_threads() == 1);
    }

    #[test]
    fn a_call_has_the_threads_that_it_may_use_and_gives_them_back() {
        with(3, || {
            assert_eq!(get_max_threads(), 3);
            assert_eq!(run(0).members.into_inner(), 3);
            with(2, || assert_eq!(run(0).members.into_inner(), 2));
            assert_eq!(get_max_threads(), 3);
        });
        assert_eq!(run(0).members.into_inner(), 1);
        assert!(WORKERS.take().is_empty());
    }

    #[test]
    fn a_region_within_a_region_has_one_member() {
        unsafe extern "C" fn outer(data: *mut c_void) {
            // SAFETY: the test passes a number that outlives the region.
            let all = unsafe { &*data.cast::<AtomicU64>() };
            all.fetch_add(run(4).members.into_inner(), SeqCst);
            assert_eq!(get_num_threads(), 2);
        }
        let all = AtomicU64::new(0);
        // SAFETY: `outer` takes the number.
        unsafe { parallel(outer, (&raw const all).cast_mut().cast(), 2, 0) };
        assert_eq!(all.into_inner(), 2);
    }
}
