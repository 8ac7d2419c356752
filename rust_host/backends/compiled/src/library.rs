//! A package's library, opened from memory: nothing is unpacked into a temporary folder that a killed process would leave.

use crate::{
    constants::Pages,
    host::{Host, RawTensor},
    own::symbols::{self, Patch},
};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use rust_host_engine::{Error, Result};
use rustix::fs::MemfdFlags;
use std::{
    ffi::{CStr, c_char, c_void},
    fs::File,
    mem::MaybeUninit,
    ops::Range,
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::FileExt,
    },
    path::PathBuf,
    ptr,
    sync::{Mutex, PoisonError},
};

/// `AOTInductorModelContainerOpaque`: the model, in as many instances as calls may run at once.
#[repr(C)]
pub(crate) struct RawContainer {
    _opaque: [u8; 0],
}

type Container = *mut RawContainer;
type Run = unsafe extern "C" fn(
    Container,
    *mut *mut RawTensor,
    usize,
    *mut *mut RawTensor,
    usize,
    *mut c_void,
    *mut c_void,
) -> i32;

/// The package's C interface (`torch/csrc/inductor/aoti_runtime/interface.h`) and its container.
pub(crate) struct Model {
    container: Container,
    run: Run,
    delete: unsafe extern "C" fn(Container) -> i32,
    last_error: Option<unsafe extern "C" fn(*mut *const c_char) -> i32>,
}

// SAFETY: the container hands each call an instance of its own under a lock.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

impl Model {
    /// Opens the code and makes `instances` of its model.
    ///
    /// # Errors
    /// `InvalidModel` if it is no library, lacks a function or does not start; `Unavailable` if there is no memory for it.
    pub(crate) fn open(code: &[u8], host: &Host, instances: usize, inputs: usize, outputs: usize) -> Result<Self> {
        let library = opened(code, host)?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the functions have these types in the interface of the torch that compiled the package, which was
                // compared with the one that this host is built for.
                *unsafe { library.get(concat!($name, "\0").as_bytes()) }
                    .map_err(|_| Error::invalid_model(concat!("its compiled code has no `", $name, "`")))?
            };
        }
        let create: unsafe extern "C" fn(*mut Container, usize, *const c_char, *const c_char) -> i32 =
            function!("AOTInductorModelContainerCreateWithDevice");
        let count_inputs: unsafe extern "C" fn(Container, *mut usize) -> i32 =
            function!("AOTInductorModelContainerGetNumInputs");
        let count_outputs: unsafe extern "C" fn(Container, *mut usize) -> i32 =
            function!("AOTInductorModelContainerGetNumOutputs");
        let run: Run = function!("AOTInductorModelContainerRun");
        let delete: unsafe extern "C" fn(Container) -> i32 = function!("AOTInductorModelContainerDelete");
        // SAFETY: as above; older packages do not have it.
        let last_error = unsafe { library.get(b"AOTInductorGetLastError\0") }.ok().map(|symbol| *symbol);
        let mut container = ptr::null_mut();
        // SAFETY: the place takes the container; the texts end with a zero.
        let failed = unsafe { create(&raw mut container, instances, c"cpu".as_ptr(), ptr::null()) };
        if failed != 0 || container.is_null() {
            let why = reason(last_error).unwrap_or_else(|| "it gives no reason".to_owned());
            return Err(Error::invalid_model(format!("its compiled code does not start: {why}")));
        }
        let model = Self { container, run, delete, last_error };
        let (mut takes, mut gives) = (0, 0);
        // SAFETY: the container lives; the places take the numbers.
        let failed = unsafe { count_inputs(container, &raw mut takes) | count_outputs(container, &raw mut gives) };
        if failed != 0 || (takes, gives) != (inputs, outputs) {
            return Err(Error::invalid_contract(format!(
                "the contract names {inputs} inputs and {outputs} outputs, the compiled code has {takes} and {gives}"
            )));
        }
        Ok(model)
    }

    /// Runs it. Takes over the inputs' handles and fills `outputs` with handles that the caller owns.
    ///
    /// # Errors
    /// `Failed` with what the code says.
    pub(crate) fn run(&self, inputs: &mut [*mut RawTensor], outputs: &mut [*mut RawTensor]) -> Result<()> {
        // SAFETY: both arrays are as long as the code's own counts, which `open` compared; handles are valid tensors of the
        // datatypes and ranks that the contract names, which the engine has checked.
        let failed = unsafe {
            (self.run)(
                self.container,
                inputs.as_mut_ptr(),
                inputs.len(),
                outputs.as_mut_ptr(),
                outputs.len(),
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        match failed {
            0 => Ok(()),
            _ => Err(Error::failed(match reason(self.last_error) {
                Some(why) => format!("the compiled code failed: {why}"),
                None => "the compiled code failed and gives no reason".to_owned(),
            })),
        }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: the container is ours alone, and no call runs: each borrows the model.
        unsafe { (self.delete)(self.container) };
    }
}

/// What the code says went wrong on this thread, in one line.
fn reason(last_error: Option<unsafe extern "C" fn(*mut *const c_char) -> i32>) -> Option<String> {
    let mut text = ptr::null();
    // SAFETY: the place takes a pointer to a text of the library's that is valid until this thread's next error.
    let failed = unsafe { last_error?(&raw mut text) };
    if failed != 0 || text.is_null() {
        return None;
    }
    // SAFETY: as above.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().take(400).collect())
}

/// A library that was opened, and its bytes to know it by.
struct Opened {
    file: File,
    library: &'static Library,
}

/// The library of that code, opened once in this process and never closed: a thread that has run the code keeps destructors
/// of it until the thread ends, so the loader would not give it back anyway.
fn opened(code: &[u8], host: &Host) -> Result<&'static Library> {
    static OPENED: Mutex<Vec<Opened>> = Mutex::new(Vec::new());
    let patches = match host.is_own() {
        true => symbols::to_own(code)
            .ok_or_else(|| Error::invalid_model("its compiled code cannot be loaded: it is no whole library"))?,
        false => Vec::new(),
    };
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    // Compared, and only with those of its length: a digest would be half of a small program's start.
    if let Some(same) = opened.iter().find(|one| holds(&one.file, code, &patches)) {
        return Ok(same.library);
    }
    let (file, library) = open_from_memory(code, &patches, opened.len())?;
    let library: &'static Library = Box::leak(Box::new(library));
    opened.push(Opened { file, library });
    Ok(library)
}

