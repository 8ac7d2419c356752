"""A LightningModule trains under our engine as under Lightning's own Trainer; what is exported is free of it."""

import os
import re
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from py_authoring import checkpoint, run_record
from py_authoring.data import TrainingBatches, load_splits
from py_authoring.errors import (
    InterruptedRunError,
    ModelFileError,
    RecipeError,
    RefusedError,
    ResumeError,
    TrainingError,
)
from py_authoring.export import export
from py_authoring.lightning.attributes import put_back
from py_authoring.lightning.evaluation import give_batch
from py_authoring.lr_finding import find_learning_rate
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


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A report takes longer to draw than these trainings; the test of what it shows has one."""
    if "report" not in request.node.name:
        monkeypatch.setattr(run_record, "finished", lambda session, run: run)
        monkeypatch.setattr("py_authoring.report.report_training", lambda *arguments: None)


def silent(text: str) -> None:
    pass


def code(optimizers: str = ADAM, methods: str = "") -> str:
    """model.py with these optimizers, and with more methods."""
    body = "\n".join(f"    {line}" for line in methods.strip("\n").splitlines())
    return MODEL.replace("OPTIMIZERS", optimizers).replace("    def forward", f"{body}\n\n    def forward", 1)


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


TWO_BY_HAND = """
def __init__(self):
    super().__init__()
    self.automatic_optimization = False
    self.net, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

def forward(self, x):
    return self.head(torch.relu(self.net(x)))

def training_step(self, batch, batch_idx):
    x, y = batch
    first, second = self.optimizers()
    for optimizer in (first, second):
        with self.toggled_optimizer(optimizer):
            loss = F.cross_entropy(self(x), y)
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, 0.5, "norm")
            optimizer.step()
    if self.trainer.is_global_zero and batch_idx == 4:
        self.lr_schedulers().step()
    self.log("train_loss", loss)

def validation_step(self, batch, batch_idx):
    x, y = batch
    self.log("val_loss", F.cross_entropy(self(x), y))

def configure_optimizers(self):
    first = torch.optim.Adam(self.net.parameters(), lr=0.05)
    second = torch.optim.SGD(self.head.parameters(), lr=0.2)
    return [first, second], [torch.optim.lr_scheduler.StepLR(second, 1, 0.5)]
"""
BY_LOSS = RECIPE.replace("val_acc", "loss")


def write_class(methods: str) -> str:
    """model.py with a LightningModule of these methods alone."""
    head, rest = MODEL.split("class Lit(pl.LightningModule):")
    body = "\n".join(f"    {line}" for line in methods.strip("\n").splitlines())
    return f"{head}class Lit(pl.LightningModule):\n{body}\n\ndef load_data{rest.split('def load_data')[1]}"


def test_two_optimizers_by_hand_give_what_they_give_under_lightnings_trainer(make_model: MakeModel) -> None:
    folder = make_model("lit", BY_LOSS, write_class(TWO_BY_HAND))
    module, trainer = train_with_lightning(folder)
    run = train(folder, say=silent)
    assert_equal_weights(module, last(folder)["model"])
    assert last(folder)["lightning"]["global_step"] == trainer.global_step == 40
    assert run.history[-1]["loss"] is None and run.history[-1]["train_loss"] > 0


def test_last_batch_of_an_epoch_and_what_processes_gather_are_as_under_lightnings_trainer(
    make_model: MakeModel,
) -> None:
    methods = TWO_BY_HAND.replace("batch_idx == 4", "self.trainer.is_last_batch")
    methods = methods.replace('"train_loss", loss', '"train_loss", self.all_gather(loss.detach())')
    folder = make_model("lit", BY_LOSS, write_class(methods))
    module, trainer = train_with_lightning(folder)
    run = train(folder, say=silent)
    assert_equal_weights(module, last(folder)["model"])
    assert run.history[-1]["train_loss"] == float(trainer.callback_metrics["train_loss"])


# Every hook that is run writes its name down; some change what is computed.
HOOKS = """
def setup(self, stage): self.note("setup", stage)
def prepare_data(self): self.note("prepare_data")
def teardown(self, stage): self.note("teardown", stage)
def on_fit_start(self): self.note("on_fit_start", self.current_epoch)
def on_fit_end(self): self.note("on_fit_end", self.current_epoch)
def on_train_start(self): self.note("on_train_start")
def on_train_end(self): self.note("on_train_end", self.current_epoch)
def on_train_epoch_start(self): self.note("on_train_epoch_start", self.current_epoch)
def on_train_epoch_end(self):
    self.note("on_train_epoch_end", self.current_epoch, sorted(self.trainer.callback_metrics))
    self.log("of_epoch", float(self.current_epoch))
