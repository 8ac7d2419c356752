"""Torch7 files: the real ones, both encodings, every module beside torch, and files that would do harm."""

from __future__ import annotations

import importlib.util
import re
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from py_authoring.errors import AuthoringError, RefusedError
from py_authoring.importing import import_model
from py_authoring.importing.errors import ForeignFileError
from py_authoring.importing.torch7 import writing
from py_authoring.importing.torch7.draft import draft_torch7
from py_authoring.importing.torch7.reader import Function, Object, Reader, Table, read_t7
from py_authoring.importing.torch7.writing import supported
from py_authoring.model_file import build_model
from py_authoring.recipe import load_recipe

REAL = Path(__file__).resolve().parents[4] / "shared/real/t7"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not here")

Make = Callable[..., Any]


@needs_real
def test_every_real_file_is_read() -> None:
    read = {file.stem: read_t7(file) for file in sorted(REAL.glob("*.t7"))}
    assert len(read) == 15
    assert isinstance(read["hello=123"], Table) and read["hello=123"]["hello"] == 123
    assert read["doubletensor"].shape == (2, 3) and read["doubletensor"].dtype == torch.float64
    assert read["floattensor"].shape == (2, 3, 4) and read["floattensor"].dtype == torch.float32
    assert read["list_table"].list() == ["hello", "world", "third item", 123]
    assert read["map_table1"][0] == "zero" and read["map_table2"]["a"] == "non number key"
    assert dict(read["tds_hash"].fields) == {1: 2, 2: 3, 10: 11} and read["tds_vec"].fields.list() == [123, 456]
    assert read["recursive_class"].fields["a"] is read["recursive_class"]
    assert read["recursive_kv_table"][read["recursive_kv_table"]] is read["recursive_kv_table"]
    assert read["function"] == Function(218) and read["function_upvals"] == Function(89)
    assert read["custom_class"].name == "Blah" and read["nngraph_node"].name == "nngraph.Node"


@needs_real
def test_the_real_nngraph_module_becomes_a_model() -> None:
    file = REAL / "gmodule_with_linear_identity.t7"
    made = import_model(file, "graph", shape="2x1,2x2")
    model = build_model(load_recipe(made.path))
    linear = next(each for each in read_t7(file).get("modules").list() if each.name == "nn.Linear")
    one, two = torch.randn(5, 1).double(), torch.randn(5, 2).double()
    expected = F.linear(one, linear.get("weight"), linear.get("bias")) + two
    torch.testing.assert_close(model(one, two), expected)
    assert (
        made.method == "script" and 'dynamic = { input_1 = { 0 = "batch" }' in (made.path / "recipe.toml").read_text()
    )


@pytest.mark.parametrize("ascii", [False, True])
def test_every_kind_of_value_is_read_in_both_encodings(ascii: bool, write_t7: Make, nn: Make, storage: Any) -> None:
    shared = {"x": 1}
    tensors = [torch.arange(6).reshape(2, 3).to(dtype) for dtype in (torch.float64, torch.float32, torch.int64)]
    tensors += [torch.tensor([1, 2, 100]).to(dtype) for dtype in (torch.int32, torch.int16, torch.int8, torch.uint8)]
    value = {"n": None, "t": True, "i": 3, "f": 0.1, "s": "zeile\n ä", "a": shared, "b": shared, "tensors": tensors}
    value |= {"object": nn("Thing", p=0.5), "sizes": storage(torch.tensor([4, 5])), "empty": torch.zeros(0)}
    value |= {"inf": float("inf"), "nan": float("nan")}
    read = read_t7(write_t7(value, ascii=ascii))
    assert "n" in read and read["n"] is None
    assert (read["t"], read["i"], read["f"], read["s"]) == (True, 3, 0.1, "zeile\n ä")
    assert read["a"] is read["b"] and read["inf"] == float("inf") and read["nan"] != read["nan"]
    assert all(torch.equal(got, given) for got, given in zip(read["tensors"].list(), tensors, strict=True))
    assert read["object"].name == "nn.Thing" and read["object"].get("p") == 0.5
    assert read["sizes"].tolist() == [4, 5] and read["empty"].numel() == 0


