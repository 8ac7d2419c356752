//! What `run` found, as a table or JSON.

use super::Answer;
use crate::{
    commands::run::{Leaving, Outcome},
    predictions::Prediction,
    table,
};
use rust_host_engine::{Datatype, Error, Result, Value, json};
use serde_json::{Value as Json, json};
use std::io::{IsTerminal, stdout};

/// Prints outputs where they are to be printed, and says where they were written otherwise.
///
/// # Errors
/// `InvalidInput` if bytes would go to a terminal.
pub(crate) fn run(outcome: &Outcome) -> Result<Answer> {
    let notes = outcome.notes.clone();
    Ok(match &outcome.leaving {
        Leaving::Json => Answer::text(format!("{}\n", document(outcome))).notes(notes),
        Leaving::Table => Answer::text(text(outcome)).notes(notes),
        Leaving::Bytes(_) if stdout().is_terminal() => {
            return Err(Error::invalid_input("an array cannot be shown on a terminal")
                .hint("redirect stdout, or give `--output DIR`"));
        }
        Leaving::Bytes(bytes) => Answer::bytes(bytes.clone()).notes(notes),
        Leaving::Files(paths) => {
            let lines = paths.iter().map(|p| format!("{}\n", p.display())).collect();
            Answer::text(lines).notes(notes)
        }
    })
}

/// `{model_name, device, outputs: [{name, datatype, shape, data}], predictions?}`
fn document(outcome: &Outcome) -> Json {
    let outputs: Vec<Json> = outcome.outputs.iter().map(|(name, value)| output(name, value)).collect();
    let mut document = json!({
        "model_name": outcome.model_name,
        "device": outcome.device.to_string(),
        "outputs": outputs,
    });
    if !outcome.predictions.is_empty() {
        document["predictions"] = outcome.predictions.iter().map(prediction).collect();
    }
    document
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

fn text(outcome: &Outcome) -> String {
    let mut text = format!("{} on {}\n", outcome.model_name, outcome.device);
    let draws = outcome.draw || stdout().is_terminal();
    let drawn = if draws { outcome.drawings.as_slice() } else { &[] };
    let first = outcome.predictions.first();
    for (i, drawing) in drawn.iter().enumerate() {
        let labels: &[(String, f64)] = first.and_then(|p| p.rows.get(i)).map_or(&[], Vec::as_slice);
        text.push('\n');
        text.push_str(&beside(drawing, labels));
    }
    for (name, value) in &outcome.outputs {
        text.push('\n');
        match (value, outcome.predictions.iter().find(|p| p.output == *name)) {
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
