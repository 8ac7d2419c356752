//! A chunk of records → tensors and the fields that pass through.

use super::Chunk;
use crate::{
    elements::Elements,
    number::Wrong,
    plan::{Action, Plan},
    run::{Failure, Passed, Piece},
};
use rust_host_engine::Result;
use std::{borrow::Cow, ops::Range};

/// One field: its bytes with their quotes, where the next one begins, and whether it was the record's last.
#[inline]
pub(crate) fn field(bytes: &[u8], at: usize, delimiter: u8) -> (Range<usize>, usize, bool) {
    let mut end = at;
    if bytes.get(at) == Some(&b'"') {
        end += 1;
        // A doubled quote looks like the end of one quoted part and the beginning of the next.
        while let Some(quote) = bytes.get(end..).and_then(|rest| memchr::memchr(b'"', rest)) {
            end += quote + 1;
            if bytes.get(end) != Some(&b'"') {
                break;
            }
            end += 1;
        }
    }
    let rest = bytes.get(end..).unwrap_or_default();
    match rest.iter().position(|&b| b == delimiter || b == b'\n') {
        Some(n) if rest.get(n) == Some(&delimiter) => (at..end + n, end + n + 1, false),
        Some(n) => {
            let stop = end + n;
            let cr = stop > at && bytes.get(stop - 1) == Some(&b'\r');
            (at..stop - usize::from(cr), stop + 1, true)
        }
        None => {
            let stop = bytes.len();
            let cr = stop > at && bytes.last() == Some(&b'\r');
            (at..stop - usize::from(cr), stop, true)
        }
    }
}

/// What a field says, without its quotes.
pub(crate) fn unquoted(raw: &[u8]) -> Cow<'_, [u8]> {
    let Some(inner) = raw.strip_prefix(b"\"") else { return Cow::Borrowed(raw) };
    if let Some(plain) = inner.strip_suffix(b"\"")
        && memchr::memchr(b'"', plain).is_none()
    {
        return Cow::Borrowed(plain);
    }
    let (mut out, mut at, mut quoted) = (Vec::with_capacity(inner.len()), 0, true);
    while let Some(&byte) = inner.get(at) {
        at += 1;
        match byte {
            b'"' if quoted && inner.get(at) == Some(&b'"') => {
                out.push(b'"');
                at += 1;
            }
            b'"' if quoted => quoted = false,
            other => out.push(other),
        }
    }
    Cow::Owned(out)
}

/// Turns chunks into pieces; many threads use one.
pub(crate) struct Parser {
    pub plan: Plan,
    pub names: Vec<String>,
    pub delimiter: u8,
    /// Nothing behind a failed row is needed.
    pub stop: bool,
}

impl Parser {
    pub(crate) fn parse(&self, chunk: Chunk) -> Result<Piece> {
        let inputs = &self.plan.inputs;
        let mut slots: Vec<Elements> = inputs.iter().map(|i| Elements::new(i.datatype, 0)).collect();
        slots.iter_mut().zip(inputs).for_each(|(slot, input)| slot.resize(chunk.rows * input.width));
        let mut reading = Reading {
            parser: self,
            bytes: &chunk.bytes,
            at: 0,
            slots,
            good: 0,
            fields: Vec::with_capacity(chunk.rows * self.plan.passed.len()),
            wrong: None,
        };
        let (mut rows, mut failed) = (0, Vec::new());
        while reading.at < chunk.bytes.len() {
            if reading.skip_blank_line() {
                continue;
            }
            reading.record();
            reading.fields.resize((rows + 1) * self.plan.passed.len(), (0, 0));
            match reading.wrong.take() {
                None => reading.good += 1,
                Some(what) => failed.push(Failure { row: rows, what }),
            }
            rows += 1;
            if self.stop && !failed.is_empty() {
                break;
            }
        }
        let Reading { slots, good, fields, .. } = reading;
        let tensor = |(mut slot, input): (Elements, &crate::plan::Input)| {
            slot.resize(good * input.width);
            slot.into_tensor(input.shape(good))
        };
        let inputs = slots.into_iter().zip(inputs).map(tensor).collect::<Result<_>>()?;
        let length = chunk.bytes.len() as u64;
        let passed = Passed::Csv { bytes: chunk.bytes, fields, delimiter: self.delimiter };
        Ok(Piece { rows, bytes: length, inputs, passed, failed })
    }
}

