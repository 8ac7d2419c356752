"""ONNX files: the backend tests that the onnx package brings, and files that are wrong."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

if importlib.util.find_spec("onnx") is None or importlib.util.find_spec("onnxruntime") is None:
    pytest.skip("the extra `onnx` is not installed", allow_module_level=True)

import onnx
from onnx import TensorProto, helper, numpy_helper

from py_authoring.errors import AuthoringError, NotFoundError, ParityError, RefusedError, UsageError
from py_authoring.export import export
from py_authoring.importing import import_model
from py_authoring.importing.errors import ForeignFileError
from py_authoring.importing.onnx import registry, sizes
from py_authoring.importing.onnx.file import read_onnx
from py_authoring.importing.onnx.nodes import node_of
from py_authoring.importing.onnx.operators.quantisation import quantize
from py_authoring.importing.onnx.translation import Translated, translate
from py_authoring.model_file import build_model, example_inputs
from py_authoring.recipe import load_recipe
from py_authoring.verify import verify

DATA = Path(onnx.__file__).parent / "backend/test/data"

#: Node tests of opset up to 20 with numbers that do not import with parity, by operator.
NOT_IMPORTED = {
    "DFT": 2,  # an inverse whose reference keeps rounding errors of 2e-7 beside exact zeros
    "If": 1,  # a branch that gives an empty optional
    "ImageDecoder": 9,
    "Scan": 1,  # opset 8, with a batch
    "TfIdfVectorizer": 7,
    "ai.onnx.ml:TreeEnsemble": 2,
    "ai.onnx.preview.training:Adagrad": 2,
    "ai.onnx.preview.training:Adam": 2,
    "ai.onnx.preview.training:Momentum": 3,
}
#: Of those that import, the ones that return what may be an empty optional are no TorchScript.
NOT_SCRIPTED = {"test_identity_opt", "test_loop16_seq_none"}


def module_of(translated: Translated) -> nn.Module:
    """The model.py of a graph, without a folder."""
    source = translated.source
    inputs = dict(zip(translated.inputs, translated.input_kinds, strict=True))
    text = source.render("A graph.", inputs, list(translated.outputs.values()), translated.kinds)
    lines = [line for line in text.splitlines() if "load_state_dict" not in line]
    module_of.count += 1  # type: ignore[attr-defined]
    name = f"imported_graph_{module_of.count}"  # type: ignore[attr-defined]
    made = sys.modules[name] = types.ModuleType(name)
    import linecache

    linecache.cache[f"<{name}>"] = (0, None, [f"{line}\n" for line in lines], f"<{name}>")
    exec(compile("\n".join(lines), f"<{name}>", "exec"), made.__dict__)
    module: nn.Module = made.Imported()
    module.load_state_dict(source.weights())
    return module.eval()


module_of.count = 0  # type: ignore[attr-defined]


def value_of(value: Any) -> Any:
    """What a test stores, as tensors."""
    if isinstance(value, TensorProto):
        value = numpy_helper.to_array(value)
    if isinstance(value, onnx.OptionalProto):
        return value_of(numpy_helper.to_optional(value))
    if isinstance(value, onnx.SequenceProto):
        value = numpy_helper.to_list(value)
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return [value_of(each) for each in value]
    return torch.from_numpy(np.array(value, copy=True))


def assert_same(got: Any, expected: Any, rtol: float, atol: float) -> None:
    expected = value_of(expected)
    if isinstance(expected, list):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other, rtol, atol)
        return
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(got.detach().numpy(), expected.numpy(), rtol, atol)


def run(module: Any, translated: Translated, inputs: Sequence[Any], expected: Sequence[Any], rtol: float) -> None:
    with torch.no_grad():
        got = module(*(value_of(each) for each in inputs))
    outputs = [got] if len(translated.outputs) == 1 else list(got)
    assert len(outputs) == len(expected)
    for one, other in zip(outputs, expected, strict=True):
        assert_same(one, other, rtol, 1e-7)


def node_tests() -> Iterator[Any]:
    """Node tests of opset up to 20 without strings."""
    from onnx.backend.test.case.node import collect_testcases

    for case in collect_testcases(None):
        if max((each.version for each in case.model.opset_import if each.domain == ""), default=0) > 20:
            continue
        if TensorProto.STRING not in {elem_type(part) for part in [*case.model.graph.input, *case.model.graph.output]}:
            yield case


def elem_type(part: onnx.ValueInfoProto) -> int:
    kind = part.type
    if kind.WhichOneof("value") == "optional_type":
        kind = kind.optional_type.elem_type
    if kind.WhichOneof("value") == "sequence_type":
        kind = kind.sequence_type.elem_type
    return int(kind.tensor_type.elem_type)


def operator_of(case: Any) -> str:
    first = case.model.graph.node[0]
    return f"{first.domain}:{first.op_type}" if first.domain else str(first.op_type)


@pytest.mark.filterwarnings("ignore")  # the generator of the cases overflows on purpose
def test_the_node_tests_of_opset_20_import_with_parity_but_those_listed() -> None:
    passed, failed, scripted = Counter[str](), Counter[str](), Counter[str]()
    unscripted = []
    for case in node_tests():
        word = operator_of(case)
        try:
            translated = translate(case.model)
            module = module_of(translated)
            for inputs, outputs in case.data_sets:
                run(module, translated, inputs, outputs, case.rtol)
        except Exception:
            failed[word] += 1
            continue
        passed[word] += 1
        # TorchScript takes the same lines: every operator, and all that return sequences or optionals
        if scripted[word] < 2 or "seq" in case.name or "opt" in case.name:
            scripted[word] += 1
            try:
                run(torch.jit.script(module), translated, *case.data_sets[0], case.rtol)
            except Exception:
                unscripted.append(case.name)
    assert dict(failed) == NOT_IMPORTED
    total = passed.total() + failed.total()
    assert passed.total() / total >= 0.85, (passed.total(), total)
    assert set(unscripted) == NOT_SCRIPTED


def stored(folder: Path, word: str) -> list[TensorProto]:
    found = []
    for number in range(len(list(folder.glob(f"{word}_*.pb")))):
        found.append(TensorProto.FromString((folder / f"{word}_{number}.pb").read_bytes()))
    return found


def test_all_117_converted_models_give_their_stored_outputs() -> None:
    folders = sorted(DATA.glob("pytorch-*/*"))
    assert len(folders) == 117
    for folder in folders:
        translated = translate(onnx.load(folder / "model.onnx"))
        module = module_of(translated)
        for data in folder.glob("test_data_set_*"):
            run(module, translated, stored(data, "input"), stored(data, "output"), 1e-3)


def test_the_nine_networks_that_caffe2_wrote_give_their_stored_outputs() -> None:
    files = sorted(DATA.glob("light/*.onnx"))
    assert len(files) == 9
    for file in files:
        model = onnx.load(file)
        weights = {each.name for each in model.graph.initializer}
        part = next(each for each in model.graph.input if each.name not in weights)
        shape = [dim.dim_value for dim in part.type.tensor_type.shape.dim]
        # what the backend tests feed them with
        count = int(np.prod(shape))
        inputs = (np.arange(count).reshape(shape) / count).astype(np.float32)
        output = TensorProto.FromString(file.with_name(f"{file.stem}_output_0.pb").read_bytes())
        translated = translate(model)
        run(module_of(translated), translated, [inputs], [output], 1e-3)


def graph_file(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], **more: Any) -> Path:
    """Writes a model."""
    opset = more.pop("opset", 17)
    graph = helper.make_graph(nodes, "graph", inputs, outputs, more.pop("weights", []))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in more.pop("domains", []))]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def tensor(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A layer, and a reshape by what the input's shape is."""
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32), "fc.weight")
    nodes = [
        helper.make_node("MatMul", ["my input:0", "fc.weight"], ["h"]),
        helper.make_node("Shape", ["my input:0"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["h", "target"], ["y"]),
    ]
    numbers = [("zero", 0), ("axes", [0]), ("rest", [2, 2])]
    weights = [weight, *(numpy_helper.from_array(np.array(value, dtype=np.int64), name) for name, value in numbers)]
    inputs, outputs = [tensor("my input:0", "N", 6)], [tensor("y", "N", 2, 2)]
    return graph_file(tmp_path / "net.onnx", nodes, inputs, outputs, weights=weights)


@pytest.mark.parametrize("method", ["script", "trace"])
def test_an_imported_model_exports_in_any_batch_size_and_verifies(method: str, net: Path) -> None:
    made = import_model(net)
    assert made.path == Path("models/net") and "equal to ONNX Runtime on 2 inputs" in made.checked
    assert made.notes == ["input `my input:0` is called `my_input_0` here"]
    model = build_model(load_recipe(made.path))
    assert [name for name, _ in model.named_parameters()] == ["fc_weight"]
    version = export(made.path, method=method)
    assert version.contract.inputs[0].dims == ["N", 6] and version.contract.outputs[0].dims == ["N", 2, 2]
    assert version.notes[0].startswith("imported from net.onnx") and not version.contract.provenance.untrained
    assert verify(version.path).ok


def test_control_flow_stays_when_it_is_scripted_and_is_refused_when_it_is_traced(tmp_path: Path) -> None:
    branches = []
    for name, operator in (("big", "Relu"), ("small", "Neg")):
        node = helper.make_node(operator, ["x"], [f"{name}_y"])
        branches.append(helper.make_graph([node], name, [], [tensor(f"{name}_y", "N", 2)]))
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    zero = numpy_helper.from_array(np.array(0, dtype=np.float32), "zero")
    path = graph_file(tmp_path / "flow.onnx", nodes, [tensor("x", "N", 2)], [tensor("y", "N", 2)], weights=[zero])
    made = import_model(path)
    module = torch.jit.script(build_model(load_recipe(made.path)).eval())
    x = torch.tensor([[1.0, -2.0]])
    assert torch.equal(module(x), -x) and torch.equal(module(-x), torch.relu(-x))
    with pytest.raises(RefusedError, match="tracing loses the control flow"):
        export(made.path, method="trace")


def recurrent(path: Path, operator: str, gates: int, *, batch: int | str, **attributes: Any) -> Path:
    """Writes a recurrent layer of 3 for inputs of 2, with biases and a state that is an input."""
    count = 2 if attributes["direction"] == "bidirectional" else 1
    random = np.random.default_rng(1)
    shapes = {"w": (count, gates * 3, 2), "r": (count, gates * 3, 3), "b": (count, 2 * gates * 3)}
    weights = [numpy_helper.from_array(random.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    states = ["h", "c"] if operator == "LSTM" else ["h"]
    results = ["y", *(f"{name}_last" for name in states)]
    node = helper.make_node(operator, ["x", "w", "r", "b", "", *states], results, hidden_size=3, **attributes)
    inputs = [tensor("x", 5, batch, 2), *(tensor(name, count, batch, 3) for name in states)]
    outputs = [tensor("y", 5, count, batch, 3), *(tensor(name, count, batch, 3) for name in results[1:])]
    return graph_file(path, [node], inputs, outputs, weights=weights)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("operator", "gates", "more"),
    [("LSTM", 4, {}), ("LSTM", 4, {"input_forget": 1}), ("RNN", 1, {})]
    + [("GRU", 3, {"linear_before_reset": number}) for number in (0, 1)],
)
def test_recurrent_layers_equal_onnx_runtime(
    operator: str, gates: int, more: dict[str, int], direction: str, tmp_path: Path
) -> None:
    path = recurrent(tmp_path / "layer.onnx", operator, gates, batch=4, direction=direction, **more)
    if more.get("input_forget"):  # which ONNX Runtime refuses
        module = module_of(translate(onnx.load(path)))
        y, last, _ = module(torch.randn(5, 4, 2), torch.zeros(len(module.w), 4, 3), torch.zeros(len(module.w), 4, 3))
        assert y.shape == (5, len(module.w), 4, 3) and torch.equal(last[0], y[0 if direction == "reverse" else -1, 0])
        return
    made = import_model(path)
    assert "equal to ONNX Runtime" in made.checked and made.method == "script"


def test_a_state_of_another_batch_size_is_refused_and_never_read_past_its_end(tmp_path: Path) -> None:
    path = recurrent(tmp_path / "layer.onnx", "LSTM", 4, batch="N", direction="forward")
    module = torch.jit.script(module_of(translate(onnx.load(path))))
    with pytest.raises(Exception, match="a recurrent state has another shape"):
        module(torch.randn(5, 64, 2), torch.zeros(1, 1, 3), torch.zeros(1, 1, 3))


def test_axes_that_only_change_together_are_fixed_and_said(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    inputs = [tensor("a", "N", 2), tensor("b", "M", 2)]
    made = import_model(graph_file(tmp_path / "sum.onnx", nodes, inputs, [tensor("y", "K", 2)]))
    assert made.notes[0].startswith("`N`, `M`: free in the file, but another size alone fails there")
    assert export(made.path).contract.inputs[0].dims == [2, 2]


def test_no_text_of_a_file_becomes_code(tmp_path: Path) -> None:
    evil = 'x"""\n    open("pwned", "w")\n    """\\'
    nodes = [helper.make_node("Gelu", ["a\nopen('pwned', 'w')"], ["y"], approximate=f"none{evil}")]
    name = 'net""" + open("pwned", "w").name + """'
    path = graph_file(tmp_path / f"{name}.onnx", nodes, [tensor(nodes[0].input[0], 2)], [tensor("y", 2)], opset=20)
    translated = translate(onnx.load(path))
    with pytest.raises(RuntimeError, match="approximate argument must be"):  # torch's, of the whole text
        module_of(translated)(torch.zeros(2))
    nodes[0].attribute[0].s = b"tanh"
    graph_file(path, nodes, [tensor(nodes[0].input[0], 2)], [tensor("y", 2)], opset=20)
    made = import_model(path, "quoted")
    assert build_model(load_recipe(made.path))(torch.zeros(2)).tolist() == [0, 0]
    assert not Path("pwned").exists()


@pytest.mark.parametrize("word", ["epsilon", "k"])
def test_no_text_that_a_function_passes_on_becomes_code(word: str, tmp_path: Path) -> None:
    evil = "__import__('pathlib').Path('pwned').write_text('x') * 0 + 1"
    inner = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])
    if word == "k":
        inner = helper.make_node("EyeLike", ["x"], ["y"])
    kind = onnx.AttributeProto.FLOAT if word == "epsilon" else onnx.AttributeProto.INT
    inner.attribute.append(onnx.AttributeProto(name=word, ref_attr_name="g", type=kind))
    names = list(inner.input)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "Trick", names, ["y"], [inner], opsets[:1], ["g"])
    call = helper.make_node("Trick", names, ["y"], domain="own", g=evil)
    weights = [numpy_helper.from_array(np.ones(3, dtype=np.float32), name) for name in names[1:]]
    graph = helper.make_graph([call], "graph", [tensor("x", 2, 3)], [tensor("y", 2, 3)], weights)
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)
    path = tmp_path / "trick.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ForeignFileError, match=word) as error:
        import_model(path)
    assert "\n" not in error.value.message
    # nor where the checker has not seen it
    with pytest.raises(ForeignFileError, match=f"has attribute `{word}` of type STRING: expected"):
        node_of(onnx.inliner.inline_local_functions(model).graph.node[0], {"": 17})
    assert not Path("pwned").exists() and not Path("models/trick").exists()


