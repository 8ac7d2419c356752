//! A model in a process of its own: the sandbox around a file from somebody else, and a bound for its memory.
//!
//! The process that was started reads the words and decides ([`needed`]). It starts itself a second time and keeps what the
//! model must not have: it puts output files in their places, and says in a sentence how the other one died, if it does
//! ([`parent`]). The second one, the worker, does the whole command. Once libtorch is open and the inputs are known, and
//! before anything of the file is loaded, it gives up what it may do ([`enter`], [`wall`]). What it has to ask the first one
//! goes over one socket ([`channel`]).

mod channel;
mod child;
mod parent;
mod wall;

use crate::interrupted;
use rust_host_engine::{Backend, Device, DeviceRequest, Error, Result};
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

pub(crate) use child::{attach, begin, explain, finish, is_worker, limit_memory, said};
pub(crate) use parent::{Outputs, run, start};

/// When a model is run in the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sandbox {
    /// For a file without a contract, where this system has one.
    Auto,
    /// Always, or not at all.
    On,
    Off,
}

/// What the user asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Confinement {
    pub sandbox: Sandbox,
    /// Bytes that the model's process may take.
    pub memory: Option<u64>,
}

impl Confinement {
    /// Whether the user named one of the two.
    pub(crate) fn is_asked_for(self) -> bool {
        self.sandbox == Sandbox::On || self.memory.is_some()
    }
}

/// Whether a worker has to be started for this file.
///
/// # Errors
/// `Unavailable` if the user asked for what only the binary can do.
pub(crate) fn needed(wanted: Confinement, file: &Path) -> Result<bool> {
    if is_worker() {
        return Ok(false);
    }
    if interrupted::is_the_program() {
        return Ok(wanted.is_asked_for()
            || wanted.sandbox == Sandbox::Auto && file.is_file() && !seems_to_have_a_contract(file));
    }
    if wanted.is_asked_for() {
        let flag = if wanted.sandbox == Sandbox::On { "--sandbox on" } else { "--max-memory" };
        return Err(Error::unavailable(format!(
            "`{flag}` needs a process without Python, and this is the `rust-host` of the Python wheel"
        ))
        .hint("use the standalone binary"));
    }
    Ok(false)
}

/// How much of the end of a file is looked at: the directory of 2,800 members.
const END: u64 = 256 << 10;

/// Whether the archive's directory lists a contract. A glance, because the whole file is read and checked later: a wrong yes
/// takes a name that no weights contain by chance, and a wrong no only costs the sandbox's few milliseconds.
fn seems_to_have_a_contract(file: &Path) -> bool {
    let glance = || {
        let mut file = File::open(file)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(END)))?;
        let mut end = Vec::new();
        file.take(END).read_to_end(&mut end)?;
        std::io::Result::Ok(end)
    };
    // A member of an archive, or a note of an ONNX file.
    const NAMES: [&[u8]; 2] = [b"/extra/contract.json", b"rust_host.contract"];
    glance().is_ok_and(|end| NAMES.iter().any(|name| end.windows(name.len()).any(|w| w == *name)))
}

/// Gives up, in a worker, what the model must not have; from here on only `reads` can be opened. Called when libtorch is
/// open and before the file is loaded. Returns what the user should know if a file without a contract is run without it.
///
/// # Errors
/// `Unavailable` if the sandbox was asked for and cannot be had here.
pub(crate) fn enter(
    wanted: Confinement,
    backend: &dyn Backend,
    device: DeviceRequest,
    has_contract: bool,
    reads: &[PathBuf],
) -> Result<Option<String>> {
    // In Python nothing can be given up, because it could not be had back; `needed` has refused what was asked for.
    let nothing = wanted.sandbox == Sandbox::Off && wanted.memory.is_none() || !is_worker() && has_contract;
    if nothing || !interrupted::is_the_program() {
        return Ok(None);
    }
    // What is wrong with the device is told when the model is opened.
    let gpu = backend.device(device).ok().filter(|d| *d != Device::Cpu);
    if let (Some(gpu), true) = (gpu, wanted.memory.is_some()) {
        return Err(Error::unavailable(format!(
            "`--max-memory` counts memory of this machine alone, not that of {gpu}"
        ))
        .hint("`--device cpu`, or leave `--max-memory` out"));
    }
    let confined = match gpu {
        _ if wanted.sandbox == Sandbox::Off => return Ok(None),
        Some(gpu) => Err(format!("{gpu} needs the files of its driver")),
        None if !is_worker() => Err("another process could not be started".to_owned()),
        None => wall::build(reads),
    };
    match confined {
        Ok(()) => Ok(None),
        Err(why) if wanted.sandbox == Sandbox::On => {
            Err(Error::unavailable(format!("there is no sandbox here: {why}"))
                .hint("`--sandbox off`, if you trust the file"))
        }
        Err(_) if has_contract => Ok(None),
        Err(why) => Ok(Some(format!("a file without a contract was run without a sandbox: {why}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contract_is_seen_in_the_directory_of_the_archive() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        for (name, has) in [("cell", true), ("classifier", true), ("plain", false), ("nested", false)] {
            assert_eq!(seems_to_have_a_contract(&data.join(format!("{name}.torchscript"))), has, "{name}");
        }
        assert!(!seems_to_have_a_contract(Path::new("/nowhere")) && !seems_to_have_a_contract(&data));
    }
}
