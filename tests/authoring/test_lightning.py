"""A LightningModule trains under our engine as under Lightning's own Trainer; what is exported is free of it."""

import json
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from py_authoring import checkpoint
from py_authoring.data import TrainingBatches, batches, load_splits
from py_authoring.errors import InterruptedRunError, ModelFileError, RecipeError, RefusedError, TrainingError
from py_authoring.export import export
from py_authoring.lightning.evaluation import give_batch
from py_authoring.model_file import build_model
from py_authoring.recipe import load_recipe
from py_authoring.resuming import seed_everything
from py_authoring.run_evaluation import evaluate_run
from py_authoring.training import train

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl

MakeModel = Callable[..., Path]
pytestmark = [
    # Lightning's own advice: workers of a DataLoader, a missing logger, what `isinstance` will not take one day
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

MODEL = """
import os, signal
import torch, torchmetrics
import torch.nn.functional as F
from torch import nn
import lightning.pytorch as pl

class Lit(pl.LightningModule):
    def __init__(self, hidden=8, lr=0.02):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(3, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(hidden, 2)
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(2, average="micro")

    def forward(self, x):
        return self.head(self.net(x))

    def training_step(self, batch, batch_idx):
        if str(self.global_step) in os.environ.get("STOP_AT", "").split(","):
            signal.raise_signal(signal.SIGINT)
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("worst", loss, on_step=False, on_epoch=True, reduce_fx="max")
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        scores = self(x)
        self.accuracy(scores, y)
        self.log_dict({"val_loss": F.cross_entropy(scores, y), "val_acc": self.accuracy})

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("test_acc", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        OPTIMIZERS

def load_data(samples=40):
    x = torch.randn(samples, 3, generator=torch.Generator().manual_seed(1))
    y = (x.sum(1) > 0).long()
    return ({"x": x[:26]}, y[:26]), ({"x": x[26:]}, y[26:]), ({"x": x[:14]}, y[:14])
"""
RECIPE = """
[model]
class = "Lit"
[data]
kind = "function"
[training]
epochs = 4
batch_size = 6
device = "cpu"
monitor = "val_acc"
"""
ADAM = "return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)"
FORMS = {
    "one optimizer": ADAM,
    "a list": "return [torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)]",
    "two lists": """
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.02)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]""",
    "a dict": 'return {"optimizer": torch.optim.RMSprop(self.parameters(), lr=0.01)}',
    "a dict with a schedule": """
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)}""",
    "a schedule by step": """
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        total = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=total)
        return [optimizer], [{"scheduler": schedule, "interval": "step", "name": "one cycle"}]""",
    "a schedule every second step": """
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.8)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "frequency": 2}}""",
    "a schedule that watches": """
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.3, threshold=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}""",
    "a schedule that watches each step": """
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, factor=0.7)
        config = {"scheduler": schedule, "interval": "step", "monitor": "train_loss_step"}
        return {"optimizer": optimizer, "lr_scheduler": config}""",
    "two schedules": """
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        slow = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        fast = {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99), "interval": "step"}
        return [optimizer], [slow, fast]""",
    "an optimizer that steps several times": "return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)",
}


def silent(text: str) -> None:
    pass


def code(optimizers: str = ADAM, methods: str = "", model: str = MODEL) -> str:
    body = "\n".join(f"    {line}" for line in methods.strip("\n").splitlines())
    return (
        model.replace("OPTIMIZERS", optimizers)
        .replace("def load_data", f"{body}\n\ndef load_data", 1)
        .replace(f"{body}\n\ndef load_data", "def load_data", 1)
        .replace("    def forward(self, x):", f"{body}\n\n    def forward(self, x):", 1)
    )


def last(folder: Path) -> dict[str, Any]:
    return checkpoint.load_checkpoint(checkpoint.find_checkpoint(folder, which="last"))


class Epoch(torch.utils.data.Sampler[list[int]]):
    """The batches that our engine draws, for a DataLoader of Lightning's Trainer."""

    def __init__(self, ours: TrainingBatches) -> None:
        self.ours, self.epoch = ours, 0
        self.sampler = self  # where Lightning looks for set_epoch

    def __len__(self) -> int:
        return len(self.ours)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Any:
        return iter(self.ours.order(self.epoch))


def join(dataset: Any) -> Callable[[Any], Any]:
    from py_authoring.data import collate

    return lambda samples: give_batch(collate(dataset)(samples))


def train_with_lightning(folder: Path, **options: Any) -> tuple[Any, Any]:
    """The same module, seed and batches under Lightning's own Trainer."""
    resolved = load_recipe(folder)
    splits, training = load_splits(resolved), resolved.recipe.training
    seed_everything(training.seed)
    module = build_model(resolved, splits.learnt)
    ours = TrainingBatches(splits.train, training.batch_size, training.seed, lambda: 0)
    # neither may draw from the global generator
    train_loader = DataLoader(
        splits.train, batch_sampler=Epoch(ours), collate_fn=join(splits.train), generator=torch.Generator()
    )
    validation = DataLoader(
        splits.validation,
        batch_size=training.batch_size,
        collate_fn=join(splits.validation),
        generator=torch.Generator(),
    )
    trainer = pl.Trainer(
        max_epochs=training.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(module, train_loader, validation)
    return module, trainer


def assert_equal_weights(module: Any, weights: dict[str, torch.Tensor]) -> None:
    expected = module.state_dict()
    assert expected.keys() == weights.keys()
    for name, value in expected.items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize("form", FORMS)
def test_weights_equal_those_of_lightnings_trainer(make_model: MakeModel, form: str) -> None:
    folder = make_model("lit", RECIPE, code(FORMS[form]))
    module, trainer = train_with_lightning(folder)
    run = train(folder, say=silent)
    assert_equal_weights(module, last(folder)["model"])
    row = run.history[-1]
    for name in ("train_loss", "worst", "val_loss", "val_acc"):
        assert row[name] == float(trainer.callback_metrics[name]), name
    assert last(folder)["lightning"]["global_step"] == trainer.global_step
