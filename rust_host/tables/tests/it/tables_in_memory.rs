//! Record batches in, record batches out.

use crate::model::{cell, counter, model};
use arrow_array::{
    ArrayRef, FixedSizeListArray, Float64Array, Int64Array, LargeListArray, RecordBatch, StringArray,
    cast::AsArray,
    types::{Float32Type, Float64Type, Int64Type},
};
use rust_host_engine::{Result, Tensor, Value};
use rust_host_tables::{Mapped, OnError, map};
use std::sync::Arc;

/// Rows `(v, 1)` of the input `x` and `(0.5, 1)` of `h`, with a number each.
fn batch(values: &[f64]) -> RecordBatch {
    let of = |make: &dyn Fn(f64) -> [f64; 2]| {
        LargeListArray::from_iter_primitive::<Float64Type, _, _>(values.iter().map(|&v| Some(make(v).map(Some))))
    };
    let id = Int64Array::from_iter_values(0..values.len() as i64);
    let columns: [(&str, ArrayRef); 3] =
        [("id", Arc::new(id)), ("x", Arc::new(of(&|v| [v, 1.0]))), ("h", Arc::new(of(&|_| [0.5, 1.0])))];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn mapped(batches: &[RecordBatch], on_error: OnError) -> Result<Mapped> {
    let with = |workers| map(&cell(), &batches[0].schema(), batches.iter().cloned().map(Ok), on_error, None, workers);
    let alone = with(0);
    match (&alone, with(2)) {
        (Ok(a), Ok(b)) => assert_eq!((&a.batches, &a.summary.columns), (&b.batches, &b.summary.columns)),
        (Err(a), Err(b)) => assert_eq!(a.message, b.message),
        (a, b) => panic!("{a:?} {b:?}"),
    }
    alone
}

fn totals(mapped: &Mapped) -> Vec<Option<f32>> {
    mapped.batches.iter().flat_map(|b| b.column(1).as_primitive::<Float32Type>().iter().collect::<Vec<_>>()).collect()
}

#[test]
fn several_batches_keep_their_order_and_their_own_columns() {
    let out = mapped(&[batch(&[]), batch(&[1.0, 2.0]), batch(&[]), batch(&[3.0])], OnError::Stop).unwrap();
    assert_eq!(out.summary.columns, ["id", "total.0", "total.1", "count"]);
    assert!(out.batches.iter().all(|b| b.schema() == out.schema));
    assert_eq!(totals(&out), [Some(2.5), Some(4.5), Some(6.5)]);
    assert_eq!((out.summary.rows, out.summary.failed), (3, 0));
    assert_eq!(out.batches[1].column(0).as_primitive::<Int64Type>().values(), &[0]);
}

#[test]
fn many_batches_are_prepared_by_other_threads_in_the_same_order() {
    let many: Vec<RecordBatch> = (0..200).map(|i| batch(&[f64::from(i); 3])).collect();
    let out = mapped(&many, OnError::Null).unwrap();
    assert_eq!((out.summary.rows, out.summary.failed), (600, 3)); // 13 is refused
    assert_eq!(totals(&out)[597], Some(398.5));
}

#[test]
fn a_bad_row_is_named_or_empty_and_counts_go_over_batches() {
    let all = [batch(&[1.0, 2.0]), batch(&[3.0, 13.0, 4.0])];
    let e = mapped(&all, OnError::Stop).unwrap_err();
    assert_eq!(e.message, "row 4: RuntimeError: 13 is not allowed");
    assert!(e.hint.unwrap().starts_with("`on_error=\"null\"`"));
    let out = mapped(&all, OnError::Null).unwrap();
    assert_eq!(totals(&out), [Some(2.5), Some(4.5), Some(6.5), None, Some(8.5)]);
    assert_eq!((out.summary.failed, out.summary.first_failure.as_deref()), (1, Some(&*e.message)));
}

#[test]
fn the_first_bad_row_is_told_whatever_was_found_first() {
    // 13 is found when rows are run, and the gap in another column before.
    let columns: [(&str, ArrayRef); 4] = [
        ("x.0", Arc::new(Float64Array::from(vec![1.0, 13.0, 2.0]))),
        ("x.1", Arc::new(Float64Array::from(vec![Some(1.0), Some(1.0), None]))),
        ("h.0", Arc::new(Float64Array::from(vec![0.0; 3]))),
        ("h.1", Arc::new(Float64Array::from(vec![0.0; 3]))),
    ];
    let table = RecordBatch::try_from_iter(columns).unwrap();
    let summary = map(&cell(), &table.schema(), [Ok(table)], OnError::Null, None, 0).unwrap().summary;
    assert_eq!(summary.first_failure.as_deref(), Some("row 2: RuntimeError: 13 is not allowed"));
    assert_eq!(summary.failed, 2);
}

#[test]
fn a_long_batch_is_run_in_calls_of_bounded_size_and_lists_are_found_in_slices() {
    let (seen, counts) = counter();
    let model = model("cell", move |inputs| {
        let rows = inputs[0].shape()[0];
        seen.lock().unwrap().push(rows);
        let total = inputs[0].to_vec::<f32>()?;
        let count = total.chunks(2).map(|r| r[0] as i64).collect::<Vec<i64>>();
        Ok(Value::Tuple(vec![
            Tensor::from_elements(vec![rows, 2], total)?.into(),
            Tensor::from_elements(vec![rows], count)?.into(),
        ]))
    });
    let values: Vec<f64> = (0..150_000).map(f64::from).collect();
    let table = batch(&values).slice(7, 149_990);
    let out = map(&model, &table.schema(), [Ok(table)], OnError::Stop, None, 0).unwrap();
    assert_eq!(totals(&out).len(), 149_990);
    for (i, total) in totals(&out).into_iter().enumerate() {
        assert_eq!(total, Some((i + 7) as f32));
    }
    let sizes: Vec<usize> = out.batches.iter().map(RecordBatch::num_rows).collect();
    assert_eq!(sizes, [65_536, 65_536, 18_918]);
    let counts = counts.lock().unwrap();
    assert!(counts.iter().all(|&n| n <= 4096) && counts.iter().sum::<i64>() == 149_990, "{counts:?}");
}

#[test]
fn lists_of_a_fixed_size_are_found_in_slices_too() {
    let x = FixedSizeListArray::from_iter_primitive::<Float64Type, _, _>(
        (0..9).map(|v| Some([Some(f64::from(v)), Some(0.0)])),
        2,
    );
    let h = Arc::new(Float64Array::from(vec![1.0; 9])) as ArrayRef;
    let table = RecordBatch::try_from_iter([("x", Arc::new(x) as ArrayRef), ("h.0", h.clone()), ("h.1", h)])
        .unwrap()
        .slice(4, 3);
    let out = map(&cell(), &table.schema(), [Ok(table)], OnError::Stop, None, 0).unwrap();
    let total = out.batches[0].column(0).as_primitive::<Float32Type>().values().to_vec();
    assert_eq!(total, [9.0, 11.0, 13.0]);
}

#[test]
fn a_table_that_does_not_fit_is_a_sentence() {
    let text = Arc::new(StringArray::from(vec!["a"])) as ArrayRef;
    let table = RecordBatch::try_from_iter([("name", text.clone())]).unwrap();
    let e = map(&cell(), &table.schema(), [Ok(table)], OnError::Stop, None, 0).unwrap_err();
    assert!(e.message.starts_with("no column fits the input `x`"), "{e}");
    let one = batch(&[1.0]);
    let e = map(&cell(), &one.schema(), [Ok(one)], OnError::Stop, Some(0), 0).unwrap_err();
    assert_eq!(e.message, "top_k is 0, expected at least 1");
}

#[test]
fn no_rows_have_the_columns_all_the_same() {
    let out = mapped(&[batch(&[])], OnError::Stop).unwrap();
    assert_eq!(out.summary.columns, ["id", "total.0", "total.1", "count"]);
    assert!(out.batches.is_empty() && out.summary.rows == 0);
}
