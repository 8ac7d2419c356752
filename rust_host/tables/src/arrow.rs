//! Record batches → tensors, outputs → record batches, by the crates of Apache Arrow.

use crate::{
    cast::{arrow_type, cast, shown},
    columns::{Layout, OutputColumn, Shown},
    csv::unquoted,
    elements::Elements,
    plan::{Column, Input, Plan},
    run::{Batch, Failure, Passed, Piece},
};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, BooleanArray, GenericListArray, OffsetSizeTrait, PrimitiveArray, RecordBatch,
    StringArray, cast::AsArray, types,
};
use arrow_buffer::ArrowNativeType;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use rust_host_engine::{Datatype, Error, Result, Tensor};
use std::sync::Arc;

/// What the columns of a schema can be to a model.
pub(crate) fn columns(fields: &[Arc<Field>], first: Option<&RecordBatch>) -> Vec<Column> {
    let column = |(i, field): (usize, &Arc<Field>)| Column {
        name: field.name().clone(),
        numeric: is_number(field.data_type()),
        list: is_list(field.data_type()),
        items: items(field.data_type(), first.and_then(|b| b.columns().get(i))),
    };
    fields.iter().enumerate().map(column).collect()
}

pub(crate) fn is_number(kind: &DataType) -> bool {
    kind.is_numeric() || *kind == DataType::Boolean
}

fn is_list(kind: &DataType) -> bool {
    match kind {
        DataType::FixedSizeList(item, _) | DataType::List(item) | DataType::LargeList(item) => {
            is_number(item.data_type())
        }
        _ => false,
    }
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
        cast(array, input.datatype).ok_or_else(|| {
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
        items_of(lists)
    } else if let Some(lists) = array.as_list_opt::<i64>() {
        items_of(lists)
    } else {
        let values = cast(array)?;
        if values.null_count() > 0 {
            for row in (0..values.len()).filter(|&i| values.is_null(i)) {
                let what = match array.is_null(row) {
                    true => "the value is missing".to_owned(),
                    false => format!("`{}` does not fit {}", shown(array, row), input.datatype),
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

/// The items of lists, and where those of each row are and how many. A slice of a long column has the whole column's items.
fn items_of<O: OffsetSizeTrait>(lists: &GenericListArray<O>) -> (ArrayRef, Vec<(usize, usize)>) {
    let offsets = lists.value_offsets();
    let first = offsets.first().map_or(0, |o| o.as_usize());
    let last = offsets.last().map_or(0, |o| o.as_usize());
    let places = offsets.windows(2).map(|o| (o[0].as_usize() - first, (o[1] - o[0]).as_usize()));
    (lists.values().slice(first, last - first), places.collect())
}

/// Rows that are filled at a time: they stay in the cache while one column after the other is written into them.
const BLOCK: usize = 128;

/// The rows that are good, row by row.
fn tensor(input: &Input, columns: &[Values], good: &[usize]) -> Result<Tensor> {
    fn rows<T: ArrowPrimitiveType, E: Copy + Default>(
        columns: &[Values],
        good: &[usize],
        width: usize,
        convert: impl Fn(T::Native) -> E,
    ) -> Vec<E> {
        let mut out = vec![E::default(); good.len() * width];
        let width = width.max(1);
        for (good, out) in good.chunks(BLOCK).zip(out.chunks_mut(BLOCK * width)) {
            let mut offset = 0;
            for column in columns {
                let Some(array) = column.array.as_primitive_opt::<T>() else { continue };
                let values = array.values();
                match &column.starts {
                    None => {
                        for (&row, slot) in good.iter().zip(out.iter_mut().skip(offset).step_by(width)) {
                            *slot = values.get(row).map_or_else(E::default, |v| convert(*v));
                        }
                    }
                    Some(starts) => {
                        for (&row, out) in good.iter().zip(out.chunks_exact_mut(width)) {
                            let start = starts.get(row).copied().unwrap_or(0);
                            let values = values.get(start..start + column.width).unwrap_or_default();
                            for (slot, v) in out.iter_mut().skip(offset).zip(values) {
                                *slot = convert(*v);
                            }
                        }
                    }
                }
                offset += column.width;
            }
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
                #[cfg(feature = "batch")]
                Passed::Arrow(cells) => cells.text(row, column),
                #[cfg(not(feature = "batch"))]
                Passed::Arrow(_) => None,
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
    // Without gaps the bits that say where they are need not be made, which takes longer than the values.
    let whole = batch.places.iter().all(Option::is_some);
    fn primitive<'b, T: ArrowPrimitiveType, E: bytemuck::AnyBitPattern>(
        cells: impl Iterator<Item = Option<&'b [u8]>>,
        whole: bool,
        convert: impl Fn(E) -> T::Native,
    ) -> ArrayRef
    where
        T::Native: ArrowNativeType,
    {
        let values = cells.map(|c| Some(convert(bytemuck::pod_read_unaligned(c?))));
        Arc::new(match whole {
            true => PrimitiveArray::<T>::from_iter_values(values.map(Option::unwrap_or_default)),
            false => values.collect(),
        })
    }
    macro_rules! plain {
        ($t:ident, $e:ty) => {
            primitive::<types::$t, $e>(cells, whole, |v| v)
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
        Datatype::Fp16 => primitive::<types::Float32Type, half::f16>(cells, whole, |v| v.to_f32()),
        Datatype::Bf16 => primitive::<types::Float32Type, half::bf16>(cells, whole, |v| v.to_f32()),
    }
}