def on_before_batch_transfer(self, batch, dataloader_idx):
    self.note("on_before_batch_transfer", type(batch).__name__)
    return batch
def transfer_batch_to_device(self, batch, device, dataloader_idx):
    self.note("transfer_batch_to_device", str(device))
    return super().transfer_batch_to_device(batch, device, dataloader_idx)
def on_after_batch_transfer(self, batch, dataloader_idx):
    self.note("on_after_batch_transfer")
    return batch[0] * 1.5, batch[1]
def on_train_batch_start(self, batch, batch_idx): self.note("on_train_batch_start", batch_idx)
def on_train_batch_end(self, outputs, batch, batch_idx):
    self.note("on_train_batch_end", sorted(outputs), outputs["loss"].requires_grad, batch_idx, self.global_step)
def on_before_zero_grad(self, optimizer): self.note("on_before_zero_grad", type(optimizer).__name__)
def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
    self.note("optimizer_zero_grad", epoch, batch_idx)
    optimizer.zero_grad()
def on_before_backward(self, loss): self.note("on_before_backward", float(loss))
def backward(self, loss):
    self.note("backward")
    (loss * 2).backward()
def on_after_backward(self): self.note("on_after_backward")
def on_before_optimizer_step(self, optimizer): self.note("on_before_optimizer_step")
def configure_gradient_clipping(self, optimizer, gradient_clip_val, gradient_clip_algorithm):
    self.note("configure_gradient_clipping", gradient_clip_val)
    self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
    self.note("optimizer_step", epoch, batch_idx)
    for group in optimizer.param_groups:
        group["lr"] = 0.02 * (1 + batch_idx)
    optimizer.step(closure=optimizer_closure)
def lr_scheduler_step(self, scheduler, metric):
    self.note("lr_scheduler_step", metric)
    scheduler.step()
def on_validation_model_zero_grad(self):
    self.note("on_validation_model_zero_grad")
    super().on_validation_model_zero_grad()
def on_validation_model_eval(self):
    self.note("on_validation_model_eval")
    super().on_validation_model_eval()
def on_validation_model_train(self):
    self.note("on_validation_model_train")
    self.train()
    self.net[1].eval()
def on_validation_start(self): self.note("on_validation_start", self.training, torch.is_grad_enabled())
def on_validation_end(self): self.note("on_validation_end")
def on_validation_epoch_start(self): self.note("on_validation_epoch_start")
def on_validation_epoch_end(self): self.note("on_validation_epoch_end", float(self.trainer.callback_metrics["val_acc"]))
def on_validation_batch_start(self, batch, batch_idx): self.note("on_validation_batch_start", batch_idx)
def on_validation_batch_end(self, outputs, batch, batch_idx): self.note("on_validation_batch_end", outputs, batch_idx)
def note(self, *what): NOTES.append(what)
"""


def test_hooks_run_in_the_order_and_with_the_arguments_of_lightnings_trainer(make_model: MakeModel) -> None:
    text = code(FORMS["two lists"], HOOKS).replace("class Lit", "NOTES = []\n\nclass Lit")
    text = text.replace("return loss", 'return {"loss": loss, "more": 1}')
    folder = make_model("lit", RECIPE.replace("epochs = 4", "epochs = 2\nclip_norm = 0.4"), text)
    module, _ = train_with_lightning(folder, gradient_clip_val=0.4)
    expected = sys.modules[type(module).__module__].NOTES
    run = train(folder, say=silent)
    notes = sys.modules[type(module).__module__].NOTES
    after = notes.index(("teardown", "fit")) + 1  # then the best checkpoint is evaluated
    assert notes[:after] == expected and notes is not expected
    assert_equal_weights(module, last(folder)["model"])
    assert [row["of_epoch"] for row in run.history] == [0.0, 1.0]


def test_modes_and_frozen_layers_stay_as_the_module_set_them(make_model: MakeModel) -> None:
    methods = """
