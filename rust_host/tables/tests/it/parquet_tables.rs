//! Parquet in and out.

use crate::model::{Place, cell};
use arrow_array::{Array, ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, cast::AsArray, types};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
use rust_host_tables::OnError;
use std::{fs::File, sync::Arc};

fn write(place: &Place, name: &str, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(place.path(name)).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn read(place: &Place, name: &str) -> RecordBatch {
    let file = File::open(place.path(name)).unwrap();
    let mut reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().with_batch_size(1 << 20).build().unwrap();
    reader.next().unwrap().unwrap()
}

fn lists(rows: Vec<Option<Vec<Option<f64>>>>) -> ArrayRef {
    Arc::new(ListArray::from_iter_primitive::<types::Float64Type, _, _>(rows))
}

#[test]
fn list_columns_fill_inputs_and_ids_keep_their_type() {
    let place = Place::new();
    let h = vec![Some(vec![Some(0.5), Some(0.0)]); 3];
    let mut x = vec![Some(vec![Some(1.0), Some(2.0)]), None, Some(vec![Some(3.0)])];
    write(
        &place,
        "rows.parquet",
        vec![
            ("id", Arc::new(Int64Array::from(vec![Some(7), None, Some(1 << 60)]))),
            ("x", lists(x.clone())),
            ("h", lists(h.clone())),
        ],
    );
    let summary = place.run(&cell(), "rows.parquet", "out.parquet", |s| s.on_error = OnError::Null).unwrap();
    assert_eq!((summary.rows, summary.failed), (3, 2));
    assert!(summary.first_failure.unwrap().ends_with("row 2: column `x`: a value is missing"));
    let out = read(&place, "out.parquet");
    assert_eq!(
        out.schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(),
        ["id", "total.0", "total.1", "count"]
    );
    let id = out.column(0).as_primitive::<types::Int64Type>();
    assert_eq!((id.value(0), id.is_null(1), id.value(2)), (7, true, 1 << 60));
    let total = out.column(1).as_primitive::<types::Float32Type>();
    assert_eq!((total.value(0), total.is_null(1), total.is_null(2)), (2.5, true, true));
    x.truncate(1);
    write(&place, "rows.parquet", vec![("x", lists(x)), ("h", lists(h[..1].to_vec()))]);
    place.run(&cell(), "rows.parquet", "out.csv", |_| {}).unwrap();
    assert_eq!(place.read("out.csv"), "total.0,total.1,count\n2.5,4.0,3\n");
}

#[test]
fn text_where_numbers_belong_is_a_sentence() {
    let place = Place::new();
    let text = || Arc::new(StringArray::from(vec!["1", "x"])) as ArrayRef;
    write(&place, "rows.parquet", vec![("x.0", text()), ("x.1", text()), ("h.0", text()), ("h.1", text())]);
    let e = place.run(&cell(), "rows.parquet", "out.csv", |_| {}).unwrap_err();
    assert!(e.message.ends_with("row 2: column `x.0`: `x` does not fit FP32"), "{e}");
    place.write("rows.parquet", "id,x\n");
    let e = place.run(&cell(), "rows.parquet", "out.csv", |_| {}).unwrap_err();
    assert!(e.message.contains("it cannot be read as Parquet"), "{e}");
}

#[test]
fn a_csv_becomes_parquet_in_order_and_over_several_batches() {
    let place = Place::new();
    let rows: String = (0..10_000).map(|i| format!("r{i},{i},0,0,0\n")).collect();
    place.write("rows.csv", format!("id,x.0,x.1,h.0,h.1\n{rows}"));
    place.run(&cell(), "rows.csv", "out.parquet", |s| s.on_error = OnError::Null).unwrap();
    let out = read(&place, "out.parquet");
    let count = out.column(3).as_primitive::<types::Int64Type>();
    assert_eq!(count.len(), 10_000);
    assert!((0..10_000).all(|i| if i == 13 { count.is_null(i) } else { count.value(i) == i as i64 }));
    assert_eq!(out.column(0).as_string::<i32>().value(9_999), "r9999");
    place.write("rows.csv", "id,x.0,x.1,h.0,h.1\n");
    place.run(&cell(), "rows.csv", "empty.parquet", |_| {}).unwrap();
    let file = File::open(place.path("empty.parquet")).unwrap();
    assert_eq!(ParquetRecordBatchReaderBuilder::try_new(file).unwrap().schema().fields().len(), 4);
}
