//! `build`: a compiled package → one program that carries it, its contract and its golden examples; for a model that needs
//! libtorch, a folder with both; for other people's programs, a static library and its header.

mod header;
mod library;
mod program;

use rust_host_console::Verified;
use rust_host_engine::{
    Archive, Backends, Contract, Error, ErrorKind, Model, Package, Platform, Result, golden, operators::Policy, trust,
};
use rust_host_loader::libraries_of;
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// What is to be made of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// One file that runs.
    Program,
    /// A folder with it and libtorch.
    WithLibtorch,
    /// A folder with a static library and its header.
    Library,
}

/// What is to be made of what.
pub(crate) struct Settings {
    /// The package.
    pub file: PathBuf,
    /// The program, or the folder.
    pub output: PathBuf,
    /// Which of them.
    pub form: Form,
    /// Which packages are opened.
    pub policy: Policy,
}

/// What was written.
pub(crate) struct Built {
    /// The program or the library.
    pub path: PathBuf,
    /// Its size, with that of what lies beside it.
    pub bytes: u64,
    /// What it is.
    pub form: Form,
    /// The functions that a header declares.
    pub declares: Option<String>,
    /// SHA-256 of the model file in it.
    pub model_digest: String,
    /// What its golden examples gave here.
    pub verified: Verified,
}

/// Writes it, after the model in it has reproduced its golden examples with no more than it will have.
///
/// # Errors
/// `InvalidInput` for a file that is no compiled package, does not need what it is to have or cannot be a function of C,
/// `Refused` for one that is not trusted, `InvalidContract` for one without golden examples, `Mismatch` if it does not reproduce
/// them, `Unavailable` if it was compiled for another machine, needs libtorch, or the host is not there; and what reading and
/// writing say.
pub(crate) fn build(settings: &Settings, backends: &dyn Backends) -> Result<Built> {
    let Settings { file: package, output, form, policy } = settings;
    let archive = Archive::open_signed(package, policy.signed_by.as_ref())?;
    let shown = package.display().to_string();
    if archive.platform() != Platform::Compiled {
        return Err(Error::invalid_input(format!(
            "`{shown}` is a {}, expected a compiled package: a program without libtorch carries the model's machine code",
            archive.platform().noun()
        ))
        .hint("`py-authoring export --method compiled` writes one, `model.pt2`"));
    }
    trust::check(&archive, policy)?;
    let at = |e: Error| Error { message: format!("`{shown}`: {}", e.message), ..e };
    let codes = Package::all(&archive).map_err(at)?;
    let read = Package::read(&archive).map_err(at)?;
    let plan = Plan::new(*form, output, &archive, codes.last().unwrap_or(&read)).map_err(at)?;
    if fs::canonicalize(package).is_ok_and(|own| fs::canonicalize(plan.path()).is_ok_and(|to| to == own)) {
        return Err(Error::invalid_input(format!("`{shown}` is the package itself, expected another file to write")));
    }
    read.built_for.check().and_then(|()| codes.iter().try_for_each(alone)).map_err(at)?;
    let mut lacking: Vec<&str> = codes.iter().flat_map(|code| rust_host_compiled::of_libtorch(code)).collect();
    lacking.sort_unstable(); // several codes may lack the same
    lacking.dedup();
    match (form, lacking.as_slice()) {
        (Form::WithLibtorch, []) => {
            return Err(Error::invalid_input(format!("`{shown}` calls nothing of libtorch"))
                .hint("without `--with-libtorch` it becomes one file that runs alone"));
        }
        (Form::WithLibtorch, _) | (_, []) => {}
        (form, lacking) => {
            let (what, hint) = match form {
                Form::Library => ("a library of `--header`", "`rust-host info` lists what it calls"),
                _ => (
                    "a program of one file",
                    "`--with-libtorch` makes a folder that has it; `rust-host info` lists what it calls",
                ),
            };
            let text = format!(
                "`{shown}`: its code needs libtorch for `{}`: {what} carries no libtorch",
                lacking.join("`, `")
            );
            return Err(Error::unavailable(text).hint(hint));
        }
    }
    let host = plan.host()?;
    let libtorch = match form {
        Form::WithLibtorch => Some(backends.locate()?.check()?.to_owned()),
        Form::Program | Form::Library => None,
    };
    let libraries = libtorch.as_deref().map(libraries_of).transpose()?;
    let verified = verify(&archive, libtorch)?;
    if !verified.verdict.ok {
        return Err(Error::new(
            ErrorKind::Mismatch,
            format!("`{shown}` does not reproduce its golden examples on this machine"),
        )
        .hint(format!("`rust-host verify {shown}` says how far it is off")));
    }
    let model = archive.bytes();
    let bytes = match (&plan, libraries) {
        (Plan::Library(library), _) => library.write(&host, model)?,
        (Plan::Program(path), None) => program::write(path, &host, model, &read)?,
        (Plan::Program(path), Some(libraries)) => program::write_folder(path, &host, model, &read, &libraries)?,
    };
    Ok(Built {
        path: plan.path().to_owned(),
        bytes,
        form: *form,
        declares: if let Plan::Library(library) = &plan { Some(library.declares()) } else { None },
        model_digest: trust::digest(model),
        verified,
    })
}

