//! `host.toml`, beside the files of a version: which of them is fastest on this machine, and with how many threads.
//! `rust-host tune` measures and writes it; whatever opens a model reads it, and on another machine leaves it alone.

use crate::{
    Error, Result,
    machine::{self, LIBTORCH_VERSION},
    threads,
    versions::FILES,
};
use serde::{Deserialize, Serialize};
use std::{fs, io::Write, path::Path};

/// Its name.
pub const FILE: &str = "host.toml";

/// What was found to be fastest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostSettings {
    /// `latency`: one call after another. `throughput`: as many rows a second as this machine can.
    pub goal: String,
    /// The model's file, in the same folder.
    pub file: String,
    /// Threads inside an operator.
    pub threads: usize,
    /// Calls at once, as they were measured; [`HostSettings::most_at_once`] is what holds for a model.
    pub instances: usize,
    /// Whether the optimised form is the faster one.
    pub optimised: bool,
    /// Where it was measured.
    pub machine: Machine,
    /// Everything that was measured, fastest first.
    #[serde(default)]
    pub measured: Vec<Measured>,
}

/// What the figures hold for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Threads that can work at once, as [`threads::plan`] says.
    pub threads: usize,
    /// Version of this host.
    pub rust_host: String,
    /// Version of libtorch.
    pub libtorch: String,
}

/// One way of running the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in HostSettings")]
pub struct Measured {
    pub file: String,
    pub threads: usize,
    pub instances: usize,
    pub optimised: bool,
    /// Rows a call.
    pub batch: i64,
    /// Median of a call, in microseconds.
    pub median_us: f64,
    /// Rows a second.
    pub rows_per_second: f64,
}

/// What a folder's `host.toml` says to this machine.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Found {
    /// The settings, where they were measured here.
    pub settings: Option<HostSettings>,
    /// Why they are not used, where there are some from elsewhere.
    pub note: Option<String>,
}

impl Found {
    /// The settings, if they are of that file of the folder.
    pub fn of(&self, file: &Path) -> Option<&HostSettings> {
        self.settings.as_ref().filter(|s| file.file_name().is_some_and(|name| name == s.file.as_str()))
    }
}

impl HostSettings {
    /// How many calls of the model may run at once. For throughput that was measured. For latency one call after another was:
    /// more may run beside it, as long as each has as many cores as that one had.
    pub fn most_at_once(&self) -> usize {
        match self.goal.as_str() {
            "throughput" => self.instances,
            _ => self.instances.max(self.machine.threads / self.threads.max(1)),
        }
    }
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        Self {
            processor: machine::cpu().model.unwrap_or_else(|| "unknown".to_owned()),
            threads: threads::plan().count,
            rust_host: env!("CARGO_PKG_VERSION").to_owned(),
            libtorch: LIBTORCH_VERSION.to_owned(),
        }
    }

    fn shown(&self) -> String {
        format!("{} with {} thread{}", self.processor, self.threads, if self.threads == 1 { "" } else { "s" })
    }
}

/// Reads the `host.toml` of a folder; nothing is found where there is none.
///
/// # Errors
/// `InvalidInput` with what is wrong in which line.
///
/// ```
/// let found = rust_host_engine::host_settings::read("/nowhere".as_ref())?;
/// assert!(found.settings.is_none() && found.note.is_none());
/// # Ok::<(), rust_host_engine::Error>(())
/// ```
pub fn read(folder: &Path) -> Result<Found> {
    read_for(folder, &Machine::here)
}

fn read_for(folder: &Path, here: &dyn Fn() -> Machine) -> Result<Found> {
    let path = folder.join(FILE);
    let wrong = |text: String| {
        Error::invalid_input(format!("`{}`: {text}", path.display()))
            .hint("`rust-host tune` writes it anew; without the file the defaults are used")
    };
    let text = match fs::read_to_string(&path) {
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Found::default());
        }
        other => other.map_err(|e| wrong(format!("it cannot be read: {e}")))?,
    };
    let settings: HostSettings = toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(1, |span| text.get(..span.start).unwrap_or_default().lines().count().max(1));
        let reason = e.message().lines().collect::<Vec<_>>().join(", ");
        wrong(format!("line {line}: {reason}, expected what `rust-host tune` writes"))
    })?;
    let names: Vec<_> = FILES.iter().map(|(name, _)| *name).collect();
    if !names.contains(&settings.file.as_str()) && !folder.join(&settings.file).is_file() || settings.file.contains('/')
    {
        return Err(wrong(format!("`file` is `{}`, expected a model file of this folder", settings.file)));
    }
    const MOST: usize = 1024;
    for (key, value) in [("threads", settings.threads), ("instances", settings.instances)] {
        if !(1..=MOST).contains(&value) {
            return Err(wrong(format!("`{key}` is {value}, expected 1 to {MOST}")));
        }
    }
    let here = here();
    let there = &settings.machine;
    if (&there.processor, there.threads) != (&here.processor, here.threads) {
        let note = format!(
            "`{}` is not used: it was measured on {}, this is {}; `rust-host tune` measures here",
            path.display(),
            there.shown(),
            here.shown()
        );
        return Ok(Found { settings: None, note: Some(note) });
    }
    Ok(Found { settings: Some(settings), note: None })
}

