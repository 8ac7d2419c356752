"""Processes that read samples ahead: the same training, and a sentence when one of them dies."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from py_authoring.checkpoint import load_checkpoint
from py_authoring.data import Sample, TrainingBatches
from py_authoring.errors import DataError, TrainingError
from py_authoring.run_state import read_state
from py_authoring.training import train

MakeModel = Callable[..., Path]
RECIPE = """
[model]
class = "Net"
[data]
kind = "function"
[training]
epochs = 2
batch_size = 4
device = "cpu"
checkpoint_every = 1
workers = 2
"""
MODEL = """
import os, signal
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(3, 2)
    def forward(self, x):
        return self.out(x)

class Noisy(torch.utils.data.Dataset):
    def __init__(self, trap):
        self.trap = trap
    def __len__(self):
        return 24
    def __getitem__(self, index):
        worker = torch.utils.data.get_worker_info()
        if self.trap and worker is not None and index == 7 and os.path.exists("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trap and index == 5 and os.path.exists("raise"):
            raise KeyError("no such column")
        return {"x": torch.rand(3) + index % 2}, torch.tensor(index % 2)

def load_data():
    return Noisy(True), Noisy(False), Noisy(False)
"""


class Drawing:
    """Samples that draw from all three generators."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Sample:
        return {"x": torch.rand(2) + float(np.random.rand())}, torch.tensor(index)


def read(workers: int, done: int = 0) -> list[list[float]]:
    batches = TrainingBatches(Drawing(), 3, 5, lambda: done, workers)
    return [[*inputs["x"].reshape(-1).tolist(), *target.tolist()] for inputs, target in batches]


def test_number_of_workers_changes_nothing_and_every_epoch_draws_anew() -> None:
    before = torch.get_rng_state()
    one = read(1)
    assert len(one) == 4 and one == read(3)
    assert read(2, done=2) == one[2:]  # resumed in the middle of the epoch
    assert {tuple(batch[:2]) for batch in read(2, done=4)}.isdisjoint({tuple(batch[:2]) for batch in one})
    assert torch.equal(torch.get_rng_state(), before)


def test_killed_worker_is_named_and_the_training_goes_on_from_the_last_checkpoint(make_model: MakeModel) -> None:
    folder = make_model("x", RECIPE, MODEL)
    Path("kill").touch()
    with pytest.raises(TrainingError, match=r"^data worker \d+ \(training\.workers\) is killed by signal: Killed$"):
        train(folder, say=lambda text: None)
    Path("kill").unlink()
    (run,) = (folder / "runs").glob("[!.]*")
    assert load_checkpoint(run / "checkpoints" / "last.pt")["iteration"] < 6
    resumed = train(folder, resume=True, overrides=["training.workers=1"], say=lambda text: None)
    assert resumed.epochs == 2 and resumed.path == run
    whole = train(folder, say=lambda text: None)
    saved = [load_checkpoint(each.path / "checkpoints" / "last.pt")["model"] for each in (resumed, whole)]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_sample_that_raises_is_named(make_model: MakeModel, workers: int) -> None:
    folder = make_model("x", RECIPE, MODEL)
    before = set(multiprocessing.active_children())  # of other tests
    with pytest.raises(DataError, match=r"^sample 5 cannot be read: KeyError: 'no such column'$") as caught:
        train(folder, overrides=[f"training.workers={workers}"], say=lambda text: Path("raise").touch())
    (run,) = (folder / "runs").glob("[!.]*")
    assert read_state(run).state == "failed"
    # `caught` holds the frames in which the workers were read
    assert set(multiprocessing.active_children()) <= before, caught
    with pytest.raises(DataError, match=r"^sample 5 cannot be read: KeyError: 'no such column'$"):
        train(folder, say=lambda text: None)


def test_interrupt_of_the_terminal_does_not_end_the_workers() -> None:
    class Interrupting(Drawing):
        def __getitem__(self, index: int) -> Sample:
            os.kill(os.getpid(), signal.SIGINT)  # as the terminal sends it to every process
            return super().__getitem__(index)

    assert len(list(TrainingBatches(Interrupting(), 5, 0, lambda: 0, workers=1))) == 2
