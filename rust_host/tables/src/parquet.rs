//! Parquet in and out, by the crates of Apache Arrow: record batches → tensors, outputs → record batches.

use crate::{
    columns::{Layout, OutputColumn, Shown},
    csv::unquoted,
    elements::Elements,
    encode::json_text,
    file::AtomicFile,
    plan::{Column, Input, Plan},
    run::{Batch, Failure, Passed, Piece},
};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, BooleanArray, PrimitiveArray, RecordBatch, StringArray, cast::AsArray, types,
};
use arrow_buffer::ArrowNativeType;
use arrow_cast::{CastOptions, cast_with_options, display::array_value_to_string};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
    },
    basic::Compression,
    file::properties::WriterProperties,
};
use rust_host_engine::{Datatype, Error, Result, Tensor, error::ErrorKind, file};
use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Rows that are compressed together; what a writer holds in memory.
const ROW_GROUP: usize = 128 << 10;

/// An open file.
pub(crate) struct Table {
    pub columns: Vec<Column>,
    pub fields: Vec<Arc<Field>>,
    pub rows: u64,
    path: PathBuf,
    first: Option<RecordBatch>,
    reader: ParquetRecordBatchReader,
}

impl Table {
    pub(crate) fn open(path: &Path, batch_size: usize) -> Result<Self> {
        let file = file::open(path, ErrorKind::InvalidInput)?;
        let wrong = |e: &dyn std::fmt::Display| {
            Error::invalid_input(format!("`{}`: it cannot be read as Parquet: {e}", path.display()))
        };
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| wrong(&e))?;
        let rows = builder.metadata().file_metadata().num_rows().max(0) as u64;
        let fields: Vec<Arc<Field>> = builder.schema().fields().iter().cloned().collect();
        let mut reader = builder.with_batch_size(batch_size).build().map_err(|e| wrong(&e))?;
        let first = reader.next().transpose().map_err(|e| wrong(&e))?;
        let columns = columns(&fields, first.as_ref());
        Ok(Self { columns, fields, rows, path: path.to_owned(), first, reader })
    }

    pub(crate) fn next(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        self.reader
            .next()
            .transpose()
            .map_err(|e| Error::invalid_input(format!("`{}`: it cannot be read as Parquet: {e}", self.path.display())))
    }
}

/// What the columns of a schema can be to a model.
pub(crate) fn columns(fields: &[Arc<Field>], first: Option<&RecordBatch>) -> Vec<Column> {
    let column = |(i, field): (usize, &Arc<Field>)| Column {
        name: field.name().clone(),
        numeric: is_number(field.data_type()),
        items: items(field.data_type(), first.and_then(|b| b.columns().get(i))),
    };
    fields.iter().enumerate().map(column).collect()
}

fn is_number(kind: &DataType) -> bool {
    kind.is_numeric() || *kind == DataType::Boolean
}

/// How many numbers a list column has a row: by its type, else by its first row.
fn items(kind: &DataType, column: Option<&ArrayRef>) -> Option<usize> {
    match kind {
        DataType::FixedSizeList(item, n) if is_number(item.data_type()) => usize::try_from(*n).ok(),
        DataType::List(item) if is_number(item.data_type()) => {
            let lists = column?.as_list_opt::<i32>()?;
            (0..lists.len()).find(|&i| lists.is_valid(i)).map(|i| lists.value_length(i) as usize)
        }
        DataType::LargeList(item) if is_number(item.data_type()) => {
            let lists = column?.as_list_opt::<i64>()?;
            (0..lists.len()).find(|&i| lists.is_valid(i)).map(|i| lists.value_length(i) as usize)
        }
        _ => None,
    }
}

/// Columns that pass through.
pub(crate) struct Cells(pub Vec<ArrayRef>);

impl Cells {
    pub(crate) fn text(&self, row: usize, column: usize) -> Option<String> {
        let array = self.0.get(column).filter(|a| a.is_valid(row))?;
        array_value_to_string(array, row).ok()
    }

    pub(crate) fn json(&self, row: usize, column: usize) -> String {
        let Some(text) = self.text(row, column) else { return "null".to_owned() };
        let bare = self.0.get(column).is_some_and(|a| is_number(a.data_type()));
        match text.parse::<f64>() {
            Ok(x) if bare && x.is_finite() => text,
            Ok(_) if bare => "null".to_owned(),
            Err(_) if bare => text,
            _ => json_text(&text),
        }
    }
}

/// One column of an input, in its datatype: `width` values a row from `start`.
struct Values {
    array: ArrayRef,
    starts: Option<Vec<usize>>,
    width: usize,
}