def test_a_cuda_tensor_is_read_as_what_it_holds(write_t7: Make) -> None:
    path = write_t7(torch.tensor([1.0, 2.0]), name="cuda.t7")
    data = path.read_bytes().replace(b"\x11\0\0\0torch.FloatTensor", b"\x10\0\0\0torch.CudaTensor")
    data = data.replace(b"\x12\0\0\0torch.FloatStorage", b"\x11\0\0\0torch.CudaStorage")
    assert Reader(data).read().tolist() == [1.0, 2.0]


# module, its fields or children, input, what torch makes of it
W23, B3, X = torch.randn(3, 2), torch.randn(3), torch.randn(4, 2)
IMAGE, KERNEL = torch.randn(2, 4, 7, 6), torch.randn(5, 4, 3, 2)
MEAN, VAR = torch.randn(4), torch.rand(4) + 0.5
SERIES = torch.randn(2, 9, 3)
IMAGES = [IMAGE, torch.randn(2, 4, 7, 6)]
ROWS = [torch.rand(4, 3) + 0.5, torch.rand(4, 3) + 0.5]
BOTH = [torch.randn(4, 2), torch.randn(4, 2)]
CONV = {"nInputPlane": 4, "nOutputPlane": 5, "kH": 3, "kW": 2, "dH": 2, "dW": 1, "padH": 1, "padW": 0}


def _long(*sizes: int) -> tuple[str, list[int]]:
    return ("sizes", list(sizes))


