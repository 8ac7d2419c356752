"""ONNX files through the wheel: the numbers of onnxruntime, what Python sees, and what it is told."""

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import rust_host

# Its own copy of the library would report to its maker, from a thread: see docs/onnx.md.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: `uv sync --extra onnx`")

DATA = Path(__file__).resolve().parents[2] / "rust_host/backends/onnx/tests/data"


def reference(path: Path) -> "onnxruntime.InferenceSession":
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = rust_host.threads()
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def assert_same_bits(path: Path, inputs: dict[str, np.ndarray]) -> None:
    session = reference(path)
    wanted = dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs), strict=True))
    got = rust_host.Model(path).run(inputs)
    assert sorted(got) == sorted(wanted)
    for name, array in wanted.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
        assert got[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("batch", [0, 1, 2, 33])
def test_the_numbers_are_those_of_onnxruntime(batch):
    x = np.random.default_rng(0).standard_normal((batch, 4)).astype(np.float32)
    assert_same_bits(DATA / "product.onnx", {"x": x})
    assert_same_bits(DATA / "contract.onnx", {"a": x, "b": x[::-1] * 3}) if batch else None
    assert_same_bits(DATA / "sum.onnx", {"a": x, "b": x[:, :1].repeat(4, 1)})


@pytest.mark.filterwarnings("ignore")
def test_a_network_that_torch_exports_gives_the_same_numbers_at_every_batch_size(tmp_path):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: `uv sync --extra onnx`")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 13 * 13, 10)).eval()
    path = tmp_path / "net.onnx"
    batch = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(
        net,
        (torch.rand(2, 1, 28, 28),),
        path,
        dynamo=True,
        verbose=False,
        input_names=["image"],
        output_names=["scores"],
        dynamic_shapes=batch,
        external_data=False,
    )
    model = rust_host.Model(path)
    assert model.inputs[0] | {"type": "Tensor"} == model.inputs[0]
    assert (model.inputs[0]["name"], model.inputs[0]["shape"]) == ("image", [-1, 1, 28, 28])
    for size in (1, 2, 7):
        image = torch.rand(size, 1, 28, 28)
        assert_same_bits(path, {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(model(image)), net(image).detach(), rtol=1e-4, atol=1e-5)


def test_lists_maps_and_texts_are_those_of_python():
    scores = rust_host.Model(DATA / "maps.onnx")(np.full((2, 4), 0.25, np.float32))
    assert scores == [{10: 0.25, 11: 0.25, 12: 0.25, 13: 0.25}] * 2
    texts = rust_host.Model(DATA / "texts.onnx")
    rows = [["a", ""], ["dé", "b b"]]
    assert texts(rows) == rows
    assert texts(np.array(rows)) == texts(np.array(rows, object)) == rows
    many = rust_host.Model(DATA / "many.onnx")
    assert many([np.ones(1, np.float32), np.zeros(2, np.float32)]).tolist() == [1, 0, 0]


def test_without_a_contract_the_graph_says_what_goes_in_and_out():
    model = rust_host.Model(DATA / "product.onnx")
    assert model.contract is None
    assert model.inputs == [{"name": "x", "datatype": "FP32", "shape": [-1, 4], "dims": ["batch", 4], "type": "Tensor"}]
    assert model.outputs[0]["name"] == "y"
    assert list(model.run({"x": [[1, 2, 3, 4]]})) == ["y"]  # numbers of a list take the graph's datatype
    assert model([[1, 2, 3, 4]]).tolist() == [[60, 70, 80]]
    several = rust_host.Model(DATA / "same.onnx")(np.ones((1, 4), np.float32))
    assert several.x.tolist() == several.y.tolist() == [[1, 1, 1, 1]]


def test_a_contract_and_its_golden_examples_are_in_the_notes():
    model = rust_host.Model(DATA / "contract.onnx")
    assert (model.contract["name"], [i["name"] for i in model.inputs]) == ("difference", ["a", "b"])
    a, b = np.arange(4, dtype=np.float32)[None], np.full((1, 4), 2, np.float32)
    result = model(a, b)
    assert list(result) == ["minus", "times"]
    assert result["minus"].tolist() == [[-2, -1, 0, 1]]
    assert list(model.run({"b": b, "a": a})) == ["difference", "product"]
    assert model.verify()
    assert not rust_host.Model(DATA / "drifted.onnx").verify()
    with pytest.raises(rust_host.InvalidInputError, match="`batch` is 2 in input `b` and 1 in input `a`"):
        model(a, b.repeat(2, 0))


def test_results_are_the_callers_own_and_outlive_the_model():
    model = rust_host.Model(DATA / "same.onnx")
    x = np.ones((2, 4), np.float32)
    first = model(x)
    first.x[:] = 7
    first.y[:] = 8
    assert x.tolist() == model(x).y.tolist() == [[1] * 4] * 2
    assert (first.x == 7).all()
    assert (first.y == 8).all()
    del model
    gc.collect()
    assert (first.y == 8).all()


def test_threads_may_call_one_model_at_once():
    model, wrong = rust_host.Model(DATA / "product.onnx"), []

    def calls(start: int) -> None:
        for n in range(start, start + 500):
            y = model(np.array([[n, 0, 0, 1]], np.float32))
            wrong.extend([n] if y.tolist() != [[9, n + 10, 2 * n + 11]] else [])

    threads = [threading.Thread(target=calls, args=(1000 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("file", "argument", "words"),
    [
        ("product", np.ones((1, 4)), r"input `x` is FP64 \(float64\), the model expects FP32 \(float32\)"),
        ("product", np.ones((1, 3), np.float32), r"input `x` has shape \[1, 3\], the model expects \[batch, 4\]"),
        ("eight_bits", np.ones(3, np.float32), "FLOAT8E4M3FN"),
        ("texts", [["a"]], r"of shape \[n, 2\]"),
    ],
)
def test_an_input_that_does_not_fit_is_said_by_name(file, argument, words):
    with pytest.raises(rust_host.InvalidInputError, match=words):
        rust_host.Model(DATA / f"{file}.onnx")(argument)


def test_what_cannot_be_loaded_is_said(tmp_path):
    with pytest.raises(rust_host.InvalidModelError, match=r"com\.acme:Foo"):
        rust_host.Model(DATA / "foreign.onnx")
    with pytest.raises(rust_host.UnavailableError, match="not on cuda:0"):
        rust_host.Model(DATA / "product.onnx", "cuda")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: `uv sync --extra onnx`")
    onnx.save(
        onnx.load(DATA / "product.onnx"),
        tmp_path / "x.onnx",
        save_as_external_data=True,
        location="w",
        size_threshold=0,
    )
    with pytest.raises(rust_host.InvalidModelError, match="its tensor `w` lie in another file, `w`"):
        rust_host.Model(tmp_path / "x.onnx")


def in_a_process(code: str, **environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ORT_")} | environment
    code = f"import os, numpy, rust_host\nfile = {str(DATA / 'product.onnx')!r}\n{code}"
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_library_that_is_not_there_is_said():
    code = "try: rust_host.Model(file)\nexcept rust_host.UnavailableError as e: print(e)"
    assert "ORT_DYLIB_PATH is `/nowhere`, which is no file" in in_a_process(code, ORT_DYLIB_PATH="/nowhere")


def test_no_thread_of_onnx_runtime_reports_to_its_maker():
    code = """
rust_host.set_threads(1)
before = len(os.listdir("/proc/self/task"))
model = rust_host.Model(file)
model([[1, 2, 3, 4]])
print(len(os.listdir("/proc/self/task")) - before)
"""
    assert in_a_process(code) == "0"
