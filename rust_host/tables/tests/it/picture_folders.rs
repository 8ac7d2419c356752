//! Folders and lists of pictures.

use crate::model::{Place, classifier, model};
use rust_host_engine::{Result, Tensor};
use rust_host_tables::OnError;
use std::{fs, path::Path, time::Duration};

fn left() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/tests/data/left.png")).unwrap()
}

/// `count` pictures in `p`, number `broken` cut off.
fn pictures(count: usize, broken: Option<usize>) -> Place {
    let place = Place::new();
    fs::create_dir(place.path("p")).unwrap();
    for i in 0..count {
        let whole = left();
        let bytes = if broken == Some(i) { &whole[..40] } else { &whole[..] };
        place.write(&format!("p/{i:03}.png"), bytes);
    }
    place
}

#[test]
fn a_folder_is_read_in_the_order_of_its_names() {
    let place = pictures(100, None);
    fs::create_dir(place.path("p/below")).unwrap();
    place.write("p/below/a.PNG", left());
    place.write("p/notes.txt", "no picture");
    place.write("p/.hidden.png", "no picture");
    let summary = place.run(&classifier(), "p", "out.csv", |_| {}).unwrap();
    assert_eq!((summary.rows, summary.failed), (101, 0));
    assert_eq!(summary.notes, ["1 other file in the folder was left out"]);
    let out = place.read("out.csv");
    let mut paths: Vec<String> = (0..100).map(|i| place.path(&format!("p/{i:03}.png")).display().to_string()).collect();
    paths.push(place.path("p/below/a.PNG").display().to_string());
    let got: Vec<&str> = out.lines().skip(1).map(|l| l.split_once(',').unwrap().0).collect();
    assert_eq!(got, paths);
    assert!(out.starts_with("path,label,score,scores.left"), "{out}");
}

#[test]
fn a_list_is_read_in_its_own_order() {
    let place = pictures(3, None);
    let path = |i: usize| place.path(&format!("p/{i:03}.png")).display().to_string();
    place.write("list.txt", format!("{}\n{}\r\n\n{}", path(2), path(0), path(2)));
    place.run(&classifier(), "list.txt", "out.csv", |_| {}).unwrap();
    let out = place.read("out.csv");
    let got: Vec<&str> = out.lines().skip(1).map(|l| l.split_once(',').unwrap().0).collect();
    assert_eq!(got, [path(2), path(0), path(2)]);
}

#[test]
fn a_broken_picture_in_the_middle_is_named() {
    let place = pictures(60, Some(30));
    let e = place.run(&classifier(), "p", "out.csv", |_| {}).unwrap_err();
    assert!(e.message.contains("030.png`: the picture cannot be decoded"), "{e}");
    assert_eq!(place.names(), ["p"]);
}

#[test]
fn a_broken_picture_in_the_middle_stays_empty_on_request() {
    let place = pictures(60, Some(30));
    let summary = place.run(&classifier(), "p", "out.csv", |s| s.on_error = OnError::Null).unwrap();
    assert_eq!((summary.rows, summary.failed), (60, 1));
    for (i, line) in place.read("out.csv").lines().skip(1).enumerate() {
        assert!(line.contains(&format!("/{i:03}.png,")) && line.ends_with(",,,,,") == (i == 30), "{line}");
    }
}

#[test]
fn a_slow_model_keeps_the_order() {
    let model = model("classifier", |inputs: &[Tensor]| -> Result<_> {
        std::thread::sleep(Duration::from_millis(20));
        let rows = inputs[0].shape()[0];
        Ok(Tensor::from_elements(vec![rows, 3], (0..rows * 3).map(|i| i as f32).collect())?.into())
    });
    let place = pictures(40, None);
    place.run(&model, "p", "out.csv", |s| s.batch_size = Some(4)).unwrap();
    for (i, line) in place.read("out.csv").lines().skip(1).enumerate() {
        let first = (i % 4 * 3) as f32;
        assert!(line.contains(&format!("/{i:03}.png,")) && line.contains(&format!(",{first:?},")), "{line}");
    }
}

#[test]
fn a_folder_without_pictures_and_a_missing_path_are_sentences() {
    let place = pictures(0, None);
    let e = place.run(&classifier(), "p", "out.csv", |_| {}).unwrap_err();
    assert!(e.message.contains("has no .png, .jpg or .jpeg file"), "{e}");
    place.write("list.txt", "nowhere.png\n");
    let e = place.run(&classifier(), "list.txt", "out.csv", |_| {}).unwrap_err();
    assert!(e.message.contains("`nowhere.png`: cannot open: no such file"), "{e}");
}

#[test]
fn a_model_of_numbers_takes_no_pictures() {
    let place = pictures(1, None);
    let e = place.run(&crate::model::cell(), "p", "out.csv", |_| {}).unwrap_err();
    assert!(e.message.contains("takes no pictures"), "{e}");
}
