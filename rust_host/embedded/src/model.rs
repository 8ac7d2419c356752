//! A model of the engine behind a function of C: places in memory → tensors → the model → places in memory.

use rust_host_engine::{
    Archive, Backend, Bytes, Contract, Datatype, Error, ErrorKind, Memory, Model, Result, Tensor, Value, byte_length,
    contract::Dim, golden,
};
use std::{
    path::Path,
    ptr::{self, NonNull},
    slice,
    sync::Arc,
};

/// A model that was opened, with what its function takes.
pub struct Embedded {
    model: Model,
    contract: Contract,
    axes: Vec<String>,
}

/// C calls it from any thread, which the compiler does not see.
const _: () = {
    const fn may_be_shared<T: Send + Sync>() {}
    may_be_shared::<Embedded>();
};

/// An input, which belongs to the caller and is read until the call returns.
struct Given {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the caller lets it be read until the call returns, on whatever thread.
unsafe impl Send for Given {}
// SAFETY: as above.
unsafe impl Sync for Given {}

impl Memory for Given {
    fn bytes(&self) -> &[u8] {
        // SAFETY: as the caller of `run` promises; the tensor that has it is gone when the call returns.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl Embedded {
    /// # Errors
    /// What opening the model says; it has been checked when the library was built, but on another machine.
    pub(crate) fn open(package: &'static [u8], name: &str) -> Result<Self> {
        let archive = Archive::of_this_program(Path::new(name), Bytes::new(package))?;
        let contract =
            archive.contract()?.ok_or_else(|| Error::invalid_contract(format!("`{name}` has no contract")))?;
        let backend: Arc<dyn Backend> = rust_host_compiled::backend(|| {
            Err(Error::unavailable("a library of `rust-host build --header` carries no libtorch"))
        });
        let model = Model::of_this_program(archive, backend.as_ref())?;
        let axes = contract.free_axes().into_iter().map(ToOwned::to_owned).collect();
        Ok(Self { model, contract, axes })
    }

    /// How many arguments a call has.
    pub(crate) fn arguments(&self) -> usize {
        self.axes.len() + self.contract.inputs.len() + self.contract.outputs.len()
    }

    /// # Errors
    /// `InvalidInput` for a size or a place that cannot be; what running the model says; `Mismatch` for an output of another
    /// shape.
    ///
    /// # Safety
    /// As [`rust_host_embedded_run`](crate::rust_host_embedded_run)'s.
    pub(crate) unsafe fn run(&self, arguments: &[usize]) -> Result<()> {
        let (sizes, places) = arguments.split_at(self.axes.len());
        let (given, wanted) = places.split_at(self.contract.inputs.len());
        let shape = |dims: &[Dim]| -> Vec<i64> {
            let size = |dim: &Dim| match dim {
                Dim::Fixed(size) => *size,
                Dim::Named(name) => {
                    let found = self.axes.iter().zip(sizes).find(|(axis, _)| *axis == name);
                    found.map_or(-1, |(_, size)| (*size).cast_signed() as i64)
                }
            };
            dims.iter().map(size).collect()
        };
        let mut values = Vec::with_capacity(given.len());
        for (input, at) in self.contract.inputs.iter().zip(given) {
            let shape = shape(&input.dims);
            let (start, bytes) = place(&input.name, input.datatype, &shape, *at)?;
            let tensor = Tensor::new(input.datatype, shape, Arc::new(Given { start, bytes }))?;
            values.push(Some(Value::Tensor(tensor)));
        }
        let mut places = Vec::with_capacity(wanted.len());
        for (output, at) in self.contract.outputs.iter().zip(wanted) {
            let shape = shape(&output.dims);
            places.push((place(&output.name, output.datatype, &shape, *at)?.0, shape));
        }
        let results = self.model.outputs(self.model.call(&values)?)?;
        let mut tensors = Vec::with_capacity(results.len());
        for ((name, value), (_, expected)) in results.iter().zip(&places) {
            match value {
                Value::Tensor(tensor) if tensor.shape() == expected => tensors.push(tensor.to_contiguous()),
                other => {
                    let text = format!("output `{name}` is {other:?}, expected the shape {expected:?}");
                    return Err(Error::new(ErrorKind::Mismatch, text));
                }
            }
        }
        // All or nothing.
        for (tensor, (to, _)) in tensors.iter().zip(places) {
            let bytes = tensor.contiguous_bytes().unwrap_or_default();
            // SAFETY: the caller has room for a tensor of that shape there, which no result of the model lies in.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
        }
        Ok(())
    }

    /// # Errors
    /// `Mismatch` if an output is off by more than the contract allows; what running the model says.
    pub(crate) fn verify(&self) -> Result<()> {
        let verdict = golden::verify(&self.model)?;
        match verdict.ok {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::Mismatch,
                format!("`{}` does not reproduce its golden examples on this machine", self.contract.name),
            )),
        }
    }
}

/// Where a tensor begins, and how many bytes it has. One without elements may be anywhere.
fn place(name: &str, datatype: Datatype, shape: &[i64], at: usize) -> Result<(NonNull<u8>, usize)> {
    let bytes = byte_length(datatype, shape).map_err(|e| Error { message: format!("`{name}`: {}", e.message), ..e })?;
    match NonNull::new(ptr::with_exposed_provenance_mut(at)) {
        Some(start) => Ok((start, bytes)),
        None if bytes == 0 => Ok((NonNull::dangling(), bytes)),
        None => Err(Error::invalid_input(format!("`{name}` is NULL"))),
    }
}
