//! Files in, files out: a table or a folder of pictures through a model, row by row in the order of the input, in memory
//! that does not grow with it.
//!
//! The flow, one module a step:
//!
//! 1. [`source`](Source) reads pieces of the input ([`csv`] cuts a file between records, [`pictures`] lists files);
//! 2. [`plan`] says once which column is which input, and which pass through;
//! 3. workers turn pieces into tensors, the caller's thread runs the model in order ([`forward`]), workers turn outputs
//!    into text ([`columns`], [`encode`]), one thread writes ([`file`]): [`pipeline`].
//!
//! A table in memory goes the same way through `map` (feature `arrow`): record batches in, record batches out.
//!
//! Nothing here knows libtorch or a door; progress goes to stderr, and only where it was asked for.

#[cfg(feature = "arrow")]
mod arrow;
#[cfg(feature = "arrow")]
mod cast;
mod columns;
mod csv;
mod elements;
mod encode;
mod file;
mod forward;
#[cfg(feature = "arrow")]
mod mapper;
mod number;
#[cfg(feature = "batch")]
mod parquet;
mod pictures;
mod pipeline;
mod plan;
mod progress;
mod run;
mod source;

pub use file::{AtomicFile, remove_unfinished};
#[cfg(feature = "arrow")]
pub use mapper::{Mapped, map};
pub use run::{reads, run};
pub use source::{Format, Source};

use rust_host_engine::Result;
use std::path::{Path, PathBuf};

/// What to read, what to write, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What to read.
    pub input: Source,
    /// What to write; its ending says the format ([`Format::of`]).
    pub output: PathBuf,
    /// What a row does that cannot be read or run.
    pub on_error: OnError,
    /// Rows or pictures a call of the model; `None`: about 4,096 rows or 1 MiB of text, 32 pictures.
    pub batch_size: Option<usize>,
    /// Columns `label_1`, `score_1`, … for outputs with labels, instead of one label and the values.
    pub top_k: Option<usize>,
    /// Threads beside the caller's that read and write text and pictures; `None`: one a core.
    pub workers: Option<usize>,
    /// Whether to tell the progress on stderr: a bar on a terminal, else a line now and then.
    pub progress: bool,
    /// How the output is begun: [`AtomicFile::create`], unless this process may not write.
    pub create: fn(&Path) -> Result<AtomicFile>,
}

impl Settings {
    /// Everything else as by default: stop at the first bad row, no progress.
    pub fn new(input: Source, output: impl Into<PathBuf>) -> Self {
        let output = output.into();
        let create = AtomicFile::create;
        Self {
            input,
            output,
            on_error: OnError::Stop,
            batch_size: None,
            top_k: None,
            workers: None,
            progress: false,
            create,
        }
    }
}

/// What a row does that cannot be read or run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// It ends the run, is named, and nothing is written.
    #[default]
    Stop,
    /// Its outputs stay empty.
    Null,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// Rows or pictures that were read, and as many were written.
    pub rows: u64,
    /// Those whose outputs are empty.
    pub failed: u64,
    /// Why the first of them is.
    pub first_failure: Option<String>,
    /// Names of the columns that were written.
    pub columns: Vec<String>,
    /// What a user should know, one sentence each: how columns were matched where no name says it.
    pub notes: Vec<String>,
    /// How long it took, without loading the model.
    pub seconds: f64,
}