def _cases() -> list[tuple[str, dict[str, Any], Any, Any]]:
    full = torch.randn(4, 5, 3, 2)
    volume, deep = torch.randn(2, 3, 2, 2, 2), torch.randn(2, 3, 4, 5, 5)
    time = torch.randn(5, 6)
    table = torch.randn(7, 3)
    numbers = torch.tensor([[1, 7], [3, 2]])
    wide = torch.randn(2, 6, 4, 4)
    return [
        ("Identity", {}, X, X),
        ("Copy", {}, X, X),
        ("Contiguous", {}, X, X),
        ("GradientReversal", {}, X, X),
        ("SpatialDropout", {"p": 0.25, "v2": True}, IMAGE, IMAGE * 0.75),
        ("VolumetricDropout", {}, deep, deep * 0.5),
        ("WhiteNoise", {"mean": 0, "std": 1}, X, X),
        ("WhiteNoise", {"mean": 0.5, "std": 1}, X, X + 0.5),
        ("Dropout", {"p": 0.25, "v2": True}, X, X),
        ("Dropout", {"p": 0.25, "v2": False}, X, X * 0.75),
        ("Linear", {"weight": W23, "bias": B3}, X, F.linear(X, W23, B3)),
        ("Linear", {"weight": W23}, X, F.linear(X, W23)),
        ("LinearNoBias", {"weight": W23}, X, F.linear(X, W23)),
        ("Mul", {"weight": torch.tensor([3.0])}, X, X * 3),
        ("Add", {"bias": torch.tensor([1.0, 2.0])}, X, X + torch.tensor([1.0, 2.0])),
        ("CAdd", {"bias": torch.tensor([[1.0, 2.0]])}, X, X + torch.tensor([[1.0, 2.0]])),
        ("CMul", {"weight": torch.tensor([[1.0, 2.0]])}, X, X * torch.tensor([[1.0, 2.0]])),
        (
            "SpatialConvolution",
            {**CONV, "weight": KERNEL, "bias": torch.arange(5.0)},
            IMAGE,
            F.conv2d(IMAGE, KERNEL, torch.arange(5.0), (2, 1), (1, 0)),
        ),
        (
            "SpatialConvolutionMM",
            {**CONV, "weight": KERNEL.reshape(5, -1)},
            IMAGE,
            F.conv2d(IMAGE, KERNEL, None, (2, 1), (1, 0)),
        ),
        (
            "cudnn.SpatialConvolution",
            {**CONV, "groups": 2, "nOutputPlane": 6, "weight": torch.ones(6, 2, 3, 2)},
            IMAGE,
            F.conv2d(IMAGE, torch.ones(6, 2, 3, 2), None, (2, 1), (1, 0), groups=2),
        ),
        (
            "SpatialDilatedConvolution",
            {**CONV, "dilationH": 2, "dilationW": 1, "weight": KERNEL, "bias": torch.arange(5.0)},
            IMAGE,
            F.conv2d(IMAGE, KERNEL, torch.arange(5.0), (2, 1), (1, 0), (2, 1)),
        ),
        (
            "SpatialFullConvolution",
            {**CONV, "adjH": 1, "adjW": 0, "weight": full, "bias": torch.arange(5.0)},
            IMAGE,
            F.conv_transpose2d(IMAGE, full, torch.arange(5.0), (2, 1), (1, 0), (1, 0)),
        ),
        (
            "VolumetricConvolution",
            {"nInputPlane": 3, "nOutputPlane": 2, "kT": 2, "kH": 2, "kW": 2, "padT": 1, "weight": volume},
            deep,
            F.conv3d(deep, volume, None, 1, (1, 0, 0)),
        ),
        (
            "TemporalConvolution",
            {"inputFrameSize": 3, "outputFrameSize": 5, "kW": 2, "dW": 2, "weight": time, "bias": torch.arange(5.0)},
            SERIES,
            torch.stack([F.linear(SERIES[:, t : t + 2].flatten(1), time, torch.arange(5.0)) for t in (0, 2, 4, 6)], 1),
        ),
        (
            "TemporalMaxPooling",
            {"kW": 3, "dW": 2},
            SERIES,
            torch.stack([SERIES[:, t : t + 3].amax(1) for t in (0, 2, 4, 6)], 1),
        ),
        (
            "SpatialMaxPooling",
            {"kH": 3, "kW": 2, "dH": 2, "dW": 2, "padH": 1, "padW": 0, "ceil_mode": True},
            IMAGE,
            torch.nn.MaxPool2d((3, 2), 2, (1, 0), ceil_mode=True)(IMAGE),
        ),
        (
            "SpatialAveragePooling",
            {"kH": 3, "kW": 2, "dH": 2, "dW": 2, "padH": 1, "padW": 1, "count_include_pad": False},
            IMAGE,
            torch.nn.AvgPool2d((3, 2), 2, 1, count_include_pad=False)(IMAGE),
        ),
        (
            "SpatialAveragePooling",
            {"kH": 3, "kW": 2, "dH": 1, "dW": 1, "divide": False},
            IMAGE,
            torch.nn.AvgPool2d((3, 2), 1)(IMAGE) * 6,
        ),
        ("SpatialAdaptiveMaxPooling", {"H": 3, "W": 2}, IMAGE, torch.nn.AdaptiveMaxPool2d((3, 2))(IMAGE)),
        ("SpatialAdaptiveAveragePooling", {"H": 3, "W": 2}, IMAGE, torch.nn.AdaptiveAvgPool2d((3, 2))(IMAGE)),
        (
            "SpatialZeroPadding",
            {"pad_l": 1, "pad_r": 2, "pad_t": 0, "pad_b": -1},
            IMAGE,
            torch.nn.ZeroPad2d((1, 2, 0, -1))(IMAGE),
        ),
        (
            "SpatialReflectionPadding",
            {"pad_l": 1, "pad_r": 2, "pad_t": 0, "pad_b": 1},
            IMAGE,
            torch.nn.ReflectionPad2d((1, 2, 0, 1))(IMAGE),
        ),
        (
            "SpatialReplicationPadding",
            {"pad_l": 1, "pad_r": 2, "pad_t": 0, "pad_b": 1},
            IMAGE,
            torch.nn.ReplicationPad2d((1, 2, 0, 1))(IMAGE),
        ),
        (
            "Padding",
            {"dim": 1, "pad": -2, "nInputDim": 1, "value": 7},
            X,
            torch.cat([torch.full((4, 2), 7.0), X], 1),
        ),
        (
            "Padding",
            {"dim": 1, "pad": -2, "nInputDim": 3, "value": float("-inf"), "index": 2},
            IMAGE,
            torch.cat([IMAGE[:, :1], torch.full((2, 2, 7, 6), float("-inf")), IMAGE[:, 1:]], 1),
        ),
        (
            "Padding",
            {"dim": 2, "pad": 3, "value": 7, "index": 2},
            IMAGE,
            torch.cat([IMAGE[:, :3], torch.full((2, 3, 7, 6), 7.0), IMAGE[:, 3:]], 1),
        ),
        (
            "SpatialUpSamplingNearest",
            {"scale_factor": 2},
            IMAGE,
            IMAGE.repeat_interleave(2, -1).repeat_interleave(2, -2),
        ),
        (
            "SpatialUpSamplingBilinear",
            {"oheight": 9, "owidth": 11},
            IMAGE,
            torch.nn.Upsample((9, 11), mode="bilinear", align_corners=True)(IMAGE),
        ),
        (
            "SpatialBatchNormalization",
            {"running_mean": MEAN, "running_var": VAR, "weight": VAR, "bias": MEAN, "eps": 1e-3},
            IMAGE,
            (IMAGE - MEAN[:, None, None]) / (VAR[:, None, None] + 1e-3).sqrt() * VAR[:, None, None]
            + MEAN[:, None, None],
        ),
        (
            "BatchNormalization",
            {"running_mean": MEAN, "running_std": (VAR + 1e-3) ** -0.5, "eps": 1e-3},
            torch.ones(3, 4),
            (1 - MEAN).expand(3, 4) / (VAR + 1e-3).sqrt(),
        ),
        (
            "VolumetricBatchNormalization",
            {"running_mean": MEAN[:3], "running_var": VAR[:3]},
            deep,
            torch.nn.functional.batch_norm(deep, MEAN[:3], VAR[:3]),
        ),
        (
            "SpatialCrossMapLRN",
            {"size": 3, "alpha": 0.1, "beta": 0.6, "k": 2},
            wide,
            torch.nn.LocalResponseNorm(3, 0.1, 0.6, 2)(wide),
        ),
        ("Normalize", {"p": 2}, X, F.normalize(X, dim=-1)),
        ("Normalize", {"p": 1}, X, X / X.abs().sum(-1, keepdim=True)),
        ("Normalize", {"p": float("inf")}, X, X / X.abs().amax(-1, keepdim=True)),
        ("Threshold", {"threshold": 0.1, "val": -2}, X, torch.nn.Threshold(0.1, -2)(X)),
        ("ReLU", {}, X, torch.nn.ReLU()(X)),
        ("ReLU6", {}, X * 9, torch.nn.ReLU6()(X * 9)),
        ("LeakyReLU", {"negval": 0.2}, X, torch.nn.LeakyReLU(0.2)(X)),
        ("RReLU", {"lower": 0.1, "upper": 0.3}, X, torch.nn.LeakyReLU(0.2)(X)),
        ("PReLU", {"weight": torch.tensor([0.3, 0.6])}, X, torch.where(X < 0, X * torch.tensor([0.3, 0.6]), X)),
        ("ELU", {"alpha": 0.7}, X, torch.nn.ELU(0.7)(X)),
        ("Tanh", {}, X, torch.nn.Tanh()(X)),
        ("Sigmoid", {}, X, torch.nn.Sigmoid()(X)),
        ("LogSigmoid", {}, X, torch.nn.LogSigmoid()(X)),
        ("SoftSign", {}, X, torch.nn.Softsign()(X)),
        ("TanhShrink", {}, X, torch.nn.Tanhshrink()(X)),
        ("HardTanh", {"min_val": -0.5, "max_val": 0.2}, X, torch.nn.Hardtanh(-0.5, 0.2)(X)),
        ("Clamp", {"min_val": -0.5, "max_val": 0.2}, X, X.clamp(-0.5, 0.2)),
        ("HardTanh", {"min_val": 0, "max_val": float("inf")}, X, X.clamp(min=0)),
        ("HardShrink", {"lambda": 0.3}, X, torch.nn.Hardshrink(0.3)(X)),
        ("SoftShrink", {"lambda": 0.3}, X, torch.nn.Softshrink(0.3)(X)),
        ("SoftPlus", {"beta": 2, "threshold": 20}, X, torch.nn.Softplus(2)(X)),
        ("SoftMax", {}, X, torch.nn.Softmax(1)(X)),
        ("LogSoftMax", {}, IMAGE, torch.nn.LogSoftmax(1)(IMAGE)),
        ("SoftMin", {}, X, torch.nn.Softmin(1)(X)),
        ("SpatialSoftMax", {}, IMAGE, torch.nn.Softmax(1)(IMAGE)),
        ("SpatialLogSoftMax", {}, IMAGE, torch.nn.LogSoftmax(1)(IMAGE)),
        ("Abs", {}, X, X.abs()),
        ("Square", {}, X, X**2),
        ("Sqrt", {}, X.abs(), X.abs().sqrt()),
        ("Exp", {}, X, X.exp()),
        ("Log", {}, X.abs() + 1, (X.abs() + 1).log()),
        ("Power", {"pow": 3}, X, X**3),
        ("MulConstant", {"constant_scalar": 2.5}, X, X * 2.5),
        ("AddConstant", {"constant_scalar": 2.5}, X, X + 2.5),
        ("LookupTable", {"weight": table}, numbers, table[numbers - 1]),
        ("View", {"size": _long(168), "numElements": 168}, IMAGE, IMAGE.flatten(1)),
        ("View", {"size": _long(-1), "numInputDims": 3}, IMAGE, IMAGE.flatten(1)),
        ("View", {"size": _long(4, 42), "numInputDims": 3}, IMAGE, IMAGE.flatten(2)),
        ("Reshape", {"size": _long(42, 4)}, IMAGE, IMAGE.reshape(2, 42, 4)),
        ("Reshape", {"size": _long(8), "batchMode": False}, X, X.reshape(8)),
        ("Squeeze", {}, IMAGE[:, :1], IMAGE[:, 0]),
        ("Squeeze", {"dim": 1, "numInputDims": 3}, IMAGE[:, :1], IMAGE[:, 0]),
        ("Unsqueeze", {"pos": 1, "numInputDims": 1}, X, X.unsqueeze(1)),
        ("Transpose", {"permutations": [[2, 3], [3, 4]]}, IMAGE, IMAGE.permute(0, 2, 3, 1)),
        ("Select", {"dimension": 2, "index": 2}, IMAGE, IMAGE[:, 1]),
        ("Select", {"dimension": 2, "index": -1}, IMAGE, IMAGE[:, -1]),
        ("Narrow", {"dimension": 2, "index": 2, "length": 2}, IMAGE, IMAGE[:, 1:3]),
        ("Narrow", {"dimension": 2, "index": 2, "length": -2}, IMAGE, IMAGE[:, 1:3]),
        ("Replicate", {"nfeatures": 3, "dim": 2}, X, X.unsqueeze(1).expand(4, 3, 2)),
        ("Mean", {"dimension": 1, "nInputDims": 3}, IMAGE, IMAGE.mean(1)),
        ("Sum", {"dimension": 2}, X, X.sum(1)),
        ("Sum", {"dimension": 2, "sizeAverage": True}, X, X.mean(1)),
        ("Max", {"dimension": 2}, X, X.amax(1)),
        ("Min", {"dimension": 2}, X, X.amin(1)),
        ("CAddTable", {}, BOTH, BOTH[0] + BOTH[1]),
        ("CSubTable", {}, BOTH, BOTH[0] - BOTH[1]),
        ("CMulTable", {}, BOTH, BOTH[0] * BOTH[1]),
        ("CDivTable", {}, ROWS, ROWS[0] / ROWS[1]),
        ("CMaxTable", {}, BOTH, torch.maximum(*BOTH)),
        ("CMinTable", {}, BOTH, torch.minimum(*BOTH)),
        ("JoinTable", {"dimension": 1, "nInputDims": 1}, BOTH, torch.cat(BOTH, 1)),
        ("JoinTable", {"dimension": 2}, IMAGES, torch.cat(IMAGES, 1)),
        ("SplitTable", {"dimension": 2}, X, [X[:, 0], X[:, 1]]),
        ("SelectTable", {"index": -1}, BOTH, BOTH[1]),
        ("NarrowTable", {"offset": 2, "length": 1}, BOTH, BOTH[1]),
        ("MM", {"transB": True}, BOTH, BOTH[0] @ BOTH[1].T),
        ("DotProduct", {}, BOTH, (BOTH[0] * BOTH[1]).sum(1)),
    ]