/// Where it goes, settled before anything is opened.
enum Plan {
    Program(PathBuf),
    Library(library::Library),
}

impl Plan {
    fn new(form: Form, output: &Path, archive: &Archive, package: &Package<'_>) -> Result<Self> {
        Ok(match form {
            Form::Program => Self::Program(output.to_owned()),
            Form::WithLibtorch => Self::Program(program::path_in_folder(output)?),
            Form::Library => Self::Library(library::Library::new(output, &contract_of(archive)?, package)?),
        })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Program(path) => path,
            Self::Library(library) => library.path(),
        }
    }

    /// The file of the host for it.
    fn host(&self) -> Result<Vec<u8>> {
        let name = match self {
            Self::Program(_) => "rust-host-program",
            Self::Library(_) => "librust_host_embedded.so",
        };
        rust_host_engine::file::read(&find_host(name)?, ErrorKind::Unavailable)
    }
}

fn contract_of(archive: &Archive) -> Result<Contract> {
    archive.contract()?.ok_or_else(|| {
        Error::invalid_contract("it has no contract").hint("`py-authoring export --method compiled` writes one")
    })
}

/// Whether its code needs nothing beside it but the C library.
fn alone(package: &Package<'_>) -> Result<()> {
    let beside = |name: &&str| !["libc.so", "libm.so", "ld-linux"].iter().any(|own| name.starts_with(own));
    let others: Vec<&str> = package.libraries.iter().map(String::as_str).filter(beside).collect();
    if others.is_empty() {
        return Ok(());
    }
    Err(Error::unavailable(format!(
        "its code needs `{}` beside it, and where it is to run there is the C library alone",
        others.join("`, `")
    ))
    .hint("export it again: `py-authoring export --method compiled` puts all into the package"))
}

/// Runs the examples as they will be run: with that libtorch, or where an operator of it is needed, with none.
fn verify(archive: &Archive, libtorch: Option<PathBuf>) -> Result<Verified> {
    let backend =
        rust_host_compiled::backend(move || libtorch.clone().ok_or_else(|| Error::unavailable("there is no libtorch")));
    let model = Model::of_this_program(Archive::clone(archive), backend.as_ref())?;
    Ok(Verified {
        model_name: model.contract().map(|c| c.name.clone()).unwrap_or_default(),
        device: model.device(),
        library: backend.library(),
        verdict: golden::verify(&model)?,
        notes: Vec::new(),
    })
}

/// Beside the running program, or in the `lib` beside its `bin`, as the libraries are.
fn find_host(name: &str) -> Result<PathBuf> {
    let program = env::current_exe()
        .map_err(|e| Error::unavailable(format!("the path of the running program cannot be found: {e}")))?;
    find_host_near(program.parent().unwrap_or(Path::new("/")), name)
}

fn find_host_near(folder: &Path, name: &str) -> Result<PathBuf> {
    let places = [folder.join(name), folder.join("../lib").join(name)];
    places.iter().find(|p| p.is_file()).cloned().ok_or_else(|| {
        let [beside, lib] = places.map(|p| p.display().to_string());
        Error::unavailable(format!(
            "the host that programs are made of is missing: there is neither `{beside}` nor `{lib}`"
        ))
        .hint("it is in the archive of rust-host, not in the wheel: unpack that, or `cargo build --release` in its source")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_host_is_named_with_both_places_and_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let e = find_host_near(folder.path(), "host").unwrap_err();
        assert!(e.message.contains(&folder.path().join("host").display().to_string()) && e.message.contains("../lib"));
        std::fs::write(folder.path().join("host"), "").unwrap();
        assert_eq!(find_host_near(folder.path(), "host").unwrap(), folder.path().join("host"));
    }
}