/// Whether a file holds the code with those symbols. One whose constants are mapped over it does not.
fn holds(file: &File, code: &[u8], patches: &[Patch]) -> bool {
    if file.metadata().map_or(true, |about| about.len() != code.len() as u64) {
        return false;
    }
    let mut expected = code.to_vec();
    for (place, symbol) in patches {
        if let Some(to) = expected.get_mut(*place..place + symbol.len()) {
            to.copy_from_slice(symbol);
        }
    }
    let mut found = vec![0; code.len()];
    file.read_exact_at(&mut found, 0).is_ok() && found == expected
}

fn open_from_memory(code: &[u8], patches: &[Patch], others: usize) -> Result<(File, Library)> {
    let no_memory = |e: std::io::Error| {
        Error::unavailable(format!("{} bytes of compiled code cannot be put into memory: {e}", code.len()))
    };
    let memory = rustix::fs::memfd_create("model.pt2", MemfdFlags::CLOEXEC).map_err(|e| no_memory(e.into()))?;
    let file = File::from(memory);
    file.set_len(code.len() as u64).map_err(no_memory)?;
    let pages = Pages::of(code);
    let left_out = pages.as_ref().map_or(0..0, |pages| pages.range.clone());
    let write = |range: Range<usize>| match code.get(range.clone()) {
        Some(bytes) => file.write_all_at(bytes, range.start as u64).map_err(no_memory),
        None => Ok(()),
    };
    write(0..left_out.start)?;
    write(left_out.end..code.len())?;
    for (place, symbol) in patches {
        file.write_all_at(symbol, *place as u64).map_err(no_memory)?;
    }
    let path = path_of(file.as_raw_fd(), others);
    // SAFETY: the owner of this machine trusts the code (`rust_host_engine::trust`), and it was compiled for this processor.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| {
        use std::error::Error as _;
        let text = e.source().map_or_else(|| e.to_string(), ToString::to_string);
        let text = text.replace(&*path.to_string_lossy(), "model.pt2");
        let first = text.lines().next().unwrap_or_default().trim_start_matches("model.pt2: ").to_owned();
        let why = format!("its compiled code cannot be loaded: {first}");
        // What the machine lacks, not the file.
        match ["open shared object", "cannot map", "failed to map", "Too many", "allocate"]
            .iter()
            .any(|t| first.contains(t))
        {
            true => Error::unavailable(why),
            false => Error::invalid_model(why),
        }
    })?;
    if let Some(pages) = pages {
        let base = base_of(&library)
            .ok_or_else(|| Error::invalid_model("its compiled code has no `AOTInductorModelContainerRun`"))?;
        // SAFETY: the library was just opened there, and is never closed.
        if !unsafe { pages.map_over(code, base) } {
            write(left_out)?;
            // SAFETY: as above.
            unsafe { pages.restore(&file, base) }.map_err(no_memory)?;
        }
    }
    Ok((file, library))
}

/// Where a library begins in memory.
fn base_of(library: &Library) -> Option<*mut c_void> {
    let mut about = MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: only the address of the symbol is used; the place takes what is known about it.
    unsafe {
        let symbol = library.get::<*const c_void>(b"AOTInductorModelContainerRun\0").ok()?;
        (libc::dladdr(*symbol, about.as_mut_ptr()) != 0).then(|| about.assume_init().dli_fbase)
    }
}

/// A path that no other library of this process has: the loader takes one for another that is loaded already if the texts of
/// their paths are equal, and the number of a closed file comes again. The way to it is written as a count: in binary, `./`
/// for 1 and `/` for 0.
fn path_of(file: RawFd, others: usize) -> PathBuf {
    let mut path = String::from("/proc/self/fd/");
    let mut count = others;
    while count > 0 {
        path.push_str(if count % 2 == 1 { "./" } else { "/" });
        count /= 2;
    }
    path.push_str(&file.to_string());
    PathBuf::from(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_opening_has_a_path_of_its_own_to_the_same_file() {
        let file = File::open("/proc/self/exe").unwrap();
        let paths: Vec<PathBuf> = (0..100).map(|others| path_of(file.as_raw_fd(), others)).collect();
        let different: std::collections::HashSet<String> = paths.iter().map(|p| p.display().to_string()).collect();
        assert_eq!(different.len(), 100);
        let size = file.metadata().unwrap().len();
        assert!(paths.iter().all(|p| std::fs::metadata(p).unwrap().len() == size));
    }
}