CASES = _cases()
CONTAINERS = {"Sequential", "Concat", "ConcatTable", "ParallelTable", "MapTable", "FlattenTable", "DepthConcat"}
CONTAINERS |= {"Parallel", "gModule"}


def test_every_supported_module_has_a_case() -> None:
    assert {name.rpartition(".")[2] for name, *_ in CASES} | CONTAINERS == set(supported())


@pytest.mark.parametrize("ascii", [False, True], ids=["binary", "ascii"])
@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case[0]}" for number, case in enumerate(CASES)])
def test_a_module_gives_what_torch_gives(case: Any, ascii: bool, write_t7: Make, nn: Make, storage: Any) -> None:
    name, fields, inputs, expected = case
    given = {
        key: storage(torch.tensor(value[1])) if isinstance(value, tuple) else value for key, value in fields.items()
    }
    run(write_t7(nn(name, **given), ascii=ascii), inputs, expected)


def run(path: Path, inputs: Any, expected: Any) -> None:
    """Imports a file's lines and compares with what is expected, within 1e-5."""
    every = inputs if isinstance(inputs, list) else [inputs]
    draft = draft_torch7(path, ",".join("x".join(map(str, x.shape)) for x in every))
    known = {name: x.clone() for name, x in zip(draft.inputs, every, strict=True)}
    space = draft.source.run({"torch": torch, "F": F, **known})
    outputs = [space[text] for text in draft.outputs]
    right = expected if isinstance(expected, list) else [expected]
    assert len(outputs) == len(right)
    for got, want in zip(outputs, right, strict=True):
        assert isinstance(got, Tensor)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ascii", [False, True], ids=["binary", "ascii"])
