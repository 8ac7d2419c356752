//! A loaded package as the engine's [`Program`].

use crate::{
    host::{Host, Owned, row_major_strides},
    library::Model,
};
use rust_host_engine::{
    Contract, Datatype, Device, Error, Memory, Method, Program, Result, Tensor, Value, contract::Returns,
};
use std::{
    ops::Range,
    ptr::{self, NonNull},
    sync::Arc,
};

/// Calls beyond this number wait for another to end. An instance is small: the weights are shared.
const MOST_INSTANCES: usize = 16;

/// Bytes that nobody misses.
const LITTLE: usize = 32 << 10;

pub(crate) struct Compiled {
    model: Model,
    host: &'static Host,
    methods: [Method; 1],
    operators: Vec<String>,
    datatypes: Vec<Datatype>,
    returns: Returns,
    outputs: usize,
}

impl Compiled {
    /// # Errors
    /// As [`Model::open`]; `InvalidContract` for inputs that may be left out.
    pub(crate) fn open(code: &[u8], contract: &Contract, host: &'static Host, operators: Vec<String>) -> Result<Self> {
        if let Some(input) = contract.inputs.iter().find(|input| input.optional) {
            return Err(Error::invalid_contract(format!(
                "the contract says that `{}` may be left out, which compiled code cannot",
                input.name
            )));
        }
        let instances = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MOST_INSTANCES);
        Ok(Self {
            model: Model::open(code, host, instances, contract.inputs.len(), contract.outputs.len())?,
            host,
            methods: [contract.forward()],
            operators,
            datatypes: contract.inputs.iter().map(|input| input.datatype).collect(),
            returns: contract.returns.clone(),
            outputs: contract.outputs.len(),
        })
    }

    /// A result in the engine's form. What lies in an input's memory, or in that of a result before it, is copied: a result
    /// is the caller's alone. So is what lies in a much larger block, which a result that is kept would keep from later calls.
    fn take(&self, tensor: Owned<'static>, taken: &mut Vec<Range<usize>>) -> Result<Tensor> {
        let about = self.host.describe(&tensor)?;
        let datatype = Datatype::from_torch_code(about.dtype).ok_or_else(|| {
            Error::failed(format!("an output has the type {}, which no datatype stands for", about.dtype))
        })?;
        let span = match about.shape.contains(&0) {
            true => 0,
            false => {
                let reach: i64 = about.shape.iter().zip(&about.strides).map(|(n, stride)| (n - 1) * stride).sum();
                (usize::try_from(reach).unwrap_or_default() + 1) * datatype.size()
            }
        };
        let first = about.data as usize;
        let range = first..first + span;
        let shares = taken.iter().any(|other| other.start < range.end && range.start < other.end);
        let is_roomy = self.host.room(&tensor) > 2 * span.max(LITTLE);
        let data = NonNull::new(about.data).unwrap_or(NonNull::dangling());
        let tensor =
            Tensor::strided(datatype, about.shape, about.strides, 0, Arc::new(Output { _tensor: tensor, data, span }))?;
        if shares || is_roomy {
            return copy_of(&tensor);
        }
        taken.push(range);
        Ok(tensor)
    }
}

/// Memory of a result, which the host owns.
struct Output {
    _tensor: Owned<'static>,
    data: NonNull<u8>,
    span: usize,
}

// SAFETY: the tensor is only dropped, which is allowed on any thread; the bytes are read only.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Memory for Output {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `span` was computed from sizes and strides of the tensor, which lives as long as self.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.span) }
    }

    fn writable(&self) -> Option<NonNull<u8>> {
        Some(self.data) // what is shared was copied
    }
}

impl Program for Compiled {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn methods(&self) -> &[Method] {
        &self.methods
    }

    fn operators(&self) -> &[String] {
        &self.operators
    }

    fn run(&self, _: usize, arguments: &[Option<Value>]) -> Result<Value> {
        let mut kept = Vec::with_capacity(arguments.len());
        for (argument, &datatype) in arguments.iter().zip(&self.datatypes) {
            match argument {
                Some(Value::Tensor(tensor)) if tensor.datatype() == datatype => kept.push(row_major(tensor)?),
                other => {
                    let got = other.as_ref().map_or("nothing", Value::kind);
                    return Err(Error::invalid_input(format!("an input is {got}, expected a tensor of {datatype}")));
                }
            }
        }
        let borrowed = kept.iter().map(|tensor| self.host.borrow(tensor)).collect::<Result<Vec<_>>>()?;
        let mut inputs: Vec<_> = borrowed.into_iter().map(Owned::into_raw).collect();
        let mut outputs = vec![ptr::null_mut(); self.outputs];
        let ran = self.host.with_threads(crate::threads(), || self.model.run(&mut inputs, &mut outputs));
        // A tensor that is returned twice is one handle twice.
        let first_of: Vec<usize> =
            outputs.iter().map(|handle| outputs.iter().position(|other| other == handle).unwrap_or_default()).collect();
        // All are taken over before anything can fail.
        let owned: Vec<_> = (outputs.iter().zip(&first_of).enumerate())
            .map(|(at, (handle, first))| if at == *first { Owned::from_raw(self.host, *handle) } else { None })
            .collect();
        ran?;
        let given = kept.iter().filter_map(Tensor::contiguous_bytes).map(<[u8]>::as_ptr_range);
        let mut taken: Vec<Range<usize>> = given.map(|r| r.start as usize..r.end as usize).collect();
        let mut results: Vec<Tensor> = Vec::with_capacity(owned.len());
        for (tensor, first) in owned.into_iter().zip(first_of) {
            let result = match (tensor, results.get(first)) {
                (Some(tensor), _) => self.take(tensor, &mut taken)?,
                (None, Some(same)) => copy_of(same)?,
                (None, None) => return Err(Error::failed("the compiled code returned nothing for an output")),
            };
            results.push(result);
        }
        self.returns.nest(&mut results.into_iter().map(Value::Tensor))
    }
}

/// The same values in memory of their own.
fn copy_of(tensor: &Tensor) -> Result<Tensor> {
    let whole = tensor.to_contiguous();
    let bytes = whole.contiguous_bytes().unwrap_or_default().to_vec();
    Tensor::new(whole.datatype(), whole.shape().to_vec(), Arc::new(bytes))
}

/// The code takes its inputs for row-major, whole and aligned, and checks none of it.
fn row_major(tensor: &Tensor) -> Result<Tensor> {
    let whole = tensor.to_contiguous();
    let aligned = whole.contiguous_bytes().is_none_or(|bytes| bytes.as_ptr().addr() % whole.datatype().size() == 0);
    match aligned {
        true => Ok(whole),
        false => {
            let bytes = whole.contiguous_bytes().unwrap_or_default();
            // A vector of 64-bit numbers is aligned for every datatype.
            let mut words = vec![0u64; bytes.len().div_ceil(8)];
            for (word, chunk) in words.iter_mut().zip(bytes.chunks(8)) {
                let mut eight = [0; 8];
                eight.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
                *word = u64::from_ne_bytes(eight);
            }
            let memory = Tensor::from_elements(vec![words.len() as i64], words)?.memory().clone();
            Tensor::strided(whole.datatype(), whole.shape().to_vec(), row_major_strides(whole.shape()), 0, memory)
        }
    }
}
