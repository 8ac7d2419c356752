"""The runs of all models: where they lie, in which order, and what each came to. No torch here.

In: `models/`. Out: a `RunSummary` a run, read from its small files alone.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from py_authoring import recipe_problems, recipe_toml, run_state
from py_authoring.errors import NotFoundError, UsageError
from py_authoring.recipe import find_model, flatten, model_names

RUNS = "runs"
CHECKPOINTS = "checkpoints"
#: Metrics of which a smaller value is the better one.
LOWER_IS_BETTER = ("loss", "mae", "mse", "rmse")
#: The same for names that a LightningModule logs or model.py's own metrics have, of which these may be a word.
_FALLING = (*LOWER_IS_BETTER, "error", "err", "nll", "bce", "perplexity", "ppl", "wer", "cer", "mape")
#: The first of these that was measured stands for a run where one number has room.
_SHOWN = ("accuracy", "f1", "r2", "mae", "rmse", "loss")


@dataclass(frozen=True)
class RunSummary:
    """One run in a list.

    Attributes:
        model: the model's name.
        run: the run's name.
        path: its folder.
        started: RFC 3339, or None where nobody wrote it down.
        state: running, finished, interrupted, failed or killed.
        epochs: how many are done; `planned` is what the recipe asks for.
        planned: None where the recipe cannot be read.
        best_epoch: the epoch of the best checkpoint.
        metric: which one `value` is, as `val_accuracy`; both are of the best epoch.
        value: None before the first epoch.
        seconds: how long all epochs took together.
    """

    model: str
    run: str
    path: Path
    started: str | None
    state: run_state.State
    epochs: int
    planned: int | None
    best_epoch: int | None
    metric: str | None
    value: float | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "path": str(self.path)}


class RunList(list[RunSummary]):
    """Runs in a list that a notebook shows as a table."""

    def _repr_html_(self) -> str | None:
        from py_authoring.report import notebook

        return notebook.show_runs(self)


def list_runs(directory: Path) -> list[Path]:
    """The runs of a model that have a checkpoint, oldest first."""
    runs = [path.parent.parent for path in (directory / RUNS).glob(f"[!.]*/{CHECKPOINTS}/last.pt")]
    return sorted(runs, key=lambda path: [_order(part) for part in path.name.split("-")])


def summarize_runs(models: Sequence[str | Path] = ()) -> RunList:
    """All runs of some models, or of all in ./models; by model, oldest first.

    Raises:
        NotFoundError: there is no such model.
    """
    folders = [find_model(model) for model in models] if models else [Path("models") / name for name in model_names()]
    return RunList(summarize_run(run) for folder in folders for run in list_runs(folder))


def summarize_run(folder: Path) -> RunSummary:
    """What one run came to; a file that is damaged or missing leaves its part out.

    Args:
        folder: `models/NAME/runs/<run>`.
    """
    recipe, history = read_recipe(folder), read_history(folder)
    best = best_row(history, str(recipe.get("training.monitor", "loss")))
    shown = [*(f"val_{name}" for name in _SHOWN), "loss"]
    metric = next((key for key in shown if best is not None and best.get(key) is not None), None)
    planned = recipe.get("training.epochs")
    return RunSummary(
        model=model_of(folder),
        run=folder.name,
        path=folder,
        started=read_json(folder / "environment.json").get("created"),
        state=run_state.read_state(folder).state,
        epochs=len(history),
        planned=planned if isinstance(planned, int) else None,
        best_epoch=int(best["epoch"]) if best else None,
        metric=metric,
        value=best[metric] if best and metric else None,
        seconds=round(math.fsum(row.get("seconds") or 0.0 for row in history), 3),
    )


def find_run_folder(run: str | Path) -> Path:
    """The folder of a run: a path, `NAME` for the latest run of a model, or `NAME/RUN`.

    Raises:
        NotFoundError: there is no such run; names the nearest.

    Example:
        >>> find_run_folder("mnist/20991231")
        Traceback (most recent call last):
            ...
        py_authoring.errors.NotFoundError: no run `mnist/20991231`: model `mnist` has no run of that name
    """
    text = str(run).rstrip("/")
    if (Path(text) / CHECKPOINTS).is_dir():
        return Path(text)
    model, slash, name = text.rpartition("/")
    try:
        directory = find_model(text)
    except NotFoundError:
        if not slash:
            raise  # it names the models there are
    else:
        found = list_runs(directory)
        if not found:
            raise _no_run(text, f"model `{directory.resolve().name}` was not trained", [], f"py-authoring train {text}")
        return found[-1]
    try:
        directory = find_model(model)
    except NotFoundError as error:
        raise NotFoundError(
            f"no run `{text}`: it is no run's folder, no model and no MODEL/RUN", hint="`py-authoring runs` lists them"
        ) from error
    known = [path.name for path in list_runs(directory)]
    if name in known:
        return directory / RUNS / name
    raise _no_run(text, f"model `{directory.resolve().name}` has no run of that name", known, "py-authoring runs")


def new_name(folder: Path, now: datetime.datetime | None = None) -> str:
    """A name in a folder for what starts now, later in order than all others: `20261125-101500`, `…-2` in a second.

    Args:
        folder: what lies there has names already.
        now: default: the time of the machine.
    """
    stem = (now or datetime.datetime.now()).strftime("%Y%m%d-%H%M%S")
    name, count = stem, 1
    while (folder / name).exists():
        count += 1
        name = f"{stem}-{count}"
    return name


def check_name(name: str) -> str:
    """A name that a person gave to a run or a sweep, if it can be a folder's.

    Raises:
        UsageError: it cannot.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
        raise UsageError(
            f"`{name}` can be no name; expected letters, digits, `.`, `_` and `-`, not first a `.` or `-`, at most 100"
        )
    return name