def numbers(**given: Any) -> list[Any]:
    return [numpy_helper.from_array(np.asarray(value), name) for name, value in given.items()]


F32, I64 = np.float32, np.int64
#: node, its constants, opset, input, what ONNX Runtime gives
EDGES: dict[str, tuple[Any, list[Any], int, Any, Any]] = {
    "CumSum, exclusive, beside a large number": (
        helper.make_node("CumSum", ["x", "a"], ["y"], exclusive=1),
        numbers(a=I64(0)),
        14,
        F32([1, 1e30, 2]),
        F32([0, 1, 1e30]),
    ),
    "Slice, backwards from before the first": (
        helper.make_node("Slice", ["x", "b", "e", "a", "d"], ["y"]),
        numbers(b=I64([-9]), e=I64([-99]), a=I64([0]), d=I64([-1])),
        13,
        F32([1, 2, 3]),
        F32([1]),
    ),
    "ScatterND without indices": (
        helper.make_node("ScatterND", ["x", "i", "u"], ["y"]),
        numbers(i=np.zeros((0, 1), I64), u=np.zeros((0, 2), F32)),
        16,
        F32([[1, 2], [3, 4]]),
        F32([[1, 2], [3, 4]]),
    ),
    "GatherND of rows of nothing": (
        helper.make_node("GatherND", ["x", "i"], ["y"]),
        numbers(i=I64([[1]])),
        13,
        np.zeros((2, 0), F32),
        np.zeros((1, 0), F32),
    ),
    "Softmax of nothing": (
        helper.make_node("Softmax", ["x"], ["y"]),
        [],
        11,
        np.zeros((0, 3), F32),
        np.zeros((0, 3), F32),
    ),
    "Resize by 0.6": (
        helper.make_node(
            "Resize", ["x", "", "s"], ["y"], coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        ),
        numbers(s=F32([0.6])),
        13,
        np.arange(10, dtype=F32),
        None,
    ),
    "Resize by 1.7": (
        helper.make_node(
            "Resize", ["x", "", "s"], ["y"], coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        ),
        numbers(s=F32([1.7])),
        13,
        np.arange(40, dtype=F32),
        None,
    ),
    "Resize by 0.7 to a size that float32 rounds up": (
        helper.make_node(
            "Resize", ["x", "", "s"], ["y"], coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        ),
        numbers(s=F32([0.7])),
        13,
        np.arange(10, dtype=F32),
        None,
    ),
}


