//! Tables between Python's libraries and us: the PyCapsule interface of Arrow, which hands over addresses and no copies.
#![expect(unsafe_code, reason = "a capsule holds the address of a C structure, and who takes it over reads that")]

use crate::error::to_py;
use arrow_array::{
    Array, ArrayReader, RecordBatch, RecordBatchIterator, RecordBatchOptions, StructArray,
    cast::AsArray,
    ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi},
    ffi_stream::{ArrayStreamReader, FFI_ArrowArrayStream},
};
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef};
use pyo3::{intern, prelude::*, types::PyCapsule};
use rust_host_engine::{Error, Result};
use std::{ffi::CStr, sync::Arc};

const STREAM: &CStr = c"arrow_array_stream";
const SCHEMA: &CStr = c"arrow_schema";
const ARRAY: &CStr = c"arrow_array";

/// A table that is read once, batch by batch; whoever made it takes the GIL where it needs it.
pub(crate) struct Table {
    pub schema: SchemaRef,
    pub batches: Box<dyn Iterator<Item = Result<RecordBatch>> + Send>,
}

/// Takes over a table from anything that has `__arrow_c_stream__` or `__arrow_c_array__`.
///
/// # Errors
/// What those methods raise, and `InvalidInputError` for what has none of them, or gives no table.
pub(crate) fn read(table: &Bound<'_, PyAny>) -> PyResult<Table> {
    let py = table.py();
    let wrong = |e: ArrowError| to_py(py, &unreadable(&e));
    if let Some(method) = table.getattr_opt(intern!(py, "__arrow_c_stream__"))? {
        let capsule = method.call0()?;
        let stream = pointer::<FFI_ArrowArrayStream>(&capsule, STREAM)?;
        // SAFETY: a capsule of that name holds the address of such a structure, which stays where it is as long as the
        // capsule lives, and the GIL is held. It is moved out, which leaves a released one, as the interface wants it.
        let stream = unsafe { FFI_ArrowArrayStream::from_raw(stream) };
        // Not RecordBatchStreamReader, which forgets that a row may be missing as a whole.
        let reader = ArrayStreamReader::try_new(stream).map_err(wrong)?;
        let DataType::Struct(fields) = reader.field().data_type().clone() else {
            let what = format!("it has values of the type {}, expected columns", reader.field().data_type());
            return Err(wrong(ArrowError::CDataInterface(what)));
        };
        let schema = Arc::new(Schema::new(fields));
        let of = schema.clone();
        let batches =
            reader.map(move |rows| rows.and_then(|rows| batch(&of, rows.as_struct())).map_err(|e| unreadable(&e)));
        return Ok(Table { schema, batches: Box::new(batches) });
    }
    if let Some(method) = table.getattr_opt(intern!(py, "__arrow_c_array__"))? {
        let (schema, array) = method.call0()?.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>()?;
        let (schema, array) = (pointer::<FFI_ArrowSchema>(&schema, SCHEMA)?, pointer::<FFI_ArrowArray>(&array, ARRAY)?);
        // SAFETY: as above, for both capsules.
        let (schema, array) = unsafe { (FFI_ArrowSchema::from_raw(schema), FFI_ArrowArray::from_raw(array)) };
        if array.is_released() {
            return Err(wrong(ArrowError::CDataInterface("input array is already released".to_owned())));
        }
        let names = Schema::try_from(&schema).map_err(wrong)?;
        // SAFETY: array and schema came as a pair, and whoever made it vouches for its buffers as the interface says.
        let data = unsafe { from_ffi(array, &schema) }.map_err(wrong)?;
        let schema = Arc::new(names);
        let batch = batch(&schema, &StructArray::from(data)).map_err(wrong)?;
        return Ok(Table { schema, batches: Box::new(std::iter::once(Ok(batch))) });
    }
    let kind = table.get_type().name()?;
    let what = format!("the table is {kind}, expected anything with `__arrow_c_stream__`");
    let hint = "Polars and pandas DataFrames, pyarrow Tables and DuckDB relations have it; arrays go to `model.run`";
    Err(to_py(py, &Error::invalid_input(what).hint(hint)))
}

fn batch(schema: &SchemaRef, rows: &StructArray) -> std::result::Result<RecordBatch, ArrowError> {
    if rows.null_count() > 0 {
        return Err(ArrowError::CDataInterface("a row is missing as a whole, expected missing values".to_owned()));
    }
    let count = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(schema.clone(), rows.columns().to_vec(), &count)
}

fn unreadable(error: &ArrowError) -> Error {
    let reason = match error {
        ArrowError::CDataInterface(reason) => reason.clone(),
        other => other.to_string(),
    };
    Error::invalid_input(format!("the table cannot be read: {reason}"))
}

/// The address in a capsule of that name.
fn pointer<T>(capsule: &Bound<'_, PyAny>, name: &CStr) -> PyResult<*mut T> {
    let py = capsule.py();
    let wrong = || {
        let shown = name.to_string_lossy();
        to_py(py, &Error::invalid_input(format!("the table gives {capsule}, expected a capsule `{shown}`")))
    };
    let capsule = capsule.cast::<PyCapsule>().map_err(|_| wrong())?;
    Ok(capsule.pointer_checked(Some(name)).map_err(|_| wrong())?.cast().as_ptr())
}

/// Batches as a capsule, which others may read once; nothing is copied.
pub(crate) fn stream<'py>(
    py: Python<'py>,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
) -> PyResult<Bound<'py, PyCapsule>> {
    let reader = RecordBatchIterator::new(batches.into_iter().map(Ok), schema);
    PyCapsule::new_with_value(py, FFI_ArrowArrayStream::new(Box::new(reader)), STREAM)
}

/// Names and types of the columns as a capsule.
pub(crate) fn schema<'py>(py: Python<'py>, schema: &Schema) -> PyResult<Bound<'py, PyCapsule>> {
    let schema = FFI_ArrowSchema::try_from(schema).map_err(|e| to_py(py, &unreadable(&e)))?;
    PyCapsule::new_with_value(py, schema, SCHEMA)
}
