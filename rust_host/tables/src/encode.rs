//! Batches → the text of CSV and JSONL. This is where half of a large table's time goes, so numbers are written without
//! `fmt`.

use crate::{
    columns::{Layout, OutputColumn, Shown},
    csv::unquoted,
    run::{Batch, Passed},
};
use rust_host_engine::{Datatype, Error, Result, Tensor};

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Text {
    /// Values with this between them.
    Separated(u8),
    /// A JSON object a line.
    Jsonl,
    /// No text at all.
    #[cfg(feature = "batch")]
    Parquet,
}

/// The line with the names; empty for JSONL.
pub(crate) fn header(layout: &Layout, text: Text) -> Vec<u8> {
    let Text::Separated(delimiter) = text else { return Vec::new() };
    let mut out = Vec::new();
    for (i, name) in layout.names.iter().enumerate() {
        if i > 0 {
            out.push(delimiter);
        }
        quoted(&mut out, name.as_bytes(), delimiter);
    }
    out.push(b'\n');
    out
}

/// All rows of a batch.
pub(crate) fn rows(batch: &Batch, layout: &Layout, text: Text) -> Result<Vec<u8>> {
    let groups: Vec<GroupCells> = batch.groups.iter().map(|g| GroupCells::new(g, layout)).collect();
    let mut out = Vec::with_capacity(batch.places.len() * (layout.names.len() * 12 + 2));
    let keys: Vec<String> = match text {
        Text::Jsonl => layout.names.iter().map(|n| format!("{}: ", json_text(n))).collect(),
        _ => Vec::new(),
    };
    let mut places = batch.places.iter();
    for piece in &batch.pieces {
        for row in 0..piece.rows {
            let place = places.next().copied().flatten();
            match text {
                Text::Separated(delimiter) => {
                    let mut first = true;
                    let mut separate = |out: &mut Vec<u8>| {
                        if !std::mem::take(&mut first) {
                            out.push(delimiter);
                        }
                    };
                    for column in 0..layout.passed {
                        separate(&mut out);
                        passed_csv(&mut out, &piece.passed, row, column, layout.passed, delimiter);
                    }
                    for column in &layout.columns {
                        separate(&mut out);
                        if let Some((group, at)) = place {
                            groups[group as usize].csv(&mut out, column, at as usize, layout, delimiter);
                        }
                    }
                    // A line with nothing at all would be skipped by whoever reads it.
                    if layout.names.len() == 1 && out.last().is_none_or(|&b| b == b'\n') {
                        out.extend_from_slice(b"\"\"");
                    }
                    out.push(b'\n');
                }
                Text::Jsonl => {
                    out.push(b'{');
                    for (i, key) in keys.iter().enumerate() {
                        if i > 0 {
                            out.extend_from_slice(b", ");
                        }
                        out.extend_from_slice(key.as_bytes());
                        match (layout.columns.get(i.wrapping_sub(layout.passed)), place) {
                            (Some(column), Some((group, at))) if i >= layout.passed => {
                                groups[group as usize].json(&mut out, column, at as usize, layout);
                            }
                            (Some(_), _) if i >= layout.passed => out.extend_from_slice(b"null"),
                            _ => passed_json(&mut out, &piece.passed, row, i, layout)?,
                        }
                    }
                    out.extend_from_slice(b"}\n");
                }
                #[cfg(feature = "batch")]
                Text::Parquet => {}
            }
        }
    }
    Ok(out)
}

/// The outputs of one group as cells.
struct GroupCells<'a> {
    outputs: &'a [Tensor],
    bytes: Vec<&'a [u8]>,
    likely: Vec<Vec<Vec<(usize, f64)>>>,
}

impl<'a> GroupCells<'a> {
    fn new(outputs: &'a [Tensor], layout: &Layout) -> Self {
        let bytes = outputs.iter().map(|t| t.contiguous_bytes().unwrap_or_default()).collect();
        let of = |l: &crate::columns::Labelled| outputs.get(l.output).map(|t| l.most_likely(t)).unwrap_or_default();
        Self { outputs, bytes, likely: layout.labelled.iter().map(of).collect() }
    }

    fn csv(&self, out: &mut Vec<u8>, column: &OutputColumn, row: usize, layout: &Layout, delimiter: u8) {
        match column.shown {
            Shown::Value(at) => self.value(out, column.output, row, at, layout, false),
            Shown::Label(rank) => {
                let label = self.label(column.output, row, rank, layout).map_or("", |(label, _)| label);
                quoted(out, label.as_bytes(), delimiter);
            }
            Shown::Score(rank) => {
                let score = self.label(column.output, row, rank, layout).map_or(f64::NAN, |(_, score)| score);
                float(out, score as f32, false);
            }
        }
    }

    fn json(&self, out: &mut Vec<u8>, column: &OutputColumn, row: usize, layout: &Layout) {
        match column.shown {
            Shown::Value(at) => self.value(out, column.output, row, at, layout, true),
            Shown::Label(rank) => {
                let label = self.label(column.output, row, rank, layout).map_or("", |(label, _)| label);
                out.extend_from_slice(json_text(label).as_bytes());
            }
            Shown::Score(rank) => {
                let score = self.label(column.output, row, rank, layout).map_or(f64::NAN, |(_, score)| score);
                float(out, score as f32, true);
            }
        }
    }

