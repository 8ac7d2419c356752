//! What `info`, `bench`, `tune` and `doctor` found, as text or one JSON document.

use super::Answer;
use crate::commands::{bench::Measured, doctor::Report, info::Info, tune::Tuned};
use rust_host_console::{dims, listed, signature, table};
use rust_host_engine::{
    BUILD, Contract, Description, Method, Speed,
    description::TensorEntry,
    foreign::{Entry, Provisional},
    machine::LIBTORCH_VERSION,
    onnx,
};
use serde_json::{Value as Json, json};

/// Bytes of one element of a storage, by torch's name of its type.
fn element_size(storage: &str) -> u64 {
    match storage {
        "Double" | "Long" | "ComplexFloat" | "UInt64" => 8,
        "Float" | "Int" | "QInt32" | "ComplexHalf" | "UInt32" => 4,
        "Half" | "BFloat16" | "Short" | "UInt16" => 2,
        "ComplexDouble" => 16,
        _ => 1,
    }
}

/// Number of tensors, of their elements, and of bytes.
fn totals<'a>(tensors: impl Iterator<Item = &'a TensorEntry>) -> (usize, u64, u64) {
    tensors.fold((0, 0, 0), |(n, elements, bytes), t| {
        let more = t.elements();
        (n + 1, elements + more, bytes + more.saturating_mul(element_size(&t.storage)))
    })
}

/// What a file says about itself.
pub(crate) fn info(info: &Info, as_json: bool) -> Answer {
    let about = &info.about;
    let (count, parameters, parameter_bytes) = totals(about.tensors.iter().filter(|t| t.parameter));
    let (other_count, others, other_bytes) = totals(about.tensors.iter().filter(|t| !t.parameter));
    if as_json {
        let entry = |tensors, elements, bytes| json!({"tensors": tensors, "count": elements, "bytes": bytes});
        return Answer::document(&json!({
            "path": info.path.display().to_string(),
            "file_size": about.file_size,
            "format": about.format,
            "class": about.class,
            "contract": about.contract,
            "provisional": about.foreign.provisional,
            // Without assigned attributes it may still write into a buffer or a list: not known before it is loaded.
            "stateful": if about.state.is_empty() { Json::Null } else { Json::Bool(true) },
            "state": about.state,
            "methods": about.methods.iter().map(method).collect::<Vec<_>>(),
            "parameters": entry(count, parameters, parameter_bytes),
            "buffers": entry(other_count, others, other_bytes),
            "tensors": about.tensors,
            "operators": about.operators,
            "extra_files": about.extra_files.iter().map(|(n, s)| json!({"name": n, "size": s})).collect::<Vec<_>>(),
            "notes": about.foreign.notes,
        }));
    }
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut facts = vec![row("file", format!("{}, {}", info.path.display(), table::bytes(about.file_size)))];
    facts.push(row("class", about.class.clone()));
    let tensors = |n: usize, elements, bytes| {
        format!("{} in {n} tensor{}, {}", table::grouped(elements), if n == 1 { "" } else { "s" }, table::bytes(bytes))
    };
    facts.push(row("parameters", tensors(count, parameters, parameter_bytes)));
    if other_count > 0 {
        facts.push(row("buffers", tensors(other_count, others, other_bytes)));
    }
    if !about.state.is_empty() {
        facts.push(row("state", format!("kept between calls, by its code: {}", about.state.join(", "))));
    }
    let name = about.contract.as_ref().map_or("no contract", |c| c.name.as_str());
    let mut text = format!("{name}\n");
    match &about.contract {
        Some(contract) => {
            facts.extend(made_by(contract));
            text.push_str(&table::columns(&facts));
            text.push_str(&signature(contract));
        }
        None => text.push_str(&table::columns(&facts)),
    }
    text.extend(about.foreign.provisional.as_ref().map(provisional));
    text.push_str(&the_rest(about));
    Answer::text(text).notes(about.foreign.notes.clone())
}

/// What a file of others says, under its name.
fn provisional(by: &Provisional) -> String {
    let mut text = match by.from {
        onnx::GRAPH => format!("inputs and outputs, by {}\n", by.from),
        _ => format!("provisional, by {} ({}), not verified\n", by.from, by.writer),
    };
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push([name, &value].map(str::to_owned).to_vec());
    for (name, value) in [("description", &by.description), ("task", &by.task)] {
        if let Some(value) = value {
            row(name, value.clone());
        }
    }
    let entry = |e: &Entry| {
        let datatype = e.datatype.map_or("", |d| d.as_str());
        let mut parts = vec![e.name.clone(), datatype.to_owned(), dims(&e.dims)];
        parts.extend(e.range.map(|[low, high]| format!("{} to {}", table::number(low), table::number(high))));
        parts.extend(e.is.as_ref().filter(|name| **name != e.name).map(|name| format!("(`{name}`)")));
        parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" ")
    };
    by.inputs.iter().for_each(|e| row("input", entry(e)));
    by.outputs.iter().for_each(|e| row("output", entry(e)));
    if let Some(image) = &by.image {
        let size = image.size.map_or(String::new(), |s| format!(", {} x {}", s.height, s.width));
        row("picture", format!("`{}` ({:?}, {:?}{size}), divided by 255", image.input, image.color, image.layout));
    }
    if !by.labels.is_empty() {
        row("labels", listed(&by.labels));
    }
    text.push_str(&table::columns(&rows));
    text
}