/// Writes a folder's `host.toml`, whole or not at all.
///
/// # Errors
/// `Unavailable` if the folder cannot be written to.
pub fn write(folder: &Path, settings: &HostSettings) -> Result<()> {
    let path = folder.join(FILE);
    let text = toml::to_string(settings).map_err(|e| Error::internal(format!("the settings are no TOML: {e}")))?;
    let text =
        format!("# What `rust-host tune` found to be fastest on the machine below; others leave it alone.\n{text}");
    let temporary = folder.join(format!(".{FILE}.{}", std::process::id()));
    let written = fs::File::create(&temporary).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    });
    written.map_err(|e| {
        let _rest = fs::remove_file(&temporary);
        Error::io(&path, "write", e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn here() -> Machine {
        Machine { processor: "P".into(), threads: 4, rust_host: "0".into(), libtorch: "2".into() }
    }

    fn settings() -> HostSettings {
        let row = |threads, median_us| Measured {
            file: "model.onnx".into(),
            threads,
            instances: 1,
            optimised: false,
            batch: 1,
            median_us,
            rows_per_second: 1e6 / median_us,
        };
        HostSettings {
            goal: "latency".into(),
            file: "model.onnx".into(),
            threads: 2,
            instances: 1,
            optimised: false,
            machine: here(),
            measured: vec![row(2, 10.0), row(1, 15.5)],
        }
    }

    #[test]
    fn what_was_written_is_read_on_that_machine_alone() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &settings()).unwrap();
        let found = read_for(folder.path(), &here).unwrap();
        assert_eq!(found, Found { settings: Some(settings()), note: None });
        assert!(found.of(&folder.path().join("model.onnx")).is_some());
        assert!(found.of(&folder.path().join("model.pt")).is_none());
        let other = read_for(folder.path(), &|| Machine { threads: 2, ..here() }).unwrap();
        assert_eq!(other.settings, None);
        assert!(other.note.unwrap().contains("measured on P with 4 threads, this is P with 2 threads"));
        // Another version of this host is the same machine.
        assert!(read_for(folder.path(), &|| Machine { rust_host: "9".into(), ..here() }).unwrap().settings.is_some());
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, [FILE]);
    }

    #[test]
    fn each_fault_is_a_sentence_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let good = toml::to_string(&settings()).unwrap();
        let faults = [
            (good.replacen("threads = 2", "threads = ", 1), "line 3"),
            (good.replacen("threads = 2", "threads = \"two\"", 1), "line 3"),
            (good.replacen("threads = 2\n", "", 1), "missing field `threads`"),
            (good.replacen("threads = 2", "threads = 0", 1), "`threads` is 0, expected 1 to 1024"),
            (good.replacen("instances = 1", "instances = 4000", 1), "`instances` is 4000"),
            (good.replacen("\"model.onnx\"", "\"../model.pt\"", 1), "`file` is `../model.pt`"),
            (good.replacen("\"model.onnx\"", "\"other.pt\"", 1), "expected a model file of this folder"),
            ("\u{0}".into(), "line 1"),
            (String::new(), "missing field"),
        ];
        for (text, part) in faults {
            fs::write(folder.path().join(FILE), &text).unwrap();
            let e = read_for(folder.path(), &here).unwrap_err();
            assert!(e.message.contains(part) && e.message.contains("host.toml"), "{e}: {text}");
            assert_eq!((e.kind, e.message.lines().count()), (ErrorKind::InvalidInput, 1), "{e}");
        }
        fs::write(folder.path().join(FILE), [0xff, 0xfe]).unwrap();
        assert!(read_for(folder.path(), &here).unwrap_err().message.contains("cannot be read"));
    }

    #[test]
    fn calls_at_once_are_those_that_were_measured_or_those_that_have_cores() {
        let most = |goal: &str, threads, instances| {
            HostSettings { goal: goal.into(), threads, instances, ..settings() }.most_at_once()
        };
        assert_eq!((most("throughput", 1, 3), most("throughput", 2, 1)), (3, 1));
        assert_eq!(
            (most("latency", 1, 1), most("latency", 2, 1), most("latency", 3, 1), most("latency", 8, 1)),
            (4, 2, 1, 1)
        );
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let e = write(Path::new("/nowhere"), &settings()).unwrap_err();
        assert!(e.message.contains("/nowhere/host.toml"), "{e}");
    }
}