def test_containers_run_their_children_in_order(ascii: bool, write_t7: Make, nn: Make) -> None:
    linear = nn("Linear", weight=W23, bias=B3)
    double, more = nn("MulConstant", constant_scalar=2), nn("AddConstant", constant_scalar=1)
    both = nn("ConcatTable", [nn("Sequential", [double, more]), nn("Identity")])
    y = X * 2 + 1
    for container, given, expected in [
        (nn("Sequential", [linear, nn("ReLU")]), X, torch.relu(F.linear(X, W23, B3))),
        (nn("Concat", [double, more], dimension=2), X, torch.cat([X * 2, X + 1], 1)),
        (nn("DepthConcat", [double, more], dimension=2), X, torch.cat([X * 2, X + 1], 1)),
        (both, X, [y, X]),
        (nn("Sequential", [both, nn("ParallelTable", [more, double])]), X, [y + 1, X * 2]),
        (nn("Sequential", [both, nn("MapTable", [double])]), X, [y * 2, X * 2]),
        (nn("Sequential", [nn("ConcatTable", [both, more]), nn("FlattenTable")]), X, [y, X, X + 1]),
        (nn("Parallel", [double, more], inputDimension=2, outputDimension=1), X, torch.cat([X[:, 0] * 2, X[:, 1] + 1])),
        (nn("Sequential", [both, nn("CAddTable")]), X, y + X),
    ]:
        run(write_t7(container, ascii=ascii), given, expected)