fn method(m: &Method) -> Json {
    let argument =
        |a: &rust_host_engine::Argument| json!({"name": a.name, "type": a.kind.to_string(), "default": a.default});
    json!({
        "name": m.name,
        "arguments": m.arguments.iter().map(argument).collect::<Vec<_>>(),
        "returns": m.returns.to_string(),
        "signature": m.to_string(),
    })
}

fn made_by(contract: &Contract) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    if let Some(description) = &contract.description {
        row("description", description.clone());
    }
    if let Some(license) = &contract.license {
        row("license", license.clone());
    }
    let said = |key: &str| contract.provenance.get(key).and_then(Json::as_str);
    let mut made = format!("{} {}", contract.producer.name, contract.producer.version);
    for (key, before) in [("torch_version", "torch "), ("created", "")] {
        if let Some(value) = said(key) {
            made.push_str(&format!(", {before}{value}"));
        }
    }
    row("made by", made);
    for metric in &contract.metrics {
        let value = metric.value.map_or("not finite".to_owned(), table::number);
        let on =
            [metric.dataset.as_deref(), metric.split.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ");
        let samples = metric.samples.map_or(String::new(), |n| format!(", {} samples", table::grouped(n)));
        row(&metric.name, if on.is_empty() { value + &samples } else { format!("{value} on {on}{samples}") });
    }
    row("golden", format!("{} examples", contract.golden.count));
    rows
}

fn the_rest(about: &Description) -> String {
    let mut text = "methods\n".to_owned();
    text.extend(about.methods.iter().map(|m| format!("  {m}\n")));
    text.push_str(&format!("operators ({})\n", about.operators.len()));
    let mut line = String::new();
    for operator in &about.operators {
        if line.len() + operator.len() > 96 {
            text.push_str(&format!(" {line}\n"));
            line.clear();
        }
        line.push_str(&format!(" {operator}"));
    }
    if !line.is_empty() {
        text.push_str(&format!(" {line}\n"));
    }
    if !about.extra_files.is_empty() {
        text.push_str("extra files\n");
        let rows: Vec<_> = about.extra_files.iter().map(|(n, s)| vec![n.clone(), table::bytes(*s)]).collect();
        text.push_str(&table::columns(&rows));
    }
    text
}

/// Times for each batch size.
pub(crate) fn bench(measured: &Measured, as_json: bool) -> Answer {
    let per_second = |batch: Option<i64>, calls: f64| calls * batch.unwrap_or(1) as f64;
    if as_json {
        let result = |(batch, m): &(Option<i64>, rust_host_engine::Measurement)| {
            json!({
                "batch": batch, "calls": m.calls, "min_us": m.min_us, "median_us": m.median_us, "p99_us": m.p99_us,
                "calls_per_second": m.calls_per_second, "items_per_second": per_second(*batch, m.calls_per_second),
            })
        };
        return Answer::document(&json!({
            "model_name": measured.model_name, "device": measured.device.to_string(), "library": measured.library,
            "threads": measured.threads, "calls_at_once": measured.at_once, "speed": measured.speed.as_str(),
            "results": measured.results.iter().map(result).collect::<Vec<_>>(),
        }))
        .notes(measured.notes.clone());
    }
    let mut rows = vec![["batch", "median", "p99", "min", "items/s", "calls"].map(str::to_owned).to_vec()];
    rows.extend(measured.results.iter().map(|(batch, m)| {
        vec![
            batch.map_or("-".to_owned(), |b| b.to_string()),
            table::time(m.median_us),
            table::time(m.p99_us),
            table::time(m.min_us),
            table::grouped(per_second(*batch, m.calls_per_second).round() as u64),
            table::grouped(m.calls as u64),
        ]
    }));
    let threads = if measured.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", measured.threads) };
    let speed = if measured.speed == Speed::Optimised { ", optimised" } else { "" };
    let at_once = if measured.at_once == 1 { String::new() } else { format!(", {} calls at once", measured.at_once) };
    let head =
        format!("{} on {} ({}, {threads}{at_once}{speed})\n", measured.model_name, measured.device, measured.library);
    Answer::text(head + &table::columns(&rows)).notes(measured.notes.clone())
}

