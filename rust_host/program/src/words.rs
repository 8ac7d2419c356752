//! The words behind the program's name → what is wanted. By hand: the few flags are not worth half a megabyte of parser.

use rust_host_console::Given;
use rust_host_engine::{Error, Result};
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

/// What the program is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    Answer,
    Verify,
    Contract,
    Help,
    Version,
}

/// All that was said.
#[derive(Debug)]
pub(crate) struct Words {
    pub task: Task,
    /// Inputs as they were typed.
    pub inputs: Vec<Given>,
    /// Threads inside an operator.
    pub threads: Option<usize>,
    /// Labels to show.
    pub top_k: usize,
    /// Draw pictures also where the output is no terminal.
    pub draw: bool,
    /// One JSON document instead of tables.
    pub json: bool,
}

/// The flags, for `--help`.
pub(crate) const FLAGS: [(&str, &str); 9] = [
    ("-i, --input NAME=VALUE", "an input: a .npy, .npz, .json or picture file, JSON, or `-` for stdin"),
    ("--json", "print one JSON document"),
    ("--top-k K", "how many labels to show (default: 3)"),
    ("--draw", "draw pictures among the inputs (on a terminal they are drawn anyway)"),
    ("--threads N", "threads inside an operator (default: what this process may use)"),
    ("--verify", "replay the golden examples; exit code 1: a difference beyond the tolerance"),
    ("--contract", "print the contract, what the model takes and gives, as JSON"),
    ("-h, --help", "print this"),
    ("-V, --version", "print the model's name, the host's version and the model's SHA-256"),
];

/// Whether errors are to be told as JSON. Looked up before the words are parsed, because the words may be the error.
pub(crate) fn ask_for_json(words: &[OsString]) -> bool {
    words.iter().take_while(|w| *w != "--").any(|w| w == "--json")
}

/// Reads them.
///
/// # Errors
/// `InvalidInput` for a flag that there is not, or a value that is missing or wrong.
pub(crate) fn read(words: Vec<OsString>) -> Result<Words> {
    let mut said = Words { task: Task::Answer, inputs: Vec::new(), threads: None, top_k: 3, draw: false, json: false };
    let mut words = words.into_iter();
    let mut flags_end = false;
    while let Some(word) = words.next() {
        if flags_end || word == "-" || !word.as_bytes().starts_with(b"-") {
            said.inputs.push(Given::new(word));
            continue;
        }
        let (flag, mut value) = split(&word);
        let shown = flag.to_string_lossy().into_owned();
        let mut needed = |expected: &str| {
            let found = value.take().or_else(|| words.next());
            found.ok_or_else(|| Error::invalid_input(format!("`{shown}` needs a value: {expected}")))
        };
        match flag.as_bytes() {
            b"--" => flags_end = true,
            b"-i" | b"--input" => said.inputs.push(Given::new(needed("NAME=VALUE or VALUE")?)),
            b"--threads" => said.threads = Some(number(&shown, &needed("a number of threads")?)?),
            b"--top-k" => said.top_k = number(&shown, &needed("a number of labels")?)?,
            b"--json" => said.json = true,
            b"--draw" => said.draw = true,
            b"--verify" => set(&mut said.task, Task::Verify)?,
            b"--contract" => set(&mut said.task, Task::Contract)?,
            b"-h" | b"--help" => said.task = Task::Help,
            b"-V" | b"--version" => said.task = Task::Version,
            _ => return Err(unknown(&shown)),
        }
        if value.is_some() {
            return Err(Error::invalid_input(format!("`{shown}` takes no value, `{}` gives one", word.display())));
        }
        if matches!(said.task, Task::Help | Task::Version) {
            return Ok(said);
        }
    }
    match (said.task, said.inputs.is_empty()) {
        (Task::Verify, false) => Err(Error::invalid_input("`--verify` takes no inputs")),
        (Task::Contract, false) => Err(Error::invalid_input("`--contract` takes no inputs")),
        _ => Ok(said),
    }
}

/// `--flag=value` → both halves.
fn split(word: &OsStr) -> (OsString, Option<OsString>) {
    let bytes = word.as_bytes();
    match bytes.iter().position(|&b| b == b'=').filter(|_| bytes.starts_with(b"--")) {
        Some(at) => (OsStr::from_bytes(&bytes[..at]).to_owned(), Some(OsString::from_vec(bytes[at + 1..].to_vec()))),
        None => (word.to_owned(), None),
    }
}

fn set(task: &mut Task, wanted: Task) -> Result<()> {
    if *task != Task::Answer && *task != wanted {
        return Err(Error::invalid_input("`--verify` and `--contract` cannot be asked for at once"));
    }
    *task = wanted;
    Ok(())
}

fn number(flag: &str, value: &OsStr) -> Result<usize> {
    let number = value.to_str().and_then(|text| text.parse::<u16>().ok()).filter(|n| *n > 0);
    number.map(usize::from).ok_or_else(|| {
        Error::invalid_input(format!("`{flag}` is `{}`, expected a number from 1 to 65535", value.display()))
    })
}

fn unknown(flag: &str) -> Error {
    let all = FLAGS.iter().flat_map(|(names, _)| names.split([' ', ','])).filter(|name| name.starts_with('-'));
    let all: Vec<String> = all.map(|name| format!("`{name}`")).collect();
    Error::invalid_input(format!("there is no flag `{flag}`")).hint(format!("there are {}", all.join(", ")))
}
