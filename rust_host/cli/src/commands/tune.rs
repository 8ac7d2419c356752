//! `tune`: measures every way of running a model on this machine, and keeps the fastest in `host.toml` beside it.
//!
//! A way is a file (each kind that the version holds, if its golden examples come out right here), a number of threads inside
//! operators, for throughput also of calls at once, and the optimised form or the file's own.

use super::bench::{allowed, batch_axes, resize};
use super::model_name;
use rust_host_engine::{
    Archive, Backend, Backends, Device, DeviceRequest, Error, ErrorKind, Model, Platform, Result, Speed, Value, golden,
    host_settings::{self, HostSettings, Machine, Measured},
    measure,
    operators::Policy,
    versions,
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

/// What is to be fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// One call after another.
    Latency,
    /// Calls at once.
    Throughput,
}

impl Goal {
    /// `latency`
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Throughput => "throughput",
        }
    }
}

/// What to tune.
pub(crate) struct Settings {
    /// A model file, with the other kinds of file of its version, or a folder.
    pub path: PathBuf,
    /// The one kind of file to look at.
    pub backend: Option<Platform>,
    /// What is to be fast.
    pub goal: Goal,
    /// Rows a call; by default 1 for latency and 8 for throughput, where the batch is free.
    pub batch: Option<i64>,
    /// How long all of it may take.
    pub time: Duration,
    /// Operators and packages that the owner of this machine allows.
    pub policy: Policy,
}

/// What was found.
pub(crate) struct Tuned {
    /// The model's name.
    pub model_name: String,
    /// The file that was written.
    pub path: PathBuf,
    /// What is in it.
    pub settings: HostSettings,
    /// Notes for stderr.
    pub notes: Vec<String>,
}

/// A way that is as fast as the fastest but for this much is taken if it needs less.
const ALIKE: f64 = 1.03;
/// Share of the time for the first look at every way; the rest is for looking at the best ones again.
const FIRST_LOOK: f64 = 0.6;
const LOOKED_AT_AGAIN: usize = 3;

/// Measures, and writes `host.toml`.
///
/// # Errors
/// `InvalidContract` for a model without golden examples, `Mismatch` if they do not come out right here, `InvalidInput` for a
/// batch that cannot be had; what opening, running and writing say.
pub(crate) fn tune(settings: &Settings, backends: &dyn Backends) -> Result<Tuned> {
    let start = Instant::now();
    let (folder, files) = files(settings)?;
    let mut left_out = Vec::new();
    let mut subjects = Vec::new();
    for file in files {
        match Subject::open(&file, settings, backends) {
            Ok(subject) => subjects.push(subject),
            Err(e) => left_out.push((file, e)),
        }
    }
    let mut notes = Vec::new();
    for (file, e) in left_out {
        if subjects.is_empty() {
            return Err(e);
        }
        let hint = e.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        notes.push(format!("`{}` was left out: {}{hint}", file.display(), e.message));
    }
    let machine = Machine::here();
    let ways: Vec<Way> = subjects.iter().flat_map(|s| s.ways(settings.goal, machine.threads)).collect();
    let each = settings.time.mul_f64(FIRST_LOOK / ways.len().max(1) as f64).min(Duration::from_secs(2));
    let mut found: Vec<(Way, Measured)> = Vec::new();
    for way in &ways {
        if !found.is_empty() && start.elapsed() > settings.time.mul_f64(FIRST_LOOK) {
            let (n, all, s) = (found.len(), ways.len(), settings.time.as_secs_f64());
            notes.push(format!("{n} of {all} ways could be measured within {s} s; `--seconds` gives more"));
            break;
        }
        found.push((*way, way.measure(each)?));
    }
    rank(&mut found);
    let again = found.len().min(LOOKED_AT_AGAIN);
    for (way, first) in found.iter_mut().take(again) {
        let left = settings.time.saturating_sub(start.elapsed()) / again as u32;
        let second = way.measure(left.clamp(each.min(Duration::from_millis(50)), Duration::from_secs(2)))?;
        if second.rows_per_second > first.rows_per_second {
            *first = second;
        }
    }
    rank(&mut found);
    let measured: Vec<Measured> = found.into_iter().map(|(_, m)| m).collect();
    let best = chosen(&measured).ok_or_else(|| Error::internal("nothing was measured"))?;
    let settings = HostSettings {
        goal: settings.goal.as_str().to_owned(),
        file: best.file.clone(),
        threads: best.threads,
        instances: best.instances,
        optimised: best.optimised,
        machine,
        measured,
    };
    host_settings::write(&folder, &settings)?;
    let model_name = subjects.first().map(|s| s.name.clone()).unwrap_or_default();
    Ok(Tuned { model_name, path: folder.join(host_settings::FILE), settings, notes })
}

