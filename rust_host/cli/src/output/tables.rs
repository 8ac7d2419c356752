//! What a run over a table or pictures did.

use super::Answer;
use rust_host_console::table;
use rust_host_tables::Summary;
use serde_json::json;

/// The path of a table on stdout, what happened on stderr; or all as one document.
pub(crate) fn tables(path: &std::path::Path, summary: Summary, json: bool) -> Answer {
    let Summary { rows, failed, first_failure, columns, notes, seconds } = summary;
    if json {
        let document = json!({
            "output": path.display().to_string(), "rows": rows, "failed": failed, "first_failure": first_failure,
            "columns": columns, "notes": notes, "seconds": seconds,
        });
        return Answer::text(format!("{document}\n"));
    }
    let mut notes = notes;
    let s = if rows == 1 { "" } else { "s" };
    let rate = (rows as f64 / seconds.max(1e-9)).round();
    // Of a few rows it would be the rate of the start.
    let rate = if rows >= 1000 { format!(", {} a second", table::grouped(rate as u64)) } else { String::new() };
    notes.push(format!("{} row{s} in {seconds:.2} s{rate}", table::grouped(rows)));
    if let Some(first) = first_failure {
        notes.push(format!("{} without outputs, the first: {first}", table::grouped(failed)));
    }
    Answer::text(format!("{}\n", path.display())).notes(notes)
}
