//! What a run found, as tables or JSON.

use crate::{predictions::Prediction, table};
use rust_host_engine::{Datatype, Device, Value, json};
use serde_json::{Value as Json, json};

/// What came out of a call.
#[derive(Debug)]
pub struct Outcome {
    /// The model's name.
    pub model_name: String,
    /// Where it ran.
    pub device: Device,
    /// Outputs by name.
    pub outputs: Vec<(String, Value)>,
    /// Most likely labels, where the contract has labels.
    pub predictions: Vec<Prediction>,
    /// A drawing of each picture among the inputs.
    pub drawings: Vec<Vec<String>>,
}

impl Outcome {
    /// `{model_name, device, outputs: [{name, datatype, shape, data}], predictions?}`
    pub fn document(&self) -> Json {
        let outputs: Vec<Json> = self.outputs.iter().map(|(name, value)| output(name, value)).collect();
        let mut document = json!({
            "model_name": self.model_name,
            "device": self.device.to_string(),
            "outputs": outputs,
        });
        if !self.predictions.is_empty() {
            document["predictions"] = self.predictions.iter().map(prediction).collect();
        }
        document
    }

    /// Tables, and the drawings where `draw` says so.
    pub fn text(&self, draw: bool) -> String {
        let mut text = format!("{} on {}\n", self.model_name, self.device);
        let drawn = if draw { self.drawings.as_slice() } else { &[] };
        let first = self.predictions.first();
        for (i, drawing) in drawn.iter().enumerate() {
            let labels: &[(String, f64)] = first.and_then(|p| p.rows.get(i)).map_or(&[], Vec::as_slice);
            text.push('\n');
            text.push_str(&beside(drawing, labels));
        }
        for (name, value) in &self.outputs {
            text.push('\n');
            match (value, self.predictions.iter().find(|p| p.output == *name)) {
                (Value::Tensor(t), found) => {
                    text.push_str(&format!("{name}  {} {:?}\n", t.datatype(), t.shape()));
                    match found {
                        Some(p) => text.push_str(&rows(p)),
                        None => text.push_str(&table::tensor(t)),
                    }
                }
                (other, _) => text.push_str(&format!("{name}  {}\n  {}\n", other.kind(), json::from_value(other))),
            }
        }
        text
    }
}

fn output(name: &str, value: &Value) -> Json {
    let datatype = match value {
        Value::Tensor(t) => Some(t.datatype().as_str()),
        Value::Int(_) => Some(Datatype::Int64.as_str()),
        Value::Float(_) => Some(Datatype::Fp64.as_str()),
        Value::Bool(_) => Some(Datatype::Bool.as_str()),
        // The protocol's word for text.
        Value::Str(_) => Some("BYTES"),
        _ => None,
    };
    let shape = if let Value::Tensor(t) = value { t.shape() } else { &[] };
    json!({"name": name, "datatype": datatype, "shape": shape, "data": json::from_value(value)})
}

fn prediction(prediction: &Prediction) -> Json {
    let label = |(label, p): &(String, f64)| json!({"label": label, "probability": json::from_f64(*p)});
    let rows: Vec<Json> = prediction.rows.iter().map(|row| row.iter().map(label).collect()).collect();
    json!({"output": prediction.output, "rows": rows})
}

/// The drawing, with its labels to the right of its first lines.
fn beside(drawing: &[String], labels: &[(String, f64)]) -> String {
    let most = labels.iter().map(|(l, _)| l.chars().count()).max().unwrap_or(0).min(table::WIDEST);
    let line = |(i, line): (usize, &String)| {
        let right = labels.get(i).map(|(label, p)| format!("   {label:<most$}  {:>7}", table::percent(*p)));
        format!("  {}\n", format!("{line}{}", right.unwrap_or_default()).trim_end())
    };
    drawing.iter().enumerate().map(line).collect()
}

/// Rows of a batch that are listed.
const ROWS: usize = 100;

/// One line for each row of the batch: `[0]  7  99.8 %  1  0.1 %`.
fn rows(prediction: &Prediction) -> String {
    let line = |(i, row): (usize, &Vec<(String, f64)>)| {
        let mut cells = vec![format!("[{i}]")];
        cells.extend(row.iter().flat_map(|(label, p)| [label.clone(), table::percent(*p)]));
        cells
    };
    let count = prediction.rows.len();
    if count == 0 {
        return "  no rows\n".to_owned();
    }
    let lines: Vec<_> = prediction.rows.iter().take(ROWS).enumerate().map(line).collect();
    table::columns(&lines) + &table::more_rows(count, ROWS)
}