/// A record batch → a piece.
pub(crate) fn decode(plan: &Plan, batch: &RecordBatch) -> Result<Piece> {
    let rows = batch.num_rows();
    let mut wrong: Vec<Option<String>> = vec![None; rows];
    let mut all = Vec::with_capacity(plan.inputs.len());
    for input in &plan.inputs {
        let columns = input.columns.iter().map(|&c| values(batch, c, input, &mut wrong)).collect::<Result<Vec<_>>>()?;
        all.push(columns);
    }
    let good: Vec<usize> = (0..rows).filter(|&i| wrong.get(i).is_some_and(Option::is_none)).collect();
    let tensors = plan.inputs.iter().zip(&all).map(|(input, columns)| tensor(input, columns, &good));
    let inputs = tensors.collect::<Result<_>>()?;
    let failed = wrong.into_iter().enumerate().filter_map(|(row, what)| Some(Failure { row, what: what? })).collect();
    let passed = plan.passed.iter().filter_map(|&c| batch.columns().get(c).cloned()).collect();
    Ok(Piece { rows, bytes: rows as u64, inputs, passed: Passed::Arrow(Cells(passed)), failed })
}

fn values(batch: &RecordBatch, column: usize, input: &Input, wrong: &mut [Option<String>]) -> Result<Values> {
    let schema = batch.schema();
    let name = schema.fields().get(column).map_or("", |f| f.name().as_str());
    let array = batch.columns().get(column).ok_or_else(|| Error::internal("a column is missing"))?;
    let mut fail = |row: usize, what: String| {
        if let Some(slot @ None) = wrong.get_mut(row) {
            *slot = Some(format!("column `{name}`: {what}"));
        }
    };
    let cast = |array: &ArrayRef| {
        let options = CastOptions { safe: true, ..CastOptions::default() };
        cast_with_options(array, &arrow_type(input.datatype), &options).map_err(|_| {
            Error::invalid_input(format!(
                "column `{name}` has values of the type {}, the input `{}` takes {}",
                array.data_type(),
                input.name,
                input.datatype
            ))
        })
    };
    let (child, starts) = if let Some(lists) = array.as_fixed_size_list_opt() {
        (lists.values().clone(), (0..lists.len()).map(|i| (lists.value_offset_at(i), input.width)).collect())
    } else if let Some(lists) = array.as_list_opt::<i32>() {
        let length = |i| (lists.value_offsets()[i] as usize, lists.value_length(i) as usize);
        (lists.values().clone(), (0..lists.len()).map(length).collect::<Vec<_>>())
    } else if let Some(lists) = array.as_list_opt::<i64>() {
        let length = |i| (lists.value_offsets()[i] as usize, lists.value_length(i) as usize);
        (lists.values().clone(), (0..lists.len()).map(length).collect())
    } else {
        let values = cast(array)?;
        if values.null_count() > 0 {
            for row in (0..values.len()).filter(|&i| values.is_null(i)) {
                let what = match array.is_null(row) {
                    true => "the value is missing".to_owned(),
                    false => format!(
                        "`{}` does not fit {}",
                        array_value_to_string(array, row).unwrap_or_default(),
                        input.datatype
                    ),
                };
                fail(row, what);
            }
        }
        return Ok(Values { array: values, starts: None, width: 1 });
    };
    let values = cast(&child)?;
    for (row, &(start, length)) in starts.iter().enumerate() {
        if array.is_null(row) || (start..start + length).any(|i| values.is_null(i)) {
            fail(row, "a value is missing".to_owned());
        } else if length != input.width {
            fail(row, format!("it has {length} values, expected {}", input.width));
        }
    }
    Ok(Values { array: values, starts: Some(starts.into_iter().map(|(s, _)| s).collect()), width: input.width })
}

