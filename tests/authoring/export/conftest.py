"""Models of a few lines, exported in a folder of their own."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from py_authoring.cli import main
from py_authoring.export import Version, export

HEAD = """import torch
import torch.nn.functional as F
from torch import Tensor, nn


"""
EXAMPLES = """

def example_inputs(count):
    return {"x": torch.randn(count, 4)}
"""
TRAINABLE = """
class Tiny(nn.Module):
    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, hidden), nn.Linear(hidden, 2)
        self.norm = nn.BatchNorm1d(hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(torch.relu(self.first(x))))


def load_data(samples=90):
    x = torch.randn(samples, 3, generator=torch.Generator().manual_seed(1))
    return {"x": x}, (x.sum(1) > 0).long()
"""
TRAINABLE_RECIPE = """[model]
class = "Tiny"

[data]
kind = "function"

[training]
epochs = 3
batch_size = 16
device = "cpu"
"""
RECIPE = '[model]\nclass = "M"\n\n[data]\nkind = "none"\n\n[export]\n'


def source(forward: str, *, init: str = "self.linear = nn.Linear(4, 4)", signature: str = "x: Tensor") -> str:
    """A model.py whose class has these lines as `__init__` and `forward`; forward's first line is line 12."""
    lines = ["class M(nn.Module):", "    def __init__(self):", "        super().__init__()", f"        {init}", ""]
    lines += [f"    def forward(self, {signature}):", *(f"        {line}" for line in forward.splitlines())]
    return HEAD + "\n".join(lines) + "\n" + EXAMPLES


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs py-authoring in this process, which has torch already."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsys.readouterr()
        code = ended.value.code
        return subprocess.CompletedProcess(arguments, code if isinstance(code, int) else 0, out, err)

    return run


@pytest.fixture
def trainable(make_model: Callable[..., Path]) -> Path:
    """`models/tiny`, which trains in a moment and can be scripted."""
    return make_model("tiny", TRAINABLE_RECIPE, HEAD + TRAINABLE)


@pytest.fixture
def make_export(make_model: Callable[..., Path]) -> Callable[..., Version]:
    """Writes a model of these lines and exports it."""

    def make(
        forward: str, method: str = "script", recipe: str = "", code: str | None = None, **options: str
    ) -> Version:
        text = source(forward, **options) if code is None else HEAD + code
        return export(make_model("small", RECIPE + recipe, text), method=method)

    return make