def on_train_epoch_start(self):
    if self.current_epoch == 1:
        self.net[1].eval()
        self.head.requires_grad_(False)
"""
    folder = make_model("lit", RECIPE, code(methods=methods))
    module, _ = train_with_lightning(folder)
    train(folder, say=silent)
    assert_equal_weights(module, last(folder)["model"])
    assert int(module.net[1].num_batches_tracked) == 5  # the first epoch's alone


def test_step_that_returns_none_is_skipped(make_model: MakeModel) -> None:
    text = code(FORMS["a schedule by step"]).replace("return loss", "return loss if batch_idx % 2 else None")
    folder = make_model("lit", RECIPE, text)
    module, trainer = train_with_lightning(folder)
    train(folder, say=silent)
    assert_equal_weights(module, last(folder)["model"])
    assert last(folder)["lightning"]["global_step"] == trainer.global_step == 20


def assert_same(left: Any, right: Any, path: str = "") -> None:
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), path
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            if key not in ("seconds", "sources"):
                assert_same(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), path
        for number, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{path}.{number}")
    else:
        assert left == right, path


KEEPING = """
def on_train_start(self):
    self.outputs, self.kept, self.starts = [], 0, torch.rand(1)
    self.register_buffer("ema", torch.zeros(()), persistent=False)

def on_train_epoch_start(self):
    torch.rand(3)
    if self.current_epoch == 1:
        self.net[1].eval()

def on_train_batch_end(self, outputs, batch, batch_idx):
    self.outputs.append(outputs["loss"])
    self.accuracy.update(self(batch[0]), batch[1])
    self.kept += 1
    self.ema.mul_(0.9).add_(outputs["loss"])

def on_train_epoch_end(self):
    self.log("spread", torch.stack(self.outputs).std())
    self.log("kept", float(self.kept))
    self.log("ema", self.ema)
    self.outputs.clear()

def on_save_checkpoint(self, checkpoint):
    checkpoint["mine"] = {"kept": self.kept, "tensor": torch.ones(2)}

def on_load_checkpoint(self, checkpoint):
    LOADED.append(checkpoint["mine"]["kept"])
"""


@pytest.mark.parametrize(
    ("form", "stops"),
    [
        ("a schedule by step", "0"),
        ("a schedule that watches each step", "2"),
        ("two lists", "4"),
        ("a schedule that watches", "9,3"),
    ],
)
def test_stopped_and_resumed_training_equals_uninterrupted_one_bit_for_bit(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, stops: str, form: str
) -> None:
    text = code(FORMS[form], KEEPING).replace("class Lit", "LOADED = []\n\nclass Lit")
    whole, stopped = make_model("whole", RECIPE, text), make_model("stopped", RECIPE, text)
    train(whole, say=silent)
    for number, stop in enumerate(stops.split(",")):
        at = int(stop) + number * 10
        monkeypatch.setenv("STOP_AT", str(at))
        with pytest.raises(InterruptedRunError):
            train(stopped, resume=number > 0, say=silent)
    monkeypatch.delenv("STOP_AT")
    torch.rand(5)
    train(stopped, resume=True, say=silent)
    left, right = last(whole), last(stopped)
    left["recipe"] = right["recipe"] = None
    left["data_sha256"] = right["data_sha256"] = None
    assert_same(left, right)
    assert left["lightning_hooks"]["mine"]["kept"] == 20
    assert sys.modules["py_authoring_model_stopped"].LOADED


WITH_SCALE = """
def on_fit_start(self): self.seen = []

