//! A loaded model: ONNX Runtime's session, and how it is called.

use crate::{
    convert::{Inputs, Owner},
    message,
    value::{self, Value as Ort},
};
use ort::{
    AsPointer,
    environment::Environment,
    memory::MemoryInfo,
    session::{RunOptions, SharedSessionInner, builder::GraphOptimizationLevel},
};
use rust_host_engine::{
    Archive, Contract, Device, Error, Method, Program, Result, Value,
    contract::Returns,
    interrupt,
    onnx::{Onnx, Slot},
};
use std::{
    ffi::{CString, c_char},
    ptr,
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

/// A session may be run by any number of threads at once: ONNX Runtime's documentation promises it for `Run`.
pub(crate) struct Session {
    session: Arc<SharedSessionInner>,
    /// The same, for results.
    owner: Owner,
    about: Onnx,
    methods: Vec<Method>,
    operators: Vec<String>,
    /// What goes in and comes out: the graph's, in the contract's order where there is one.
    inputs: Vec<Slot>,
    outputs: Vec<Slot>,
    input_names: Vec<CString>,
    output_names: Vec<CString>,
    /// How the contract nests the outputs.
    returns: Option<Returns>,
    /// Says that inputs lie in host memory.
    memory: MemoryInfo<'static>,
}

impl Session {
    /// # Errors
    /// `InvalidModel` for what ONNX Runtime refuses, `Unavailable` if memory has no room for it.
    pub(crate) fn load(environment: &Environment, archive: &Archive, threads: usize, sleeps: bool) -> Result<Self> {
        let about = archive.onnx().cloned().ok_or_else(|| Error::internal("an ONNX file without a graph"))?;
        let contract = archive.contract()?;
        let (inputs, outputs) = match &contract {
            None => (about.inputs.clone(), about.outputs.clone()),
            Some(contract) => {
                let inputs = contract.inputs.iter().map(|i| i.name.as_str());
                let outputs = contract.outputs.iter().map(|o| o.name.as_str());
                (in_order("input", inputs, &about.inputs)?, in_order("output", outputs, &about.outputs)?)
            }
        };
        let session = make(environment, archive.bytes(), threads, sleeps).map_err(|e| message::loading(&e, &about))?;
        let session = session.inner();
        Ok(Self {
            owner: session.clone(),
            session,
            methods: vec![contract.as_ref().map_or_else(|| about.method(), Contract::forward)],
            operators: about.operators.iter().cloned().collect(),
            about,
            input_names: names(&inputs)?,
            output_names: names(&outputs)?,
            inputs,
            outputs,
            returns: contract.map(|c| c.returns),
            memory: MemoryInfo::default(),
        })
    }

    fn call(&self, arguments: &[Option<Value>]) -> Result<Value> {
        let mut inputs = Inputs::new(&self.memory, &self.inputs, arguments)?;
        let mut outputs = vec![ptr::null_mut(); self.outputs.len()];
        let status = match interrupt::deadline() {
            None => self.run(None, &inputs, &mut outputs),
            Some(end) => within(end, |options| self.run(Some(options), &inputs, &mut outputs))?,
        };
        // What came out is taken over before anything can fail, or it would never be freed.
        let outputs: Vec<_> = outputs.into_iter().map(Ort::take).collect();
        status.map_err(|e| if interrupt::is_wanted() { interrupt::error() } else { message::running(&e) })?;
        let mut values = Vec::with_capacity(outputs.len());
        for (slot, value) in self.outputs.iter().zip(outputs) {
            values.push(inputs.output(&slot.name, value?, &self.owner)?);
        }
        match (&self.returns, values.len()) {
            (Some(returns), _) => returns.nest(&mut values.into_iter()),
            (None, 1) => Ok(values.remove(0)),
            (None, _) => Ok(Value::NamedTuple(self.outputs.iter().map(|slot| slot.name.clone()).zip(values).collect())),
        }
    }

    fn run(
        &self,
        options: Option<&RunOptions>,
        inputs: &Inputs,
        outputs: &mut [*mut ort::sys::OrtValue],
    ) -> std::result::Result<(), ort::Error> {
        let pointers = |names: &[CString]| names.iter().map(|n| n.as_ptr()).collect::<Vec<*const c_char>>();
        let (input_names, output_names) = (pointers(&self.input_names), pointers(&self.output_names));
        let values = inputs.pointers();
        // SAFETY: names and values are as many as is said, in the graph's order; they, the session and the memory of the
        // inputs live until this returns. Outputs that are null are made by ONNX Runtime.
        value::done(unsafe {
            (ort::api().Run)(
                self.session.ptr().cast_mut(),
                options.map_or(ptr::null(), AsPointer::ptr),
                input_names.as_ptr(),
                values.as_ptr(),
                values.len(),
                output_names.as_ptr(),
                output_names.len(),
                outputs.as_mut_ptr(),
            )
        })
    }
}

/// The graph's slots in the contract's order.
fn in_order<'c>(what: &str, names: impl Iterator<Item = &'c str>, slots: &[Slot]) -> Result<Vec<Slot>> {
    let have = || slots.iter().map(|s| format!("`{}`", s.name)).collect::<Vec<_>>().join(", ");
    let wrong = |text: String| Error::invalid_contract(format!("contract.json: {text}"));
    let found = names
        .map(|name| {
            let slot = slots.iter().find(|slot| slot.name == name);
            slot.cloned().ok_or_else(|| wrong(format!("it names the {what} `{name}`, the graph has {}", have())))
        })
        .collect::<Result<Vec<_>>>()?;
    match slots.iter().find(|slot| what == "input" && !found.contains(slot)) {
        Some(more) => Err(wrong(format!("the graph's input `{}` is not in it", more.name))),
        None => Ok(found),
    }
}

fn names(slots: &[Slot]) -> Result<Vec<CString>> {
    let name = |slot: &Slot| {
        let wrong = |_| Error::invalid_model(format!("its graph has the name {:?}", slot.name));
        CString::new(slot.name.as_str()).map_err(wrong)
    };
    slots.iter().map(name).collect()
}

fn make(
    environment: &Environment,
    file: &[u8],
    threads: usize,
    sleeps: bool,
) -> std::result::Result<ort::session::Session, ort::Error> {
    let builder = ort::session::Session::builder(environment)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        .with_optimization_level(GraphOptimizationLevel::All)?;
    let mut builder = if sleeps { builder.with_intra_op_spinning(false)? } else { builder };
    builder.commit_from_memory(file)
}

/// Runs `work`, which stops between two nodes of the graph when its time is over.
fn within<T>(end: Instant, work: impl FnOnce(&RunOptions) -> T) -> Result<T> {
    let options = RunOptions::new().map_err(|e| message::running(&e))?;
    Ok(thread::scope(|scope| {
        let (done, is_done) = mpsc::channel::<()>();
        let options = &options;
        let watch = thread::Builder::new().name("rust-host-deadline".into()).spawn_scoped(scope, move || {
            let left = end.saturating_duration_since(Instant::now());
            if is_done.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ends_or_is_over = options.terminate();
            }
        });
        // Without a thread the call takes the time that it takes.
        let _watch = watch.ok();
        let result = work(options);
        drop(done);
        result
    }))
}

impl Program for Session {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn methods(&self) -> &[Method] {
        &self.methods
    }

    fn operators(&self) -> &[String] {
        &self.operators
    }

    fn graph(&self) -> Option<&Onnx> {
        Some(&self.about)
    }

    fn run(&self, _forward: usize, arguments: &[Option<Value>]) -> Result<Value> {
        crate::caught("running", || self.call(arguments))
    }
}
