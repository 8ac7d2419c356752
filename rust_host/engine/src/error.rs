//! One error type for the whole host. A library returns it; only a door (command line, wheel, server) turns it into words.

use std::fmt;

/// What went wrong, coarsely enough for every door to answer it: exit code, Python class, HTTP status.
///
/// Not `#[non_exhaustive]` on purpose: each door has one `match` without `_`, so a new kind does not compile until every
/// door has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A file, folder, model or device number that is not there.
    NotFound,
    /// An argument or input that does not fit what the model takes.
    InvalidInput,
    /// A file that is not a model, or a damaged one.
    InvalidModel,
    /// A contract that cannot be read, contradicts itself or is of a later format.
    InvalidContract,
    /// A file that asks for what a model has no business with.
    Refused,
    /// Golden examples that are not reproduced.
    Mismatch,
    /// The model's own code raised an error, or libtorch did while running it.
    Failed,
    /// Something this machine lacks: libtorch, CUDA, a writable folder, memory.
    Unavailable,
    /// More requests than can be queued.
    Overloaded,
    /// The time that was given is over.
    Timeout,
    /// A mistake in this program.
    Internal,
}

impl ErrorKind {
    /// The kind as a stable word for machines, for example in `--json` output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::InvalidInput => "invalid_input",
            Self::InvalidModel => "invalid_model",
            Self::InvalidContract => "invalid_contract",
            Self::Refused => "refused",
            Self::Mismatch => "mismatch",
            Self::Failed => "failed",
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
        }
    }
}

/// A sentence for a person (small letter, no full stop), its kind for a machine, and what to do next.
#[derive(Debug)]
pub struct Error {
    /// The kind, from which doors derive exit codes and classes.
    pub kind: ErrorKind,
    /// What was wrong, where, and what was expected.
    pub message: String,
    /// What to do, best as a command that can be pasted.
    pub hint: Option<String>,
    /// The error below this one, if there is one worth telling.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Longest message that is passed on; texts from a model's own code can be of any size.
const LONGEST: usize = 4096;

impl Error {
    /// An error without a hint. Control characters other than line breaks are escaped and the text is cut at 4 KiB,
    /// because parts of it often come from a file or from a model.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: printable(&message.into()), hint: None, source: None }
    }

    /// The same error, with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error, with the one that caused it.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// [`ErrorKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }
    /// [`ErrorKind::InvalidInput`].
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }
    /// [`ErrorKind::InvalidModel`].
    pub fn invalid_model(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidModel, message)
    }
    /// [`ErrorKind::InvalidContract`].
    pub fn invalid_contract(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidContract, message)
    }
    /// [`ErrorKind::Failed`].
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }
    /// [`ErrorKind::Unavailable`].
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }
    /// [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// A failed file operation, said with the path first.
    pub fn io(path: &std::path::Path, doing: &str, error: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let path = path.display();
        let kind = match error.kind() {
            Io::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Unavailable,
        };
        let why = match error.kind() {
            Io::NotFound => "no such file or folder".to_owned(),
            Io::PermissionDenied => "permission denied".to_owned(),
            Io::StorageFull => "no space left on the disk".to_owned(),
            Io::FileTooLarge => "the file would be larger than this process may write".to_owned(),
            _ => error.to_string(),
        };
        Self::new(kind, format!("`{path}`: cannot {doing}: {why}"))
    }
}

/// The text without control characters other than line breaks, cut at 4 KiB.
pub(crate) fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len().min(LONGEST));
    for c in text.chars() {
        if clean.len() >= LONGEST {
            clean.push('…');
            break;
        }
        if c.is_control() && c != '\n' {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_from_a_file_cannot_carry_control_characters_or_megabytes() {
        let e = Error::failed(format!("a\x1b[2J\0{}", "x".repeat(1 << 20)));
        assert!(e.message.starts_with("a\\u{1b}[2J\\u{0}xxx"));
        assert!(e.message.len() < LONGEST + 16);
    }
}