@pytest.mark.parametrize("what", EDGES)
def test_an_operator_at_its_edge_equals_onnx_runtime(what: str, tmp_path: Path) -> None:
    import onnxruntime

    node, weights, opset, given, expected = EDGES[what]
    inputs, outputs = [tensor("x", *given.shape)], [tensor("y", *["?"] * given.ndim)]
    path = graph_file(tmp_path / "edge.onnx", [node], inputs, outputs, weights=weights, opset=opset)
    (told,) = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": given})
    if expected is not None:
        np.testing.assert_array_equal(told, expected)
    translated = translate(onnx.load(path))
    for module in (module_of(translated), torch.jit.script(module_of(translated))):
        assert_same(module(torch.from_numpy(given)), told, 0, 0)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"])
def test_float8_is_cut_at_its_own_largest_number(dtype: str) -> None:
    kind = getattr(torch, dtype)
    largest = torch.finfo(kind).max
    made = torch.jit.script(quantize)(torch.tensor([-1e6, 2.0, 1e6]), torch.tensor(1.0), torch.zeros([], dtype=kind))
    assert made.to(torch.float32).tolist() == [-largest, 2.0, largest]


def sizes_net(path: Path, *nodes: Any) -> Path:
    """`y`: as many ones as `nodes` make of the length of axis 1, which is called `n`, and of whole numbers by name."""
    numbers = [("one", 1), ("two", 2), ("nine", 9), ("ten", 10), ("minus", -1), ("axis", [1]), ("row", [-1])]
    weights = [numpy_helper.from_array(np.array(value, dtype=np.int64), name) for name, value in numbers]
    ends = [helper.make_node("Reshape", ["z", "row"], ["shape"]), helper.make_node("ConstantOfShape", ["shape"], ["y"])]
    begins = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "one"], ["n"])]
    return graph_file(path, [*begins, *nodes, *ends], [tensor("x", 2, "L")], [tensor("y", "K")], weights=weights)


