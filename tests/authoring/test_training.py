"""One training, stopped or not, ends the same; what a run leaves; what is refused."""

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from py_authoring import checkpoint, session
from py_authoring.errors import (
    CheckpointError,
    DataError,
    InterruptedRunError,
    NotFoundError,
    ResumeError,
    TrainingError,
)
from py_authoring.importing import import_model
from py_authoring.learnt import Learnt
from py_authoring.model_file import build_model
from py_authoring.recipe import load_recipe
from py_authoring.run_state import read_state
from py_authoring.runs import summarize_run
from py_authoring.training import train

MakeModel = Callable[..., Path]
ITERATIONS_OF_EPOCH = 7


def silent(text: str) -> None:
    pass


def last(folder: Path) -> dict:
    return checkpoint.load_checkpoint(checkpoint.find_checkpoint(folder, which="last"))


def assert_same(left: object, right: object, path: str = "") -> None:
    """Equal to the last bit, whatever the nesting; the times of the history aside."""
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


@pytest.mark.parametrize("stops", ["1", "3", "7", "8", "14", "20", "21", "2,3", "7,10"])
def test_stopped_and_resumed_training_equals_uninterrupted_one_bit_for_bit(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, stops: str
) -> None:
    whole, stopped = make_model("whole"), make_model("stopped")
    train(whole, say=silent)

    first, *rest = (int(stop) for stop in stops.split(","))
    monkeypatch.setenv("STOP_AT", str(first))
    with pytest.raises(InterruptedRunError, match="interrupted at iteration"):
        train(stopped, say=silent)
    for stop in rest:
        monkeypatch.setenv("STOP_AT", str(stop - first))
        with pytest.raises(InterruptedRunError):
            train(stopped, resume=True, say=silent)
        first = stop
    monkeypatch.delenv("STOP_AT")
    torch.rand(5)  # whatever happened in between must not matter
    train(stopped, resume=True, say=silent)

    assert_same(last(whole), last(stopped))
    files = [checkpoint.find_checkpoint(folder, which="best") for folder in (whole, stopped)]
    assert_same(*(checkpoint.load_checkpoint(file) for file in files))
    rows = [(checkpoint.find_run(folder) / "history.jsonl").read_text().splitlines() for folder in (whole, stopped)]
    assert_same(*([json.loads(row) for row in each] for each in rows))


def test_interrupted_training_names_checkpoint_and_the_way_to_go_on(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model()
    monkeypatch.setenv("STOP_AT", "10")
    with pytest.raises(InterruptedRunError) as caught:
        train("tiny", say=silent)
    assert caught.value.exit_code == 130
    assert "iteration 10, 1 of 3 epochs done" in caught.value.message
    assert caught.value.hint == "`py-authoring train tiny --resume` goes on from there"
    assert last(folder)["iteration"] == 10


def test_finished_training_goes_on_with_more_epochs(make_model: MakeModel) -> None:
    one, two = make_model("one"), make_model("two")
    lines: list[str] = []
    train(one, epochs=2, say=silent)
    train(one, epochs=4, resume=True, say=lines.append)
    train(two, epochs=4, say=silent)
    first, second = last(one), last(two)
    assert_same(first["model"], second["model"])
    assert_same(first["history"], second["history"])
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["3/4", "4/4"]
    assert any(line.startswith("changed: training.epochs was 2, is now 4") for line in lines)


def test_resuming_finished_training_does_nothing(make_model: MakeModel) -> None:
    folder = make_model()
    train(folder, say=silent)
    before = last(folder)
    lines: list[str] = []
    run = train(folder, epochs=1, resume=True, say=lines.append)
    assert run.epochs == 3 and any("is complete" in line for line in lines)
    assert_same(before, last(folder))


def test_resume_remembers_what_the_run_was_given(make_model: MakeModel) -> None:
    folder = make_model()
    train(folder, epochs=2, lr=0.5, overrides=["training.batch_size=5"], say=silent)
    run = train(folder, epochs=3, resume=True, say=silent)
    assert run.epochs == 3
    stored = last(folder)["recipe"]
    assert (stored["optimizer"]["lr"], stored["training"]["batch_size"]) == (0.5, 5)


def test_resume_with_another_recipe_is_refused_with_key_old_and_new_value(make_model: MakeModel) -> None:
    folder = make_model()
    train(folder, say=silent)
    before = last(folder)
    recipe = folder / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("batch_size = 6", "batch_size = 8"))
    with pytest.raises(ResumeError) as caught:
        train(folder, lr=0.02, resume=True, say=silent)
    assert caught.value.exit_code == 2
    assert caught.value.problems == (
        "optimizer.lr was 0.01, is now 0.02 (--lr)",
        "training.batch_size was 6, is now 8 (recipe.toml:10)",
    )
    assert_same(before, last(folder))


