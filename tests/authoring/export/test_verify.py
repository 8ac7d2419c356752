"""verify replays golden examples, and says by how much a result is off."""

import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from py_authoring.archive_view import InvalidFileContractError
from py_authoring.contract import Contract
from py_authoring.device import why_no_cuda
from py_authoring.errors import DeviceError
from py_authoring.export import Version, archive, export, golden
from py_authoring.verify import ReplayError, verify

ROOT = Path(__file__).resolve().parents[3]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def version() -> Version:
    folder = shutil.copytree(
        ROOT / "models/some_nn_arch", "models/some_nn_arch", ignore=shutil.ignore_patterns("runs", "[0-9]*")
    )
    return export(folder)


def rewrite(version: Version, change: Callable[[torch.jit.ScriptModule, list[golden.Example]], None]) -> Path:
    """The same file with another module or other examples in it."""
    extra = {"golden.safetensors": ""}
    module = torch.jit.load(str(version.path), _extra_files=extra)
    examples = golden.from_bytes(extra["golden.safetensors"], version.contract)  # type: ignore[arg-type]
    change(module, examples)
    path = Path("changed.pt")
    path.write_bytes(archive.to_bytes(module, version.contract, golden.to_bytes(examples)))
    return path


def test_a_sound_file_is_ok(version: Version, call: Run) -> None:
    done = call("verify", str(version.path))
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "some_nn_arch: 4 golden examples on cpu: ok"
    document = json.loads(call("verify", str(version.path), "--json").stdout)
    assert document["ok"] is True
    assert [output["name"] for output in document["outputs"]] == ["output", "new_h"]
    assert document["outputs"][0]["max_abs"] <= 1e-5


def test_other_weights_are_over_the_tolerance_and_exit_1(version: Version, call: Run) -> None:
    def change(module: torch.jit.ScriptModule, examples: list[golden.Example]) -> None:
        with torch.no_grad():
            module.linear.bias.add_(0.5)

    path = rewrite(version, change)
    result = verify(path)
    assert not result.ok
    assert result.outputs[0].difference.max_abs > 0.01
    done = call("verify", str(path))
    assert done.returncode == 1
    assert "over" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("FAILED")
    assert done.stderr.startswith("error: ")


def test_one_wrong_number_in_one_example_is_found(version: Version) -> None:
    def change(module: torch.jit.ScriptModule, examples: list[golden.Example]) -> None:
        examples[2].outputs["new_h"][4, 3] += 1e-3

    result = verify(rewrite(version, change))
    assert [each.difference.within for each in result.outputs] == [True, False]
    assert result.outputs[1].difference.max_abs == pytest.approx(1e-3, rel=1e-2)


def test_nan_equals_nan_and_nothing_else(version: Version) -> None:
    def change(module: torch.jit.ScriptModule, examples: list[golden.Example]) -> None:
        examples[0].outputs["output"][0, 0] = float("nan")

    result = verify(rewrite(version, change))
    assert not result.ok
    assert result.to_dict()["outputs"][0]["max_abs"] is None  # JSON has no infinity

    def both(module: torch.jit.ScriptModule, examples: list[golden.Example]) -> None:
        examples[0].inputs["x"][0, 0] = float("nan")
        for output in examples[0].outputs.values():
            output[0] = float("nan")

    assert verify(rewrite(version, both)).ok


def test_a_model_that_fails_on_its_own_example_is_a_sentence(version: Version) -> None:
    document = version.contract.to_dict()
    document["inputs"][0]["shape"] = document["inputs"][1]["shape"] = [-1, 5]
    document["inputs"][0]["dims"] = document["inputs"][1]["dims"] = ["batch", 5]
    contract = Contract.model_validate(document)
    x, y = torch.zeros(1, 5), torch.zeros(1, 4)
    examples = [golden.Example({"x": x, "h": x}, {"output": y, "new_h": y})] * 4
    module = torch.jit.load(str(version.path))
    Path("m.pt").write_bytes(archive.to_bytes(module, contract, golden.to_bytes(examples)))
    with pytest.raises(
        ReplayError, match=r"fails on its golden example 0 on cpu: RuntimeError: .*1x5 and 4x4"
    ) as caught:
        verify("m.pt")
    assert caught.value.exit_code == 1


def test_outputs_nested_otherwise_than_the_contract_says_are_found(version: Version) -> None:
    document = version.contract.to_dict() | {"returns": {"output": "output", "new_h": "new_h"}}
    contract = Contract.model_validate(document)
    extra = {"golden.safetensors": ""}
    module = torch.jit.load(str(version.path), _extra_files=extra)
    Path("m.pt").write_bytes(archive.to_bytes(module, contract, extra["golden.safetensors"]))  # type: ignore[arg-type]
    with pytest.raises(ReplayError, match="returns tuple where"):
        verify("m.pt")


def test_without_a_contract_there_is_nothing_to_verify(call: Run) -> None:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    Path("plain.pt").write_bytes(buffer.getvalue())
    done = call("verify", "plain.pt")
    assert done.returncode == 2
    assert done.stderr.startswith("error: `plain.pt` has no contract, so there is nothing to verify\nhint: ")


def test_damaged_golden_examples_are_an_invalid_contract(version: Version) -> None:
    module = torch.jit.load(str(version.path))
    Path("m.pt").write_bytes(archive.to_bytes(module, version.contract, b"junk"))
    with pytest.raises(InvalidFileContractError, match="cannot be read"):
        verify("m.pt")


@pytest.mark.cuda
@pytest.mark.skipif(why_no_cuda() is not None, reason=f"no CUDA: {why_no_cuda()}")
def test_golden_examples_hold_on_cuda(version: Version) -> None:
    assert verify(version.path, device="cuda").ok


@pytest.mark.skipif(why_no_cuda() is None, reason="CUDA is here")
def test_cuda_never_falls_back(version: Version) -> None:
    with pytest.raises(DeviceError, match="`cuda` is not there"):
        verify(version.path, device="cuda")
