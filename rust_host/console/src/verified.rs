//! The verdict on the golden examples, as a table or JSON.

use crate::{Answer, table};
use rust_host_engine::{
    Device,
    golden::{Difference, Verdict},
    json,
};
use serde_json::json;

/// The verdict, and where it was reached.
#[derive(Debug)]
pub struct Verified {
    /// The model's name.
    pub model_name: String,
    /// Where it ran.
    pub device: Device,
    /// With which library.
    pub library: String,
    /// What came out.
    pub verdict: Verdict,
    /// Notes for stderr.
    pub notes: Vec<String>,
}

impl Verified {
    /// To be printed; the exit code is 1 when it is "no".
    pub fn answer(&self, as_json: bool) -> Answer {
        let code = i32::from(!self.verdict.ok);
        let answer = if as_json { self.document() } else { Answer::text(self.text()) };
        answer.notes(self.notes.clone()).code(code)
    }

    fn document(&self) -> Answer {
        let output = |d: &Difference| {
            json!({
                "output": d.output, "max_abs": json::from_f64(d.max_abs), "max_rel": json::from_f64(d.max_rel),
                "rtol": d.rtol, "atol": d.atol, "ok": d.ok,
            })
        };
        Answer::document(&json!({
            "model_name": self.model_name, "device": self.device.to_string(), "library": self.library,
            "examples": self.verdict.examples, "ok": self.verdict.ok,
            "outputs": self.verdict.outputs.iter().map(output).collect::<Vec<_>>(),
        }))
    }

    fn text(&self) -> String {
        let mut rows = vec![["output", "max |diff|", "max relative", "rtol", "atol", ""].map(str::to_owned).to_vec()];
        rows.extend(self.verdict.outputs.iter().map(|d| {
            let verdict = if d.ok { "ok" } else { "too far" };
            let numbers = [d.max_abs, d.max_rel, d.rtol, d.atol].map(table::number);
            [vec![d.output.clone()], numbers.to_vec(), vec![verdict.to_owned()]].concat()
        }));
        let verdict = format!(
            "{} on {} ({}): {} of {} golden examples{}\n",
            self.model_name,
            self.device,
            self.library,
            if self.verdict.ok { "reproduces all" } else { "does not reproduce all" },
            self.verdict.examples,
            if self.verdict.ok { "" } else { ": a difference is beyond the tolerance" },
        );
        verdict + &table::columns(&rows)
    }
}
