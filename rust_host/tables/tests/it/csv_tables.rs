//! Tables as people have them.

use crate::model::{Place, answer, cell, classifier, counter, model, refusal};
use rust_host_engine::{Tensor, error::ErrorKind};
use rust_host_tables::OnError;
use std::fmt::Write;

const HEADER: &str = "id,x.0,x.1,h.0,h.1\n";

#[test]
fn columns_meet_inputs_by_name_and_others_pass_through() {
    let table = "h.1,name,x.1,x.0,h.0,note\n0.5,ann,2,1,10,\n0.25,bob,4,3,20,hi\n";
    assert_eq!(answer(table), "name,note,total.0,total.1,count\nann,,12.0,4.5,3\nbob,hi,26.0,8.25,7\n");
}

#[test]
fn quotes_line_breaks_and_letters_pass_byte_for_byte() {
    let table = "\u{feff}id,x.0,x.1,h.0,h.1\r\n\"a,\"\"b\"\"\nc\",1,2,0,0\r\nžluťoučký 🐎,\"3\",\" 4 \",0,0\r\n5\" pipe,1,1,0,0";
    let expected =
        "id,total.0,total.1,count\n\"a,\"\"b\"\"\nc\",2.0,4.0,3\nžluťoučký 🐎,6.0,8.0,7\n5\" pipe,2.0,2.0,2\n";
    assert_eq!(answer(table), expected);
}

#[test]
fn semicolons_and_tabs_separate_too() {
    let place = Place::new();
    place.write("rows.csv", "id;x.0;x.1;h.0;h.1\n\"a;b\";1;2;0;0\n");
    place.run(&cell(), "rows.csv", "out.csv", |_| {}).unwrap();
    assert_eq!(place.read("out.csv"), "id;total.0;total.1;count\n\"a;b\";2.0;4.0;3\n");
    place.write("rows.tsv", "id\tx.0\tx.1\th.0\th.1\na;b\t1\t2\t0\t0\n");
    place.run(&cell(), "rows.tsv", "out.tsv", |_| {}).unwrap();
    assert_eq!(place.read("out.tsv"), "id\ttotal.0\ttotal.1\tcount\na;b\t2.0\t4.0\t3\n");
}

#[test]
fn blank_lines_are_no_rows() {
    assert_eq!(answer(format!("\n{HEADER}\n1,1,2,0,0\n\r\n\n2,1,2,0,0\n\n")).lines().count(), 3);
}

#[test]
fn a_table_without_rows_gives_its_header() {
    for table in [HEADER, HEADER.trim_end()] {
        assert_eq!(answer(table), "id,total.0,total.1,count\n");
    }
}

#[test]
fn every_row_comes_out_once_and_in_order() {
    let rows = 20_000;
    let mut table = HEADER.to_owned();
    for i in 0..rows {
        writeln!(table, "{i},{i},0,0.5,\"0\"").unwrap();
    }
    let place = Place::new();
    place.write("rows.csv", table);
    for batch_size in [None, Some(1), Some(7), Some(100_000)] {
        let summary = place.run(&cell(), "rows.csv", "out.csv", |s| {
            s.batch_size = batch_size;
            s.on_error = OnError::Null;
        });
        let summary = summary.unwrap();
        assert_eq!((summary.rows, summary.failed), (rows, 1), "{batch_size:?}");
        let out = place.read("out.csv");
        let mut lines = out.lines().skip(1);
        for i in 0..rows {
            let expected = if i == 13 { "13,,,".to_owned() } else { format!("{i},{:?},0.0,{i}", 2.0 * i as f32 + 0.5) };
            assert_eq!(lines.next(), Some(expected.as_str()), "{batch_size:?}");
        }
        assert_eq!(lines.next(), None);
    }
}

#[test]
fn a_bad_value_is_named_with_its_row_and_column() {
    for (row, words) in [
        ("2,1,,0,0", "row 2: column `x.1`: the value is missing"),
        ("2,1,abc,0,0", "row 2: column `x.1`: `abc` is no number"),
        ("2,1,1e39,0,0", "row 2: column `x.1`: `1e39` is beyond the range of FP32"),
        ("2,1,2,0", "row 2: it has 4 values, the header names 5 columns"),
        ("2,1,2,0,0,7", "row 2: it has 6 values, the header names 5 columns"),
        ("2", "row 2: it has 1 value, the header names 5 columns"),
        ("2,13,2,0,0", "row 2: RuntimeError: 13 is not allowed"),
    ] {
        let e = refusal(format!("{HEADER}1,1,2,0,0\n{row}\n3,x,x,x,x\n"));
        assert!(e.message.contains(words) && e.message.contains("rows.csv`: row"), "{e}");
        assert!(e.hint.unwrap().contains("--on-error null"));
    }
}

#[test]
fn bad_rows_stay_empty_on_request_and_cost_no_other_its_answer() {
    let place = Place::new();
    place.write("rows.csv", format!("{HEADER}1,1,2,0,0\n2,x,2,0,0\n3,13,0,0,0\n4\n5,nan,2,0,0\n6,3,4,0,0\n"));
    let summary = place.run(&cell(), "rows.csv", "out.csv", |s| s.on_error = OnError::Null).unwrap();
    assert_eq!((summary.rows, summary.failed), (6, 3));
    assert!(summary.first_failure.unwrap().ends_with("row 2: column `x.0`: `x` is no number"));
    let expected = "id,total.0,total.1,count\n1,2.0,4.0,3\n2,,,\n3,,,\n4,,,\n5,NaN,4.0,2\n6,6.0,8.0,7\n";
    assert_eq!(place.read("out.csv"), expected);
    place.run(&cell(), "rows.csv", "out.jsonl", |s| s.on_error = OnError::Null).unwrap();
    let lines: Vec<serde_json::Value> =
        place.read("out.jsonl").lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[0], serde_json::json!({"id": "1", "total.0": 2.0, "total.1": 4.0, "count": 3}));
    assert!(lines[1]["count"].is_null() && lines[4]["total.0"].is_null());
}

