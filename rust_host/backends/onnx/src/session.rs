//! A loaded model: ONNX Runtime's session, and how it is called.

use crate::{
    convert::{self, Inputs},
    message,
    value::{self, Value as Ort},
};
use ort::{
    AsPointer,
    environment::Environment,
    memory::MemoryInfo,
    session::{RunOptions, SharedSessionInner, builder::GraphOptimizationLevel},
};
use rust_host_engine::{Device, Error, Method, Program, Result, Value, interrupt, onnx::Onnx};
use std::{
    any::Any,
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
    owner: Arc<dyn Any + Send + Sync>,
    about: Onnx,
    methods: Vec<Method>,
    operators: Vec<String>,
    inputs: Vec<CString>,
    outputs: Vec<CString>,
    /// Says that inputs lie in host memory.
    memory: MemoryInfo<'static>,
}

impl Session {
    /// # Errors
    /// `InvalidModel` for what ONNX Runtime refuses, `Unavailable` if memory has no room for it.
    pub(crate) fn load(environment: &Environment, file: &[u8], threads: usize, sleeps: bool) -> Result<Self> {
        let about = Onnx::read(file)?;
        let made = |e: &ort::Error| message::loading(e, &about);
        let session = make(environment, file, threads, sleeps).map_err(|e| made(&e))?.inner();
        let name = |n: &String| {
            CString::new(n.as_str()).map_err(|_| Error::invalid_model(format!("its graph has the name {n:?}")))
        };
        let inputs = about.inputs.iter().map(|i| name(&i.name)).collect::<Result<_>>()?;
        let outputs = about.outputs.iter().map(|o| name(&o.name)).collect::<Result<_>>()?;
        Ok(Self {
            owner: session.clone(),
            session,
            methods: vec![about.method()],
            operators: about.operators.iter().cloned().collect(),
            about,
            inputs,
            outputs,
            memory: MemoryInfo::default(),
        })
    }

    fn call(&self, arguments: &[Option<Value>]) -> Result<Value> {
        let inputs = Inputs::new(&self.memory, &self.about.inputs, arguments)?;
        let mut outputs = vec![ptr::null_mut(); self.outputs.len()];
        let status = match interrupt::deadline() {
            None => self.run(None, &inputs, &mut outputs),
            Some(end) => within(end, |options| self.run(Some(options), &inputs, &mut outputs))?,
        };
        // What came out is taken over before anything can fail, or it would never be freed.
        let outputs: Vec<_> = outputs.into_iter().map(Ort::take).collect();
        status.map_err(|e| if interrupt::is_wanted() { interrupt::error() } else { message::running(&e) })?;
        let named = self.about.outputs.iter().zip(outputs);
        let mut values = named
            .map(|(slot, value)| Ok((slot.name.clone(), convert::output(&slot.name, value?, &inputs, &self.owner)?)))
            .collect::<Result<Vec<_>>>()?;
        Ok(match values.len() {
            1 => values.remove(0).1,
            _ => Value::NamedTuple(values),
        })
    }

    fn run(
        &self,
        options: Option<&RunOptions>,
        inputs: &Inputs,
        outputs: &mut [*mut ort::sys::OrtValue],
    ) -> std::result::Result<(), ort::Error> {
        let pointers = |names: &[CString]| names.iter().map(|n| n.as_ptr()).collect::<Vec<*const c_char>>();
        let (input_names, output_names) = (pointers(&self.inputs), pointers(&self.outputs));
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

    fn run(&self, _forward: usize, arguments: &[Option<Value>]) -> Result<Value> {
        crate::caught("running", || self.call(arguments))
    }
}