def on_train_epoch_end(self):
    self.scale = self.scale * 0.5 + 1.5

def on_validation_epoch_end(self): EPOCHS.append(self.current_epoch)

def on_save_checkpoint(self, checkpoint): checkpoint["version"] = 2

def on_load_checkpoint(self, checkpoint):
    assert checkpoint["version"] == 2 and checkpoint["global_step"] == 5 * (checkpoint["epoch"] + 1)
    checkpoint["state_dict"] = dict(checkpoint["state_dict"])
"""


def test_history_end_of_training_evaluation_and_file_are_of_one_model(make_model: MakeModel) -> None:
    text = code("return torch.optim.SGD(self.parameters(), lr=0.02)", WITH_SCALE).replace(
        "self.save_hyperparameters()", "self.save_hyperparameters(); self.scale = 1.0", 1
    )
    text = text.replace("return self.head(self.net(x))", "return self.head(self.net(x)) * self.scale")
    folder = make_model("lit", BY_LOSS, text.replace("class Lit", "EPOCHS = []\n\nclass Lit"))
    run = train(folder, say=silent)
    best = min(run.history, key=lambda row: row["val_loss"])
    assert best["epoch"] == run.best_epoch
    assert [0, 1, 2, 3, best["epoch"] - 1] == sys.modules["py_authoring_model_lit"].EPOCHS
    assert run.metrics["loss"] == best["val_loss"]
    assert evaluate_run(folder, split="validation").evaluation.metrics["loss"] == best["val_loss"]
    scale = [1.0, 2.0, 2.5, 2.75][best["epoch"] - 1]
    assert torch.jit.load(export(folder).path).scale == scale


def test_training_ends_without_metrics_where_validation_logs_nothing(make_model: MakeModel) -> None:
    folder = make_model("lit", BY_LOSS, re.sub(r"self\.log_dict\(.*\)", "pass", code()))
    run = train(folder, say=silent)
    assert run.best_epoch is not None and run.metrics == {}


def test_causal_mask_is_no_weight_that_must_be_finite(make_model: MakeModel) -> None:
    text = code(methods="def on_train_epoch_end(self): self.mean.div_(0 if self.current_epoch == 1 else 1)")
    buffers = """self.save_hyperparameters()
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
        self.register_buffer("mean", torch.ones(1))
"""
    text = text.replace("self.save_hyperparameters()", buffers, 1)
    with pytest.raises(TrainingError, match=r"weight `mean` is not finite .* in epoch 2"):
        train(make_model("lit", RECIPE, text), say=silent)


def test_best_epoch_is_chosen_by_one_quantity_or_not_at_all(make_model: MakeModel) -> None:
    text = code().replace(
        "x, y = batch\n        scores", "if self.current_epoch % 2: return\n        x, y = batch\n        scores"
    )
    folder = make_model("lit", BY_LOSS, text)
    with pytest.raises(TrainingError, match="chosen by val_loss, and in epoch 2 it would be by loss: Lit must log"):
        train(folder, say=silent)
    silent_one = TWO_BY_HAND.replace('self.log("val_loss", F.cross_entropy(self(x), y))', "pass")
    with pytest.raises(TrainingError, match="returns no loss, and no val_loss is logged") as caught:
        train(make_model("hand", BY_LOSS, write_class(silent_one)), say=silent)
    assert caught.value.hint == "log something and name it with training.monitor"


def test_metric_whose_value_has_a_graph_is_kept_within_an_epoch(make_model: MakeModel) -> None:
    text = code().replace(
        "return loss", 'self.error(self(x)[:, 0], y.float()); self.log("error", self.error); return loss'
    )
    text = text.replace("self.accuracy = ", "self.error = torchmetrics.MeanSquaredError()\n        self.accuracy = ", 1)
    run = train(make_model("lit", RECIPE, text), overrides=["training.checkpoint_every=2"], say=silent)
    assert run.history[-1]["error"] > 0


def test_run_of_another_model_or_of_other_data_is_refused_before_a_hook_runs(make_model: MakeModel) -> None:
    methods = "def on_fit_start(self): raise RuntimeError('ran')"
    plain = """