#[test]
fn a_table_without_the_columns_says_what_it_has() {
    let e = refusal("id,a,b\n1,2,3\n");
    assert!(e.message.contains("no column fits the input `x`") && e.message.contains("`id`, `a`, `b`"), "{e}");
    assert!(e.hint.unwrap().contains("`x.0` to `x.1`"));
    let e = refusal("x.0,x.1,x.2,h.0,h.1\n1,2,3,4,5\n");
    assert!(e.message.contains("3 columns `x.0`"), "{e}");
    let e = refusal("x.0,x.1,h.0,h.1,h.1\n1,2,3,4,5\n");
    assert!(e.message.contains("two columns of the name `h.1`"), "{e}");
}

#[test]
fn what_is_no_table_is_named_as_what_it_is() {
    for (bytes, words) in [
        (&b""[..], "is empty"),
        (b"\n\n", "is empty"),
        (b"\xff\xfei\0d\0", "UTF-16"),
        (b"PAR1\0\0", "no text"),
        (b"id,x\r1,2\r", "CR alone"),
        (b"id,x\xff.0\n", "not UTF-8"),
        (b"id,x.0,x.1,h.0,h.1\n1,\"2,3\n4,5", "row 1 has a quote that is never closed"),
    ] {
        let e = refusal(bytes);
        assert!(e.message.contains(words) && e.kind == ErrorKind::InvalidInput, "{e}");
    }
}

#[test]
fn the_only_input_takes_all_columns_of_numbers_but_ids() {
    let place = Place::new();
    let names: Vec<String> = (0..16).map(|i| format!("pixel{i}")).collect();
    place.write("rows.csv", format!("row_id,{},who\n7,{}ann\n", names.join(","), "0.5,".repeat(16)));
    let summary = place.run(&classifier(), "rows.csv", "out.csv", |_| {}).unwrap();
    assert!(summary.notes[0].starts_with("input `image` takes the columns `pixel0`, `pixel1`"), "{:?}", summary.notes);
    let out = place.read("out.csv");
    assert_eq!(out.lines().next(), Some("row_id,who,label,score,scores.left,scores.right,scores.dark"));
    assert!(out.lines().nth(1).unwrap().starts_with("7,ann,left,"), "{out}");
    place.write("rows.csv", format!("{},more\n{}1\n", names.join(","), "0.5,".repeat(16)));
    let e = place.run(&classifier(), "rows.csv", "out.csv", |_| {}).unwrap_err();
    assert!(e.hint.unwrap().contains("expected 16, found"));
}

#[test]
fn labels_come_as_many_as_asked_for_and_hide_no_column_of_the_table() {
    let place = Place::new();
    let names: Vec<String> = (0..16).map(|i| format!("image.{i}")).collect();
    place.write("rows.csv", format!("label,{}\nx,{}\n", names.join(","), ["0.5"; 16].join(",")));
    place.run(&classifier(), "rows.csv", "out.csv", |s| s.top_k = Some(2)).unwrap();
    assert_eq!(place.read("out.csv").lines().next(), Some("label,label_1,score_1,label_2,score_2"));
    let summary = place.run(&classifier(), "rows.csv", "out.csv", |_| {}).unwrap();
    assert_eq!(summary.columns[..3], ["label", "scores.label", "score"]);
    assert!(summary.notes.iter().any(|n| n.contains("`label`") && n.contains("`scores.label`")));
}

#[test]
fn no_call_has_more_rows_than_the_contract_allows() {
    let (seen, counts) = counter();
    let model = model("classifier", move |inputs: &[Tensor]| {
        let rows = inputs[0].shape()[0];
        counts.lock().unwrap().push(rows);
        Ok(Tensor::from_elements(vec![rows, 3], vec![0f32; rows as usize * 3])?.into())
    });
    let place = Place::new();
    let names: Vec<String> = (0..16).map(|i| format!("image.{i}")).collect();
    let row = format!("{}\n", ["1"; 16].join(","));
    place.write("rows.csv", format!("{}\n{}", names.join(","), row.repeat(150)));
    place.run(&model, "rows.csv", "out.csv", |_| {}).unwrap();
    assert_eq!(*seen.lock().unwrap(), [64, 64, 22]);
    assert_eq!(place.read("out.csv").lines().count(), 151);
}

#[test]
fn outputs_that_have_no_value_a_row_are_a_sentence() {
    let model = model("cell", |_| {
        Ok(rust_host_engine::Value::Tuple(vec![
            Tensor::from_elements(vec![1, 2], vec![0f32; 2])?.into(),
            Tensor::from_elements(vec![], vec![0i64])?.into(),
        ]))
    });
    let place = Place::new();
    place.write("rows.csv", format!("{HEADER}1,1,2,0,0\n2,1,2,0,0\n"));
    let e = place.run(&model, "rows.csv", "out.csv", |_| {}).unwrap_err();
    assert!(e.message.contains("output `total` has the shape [1, 2] for 2 rows"), "{e}");
}
