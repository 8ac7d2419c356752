//! Finds ONNX Runtime, opens it, and sets it up.
//!
//! In: the environment and the places of this program. Out: the environment of sessions and the library's version, or one
//! sentence with every place that was looked at.

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use ort::{environment::Environment, logging::LogLevel, sys};
use rust_host_engine::{Error, Result};
use std::{
    env,
    ffi::{CStr, OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// The variable that names the library's file, as in every program that uses ort.
const VARIABLE: &str = "ORT_DYLIB_PATH";
const NAME: &str = "libonnxruntime.so";
const INSTALL: &str = "`pip install onnxruntime`, or set ORT_DYLIB_PATH to the file `libonnxruntime.so`";

/// Opens the first one that is found.
pub(crate) fn open() -> Result<(Environment, String)> {
    send_nothing();
    let path = find(&Places::of_this_process())?;
    let version = check(&path)?;
    let refused = |e: String| Error::unavailable(format!("`{}` cannot be used: {e}", path.display())).hint(INSTALL);
    let environment = ort::init_from(&path).map_err(|e| refused(e.to_string()))?;
    let environment = environment.with_name("rust-host").with_telemetry(false).build();
    let environment = environment.map_err(|e| refused(crate::message::first_line(e.message())))?;
    if env::var_os("ORT_LOG").is_none() {
        // What went wrong comes back as an error too, and what it warns of is for the author of the file.
        environment.set_log_level(LogLevel::Fatal);
    }
    Ok((environment, version))
}

/// From 1.32 on, the library that Python packages carry reports its use to Microsoft from a thread of its own, which it starts
/// with the environment and which only this variable prevents. A value that the user has set stays.
pub fn send_nothing() {
    const TELEMETRY: &str = "ORT_DISABLE_TELEMETRY";
    if env::var_os(TELEMETRY).is_none() {
        // SAFETY: Rust's own readers wait for it. The binary does it before it starts a thread; in Python it happens once,
        // before the first ONNX model is opened, and is as safe as `os.environ[…] = …` beside threads of other libraries.
        unsafe { env::set_var(TELEMETRY, "1") };
    }
}

/// Where it may be.
struct Places {
    /// What the user names; nothing else is looked at then.
    named: Option<PathBuf>,
    /// Folders, the first one first.
    folders: Vec<PathBuf>,
    /// Names for the system's loader.
    system: &'static [&'static str],
}

impl Places {
    fn of_this_process() -> Self {
        let named = env::var_os(VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
        let mut folders = Vec::new();
        if let Some(own) = own_folder() {
            // `site-packages/rust_host/_native.abi3.so` is beside `site-packages/onnxruntime`.
            folders.extend([own.clone(), own.join("../lib"), own.join("../onnxruntime/capi")]);
        }
        for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
            folders.extend(env::var_os(variable).into_iter().flat_map(packages));
        }
        Self { named, folders, system: &["libonnxruntime.so.1", NAME] }
    }
}

/// `lib/python3.*/site-packages/onnxruntime/capi` of a Python environment.
fn packages(environment: OsString) -> Vec<PathBuf> {
    let lib = Path::new(&environment).join("lib");
    let mut found: Vec<PathBuf> = fs::read_dir(lib)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().as_bytes().starts_with(b"python3"))
        .map(|entry| entry.path().join("site-packages/onnxruntime/capi"))
        .collect();
    found.sort();
    found
}

/// The folder of the file that this code is in: the program, or the wheel's module.
fn own_folder() -> Option<PathBuf> {
    let mut about = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the address is one of this program's own functions, and `about` is where dladdr writes.
    let found = unsafe { libc::dladdr(own_folder as *const libc::c_void, about.as_mut_ptr()) };
    // SAFETY: zeroes are valid for all of its fields, and dladdr wrote the rest.
    let about = unsafe { about.assume_init() };
    if found == 0 || about.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr gave a text that lives as long as the library that this code is in.
    let name = unsafe { CStr::from_ptr(about.dli_fname) };
    let path = Path::new(OsStr::from_bytes(name.to_bytes())).canonicalize();
    // A program is named as it was started, perhaps without its folder.
    path.or_else(|_| env::current_exe()).ok()?.parent().map(Path::to_path_buf)
}

fn find(places: &Places) -> Result<PathBuf> {
    if let Some(named) = &places.named {
        let absolute = std::path::absolute(named).unwrap_or_else(|_| named.clone());
        return match absolute.is_file() {
            true => Ok(absolute),
            false => Err(Error::unavailable(format!("{VARIABLE} is `{}`, which is no file", named.display()))
                .hint("the file `libonnxruntime.so`, or leave it out to have it looked for")),
        };
    }
    if let Some(found) = places.folders.iter().find_map(|folder| in_folder(folder)) {
        return Ok(found);
    }
    for name in places.system {
        // SAFETY: its initialisers are those of ONNX Runtime, which may run on any thread; it is opened again below.
        if unsafe { Library::open(Some(*name), RTLD_NOW | RTLD_LOCAL) }.is_ok() {
            return Ok(PathBuf::from(name));
        }
    }
    let folders = places.folders.iter().map(|f| format!("`{}`", f.display())).collect::<Vec<_>>().join(", ");
    Err(Error::unavailable(format!(
        "ONNX Runtime is not here: there is no `{NAME}` in {folders}, nor does the system's loader find one"
    ))
    .hint(INSTALL))
}