/// The rows that are good, row by row.
fn tensor(input: &Input, columns: &[Values], good: &[usize]) -> Result<Tensor> {
    fn rows<T: ArrowPrimitiveType, E: Copy + Default>(
        columns: &[Values],
        good: &[usize],
        width: usize,
        convert: impl Fn(T::Native) -> E,
    ) -> Vec<E> {
        let mut out = vec![E::default(); good.len() * width];
        let mut offset = 0;
        for column in columns {
            let Some(array) = column.array.as_primitive_opt::<T>() else { continue };
            let values = array.values();
            for (row, out) in good.iter().zip(out.chunks_exact_mut(width.max(1))) {
                let start = column.starts.as_ref().map_or(*row, |s| s.get(*row).copied().unwrap_or(0));
                for (i, slot) in out.iter_mut().skip(offset).take(column.width).enumerate() {
                    *slot = values.get(start + i).map_or_else(E::default, |v| convert(*v));
                }
            }
            offset += column.width;
        }
        out
    }
    macro_rules! plain {
        ($t:ident) => {
            rows::<types::$t, _>(columns, good, input.width, |v| v)
        };
    }
    let elements = match input.datatype {
        Datatype::Uint8 => Elements::Uint8(plain!(UInt8Type)),
        Datatype::Uint16 => Elements::Uint16(plain!(UInt16Type)),
        Datatype::Uint32 => Elements::Uint32(plain!(UInt32Type)),
        Datatype::Uint64 => Elements::Uint64(plain!(UInt64Type)),
        Datatype::Int8 => Elements::Int8(plain!(Int8Type)),
        Datatype::Int16 => Elements::Int16(plain!(Int16Type)),
        Datatype::Int32 => Elements::Int32(plain!(Int32Type)),
        Datatype::Int64 => Elements::Int64(plain!(Int64Type)),
        Datatype::Fp32 => Elements::Fp32(plain!(Float32Type)),
        Datatype::Fp64 => Elements::Fp64(plain!(Float64Type)),
        Datatype::Fp16 => {
            Elements::Fp16(rows::<types::Float32Type, _>(columns, good, input.width, half::f16::from_f32))
        }
        Datatype::Bf16 => {
            Elements::Bf16(rows::<types::Float32Type, _>(columns, good, input.width, half::bf16::from_f32))
        }
        // As bytes: arrow's booleans are bits.
        Datatype::Bool => Elements::Bool(rows::<types::UInt8Type, _>(columns, good, input.width, |v| v != 0)),
    };
    elements.into_tensor(input.shape(good.len()))
}

fn arrow_type(datatype: Datatype) -> DataType {
    match datatype {
        Datatype::Uint8 | Datatype::Bool => DataType::UInt8,
        Datatype::Uint16 => DataType::UInt16,
        Datatype::Uint32 => DataType::UInt32,
        Datatype::Uint64 => DataType::UInt64,
        Datatype::Int8 => DataType::Int8,
        Datatype::Int16 => DataType::Int16,
        Datatype::Int32 => DataType::Int32,
        Datatype::Int64 => DataType::Int64,
        Datatype::Fp64 => DataType::Float64,
        Datatype::Fp32 | Datatype::Fp16 | Datatype::Bf16 => DataType::Float32,
    }
}

/// The columns of the output; `passed` are the input's own where it was Parquet, else text.
pub(crate) fn schema(layout: &Layout, passed: Option<&[Arc<Field>]>) -> SchemaRef {
    let mut fields: Vec<Arc<Field>> = match passed {
        Some(fields) => fields.to_vec(),
        None => {
            layout.names.iter().take(layout.passed).map(|n| Arc::new(Field::new(n, DataType::Utf8, true))).collect()
        }
    };
    for (name, column) in layout.names.iter().skip(layout.passed).zip(&layout.columns) {
        let kind = match column.shown {
            Shown::Label(_) => DataType::Utf8,
            Shown::Score(_) => DataType::Float32,
            Shown::Value(_) if column.datatype == Datatype::Bool => DataType::Boolean,
            Shown::Value(_) => arrow_type(column.datatype),
        };
        fields.push(Arc::new(Field::new(name, kind, true)));
    }
    Arc::new(Schema::new(fields))
}

/// All rows of a batch.
pub(crate) fn record(batch: &Batch, layout: &Layout, passed: Option<&[Arc<Field>]>) -> Result<RecordBatch> {
    let mut arrays = Vec::with_capacity(layout.names.len());
    for column in 0..layout.passed {
        arrays.push(passed_array(batch, layout, column)?);
    }
    for column in &layout.columns {
        arrays.push(output_array(batch, layout, column));
    }
    RecordBatch::try_new(schema(layout, passed), arrays)
        .map_err(|e| Error::internal(format!("the columns differ: {e}")))
}

fn passed_array(batch: &Batch, layout: &Layout, column: usize) -> Result<ArrayRef> {
    // A batch of Parquet is one piece.
    if let Some(Passed::Arrow(cells)) = batch.pieces.first().map(|p| &p.passed) {
        return cells.0.get(column).cloned().ok_or_else(|| Error::internal("a column is missing"));
    }
    let mut texts = Vec::with_capacity(batch.places.len());
    for piece in &batch.pieces {
        for row in 0..piece.rows {
            texts.push(match &piece.passed {
                Passed::Csv { bytes, fields, .. } => {
                    let (from, to) = fields.get(row * layout.passed + column).copied().unwrap_or_default();
                    let raw = bytes.get(from as usize..to as usize).unwrap_or_default();
                    let text = String::from_utf8(unquoted(raw).into_owned()).map_err(|_| {
                        let name = layout.names.get(column).map_or("", String::as_str);
                        Error::invalid_input(format!("column `{name}` has text that is not UTF-8"))
                            .hint("save the table as UTF-8, or write a .csv")
                    })?;
                    // Nothing at all is a gap, `""` is a text.
                    (!raw.is_empty()).then_some(text)
                }
                Passed::Paths(paths) => paths.get(row).cloned(),
                Passed::Arrow(cells) => cells.text(row, column),
            });
        }
    }
    Ok(Arc::new(StringArray::from(texts)))
}

