//! Parquet files in and out, by the crate of Apache Arrow.

use crate::{
    arrow::{self, Cells, is_number},
    encode::json_text,
    file::AtomicFile,
    plan::Column,
};
use arrow_array::{Array, RecordBatch};
use arrow_cast::display::array_value_to_string;
use arrow_schema::{Field, SchemaRef};
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
    },
    basic::Compression,
    file::properties::WriterProperties,
};
use rust_host_engine::{Error, Result, error::ErrorKind, file};
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
        let columns = arrow::columns(&fields, first.as_ref());
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
