"""What a training can do besides: each is bit-equal after a stop within an epoch, and ends up in what is exported."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from py_authoring import checkpoint
from py_authoring.averaging import WeightAverage
from py_authoring.errors import InterruptedRunError, ModelFileError, TrainingError
from py_authoring.model_file import build_model
from py_authoring.recipe import load_recipe
from py_authoring.time_profile import TimeProfile
from py_authoring.training import train

MakeModel = Callable[..., Path]
ITERATIONS_OF_EPOCH = 7


def silent(text: str) -> None:
    pass


def load(folder: Path, file: str) -> dict:
    return checkpoint.load_checkpoint(checkpoint.find_run(folder) / "checkpoints" / file)


def assert_same(left: object, right: object, path: str = "") -> None:
    """Equal to the last bit, whatever the nesting; times and places aside."""
    if isinstance(left, torch.Tensor):
        assert isinstance(right, torch.Tensor) and torch.equal(left, right), path
    elif isinstance(left, dict):
        assert isinstance(right, dict) and left.keys() == right.keys(), path
        for key in left:
            if key not in ("seconds", "sources"):
                assert_same(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), path  # type: ignore[arg-type]
        for number, pair in enumerate(zip(left, right, strict=True)):  # type: ignore[call-overload]
            assert_same(*pair, f"{path}.{number}")
    else:
        assert left == right, path


FEATURES = {
    "accumulate": ["training.accumulate=3"],
    "bf16": ["training.precision=bf16", "training.clip_value=0.1"],
    "average": ["training.ema=0.8", "training.keep=2"],
    "warm-up": ["scheduler.name=cosine", "scheduler.period=2", "scheduler.warmup=1.3"],
    "one cycle": ["scheduler.name=one_cycle", "scheduler.period=2"],
    "plateau": ["scheduler.name=plateau", "scheduler.patience=0", "training.min_delta=10", "scheduler.warmup=0.5"],
    "all": [
        *["training.accumulate=2", "training.precision=bf16", "training.ema=0.9", "training.keep=1"],
        *["scheduler.name=plateau", "scheduler.patience=0", "scheduler.warmup_iterations=9", "training.patience=2"],
    ],
}


@pytest.mark.parametrize(
    ("feature", "stop", "calls"),
    # forward is called for each micro-batch, and the last batch of an epoch has 4 samples, not 6
    [
        *((name, 10, 10) for name in FEATURES if name not in ("accumulate", "all")),
        ("accumulate", 10, 28),
        ("all", 1, 2),
    ],
)
def test_stopped_and_resumed_training_is_bit_equal_with(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, feature: str, stop: int, calls: int
) -> None:
    whole, stopped = make_model("whole"), make_model("stopped")
    train(whole, overrides=FEATURES[feature], say=silent)
    monkeypatch.setenv("STOP_AT", str(calls))
    with pytest.raises(InterruptedRunError):
        train(stopped, overrides=FEATURES[feature], say=silent)
    monkeypatch.delenv("STOP_AT")
    assert load(stopped, "last.pt")["iteration"] == stop
    train(stopped, resume=True, say=silent)
    names = {file.name for file in (checkpoint.find_run(whole) / "checkpoints").iterdir()}
    assert names == {file.name for file in (checkpoint.find_run(stopped) / "checkpoints").iterdir()}
    for name in names:
        assert_same(load(whole, name), load(stopped, name))


def test_average_of_weights_is_that_of_its_formula_and_is_what_a_checkpoint_holds(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    update = WeightAverage.__call__

    def spy(self: WeightAverage, trainer: object) -> None:
        update(self, trainer)  # type: ignore[arg-type]
        seen.append({name: tensor.clone() for name, tensor in self._trained.state_dict().items()})

    monkeypatch.setattr(WeightAverage, "__call__", spy)
    folder = make_model()
    run = train(folder, overrides=["training.ema=0.8", "training.monitor=accuracy"], say=silent)
    assert len(seen) == 3 * ITERATIONS_OF_EPOCH
    last, best = load(folder, "last.pt"), load(folder, "best.pt")
    assert best["epoch"] == run.best_epoch and "average" not in best
    expected = seen[0]["first.weight"]
    for iteration, weights in enumerate(seen[1:], 2):
        expected = 0.8 * expected + 0.2 * weights["first.weight"]
        if iteration == best["iteration"]:
            torch.testing.assert_close(best["model"]["first.weight"], expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(last["model"]["first.weight"], expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(last["average"]["trained"]["first.weight"], seen[-1]["first.weight"])
    assert torch.equal(last["model"]["norm.running_mean"], seen[-1]["norm.running_mean"])

    # what the history says of an epoch is what the averaged weights do
    model = build_model(load_recipe(folder)).eval()
    model.load_state_dict(last["model"])
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))[:12]
    with torch.no_grad():
        accuracy = float((model(x).argmax(1) == (x.sum(1) > 0)).float().mean())
    assert run.history[-1]["val_accuracy"] == pytest.approx(accuracy)


def test_model_that_cannot_be_copied_is_told_before_a_run_begins(make_model: MakeModel) -> None:
    folder = make_model()
    code = folder / "model.py"
    code.write_text(
        code.read_text().replace(
            "super().__init__()", "super().__init__(); import threading; self.lock = threading.Lock()"
        )
    )
    with pytest.raises(ModelFileError, match=r"training\.ema needs a copy of the model"):
        train(folder, overrides=["training.ema=0.9"], say=silent)
    assert not (folder / "runs").exists()


def test_best_epochs_keep_a_checkpoint_each(make_model: MakeModel) -> None:
    folder = make_model()
    run = train(folder, epochs=5, overrides=["training.keep=2"], say=silent)
    ranked = sorted(run.history, key=lambda row: row["val_loss"] or 0.0)  # type: ignore[arg-type, return-value]
    files = {file.name for file in (run.path / "checkpoints").iterdir()}
    assert files == {"best.pt", "last.pt", *(f"epoch-{row['epoch']}.pt" for row in ranked[:2])}
    assert load(folder, f"epoch-{run.best_epoch}.pt")["metrics"] == load(folder, "best.pt")["metrics"]


def test_small_improvements_do_not_hold_off_early_stopping(make_model: MakeModel) -> None:
    overrides = ["training.patience=2", "training.min_delta=100"]
    assert train(make_model(), epochs=9, overrides=overrides, say=silent).epochs == 3


@pytest.mark.parametrize("feature", ["accumulate", "bf16", "average"])
def test_loss_that_is_not_finite_leaves_the_best_checkpoint_good(make_model: MakeModel, feature: str) -> None:
    folder = make_model()
    code = folder / "model.py"
    broken = "if self.training and calls > LIMIT:\n            x = x * float('nan')\n        return"
    limit = str(ITERATIONS_OF_EPOCH * (3 if feature == "accumulate" else 1) + 2)
    code.write_text(code.read_text().replace("return self.last", broken.replace("LIMIT", limit) + " self.last"))
    with pytest.raises(TrainingError, match=r"loss is not finite .* in epoch 2, iteration"):
        train(folder, overrides=FEATURES[feature], say=silent)
    for file in ("best.pt", "last.pt"):
        saved = load(folder, file)
        assert saved["epoch"] == 1
        assert all(bool(torch.isfinite(tensor).all()) for tensor in saved["model"].values())


def test_lines_say_batch_and_learning_rate_before_and_where_the_time_went_after(make_model: MakeModel) -> None:
    lines: list[str] = []
    overrides = ["training.accumulate=3", "scheduler.warmup=2"]
    run = train(make_model(), overrides=overrides, say=lines.append)
    rate = "learning rate 0.01 after a warm-up of 14 iterations, schedule step"
    assert f"batch 6 in 3 micro-batches of at most 2, 7 iterations an epoch, {rate}" in lines
    (line,) = (line for line in lines if line.startswith("time: "))
    shares = re.fullmatch(
        r"time: data (\d+) %, forward and backward (\d+) %, validation (\d+) %, checkpoints and other handlers (\d+) %",
        line,
    )
    assert shares is not None and 98 <= sum(map(int, shares.groups())) <= 102
    seconds = json.loads((run.path / "metrics.json").read_text())["seconds"]
    assert seconds.keys() == {"data", "compute", "validation", "other"} and all(each > 0 for each in seconds.values())
    epochs = sum(row["seconds"] or 0.0 for row in run.history)
    assert seconds["data"] + seconds["compute"] + seconds["validation"] <= epochs + 0.01


def test_profile_points_to_workers_where_the_model_waits_for_data(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = TimeProfile()
    assert profile.line(0) is None
    profile.seconds = {"data": 40.0, "compute": 50.0, "validation": 8.0, "other": 2.0}
    assert "validation 8 %" in str(profile.line(0))
    assert str(profile.line(0)).endswith("2 %; training.workers would read ahead while the model computes")
    assert str(profile.line(2)).endswith("; more than 2 training.workers would read ahead while the model computes")
    profile.seconds["data"] = 4.0  # not worth the start of a process
    assert str(profile.line(0)).endswith("3 %")