def test_weights_that_modules_share_are_stored_once(write_t7: Make, nn: Make) -> None:
    square, bias = torch.randn(2, 2), torch.zeros(2)
    net = nn("Sequential", [nn("Linear", weight=square, bias=bias), nn("Tanh"), nn("Linear", weight=square, bias=bias)])
    path = write_t7(net)
    draft = draft_torch7(path, None)
    assert len(draft.source.tensors) == 2
    run(path, X, torch.tanh(X @ square.T) @ square.T)


def test_stored_outputs_are_compared(write_t7: Make, nn: Make) -> None:
    hidden = F.linear(X, W23, B3)
    layers = [nn("Linear", weight=W23, bias=B3, output=hidden), nn("Tanh", output=torch.tanh(hidden))]
    assert "1 of 1 stored outputs" in import_model(write_t7(nn("Sequential", layers)), "good").checked
    layers[1].fields["output"] = torch.tanh(hidden) + 0.1
    with pytest.raises(AuthoringError, match=r"module nn\.Tanh makes of its stored input differs by up to 0\.1"):
        import_model(write_t7(nn("Sequential", layers)), "bad")
    assert not Path("models/bad").exists()


def test_all_unsupported_modules_are_named_at_once(write_t7: Make, nn: Make) -> None:
    net = nn("Sequential", [nn("Bilinear"), nn("Linear", weight=W23), nn("Bilinear"), nn("my.Layer")])
    with pytest.raises(RefusedError, match=r"2 modules of the file are not supported: my\.Layer \(1\), nn\.Bilinear"):
        import_model(write_t7(net))


