use rust_host_engine::{
    Archive, Backend, Description, Device, DeviceRequest, Method, Model, Platform, Program, Result, Value,
    measure_at_once,
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// Calls that run now, and the most that ever did.
#[derive(Default)]
struct Calls {
    now: AtomicUsize,
    most: AtomicUsize,
}

struct Counting(Arc<Calls>);

struct CountingProgram(Vec<Method>, Arc<Calls>);

impl Backend for Counting {
    fn platform(&self) -> Platform {
        Platform::TorchScript
    }
    fn library(&self) -> String {
        "a test".to_owned()
    }
    fn device(&self, _: DeviceRequest) -> Result<Device> {
        Ok(Device::Cpu)
    }
    fn open(&self, archive: &Archive, _: Device) -> Result<Box<dyn Program>> {
        Ok(Box::new(CountingProgram(Description::read(archive)?.methods, self.0.clone())))
    }
    fn set_threads(&self, _: usize) {}
    fn threads(&self) -> usize {
        1
    }
}

impl Program for CountingProgram {
    fn device(&self) -> Device {
        Device::Cpu
    }
    fn methods(&self) -> &[Method] {
        &self.0
    }
    fn operators(&self) -> &[String] {
        &[]
    }
    fn run(&self, _: usize, _: &[Option<Value>]) -> Result<Value> {
        let running = self.1.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.1.most.fetch_max(running, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(1));
        self.1.now.fetch_sub(1, Ordering::SeqCst);
        Ok(Value::None)
    }
}

/// The most calls at once of six callers, each with a session of its own.
fn most_of_six(bound: Option<usize>) -> usize {
    let calls = Arc::new(Calls::default());
    let path = format!("{}/../backends/torch/tests/data/defaults.torchscript", env!("CARGO_MANIFEST_DIR"));
    let model = Model::open(Path::new(&path), &Counting(calls.clone()), DeviceRequest::Auto).unwrap();
    let model = match bound {
        Some(n) => model.at_once(n),
        None => model,
    };
    assert_eq!(model.most_at_once(), bound);
    let arguments = vec![None; model.method().arguments.len()];
    let caller = |session: Model| {
        let arguments = &arguments;
        move || session.call(arguments).map(drop)
    };
    let callers = (0..6).map(|_| caller(model.session().unwrap())).collect();
    let measured = measure_at_once(Duration::from_millis(30), callers).unwrap();
    assert!(measured.calls >= 6 && measured.calls_per_second > 0.0, "{measured:?}");
    calls.most.load(Ordering::SeqCst)
}

#[test]
fn callers_beyond_the_bound_wait_for_their_turn() {
    assert_eq!((most_of_six(Some(1)), most_of_six(Some(2))), (1, 2));
    assert!(most_of_six(None) > 2);
}