def test_resume_with_other_data_is_refused(make_model: MakeModel) -> None:
    folder = make_model()
    train(folder, say=silent)
    code = folder / "model.py"
    code.write_text(code.read_text().replace("manual_seed(1)", "manual_seed(2)"))
    with pytest.raises(ResumeError, match="the data is not what the run began with"):
        train(folder, resume=True, say=silent)


@pytest.mark.parametrize("stop", [None, "10"])
def test_run_whose_resuming_is_refused_stays_in_its_state(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, stop: str | None
) -> None:
    folder = make_model()
    monkeypatch.setenv("STOP_AT", stop or "")
    with pytest.raises(InterruptedRunError) if stop else nullcontext():
        train(folder, say=silent)
    (run,) = (folder / "runs").iterdir()
    before = read_state(run)
    assert before.state == ("interrupted" if stop else "finished")
    code = folder / "model.py"
    code.write_text(code.read_text().replace("manual_seed(1)", "manual_seed(2)"))
    with pytest.raises(ResumeError):
        train(folder, resume=True, say=silent)
    assert read_state(run) == before


def test_interrupt_before_a_complete_run_goes_on_leaves_its_state(make_model: MakeModel) -> None:
    run = train(make_model(), say=silent)

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError):
        train("tiny", resume=True, say=interrupt)
    assert read_state(run.path).state == "finished"


def test_error_with_half_a_character_is_written_down(make_model: MakeModel) -> None:
    folder = make_model()
    code = folder / "model.py"
    code.write_text(code.read_text().replace("calls += 1", "calls += 1\n            assert calls < 3, '\\ud800'"))
    with pytest.raises(TrainingError, match="AssertionError: \ud800"):
        train(folder, say=silent)
    (run,) = (folder / "runs").iterdir()
    assert read_state(run).state == "failed" and "\ud800" in str(read_state(run).message)


def test_resume_with_other_weights_is_refused(make_model: MakeModel) -> None:
    folder = make_model()
    train(folder, say=silent)
    code = folder / "model.py"
    code.write_text(code.read_text().replace("hidden=8", "hidden=9"))
    with pytest.raises(ResumeError, match=r"model\.py, which has changed"):
        train(folder, resume=True, say=silent)


