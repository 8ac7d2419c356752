use rust_host_engine::{ErrorKind, contract};
use std::{fs, path::PathBuf};

/// `tests/contract/` at the top of the repository; `tests/authoring/test_contract.py` reads the same files.
fn samples(kind: &str) -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/contract").join(kind);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "json"));
    files.sort();
    assert!(files.len() >= 5, "where are the samples?");
    files
}

#[test]
fn good_contracts_are_read() {
    for file in samples("good") {
        let read = contract::read(&fs::read(&file).unwrap());
        assert!(read.is_ok(), "{}: {}", file.display(), read.unwrap_err());
    }
}

#[test]
fn bad_contracts_are_refused_in_a_sentence_that_names_what_is_wrong() {
    for file in samples("bad") {
        let shown = file.display();
        let error = match contract::read(&fs::read(&file).unwrap()) {
            Err(e) => e,
            Ok(_) => panic!("{shown} was read"),
        };
        assert_eq!(error.kind, ErrorKind::InvalidContract);
        let words = fs::read_to_string(file.with_extension("words")).unwrap();
        let message = error.message.to_lowercase();
        assert!(
            words.lines().any(|w| message.contains(&w.trim().to_lowercase())),
            "{shown}: none of {words:?} in `{error}`"
        );
        assert!(error.message.lines().count() == 1, "{shown}: {error}");
    }
}
