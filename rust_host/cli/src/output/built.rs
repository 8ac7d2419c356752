//! What `build` wrote.

use super::Answer;
use crate::commands::build::{Built, Form};
use rust_host_console::table;
use serde_json::json;

/// Its path, what it carries and what its golden examples gave.
pub(crate) fn build(built: &Built, as_json: bool) -> Answer {
    let path = built.path.display().to_string();
    let verified = &built.verified;
    if as_json {
        return Answer::document(&json!({
            "path": path, "bytes": built.bytes, "model_name": verified.model_name, "model_sha256": built.model_digest,
            "with_libtorch": built.form == Form::WithLibtorch, "declares": built.declares,
            "examples": verified.verdict.examples, "ok": verified.verdict.ok,
        }));
    }
    let mut text = format!(
        "{path}: {}, {}, reproduces all of {} golden examples {}\n",
        verified.model_name,
        table::bytes(built.bytes),
        verified.verdict.examples,
        if built.form == Form::WithLibtorch { "with libtorch" } else { "without libtorch" },
    );
    if let Some(prototype) = &built.declares {
        text.push_str(&format!("  {prototype}\n"));
    }
    Answer::text(text)
}