@pytest.mark.parametrize("method", ["script", "trace"])
def test_sizes_below_zero_are_divided_towards_zero(method: str, tmp_path: Path) -> None:
    # (n - 9) / 2 + 10, which is odd below zero for n = 8 and not for 9
    nodes = [
        helper.make_node("Sub", ["n", "nine"], ["a"]),
        helper.make_node("Div", ["a", "two"], ["b"]),
        helper.make_node("Add", ["b", "ten"], ["z"]),
    ]
    made = import_model(sizes_net(tmp_path / "net.onnx", *nodes))
    assert "equal to ONNX Runtime on 2 inputs" in made.checked
    module = build_model(load_recipe(made.path)).eval()
    example = torch.zeros(2, 8)
    whole = torch.jit.script(module) if method == "script" else torch.jit.trace(module, example)
    assert [len(whole(torch.zeros(2, n))) for n in (4, 6, 8, 9, 13)] == [8, 9, 10, 10, 12]


def test_every_free_axis_is_compared_at_a_second_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [helper.make_node("Div", ["n", "two"], ["z"])]
    path = sizes_net(tmp_path / "net.onnx", *nodes)
    assert "on 2 inputs" in import_model(path, "right").checked
    # the same for 8, and not for 9
    monkeypatch.setitem(sizes._INFIX, "Div", "{} - {} - 2")
    with pytest.raises(ParityError, match="output `y` of the imported model"):
        import_model(path, "wrong")
    assert not Path("models/wrong").exists()


