//! What `run` found, on the screen, on stdout, or where it was written.

use super::Answer;
use crate::commands::run::{Leaving, Ran};
use rust_host_engine::{Error, Result};
use std::io::{IsTerminal, stdout};

/// Prints outputs where they are to be printed, and says where they were written otherwise.
///
/// # Errors
/// `InvalidInput` if bytes would go to a terminal.
pub(crate) fn run(ran: &Ran) -> Result<Answer> {
    let answer = match &ran.leaving {
        Leaving::Json => Answer::text(format!("{}\n", ran.outcome.document())),
        Leaving::Table => Answer::text(ran.outcome.text(ran.draw || stdout().is_terminal())),
        Leaving::Bytes(_) if stdout().is_terminal() => {
            return Err(Error::invalid_input("an array cannot be shown on a terminal")
                .hint("redirect stdout, or give `--output DIR`"));
        }
        Leaving::Bytes(bytes) => Answer::bytes(bytes.clone()),
        Leaving::Files(paths) => Answer::text(paths.iter().map(|p| format!("{}\n", p.display())).collect()),
    };
    Ok(answer.notes(ran.notes.clone()))
}