from torch import nn

class Lit(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(x)
"""
    data = code()[code().index("def load_data") :]
    folder = make_model("lit", RECIPE.replace('monitor = "val_acc"', ""), f"import torch\n{plain}\n{data}")
    train(folder, epochs=1, say=silent)
    (folder / "model.py").write_text(code(methods=methods))
    with pytest.raises(ResumeError, match="is a LightningModule and was none when the run began"):
        train(folder, resume=True, epochs=2, say=silent)
    folder = make_model("other", RECIPE, code())
    train(folder, epochs=1, say=silent)
    (folder / "model.py").write_text(code(methods=methods).replace("manual_seed(1)", "manual_seed(2)"))
    with pytest.raises(ResumeError, match="the data is not what the run began with"):
        train(folder, resume=True, epochs=2, say=silent)


def test_what_was_kept_on_the_cpu_is_not_moved_to_the_modules_device() -> None:
    module = torch.nn.Linear(1, 1, device="meta")
    values = {"losses": [torch.ones(1), torch.ones(1)], "center": torch.ones(1), "older": torch.ones(1)}
    put_back(module, {"values": {"": values}, "on_cpu": {"": {"losses": [True, False], "center": [False]}}})
    assert [loss.device.type for loss in module.losses] == ["cpu", "meta"]
    assert module.center.device.type == module.older.device.type == "meta"


def test_finished_training_goes_on_with_more_epochs(make_model: MakeModel) -> None:
    form = FORMS["a schedule that watches"]
    one, two = make_model("one", RECIPE, code(form)), make_model("two", RECIPE, code(form))
    train(one, epochs=2, say=silent)
    train(one, epochs=4, resume=True, say=silent)
    train(two, epochs=4, say=silent)
    assert_same(last(one)["model"], last(two)["model"])
    assert_same(last(one)["history"], last(two)["history"])


def test_history_metrics_and_report_hold_what_was_logged_and_the_best_epoch_is_by_it(make_model: MakeModel) -> None:
    folder = make_model("lit", RECIPE, code())
    lines: list[str] = []
    run = train(folder, say=lines.append)
    columns = ["epoch", "iteration", "loss", "train_loss", "worst", "val_loss", "val_acc", "lr", "seconds"]
    assert list(run.history[0]) == columns
    assert "the best checkpoint is that of the largest val_acc" in lines
    best = max(run.history, key=lambda row: row["val_acc"])
    assert run.best_epoch == best["epoch"]
    assert run.metrics == {"loss": best["val_loss"], "acc": best["val_acc"]}
    recipe = (run.path / "recipe.toml").read_text()
    assert "[optimizer]" not in recipe and "[loss]" not in recipe
    assert evaluate_run(folder).evaluation.metrics.keys() == {"acc"}  # test_step
    page = (run.path / "report.html").read_text()
    assert "train_loss" in page and "worst" in page


def test_exported_file_holds_nothing_of_lightning_and_the_host_runs_it(make_model: MakeModel) -> None:
    folder = make_model("lit", RECIPE, code())
    train(folder, say=silent)
    version = export(folder)
    with zipfile.ZipFile(version.path) as archive:
        scripts = [name for name in archive.namelist() if "/code/" in name or "data.pkl" in name]
        text = b"".join(archive.read(name) for name in scripts).lower()
    assert b"linear" in text
    for word in (b"lightning", b"torchmetrics", b"accuracy", b"training_step", b"hparams"):
        assert word not in text, word
    assert [metric.name for metric in version.contract.metrics] == ["acc"]
    import rust_host

    model = rust_host.Model(version.path)
    x = np.ones((2, 3), dtype=np.float32)
    assert model.run({"x": x})["output"].shape == (2, 2)


def test_recording_is_exported_too(make_model: MakeModel) -> None:
    folder = make_model("lit", RECIPE, code())
    assert export(folder, method="trace", untrained=True).cases > 0


BLOCKING = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lightning", "pytorch_lightning", "torchmetrics", "lightning_utilities"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from py_authoring.cli import main
main()
"""


def test_where_lightning_cannot_be_imported_plain_models_train(make_model: MakeModel) -> None:
    make_model("plain")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", BLOCKING, "train", "plain", "--epochs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr


def test_where_lightning_is_not_installed_a_module_of_it_says_what_to_install(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lightning"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ModelFileError, match=r"models/lit/model\.py:\d+: ModuleNotFoundError: import of lightning"
    ) as caught:
        train(make_model("lit", RECIPE, code()), say=silent)
    assert caught.value.hint == '`pip install "rust-host[lightning]"` has it'


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("def train_dataloader(self): ...", r"train_dataloader: data comes from the recipe's \[data\]"),
        ("def val_dataloader(self): ...", "val_dataloader: data comes"),
        ("def configure_callbacks(self): return []", "configure_callbacks: early stopping"),
        ("def configure_model(self): ...", "configure_model: an exported model is built by __init__"),
        ("def training_epoch_end(self, outputs): ...", "training_epoch_end: Lightning 2 has on_train_epoch_end"),
    ],
)
def test_hook_that_is_not_run_is_refused_by_name_before_training(
    make_model: MakeModel, method: str, message: str
) -> None:
    folder = make_model("lit", RECIPE, code(methods=method))
    with pytest.raises(RefusedError, match=f"Lit overrides a hook that py-authoring does not run: {message}"):
        train(folder, say=silent)
    assert not (folder / "runs").exists()


