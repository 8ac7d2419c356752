//! `Model.map`: a table of any library in, its rows with the model's outputs out. The rules are those of `rust-host run`
//! with a table, in the crate `rust_host_tables`.

mod capsule;

use crate::{
    error::{invalid_input, to_py},
    threads,
};
use pyo3::{prelude::*, types::PyCapsule};
use rust_host_engine::Model;
use rust_host_tables::{self as tables, OnError};
use std::num::NonZero;

/// Names of columns in `repr`.
const SHOWN: usize = 8;

/// What `Model.map` gives: a table for anything that reads `__arrow_c_stream__`, as often as wanted.
#[pyclass(frozen, module = "rust_host")]
pub(crate) struct Mapped {
    mapped: tables::Mapped,
}

/// Runs the model over all rows, without the GIL.
pub(crate) fn map(model: &Model, table: &Bound<'_, PyAny>, on_error: &str, top_k: Option<usize>) -> PyResult<Mapped> {
    let py = table.py();
    let on_error = match on_error {
        "stop" => OnError::Stop,
        "null" => OnError::Null,
        other => return Err(invalid_input(py, format!("unknown `on_error` `{other}`, expected stop or null"))),
    };
    let table = capsule::read(table)?;
    let threads = threads::threads(py)?;
    let map = || {
        // Cores that the model's operators leave alone prepare rows meanwhile. Between calls the others' threads spin.
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        tables::map(model, &table.schema, table.batches, on_error, top_k, cores.saturating_sub(threads))
    };
    let mapped = py.detach(map);
    Ok(Mapped { mapped: mapped.map_err(|e| to_py(py, &e))? })
}

#[pymethods]
impl Mapped {
    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        // A wish: who makes it has to look at the types that come.
        drop(requested_schema);
        capsule::stream(py, self.mapped.schema.clone(), self.mapped.batches.clone())
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        capsule::schema(py, &self.mapped.schema)
    }

    fn __len__(&self) -> usize {
        self.mapped.batches.iter().map(|b| b.num_rows()).sum()
    }

    /// Names of the columns: those that passed through, then the outputs'.
    #[getter]
    fn columns(&self) -> Vec<String> {
        self.mapped.summary.columns.clone()
    }

    /// Rows whose outputs are empty, with `on_error="null"`.
    #[getter]
    fn failed(&self) -> u64 {
        self.mapped.summary.failed
    }

    /// Why the first of them is.
    #[getter]
    fn first_failure(&self) -> Option<&str> {
        self.mapped.summary.first_failure.as_deref()
    }

    /// How columns were matched where no name says it, a sentence each.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.mapped.summary.notes.clone()
    }

    fn __repr__(&self) -> String {
        let failed = match self.failed() {
            0 => String::new(),
            n => format!(", {n} without outputs"),
        };
        let names = &self.mapped.summary.columns;
        let more = if names.len() > SHOWN { ", …" } else { "" };
        let names = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
        format!("<rust_host.Mapped {} rows{failed}: {names}{more}>", self.__len__())
    }
}