fn output_array(batch: &Batch, layout: &Layout, column: &OutputColumn) -> ArrayRef {
    let width = layout.widths.get(column.output).copied().unwrap_or(1);
    let tensor = |group: u32| batch.groups.get(group as usize).and_then(|g| g.get(column.output));
    if let Shown::Label(rank) | Shown::Score(rank) = column.shown {
        let labelled = layout.labelled.iter().find(|l| l.output == column.output);
        let likely: Vec<Vec<Vec<(usize, f64)>>> = (0..batch.groups.len() as u32)
            .map(|g| tensor(g).zip(labelled).map(|(t, l)| l.most_likely(t)).unwrap_or_default())
            .collect();
        let found = batch.places.iter().map(|place| {
            let (group, row) = (*place)?;
            likely.get(group as usize)?.get(row as usize)?.get(rank).copied()
        });
        return match column.shown {
            Shown::Score(_) => {
                Arc::new(found.map(|f| Some(f?.1 as f32)).collect::<PrimitiveArray<types::Float32Type>>())
            }
            _ => Arc::new(found.map(|f| labelled?.labels.get(f?.0).map(String::as_str)).collect::<StringArray>()),
        };
    }
    let Shown::Value(at) = column.shown else { return Arc::new(BooleanArray::from(vec![None; batch.places.len()])) };
    let bytes: Vec<&[u8]> = (0..batch.groups.len() as u32)
        .map(|g| tensor(g).and_then(Tensor::contiguous_bytes).unwrap_or_default())
        .collect();
    let size = column.datatype.size();
    let cells = batch.places.iter().map(|place| {
        let (group, row) = (*place)?;
        let start = (row as usize * width + at) * size;
        bytes.get(group as usize)?.get(start..start + size)
    });
    fn primitive<'b, T: ArrowPrimitiveType, E: bytemuck::AnyBitPattern>(
        cells: impl Iterator<Item = Option<&'b [u8]>>,
        convert: impl Fn(E) -> T::Native,
    ) -> ArrayRef
    where
        T::Native: ArrowNativeType,
    {
        Arc::new(cells.map(|c| Some(convert(bytemuck::pod_read_unaligned(c?)))).collect::<PrimitiveArray<T>>())
    }
    macro_rules! plain {
        ($t:ident, $e:ty) => {
            primitive::<types::$t, $e>(cells, |v| v)
        };
    }
    match column.datatype {
        Datatype::Bool => Arc::new(cells.map(|c| Some(c? != [0])).collect::<BooleanArray>()),
        Datatype::Uint8 => plain!(UInt8Type, u8),
        Datatype::Uint16 => plain!(UInt16Type, u16),
        Datatype::Uint32 => plain!(UInt32Type, u32),
        Datatype::Uint64 => plain!(UInt64Type, u64),
        Datatype::Int8 => plain!(Int8Type, i8),
        Datatype::Int16 => plain!(Int16Type, i16),
        Datatype::Int32 => plain!(Int32Type, i32),
        Datatype::Int64 => plain!(Int64Type, i64),
        Datatype::Fp32 => plain!(Float32Type, f32),
        Datatype::Fp64 => plain!(Float64Type, f64),
        Datatype::Fp16 => primitive::<types::Float32Type, half::f16>(cells, |v| v.to_f32()),
        Datatype::Bf16 => primitive::<types::Float32Type, half::bf16>(cells, |v| v.to_f32()),
    }
}

/// A Parquet file that is being written.
pub(crate) struct Writer {
    writer: ArrowWriter<File>,
    path: PathBuf,
}

impl Writer {
    pub(crate) fn new(file: &AtomicFile, path: &Path, schema: SchemaRef) -> Result<Self> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(ROW_GROUP))
            .build();
        let writer = ArrowWriter::try_new(file.handle()?, schema, Some(properties)).map_err(|e| failed(path, &e))?;
        Ok(Self { writer, path: path.to_owned() })
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.write(batch).map_err(|e| failed(&self.path, &e))
    }

    pub(crate) fn finish(self) -> Result<()> {
        let path = self.path;
        self.writer.close().map(drop).map_err(|e| failed(&path, &e))
    }
}

fn failed(path: &Path, error: &parquet::errors::ParquetError) -> Error {
    Error::new(ErrorKind::Unavailable, format!("`{}`: cannot write: {error}", path.display()))
}