def test_resume_without_run_says_how_to_start_one(make_model: MakeModel) -> None:
    make_model()
    with pytest.raises(NotFoundError) as caught:
        train("tiny", resume=True, say=silent)
    assert caught.value.hint == "`py-authoring train tiny`"


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop", "adadelta"])
def test_every_optimizer_resumes_exactly(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    whole, stopped = make_model("whole"), make_model("stopped")
    overrides = [f"optimizer.name={optimizer}", "scheduler.name=cosine", "scheduler.period=4", "training.clip_norm=0.5"]
    overrides += ["optimizer.momentum=0.9"] if optimizer in ("sgd", "rmsprop") else []
    train(whole, overrides=overrides, say=silent)
    monkeypatch.setenv("STOP_AT", "9")
    with pytest.raises(InterruptedRunError):
        train(stopped, overrides=overrides, say=silent)
    monkeypatch.delenv("STOP_AT")
    train(stopped, resume=True, say=silent)
    assert_same(last(whole), last(stopped))


def test_early_stopping_ends_training_and_is_kept_over_a_stop(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = make_model("whole"), make_model("stopped")
    # the weights do not move, so no epoch after the first is better
    overrides = ["optimizer.name=sgd", "optimizer.lr=1e-30", "training.patience=3", "training.epochs=50"]
    overrides += ["training.monitor=accuracy"]
    assert train(whole, overrides=overrides, say=silent).epochs < 50
    monkeypatch.setenv("STOP_AT", str(2 * ITERATIONS_OF_EPOCH + 3))
    with pytest.raises(InterruptedRunError):
        train(stopped, overrides=overrides, say=silent)
    monkeypatch.delenv("STOP_AT")
    train(stopped, resume=True, say=silent)
    assert_same(last(whole), last(stopped))
    lines: list[str] = []
    train(stopped, resume=True, say=lines.append)
    assert not [line for line in lines if line.startswith("epoch")]


@pytest.mark.parametrize("lr", [1e30, 1e38])
def test_loss_that_is_not_finite_stops_with_a_sentence_and_is_never_the_best(make_model: MakeModel, lr: float) -> None:
    folder = make_model(recipe=(TINY_SGD))
    with pytest.raises(TrainingError, match="not finite") as caught:
        train(folder, lr=lr, say=silent)
    assert "--lr" in str(caught.value.hint)
    with pytest.raises(NotFoundError, match="no best checkpoint"):
        checkpoint.find_checkpoint(folder)
    for tensor in last(folder)["model"].values():
        assert torch.isfinite(tensor).all()


def test_mistake_in_forward_names_its_line(make_model: MakeModel) -> None:
    folder = make_model()
    code = folder / "model.py"
    code.write_text(code.read_text().replace("nn.Linear(hidden, 2)", "nn.Linear(hidden + 1, 2)"))
    with pytest.raises(TrainingError, match=r"models/tiny/model\.py:\d+: .*RuntimeError: .*cannot be multiplied"):
        train(folder, say=silent)
    assert not (folder / "runs").exists()


def test_model_without_data_is_not_trained(make_model: MakeModel) -> None:
    folder = make_model(recipe='[model]\nclass = "Tiny"\n[data]\nkind = "none"\n')
    with pytest.raises(DataError, match=r'has no data: data\.kind is "none"'):
        train(folder, say=silent)


def test_run_holds_the_files_that_scripts_read(make_model: MakeModel) -> None:
    folder = make_model()
    run = train(folder, seed=3, say=silent)
    names = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    assert names == {
        "recipe.toml",
        "environment.json",
        "history.jsonl",
        "history.csv",
        "metrics.json",
        "confusion_matrix.png",
        "report.html",
        "evidence.json",
        "state.json",
        "checkpoints/best.pt",
        "checkpoints/last.pt",
    }
    assert (run.path / "confusion_matrix.png").read_bytes()[:4] == b"\x89PNG"
    assert "seed = 3" in (run.path / "recipe.toml").read_text()
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["torch"] == torch.__version__ and environment["device"] == "cpu"
    rows = [json.loads(line) for line in (run.path / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert {"loss", "val_loss", "val_accuracy", "val_precision", "val_recall", "val_f1", "lr"} <= set(rows[0])
    assert [row["lr"] for row in rows] == [0.01, 0.005, 0.0025]
    assert (run.path / "history.csv").read_text().splitlines()[0].startswith("epoch,iteration,loss,val_loss")
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert math.isclose(metrics["validation"]["metrics"]["loss"], min(row["val_loss"] for row in rows), rel_tol=1e-6)


def test_line_of_an_epoch_has_loss_accuracy_time_and_what_is_left(make_model: MakeModel) -> None:
    lines: list[str] = []
    train(make_model(), say=lines.append)
    epochs = [line for line in lines if line.startswith("epoch")]
    assert len(epochs) == 3
    number = r"[\d.e-]+"
    import re

    assert re.fullmatch(rf"epoch 3/3  loss {number}  val_accuracy {number}  {number} s  left 0:00", epochs[-1])


def test_training_without_validation_keeps_the_epoch_of_smallest_loss(make_model: MakeModel) -> None:
    recipe = '[model]\nclass = "Small"\n[data]\nkind = "function"\nvalidation = 0.0\ntest = 0.0\n'
    code = (
        "import torch\n"
        "class Small(torch.nn.Linear):\n"
        "    def __init__(self): super().__init__(3, 2)\n"
        "    def forward(self, x): return super().forward(x)\n"
        "def load_data(): return {'x': torch.randn(20, 3)}, torch.arange(20) % 2\n"
    )
    run = train(make_model(recipe=recipe, code=code), epochs=2, say=silent)
    assert run.best_epoch == min(run.history, key=lambda row: row["loss"] or 0.0)["epoch"]
    assert (run.path / "checkpoints" / "best.pt").is_file()


def test_damaged_checkpoint_is_refused_in_a_sentence(make_model: MakeModel) -> None:
    folder = make_model()
    train(folder, say=silent)
    file = checkpoint.find_checkpoint(folder, which="last")
    whole = file.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"checkpoint `.*last\.pt`"):
            train(folder, resume=True, say=silent)
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    file.write_bytes(flipped)
    with pytest.raises(CheckpointError):
        checkpoint.load_checkpoint(file)


def test_latest_run_is_found_by_name_not_by_time_of_change(make_model: MakeModel) -> None:
    folder = make_model()
    for name in ("20260101-000000", "20260101-000000-2", "20260101-000000-10", "20251231-235959"):
        file = folder / "runs" / name / "checkpoints" / "last.pt"
        file.parent.mkdir(parents=True)
        file.touch()
    assert [run.name for run in checkpoint.list_runs(folder)][-2:] == ["20260101-000000-2", "20260101-000000-10"]
    assert checkpoint.find_run(folder).name == "20260101-000000-10"


TINY_SGD = """
[model]
class = "Tiny"
[data]
kind = "function"
[training]
batch_size = 6
device = "cpu"
[optimizer]
name = "sgd"
"""


def test_imported_weights_cannot_be_resumed_and_that_is_a_sentence(make_model: MakeModel) -> None:
    folder = make_model()
    state = build_model(load_recipe(folder)).state_dict()
    save_file(state, "w.safetensors")
    import_model("w.safetensors", model=str(folder))
    with pytest.raises(ResumeError, match=r"this checkpoint holds w\.safetensors and no state of a training to go on"):
        train(folder, resume=True, say=silent)


LINE = """
import torch
class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(3, 1)
    def forward(self, x):
        return self.inner(x) + 1e6
def load_data():
    x = torch.randn(600, 3, generator=torch.Generator().manual_seed(0))
    y = 1e6 + 100 * x.sum(1)
    return ({"x": x}, y), ({"x": x[:SAMPLES]}, y[:SAMPLES] * VARY), ({"x": x[:9]}, y[:9])
"""
LINE_RECIPE = """
[model]
class = "Line"
[data]
kind = "function"
[loss]
name = "mse"
[training]
epochs = 2
device = "cpu"
monitor = "r2"
"""


@pytest.mark.parametrize(("samples", "vary"), [(1, 1), (5, 0)])
def test_targets_that_do_not_vary_have_no_r2_and_the_training_ends_without_a_best_epoch(
    make_model: MakeModel, run_command: Callable, samples: int, vary: int
) -> None:
    folder = make_model("line", LINE_RECIPE, LINE.replace("SAMPLES", str(samples)).replace("VARY", str(vary)))
    run = train(folder, say=silent)
    assert [row["val_r2"] for row in run.history] == [None, None] and run.epochs == 2
    assert run.best_epoch is None and run.metrics == {}
    assert summarize_run(run.path).best_epoch is None and read_state(run.path).state == "finished"
    assert (run.path / "report.html").is_file()
    result = run_command("evaluate", "line", "--checkpoint", "last", "--split", "validation", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout, parse_constant=pytest.fail)["metrics"]["r2"] is None
    json.loads((run.path / "metrics.json").read_text(), parse_constant=pytest.fail)


def test_r2_of_large_targets_is_that_of_the_definition(make_model: MakeModel) -> None:
    run = train(make_model("line", LINE_RECIPE, LINE.replace("SAMPLES", "600").replace("VARY", "1")), say=silent)
    x = torch.randn(600, 3, generator=torch.Generator().manual_seed(0))
    weights = last(run.path.parent.parent)["model"]
    y = (1e6 + 100 * x.sum(1)).double()
    said = (x @ weights["inner.weight"].T + weights["inner.bias"] + 1e6)[:, 0].double()
    expected = 1 - float(((y - said) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    assert run.history[-1]["val_r2"] == pytest.approx(expected, abs=1e-6)


def test_what_was_learnt_is_described_once_a_training(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    described = []
    facts = Learnt(vocabulary=["a", "b"])
    load, describe = session.load_splits, Learnt.to_dict
    monkeypatch.setattr(session, "load_splits", lambda *given: replace(load(*given), learnt=facts))
    monkeypatch.setattr(Learnt, "to_dict", lambda self: described.append(self) or describe(self))
    folder = make_model()
    train(folder, say=silent)
    assert described == [facts] and last(folder)["learnt"] == facts.to_dict()
