//! Measures a call: warms up, repeats for a while, and gives the median, the 99th percentile and the throughput.

use crate::Result;
use serde::Serialize;
use std::time::{Duration, Instant};

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
    const MOST: usize = 2_000_000;
    let start = Instant::now();
    for n in 0.. {
        if n >= 3 && start.elapsed() > time / 5 {
            break;
        }
        call()?;
    }
    let mut times = Vec::new();
    let start = Instant::now();
    let mut last = start;
    while times.is_empty() || (last - start < time && times.len() < MOST) {
        call()?;
        let now = Instant::now();
        times.push(now - last);
        last = now;
    }
    let total = last - start;
    times.sort_unstable();
    let at = |q: f64| times[((times.len() - 1) as f64 * q).round() as usize].as_secs_f64() * 1e6;
    Ok(Measurement {
        calls: times.len(),
        min_us: at(0.0),
        median_us: at(0.5),
        p99_us: at(0.99),
        calls_per_second: times.len() as f64 / total.as_secs_f64().max(1e-9),
    })
}
