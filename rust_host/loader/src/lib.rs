//! Opens the backend that a model needs: for TorchScript `librust_host_torch_library.so`, beside the running program or in `../lib`;
//! for compiled packages the libtorch that this library would open; for ONNX the user's ONNX Runtime.
//!
//! In: nothing but the program's own path and LD_LIBRARY_PATH. Out: the backend, or one sentence. Linking libtorch to the
//! binary instead would cost every `--help` 190 ms, and a missing libtorch would end the process before `main`.
#![expect(
    unsafe_code,
    reason = "dlopen and the two symbols of our own library, in open_torch and keep_loaded; the environment, in environment.rs; the heap, in heap.rs"
)]

mod closure;
mod elf;
mod environment;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod heap;

pub use closure::{libraries_of, look_in_own_folder};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};
use rust_host_engine::{
    BUILD, Backend, Backends, Error, Platform, Result,
    interrupt::{self, Questions},
    machine::{self, LibtorchLocation},
};
use std::{
    env,
    path::{Path, PathBuf},
    sync::{Arc, Once, OnceLock},
};

/// The file that [`open_torch`] opens.
pub const TORCH_LIBRARY: &str = "librust_host_torch_library.so";
/// The library of libtorch that everything else of it comes with.
pub const LIBTORCH: &str = "libtorch_cpu.so";

/// The backend that the binary opens at need.
#[derive(Debug, Clone, Copy, Default)]
pub struct Loader;

impl Backends for Loader {
    fn open(&self, platform: Platform) -> Result<Arc<dyn Backend>> {
        match platform {
            Platform::TorchScript => {
                rust_host_compiled::watch_forks();
                open_torch(&checked()?.0, "take both files from one build: `cargo build --release`")
            }
            Platform::Compiled => {
                Ok(rust_host_compiled::backend(|| Ok(checked()?.1.path.unwrap_or_else(|| LIBTORCH.into()))))
            }
            Platform::Onnx => onnx(),
        }
    }

    fn locate(&self) -> Result<LibtorchLocation> {
        locate()
    }

    fn let_waiting_threads_sleep(&self) {
        #[cfg(feature = "onnx")]
        rust_host_onnx::let_waiting_threads_sleep();
        environment::let_waiting_threads_sleep();
    }
}

/// The backend for ONNX finds its library itself.
fn onnx() -> Result<Arc<dyn Backend>> {
    #[cfg(feature = "onnx")]
    return rust_host_onnx::backend();
    #[cfg(not(feature = "onnx"))]
    Err(Error::unavailable("this program was built without ONNX").hint("`cargo build --release --features onnx`"))
}

/// Sets what the libraries read from the environment. Called once, at the start of a program, before it has a second thread.
pub fn at_start() {
    environment::bound_caches();
    #[cfg(feature = "onnx")]
    rust_host_onnx::send_nothing();
}

/// Our library with libtorch's backend, and the libtorch that it would open, which is of the right version.
fn checked() -> Result<(PathBuf, LibtorchLocation)> {
    let library = find_backend()?;
    let libtorch = look_for_libtorch(&library);
    libtorch.check()?;
    prepare();
    Ok((library, libtorch))
}

/// Before libtorch is loaded.
fn prepare() {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        heap::prepare();
    });
}

/// Where libtorch is, without loading anything.
///
/// # Errors
/// `Unavailable` if `librust_host_torch_library.so` is not there.
pub fn locate() -> Result<LibtorchLocation> {
    Ok(look_for_libtorch(&find_backend()?))
}

/// Beside the program, or in the `lib` beside its `bin`.
fn find_backend() -> Result<PathBuf> {
    let program = env::current_exe()
        .map_err(|e| Error::unavailable(format!("the path of the running program cannot be found: {e}")))?;
    let folder = program.parent().unwrap_or(Path::new("/"));
    find_backend_near(folder)
}

fn find_backend_near(folder: &Path) -> Result<PathBuf> {
    let places = [folder.join(TORCH_LIBRARY), folder.join("../lib").join(TORCH_LIBRARY)];
    places.iter().find(|p| p.is_file()).cloned().ok_or_else(|| {
        let [beside, lib] = places.map(|p| p.display().to_string());
        Error::unavailable(format!("the backend `{TORCH_LIBRARY}` is missing: there is neither `{beside}` nor `{lib}`"))
            .hint("unpack the whole archive of rust-host, or `cargo build --release` in its source")
    })
}

