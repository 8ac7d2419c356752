//! `tune`: measures every way of running a model on this machine, and keeps the fastest in `host.toml` beside it.
//!
//! A way is a file (each kind that the version holds, if its golden examples come out right here), a number of threads inside
//! operators, for throughput also of calls at once, and the optimised form or the file's own.

use super::bench::{allowed, batch_axes, resize};
use super::model_name;
use rust_host_engine::{
    Archive, Backend, Backends, Device, DeviceRequest, Error, ErrorKind, Model, Platform, Result, Speed, Value, golden,
    host_settings::{self, HostSettings, Machine, Measured},
    measure, measure_at_once,
    operators::Policy,
    versions,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
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
    /// Ways that cannot be gone here.
    pub failed: Vec<Failed>,
    /// Notes for stderr.
    pub notes: Vec<String>,
}

/// A way that failed, and why.
#[allow(missing_docs, reason = "as in HostSettings")]
pub(crate) struct Failed {
    pub file: String,
    pub threads: usize,
    pub instances: usize,
    pub optimised: bool,
    pub why: String,
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
    let looked = look(&ways, settings.time, |way, time| way.measure(time))?;
    if looked.unseen > 0 {
        let (n, all, s) = (ways.len() - looked.unseen, ways.len(), settings.time.as_secs_f64());
        notes.push(format!("{n} of {all} ways could be measured within {s} s; `--seconds` gives more"));
    }
    let measured: Vec<Measured> = looked.found.into_iter().map(|(_, m)| m).collect();
    let failed = looked.failed.into_iter().map(|(way, e)| way.failed(&e)).collect();
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
    Ok(Tuned { model_name, path: folder.join(host_settings::FILE), settings, failed, notes })
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

/// What was seen of the ways, fastest first.
struct Looked<W> {
    found: Vec<(W, Measured)>,
    failed: Vec<(W, Error)>,
    unseen: usize,
}

/// Measures every way, as far as the time goes, and the best ones again. One that fails says nothing of the others.
///
/// # Errors
/// That of the first way, if all fail; that of a call that was to end.
fn look<W: Copy>(ways: &[W], time: Duration, measure: impl Fn(W, Duration) -> Result<Measured>) -> Result<Looked<W>> {
    let start = Instant::now();
    let each = time.mul_f64(FIRST_LOOK / ways.len().max(1) as f64).min(Duration::from_secs(2));
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for way in ways {
        if !found.is_empty() && start.elapsed() > time.mul_f64(FIRST_LOOK) {
            break;
        }
        match measure(*way, each) {
            Ok(measured) => found.push((*way, measured)),
            Err(e) if e.kind == ErrorKind::Timeout => return Err(e),
            Err(e) => failed.push((*way, e)),
        }
    }
    let unseen = ways.len() - found.len() - failed.len();
    rank(&mut found);
    let again = found.len().min(LOOKED_AT_AGAIN);
    let rest = found.split_off(again);
    let mut best = Vec::new();
    for (way, first) in found {
        let left = time.saturating_sub(start.elapsed()) / again as u32;
        match measure(way, left.clamp(each.min(Duration::from_millis(50)), Duration::from_secs(2))) {
            Ok(second) if second.rows_per_second > first.rows_per_second => best.push((way, second)),
            Ok(_) => best.push((way, first)),
            Err(e) if e.kind == ErrorKind::Timeout => return Err(e),
            Err(e) => failed.push((way, e)),
        }
    }
    let mut found = [best, rest].concat();
    rank(&mut found);
    match (found.is_empty(), failed.is_empty()) {
        (true, false) => Err(failed.swap_remove(0).1),
        _ => Ok(Looked { found, failed, unseen }),
    }
}

/// Fastest first. Rows a second count, not the median of a call: where other processes need the cores too, many threads have
/// the better median and stalls of many times that.
fn rank<W>(found: &mut [(W, Measured)]) {
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
        let archive = Archive::open_signed(file, settings.policy.signed_by.as_ref())?;
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
    fn failed(&self, e: &Error) -> Failed {
        let hint = e.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        let Self { subject, threads, instances, optimised } = *self;
        Failed { file: subject.file.clone(), threads, instances, optimised, why: format!("{}{hint}", e.message) }
    }

    fn measure(&self, time: Duration) -> Result<Measured> {
        let subject = self.subject;
        let model = subject.load(self.threads, self.optimised)?;
        let bound = model.bind(subject.inputs.clone())?;
        let m = match self.instances {
            1 => measure(time, || model.call(&bound).map(drop))?,
            instances => {
                // As it will run: with the bound on calls at once.
                let model = model.at_once(instances);
                measure_at_once(time, vec![|| model.call(&bound).map(drop); instances])?
            }
        };
        Ok(Measured {
            file: subject.file.clone(),
            threads: self.threads,
            instances: self.instances,
            optimised: self.optimised,
            batch: subject.batch,
            median_us: m.median_us,
            rows_per_second: m.calls_per_second * subject.batch as f64,
        })
    }
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
    fn a_way_that_fails_leaves_the_others_to_be_measured() {
        let ways = [(1, 1), (2, 1), (1, 2)];
        let measure = |fails: &[(usize, usize)], way: (usize, usize)| match fails.contains(&way) {
            true => Err(Error::unavailable(format!("{} x {}", way.0, way.1))),
            false => Ok(self::way(way.0, way.1, (way.0 * 10 + way.1) as f64)),
        };
        let look = |fails: &[(usize, usize)]| look(&ways, Duration::from_millis(1), |way, _| measure(fails, way));
        let looked = look(&[(2, 1)]).unwrap();
        assert_eq!(looked.found.iter().map(|(w, _)| *w).collect::<Vec<_>>(), [(1, 2), (1, 1)]);
        assert_eq!((looked.failed[0].0, looked.failed[0].1.message.as_str(), looked.unseen), ((2, 1), "2 x 1", 0));
        let all = look(&ways).map(|l| l.found.len()).unwrap_err();
        assert_eq!(all.message, "1 x 1");
    }

    #[test]
    fn a_way_that_fails_the_second_time_is_not_kept() {
        let times = std::cell::Cell::new(0);
        let looked = look(&[1, 2], Duration::from_millis(1), |threads, _| {
            times.set(times.get() + 1);
            match times.get() {
                3 => Err(Error::failed("now it fails")),
                n => Ok(way(threads, 1, f64::from(10 * threads as i32 + n))),
            }
        });
        let looked = looked.unwrap();
        assert_eq!((looked.found.len(), looked.found[0].0, looked.failed[0].0), (1, 1, 2));
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
