//! The backend against small files that tests/data/make.py wrote. Where there is no ONNX Runtime, each test says so and ends.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use rust_host_engine::{
    Backend, Datatype, Device, DeviceRequest, ErrorKind, Memory, Model, Result, Tensor, Value, golden, interrupt,
};
use std::{
    path::PathBuf,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

static BACKEND: LazyLock<Result<Arc<dyn Backend>>> = LazyLock::new(rust_host_onnx::backend);

/// The backend, or the end of the test.
macro_rules! backend {
    () => {
        match &*BACKEND {
            Ok(backend) => backend.as_ref(),
            Err(e) => return println!("skipped: {e}"),
        }
    };
}

fn try_open(backend: &dyn Backend, name: &str) -> Result<Model> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/{name}.onnx"));
    Model::open(&path, backend, DeviceRequest::Only(Device::Cpu))
}

fn open(backend: &dyn Backend, name: &str) -> Model {
    try_open(backend, name).unwrap()
}

fn tensor(shape: &[i64], values: &[f32]) -> Value {
    Tensor::from_elements(shape.to_vec(), values.to_vec()).unwrap().into()
}

fn numbers(value: &Value) -> Vec<f32> {
    match value {
        Value::Tensor(t) => t.to_vec().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn call(model: &Model, value: Value) -> Value {
    model.call(&[Some(value)]).unwrap()
}

#[test]
fn every_datatype_goes_in_and_out_bit_for_bit() {
    let model = open(backend!(), "types");
    // Not a multiple of anything, and with NaN and denormal patterns among the floats; a bool is 0 or 1.
    let bytes =
        |d: Datatype| (0..15 * d.size()).map(move |i| if d == Datatype::Bool { i as u8 % 2 } else { (i * 37) as u8 });
    let argument = |name: &str| match name {
        "bool" => Datatype::Bool,
        "float" => Datatype::Fp32,
        "double" => Datatype::Fp64,
        name => Datatype::ALL.into_iter().find(|d| d.numpy_name() == name).unwrap(),
    };
    let datatypes: Vec<_> = model.method().arguments.iter().map(|a| argument(&a.name)).collect();
    assert_eq!(datatypes.len(), Datatype::ALL.len());
    for shape in [vec![3, 5], vec![15], vec![], vec![0, 4], vec![1, 15, 1]] {
        let tensors = datatypes.iter().map(|&d| {
            let count = shape.iter().product::<i64>() as usize;
            let memory: Vec<u8> = bytes(d).take(count * d.size()).collect();
            Tensor::new(d, shape.clone(), Arc::new(memory)).unwrap()
        });
        let tensors: Vec<Tensor> = tensors.collect();
        let arguments: Vec<_> = tensors.iter().cloned().map(|t| Some(t.into())).collect();
        let Value::NamedTuple(results) = model.call(&arguments).unwrap() else { panic!() };
        for ((name, result), given) in results.iter().zip(&tensors) {
            let Value::Tensor(result) = result else { panic!("{name}") };
            assert_eq!((result.datatype(), result.shape()), (given.datatype(), &shape[..]), "{name}");
            assert_eq!(result.contiguous_bytes(), given.contiguous_bytes(), "{name} {shape:?}");
        }
    }
}

#[test]
fn memory_in_any_order_and_at_any_address_is_read_right() {
    let model = open(backend!(), "product");
    let by_hand = |x: &[f32]| -> Vec<f32> {
        x.chunks(4)
            .flat_map(|r| (0..3).map(|j| (0..4).map(|i| r[i] * (3 * i + j) as f32).sum()).collect::<Vec<_>>())
            .collect()
    };
    let values: Vec<f32> = (0..8).map(|i| i as f32).collect();
    assert_eq!(numbers(&call(&model, tensor(&[2, 4], &values))), by_hand(&values));
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    for offset in 1..4 {
        let memory: Arc<dyn Memory> = Arc::new([vec![0; offset], bytes.clone()].concat());
        let shifted = Tensor::strided(Datatype::Fp32, vec![2, 4], vec![4, 1], offset, memory).unwrap();
        assert_eq!(numbers(&call(&model, shifted.into())), by_hand(&values), "{offset}");
    }
    let memory: Arc<dyn Memory> = Arc::new(bytes);
    let across = Tensor::strided(Datatype::Fp32, vec![2, 4], vec![1, 2], 0, memory.clone()).unwrap();
    assert_eq!(numbers(&call(&model, across.into())), by_hand(&[0., 2., 4., 6., 1., 3., 5., 7.]));
    let backwards = Tensor::strided(Datatype::Fp32, vec![2, 4], vec![-4, -1], 28, memory).unwrap();
    assert_eq!(numbers(&call(&model, backwards.into())), by_hand(&[7., 6., 5., 4., 3., 2., 1., 0.]));
}

#[test]
fn results_are_the_callers_alone() {
    let backend = backend!();
    let same = open(backend, "same");
    let given: Arc<dyn Memory> = Arc::new([1f32, 2., 3., 4.].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
    let address = |t: &Tensor| t.memory().bytes().as_ptr();
    let input = Tensor::new(Datatype::Fp32, vec![1, 4], given.clone()).unwrap();
    let Value::NamedTuple(results) = call(&same, input.into()) else { panic!() };
    let [(first, Value::Tensor(x)), (second, Value::Tensor(y))] = &results[..] else { panic!("{results:?}") };
    assert_eq!((first.as_str(), second.as_str()), ("x", "y"));
    assert!(address(x) != given.bytes().as_ptr() && address(y) != given.bytes().as_ptr() && address(x) != address(y));
    drop(same);
    assert_eq!((x.to_vec::<f32>().unwrap(), y.to_vec::<f32>().unwrap()), (vec![1., 2., 3., 4.], vec![1., 2., 3., 4.]));
    // A weight that is a result is a copy, each time.
    let weight = open(backend, "weight");
    let (Value::Tensor(a), Value::Tensor(b)) =
        (call(&weight, tensor(&[1, 4], &[0.; 4])), call(&weight, tensor(&[1, 4], &[0.; 4])))
    else {
        panic!()
    };
    assert_ne!(address(&a), address(&b));
    drop(weight);
    assert_eq!(a.to_vec::<f32>().unwrap(), (0..12).map(|i| i as f32).collect::<Vec<_>>());
}

#[test]
fn texts_lists_and_maps_go_in_and_out() {
    let backend = backend!();
    let text = |s: &str| Value::Str(s.into());
    let rows = Value::List(vec![Value::List(vec![text("a"), text("")]), Value::List(vec![text("dé"), text("b b")])]);
    let Value::List(result) = call(&open(backend, "texts"), rows) else { panic!() };
    let [_, Value::List(second)] = &result[..] else { panic!() };
    assert!(matches!(&second[..], [Value::Str(a), Value::Str(b)] if a == "dé" && b == "b b"));
    let empty = call(&open(backend, "texts"), Value::List(vec![]));
    assert!(matches!(empty, Value::List(rows) if rows.is_empty()), "no rows");
    let Value::List(maps) = call(&open(backend, "maps"), tensor(&[2, 4], &[0.5; 8])) else { panic!() };
    let Value::Dict(map) = &maps[1] else { panic!() };
    assert!(maps.len() == 2 && map.len() == 4 && map[1].0.key() == "11" && matches!(map[1].1, Value::Float(0.5)));
    let list = Value::List(vec![tensor(&[1], &[1.]), tensor(&[2], &[2., 3.])]);
    assert_eq!(numbers(&call(&open(backend, "many"), list)), [1., 2., 3.]);
}

#[test]
fn one_output_has_the_graphs_name_too() {
    let model = open(backend!(), "product");
    let outputs = model.run(vec![("x".to_owned(), tensor(&[1, 4], &[1.; 4]))]).unwrap();
    assert_eq!(outputs[0].0, "y");
    // What has a value in the file need not be given.
    assert_eq!(model.method().to_string(), "forward(x: Tensor) -> Tensor");
}

#[test]
fn what_does_not_fit_is_said_by_name() {
    let backend = backend!();
    let refused = |name: &str, value: Value| {
        let e = open(backend, name).call(&[Some(value)]).unwrap_err();
        assert_eq!(e.kind, ErrorKind::InvalidInput, "{e}");
        e.message
    };
    let doubles = Tensor::from_elements(vec![1, 4], vec![0f64; 4]).unwrap();
    assert_eq!(refused("product", doubles.into()), "input `x` is FP64 (float64), the model expects FP32 (float32)");
    let shape = "input `x` has shape [1, 3], the model expects [batch, 4]";
    assert_eq!(refused("product", tensor(&[1, 3], &[0.; 3])), shape);
    assert_eq!(refused("product", tensor(&[4], &[0.; 4])), "input `x` has shape [4], the model expects [batch, 4]");
    assert_eq!(refused("product", Value::Int(3)), "input `x` is int, expected Tensor");
    assert_eq!(refused("many", Value::List(vec![])), "input `many` is List, expected a List with at least one value");
    let eight = "input `x` is a tensor of FLOAT8E4M3FN, which no datatype stands for here";
    assert_eq!(refused("eight_bits", tensor(&[1], &[0.])), eight);
    for texts in [
        Value::List(vec![Value::List(vec![Value::Str("a".into())])]),
        Value::List(vec![Value::List(vec![Value::Str("a".into()), Value::Str("a\0".into())])]),
        Value::List(vec![Value::Str("a".into()), Value::Str("a".into())]),
        tensor(&[1, 2], &[0.; 2]),
    ] {
        assert!(
            refused("texts", texts)
                .starts_with("input `s` takes texts, as lists of str in each other, of shape [n, 2]")
        );
    }
}

#[test]
fn what_onnx_runtime_refuses_is_one_sentence() {
    let backend = backend!();
    let refused = |name: &str| {
        let e = try_open(backend, name).err().unwrap();
        assert_eq!((e.kind, e.message.lines().count()), (ErrorKind::InvalidModel, 1), "{e}");
        let words = e.message.split_once("ONNX Runtime cannot load it: ").unwrap().1.to_owned();
        assert!(!words.contains(".cc:") && !words.contains("onnxruntime::"), "{words}");
        (words, e.hint.unwrap_or_default())
    };
    let (words, hint) = refused("foreign");
    assert!(words.contains("com.acme:Foo") && hint.contains("other libraries"), "{words} {hint}");
    assert!(refused("unknown").0.contains("Nothing"));
    let (words, hint) = refused("newer");
    assert!(words.starts_with("its operators of ai.onnx are of opset 999, and it knows them up to opset "), "{words}");
    assert!(hint.contains("pip install --upgrade onnxruntime"));
    let (words, hint) = refused("newer_format");
    assert!(words.starts_with("Unsupported model IR version: 60") && hint.contains("--upgrade"), "{words}");
    assert!(refused("cycle").0.contains("acyclic"));
}

#[test]
fn a_node_that_fails_is_named_and_the_next_call_works() {
    let backend = backend!();
    let model = open(backend, "sum");
    let (three, two) = (tensor(&[3], &[1.; 3]), tensor(&[2], &[1.; 2]));
    let e = model.call(&[Some(three.clone()), Some(two)]).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Failed);
    assert!(e.message.starts_with("the node Add (`add them`) failed: Attempting to broadcast"), "{e}");
    assert_eq!(numbers(&model.call(&[Some(three.clone()), Some(three)]).unwrap()), [2.; 3]);
    let e = open(backend, "large").call(&[Some(tensor(&[1], &[1.]))]).unwrap_err();
    assert_eq!((e.kind, e.message.as_str()), (ErrorKind::Unavailable, "not enough memory"));
}

#[test]
fn a_call_ends_when_its_time_is_over() {
    let model = open(backend!(), "endless");
    let start = Instant::now();
    let limit = Duration::from_millis(100);
    let e = interrupt::within(limit, || model.call(&[Some(tensor(&[64, 64], &[0.; 4096]))])).unwrap_err();
    assert_eq!((e.kind, e.message.as_str()), (ErrorKind::Timeout, "the model did not answer within 0.1 s"));
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn many_threads_call_one_model() {
    let model = open(backend!(), "product");
    std::thread::scope(|scope| {
        for n in 0..8 {
            let model = &model;
            scope.spawn(move || {
                for i in 0..2000 {
                    let x = (n * 2000 + i) as f32;
                    let y = numbers(&call(model, tensor(&[1, 4], &[x, 0., 0., 1.])));
                    assert_eq!(y, [9., x + 10., 2. * x + 11.]);
                }
            });
        }
    });
}

#[test]
fn there_is_the_processor_alone() {
    let backend = backend!();
    assert_eq!(backend.device(DeviceRequest::Auto).unwrap(), Device::Cpu);
    let e = backend.device(DeviceRequest::Only(Device::Cuda(1))).unwrap_err();
    assert_eq!(
        (e.kind, e.message.as_str()),
        (ErrorKind::Unavailable, "ONNX models run on the processor here, not on cuda:1")
    );
    assert!(backend.library().starts_with("ONNX Runtime 1."));
    backend.set_threads(1);
    assert_eq!(backend.threads(), 1);
    assert_eq!(numbers(&call(&open(backend, "product"), tensor(&[1, 4], &[1., 0., 0., 0.]))), [0., 1., 2.]);
}

#[test]
fn a_contract_orders_names_and_nests() {
    let backend = backend!();
    let model = open(backend, "contract");
    assert_eq!(model.method().to_string(), "forward(a: Tensor, b: Tensor) -> Dict[str, Tensor]");
    let (a, b) = (tensor(&[1, 4], &[1., 2., 3., 4.]), tensor(&[1, 4], &[2.; 4]));
    let Value::Dict(result) = model.call(&[Some(a), Some(b)]).unwrap() else { panic!() };
    let [(minus, difference), (times, product)] = &result[..] else { panic!("{result:?}") };
    assert_eq!((minus.key().as_str(), times.key().as_str()), ("minus", "times"));
    assert_eq!((numbers(difference), numbers(product)), (vec![-1., 0., 1., 2.], vec![2., 4., 6., 8.]));
    let verdict = golden::verify(&model).unwrap();
    assert!(verdict.ok && verdict.examples == 2 && verdict.outputs.iter().all(|o| o.max_abs == 0.0), "{verdict:?}");
    assert!(!golden::verify(&open(backend, "drifted")).unwrap().ok);
    let e = try_open(backend, "misnamed").err().unwrap();
    assert_eq!(e.kind, ErrorKind::InvalidContract);
    assert!(e.message.ends_with("contract.json: it names the input `c`, the graph has `b`, `a`"), "{e}");
}