@pytest.mark.parametrize("name", ["in.npz", "in.safetensors"])
def test_examples_that_cannot_be_read_are_one_sentence(name: str, net: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ForeignFileError, match=f"{name}` is no .*, or is damaged: "):
        import_model(net, examples=tmp_path / name)


@pytest.mark.parametrize("what", ["nodes", "bytes", "circle"])
def test_functions_that_double_themselves_are_refused_before_they_are_put_in_place(what: str) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    first = [helper.make_node("Relu", ["x"], ["y"])]
    if what == "bytes":
        weight = numpy_helper.from_array(np.ones(100_000, dtype=np.float32))
        first = [helper.make_node("Constant", [], ["w"], value=weight), helper.make_node("Add", ["x", "w"], ["y"])]
    bodies = [first]
    for number in range(5_000 if what == "nodes" else 14):
        inner = [("x", "h"), ("h", "y")]
        bodies.append([helper.make_node(f"F{number}", [one], [two], domain="own") for one, two in inner])
    if what == "circle":
        bodies[0] = [helper.make_node("F3", ["x"], ["y"], domain="own")]
    functions = [helper.make_function("own", f"F{i}", ["x"], ["y"], body, opsets) for i, body in enumerate(bodies)]
    call = helper.make_node(f"F{len(bodies) - 1}", ["x"], ["y"], domain="own")
    graph = helper.make_graph([call], "graph", [tensor("x", 1)], [tensor("y", 1)])
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)
    words = "calls itself" if what == "circle" else "would come to more than 1,000,000 nodes or"
    with pytest.raises(ForeignFileError, match=words):
        translate(model)