def test_a_file_without_a_network_says_what_it_holds(write_t7: Make) -> None:
    with pytest.raises(RefusedError, match="holds a tensor, and no network of nn modules"):
        import_model(write_t7(torch.zeros(2)))


def test_a_shape_that_is_not_known_is_asked_for(write_t7: Make, nn: Make) -> None:
    path = write_t7(nn("Sequential", [nn("SpatialConvolution", **CONV, weight=KERNEL)]))
    with pytest.raises(AuthoringError, match="does not say what shape its input has"):
        import_model(path)
    with pytest.raises(
        ForeignFileError, match=r"nn\.SpatialConvolution does not take an input of shape \[2, 3, 7, 6\]"
    ):
        import_model(path, shape="2x3x7x6")


@pytest.mark.parametrize("ascii", [False, True], ids=["binary", "ascii"])
def test_a_file_cut_anywhere_is_a_sentence(ascii: bool, write_t7: Make, nn: Make, tmp_path: Path) -> None:
    data = write_t7(nn("Sequential", [nn("Linear", weight=W23, bias=B3)]), ascii=ascii).read_bytes()
    for end in range(0, len(data) - (2 if ascii else 1), 3):
        (tmp_path / "cut.t7").write_bytes(data[:end])
        with pytest.raises(ForeignFileError, match="is no Torch7 file, or is damaged"):
            read_t7(tmp_path / "cut.t7")


def test_no_changed_byte_ends_in_anything_but_a_value_or_a_sentence(write_t7: Make, nn: Make, tmp_path: Path) -> None:
    data = write_t7(nn("Sequential", [nn("Linear", weight=W23, bias=B3)])).read_bytes()
    for position in range(0, len(data), 2):
        for value in (0, 3, 255):
            changed = data[:position] + bytes([value]) + data[position + 1 :]
            (tmp_path / "changed.t7").write_bytes(changed)
            try:
                draft_torch7(tmp_path / "changed.t7", None)
            except AuthoringError as error:
                assert str(error)


def _int(value: int) -> bytes:
    return struct.pack("<i", value)


