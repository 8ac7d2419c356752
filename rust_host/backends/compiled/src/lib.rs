//! Packages of native code that torch's Inductor compiled ahead of time (`model.pt2`), on the processor.
//!
//! The package's library is opened from memory ([`library`]) and driven through its C interface. What the code calls in its host
//! our own functions answer ([`own`]), or libtorch for a package that wants operators of it ([`host`]). Tensors cross in both
//! directions without a copy ([`program`]).
//!
//! In: the archive's bytes, which the engine has checked to be trusted. What the code was compiled for is compared with this
//! machine, and its torch with the one whose interface is known here, before anything of it is opened. The code checks no
//! shapes itself: the contract does, and so a package without one is not run.
#![expect(
    unsafe_code,
    reason = "dlopen, a hook for forks, and the C interfaces of torch and of the package: constants.rs, host.rs, library.rs, program.rs and own/"
)]

mod constants;
mod host;
mod library;
mod own;
mod program;

pub use constants::one_model_from_own_file;
use host::Host;
use rust_host_engine::{
    Archive, Backend, Device, DeviceRequest, Error, Package, Platform, Program, Result,
    machine::{LIBTORCH_VERSION, plain_version},
    process,
};
use std::{
    path::PathBuf,
    sync::{
        Arc, Once,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The backend of this process.
///
/// `libtorch` finds `libtorch_cpu.so`, which is opened, for everything that is opened after it, when the first package wants an
/// operator of it.
pub fn backend(libtorch: impl Fn() -> Result<PathBuf> + Send + Sync + 'static) -> Arc<dyn Backend> {
    watch_forks();
    Arc::new(Compiled { libtorch: Box::new(libtorch) })
}

/// Has every forked child say that it is one, or each call would ask the kernel for the number of its process, twice for
/// TorchScript and four times for a package. [`backend`] does it.
pub fn watch_forks() {
    static ONCE: Once = Once::new();
    extern "C" fn forked() {
        process::forked();
    }
    ONCE.call_once(|| {
        // SAFETY: what the child calls only writes a number.
        if unsafe { libc::pthread_atfork(None, None, Some(forked)) } == 0 {
            process::watch_forks();
        }
    });
}

/// Of the whole process, as libtorch's own number is; 0 until somebody sets it.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Number of threads that one call may use from now on; needs no libtorch.
pub fn set_threads(count: usize) {
    THREADS.store(count.max(1), Ordering::Relaxed);
}

/// The number that was set.
fn threads() -> Option<usize> {
    Some(THREADS.load(Ordering::Relaxed)).filter(|count| *count > 0)
}

/// Those of its host's functions that a package calls and only libtorch has.
pub fn of_libtorch<'p>(package: &'p Package<'_>) -> Vec<&'p str> {
    [&package.operators, &package.parallel].into_iter().flat_map(|functions| host::lacks(functions)).collect()
}

/// Our own functions by the names that packages have for them, and where they are: for tests that call them beside libtorch's.
pub fn own_functions() -> impl Iterator<Item = (&'static str, usize)> {
    own::functions()
}

struct Compiled {
    libtorch: Box<dyn Fn() -> Result<PathBuf> + Send + Sync>,
}

impl Compiled {
    /// Who answers that package's calls.
    fn host_for(&self, package: &Package<'_>) -> Result<&'static Host> {
        let lacking = of_libtorch(package);
        if lacking.is_empty() {
            return Ok(host::own());
        }
        let functions = [&package.operators[..], &package.parallel[..]].concat();
        let libtorch = (self.libtorch)().map_err(|e| Error {
            message: format!("its code needs libtorch for `{}`: {}", lacking.join("`, `"), e.message),
            ..e
        })?;
        let host = host::libtorch(&libtorch)?;
        host.check(&functions)?;
        Ok(host)
    }
}

impl Backend for Compiled {
    fn platform(&self) -> Platform {
        Platform::Compiled
    }

    fn library(&self) -> String {
        format!("compiled code, torch {LIBTORCH_VERSION}")
    }

    fn device(&self, request: DeviceRequest) -> Result<Device> {
        match request {
            DeviceRequest::Auto | DeviceRequest::Only(Device::Cpu) => Ok(Device::Cpu),
            DeviceRequest::Only(other) => {
                Err(Error::unavailable(format!("compiled packages run on the processor here, not on {other}"))
                    .hint("`--device cpu`, or the model's `model.pt`"))
            }
        }
    }

    fn open(&self, archive: &Archive, _: Device) -> Result<Box<dyn Program>> {
        let package = Package::read(archive)?;
        package.built_for.check()?;
        let contract = archive.contract()?.ok_or_else(|| {
            Error::invalid_contract("it has no contract, and compiled code does not check what it is given")
                .hint("`py-authoring export --method compiled` writes one")
        })?;
        check_torch(contract.provenance.get("torch_version").and_then(|v| v.as_str()))?;
        let host = self.host_for(&package)?;
        Ok(Box::new(program::Compiled::open(&package.code, &contract, host, package.operators)?))
    }

    fn set_threads(&self, count: usize) {
        set_threads(count);
    }

    fn threads(&self) -> usize {
        host::threads_of_own(threads())
    }
}

/// The functions that a package calls in libtorch are not the same in every version.
fn check_torch(built_with: Option<&str>) -> Result<()> {
    match built_with {
        Some(version) if plain_version(version) == LIBTORCH_VERSION => Ok(()),
        other => Err(Error::unavailable(format!(
            "it was compiled with {}, and this host is built for libtorch {LIBTORCH_VERSION}",
            other.map_or("an unknown torch".to_owned(), |version| format!("torch {version}"))
        ))
        .hint("compile it with that torch: `py-authoring export --method compiled`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn another_torch_is_named() {
        assert!(check_torch(Some(LIBTORCH_VERSION)).is_ok());
        assert!(check_torch(Some(&format!("{LIBTORCH_VERSION}+cpu"))).is_ok());
        for (version, named) in [(Some("2.1.0"), "torch 2.1.0"), (None, "unknown torch"), (Some(""), "torch ")] {
            let e = check_torch(version).unwrap_err();
            assert!(e.message.contains(named), "{e}");
        }
    }

    #[test]
    fn a_libtorch_that_is_none_is_a_sentence() {
        let e = host::libtorch(Path::new("/nowhere/libtorch_cpu.so")).err().unwrap();
        assert!(e.message.contains("/nowhere/libtorch_cpu.so") && e.message.lines().count() == 1, "{e}");
    }
}
