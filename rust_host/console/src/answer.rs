//! Answers and errors → stdout and stderr. The only place that prints; stdout is data, stderr the rest.

use rust_host_engine::{Error, Result, error::ErrorKind};
use serde_json::{Value as Json, json};
use std::io::{self, Write};

/// What is to be printed, and the exit code.
#[derive(Debug, Default)]
pub struct Answer {
    stdout: Vec<u8>,
    notes: Vec<String>,
    code: i32,
}

impl Answer {
    /// Text that ends in a line break.
    pub fn text(text: String) -> Self {
        Self::bytes(text.into_bytes())
    }

    /// Bytes as they are.
    pub fn bytes(stdout: Vec<u8>) -> Self {
        Self { stdout, ..Self::default() }
    }

    /// A JSON document in lines.
    pub fn document(document: &Json) -> Self {
        // Numbers and texts alone: this cannot fail.
        Self::text(format!("{}\n", serde_json::to_string_pretty(document).unwrap_or_default()))
    }

    /// Nothing: all was printed already.
    pub fn printed(code: i32) -> Self {
        Self { code, ..Self::default() }
    }

    /// With that exit code; 0 otherwise.
    #[must_use]
    pub fn code(self, code: i32) -> Self {
        Self { code, ..self }
    }

    /// With notes for stderr, one sentence each.
    #[must_use]
    pub fn notes(self, notes: Vec<String>) -> Self {
        Self { notes, ..self }
    }
}

/// Prints and returns the exit code; an error as JSON where that was asked for.
pub fn finish(result: Result<Answer>, json: bool) -> i32 {
    let answer = match result {
        Ok(answer) => answer,
        Err(e) => return fail(&e, json),
    };
    for note in &answer.notes {
        let _printed = writeln!(io::stderr(), "note: {note}");
    }
    let mut stdout = io::stdout().lock();
    match stdout.write_all(&answer.stdout).and_then(|()| stdout.flush()) {
        Ok(()) => answer.code,
        // Whoever reads has enough: `rust-host info model.pt | head -1`.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => answer.code,
        Err(e) => fail(&Error::io(std::path::Path::new("stdout"), "write", e), false),
    }
}

/// Prints an error and returns its exit code.
pub fn fail(error: &Error, json: bool) -> i32 {
    if json {
        let document = json!({
            "error": {"kind": error.kind.as_str(), "message": error.message, "hint": error.hint}
        });
        let _printed = writeln!(io::stdout(), "{document}");
    } else {
        let _printed = io::stderr().write_all(words(error).as_bytes());
    }
    exit_code(error.kind)
}

/// `error: …`, `  caused by: …`, `hint: …`
fn words(error: &Error) -> String {
    let mut text = format!("error: {}\n", error.message);
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        text.push_str(&format!("  caused by: {}\n", cause_text.lines().next().unwrap_or_default()));
        source = cause.source();
    }
    if let Some(hint) = &error.hint {
        text.push_str(&format!("hint: {hint}\n"));
    }
    text
}

/// 2 for what the user gave, 1 for what happened.
fn exit_code(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::NotFound | ErrorKind::InvalidInput | ErrorKind::InvalidModel | ErrorKind::InvalidContract => 2,
        ErrorKind::Refused
        | ErrorKind::Mismatch
        | ErrorKind::Failed
        | ErrorKind::Unavailable
        | ErrorKind::Overloaded
        | ErrorKind::Timeout
        | ErrorKind::Internal => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_its_cause_and_what_to_do() {
        let e = Error::failed("it broke").caused_by("the wheel\ncame off").hint("`make repair`");
        assert_eq!(words(&e), "error: it broke\n  caused by: the wheel\nhint: `make repair`\n");
    }
}
