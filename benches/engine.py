"""One engine in a Python process of its own, which `peers.py` starts; and the files that the engines read.

usage: engine.py files NAME FOLDER           writes model.pt, model.onnx and an input for each batch size
       engine.py package NAME FOLDER         writes model.pt2
       engine.py once ENGINE NAME FOLDER     one prediction of batch 1
       engine.py ENGINE NAME FOLDER THREADS

The last one says `ready`, then answers each line `BATCH SECONDS` with the median of a call in microseconds, and `BATCH`
alone with the file that it wrote the output to.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

BATCHES = (1, 8, 32)
Call = Callable[[], Any]


def files(name: str, folder: Path) -> None:
    """The model for each engine that reads files, and its inputs."""
    import torch

    from models import SHAPES, make, save

    folder.mkdir(parents=True, exist_ok=True)
    for batch in BATCHES:
        x = np.random.default_rng(batch).random((batch, *SHAPES[name]), dtype=np.float32)
        np.save(folder / f"input.{batch}.npy", x)
        x.tofile(folder / f"input.{batch}.raw")
    save(name, folder).rename(folder / "model.pt")
    torch.onnx.export(
        make(name),
        (torch.rand(2, *SHAPES[name]),),
        str(folder / "model.onnx"),
        dynamo=True,
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
        external_data=False,
        verbose=False,
    )


def package(name: str, folder: Path) -> None:
    """The model compiled ahead of time as `py-authoring export` does it, with a contract, and trusted."""
    import inspect

    import torch
    from torch.export.pt2_archive import PT2ArchiveWriter
    from torch.export.pt2_archive.constants import AOTINDUCTOR_DIR, EXTRA_DIR

    from models import SHAPES, make
    from py_authoring.export import golden
    from py_authoring.export.compiled import compile_program
    from py_authoring.tools import find_compiler

    shape, path = SHAPES[name], folder / "model.pt2"
    with torch.no_grad():
        batch = torch.export.Dim("batch", min=1, max=4096)
        model, x = make(name), torch.rand(3, *shape)
        argument = next(iter(inspect.signature(model.forward).parameters))
        y = model(x)
        out = y.shape[1:]
        exported = torch.export.export(model, (), kwargs={argument: x}, dynamic_shapes={argument: {0: batch}})
        files = compile_program(exported, {argument: x}, find_compiler())
    tensors = {
        key: {"datatype": "FP32", "shape": [-1, *s], "dims": ["batch", *s]} for key, s in (("x", shape), ("y", out))
    }
    contract = {
        "format_version": 1,
        "name": name,
        "platform": "torch_aoti",
        "inputs": [{"name": "x"} | tensors["x"]],
        "outputs": [{"name": "y", "rtol": 1e-3, "atol": 1e-4} | tensors["y"]],
        "returns": "y",
        "dims": {"batch": {"min": 1, "max": 4096}},
        "golden": {"file": "golden.safetensors", "count": 1},
        "producer": {"name": "engine.py", "version": "1"},
        "provenance": {"method": "compiled", "torch_version": torch.__version__},
    }
    with PT2ArchiveWriter(str(path)) as archive:
        for file, data in files.items():
            archive.write_bytes(f"{AOTINDUCTOR_DIR}model/{file}", data)
        archive.write_bytes(f"{EXTRA_DIR}contract.json", json.dumps(contract).encode())
        archive.write_bytes(f"{EXTRA_DIR}golden.safetensors", golden.to_bytes([golden.Example({"x": x}, {"y": y})]))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = f'[[package]]\nsha256 = "{digest}"\nfile = "{folder.name}/model.pt2"\ncreated = "2026-01-01T00:00:00Z"\n'
    (folder.parent / "trusted.toml").write_text(entry)


def rust_host_of(kind: str) -> Callable[[str, Path, int, int], Call]:
    """The wheel on a file of that kind."""

    def open_file(name: str, folder: Path, threads: int, batch: int) -> Call:
        import rust_host

        rust_host.set_threads(threads)
        model = opened.setdefault("model", rust_host.Model(folder / f"model.{kind}", device="cpu"))
        x = np.load(folder / f"input.{batch}.npy")
        return lambda: model(x)

    opened: dict[str, Any] = {}
    return open_file


def torch_as(how: str) -> Callable[[str, Path, int, int], Call]:
    """PyTorch itself."""

    def open_model(name: str, folder: Path, threads: int, batch: int) -> Call:
        import torch

        from models import make

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        if how == "jit":
            model = opened.setdefault("model", torch.jit.freeze(torch.jit.load(str(folder / "model.pt")).eval()))
        elif how == "compile":
            # A graph for each size, and weights as constants: its fastest form.
            torch._dynamo.config.recompile_limit = 64
            model = opened.setdefault("model", torch.compile(make(name), dynamic=False, options={"freezing": True}))
        else:
            model = opened.setdefault("model", make(name))
        x = torch.from_numpy(np.load(folder / f"input.{batch}.npy"))
        if how == "compile":
            return lambda: model(x)  # it takes no inference tensors that another graph made

        def call() -> Any:
            with torch.inference_mode():
                return model(x)

        return call

    opened: dict[str, Any] = {}
    return open_model


def onnxruntime(name: str, folder: Path, threads: int, batch: int) -> Call:
    """Its defaults but for the threads."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    inputs = {"x": np.load(folder / f"input.{batch}.npy")}
    return lambda: session.run(None, inputs)[0]


