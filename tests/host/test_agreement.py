"""The repository's models, all the way: exported, then run by PyTorch, by the native binary and by the wheel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

import rust_host
from py_authoring.export import export

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "target/release/rust-host"
MODELS = [path.parent.name for path in sorted((ROOT / "models").glob("*/recipe.toml"))]


@pytest.fixture(scope="module", params=MODELS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a model's first version, exported with its initial weights."""
    folder = tmp_path_factory.mktemp("models") / request.param
    shutil.copytree(ROOT / "models" / request.param, folder, ignore=shutil.ignore_patterns("runs", "[0-9]*"))
    return export(folder, untrained=True).path


def native(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The binary, with nothing in its environment: no PATH, no Python, no library path."""
    return subprocess.run(["env", "-i", BINARY, *arguments], capture_output=True, text=True, check=False)


def golden(path: Path) -> tuple[dict[str, Any], list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]]:
    """Contract and examples, read as docs/contract.md says, without the code that wrote them."""
    extra = {"contract.json": "", "golden.safetensors": ""}
    torch.jit.load(str(path), _extra_files=extra)
    contract = json.loads(extra["contract.json"])
    tensors = safetensors.numpy.load(extra["golden.safetensors"])
    examples: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]] = []
    for i in range(contract["golden"]["count"]):
        parts: dict[str, dict[str, np.ndarray]] = {"input": {}, "output": {}}
        for key, tensor in tensors.items():
            number, kind, name = key.split(".", 2)
            if int(number) == i and kind in parts:  # `0.raw.NAME` is a picture file
                parts[kind][name] = tensor
        examples.append((parts["input"], parts["output"]))
    return contract, examples


def flat(result: Any) -> list[torch.Tensor]:
    """The tensors of a tuple or a dict, in order."""
    if isinstance(result, dict):
        return flat(list(result.values()))
    return [result] if isinstance(result, torch.Tensor) else [t for r in result for t in flat(r)]


def test_binary_wheel_and_pytorch_agree_within_the_recorded_tolerance(exported: Path, tmp_path: Path) -> None:
    contract, examples = golden(exported)
    script = torch.jit.load(str(exported))
    wheel = rust_host.Model(exported, "cpu")
    assert len(examples) >= 2
    for i, (inputs, outputs) in enumerate(examples):
        arguments = []
        for name, array in inputs.items():
            np.save(tmp_path / f"{i}.{name}.npy", array)
            arguments += ["--input", f"{name}={tmp_path / f'{i}.{name}.npy'}"]
        done = native("run", exported, *arguments, "--output", tmp_path / str(i))
        assert done.returncode == 0, done.stderr
        by_wheel = wheel.run(inputs)
        with torch.no_grad():
            by_torch = flat(script(*(torch.from_numpy(inputs[x["name"]]) for x in contract["inputs"])))
        for output, eager in zip(contract["outputs"], by_torch, strict=True):
            name, close = output["name"], {"rtol": output["rtol"], "atol": output["atol"]}
            np.testing.assert_allclose(by_wheel[name], outputs[name], **close)
            np.testing.assert_allclose(np.load(tmp_path / str(i) / f"{name}.npy"), outputs[name], **close)
            np.testing.assert_allclose(eager.numpy(), outputs[name], **close)


def test_the_golden_examples_are_reproduced_by_binary_and_wheel(exported: Path) -> None:
    done = native("verify", exported, "--json")
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["ok"] and verdict["examples"] >= 2
    assert rust_host.Model(exported, "cpu").verify().ok


def test_a_changed_weight_is_noticed(exported: Path, tmp_path: Path) -> None:
    """A file whose golden examples belong to other weights is not what its author saw."""
    extra = {"contract.json": "", "golden.safetensors": ""}
    module = torch.jit.load(str(exported), _extra_files=extra)
    parameters = list(module.parameters())
    if not parameters:
        pytest.skip("the model has no weights")
    with torch.no_grad():
        for p in parameters:
            p.add_(0.5)
    changed = tmp_path / "changed.pt"
    changed.write_bytes(module.save_to_buffer(_extra_files=extra))
    done = native("verify", changed)
    assert done.returncode == 1, done.stdout
    assert not rust_host.Model(changed, "cpu").verify().ok


@pytest.mark.cuda
def test_cuda_gives_the_numbers_of_the_processor(exported: Path) -> None:
    reason = json.loads(native("doctor", "--json").stdout)["cuda"]["why_not"]
    if reason:
        pytest.skip(f"no CUDA: {reason}")
    verdict = json.loads(native("verify", exported, "--device", "cuda", "--json").stdout)
    assert verdict["ok"] and verdict["device"].startswith("cuda")


def test_cuda_that_is_not_there_is_refused_with_the_reason_that_doctor_prints(exported: Path) -> None:
    reason = json.loads(native("doctor", "--json").stdout)["cuda"]["why_not"]
    if not reason:
        pytest.skip("this machine has CUDA")
    done = native("verify", exported, "--device", "cuda")
    assert done.returncode == 1
    assert reason in done.stderr
    with pytest.raises(rust_host.Error, match="CUDA"):
        rust_host.Model(exported, "cuda")


def test_no_python_process_and_no_python_library_takes_part(exported: Path) -> None:
    """What the loader of the binary and of its backend opens has no libpython and no libtorch_python in it."""
    traced = subprocess.run(
        [BINARY, "verify", exported], capture_output=True, text=True, env={**os.environ, "LD_DEBUG": "libs"}, check=True
    )
    assert "libtorch_cpu" in traced.stderr
    assert "libpython" not in traced.stderr and "libtorch_python" not in traced.stderr
