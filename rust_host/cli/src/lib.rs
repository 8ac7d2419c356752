//! The command line `rust-host`: parse → settle → do → print.
//!
//! `args` parses (and alone knows clap), `commands` do the work on plain values, `output` prints what came out of it, errors
//! included. Binary and wheel open libtorch at need, each where it finds it.

mod args;
mod commands;
mod deadline;
mod folder;
mod interrupted;
mod output;
mod worker;

use rust_host_engine::{Backends, Error, Result};
use std::{
    ffi::OsString,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::AtomicBool},
};

/// Runs one command line (without the program's name) and returns its exit code: 0 done, 1 failed or the answer is no,
/// 2 misuse. Prints to the process's stdout and stderr.
pub fn run(args: impl IntoIterator<Item = OsString>, backends: &dyn Backends) -> i32 {
    let args: Vec<OsString> = args.into_iter().collect();
    let json = output::asks_for_json(&args);
    let result = catch_unwind(AssertUnwindSafe(|| answer(&args, backends)))
        .unwrap_or_else(|panic| Err(Error::internal(format!("internal error: {}", panic_text(panic.as_ref())))));
    output::finish(result, json)
}

fn answer(args: &[OsString], backends: &dyn Backends) -> Result<output::Answer> {
    let parsed = args::parse(args)?;
    match in_a_worker(&parsed)? {
        Some(code) => Ok(output::Answer::printed(code)),
        None => worker::explain(answer_here(parsed, backends)),
    }
}

fn answer_here(parsed: args::Parsed, backends: &dyn Backends) -> Result<output::Answer> {
    match parsed {
        args::Parsed::Show(text) => Ok(output::Answer::text(text)),
        args::Parsed::Completions(script) => Ok(output::Answer::bytes(script)),
        args::Parsed::Info(file, signed_by, json) => {
            Ok(output::info(&commands::info::info(&file, signed_by.as_ref())?, json))
        }
        args::Parsed::Run(settings) => output::run(&commands::run::run(settings, backends)?),
        args::Parsed::Tables(settings) => {
            let (path, summary) = commands::tables::run(&settings, backends)?;
            Ok(output::tables(&path, summary, settings.json))
        }
        args::Parsed::Verify(file, device, policy, confinement, json) => {
            Ok(commands::verify::verify(&file, device, &policy, confinement, backends)?.answer(json))
        }
        args::Parsed::Bench(settings, json) => Ok(output::bench(&commands::bench::bench(&settings, backends)?, json)),
        args::Parsed::Tune(settings, json) => Ok(output::tune(commands::tune::tune(&settings, backends)?, json)),
        args::Parsed::Build(settings, json) => Ok(output::build(&commands::build::build(&settings, backends)?, json)),
        args::Parsed::Doctor(json) => Ok(output::doctor(&commands::doctor::doctor(backends), json)),
    }
}

/// Does the whole command in a second process where the model must not have what this one has, and returns the exit code.
fn in_a_worker(parsed: &args::Parsed) -> Result<Option<i32>> {
    use commands::run::Target;
    use worker::Outputs;
    let (file, wanted) = match parsed {
        args::Parsed::Run(s) => (&s.file, s.confinement),
        args::Parsed::Tables(s) => (&s.file, s.confinement),
        args::Parsed::Bench(s, _) => (&s.file, s.confinement),
        args::Parsed::Verify(file, _, _, confinement, _) => (file, *confinement),
        _ => return Ok(None),
    };
    if let (true, Some(bytes)) = (worker::is_worker(), wanted.memory) {
        worker::limit_memory(bytes)?;
    }
    if !worker::needed(wanted, file)? {
        return Ok(None);
    }
    let outputs = match parsed {
        args::Parsed::Run(commands::run::Settings { target: Target::Folder(folder), .. }) => {
            Outputs::Folder(folder.clone(), None)
        }
        args::Parsed::Tables(commands::tables::Settings { output: Some(path), .. }) => {
            Outputs::File(path.clone(), None)
        }
        _ => Outputs::None,
    };
    match worker::start() {
        Ok(worker) => worker::run(worker, outputs, wanted).map(Some),
        // The command itself says that it had no sandbox.
        Err(_) if !wanted.is_asked_for() => Ok(None),
        Err(e) => Err(e),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no reason given")
}

/// What the binary's `main` does: [`run`] with the process's arguments, and the process prepared for it.
pub fn main(backends: &dyn Backends) -> ! {
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        // `run` says it in a sentence.
        std::panic::set_hook(Box::new(|_| {}));
    }
    // A file beyond RLIMIT_FSIZE raises SIGXFSZ, which ends the process; with a handler the write fails and can be told.
    // Where it cannot be set, the process ends as it would have.
    const SIGXFSZ: i32 = signal_hook::consts::SIGXFSZ;
    let _set = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
    interrupted::this_is_the_program();
    let code = match worker::attach() {
        Ok(()) => run(std::env::args_os().skip(1), backends),
        Err(e) => output::finish(Err(e), false),
    };
    worker::said();
    // Everything is flushed. libtorch's destructors took 75 of a small run's 268 ms of processor time, to free memory that
    // the process gives back anyway.
    signal_hook::low_level::exit(code)
}
