//! Cuts a stream between records, so that workers can parse them: bytes in, chunks of whole records out.

use rust_host_engine::{Error, Result};
use std::{fs::File, io::Read, path::PathBuf};

/// A record beyond this is a quote that nobody closed.
const LONGEST_RECORD: usize = 64 << 20;
const READ: usize = 1 << 20;

/// Whole records.
pub(crate) struct Chunk {
    pub bytes: Vec<u8>,
    /// At most so many rows; blank lines are counted too.
    pub rows: usize,
}

/// Where a chunk ends: at so many records, or before it has more bytes.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub rows: usize,
    pub bytes: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    FieldStart,
    Plain,
    Quoted,
    /// After a quote inside quotes: the end of the quotes, or half of a doubled one.
    QuoteInQuotes,
}

pub(crate) struct Cutter {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    /// Where the next chunk begins in the buffer.
    at: usize,
    ended: bool,
    records: u64,
    pub delimiter: u8,
    pub limits: Limits,
}

impl Cutter {
    pub(crate) fn new(file: File, path: PathBuf) -> Self {
        let limits = Limits { rows: 1, bytes: usize::MAX };
        Self { file, path, buffer: Vec::new(), at: 0, ended: false, records: 0, delimiter: b',', limits }
    }

    /// The beginning of what was not cut yet.
    pub(crate) fn peek(&mut self) -> Result<&[u8]> {
        if self.buffer.len() == self.at {
            self.read()?;
        }
        Ok(self.buffer.get(self.at..).unwrap_or_default())
    }

    fn read(&mut self) -> Result<()> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let before = self.buffer.len();
        self.buffer.reserve(READ);
        let read = Read::by_ref(&mut self.file).take(READ as u64).read_to_end(&mut self.buffer);
        read.map_err(|e| Error::io(&self.path, "read", e))?;
        self.ended = self.buffer.len() == before;
        Ok(())
    }

    /// The next whole records; `None` at the end of the file.
    pub(crate) fn next(&mut self, limits: Limits) -> Result<Option<Chunk>> {
        // Distances from `self.at`, because reading more moves it.
        let (mut scanned, mut rows, mut end) = (0, 0, 0);
        let mut state = State::FieldStart;
        loop {
            let unread = self.buffer.get(self.at..).unwrap_or_default();
            let full = scan(unread, &mut scanned, &mut state, self.delimiter, |at| {
                if rows > 0 && at > limits.bytes {
                    return true;
                }
                rows += 1;
                end = at;
                rows >= limits.rows
            });
            if full {
                break;
            }
            if self.ended {
                if state == State::Quoted {
                    return Err(self.unclosed(rows));
                }
                rows += usize::from(end < unread.len());
                end = unread.len();
                break;
            }
            if unread.len() - end > LONGEST_RECORD {
                return Err(self.unclosed(rows));
            }
            self.read()?;
        }
        if end == 0 {
            return Ok(None);
        }
        let bytes = self.buffer.get(self.at..self.at + end).unwrap_or_default().to_vec();
        self.at += end;
        self.records += rows as u64;
        Ok(Some(Chunk { bytes, rows }))
    }

    fn unclosed(&self, rows: usize) -> Error {
        // The header is a record too, so this is the number of the row.
        let row = self.records + rows as u64;
        Error::invalid_input(format!("`{}`: row {row} has a quote that is never closed", self.path.display()))
    }
}

/// Calls `end` with the place after each record's line break until it says that it is enough.
fn scan(
    bytes: &[u8],
    scanned: &mut usize,
    state: &mut State,
    delimiter: u8,
    mut end: impl FnMut(usize) -> bool,
) -> bool {
    let from = *scanned;
    let rest = bytes.get(from..).unwrap_or_default();
    *scanned = bytes.len();
    // Most files have no quotes, and this way is ten times as fast.
    if matches!(state, State::FieldStart | State::Plain) && memchr::memchr(b'"', rest).is_none() {
        if let Some(&last) = rest.last() {
            *state = if last == b'\n' || last == delimiter { State::FieldStart } else { State::Plain };
        }
        return memchr::memchr_iter(b'\n', rest).any(|i| end(from + i + 1));
    }
    for (i, &byte) in rest.iter().enumerate() {
        *state = match (*state, byte) {
            (State::FieldStart, b'"') => State::Quoted,
            (State::Quoted, b'"') => State::QuoteInQuotes,
            (State::QuoteInQuotes, b'"') => State::Quoted,
            (State::Quoted, _) => State::Quoted,
            (_, b'\n') => {
                if end(from + i + 1) {
                    return true;
                }
                State::FieldStart
            }
            (_, b) if b == delimiter => State::FieldStart,
            _ => State::Plain,
        };
    }
    false
}
