//! Where nothing can be written.

use crate::model::{Place, cell, model};
use rust_host_engine::error::ErrorKind;
use rust_host_tables::{Settings, Source, run};
use std::fs;

const TABLE: &str = "id,x.0,x.1,h.0,h.1\n1,1,2,0,0\n";

#[test]
fn a_place_that_cannot_be_written_is_told_before_the_model_runs() {
    let never = || model("cell", |_| panic!("it was run"));
    let place = Place::new();
    place.write("rows.csv", TABLE);
    let e = place.run(&never(), "rows.csv", "nowhere/out.csv", |_| {}).unwrap_err();
    assert!(e.kind == ErrorKind::NotFound && e.message.contains("nowhere`: no such folder"), "{e}");
    fs::create_dir(place.path("out.csv")).unwrap();
    let e = place.run(&never(), "rows.csv", "out.csv", |_| {}).unwrap_err();
    assert!(e.message.contains("is a folder, expected a file"), "{e}");
    let e = run(&never(), &Settings::new(Source::Csv(place.path("rows.csv")), "/proc/out.csv")).unwrap_err();
    assert!(e.message.contains("`/proc/out.csv`: cannot write"), "{e}");
    let e = place.run(&never(), "rows.csv", "out.xlsx", |_| {}).unwrap_err();
    assert!(e.message.contains(".csv, .tsv, .jsonl or .parquet"), "{e}");
}

#[test]
fn a_run_that_fails_leaves_what_was_there() {
    let place = Place::new();
    place.write("rows.csv", format!("{}{}", TABLE, "x\n".repeat(3)));
    place.write("out.csv", "before");
    place.run(&cell(), "rows.csv", "out.csv", |_| {}).unwrap_err();
    assert_eq!((place.names(), place.read("out.csv")), (vec!["out.csv".into(), "rows.csv".into()], "before".into()));
}

#[test]
fn the_input_may_be_the_output() {
    let place = Place::new();
    place.write("rows.csv", TABLE);
    place.run(&cell(), "rows.csv", "rows.csv", |_| {}).unwrap();
    assert_eq!(place.read("rows.csv"), "id,total.0,total.1,count\n1,2.0,4.0,3\n");
}

#[test]
fn a_machine_without_memory_ends_the_run() {
    let model = model("cell", |_| Err(rust_host_engine::Error::unavailable("memory ran out")));
    let place = Place::new();
    place.write("rows.csv", TABLE);
    let e = place.run(&model, "rows.csv", "out.csv", |_| {}).unwrap_err();
    assert_eq!((e.kind, e.message.as_str()), (ErrorKind::Unavailable, "memory ran out"));
    assert_eq!(place.names(), ["rows.csv"]);
}