def test_hook_that_a_newer_lightning_may_have_is_refused(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pl.core.hooks.ModelHooks, "on_tomorrow", lambda self: None, raising=False)
    folder = make_model("lit", RECIPE, code(methods="def on_tomorrow(self): ...\ndef val_dataloader(self): ..."))
    with pytest.raises(RefusedError, match="does not run") as caught:
        train(folder, say=silent)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["val_dataloader", "on_tomorrow"]


def test_hooks_of_predicting_do_no_harm(make_model: MakeModel) -> None:
    methods = "def predict_step(self, batch, batch_idx): ...\ndef on_predict_start(self): ..."
    train(make_model("lit", RECIPE, code(methods=methods)), epochs=1, say=silent)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("return loss", 'return "much"', "training_step of Lit returns str; expected a tensor, a dict"),
        ("return loss", 'return {"lost": loss}', "training_step of Lit returns a dict with loss NoneType; expected"),
        ("return loss", "return loss.detach()", "training_step of Lit returns a loss that depends on no weight"),
        ("return loss", "return loss.repeat(3)", r"training_step of Lit returns a loss of shape \[3\]; expected one"),
        (ADAM, "return None", "configure_optimizers of Lit returns no optimizer"),
        (ADAM, "return 'adam'", "configure_optimizers of Lit: Unknown configuration"),
        (ADAM, f"{ADAM}, {ADAM[7:]}", "Training with multiple optimizers is only supported with manual optimization"),
        ("def training_step", "def my_step", "Lit has no `training_step`"),
        ("def configure_optimizers", "def optimize", "Lit has no `configure_optimizers`"),
    ],
)
def test_what_a_module_returns_wrongly_is_a_sentence(make_model: MakeModel, old: str, new: str, message: str) -> None:
    folder = make_model("lit", RECIPE, code().replace(old, new))
    with pytest.raises(ModelFileError, match=message) as caught:
        train(folder, say=silent)
    assert "models/lit/model.py" in caught.value.message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("return loss", "return loss / 0", "the loss is not finite"),
        ("return loss", "return loss + self.nothing", "model.py:28: while training: AttributeError"),
        ("return loss", "return loss + self.trainer.fit_loop", "self.trainer.fit_loop is not there: under py-auth"),
        ("return loss", "self.trainer.should_stop = True; return loss", "should_stop was set within an epoch"),
        ("self.accuracy(scores, y)", "raise KeyError('y')", "model.py:33: while evaluating: KeyError"),
        ('self.log("worst"', 'self.log("train_loss"', "while training: ValueError: self.log"),
        ('"val_acc": self', '"val_acuracy": self', "training.monitor is `val_acc`, which Lit does not log; logged: tr"),
    ],
)
def test_what_goes_wrong_in_training_is_a_sentence(make_model: MakeModel, old: str, new: str, message: str) -> None:
    folder = make_model("lit", RECIPE, code().replace(old, new))
    with pytest.raises(TrainingError, match=message):
        train(folder, say=silent)


