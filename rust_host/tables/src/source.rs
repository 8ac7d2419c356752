//! What can be read and written, told by the path.

use rust_host_engine::{Error, Result};
use std::path::{Path, PathBuf};

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A `.csv` or `.tsv` with a header.
    Csv(PathBuf),
    /// A `.parquet`.
    Parquet(PathBuf),
    /// All PNG and JPEG files below a folder, sorted by path.
    Folder(PathBuf),
    /// A text file with the path of one picture a line.
    List(PathBuf),
}

impl Source {
    /// What a path is: a folder, or a table by its ending. `None` for any other file.
    ///
    /// ```
    /// use rust_host_tables::Source;
    /// assert_eq!(Source::of("rows.CSV".as_ref()), Some(Source::Csv("rows.CSV".into())));
    /// assert_eq!(Source::of("x.npy".as_ref()), None);
    /// ```
    pub fn of(path: &Path) -> Option<Self> {
        if path.is_dir() {
            return Some(Self::Folder(path.to_owned()));
        }
        match ending(path).as_str() {
            "csv" | "tsv" => Some(Self::Csv(path.to_owned())),
            "parquet" => Some(Self::Parquet(path.to_owned())),
            "txt" => Some(Self::List(path.to_owned())),
            _ => None,
        }
    }

    /// The path that was given.
    pub fn path(&self) -> &Path {
        match self {
            Self::Csv(path) | Self::Parquet(path) | Self::Folder(path) | Self::List(path) => path,
        }
    }
}

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Values with commas (or what the input has) between them.
    Csv,
    /// Values with tabs between them.
    Tsv,
    /// One JSON object a line.
    Jsonl,
    /// Columns with types.
    Parquet,
}

impl Format {
    /// The format of a path by its ending; `None` for any other ending.
    pub fn of(path: &Path) -> Option<Self> {
        match ending(path).as_str() {
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }

    pub(crate) fn of_output(path: &Path) -> Result<Self> {
        Self::of(path).ok_or_else(|| {
            Error::invalid_input(format!(
                "`{}`: the ending of an output is .csv, .tsv, .jsonl or .parquet",
                path.display()
            ))
        })
    }
}

fn ending(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default()
}