struct Reading<'a> {
    parser: &'a Parser,
    bytes: &'a [u8],
    at: usize,
    slots: Vec<Elements>,
    /// Rows without a mistake.
    good: usize,
    fields: Vec<(u32, u32)>,
    wrong: Option<String>,
}

impl Reading<'_> {
    /// As pandas and the `csv` crate do.
    fn skip_blank_line(&mut self) -> bool {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = if rest.starts_with(b"\n") {
            1
        } else if rest.starts_with(b"\r\n") {
            2
        } else {
            return rest == b"\r" && {
                self.at += 1;
                true
            };
        };
        self.at += length;
        true
    }

    fn record(&mut self) {
        let (delimiter, actions) = (self.parser.delimiter, &self.parser.plan.actions);
        let mut column = 0;
        loop {
            let last = match actions.get(column) {
                Some(&Action::Input { slot, offset }) => match self.number(slot, offset) {
                    Some(last) => last,
                    None => self.slow_number(slot, offset, column),
                },
                Some(Action::Pass) => {
                    let (raw, next, last) = field(self.bytes, self.at, delimiter);
                    // A chunk has at most 64 MiB more than its limit.
                    self.fields.push((raw.start as u32, raw.end as u32));
                    self.at = next;
                    last
                }
                None => {
                    let (_, next, last) = field(self.bytes, self.at, delimiter);
                    self.at = next;
                    last
                }
            };
            column += 1;
            if last {
                break;
            }
        }
        if column != actions.len() {
            let s = if column == 1 { "" } else { "s" };
            self.wrong = Some(format!("it has {column} value{s}, the header names {} columns", actions.len()));
        }
    }

    /// A number that ends where its field ends.
    #[inline]
    fn number(&mut self, slot: usize, offset: usize) -> Option<bool> {
        let place = self.good * self.parser.plan.inputs.get(slot)?.width + offset;
        let length = self.slots.get_mut(slot)?.set_fast(place, self.bytes.get(self.at..)?)?;
        let end = self.at + length;
        let (next, last) = match self.bytes.get(end) {
            Some(&b) if b == self.parser.delimiter => (end + 1, false),
            Some(b'\n') => (end + 1, true),
            Some(b'\r') if self.bytes.get(end + 1) == Some(&b'\n') => (end + 2, true),
            None => (end, true),
            Some(_) => return None,
        };
        self.at = next;
        Some(last)
    }

    #[cold]
    fn slow_number(&mut self, slot: usize, offset: usize, column: usize) -> bool {
        let (raw, next, last) = field(self.bytes, self.at, self.parser.delimiter);
        self.at = next;
        let text = unquoted(self.bytes.get(raw).unwrap_or_default());
        let Some(input) = self.parser.plan.inputs.get(slot) else { return last };
        let place = self.good * input.width + offset;
        let Some(Err(wrong)) = self.slots.get_mut(slot).map(|s| s.set(place, &text)) else { return last };
        if self.wrong.is_none() {
            let name = self.parser.names.get(column).map_or("", String::as_str);
            self.wrong = Some(said(name, &text, wrong, input.datatype.as_str()));
        }
        last
    }
}

/// `column `b`: `abc` is no number`
pub(crate) fn said(column: &str, text: &[u8], wrong: Wrong, datatype: &str) -> String {
    const LONGEST: usize = 60;
    let text = String::from_utf8_lossy(text);
    let mut text = text.trim().to_owned();
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    let what = match wrong {
        Wrong::Missing => "the value is missing".to_owned(),
        Wrong::NoNumber => format!("`{text}` is no number"),
        Wrong::NoInteger => format!("`{text}` is no whole number, expected {datatype}"),
        Wrong::Range => format!("`{text}` is beyond the range of {datatype}"),
        Wrong::NoBool => format!("`{text}` is neither true nor false"),
    };
    format!("column `{column}`: {what}")
}