def test_recipe_that_says_what_the_module_says_is_refused(make_model: MakeModel) -> None:
    recipe = RECIPE.replace('monitor = "val_acc"', "") + '[optimizer]\nname = "adam"\n'
    folder = make_model("lit", recipe, code())
    with pytest.raises(RecipeError, match=r"optimizer.name is given, and configure_optimizers makes the optimizer"):
        train(folder, say=silent)
    folder = make_model("lit", RECIPE, code())
    with pytest.raises(RecipeError, match=r"accumulate .* is not for a LightningModule: a step of a LightningModule"):
        train(folder, overrides=["training.accumulate=2"], say=silent)
    with pytest.raises(RecipeError, match="--lr is given, and configure_optimizers makes") as caught:
        train(folder, lr=0.1, say=silent)
    assert "model.arguments.lr=" in (caught.value.hint or "")
    run = train(folder, epochs=1, overrides=["model.arguments.lr=0.5"], say=silent)
    assert run.history[0]["lr"] == 0.5


def test_learning_rates_are_not_tried_with_an_optimizer_of_its_own(make_model: MakeModel) -> None:
    with pytest.raises(RefusedError, match="a LightningModule makes its own in configure_optimizers"):
        find_learning_rate(make_model("lit", RECIPE, code()))


def test_plain_model_still_needs_a_metric_that_there_is(make_model: MakeModel) -> None:
    recipe = '[model]\nclass = "Tiny"\n[data]\nkind = "function"\n[training]\nmonitor = "val_acc"\n'
    with pytest.raises(RecipeError, match=r"recipe.toml:6: training.monitor is \"val_acc\"; expected loss or accuracy"):
        train(make_model("tiny", recipe), say=silent)


def test_module_can_ask_to_stop_at_an_epochs_end(make_model: MakeModel) -> None:
    methods = "def on_validation_epoch_end(self): self.trainer.should_stop = self.current_epoch == 1"
    folder = make_model("lit", RECIPE, code(methods=methods))
    module, _ = train_with_lightning(folder)
    assert train(folder, say=silent).epochs == 2
    assert_equal_weights(module, last(folder)["model"])
    assert train(folder, resume=True, say=silent).epochs == 2


def test_layer_that_setup_makes_is_refused(make_model: MakeModel) -> None:
    methods = "def setup(self, stage): self.late = nn.Linear(1, 1)"
    with pytest.raises(ModelFileError, match=r"setup of Lit makes the weight `late\.weight`, which no exported model"):
        train(make_model("lit", RECIPE, code(methods=methods)), say=silent)


def test_what_no_checkpoint_can_hold_is_refused(make_model: MakeModel) -> None:
    methods = "def on_save_checkpoint(self, checkpoint): checkpoint['me'] = type('Own', (), {})()"
    with pytest.raises(TrainingError, match=r"on_save_checkpoint adds what no checkpoint can hold \(me\)"):
        train(make_model("lit", RECIPE, code(methods=methods)), say=silent)


def test_example_of_the_docs_learns(make_model: MakeModel) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/lightning.md").read_text()
    blocks = {kind: re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)[0] for kind in ("python", "toml")}
    run = train(make_model("digits_lit", blocks["toml"], blocks["python"]), epochs=2, device="cpu", say=silent)
    assert run.metrics["acc"] > 0.8