/// The folder of the version, and those of its files that are looked at. A `host.toml` that is there counts for nothing.
fn files(settings: &Settings) -> Result<(PathBuf, Vec<PathBuf>)> {
    let path = &settings.path;
    if settings.backend.is_some() {
        let file = versions::file(path, settings.backend)?;
        return Ok((file.parent().unwrap_or(Path::new("")).to_owned(), vec![file]));
    }
    let folder = match path.is_dir() {
        true => versions::folder(path)?,
        false => path.parent().unwrap_or(Path::new("")).to_owned(),
    };
    let of_version: Vec<PathBuf> = versions::files(&folder).map(|(file, _)| file).collect();
    let is_one_of_them = path.is_dir() || of_version.iter().any(|f| f.file_name() == path.file_name());
    Ok((folder, if is_one_of_them { of_version } else { vec![path.clone()] }))
}

/// Fastest first. Rows a second count, not the median of a call: where other processes need the cores too, many threads have
/// the better median and stalls of many times that.
fn rank(found: &mut [(Way, Measured)]) {
    found.sort_by(|(_, a), (_, b)| b.rows_per_second.total_cmp(&a.rows_per_second));
}

/// The fastest, or one that is as fast with fewer threads in all.
fn chosen(fastest_first: &[Measured]) -> Option<&Measured> {
    let best = fastest_first.first()?;
    let alike = fastest_first.iter().filter(|m| m.rows_per_second * ALIKE >= best.rows_per_second);
    alike.min_by_key(|m| m.threads * m.instances)
}

/// A file that can be tuned.
struct Subject {
    name: String,
    file: String,
    archive: Archive,
    backend: Arc<dyn Backend>,
    policy: Policy,
    inputs: Vec<(String, Value)>,
    batch: i64,
    speed: Speed,
    is_stateful: bool,
}

impl Subject {
    fn open(file: &Path, settings: &Settings, backends: &dyn Backends) -> Result<Self> {
        let archive = Archive::open(file)?;
        let shown = file.display();
        let contract = archive.contract()?;
        let Some(contract) = contract.filter(|c| c.golden.count > 0) else {
            return Err(Error::invalid_contract(format!(
                "`{shown}` has no golden examples, so there is nothing to measure it with or to compare with"
            ))
            .hint(
                "`py-authoring export` writes them; `rust-host bench FILE --threads N --input …` measures any file",
            ));
        };
        let Some(example) = golden::read(&archive, &contract)?.into_iter().next() else {
            return Err(Error::internal("golden examples were counted and are not there"));
        };
        let values: Vec<_> = example.inputs.into_iter().map(|(n, t)| (n, Value::Tensor(t))).collect();
        let axes = batch_axes(Some(&contract), &values);
        let usual = if settings.goal == Goal::Latency { 1 } else { 8 };
        let batch = match settings.batch {
            Some(size) if axes.is_empty() || !allowed(Some(&contract), size) => {
                return Err(Error::invalid_input(format!("the model of `{shown}` cannot take a batch of {size}"))
                    .hint("leave `--batch` out"));
            }
            Some(size) => Some(size),
            None => (!axes.is_empty() && allowed(Some(&contract), usual)).then_some(usual),
        };
        let inputs = match batch {
            Some(size) => resize(&values, &axes, size)?,
            None => values,
        };
        let backend = backends.open(archive.platform())?;
        let name = model_name(&archive, Some(&contract));
        let policy = settings.policy.clone();
        let mut subject = Self {
            name,
            file: file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            archive,
            backend,
            policy,
            inputs,
            batch: batch.unwrap_or(1),
            speed: Speed::Plain,
            is_stateful: false,
        };
        let model = subject.load(1, true)?;
        if !golden::verify(&model)?.ok {
            let error =
                Error::new(ErrorKind::Mismatch, format!("`{shown}` does not reproduce its golden examples here"));
            return Err(error.hint(format!("`rust-host verify {shown}` says how far off it is")));
        }
        (subject.speed, subject.is_stateful) = (model.speed(), model.is_stateful());
        Ok(subject)
    }

    fn load(&self, threads: usize, optimised: bool) -> Result<Model> {
        // Some libraries take the number when a model is opened.
        self.backend.set_threads(threads);
        let device = DeviceRequest::Only(Device::Cpu);
        let model = Model::from_archive(self.archive.clone(), self.backend.as_ref(), device, &self.policy)?;
        if optimised { model.optimised() } else { Ok(model) }
    }

