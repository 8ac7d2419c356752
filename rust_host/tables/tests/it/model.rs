//! A program that computes in Rust what the file's own would, and a folder to read and write in.

use rust_host_engine::{
    Archive, Backend, Description, Device, DeviceRequest, Error, Method, Model, Platform, Program, Result, Tensor,
    Value,
};
use rust_host_tables::{Settings, Source, Summary, run};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

type Function = Box<dyn Fn(&[Tensor]) -> Result<Value> + Send + Sync>;

struct Fake(Mutex<Option<Function>>);

struct FakeProgram {
    methods: Vec<Method>,
    function: Function,
}

impl Backend for Fake {
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
        let function = self.0.lock().unwrap().take().unwrap();
        Ok(Box::new(FakeProgram { methods: Description::read(archive)?.methods, function }))
    }
    fn set_threads(&self, _: usize) {}
    fn threads(&self) -> usize {
        1
    }
}

impl Program for FakeProgram {
    fn device(&self) -> Device {
        Device::Cpu
    }
    fn methods(&self) -> &[Method] {
        &self.methods
    }
    fn operators(&self) -> &[String] {
        &[]
    }
    fn run(&self, _: usize, arguments: &[Option<Value>]) -> Result<Value> {
        let tensors: Vec<Tensor> = arguments
            .iter()
            .flatten()
            .map(|v| match v {
                Value::Tensor(t) => t.clone(),
                other => panic!("{other:?}"),
            })
            .collect();
        (self.function)(&tensors)
    }
}

/// A file of `rust_host/cli/tests/data` that runs `function`.
pub fn model(name: &str, function: impl Fn(&[Tensor]) -> Result<Value> + Send + Sync + 'static) -> Model {
    let path = format!("{}/../cli/tests/data/{name}.torchscript", env!("CARGO_MANIFEST_DIR"));
    let backend = Fake(Mutex::new(Some(Box::new(function))));
    Model::open(Path::new(&path), &backend, DeviceRequest::Auto).unwrap()
}

/// `total = 2 x + h` and `count = sum(int(x))`, for `x` and `h` of two values a row; a row with `x.0` = 13 fails.
pub fn cell() -> Model {
    model("cell", |inputs| {
        let (x, h) = (inputs[0].to_vec::<f32>()?, inputs[1].to_vec::<f32>()?);
        if x.iter().step_by(2).any(|v| *v == 13.0) {
            return Err(Error::failed("RuntimeError: 13 is not allowed"));
        }
        let rows = x.len() as i64 / 2;
        let total = x.iter().zip(&h).map(|(x, h)| 2.0 * x + h).collect::<Vec<f32>>();
        let count = x.chunks(2).map(|r| r[0] as i64 + r[1] as i64).collect::<Vec<i64>>();
        Ok(Value::Tuple(vec![
            Tensor::from_elements(vec![rows, 2], total)?.into(),
            Tensor::from_elements(vec![rows], count)?.into(),
        ]))
    })
}

/// Scores `[sum, 0, -1]` for a picture of 4 × 4, as probabilities' logarithms would be; at most 64 at once.
pub fn classifier() -> Model {
    model("classifier", |inputs| {
        let pixels = inputs[0].to_vec::<f32>()?;
        let rows: Vec<f32> = pixels.chunks(16).flat_map(|p| [p.iter().sum::<f32>().ln(), 0.0, -1.0]).collect();
        Ok(Tensor::from_elements(vec![rows.len() as i64 / 3, 3], rows)?.into())
    })
}

/// A folder that is removed.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
    /// Runs with `rows.csv` (or what is given) as the input.
    pub fn run(&self, model: &Model, input: &str, output: &str, change: impl FnOnce(&mut Settings)) -> Result<Summary> {
        let mut settings = Settings::new(Source::of(&self.path(input)).unwrap(), self.path(output));
        settings.workers = Some(3);
        change(&mut settings);
        run(model, &settings)
    }
}

/// What a table of the model `cell` becomes.
pub fn answer(table: impl AsRef<[u8]>) -> String {
    let place = Place::new();
    place.write("rows.csv", table);
    place.run(&cell(), "rows.csv", "out.csv", |_| {}).unwrap();
    place.read("out.csv")
}

/// Why a table of the model `cell` is refused; nothing is left behind.
#[track_caller]
pub fn refusal(table: impl AsRef<[u8]>) -> Error {
    let place = Place::new();
    place.write("rows.csv", table);
    let e = place.run(&cell(), "rows.csv", "out.csv", |_| {}).unwrap_err();
    assert_eq!(place.names(), ["rows.csv"], "{e}");
    e
}

/// What a closure counts, for the closure and for the test.
pub type Counts = Arc<Mutex<Vec<i64>>>;

pub fn counter() -> (Counts, Counts) {
    let counts = Arc::new(Mutex::new(Vec::new()));
    (counts.clone(), counts)
}
