"""The files of a run besides its checkpoints and its report: recipe, environment, history, metrics, picture.

Scripts read these names: `recipe.toml environment.json history.jsonl history.csv metrics.json confusion_matrix.png`.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ignite
import numpy as np
import torch

import py_authoring
from py_authoring import atomic, recipe_toml, report
from py_authoring.evaluation import Evaluation
from py_authoring.json_text import to_json
from py_authoring.recipe import ResolvedRecipe
from py_authoring.report.drawing import of_any_text

Row = dict[str, float | int | None]
_MOST_CLASSES_OF_A_PICTURE = 200  # more are no longer told apart, and take seconds


@dataclass(frozen=True)
class Run:
    """A training, finished or not.

    Attributes:
        path: `models/NAME/runs/<run>`.
        model: the model's name.
        epochs: how many are done.
        history: one row an epoch: epoch, iteration, loss, val_loss, val_<metric>…, lr, seconds.
        best_epoch: the epoch of the best checkpoint; None if there is none.
        metrics: what the best checkpoint does on the validation data.
        seconds: how long this call took.
        evaluation: where `metrics` come from; None if there is no validation data.
        report: `report.html`; None if it could not be written.
    """

    path: Path
    model: str
    epochs: int
    history: list[Row] = field(repr=False)
    best_epoch: int | None
    metrics: dict[str, float]
    seconds: float
    evaluation: Evaluation | None = field(default=None, repr=False)
    report: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "run": self.path.name,
            "path": str(self.path),
            "model": self.model,
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "metrics": self.metrics,
            "seconds": self.seconds,
            "report": None if self.report is None else str(self.report),
        }

    def _repr_html_(self) -> str | None:
        from py_authoring.report import notebook

        return notebook.show_run(self)


def environment(device: torch.device, seed: int) -> dict[str, Any]:
    """What the numbers of a run may depend on besides the recipe."""
    return {
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "py_authoring": py_authoring.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ignite": ignite.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "seed": seed,
    }


def write_start(folder: Path, resolved: ResolvedRecipe, device: torch.device, left_out: Iterable[str] = ()) -> None:
    """Writes what is known before the first iteration; `left_out` are sections of the recipe that do not count."""
    sections = {name: values for name, values in resolved.to_dict().items() if name not in left_out}
    atomic.write_text(folder / "recipe.toml", recipe_toml.dump(sections))
    text = json.dumps(environment(device, resolved.recipe.training.seed), indent=2)
    atomic.write_text(folder / "environment.json", text + "\n")


def write_history(folder: Path, rows: Sequence[Row]) -> None:
    """Replaces the history by `rows`, as JSON lines and as CSV."""
    atomic.write_text(folder / "history.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic.write_text(folder / "history.csv", text.getvalue())


def write_metrics(
    folder: Path, split: str, evaluation: Evaluation, extra: Mapping[str, Any], say: Callable[[str], None]
) -> Path | None:
    """Puts the evaluation of one split into `metrics.json`, and leaves the other splits' there.

    Args:
        folder: the run's.
        split: train, validation or test.
        evaluation: of at most 200 classes it gives a picture too.
        extra: what stands beside the splits.
        say: takes a line where the picture could not be drawn.

    Returns:
        The picture of the confusion matrix, if there is one.

    Raises:
        WriteError: the old file is untouched.
    """
    file = folder / "metrics.json"
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    document |= dict(extra)
    document[split] = evaluation.to_dict()
    atomic.write_text(file, to_json(document, indent=2) + "\n")
    confusion, labels = evaluation.confusion, [each.label for each in evaluation.per_class or []]
    if confusion is None or len(labels) > _MOST_CLASSES_OF_A_PICTURE:
        return None
    drawn = report.or_say(lambda: draw_confusion(confusion, labels, split), say, "picture of the confusion matrix")
    if drawn is None:
        return None
    atomic.write_bytes(folder / "confusion_matrix.png", drawn)
    return folder / "confusion_matrix.png"


@of_any_text()
def draw_confusion(confusion: Sequence[Sequence[int]], labels: Sequence[str], split: str) -> bytes:
    """A confusion matrix as a PNG file: true classes down, predicted ones across, counts in the cells."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = np.asarray(confusion)
    size = min(max(3.2, 0.5 * len(labels) + 1.6), 16)
    figure = Figure(figsize=(size, size), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=0 if max(map(len, labels)) <= 3 else 45)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    right = int(np.trace(counts))
    axes.set_title(f"{split}: {right} of {int(counts.sum())} right")
    if len(labels) <= 30:  # beyond that the numbers no longer fit their cells
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