HOSTILE = {
    "a table of two thousand million pairs": _int(3) + _int(1) + _int(2**31 - 1),
    "a table of minus one pair": _int(3) + _int(1) + _int(-1),
    "a text of two gigabytes": _int(2) + _int(2**31 - 1) + b"x",
    "a storage of 2⁶² numbers": b"".join(
        [_int(4), _int(1), _int(3), b"V 1", _int(19), b"torch.DoubleStorage", struct.pack("<q", 2**62)]
    ),
    "a tensor larger than its storage": b"".join(
        [
            *(_int(4), _int(1), _int(3), b"V 1", _int(18), b"torch.DoubleTensor", _int(2)),
            struct.pack("<5q", 10**6, 10**6, 0, 0, 1),
            *(_int(4), _int(2), _int(3), b"V 1", _int(19), b"torch.DoubleStorage"),
            struct.pack("<qd", 1, 0.0),
        ]
    ),
    "a tensor of a million dimensions": b"".join(
        [_int(4), _int(1), _int(3), b"V 1", _int(18), b"torch.DoubleTensor", _int(10**6)]
    ),
    "a million tables, each in the other": b"".join(_int(3) + _int(number) + _int(1) for number in range(1, 10**6)),
    "a kind that does not exist": _int(9),
    "nothing": b"",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(40),
    "an ascii number of a megabyte": b"1\n" + b"7" * 10**6,
    "an ascii tensor with a stride beyond 64 bits": b"4\n1\n3\nV 1\n18\ntorch.DoubleTensor\n1\n1\n%d\n1\n" % 2**70
    + b"4\n2\n3\nV 1\n19\ntorch.DoubleStorage\n1\n0.5\n",
    "an ascii table of many pairs": b"3\n1\n999999999\n1\n1\n",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_costs_no_more_than_its_length(what: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.t7"
    path.write_bytes(HOSTILE[what])
    tracemalloc.start()
    try:
        with pytest.raises(ForeignFileError, match="is no Torch7 file, or is damaged"):
            read_t7(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20


def test_a_network_that_asks_for_more_memory_than_there_is_is_refused(write_t7: Make, nn: Make) -> None:
    net = nn("Sequential", [nn("Linear", weight=W23), nn("Replicate", nfeatures=10**9, dim=2), nn("Exp")])
    with pytest.raises(ForeignFileError, match="would make a tensor of shape"):
        draft_torch7(write_t7(net), None)


@pytest.mark.parametrize("what", ["modules", "slices", "tables"])
def test_a_small_file_that_doubles_itself_is_refused(
    what: str, write_t7: Make, nn: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_MOST", 2000)
    net = nn("Tanh")
    for _ in range(40 if what == "modules" else 0):
        net = nn("Sequential", [net, net])
    if what == "slices":
        net = nn("Sequential", [nn("Replicate", nfeatures=2**28, dim=1), nn("SplitTable", dimension=1)])
    if what == "tables":
        doubling = [nn("ConcatTable", [nn("Identity"), nn("Identity")]) for _ in range(40)]
        net = nn("Sequential", [*doubling, nn("FlattenTable")])
    with pytest.raises(ForeignFileError, match="would become more than 2,000 lines and runs of modules"):
        draft_torch7(write_t7(net), "1")


def test_functions_are_skipped_and_said(write_t7: Make, nn: Make, tmp_path: Path) -> None:
    path = write_t7(nn("Linear", weight=W23, bias=B3, hook="FUNCTION"))
    text = _int(2) + _int(8) + b"FUNCTION"
    function = _int(8) + _int(99) + _int(4) + b"\x1bLJ\x01" + _int(0)
    (tmp_path / "hook.t7").write_bytes(path.read_bytes().replace(text, function))
    found = read_t7(tmp_path / "hook.t7")
    assert isinstance(found, Object) and found.get("hook") == Function(4)
    assert "1 Lua functions" in draft_torch7(tmp_path / "hook.t7", None).notes[0]


def test_the_page_lists_every_module_and_operator() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/import.md").read_text()
    quoted = [block for block in page.split("\n\n") if block.startswith("> ")]
    listed = [re.findall(r"[\w.:]+", block) for block in quoted]
    assert sorted(listed[1]) == supported()
    if importlib.util.find_spec("onnx") is not None:
        from py_authoring.importing.onnx import registry

        assert listed[0] == registry.names()
