//! Measures a call: warms up, repeats for a while, and gives the median, the 99th percentile and the throughput.

use crate::{Error, Result};
use serde::Serialize;
use std::{
    sync::{Condvar, Mutex, PoisonError},
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
/// The first error of a caller; `Unavailable` if the system has no thread for one.
///
/// ```
/// let callers = vec![|| Ok(()), || Ok(())];
/// let m = rust_host_engine::measure_at_once(std::time::Duration::from_millis(5), callers)?;
/// assert!(m.calls > 1);
/// # Ok::<(), rust_host_engine::Error>(())
/// ```
pub fn measure_at_once<C: FnMut() -> Result<()> + Send>(time: Duration, callers: Vec<C>) -> Result<Measurement> {
    let count = callers.len();
    let start = Start { callers: count, state: Mutex::default(), changed: Condvar::new() };
    // Nothing, where another caller does not come to the start.
    let one = |mut call: C| {
        let ready = GiveUp(&start);
        warm_up(time, &mut call)?;
        let all_are_ready = start.wait();
        drop(ready);
        all_are_ready.then(|| repeat(time, &mut call)).transpose()
    };
    let all = thread::scope(|scope| {
        let mut threads = Vec::with_capacity(count);
        let mut refused = None;
        for call in callers {
            match thread::Builder::new().spawn_scoped(scope, || one(call)) {
                Ok(thread) => threads.push(thread),
                Err(e) => {
                    drop(GiveUp(&start));
                    let started = threads.len();
                    refused = Some(Error::unavailable(format!(
                        "the system has threads for {started} of {count} callers: {e}"
                    )));
                    break;
                }
            }
        }
        let joined =
            threads.into_iter().map(|t| t.join().map_err(|_| Error::internal("a measuring thread panicked"))?);
        let all = joined.collect::<Vec<Result<_>>>();
        match refused {
            Some(e) => Err(e),
            None => all.into_iter().collect::<Result<Vec<_>>>(),
        }
    });
    Ok(summed(all?.into_iter().flatten().collect()))
}

/// Where callers wait for one another.
struct Start {
    callers: usize,
    /// How many have come, and whether one will not.
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

/// When it is dropped, nobody waits at the start any longer: also where a call panics.
struct GiveUp<'a>(&'a Start);

impl Start {
    /// Whether all have come.
    fn wait(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        self.changed.notify_all();
        let waits = |(come, given_up): &mut (usize, bool)| *come < self.callers && !*given_up;
        state = self.changed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        state.0 == self.callers
    }
}

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.0.changed.notify_all();
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use std::{env, process::Command};

    fn at_once(callers: Vec<fn() -> Result<()>>) -> Result<Measurement> {
        measure_at_once(Duration::from_millis(5), callers)
    }

    #[test]
    fn a_caller_that_fails_or_panics_leaves_none_waiting() {
        assert!(at_once(vec![|| Ok(()); 3]).unwrap().calls > 2);
        let e = at_once(vec![|| Ok(()), || Err(Error::failed("so")), || Ok(())]).unwrap_err();
        assert_eq!(e.message, "so");
        let e = at_once(vec![|| Ok(()), || panic!("in warm-up"), || Ok(())]).unwrap_err();
        assert_eq!(e.message, "a measuring thread panicked");
    }

    #[test]
    fn callers_that_the_system_has_no_thread_for_are_a_sentence() {
        // This test again in a process whose threads would get more stack than there is memory.
        if env::var_os("RUST_MIN_STACK").is_some() {
            let e = at_once(vec![|| Ok(()); 2]).unwrap_err();
            assert_eq!(e.kind, ErrorKind::Unavailable);
            assert!(e.message.starts_with("the system has threads for 0 of 2 callers: "), "{e}");
            return;
        }
        let name = "measure::tests::callers_that_the_system_has_no_thread_for_are_a_sentence";
        let mut again = Command::new(env::current_exe().unwrap());
        again.args(["--exact", name, "--test-threads=1"]).env("RUST_MIN_STACK", (1u64 << 50).to_string());
        let output = again.output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
    }
}
