//! `rust_host.Verdict`: how far the golden examples were from the author's results.

use pyo3::{
    exceptions::PyKeyError,
    prelude::*,
    types::{PyDict, PyList},
};
use rust_host_engine::golden;

/// The answer of `Model.verify()`; true if all outputs are within their tolerance.
#[pyclass(frozen, module = "rust_host")]
pub(crate) struct Verdict {
    verdict: golden::Verdict,
}

const KEYS: [&str; 3] = ["ok", "examples", "outputs"];

impl Verdict {
    pub(crate) fn new(verdict: golden::Verdict) -> Self {
        Self { verdict }
    }
}

#[pymethods]
impl Verdict {
    /// Whether every output was within its tolerance.
    #[getter]
    fn ok(&self) -> bool {
        self.verdict.ok
    }

    /// Number of examples that were run.
    #[getter]
    fn examples(&self) -> usize {
        self.verdict.examples
    }

    /// One dict an output: output, max_abs, max_rel, rtol, atol, ok.
    #[getter]
    fn outputs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let outputs = PyList::empty(py);
        for difference in &self.verdict.outputs {
            let entry = PyDict::new(py);
            entry.set_item("output", &difference.output)?;
            entry.set_item("max_abs", difference.max_abs)?;
            entry.set_item("max_rel", difference.max_rel)?;
            entry.set_item("rtol", difference.rtol)?;
            entry.set_item("atol", difference.atol)?;
            entry.set_item("ok", difference.ok)?;
            outputs.append(entry)?;
        }
        Ok(outputs)
    }

    fn __bool__(&self) -> bool {
        self.verdict.ok
    }

    /// With `__getitem__` this makes `dict(verdict)` work.
    fn keys(&self) -> Vec<&'static str> {
        KEYS.to_vec()
    }

    fn __getitem__<'py>(slf: &Bound<'py, Self>, key: &str) -> PyResult<Bound<'py, PyAny>> {
        if KEYS.contains(&key) { slf.getattr(key) } else { Err(PyKeyError::new_err(key.to_owned())) }
    }

    fn __repr__(&self) -> String {
        let outputs = self.verdict.outputs.iter().map(|d| {
            let sign = if d.ok { "ok" } else { "past its tolerance" };
            format!("{}: max |diff| {:.3e} {sign}", d.output, d.max_abs)
        });
        let outputs: Vec<_> = outputs.collect();
        format!(
            "<rust_host.Verdict ok={}, {} examples; {}>",
            if self.verdict.ok { "True" } else { "False" },
            self.verdict.examples,
            outputs.join("; ")
        )
    }
}