    fn label<'l>(&self, output: usize, row: usize, rank: usize, layout: &'l Layout) -> Option<(&'l str, f64)> {
        let i = layout.labelled.iter().position(|l| l.output == output)?;
        let &(number, score) = self.likely.get(i)?.get(row)?.get(rank)?;
        Some((layout.labelled.get(i)?.labels.get(number)?, score))
    }

    #[inline]
    fn value(&self, out: &mut Vec<u8>, output: usize, row: usize, at: usize, layout: &Layout, json: bool) {
        let (Some(tensor), Some(bytes), Some(width)) =
            (self.outputs.get(output), self.bytes.get(output), layout.widths.get(output))
        else {
            return;
        };
        let size = tensor.datatype().size();
        let start = (row * width + at) * size;
        if let Some(bytes) = bytes.get(start..start + size) {
            number(out, tensor.datatype(), bytes, json);
        }
    }
}

#[inline]
fn number(out: &mut Vec<u8>, datatype: Datatype, bytes: &[u8], json: bool) {
    macro_rules! read {
        ($t:ty) => {
            bytemuck::pod_read_unaligned::<$t>(bytes)
        };
    }
    macro_rules! integer {
        ($t:ty) => {
            out.extend_from_slice(itoa::Buffer::new().format(read!($t)).as_bytes())
        };
    }
    match datatype {
        Datatype::Fp32 => float(out, read!(f32), json),
        Datatype::Fp64 => float(out, read!(f64), json),
        Datatype::Fp16 => float(out, read!(half::f16).to_f32(), json),
        Datatype::Bf16 => float(out, read!(half::bf16).to_f32(), json),
        Datatype::Bool => out.extend_from_slice(if bytes == [0] { b"false" } else { b"true" }),
        Datatype::Uint8 => integer!(u8),
        Datatype::Uint16 => integer!(u16),
        Datatype::Uint32 => integer!(u32),
        Datatype::Uint64 => integer!(u64),
        Datatype::Int8 => integer!(i8),
        Datatype::Int16 => integer!(i16),
        Datatype::Int32 => integer!(i32),
        Datatype::Int64 => integer!(i64),
    }
}

/// The shortest digits that read back as the same number; JSON has no infinity and no NaN.
#[inline]
fn float<F: zmij::Float + Copy + Into<f64>>(out: &mut Vec<u8>, value: F, json: bool) {
    if json && !value.into().is_finite() {
        return out.extend_from_slice(b"null");
    }
    out.extend_from_slice(zmij::Buffer::new().format(value).as_bytes());
}

/// A field that passes through: byte for byte where the delimiter stays the same.
fn passed_csv(out: &mut Vec<u8>, passed: &Passed, row: usize, column: usize, count: usize, delimiter: u8) {
    match passed {
        Passed::Csv { bytes, fields, delimiter: before } => {
            let (from, to) = fields.get(row * count + column).copied().unwrap_or_default();
            let raw = bytes.get(from as usize..to as usize).unwrap_or_default();
            if *before == delimiter {
                out.extend_from_slice(raw);
            } else {
                quoted(out, &unquoted(raw), delimiter);
            }
        }
        Passed::Paths(paths) => quoted(out, paths.get(row).map_or(b"", |p| p.as_bytes()), delimiter),
        #[cfg(all(feature = "arrow", not(feature = "batch")))]
        Passed::Arrow(_) => {}
        #[cfg(feature = "batch")]
        Passed::Arrow(cells) => {
            if let Some(text) = cells.text(row, column) {
                quoted(out, text.as_bytes(), delimiter);
            }
        }
    }
}

fn passed_json(out: &mut Vec<u8>, passed: &Passed, row: usize, column: usize, layout: &Layout) -> Result<()> {
    match passed {
        Passed::Csv { bytes, fields, .. } => {
            let (from, to) = fields.get(row * layout.passed + column).copied().unwrap_or_default();
            let text = unquoted(bytes.get(from as usize..to as usize).unwrap_or_default());
            let text = std::str::from_utf8(&text).map_err(|_| {
                let name = layout.names.get(column).map_or("", String::as_str);
                Error::invalid_input(format!("column `{name}` has text that is not UTF-8, which JSON cannot hold"))
                    .hint("save the table as UTF-8, or write a .csv")
            })?;
            out.extend_from_slice(json_text(text).as_bytes());
        }
        Passed::Paths(paths) => {
            out.extend_from_slice(json_text(paths.get(row).map_or("", String::as_str)).as_bytes());
        }
        #[cfg(all(feature = "arrow", not(feature = "batch")))]
        Passed::Arrow(_) => {}
        #[cfg(feature = "batch")]
        Passed::Arrow(cells) => out.extend_from_slice(cells.json(row, column).as_bytes()),
    }
    Ok(())
}

pub(crate) fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Quotes a value where CSV needs it.
fn quoted(out: &mut Vec<u8>, text: &[u8], delimiter: u8) {
    if !text.iter().any(|&b| b == delimiter || matches!(b, b'"' | b'\n' | b'\r')) {
        return out.extend_from_slice(text);
    }
    out.push(b'"');
    for &byte in text {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}