/// Every way that was measured, and the one that is kept.
pub(crate) fn tune(tuned: Tuned, as_json: bool) -> Answer {
    let settings = &tuned.settings;
    if as_json {
        return Answer::document(&json!({
            "model_name": tuned.model_name, "path": tuned.path.display().to_string(), "settings": settings,
            "failed": tuned.failed.iter().map(|f| json!({
                "file": f.file, "threads": f.threads, "instances": f.instances, "optimised": f.optimised, "why": f.why,
            })).collect::<Vec<_>>(),
        }))
        .notes(tuned.notes);
    }
    let mut rows =
        vec![["file", "threads", "calls at once", "form", "median", "rows/s", ""].map(str::to_owned).to_vec()];
    let key = |file: &str, threads, instances, optimised| (file.to_owned(), threads, instances, optimised);
    let kept = key(&settings.file, settings.threads, settings.instances, settings.optimised);
    let form = |optimised| if optimised { "optimised" } else { "the file's own" }.to_owned();
    rows.extend(settings.measured.iter().map(|m| {
        let is_kept = key(&m.file, m.threads, m.instances, m.optimised) == kept;
        vec![
            m.file.clone(),
            m.threads.to_string(),
            m.instances.to_string(),
            form(m.optimised),
            table::time(m.median_us),
            table::grouped(m.rows_per_second.round() as u64),
            if is_kept { "kept" } else { "" }.to_owned(),
        ]
    }));
    rows.extend(tuned.failed.iter().map(|f| {
        let (threads, instances, why) = (f.threads.to_string(), f.instances.to_string(), format!("failed: {}", f.why));
        vec![f.file.clone(), threads, instances, form(f.optimised), "-".to_owned(), "-".to_owned(), why]
    }));
    let batch = settings.measured.first().map_or(1, |m| m.batch);
    let head =
        format!("{} for {}, batch {batch}, on {}\n", tuned.model_name, settings.goal, settings.machine.processor);
    let tail = format!("wrote {}\n", tuned.path.display());
    Answer::text(head + &table::columns(&rows) + &tail).notes(tuned.notes)
}

/// What this machine has; exit code 1 when libtorch cannot be used.
pub(crate) fn doctor(report: &Report, as_json: bool) -> Answer {
    let code = i32::from(report.problem.is_some());
    let location = report.libtorch.as_ref();
    let path = location.and_then(|l| l.path.as_ref()).map(|p| p.display().to_string());
    let version = location.and_then(|l| l.version.clone());
    if as_json {
        return Answer::document(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "build": BUILD,
            "libtorch": {
                "expected": LIBTORCH_VERSION, "version": version, "path": path,
                "searched": location.map(|l| l.searched.iter().map(|p| p.display().to_string()).collect::<Vec<_>>()),
                "usable": report.problem.is_none(),
                "why_not": report.problem.as_ref().map(|e| &e.message),
                "hint": report.problem.as_ref().and_then(|e| e.hint.as_ref()),
            },
            "cpu": report.cpu,
            "onnx": {
                "library": report.onnx.as_ref().ok(), "why_not": report.onnx.as_ref().err().map(|e| &e.message),
            },
            "computes_with": report.cpu.computes_with(),
            "threads": report.threads.count,
            "threads_why": report.threads.why,
            "allocator": report.allocator,
            "limits": report.limits,
            "cuda": {
                "available": report.cuda.why_not.is_none(), "why_not": report.cuda.why_not,
                "driver": report.cuda.driver, "devices": report.cuda.devices,
            },
        }))
        .code(code);
    }
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    row("rust-host", BUILD.to_owned());
    match &report.problem {
        None => {
            let found = version.unwrap_or_else(|| format!("version unknown, expected {LIBTORCH_VERSION}"));
            row("libtorch", format!("{found} at {}", path.unwrap_or_default()));
        }
        Some(problem) => {
            row("libtorch", format!("cannot be used: {}", problem.message));
            if let Some(hint) = &problem.hint {
                row("", format!("hint: {hint}"));
            }
        }
    }
    let (torchscript, compiled) = match &report.problem {
        None => ("yes", "yes"),
        Some(_) => ("no", "packages that run without libtorch"),
    };
    row("TorchScript", torchscript.to_owned());
    row("compiled", compiled.to_owned());
    row(
        "ONNX",
        report.onnx.as_ref().map_or_else(|e| format!("no: {}", e.message), |library| format!("yes, {library}")),
    );
    row("processor", report.cpu.model.clone().unwrap_or_else(|| "unknown".to_owned()));
    row("features", report.cpu.features.join(" "));
    row("computes with", report.cpu.computes_with().to_owned());
    row("threads", format!("{}: {}", report.threads.count, report.threads.why));
    row("allocator", report.allocator.clone());
    let limits = &report.limits;
    let cpus = limits.cpus.map_or("no limit on processors".to_owned(), |n| format!("{} processors", table::number(n)));
    let memory =
        limits.memory_bytes.map_or("no limit on memory".to_owned(), |n| format!("{} of memory", table::bytes(n)));
    let group = limits.cgroup.map_or("no control group".to_owned(), |v| format!("{cpus}, {memory} (cgroup v{v})"));
    row("limits", group);
    row(
        "CUDA",
        match &report.cuda.why_not {
            Some(why) => format!("no: {why}"),
            None => format!(
                "{} device(s), {}",
                report.cuda.devices,
                report.cuda.driver.as_deref().unwrap_or("driver outside")
            ),
        },
    );
    Answer::text(table::columns(&rows)).code(code)
}
