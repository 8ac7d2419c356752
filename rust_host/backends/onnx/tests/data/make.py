"""Writes the ONNX files of these tests: `python make.py`, with the package onnx."""

import base64
import json
from pathlib import Path

import numpy as np
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh
from safetensors.numpy import save as save_tensors

HERE = Path(__file__).parent
TYPES = [
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FLOAT16",
    "BFLOAT16",
    "FLOAT",
    "DOUBLE",
]


def save(name, nodes, inputs, outputs, saved=(), opset=17, ir=8, domains=(), notes=None):
    graph = h.make_graph(nodes, name, inputs, outputs, saved)
    opsets = [h.make_opsetid("", opset), *(h.make_opsetid(d, v) for d, v in domains)]
    model = h.make_model(graph, opset_imports=opsets, ir_version=ir, producer_name="make.py", producer_version="1")
    h.set_model_props(model, notes or {})
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString())


def value(name, element=T.FLOAT, dims=None):
    return h.make_tensor_value_info(name, element, dims)


def node(operator, inputs, outputs, **attributes):
    return h.make_node(operator, inputs, outputs, **attributes)


x, y = value("x", dims=["batch", 4]), value("y", dims=["batch", 3])
w = nh.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "w")
product = node("MatMul", ["x", "w"], ["y"], name="product")

save("product", [product], [x, value("w", dims=[4, 3])], [y], [w])
save(
    "types",
    [node("Identity", [t.lower()], [f"{t.lower()}_out"]) for t in TYPES],
    [value(t.lower(), getattr(T, t)) for t in TYPES],
    [value(f"{t.lower()}_out", getattr(T, t)) for t in TYPES],
)
save("texts", [node("Identity", ["s"], ["t"])], [value("s", T.STRING, ["n", 2])], [value("t", T.STRING, ["n", 2])])
save("same", [node("Identity", ["x"], ["y"])], [x], [x, value("y", dims=["batch", 4])])
save("weight", [node("Identity", ["w"], ["y"])], [x], [value("y", dims=[4, 3])], [w])
save("sum", [node("Add", ["a", "b"], ["y"], name="add them")], [value("a"), value("b")], [value("y")])
save("eight_bits", [node("Cast", ["x"], ["y"], to=T.FLOAT)], [value("x", T.FLOAT8E4M3FN, ["n"])], [y], opset=19, ir=9)
save("unknown", [node("Nothing", ["x"], ["y"])], [x], [y])
save("foreign", [node("Foo", ["x"], ["y"], domain="com.acme")], [x], [y], domains=[("com.acme", 1)])
save("newer", [product], [x], [y], [w], opset=999)
save("newer_format", [product], [x], [y], [w], ir=60)
save("cycle", [node("Add", ["y", "x"], ["z"]), node("Add", ["z", "x"], ["y"])], [x], [y])

# What scikit-learn's converter writes: numbers of classes, and a list of maps from them to probabilities.
scores = h.make_value_info(
    "scores", h.make_sequence_type_proto(h.make_map_type_proto(T.INT64, h.make_tensor_type_proto(T.FLOAT, [])))
)
maps = node("ZipMap", ["x"], ["scores"], domain="ai.onnx.ml", classlabels_int64s=[10, 11, 12, 13])
save("maps", [maps], [x], [scores], domains=[("ai.onnx.ml", 1)])

many = h.make_value_info("many", h.make_sequence_type_proto(h.make_tensor_type_proto(T.FLOAT, None)))
save("many", [node("ConcatFromSequence", ["many"], ["y"], axis=0)], [many], [value("y")])

turns = nh.from_array(np.array(2**60), "turns")
goes_on = nh.from_array(np.array(True), "goes_on")
square = [64, 64]
body = h.make_graph(
    [node("Identity", ["before"], ["after"]), node("MatMul", ["v", "v"], ["w"])],
    "body",
    [value("i", T.INT64, []), value("before", T.BOOL, []), value("v", dims=square)],
    [value("after", T.BOOL, []), value("w", dims=square)],
)
loop = node("Loop", ["turns", "goes_on", "x"], ["y"], body=body)
save("endless", [loop], [value("x", dims=square)], [value("y", dims=square)], [turns, goes_on])

size = nh.from_array(np.array([2**40]), "size")
save("large", [node("Expand", ["x", "size"], ["y"])], [value("x", dims=[1])], [value("y")], [size])

# A contract whose order is not the graph's, and golden examples; `drifted` has one that is not what the model computes.
A, B = np.arange(8, dtype=np.float32).reshape(2, 4), np.full((2, 4), 0.5, np.float32)
TENSOR = {"datatype": "FP32", "shape": [-1, 4], "dims": ["batch", 4]}
CONTRACT = {
    "format_version": 1,
    "name": "difference",
    "platform": "onnxruntime_onnx",
    "inputs": [{"name": "a", **TENSOR}, {"name": "b", **TENSOR}],
    "outputs": [{"name": n, **TENSOR, "rtol": 1e-6, "atol": 1e-6} for n in ("difference", "product")],
    "returns": {"minus": "difference", "times": "product"},
    "dims": {"batch": {"min": 1, "max": 100}},
    "golden": {"file": "golden.safetensors", "count": 2},
    "producer": {"name": "make.py", "version": "1"},
}


def contracted(name, off, **changes):
    golden = {}
    for i, (a, b) in enumerate([(A, B), (A[:1], B[:1])]):
        golden |= {
            f"{i}.input.a": a,
            f"{i}.input.b": b,
            f"{i}.output.difference": a - b + off,
            f"{i}.output.product": a * b,
        }
    notes = {
        "rust_host.contract": json.dumps(CONTRACT | changes),
        "rust_host.golden": base64.b64encode(save_tensors(golden)).decode(),
    }
    dims = ["batch", 4]
    nodes = [node("Mul", ["a", "b"], ["product"]), node("Sub", ["a", "b"], ["difference"])]
    slots = (
        [value("b", dims=dims), value("a", dims=dims)],
        [value("product", dims=dims), value("difference", dims=dims)],
    )
    save(name, nodes, *slots, notes=notes)


contracted("contract", 0)
contracted("drifted", 0.1)
contracted("misnamed", 0, inputs=[{"name": "a", **TENSOR}, {"name": "c", **TENSOR}])