/// `libonnxruntime.so`, or the newest `libonnxruntime.so.1.32.0`, as Python packages have it.
fn in_folder(folder: &Path) -> Option<PathBuf> {
    let plain = folder.join(NAME);
    if plain.is_file() {
        return Some(plain);
    }
    let version = |path: &PathBuf| -> Option<Vec<u32>> {
        let rest = path.file_name()?.to_str()?.strip_prefix(NAME)?.strip_prefix('.')?;
        rest.split('.').map(|n| n.parse().ok()).collect()
    };
    let files = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    files.filter_map(|path| Some((version(&path)?, path))).max().map(|(_, path)| path)
}

/// Loads the library and asks for its version, so that ort finds nothing that makes it panic.
fn check(path: &Path) -> Result<String> {
    let shown = path.display();
    // SAFETY: its initialisers are those of ONNX Runtime, which may run on any thread and are run once.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| {
        use std::error::Error as _;
        let text = e.source().map_or_else(|| e.to_string(), ToString::to_string);
        let first = text.lines().next().unwrap_or_default();
        Error::unavailable(format!("`{shown}` cannot be loaded: {first}")).hint(INSTALL)
    })?;
    let foreign = || Error::unavailable(format!("`{shown}` is a library, but not ONNX Runtime")).hint(INSTALL);
    // SAFETY: the symbol is a function of this type in every version of ONNX Runtime.
    let base = unsafe { library.get::<unsafe extern "C" fn() -> *const sys::OrtApiBase>(b"OrtGetApiBase") };
    // SAFETY: it takes nothing and returns a table that lives as long as the library, or null.
    let base = unsafe { base.map_err(|_| foreign())?().as_ref() }.ok_or_else(foreign)?;
    // SAFETY: this function has been in the table since its first version.
    let version = unsafe { (base.GetVersionString)() };
    if version.is_null() {
        return Err(foreign());
    }
    // SAFETY: a text that lives as long as the library.
    let version = unsafe { CStr::from_ptr(version) }.to_string_lossy().into_owned();
    // SAFETY: as above; the number is that of a table, and the answer is null where there is none of that number.
    let table = unsafe { (base.GetApi)(sys::ORT_API_VERSION) };
    if table.is_null() || !is_new_enough(&version) {
        let oldest = sys::ORT_API_VERSION;
        return Err(Error::unavailable(format!(
            "`{shown}` is ONNX Runtime {version}, this host works with 1.{oldest} and later versions of 1"
        ))
        .hint("`pip install --upgrade onnxruntime`"));
    }
    // It stays: sessions are in it.
    std::mem::forget(library);
    Ok(version)
}

/// Whether a version has everything that is used here; ort would panic where it has not.
fn is_new_enough(version: &str) -> bool {
    let mut parts = version.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    parts.next() == Some(1) && parts.next() >= Some(sys::ORT_API_VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(folders: &[&Path]) -> Places {
        Places { named: None, folders: folders.iter().map(|f| f.to_path_buf()).collect(), system: &["libnowhere.so"] }
    }

    #[test]
    fn the_first_folder_that_has_one_wins_and_in_it_the_newest() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["libonnxruntime.so.1.9.0", "libonnxruntime.so.1.32.0", "libonnxruntime_providers_shared.so"] {
            fs::write(second.path().join(name), "").unwrap();
        }
        fs::write(first.path().join("libonnxruntime.so.bak"), "").unwrap();
        let found = find(&places(&[first.path(), second.path()])).unwrap();
        assert_eq!(found, second.path().join("libonnxruntime.so.1.32.0"));
        fs::write(first.path().join(NAME), "").unwrap();
        assert_eq!(find(&places(&[first.path(), second.path()])).unwrap(), first.path().join(NAME));
    }

    #[test]
    fn where_there_is_none_every_place_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let e = find(&places(&[folder.path(), Path::new("/nowhere/lib")])).unwrap_err();
        assert!(e.message.contains(&folder.path().display().to_string()) && e.message.contains("/nowhere/lib"), "{e}");
        assert!(e.hint.unwrap().contains("pip install onnxruntime"));
        let named = Places { named: Some("/nowhere/libonnxruntime.so".into()), ..places(&[folder.path()]) };
        let e = find(&named).unwrap_err();
        assert_eq!(e.message, "ORT_DYLIB_PATH is `/nowhere/libonnxruntime.so`, which is no file");
    }

    #[test]
    fn a_python_environment_has_it_in_its_packages() {
        let folder = tempfile::tempdir().unwrap();
        let capi = folder.path().join("lib/python3.12/site-packages/onnxruntime/capi");
        fs::create_dir_all(&capi).unwrap();
        assert_eq!(packages(folder.path().into()), [capi]);
        assert!(packages("/nowhere".into()).is_empty());
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        for (version, is) in
            [("1.17.0", true), ("1.32.0", true), ("1.100", true), ("1.9.1", false), ("2.0.0", false), ("", false)]
        {
            assert_eq!(is_new_enough(version), is, "{version}");
        }
    }

    #[test]
    fn what_is_no_library_or_another_one_is_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        fs::write(&path, "no library").unwrap();
        let e = check(&path).unwrap_err();
        assert!(e.message.contains("cannot be loaded") && e.message.lines().count() == 1, "{e}");
        let e = check(Path::new("libc.so.6")).unwrap_err();
        assert_eq!(e.message, "`libc.so.6` is a library, but not ONNX Runtime");
    }
}
