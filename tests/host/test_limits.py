"""A time limit for calls that would never end."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

import pytest
import torch

BINARY = Path(__file__).resolve().parents[2] / "target/release/rust-host"


class Endless(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool(x.sum() > 0):
            x = x + 1
        return x


class Stuck(torch.nn.Module):
    """One operator that takes years: nothing inside it can be asked."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(1 << 50, 1).sum()


def test_a_call_over_its_limit_is_ended_in_a_sentence_and_writes_nothing(tmp_path: Path) -> None:
    for module in (Endless(), Stuck()):
        path = tmp_path / "model.pt"
        path.write_bytes(torch.jit.script(module).save_to_buffer())
        command = [BINARY, "run", path, "--input", "[1.0]", "--timeout", "0.3", "--output", tmp_path / "out"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert (done.returncode, done.stderr) == (1, "error: the model did not answer within 0.3 s\n")
        assert not (tmp_path / "out").exists()


def table_model(path: Path, module: torch.nn.Module) -> None:
    """A file with a contract: `x` is a number a row, and so is `y`."""

    def tensor(**more: object) -> dict[str, object]:
        return {"datatype": "FP32", "shape": [-1], "dims": ["batch"], **more}

    contract = {
        "format_version": 1,
        "name": "model",
        "platform": "pytorch_torchscript",
        "inputs": [tensor(name="x")],
        "outputs": [tensor(name="y", rtol=0, atol=0)],
        "returns": "y",
        "dims": {"batch": {"min": 0}},
        "golden": {"file": "golden.safetensors", "count": 0},
        "producer": {"name": "a test", "version": "1"},
    }
    torch.jit.script(module).save(str(path), _extra_files={"contract.json": json.dumps(contract)})


@pytest.mark.parametrize("module", [Endless(), Stuck()], ids=lambda m: type(m).__name__)
def test_a_table_over_its_limit_is_ended_in_a_sentence_and_writes_nothing(
    tmp_path: Path, module: torch.nn.Module
) -> None:
    rows, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    rows.write_text("x\n" + "1.0\n" * 1000)
    table_model(tmp_path / "model.pt", module)
    command = [BINARY, "run", tmp_path / "model.pt", "--input", rows, "--timeout", "0.3", "--output", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    text = f"error: the run is not done within 0.3 s, `{out}` was not written\n"
    assert (done.returncode, done.stderr) == (1, text)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt", "rows.csv"]


@pytest.mark.parametrize("writes", [True, False], ids=["without end", "nothing more"])
def test_the_limit_of_a_table_counts_reading_too(tmp_path: Path, writes: bool) -> None:
    rows, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    os.mkfifo(rows)
    out.write_text("before")
    table_model(tmp_path / "model.pt", Endless())
    command = [BINARY, "run", tmp_path / "model.pt", "--input", rows, "--timeout", "1", "--output", out]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    with rows.open("w") as pipe:
        pipe.write("x\n" + "-1.0\n" * 300_000)
        pipe.flush()
        with contextlib.suppress(BrokenPipeError):
            while writes and process.poll() is None and time.monotonic() < end:
                pipe.write("-1.0\n" * 1000)
        _, text = process.communicate(timeout=30)
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
    assert (process.returncode, text) == (1, f"error: the run is not done within 1 s, `{out}` was not written\n")
    assert out.read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt", "out.csv", "rows.csv"]


def test_a_table_within_its_limit_is_written(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("x\n-1\n")
    table_model(tmp_path / "model.pt", Endless())
    command = [BINARY, "run", "model.pt", "--input", "rows.csv", "--timeout", "60", "--output", "out.csv"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    assert (tmp_path / "out.csv").read_text() == "y\n-1.0\n"


def test_a_call_within_its_limit_answers(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(torch.jit.script(Endless()).save_to_buffer())
    command = [BINARY, "run", path, "--input", "[-1.0]", "--timeout", "60", "--json"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