def openvino(name: str, folder: Path, threads: int, batch: int) -> Call:
    """Reshaped to the batch, as its manual advises, in float32: bfloat16 is its default where there is such."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(folder / "model.onnx")
    x = np.load(folder / f"input.{batch}.npy")
    model.reshape(list(x.shape))
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    request = core.compile_model(model, "CPU", settings | {"NUM_STREAMS": 1}).create_infer_request()
    return lambda: request.infer([x], share_inputs=True, share_outputs=True)[0]


ENGINES: dict[str, Callable[[str, Path, int, int], Call]] = {
    "wheel": rust_host_of("pt"),
    "wheel .pt2": rust_host_of("pt2"),
    "wheel .onnx": rust_host_of("onnx"),
    "eager": torch_as("eager"),
    "torch.jit": torch_as("jit"),
    "torch.compile": torch_as("compile"),
    "ONNX Runtime": onnxruntime,
    "OpenVINO": openvino,
}


def median(call: Call, seconds: float) -> float:
    """Microseconds of a call, after a warm-up of a fifth of the time; at least three calls."""
    clock, times = time.perf_counter, []
    end = clock() + seconds / 5
    while clock() < end:
        call()
    last = start = clock()
    while last - start < seconds or len(times) < 3:
        call()
        now = clock()
        times.append(now - last)
        last = now
    times.sort()
    return times[len(times) // 2] * 1e6


def serve(engine: str, name: str, folder: Path, threads: int) -> None:
    """Answers until its input ends."""
    calls = {batch: ENGINES[engine](name, folder, threads, batch) for batch in BATCHES}
    for call in calls.values():
        for _ in range(3):
            call()
    print("ready", flush=True)
    for line in sys.stdin:
        batch, _, seconds = line.strip().partition(" ")
        call = calls[int(batch)]
        if seconds:
            print(median(call, float(seconds)), flush=True)
        else:
            path = folder / f"output.{engine.replace(' ', '-')}.{batch}.npy"
            np.save(path, np.asarray(call()))
            print(path, flush=True)


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    if what in ("files", "package"):
        {"files": files, "package": package}[what](words[0], Path(words[1]))
    elif what == "once":
        ENGINES[words[0]](words[1], Path(words[2]), 1, 1)()
    else:
        serve(what, words[0], Path(words[1]), int(words[2]))
