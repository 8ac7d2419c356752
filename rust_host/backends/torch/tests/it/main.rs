//! The backend against small files that tests/data/make.py wrote.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use rust_host_engine::{Datatype, Device, DeviceRequest, ErrorKind, Memory, Model, Tensor, Value, interrupt};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

fn open(name: &str) -> Model {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/{name}.torchscript"));
    let backend = rust_host_torch::backend().unwrap();
    Model::open(&path, backend.as_ref(), DeviceRequest::Only(Device::Cpu)).unwrap()
}

fn tensor(values: &[f32]) -> Value {
    Tensor::from_elements(vec![values.len() as i64], values.to_vec()).unwrap().into()
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
fn every_type_goes_in_and_out() {
    let model = open("types");
    let text = |s: &str| Value::Str(s.into());
    let arguments = [
        tensor(&[1.0]),
        Value::Int(1),
        Value::Float(0.5),
        Value::Bool(true),
        text("hé"),
        Value::None,
        Value::List(vec![Value::Int(7)]),
        Value::List(vec![tensor(&[5.0, 6.0])]),
        Value::Tuple(vec![Value::Int(1), text("a")]),
        Value::Dict(vec![(text("k"), tensor(&[3.0]))]),
    ];
    let arguments: Vec<_> = arguments.into_iter().map(Some).collect();
    let Value::Tuple(out) = model.call(&arguments).unwrap() else { panic!() };
    assert_eq!(numbers(&out[0]), [2.0]);
    assert!(matches!(&out[1..4], [Value::Int(2), Value::Float(1.0), Value::Bool(false)]));
    assert!(matches!(&out[4], Value::Str(s) if s == "hé!"));
    assert!(matches!(&out[5], Value::None));
    assert!(matches!(&out[6], Value::List(l) if matches!(l[..], [Value::Int(7), Value::Int(9)])));
    assert!(matches!(&out[7], Value::List(l) if numbers(&l[0]) == [5.0, 6.0] && numbers(&l[1]) == [1.0]));
    assert!(matches!(&out[8], Value::Tuple(t) if matches!(t[0], Value::Int(2))));
    assert!(matches!(&out[9], Value::Dict(d) if d[0].0.key() == "k" && numbers(&d[0].1) == [3.0]));
    assert!(matches!(&out[10], Value::NamedTuple(f) if f[0].0 == "x" && numbers(&f[0].1) == [2.0]));
}

#[test]
fn a_value_of_another_type_is_refused_by_the_arguments_name() {
    let model = open("types");
    let mut arguments: Vec<_> = (0..10).map(|_| Some(tensor(&[1.0]))).collect();
    let e = model.call(&arguments).unwrap_err();
    assert_eq!((e.kind, e.message.as_str()), (ErrorKind::InvalidInput, "input `i` is Tensor, expected int"));
    arguments.pop();
    assert!(model.call(&arguments).unwrap_err().message.contains("9 inputs were given, the model takes 10"));
}

#[test]
fn arguments_with_defaults_may_be_left_out() {
    let model = open("defaults");
    let run = |inputs: Vec<(&str, Value)>| {
        let inputs = inputs.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
        numbers(&model.run(inputs).unwrap()[0].1)
    };
    assert_eq!(run(vec![("x", tensor(&[2.0]))]), [4.25]);
    assert_eq!(run(vec![("bias", Value::Int(1)), ("x", tensor(&[2.0])), ("power", Value::Int(3))]), [9.0]);
    let mask = Tensor::from_bools(vec![1], vec![true]).unwrap();
    assert_eq!(run(vec![("x", tensor(&[2.0])), ("mask", mask.into())]), [-1.0]);
    let e = model.run(vec![("bias".into(), Value::Float(1.0))]).unwrap_err();
    assert_eq!(e.message, "missing input `x`, the model takes `x`, `mask`, `power`, `bias`");
}

#[test]
fn a_result_is_the_callers_alone() {
    let model = open("aliases");
    let input = Tensor::from_elements(vec![4], vec![1f32; 4]).unwrap();
    let Value::Tuple(out) = call(&model, input.clone().into()) else { panic!() };
    let place = |v: &Value| match v {
        Value::Tensor(t) => t.memory().bytes().as_ptr() as usize + t.offset(),
        other => panic!("{other:?}"),
    };
    let given = input.memory().bytes().as_ptr() as usize;
    let mut places: Vec<_> = out.iter().map(place).collect();
    assert!(places.iter().all(|p| !(given..given + 16).contains(p)), "an output lies in the input");
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 6, "two outputs share memory");
    // The weight itself, asked for twice, lies in two places and has the same values.
    let Value::Tuple(again) = call(&model, input.into()) else { panic!() };
    assert_ne!(place(&out[0]), place(&again[0]));
    assert_eq!(numbers(&again[0]), [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(numbers(&again[1]), [1.0, 2.0]);
}

#[test]
fn a_model_that_writes_to_its_input_does_not_change_the_callers_memory() {
    let model = open("writesinput");
    let input = Tensor::from_elements(vec![2], vec![1f32, 2.0]).unwrap();
    assert_eq!(numbers(&call(&model, input.clone().into())), [101.0, 3.0]);
    assert_eq!(input.to_vec::<f32>().unwrap(), [1.0, 2.0]);
}

#[test]
fn state_is_kept_and_results_do_not_change_with_it() {
    let model = open("stateful");
    let first = call(&model, tensor(&[1.0, 2.0]));
    let second = call(&model, tensor(&[1.0, 2.0]));
    assert_eq!((numbers(&first), numbers(&second)), (vec![1.0, 2.0], vec![2.0, 4.0]));
}

#[test]
fn a_session_begins_as_the_file_is_and_keeps_its_own_state() {
    let model = open("stateful");
    assert!(model.is_stateful() && !open("hooked").is_stateful() && !open("writesinput").is_stateful());
    call(&model, tensor(&[1.0, 2.0]));
    let (a, b) = (model.session().unwrap(), model.session().unwrap());
    for n in [1.0, 2.0, 3.0] {
        assert_eq!(numbers(&call(&a, tensor(&[1.0, 2.0]))), [n, 2.0 * n]);
        assert_eq!(numbers(&call(&b, tensor(&[5.0, 0.0]))), [5.0 * n, 0.0]);
    }
    assert_eq!(numbers(&call(&a.session().unwrap(), tensor(&[1.0, 2.0]))), [1.0, 2.0]);
    assert_eq!(numbers(&call(&model, tensor(&[1.0, 2.0]))), [2.0, 4.0]);
    let e = std::thread::scope(|s| s.spawn(|| model.call(&[Some(tensor(&[1.0, 2.0]))]).unwrap_err()).join().unwrap());
    assert_eq!(e.kind, ErrorKind::InvalidInput);
    assert!(e.message.contains("belongs to the thread that called it first"), "{e}");
}

#[test]
fn another_method_is_called_by_its_name() {
    let model = open("onlyother").calling("double").unwrap();
    assert_eq!(numbers(&call(&model, tensor(&[1.5]))), [3.0]);
    let e = open("onlyother").calling("dubble").err().unwrap();
    assert!(e.message.ends_with("has no method `dubble`, did you mean `double`? It has `double`"), "{e}");
}

#[test]
fn hooks_of_the_top_module_run() {
    assert_eq!(numbers(&call(&open("hooked"), tensor(&[1.0]))), [12.0]);
}

#[test]
fn autograd_inside_forward_works() {
    let model = open("gradient");
    for _ in 0..3 {
        assert_eq!(numbers(&call(&model, tensor(&[2.0]))), [12.0]);
    }
}

#[test]
fn a_model_saved_in_training_mode_has_dropout_switched_off() {
    assert_eq!(numbers(&call(&open("training"), tensor(&[1.0; 64]))), [1.0; 64]);
}

#[test]
fn an_error_of_the_author_is_told_in_the_authors_words() {
    let e = open("raises").call(&[Some(tensor(&[1.0; 3]))]).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Failed);
    assert!(e.message.ends_with("expected four sensor channels, recalibrate the rig"), "{e}");
    assert_eq!(e.message.lines().count(), 1);
}

#[test]
fn every_datatype_comes_back_as_it_was() {
    let model = open("copies");
    for datatype in Datatype::ALL {
        let size = datatype.size();
        let mut bytes: Vec<u8> = (0..4 * size).map(|i| i as u8).collect();
        if datatype == Datatype::Bool {
            bytes = vec![0, 1, 1, 0];
        }
        let given = Tensor::new(datatype, vec![4], Arc::new(bytes.clone())).unwrap();
        let Value::Tensor(out) = call(&model, given.into()) else { panic!() };
        assert_eq!(out.datatype(), datatype);
        assert_eq!(out.contiguous_bytes(), Some(&bytes[..]), "{datatype}");
    }
}

#[test]
fn strides_order_and_empty_arrays_are_read_as_their_values_say() {
    let model = open("flips");
    let memory: Arc<dyn Memory> = Arc::new((0..12u8).collect::<Vec<_>>());
    let run = |shape: &[i64], strides: &[i64], offset| {
        let t = Tensor::strided(Datatype::Uint8, shape.to_vec(), strides.to_vec(), offset, memory.clone()).unwrap();
        match call(&model, t.into()) {
            Value::Tensor(t) => (t.shape().to_vec(), t.to_vec::<u8>().unwrap()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(run(&[3, 2], &[1, 3], 0).1, [2, 5, 1, 4, 0, 3]);
    assert_eq!(run(&[2, 2], &[-2, 1], 2).1, [0, 1, 2, 3]);
    assert_eq!(run(&[3], &[0], 5).1, [5, 5, 5]);
    assert_eq!(run(&[0, 4], &[4, 1], 12), (vec![0, 4], vec![]));
    assert_eq!(run(&[1], &[1], 11).1, [11]);
}

#[test]
fn results_that_no_datatype_stands_for_are_refused_with_the_remedy() {
    let model = open("odd");
    let run = |kind: &str| model.call(&[Some(Value::Str(kind.into())), Some(tensor(&[1.0, 2.0]))]);
    for (kind, remedy) in [("complex", "view_as_real"), ("sparse", "to_dense"), ("quantized", "dequantize")] {
        let e = run(kind).unwrap_err();
        assert!(e.message.contains(remedy), "{kind}: {e}");
    }
    // One row three times over: readable, but nobody may write to it.
    let Value::Tensor(t) = run("expanded").unwrap() else { panic!() };
    assert_eq!(t.to_vec::<f32>().unwrap(), [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
}

#[test]
fn the_only_method_is_called_where_there_is_no_forward() {
    let model = open("onlyother");
    assert_eq!(model.method().to_string(), "double(x: Tensor) -> Tensor");
    assert_eq!(numbers(&call(&model, tensor(&[2.0]))), [4.0]);
}

/// Counts how many of it live.
struct Counted(Vec<u8>, Arc<AtomicUsize>);

impl Memory for Counted {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn memory_of_arguments_is_given_back_also_when_the_call_fails() {
    let live = Arc::new(AtomicUsize::new(0));
    let counted = |n: usize| -> Value {
        live.fetch_add(1, Ordering::SeqCst);
        let memory = Arc::new(Counted(vec![0; 4 * n], live.clone()));
        Tensor::new(Datatype::Fp32, vec![n as i64], memory).unwrap().into()
    };
    let raises = open("raises");
    let types = open("types");
    for _ in 0..100 {
        assert!(raises.call(&[Some(counted(4))]).is_ok());
        assert!(raises.call(&[Some(counted(3))]).is_err());
        // Fails at the second argument, with tensors behind it, in a list and in the wrong place.
        let mut arguments: Vec<_> = (0..9).map(|_| Some(counted(1))).collect();
        arguments.push(Some(Value::List(vec![counted(1), counted(2)])));
        assert!(types.call(&arguments).is_err());
    }
    assert_eq!(live.load(Ordering::SeqCst), 0);
}

#[test]
fn many_threads_share_one_model() {
    let model = Arc::new(open("defaults"));
    std::thread::scope(|scope| {
        for n in 0..8 {
            let model = model.clone();
            scope.spawn(move || {
                for i in 0..200 {
                    let x = (n * 200 + i) as f32;
                    let out = model.run(vec![("x".into(), tensor(&[x]))]).unwrap();
                    assert_eq!(numbers(&out[0].1), [x * x + 0.25]);
                }
            });
        }
    });
}

#[test]
fn arithmetic_that_ends_a_plain_host_is_an_error() {
    let model = open("kills");
    let run = |what: &str, a: i64, b: i64, t: Tensor| {
        model.call(&[Some(Value::Str(what.into())), Some(Value::Int(a)), Some(Value::Int(b)), Some(t.into())])
    };
    let smallest = || Tensor::from_elements(vec![2], vec![5, i64::MIN]).unwrap();
    for _ in 0..3 {
        for what in ["remainder", "floordiv", "divmod"] {
            assert!(run(what, 7, 0, smallest()).unwrap_err().message.contains("by zero"), "{what}");
            assert!(run(what, i64::MIN, -1, smallest()).unwrap_err().message.contains("overflow"), "{what}");
        }
        for what in ["trunc", "trunc_tensor"] {
            assert!(run(what, 0, -1, smallest()).unwrap_err().message.contains("overflow"), "{what}");
            assert!(run(what, 0, 2, smallest()).is_ok(), "{what}");
        }
        let nan = Tensor::from_elements(vec![6, 6], vec![f32::NAN; 36]).unwrap();
        assert!(run("eigvals", 0, 1, nan).unwrap_err().message.contains("NaN"));
        let Value::Tensor(t) = run("remainder", 7, 4, smallest()).unwrap() else { panic!() };
        assert_eq!(t.to_vec::<i64>().unwrap(), [3]);
    }
}

#[test]
fn an_endless_loop_ends_at_the_time_limit() {
    let model = open("endless");
    assert_eq!(numbers(&call(&model, tensor(&[-1.0]))), [-1.0]);
    let limit = std::time::Duration::from_millis(300);
    let start = std::time::Instant::now();
    let e = interrupt::within(limit, || model.call(&[Some(tensor(&[1.0]))])).unwrap_err();
    assert_eq!((e.kind, e.message.as_str()), (ErrorKind::Timeout, "the model did not answer within 0.3 s"));
    assert!(start.elapsed() < std::time::Duration::from_secs(10));
}

#[test]
fn cuda_is_used_or_refused_with_the_reason() {
    let backend = rust_host_torch::backend().unwrap();
    match backend.device(DeviceRequest::Only(Device::Cuda(0))) {
        Ok(device) => assert_eq!(device, Device::Cuda(0)),
        Err(e) => {
            assert!(e.message.contains("CUDA") && e.hint.is_some(), "{e}");
            assert_eq!(backend.device(DeviceRequest::Auto).unwrap(), Device::Cpu);
        }
    }
}