def command_name(directory: Path) -> str:
    """What to type for a model on the command line: its name, or its folder's path."""
    return directory.name if directory.parent == Path("models") else str(directory)


def model_of(folder: Path) -> str:
    """The name of the model that a run's folder belongs to."""
    return folder.resolve().parent.parent.name


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The rows of `history.jsonl`, one an epoch, as far as they can be read."""
    rows: list[dict[str, Any]] = []
    with suppress(OSError, ValueError):
        for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("epoch"), int):
                rows.append(row)
    return rows


def read_recipe(folder: Path) -> dict[str, Any]:
    """The recipe of a run: dotted key → value; empty where it cannot be read."""
    with suppress(OSError, ValueError):
        return flatten(recipe_toml.parse((folder / "recipe.toml").read_text(encoding="utf-8")))
    return {}


def read_json(file: Path) -> dict[str, Any]:
    """An object from a JSON file; empty where there is none."""
    with suppress(OSError, ValueError):
        document = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(document, dict):
            return document
    return {}


def best_row(history: Sequence[Mapping[str, Any]], monitor: str) -> dict[str, Any] | None:
    """The best epoch by the monitored metric, the earlier of two equal ones; None where it is finite in none."""
    best = max(history, key=lambda row: score(row, monitor), default=None)
    return dict(best) if best is not None and math.isfinite(score(best, monitor)) else None


def score(row: Mapping[str, Any], monitor: str) -> float:
    """How good an epoch was, higher is better: by `val_<monitor>`, or by the training loss where nothing validates."""
    key = monitored_key(row, monitor)
    value = row.get(key)
    if value is None or not math.isfinite(value):
        return -math.inf
    return -float(value) if lower_is_better(key) else float(value)


def monitored_key(row: Mapping[str, Any], monitor: str) -> str:
    """The column that `training.monitor` means: of the validation, or one that a module logged, or the training loss.

    Example:
        >>> monitored_key({"loss": 0.3, "val_loss": 0.4}, "loss"), monitored_key({"loss": 0.3}, "accuracy")
        ('val_loss', 'loss')
    """
    return next((key for key in (f"val_{monitor}", monitor) if key in row), "loss")


def lower_is_better(name: str) -> bool:
    """Whether a smaller value is the better one, by the words of its name.

    Example:
        >>> lower_is_better("val_loss"), lower_is_better("valid/word_error"), lower_is_better("val_accuracy")
        (True, True, False)
    """
    return any(word in _FALLING for word in re.split(r"[^a-z0-9]+", name.lower()))


def _no_run(text: str, why: str, known: Sequence[str], command: str) -> NotFoundError:
    near = recipe_problems.suggest(text.rpartition("/")[2], list(known))
    hint = f"runs there: {', '.join(known[-5:])}" if known else f"`{command}`"
    return NotFoundError(f"no run `{text}`: {why}{near}", hint=hint)


# Numbers by their size, before words: a folder that someone renamed must not end every listing.
def _order(part: str) -> tuple[int, int, str]:
    return (0, int(part), "") if part.isdecimal() else (1, 0, part)