/// In the order of the dynamic loader: LD_LIBRARY_PATH, then the library's own RUNPATH.
fn look_for_libtorch(library: &Path) -> LibtorchLocation {
    let own = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let searched: Vec<PathBuf> =
        env::split_paths(&own).filter(|p| !p.as_os_str().is_empty()).chain(elf::run_path(library)).collect();
    let folder = searched.iter().find(|f| f.join(LIBTORCH).is_file());
    LibtorchLocation {
        path: folder.map(|f| f.join(LIBTORCH)),
        version: folder.and_then(|f| machine::libtorch_version(&f.canonicalize().ok()?)),
        searched,
        of_python: false,
    }
}

type BuildFunction = fn() -> &'static str;
type BackendFunction = fn(Questions) -> Result<Arc<dyn Backend>>;

/// The backend in that file, which stays open. A libtorch that is in the process already is the one that it gets. `remedy` is what
/// to do where program and file are of two builds.
///
/// # Errors
/// `Unavailable` if the file is not there, of another build than this program, or libtorch does not fit it.
pub fn open_torch(path: &Path, remedy: &str) -> Result<Arc<dyn Backend>> {
    // Kept for ever: the backend's code lies in it, and libtorch cannot be unloaded.
    static OPENED: OnceLock<Library> = OnceLock::new();
    let library = match OPENED.get() {
        Some(library) => library,
        None => {
            // SAFETY: the library is our own, built with this program; its initialisers are those of libtorch and of the
            // shim, which may run on any thread and are run once.
            let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| refused(path, &e))?;
            OPENED.get_or_init(|| library)
        }
    };
    let other = |what: String| {
        Error::unavailable(format!("`{}` {what}, this program is of the build `{BUILD}`", path.display())).hint(remedy)
    };
    // SAFETY: the symbol is a function of this type in every build, which is why it is asked before the other one.
    let build: Symbol<BuildFunction> =
        unsafe { library.get(b"rust_host_torch_build") }.map_err(|_| other("does not say its build".into()))?;
    if build() != BUILD {
        return Err(other(format!("is of the build `{}`", build())));
    }
    // SAFETY: the builds are equal, so both sides have one definition of the types that cross here.
    let backend: Symbol<BackendFunction> =
        unsafe { library.get(b"rust_host_torch_backend") }.map_err(|_| other("has no backend".into()))?;
    backend(interrupt::questions())
}

/// Loads a library for good, and what it needs, for those that are loaded later and ask for it by its name.
///
/// # Errors
/// `Unavailable` if it cannot be loaded.
pub fn keep_loaded(path: &Path) -> Result<()> {
    // SAFETY: for libraries of libtorch, whose initialisers may run on any thread and run once; it is never closed.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| refused(path, &e))?;
    std::mem::forget(library);
    Ok(())
}

/// The dynamic loader's text as a sentence: `file: reason` or `file: undefined symbol: name`.
fn refused(path: &Path, error: &libloading::Error) -> Error {
    use std::error::Error as _;
    let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    let first = text.lines().next().unwrap_or_default();
    let hint = if first.contains("undefined symbol") || first.contains("version `") {
        "the libtorch that was found is not the one that this host is built for: `rust-host doctor` shows both"
    } else if first.contains("cannot open shared object file") {
        "a library beside libtorch is missing; set LD_LIBRARY_PATH to its folder, or reinstall torch"
    } else {
        "`rust-host doctor` shows which libtorch is used"
    };
    Error::unavailable(format!("`{}` cannot be loaded: {first}", path.display())).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_backend_is_named_with_both_places() {
        let folder = tempfile::tempdir().unwrap();
        let e = find_backend_near(folder.path()).unwrap_err();
        assert!(
            e.message.contains(&folder.path().join(TORCH_LIBRARY).display().to_string())
                && e.message.contains("../lib")
        );
    }

    #[test]
    fn a_file_that_is_no_library_is_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(TORCH_LIBRARY);
        std::fs::write(&path, "no library").unwrap();
        let e = open_torch(&path, "").err().unwrap();
        assert!(e.message.contains("cannot be loaded") && e.message.lines().count() == 1, "{e}");
    }
}
