//! Measures a call: warms up, repeats for a while, and gives the median, the 99th percentile and the throughput.

use crate::{Error, Result};
use serde::Serialize;
use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

/// Times of one call, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    /// Calls that were counted.
    pub calls: usize,
    /// Fastest call.
    pub min_us: f64,
    /// Half of the calls took longer.
    pub median_us: f64,
    /// One call in a hundred took longer.
    pub p99_us: f64,
    /// Calls a second over the whole time.
    pub calls_per_second: f64,
}

/// Repeats `call` for `time`, after a warm-up of a fifth of it (at least three calls: the first ones of a TorchScript
/// model are profiled and compiled).
///
/// # Errors
/// The first error of `call`.
///
/// ```
/// let m = rust_host_engine::measure(std::time::Duration::from_millis(5), || Ok(()))?;
/// assert!(m.calls > 0 && m.min_us <= m.median_us && m.median_us <= m.p99_us);
/// # Ok::<(), rust_host_engine::Error>(())
/// ```
pub fn measure(time: Duration, mut call: impl FnMut() -> Result<()>) -> Result<Measurement> {
    warm_up(time, &mut call)?;
    Ok(summed(vec![repeat(time, &mut call)?]))
}

/// The same for several callers, each on a thread of its own, at once.
///
/// # Errors
/// The first error of a caller.
///
/// ```
/// let callers = vec![|| Ok(()), || Ok(())];
/// let m = rust_host_engine::measure_at_once(std::time::Duration::from_millis(5), callers)?;
/// assert!(m.calls > 1);
/// # Ok::<(), rust_host_engine::Error>(())
/// ```
pub fn measure_at_once<C: FnMut() -> Result<()> + Send>(time: Duration, callers: Vec<C>) -> Result<Measurement> {
    let barrier = Barrier::new(callers.len());
    let one = |mut call: C| {
        // Every thread comes to the barrier, also one whose call fails.
        let ready = warm_up(time, &mut call);
        barrier.wait();
        ready?;
        repeat(time, &mut call)
    };
    let all = thread::scope(|scope| {
        let threads: Vec<_> = callers.into_iter().map(|call| scope.spawn(|| one(call))).collect();
        let joined =
            threads.into_iter().map(|t| t.join().map_err(|_| Error::internal("a measuring thread panicked"))?);
        joined.collect::<Result<Vec<_>>>()
    });
    Ok(summed(all?))
}

fn warm_up(time: Duration, call: &mut impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    for n in 0.. {
        if n >= 3 && start.elapsed() > time / 5 {
            break;
        }
        call()?;
    }
    Ok(())
}

/// The time of each call, and of all together.
fn repeat(time: Duration, call: &mut impl FnMut() -> Result<()>) -> Result<(Vec<Duration>, Duration)> {
    const MOST: usize = 2_000_000;
    let mut times = Vec::new();
    let start = Instant::now();
    let mut last = start;
    while times.is_empty() || (last - start < time && times.len() < MOST) {
        call()?;
        let now = Instant::now();
        times.push(now - last);
        last = now;
    }
    Ok((times, last - start))
}

fn summed(callers: Vec<(Vec<Duration>, Duration)>) -> Measurement {
    let per_second = |(times, total): &(Vec<Duration>, Duration)| times.len() as f64 / total.as_secs_f64().max(1e-9);
    let calls_per_second = callers.iter().map(per_second).sum();
    let mut times: Vec<Duration> = callers.into_iter().flat_map(|(times, _)| times).collect();
    times.sort_unstable();
    let at = |q: f64| {
        let at = (times.len().saturating_sub(1) as f64 * q).round() as usize;
        times.get(at).map_or(0.0, |t| t.as_secs_f64() * 1e6)
    };
    Measurement { calls: times.len(), min_us: at(0.0), median_us: at(0.5), p99_us: at(0.99), calls_per_second }
}