    /// Every way to be measured, those with fewer threads first.
    fn ways(&self, goal: Goal, most: usize) -> Vec<Way<'_>> {
        let forms: &[bool] = match self.speed {
            Speed::Optimised => &[true, false],
            Speed::Plain | Speed::Unchecked | Speed::Dropped => &[false],
        };
        let mut ways = Vec::new();
        for threads in counts(most) {
            for instances in counts(most / threads) {
                if instances == 1 || goal == Goal::Throughput && !self.is_stateful {
                    ways.extend(forms.iter().map(|&optimised| Way { subject: self, threads, instances, optimised }));
                }
            }
        }
        ways
    }
}

/// 1, 2, 3, 4, then doubled, and the most.
fn counts(most: usize) -> Vec<usize> {
    let mut counts: Vec<usize> = (1..=most.min(4)).collect();
    counts.extend(std::iter::successors(Some(8usize), |n| n.checked_mul(2)).take_while(|n| *n < most));
    if most > 4 {
        counts.push(most);
    }
    counts
}

#[derive(Clone, Copy)]
struct Way<'s> {
    subject: &'s Subject,
    threads: usize,
    instances: usize,
    optimised: bool,
}

impl Way<'_> {
    fn measure(&self, time: Duration) -> Result<Measured> {
        let subject = self.subject;
        let model = subject.load(self.threads, self.optimised)?;
        let bound = model.bind(subject.inputs.clone())?;
        let (median_us, calls_per_second) = match self.instances {
            1 => {
                let m = measure(time, || model.call(&bound).map(drop))?;
                (m.median_us, m.calls_per_second)
            }
            instances => at_once(&model, &bound, instances, time)?,
        };
        Ok(Measured {
            file: subject.file.clone(),
            threads: self.threads,
            instances: self.instances,
            optimised: self.optimised,
            batch: subject.batch,
            median_us,
            rows_per_second: calls_per_second * subject.batch as f64,
        })
    }
}

/// Calls from several threads at once: the median of a call in microseconds, and calls a second of all together.
fn at_once(model: &Model, bound: &[Option<Value>], instances: usize, time: Duration) -> Result<(f64, f64)> {
    let barrier = Barrier::new(instances);
    let one = || {
        // Every thread comes to the barrier, also one whose call fails.
        let ready = (0..3).try_for_each(|_| model.call(bound).map(drop));
        barrier.wait();
        ready?;
        let mut times = Vec::new();
        let start = Instant::now();
        let mut last = start;
        while times.is_empty() || last - start < time {
            model.call(bound)?;
            let now = Instant::now();
            times.push((now - last).as_secs_f64());
            last = now;
        }
        Ok((times, (last - start).as_secs_f64()))
    };
    let all = thread::scope(|scope| {
        let threads: Vec<_> = (0..instances).map(|_| scope.spawn(one)).collect();
        let joined =
            threads.into_iter().map(|t| t.join().map_err(|_| Error::internal("a measuring thread panicked"))?);
        joined.collect::<Result<Vec<(Vec<f64>, f64)>>>()
    })?;
    let calls_per_second = all.iter().map(|(times, total)| times.len() as f64 / total.max(1e-9)).sum();
    let mut times: Vec<f64> = all.into_iter().flat_map(|(times, _)| times).collect();
    times.sort_unstable_by(f64::total_cmp);
    Ok((times.get(times.len() / 2).copied().unwrap_or_default() * 1e6, calls_per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(threads: usize, instances: usize, rows_per_second: f64) -> Measured {
        let file = "model.pt".to_owned();
        Measured { file, threads, instances, optimised: true, batch: 1, median_us: 1.0, rows_per_second }
    }

    #[test]
    fn as_fast_with_fewer_threads_is_better() {
        let alike = [way(4, 1, 1000.0), way(2, 1, 980.0), way(1, 1, 900.0)];
        assert_eq!(chosen(&alike).map(|m| m.threads), Some(2));
        let better = [way(1, 4, 1000.0), way(1, 2, 960.0)];
        assert_eq!(chosen(&better).map(|m| m.instances), Some(4));
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn few_counts_cover_many_cores() {
        assert_eq!((counts(1), counts(2), counts(4)), (vec![1], vec![1, 2], vec![1, 2, 3, 4]));
        assert_eq!(
            (counts(6), counts(8), counts(48)),
            (vec![1, 2, 3, 4, 6], vec![1, 2, 3, 4, 8], vec![1, 2, 3, 4, 8, 16, 32, 48])
        );
    }
}
