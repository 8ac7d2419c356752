# ruff: noqa: E501 - a list of words
"""Promises R1 and W1: whatever is given to a model, the wheel gives PyTorch's own answer or raises a `rust_host.Error`.

Every expression of `value_models.py` is a model, and every input of its kind is given to it, in a child that may die;
what PyTorch says is asked in another. `PARTS=1 pytest tests/wheel/test_values.py` tries all of them (250,000 cells,
some 10 minutes); otherwise every 50th, `PART=7` other ones.
"""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import value_models
import value_worker

#: What our own checks say. Where PyTorch gives an answer all the same, it may have read foreign memory for it.
OURS = ("embedding bag", "packed sequence", "an empty text", "NaN or infinity", "weight norm", "LU factorisation", "recurrent network", "a sequence of length", "a size of", "there is no type", "integer overflow", "the factorial", "characters", "overflows the address space")  # fmt: skip

PARTS = int(os.environ.get("PARTS", "50"))
PART = int(os.environ.get("PART", "0"))


def same(ours: Any, theirs: Any) -> bool:
    """Equal, or so near that only the order of a sum differs."""
    if isinstance(ours, tuple) and len(ours) == 3 and isinstance(ours[2], bytes):
        if not (isinstance(theirs, tuple) and ours[:2] == theirs[:2]):
            return False
        if ours[2] == theirs[2]:
            return True
        dtype = getattr(torch, ours[0].removeprefix("torch."))
        if not dtype.is_floating_point:
            return False
        a, b = (torch.frombuffer(bytearray(x[2]), dtype=dtype).double().numpy() for x in (ours, theirs))
        return bool(np.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True))
    if isinstance(ours, list):
        return isinstance(theirs, list) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, dict):
        return isinstance(theirs, dict) and list(ours) == list(theirs) and all(same(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, float) and isinstance(theirs, float) and math.isnan(ours):
        return math.isnan(theirs)
    return bool(ours == theirs)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """(words, ours, theirs) of every cell."""
    folder = tmp_path_factory.mktemp("values")
    for i, (kind, expression) in enumerate(value_models.kinds()):
        (folder / f"{i}.pt").write_bytes(value_models.scripted(kind, expression, i).save_to_buffer())
    worker = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("value_worker.py"))]
    # PyTorch is known to hang on some.
    running = [
        subprocess.Popen([*worker, side, folder, str(PART), str(PARTS), seconds])
        for side, seconds in (("ours", "60"), ("theirs", "3"))
    ]
    assert [process.wait() for process in running] == [0, 0]
    sides = []
    for side in ("ours", "theirs"):
        found = {}
        with (folder / f"{side}.pickles").open("rb") as file:
            while True:
                try:
                    i, answer = pickle.load(file)
                except EOFError:
                    break
                found[i] = answer
        sides.append(found)
    words = [w for _, w, _ in value_worker.cells(folder, PART, PARTS)]
    return [(w, sides[0][i], sides[1][i]) for i, w in enumerate(words)]


class Divides(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.div(x, -1, rounding_mode="trunc")


class Outer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = Divides()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.part(x)


CALL = """
import sys, torch, rust_host
try:
    print(rust_host.Model(sys.argv[1], "cpu", to="torch")(torch.tensor([5, -(2**63)])))
except rust_host.FailedError as e:
    print(e)
"""


@pytest.mark.parametrize("kind", [Divides, Outer])
def test_the_checks_stand_in_the_parts_of_a_model_too(kind, tmp_path):
    (tmp_path / "m.pt").write_bytes(torch.jit.script(kind()).save_to_buffer())
    done = subprocess.run([sys.executable, "-c", CALL, tmp_path / "m.pt"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "integer overflow" in done.stdout) == (0, True), done


def test_no_input_ends_or_hangs_the_process(answers):
    assert [(w, ours[0]) for w, ours, _ in answers if ours[0] not in ("answers", "raises")] == []


def test_what_is_raised_is_a_rust_host_error(answers):
    assert [(w, ours) for w, ours, _ in answers if ours[0] == "raises" and not ours[1].startswith("rust_host.")] == []


def test_answers_are_pytorchs_own(answers):
    bad = []
    for words, ours, theirs in answers:
        half_a_letter = theirs[1:2] == ("builtins.UnicodeDecodeError",)  # we show a mark for it
        if theirs[0] == "hangs" or half_a_letter:
            right = True
        elif theirs[0] not in ("answers", "raises"):  # PyTorch ended: ours must not give an answer either
            right = ours[0] == "raises"
        elif ours[0] == theirs[0] == "answers":
            right = same(ours[1], theirs[1]) or any(word in words for word in value_models.LOOSE)
        else:
            right = ours[0] == theirs[0] or (ours[0] == "raises" and any(word in ours[2] for word in OURS))
        if not right:
            bad.append((words, ours, theirs))
    assert bad == []
