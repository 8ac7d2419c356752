//! What a long life costs in memory, in the binary's way of loading its backends: `benches/soak.py` runs it.
//!
//! usage: soak calls|loads FILE COUNT SECONDS SHAPE…      SHAPE is `1..8,3,224`, a shape for each input; drawn anew each call
//!
//! Prints `count bytes` a hundred times or more: what was done by then, and the resident memory.
#![expect(clippy::print_stdout, reason = "its output")]

use rust_host_engine::{Archive, Backends, DeviceRequest, Error, Model, Result, Tensor, Value, operators::Policy};
use std::{
    fs,
    ops::RangeInclusive,
    path::PathBuf,
    time::{Duration, Instant},
};

fn main() -> Result<()> {
    rust_host_loader::at_start();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let usage = || Error::invalid_input("usage: soak calls|loads FILE COUNT SECONDS SHAPE…");
    let [what, file, count, seconds, shapes @ ..] = words.as_slice() else { return Err(usage()) };
    let count: usize = count.parse().map_err(|_| usage())?;
    let limit = Duration::from_secs_f64(seconds.parse().map_err(|_| usage())?);
    let shapes = shapes.iter().map(|s| shape(s).ok_or_else(usage)).collect::<Result<Vec<_>>>()?;
    let open = || Archive::open(&PathBuf::from(file));
    let backend = rust_host_loader::Loader.open(open()?.platform())?;
    backend.set_threads(1);
    let load = || {
        let archive = open()?;
        Model::from_archive(archive, backend.as_ref(), "cpu".parse::<DeviceRequest>()?, &Policy::default())?.optimised()
    };
    let mut random = Random(1);
    let mut call = |model: &Model| {
        let input = |shape: &Vec<RangeInclusive<i64>>| {
            let shape: Vec<i64> = shape.iter().map(|r| random.within(r)).collect();
            let elements = usize::try_from(shape.iter().product::<i64>()).unwrap_or(0);
            Ok(Some(Value::Tensor(Tensor::from_elements(shape, vec![0.5f32; elements])?)))
        };
        model.call(&shapes.iter().map(input).collect::<Result<Vec<_>>>()?).map(drop)
    };
    let kept = if what == "calls" { Some(load()?) } else { None };
    let start = Instant::now();
    let mut last = start;
    for done in 1..=count {
        match &kept {
            Some(model) => call(model)?,
            None => call(&load()?)?,
        }
        let over = start.elapsed() > limit;
        if done == 10 || done % count.div_ceil(100) == 0 || last.elapsed() > limit / 100 || over {
            last = Instant::now();
            println!("{done} {}", resident());
        }
        if over {
            break;
        }
    }
    Ok(())
}

/// `1..8,3,224`
fn shape(text: &str) -> Option<Vec<RangeInclusive<i64>>> {
    let size = |text: &str| {
        let (from, to) = text.split_once("..").unwrap_or((text, text));
        Some(from.parse().ok()?..=to.parse().ok()?)
    };
    text.split(',').map(size).collect()
}

/// Bytes of this process in memory; 0 where the system does not say.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).map_or(0, |k| k * 1024)
}

/// Knuth's linear congruential generator: the same shapes in every run.
struct Random(u64);

impl Random {
    fn within(&mut self, range: &RangeInclusive<i64>) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let width = (range.end() - range.start() + 1).max(1);
        range.start() + i64::try_from((self.0 >> 33) % width.unsigned_abs()).unwrap_or(0)
    }
}
