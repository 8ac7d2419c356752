//! What the program does with its model.

use crate::{
    own_file,
    words::{self, FLAGS, Task, Words},
};
use rust_host_console::{self as console, Answer, Given, Outcome, Verified, table};
use rust_host_engine::{
    Archive, Backend, Contract, Error, Model, Result, Value,
    attached::Attached,
    golden,
    machine::{self, LIBTORCH_VERSION},
    threads,
};
use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{IsTerminal, stdin, stdout},
    os::{fd::AsFd, unix::fs::FileTypeExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Does what the words say.
///
/// # Errors
/// `InvalidModel` if the program carries no whole model, `InvalidInput` for words or inputs that do not fit, and what opening
/// and running say.
pub(crate) fn answer(words: Vec<OsString>) -> Result<Answer> {
    let name = PathBuf::from(env::args_os().next().unwrap_or_default());
    let said = words::read(words)?;
    let attached = Attached::find(&name, &own_file::map()?)?;
    if said.task == Task::Verify {
        attached.check()?;
    }
    let archive = Archive::of_this_program(&name, attached.model().clone())?;
    let contract = archive.contract()?.ok_or_else(|| {
        Error::invalid_contract(format!("`{}`: its model has no contract", name.display()))
            .hint("`rust-host build` refuses such a model: build it again")
    })?;
    Ok(match said.task {
        Task::Help => Answer::text(help(&name, &contract)),
        Task::Version => Answer::text(format!(
            "{} (rust-host {}, model {})\n",
            contract.name,
            env!("CARGO_PKG_VERSION"),
            attached.digest()
        )),
        Task::Contract => {
            let mut json = archive.extra("contract.json")?.unwrap_or_default().into_owned();
            json.push(b'\n');
            Answer::bytes(json)
        }
        Task::Verify => verify(archive, &contract, &said)?.answer(said.json),
        Task::Answer => predict(archive, &contract, &said)?,
    })
}

fn predict(archive: Archive, contract: &Contract, said: &Words) -> Result<Answer> {
    let from_stdin = [Given::new("-".into())];
    let given = if said.inputs.is_empty() && is_fed() { &from_stdin } else { said.inputs.as_slice() };
    // Wrong inputs are told before the code is opened.
    let found = console::gather(given, &contract.forward(), Some(contract), None)?;
    let picture = contract.image.as_ref().and_then(|image| {
        found.values.iter().find_map(|(name, value)| match value {
            Value::Tensor(tensor) if *name == image.input => Some(console::draw(tensor, image)),
            _ => None,
        })
    });
    let mut notes = found.notes;
    if said.draw && picture.is_none() {
        notes.push("nothing to draw: no input is a picture by the model's contract".to_owned());
    }
    let model = open(archive, said, &backend())?;
    let outputs = model.run(found.values)?;
    let device = model.device();
    // The process ends: giving the weights back page by page would take a millisecond, and the kernel does it anyway.
    std::mem::forget(model);
    let outcome = Outcome {
        model_name: contract.name.clone(),
        device,
        predictions: console::predict(contract, &outputs, said.top_k),
        outputs,
        drawings: picture.unwrap_or_default(),
    };
    let answer = match said.json {
        true => format!("{}\n", outcome.document()),
        false => outcome.text(said.draw || stdout().is_terminal()),
    };
    Ok(Answer::text(answer).notes(notes))
}

fn verify(archive: Archive, contract: &Contract, said: &Words) -> Result<Verified> {
    let backend = backend();
    let model = open(archive, said, &backend)?;
    Ok(Verified {
        model_name: contract.name.clone(),
        device: model.device(),
        library: backend.library(),
        verdict: golden::verify(&model)?,
        notes: Vec::new(),
    })
}

fn backend() -> Arc<dyn Backend> {
    rust_host_compiled::backend(libtorch)
}

/// Beside the program, where `rust-host build --with-libtorch` puts it for a model that needs it.
fn libtorch() -> Result<PathBuf> {
    let program = env::current_exe()
        .map_err(|e| Error::unavailable(format!("the path of the running program cannot be found: {e}")))?;
    let library = program.with_file_name("libtorch_cpu.so");
    let version = library.parent().and_then(machine::libtorch_version);
    let wrong = match version.as_deref().map(machine::plain_version) {
        _ if !library.is_file() => format!("there is no `{}`", library.display()),
        Some(LIBTORCH_VERSION) => return Ok(library),
        other => format!(
            "`{}` is of libtorch {}, and this program is for {LIBTORCH_VERSION}",
            library.display(),
            other.unwrap_or("without a version")
        ),
    };
    Err(Error::unavailable(wrong).hint("the folder that `rust-host build --with-libtorch` wrote has to stay together"))
}

fn open(archive: Archive, said: &Words, backend: &Arc<dyn Backend>) -> Result<Model> {
    match said.threads {
        Some(count) => backend.set_threads(count),
        // As `rust-host run`: the number in force is only lowered.
        None => {
            let planned = threads::plan().count;
            if backend.threads() > planned {
                backend.set_threads(planned);
            }
        }
    }
    rust_host_compiled::one_model_from_own_file();
    Model::of_this_program(archive, backend.as_ref())
}

/// Whether something waits on stdin: a pipe or a file, not a terminal or /dev/null.
fn is_fed() -> bool {
    let about = stdin().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    about.is_ok_and(|m| m.is_file() || m.file_type().is_fifo() || m.file_type().is_socket())
}

fn help(name: &Path, contract: &Contract) -> String {
    let program = name.display();
    let mut text = format!("{}\n", contract.name);
    if let Some(description) = &contract.description {
        text.push_str(&format!("  {description}\n"));
    }
    text.push_str(&console::signature(contract));
    text.push_str(&format!("usage: {program} [FLAGS] [VALUE | NAME=VALUE | -]...\n"));
    let rows: Vec<Vec<String>> =
        FLAGS.iter().map(|(flag, says)| vec![(*flag).to_owned(), (*says).to_owned()]).collect();
    text + &table::columns(&rows)
}
