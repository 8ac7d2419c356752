//! What ONNX Runtime says, as one sentence: without the C++ file, line and function that it begins with.

use ort::ErrorCode;
use rust_host_engine::{Error, onnx::Onnx};

/// An error of loading a file.
pub(crate) fn loading(error: &ort::Error, about: &Onnx) -> Error {
    let said = sentence(error.message());
    let said = said.strip_prefix("Failed to load model with error: ").unwrap_or(&said);
    if is_out_of_memory(said) {
        return out_of_memory();
    }
    const UPGRADE: &str = "`pip install --upgrade onnxruntime`";
    let refused = |said: &str| Error::invalid_model(format!("ONNX Runtime cannot load it: {said}"));
    let newer = said.split_once("support for domain ").and_then(|(_, rest)| rest.split_once(" is till opset "));
    if let Some((domain, knows)) = newer {
        let knows = knows.trim_end_matches('.');
        let needs = about.opsets.get(domain).copied().unwrap_or_default();
        return refused(&format!(
            "its operators of {domain} are of opset {needs}, and it knows them up to opset {knows}"
        ))
        .hint(format!("{UPGRADE}, or export it with an `opset_version` of at most {knows}"));
    }
    match error.code() {
        _ if said.contains("IR version") => refused(said).hint(UPGRADE),
        _ if said.contains("not a registered function/op") => refused(said)
            .hint("operators of other libraries cannot be used here: export the model with those of ONNX alone"),
        ErrorCode::NotImplemented => {
            let opset = about.opsets.get("ai.onnx").copied().unwrap_or_default();
            refused(said).hint(format!("export it with a newer `opset_version` (this file has {opset}), or {UPGRADE}"))
        }
        _ if said.contains("No Op registered") => refused(said).hint(UPGRADE),
        _ => refused(said),
    }
}

/// An error of a call.
pub(crate) fn running(error: &ort::Error) -> Error {
    let said = sentence(error.message());
    if is_out_of_memory(&said) {
        return out_of_memory();
    }
    Error::failed(said)
}

/// The first line, as a sentence.
pub(crate) fn first_line(text: &str) -> String {
    text.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("no reason was given").to_owned()
}

fn is_out_of_memory(said: &str) -> bool {
    ["bad_alloc", "Failed to allocate memory", "bad allocation"].iter().any(|s| said.contains(s))
}

fn out_of_memory() -> Error {
    Error::unavailable("not enough memory")
}

/// `Non-zero status code returned while running Add node. Name:'sum' Status Message: /src/x.h:560 void f() a == b was false. Why`
/// → `the node Add (`sum`) failed: Why`
fn sentence(text: &str) -> String {
    const RUNNING: &str = "Non-zero status code returned while running ";
    const MESSAGE: &str = "Status Message: ";
    let line = first_line(text);
    if let Some((node, why)) = line.strip_prefix(RUNNING).and_then(|rest| rest.split_once(MESSAGE)) {
        let operator = node.split(' ').next().unwrap_or_default();
        let name = node.split_once("Name:'").and_then(|(_, n)| n.split_once('\'')).map_or("", |(n, _)| n);
        let name = if name.is_empty() { String::new() } else { format!(" (`{name}`)") };
        return format!("the node {operator}{name} failed: {}", without_place(why));
    }
    without_place(&line)
}

/// Cuts `…/file.cc:12 type function(arguments) const [with T = float] condition was false. ` away.
fn without_place(text: &str) -> String {
    let text = text.trim();
    let place = [".cc:", ".h:", ".cpp:", ".hpp:"].iter().filter_map(|ending| {
        let at = text.find(ending)?;
        let rest = text.get(at + ending.len()..)?;
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        (digits > 0).then(|| (at, rest.get(digits..).unwrap_or_default()))
    });
    let Some((at, rest)) = place.min_by_key(|(at, _)| *at) else { return text.to_owned() };
    let before = text.get(..at).unwrap_or_default();
    // What stands before the file's name belongs to the sentence.
    let before = before.rfind([' ', '\t']).map_or("", |space| before.get(..space).unwrap_or_default());
    let after = after_function(rest.trim_start());
    let after = after.split_once(" was false. ").map_or(after, |(_, why)| why);
    let said = [before.trim(), after.trim()].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(" ");
    if said.is_empty() { text.to_owned() } else { said }
}

/// What follows a C++ function's signature, where the text begins with one.
fn after_function(text: &str) -> &str {
    let Some(open) = text.find('(') else { return text };
    let mut depth = 0usize;
    for (i, c) in text.char_indices().skip_while(|(i, _)| *i < open) {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            let rest = text.get(i + 1..).unwrap_or_default().trim_start();
            let rest = rest.strip_prefix("const").unwrap_or(rest).trim_start();
            return match rest.strip_prefix("[with ").and_then(|with| with.split_once(']')) {
                Some((_, after)) => after.trim_start(),
                None => rest,
            };
        }
    }
    text
}
