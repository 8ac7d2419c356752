"""Small models in a folder of their own, so that a training takes a fraction of a second."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Before torch is imported: such small models are faster in one thread, and two that wait for each other on a busy
# machine took 182 s for what one does in 13.
os.environ["OMP_NUM_THREADS"] = "1"

# Draws from all three global generators while it trains, and sends itself a signal where STOP_AT says.
TINY_MODEL = """
import os, random, signal
import numpy as np, torch
from torch import nn

calls = 0

class Tiny(nn.Module):
    def __init__(self, hidden=8):
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(3, hidden), nn.Dropout(0.3), nn.Linear(hidden, 2)
        self.norm = nn.BatchNorm1d(hidden)

    def forward(self, x):
        global calls
        if self.training:
            calls += 1
            if str(calls) in os.environ.get("STOP_AT", "").split(","):
                signal.raise_signal(signal.SIGINT)
        return self.last(self.drop(self.norm(torch.relu(self.first(x)))))

class Noisy(torch.utils.data.Dataset):
    def __init__(self, x, y, noise):
        self.x, self.y, self.noise = x, y, noise
    def __len__(self):
        return len(self.y)
    def __getitem__(self, i):
        if not self.noise:
            return {"x": self.x[i]}, self.y[i]
        return {"x": self.x[i] + random.random() * 0.1 + np.random.rand() * 0.1 + torch.rand(3) * 0.1}, self.y[i]

def load_data(samples=40):
    x = torch.randn(samples, 3, generator=torch.Generator().manual_seed(1))
    y = (x.sum(1) > 0).long()
    return Noisy(x, y, True), Noisy(x[:12], y[:12], False), Noisy(x[12:30], y[12:30], False)
"""
TINY_RECIPE = """
[model]
class = "Tiny"

[data]
kind = "function"

[training]
epochs = 3
batch_size = 6
device = "cpu"

[optimizer]
name = "adam"
lr = 0.01

[scheduler]
name = "step"
gamma = 0.5
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test starts in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STOP_AT", raising=False)
    # torch compiles for seconds at each start of a process that may not keep what it compiled
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    return tmp_path


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes `models/NAME` and gives its folder."""

    def make(name: str = "tiny", recipe: str = TINY_RECIPE, code: str = TINY_MODEL) -> Path:
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.py").write_text(code)
        (folder / "recipe.toml").write_text(recipe)
        return Path("models") / name

    return make


@pytest.fixture
def run_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs py-authoring in a process of its own."""

    def run(*arguments: str, env: dict[str, str] | None = None, **options: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(env or {})}
        command = [sys.executable, "-m", "py_authoring", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, **options)  # type: ignore[call-overload]

    return run