def test_all_unsupported_operators_are_named_at_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ImageDecoder", ["x"], ["a"]),
        helper.make_node("Own", ["a"], ["b"], domain="my.domain"),
        helper.make_node("Own", ["b"], ["y"], domain="my.domain"),
    ]
    path = graph_file(
        tmp_path / "strange.onnx",
        nodes,
        [tensor("x", "n", kind=TensorProto.UINT8)],
        [tensor("y", "n")],
        opset=20,
        domains=["my.domain"],
    )
    with pytest.raises(RefusedError) as error:
        import_model(path)
    assert error.value.message.endswith("are not supported: ImageDecoder (1), my.domain:Own (2)")
    assert not Path("models").exists() or not list(Path("models").glob("*/"))


def test_a_model_that_differs_is_not_written(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_TABLE", {**registry._TABLE})
    registry._TABLE["", "MatMul"] = [registry.Entry(1, template="torch.matmul({0}, {1}) * 1.01")]
    with pytest.raises(ParityError, match=r"output `y` of the imported model differs by up to .*ONNX Runtime"):
        import_model(net)
    assert not Path("models/net").exists()


def test_stored_outputs_beside_the_file_go_before_a_runtime(net: Path) -> None:
    data = net.parent / "test_data_set_0"
    data.mkdir()
    x = np.ones((3, 6), dtype=np.float32)
    weight = next(each for each in onnx.load(net).graph.initializer if each.name == "fc.weight")
    y = (x @ numpy_helper.to_array(weight)).reshape(3, 2, 2)
    (data / "input_0.pb").write_bytes(numpy_helper.from_array(x).SerializeToString())
    (data / "output_0.pb").write_bytes(numpy_helper.from_array(y).SerializeToString())
    assert import_model(net).checked == "equal to the stored outputs"
    (data / "output_0.pb").write_bytes(numpy_helper.from_array(y + 1).SerializeToString())
    with pytest.raises(ParityError, match="compared with the stored outputs"):
        import_model(net, "other")


def test_examples_of_ones_own_are_taken_by_name(net: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **{"my input:0": np.ones((3, 6), dtype=np.float32)})
    made = import_model(net, examples=tmp_path / "mine.npz")
    assert "equal to ONNX Runtime on 2 inputs" in made.checked
    assert example_inputs(load_recipe(made.path), 5)["my_input_0"].tolist() == [[1.0] * 6] * 5
    np.savez(tmp_path / "wrong.npz", **{"my input:0": np.ones((3, 5), dtype=np.float32)})
    with pytest.raises(UsageError, match=r"is torch\.float32 \[3, 5\], the graph takes torch\.float32 \['N', 6\]"):
        import_model(net, "other", examples=tmp_path / "wrong.npz")


def with_external(net: Path) -> Path:
    model = onnx.load(net)
    onnx.save_model(
        model, net, save_as_external_data=True, all_tensors_to_one_file=True, location="net.data", size_threshold=16
    )
    return net


def test_weights_in_a_file_beside_it_are_read(net: Path) -> None:
    assert "equal to ONNX Runtime" in import_model(with_external(net)).checked


def _cut(net: Path) -> None:
    net.write_bytes(net.read_bytes()[:-20])


def _text(net: Path) -> None:
    net.write_text("this is no protobuf")


def _empty(net: Path) -> None:
    net.write_bytes(b"")


def _no_weights(net: Path) -> None:
    with_external(net).with_name("net.data").unlink()


def _short_weights(net: Path) -> None:
    file = with_external(net).with_name("net.data")
    file.write_bytes(file.read_bytes()[:10])


def _change(net: Path, change: Callable[[Any], None]) -> None:
    model = onnx.load(net)
    change(model)
    net.write_bytes(model.SerializeToString())


def _outside(net: Path) -> None:
    def change(model: Any) -> None:
        entry = model.graph.initializer[0].external_data.add()
        entry.key, entry.value = "location", "../secret"
        model.graph.initializer[0].data_location = TensorProto.EXTERNAL

    _change(net, change)


WRONG: list[tuple[Callable[[Path], None], type[AuthoringError], str]] = [
    (_cut, ForeignFileError, "is no ONNX file, or is cut off"),
    (_text, ForeignFileError, "is no ONNX file"),
    (_empty, ForeignFileError, "is no ONNX file: it has no graph"),
    (_no_weights, NotFoundError, r"keeps weights in `.*net\.data`, which is not there"),
    (_short_weights, ForeignFileError, "the weights beside .* cannot be read"),
    (_outside, ForeignFileError, r"keeps weights in `\.\./secret`, which is not beside it"),
    (lambda net: _change(net, lambda m: setattr(m, "ir_version", 99)), RefusedError, "has IR version 99, the `onnx`"),
    (
        lambda net: _change(net, lambda m: setattr(m.opset_import[0], "version", 999)),
        RefusedError,
        "uses opset 999, the `onnx` package here knows up to",
    ),
    (
        lambda net: _change(net, lambda m: m.graph.initializer[0].dims.append(10**12)),
        ForeignFileError,
        "is not valid ONNX",
    ),
    (
        lambda net: _change(net, lambda m: setattr(m.graph.node[0], "op_type", "MatMal")),
        ForeignFileError,
        "is not valid ONNX",
    ),
]


@pytest.mark.parametrize("case", WRONG, ids=[f"{number}" for number in range(len(WRONG))])
def test_a_wrong_file_is_one_sentence_and_nothing_is_written(case: Any, net: Path) -> None:
    spoil, kind, message = case
    spoil(net)
    with pytest.raises(kind, match=message) as error:
        import_model(net)
    assert "\n" not in error.value.message
    assert not Path("models/net").exists()


def test_no_changed_byte_ends_in_anything_but_a_graph_or_a_sentence(net: Path) -> None:
    data = net.read_bytes()
    for position in range(len(data)):
        for value in (0, 255) if position % 3 else (7,):
            net.write_bytes(data[:position] + bytes([value]) + data[position + 1 :])
            try:
                translate(read_onnx(net))
            except AuthoringError as error:
                assert "\n" not in error.message


def test_the_command_prints_the_path_and_its_errors_are_sentences(net: Path, call_command: Any) -> None:
    code, out, err = call_command("import", str(net), "--size", "N=3")
    assert (code, out) == (0, "models/net\n")
    assert "checked equal to ONNX Runtime" in err and "next: py-authoring export net" in err
    code, _, err = call_command("import", str(net))
    assert code == 2 and err.startswith("error: `models/net` is there already")
    code, _, err = call_command("import", str(net), "--name", "b", "--size", "M=3")
    assert code == 2 and "error: no free axis is called `M`; there: N" in err
    code, _, err = call_command("import", "nothing.onnx")
    assert (code, err) == (2, "error: `nothing.onnx` is not there\n")


def test_without_the_extra_the_command_says_what_to_install(net: Path) -> None:
    code = (
        "import sys\nfrom importlib import util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == 'onnx' else find(name, *a)\n"
        "from py_authoring.cli import main\nmain(['import', sys.argv[1]])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    done = subprocess.run([sys.executable, "-c", code, str(net)], capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "needs the Python package `onnx`" in done.stderr
