"""A time limit for calls that would never end."""

from __future__ import annotations

import subprocess
from pathlib import Path

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


def test_a_call_within_its_limit_answers(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(torch.jit.script(Endless()).save_to_buffer())
    command = [BINARY, "run", path, "--input", "[-1.0]", "--timeout", "60", "--json"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
