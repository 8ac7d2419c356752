//! A CSV file → pieces. Read by our own code: on two cores the `csv` crate's records alone took longer than model, numbers
//! and output together. The tests compare it with that crate.

mod cut;
mod parse;

pub(crate) use cut::Chunk;
pub(crate) use parse::{Parser, field, unquoted};

use crate::plan::Column;
use cut::{Cutter, Limits};
use rust_host_engine::{Error, ErrorKind, Result, file};
use std::path::Path;

/// Rows that say whether a column holds numbers.
const SAMPLE: usize = 100;

/// An open file, past its header.
pub(crate) struct Table {
    pub delimiter: u8,
    pub columns: Vec<Column>,
    /// Bytes of the file; 0 where it is a pipe.
    pub size: u64,
    first: Option<Chunk>,
    cutter: Cutter,
}

impl Table {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`; `InvalidInput` if it is empty, of another encoding or has no usable header.
    pub(crate) fn open(path: &Path, rows: Option<usize>) -> Result<Self> {
        let shown = path.display();
        let file = file::open(path, ErrorKind::InvalidInput)?;
        let size = file.metadata().map_or(0, |m| if m.is_file() { m.len() } else { 0 });
        let mut cutter = Cutter::new(file, path.to_owned());
        let head = cutter.peek()?;
        if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
            return Err(Error::invalid_input(format!("`{shown}` is encoded as UTF-16, expected UTF-8"))
                .hint("`iconv -f UTF-16 -t UTF-8` converts it"));
        }
        if head.starts_with(b"PAR1") || head.starts_with(b"PK\x03\x04") || head.contains(&0) {
            return Err(Error::invalid_input(format!("`{shown}` is no text, expected a CSV file")));
        }
        if memchr::memchr(b'\n', head).is_none() && head.contains(&b'\r') {
            return Err(Error::invalid_input(format!("`{shown}`: its lines end in CR alone, expected LF or CR LF"))
                .hint("`tr '\\r' '\\n'` converts it"));
        }
        let delimiter = delimiter(path, head);
        cutter.delimiter = delimiter;
        let empty =
            || Error::invalid_input(format!("`{shown}` is empty, expected a line with the names of the columns"));
        let header = loop {
            let chunk = cutter.next(Limits { rows: 1, bytes: usize::MAX })?.ok_or_else(empty)?;
            let line = chunk.bytes.strip_prefix(b"\xef\xbb\xbf").map(<[u8]>::to_vec).unwrap_or(chunk.bytes);
            if !line.trim_ascii().is_empty() {
                break line;
            }
        };
        let names =
            names(&header, delimiter).map_err(|e| Error { message: format!("`{shown}`: {}", e.message), ..e })?;
        cutter.limits = match rows {
            // A chunk counts its bytes in 32 bits.
            Some(rows) => Limits { rows, bytes: 256 << 20 },
            None => Limits { rows: 4096, bytes: 1 << 20 },
        };
        let first = cutter.next(cutter.limits)?;
        let numeric = numeric(first.as_ref(), names.len(), delimiter);
        let columns = names
            .into_iter()
            .zip(numeric)
            .map(|(name, numeric)| Column { name, numeric, list: false, items: None })
            .collect();
        Ok(Self { delimiter, columns, size, first, cutter })
    }

    /// The next rows; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Chunk>> {
        match self.first.take() {
            Some(chunk) => Ok(Some(chunk)),
            None => self.cutter.next(self.cutter.limits),
        }
    }
}

/// A tab for `.tsv`; else a comma, or what the header has where it has no comma.
fn delimiter(path: &Path, head: &[u8]) -> u8 {
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tsv")) {
        return b'\t';
    }
    let line = head.split(|&b| b == b'\n').find(|l| !l.trim_ascii().is_empty()).unwrap_or_default();
    let mut quoted = false;
    let plain: Vec<u8> = line
        .iter()
        .copied()
        .filter(|&b| {
            quoted ^= b == b'"';
            !quoted
        })
        .collect();
    *[b',', b'\t', b';'].iter().find(|d| plain.contains(d)).unwrap_or(&b',')
}

fn names(header: &[u8], delimiter: u8) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut at = 0;
    loop {
        let (raw, next, last) = field(header, at, delimiter);
        let text = unquoted(header.get(raw).unwrap_or_default()).into_owned();
        let name = String::from_utf8(text).map_err(|_| {
            Error::invalid_input("the names of the columns are not UTF-8").hint("save the file as UTF-8")
        })?;
        names.push(name.trim().to_owned());
        if last {
            return Ok(names);
        }
        at = next;
    }
}

/// Whether most of what each column has in the first rows is a number: one typing error makes no column of text.
fn numeric(first: Option<&Chunk>, count: usize, delimiter: u8) -> Vec<bool> {
    let mut balance = vec![0i32; count];
    let Some(chunk) = first else { return vec![true; count] };
    let (mut at, mut column, mut rows) = (0, 0, 0);
    while at < chunk.bytes.len() && rows < SAMPLE {
        let (raw, next, last) = field(&chunk.bytes, at, delimiter);
        let text = unquoted(chunk.bytes.get(raw).unwrap_or_default());
        let text = text.trim_ascii();
        if let Some(slot) = balance.get_mut(column)
            && !text.is_empty()
        {
            *slot += if fast_float2::parse::<f64, _>(text).is_ok() { 1 } else { -1 };
        }
        column = if last { 0 } else { column + 1 };
        rows += usize::from(last);
        at = next;
    }
    balance.into_iter().map(|n| n >= 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every record of `text` as our code cuts and splits it, with chunks of `rows`.
    fn ours(text: &[u8], rows: usize) -> Vec<Vec<Vec<u8>>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, text).unwrap();
        let mut cutter = Cutter::new(file.reopen().unwrap(), file.path().to_owned());
        let mut records = Vec::new();
        while let Some(chunk) = cutter.next(Limits { rows, bytes: 40 }).unwrap() {
            let (mut at, mut record) = (0, Vec::new());
            while at < chunk.bytes.len() {
                let (raw, next, last) = field(&chunk.bytes, at, b',');
                record.push(unquoted(&chunk.bytes[raw]).into_owned());
                at = next;
                if last {
                    records.push(std::mem::take(&mut record));
                }
            }
            if !record.is_empty() {
                // The file ends with a delimiter.
                record.push(Vec::new());
                records.push(record);
            }
        }
        records.retain(|r| r != &[Vec::<u8>::new()]);
        records
    }

    fn theirs(text: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text);
        let mut records: Vec<Vec<Vec<u8>>> =
            reader.byte_records().map(|r| r.unwrap().iter().map(<[u8]>::to_vec).collect()).collect();
        records.retain(|r| r != &[Vec::<u8>::new()]);
        records
    }

    #[test]
    fn records_and_fields_are_those_of_the_csv_crate() {
        let mut seed = 1u64;
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        let parts: [&[u8]; 12] = [
            b",",
            b",",
            b"\n",
            b"\r\n",
            b"\"a\"",
            b"\"b,c\"",
            b"\"d\ne\"",
            b"\"f\"\"g\"",
            b"hij",
            b"1.5",
            b" ",
            b"k\"l",
        ];
        for round in 0..3000 {
            let mut text = Vec::new();
            let mut before = 2;
            for _ in 0..random(30) {
                let part = random(12) as usize;
                // Quotes begin at the start of a field only, and nothing but its end follows them.
                let value = |p: usize| p >= 4;
                if value(part) && value(before) {
                    continue;
                }
                text.extend_from_slice(parts[part]);
                before = part;
            }
            for rows in [1, 3] {
                assert_eq!(ours(&text, rows), theirs(&text), "{round}: {:?}", String::from_utf8_lossy(&text));
            }
        }
    }
}
