"""Several runs → where they differ and which did better, as values and as a page. No torch here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from py_authoring import atomic, report, runs
from py_authoring.errors import UsageError
from py_authoring.recipe_toml import format_value
from py_authoring.report.charts import column, curves, number
from py_authoring.report.collect import RunRecord, read_run
from py_authoring.report.drawing import Chart, plain
from py_authoring.report.page import duration, render, when, word

_ENVIRONMENT = ("torch", "ignite", "numpy", "python", "device", "device_name", "threads", "processors", "platform")
_MOST_CLASSES = 60
_BEST = "best.pt"


@dataclass(frozen=True)
class Figure:
    """One figure of every run.

    Attributes:
        name: as `val_accuracy`, `test accuracy` or `seconds`.
        values: one a run, None where it was not measured.
        texts: the same for people.
        best: the places of the best values, where better has a meaning and the runs differ.
    """

    name: str
    values: list[float | int | str | None]
    texts: list[str]
    best: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        names: what each is called: the run's name, with its model's where those differ.
        records: the runs.
        figures: metrics of each run's best epoch, sizes and times; of test figures of another checkpoint or other data
            the text alone tells.
        recipe: key → values as TOML, of the keys that differ; `–` where a key is not there.
        environment: name → values, of what differs.
        data: a sentence, where the runs saw other data and their figures say less; else None.
    """

    names: list[str]
    records: list[RunRecord] = field(repr=False)
    figures: list[Figure]
    recipe: dict[str, list[str]]
    environment: dict[str, list[str]]
    data: str | None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "runs": [record.summary.to_dict() for record in self.records],
            "figures": {figure.name: {"values": figure.values, "best": figure.best} for figure in self.figures},
            "recipe": self.recipe,
            "environment": self.environment,
            "data": self.data,
        }

    def _repr_html_(self) -> str | None:
        from py_authoring.report import notebook

        return notebook.show_comparison(self)


def compare(wanted: Sequence[str | Path]) -> Comparison:
    """Puts runs side by side.

    Args:
        wanted: two or more: a run's folder, `NAME` for the latest run of a model, or `NAME/RUN`.

    Raises:
        NotFoundError: one is not there.
        UsageError: fewer than two, or one twice.
    """
    folders = [runs.find_run_folder(each) for each in wanted]
    if len(folders) < 2:
        raise UsageError("one run has nothing beside it", hint="`py-authoring runs` lists all; name two or more")
    seen: dict[Path, str | Path] = {}
    for each, folder in zip(wanted, folders, strict=True):
        if folder.resolve() in seen:
            raise UsageError(
                f"`{each}` and `{seen[folder.resolve()]}` are the same run, `{folder}`",
                hint="`py-authoring runs` lists all",
            )
        seen[folder.resolve()] = each
    records = [read_run(folder) for folder in folders]
    one_model = len({record.summary.model for record in records}) == 1
    names = [record.summary.run if one_model else record.name for record in records]
    if len(set(names)) < len(names):  # models of one name in several folders
        names = [str(record.folder) for record in records]
    keys = sorted({key for record in records for key in record.recipe})
    recipe = _differences([(key, [record.recipe.get(key) for record in records]) for key in keys], format_value)
    facts = [(key, [record.environment.get(key) for record in records]) for key in _ENVIRONMENT]
    return Comparison(names, records, _figures(records), recipe, _differences(facts, str), _data(records))


def write_comparison(comparison: Comparison, file: Path) -> Path:
    """Writes the page; atomically.

    Raises:
        UnavailableError: matplotlib or Jinja2 is not installed.
        WriteError: the old file is untouched.
    """
    report.check_packages()
    atomic.write_text(file, render_comparison(comparison))
    return file


def render_comparison(comparison: Comparison) -> str:
    """The HTML: one file that fetches nothing."""
    records = comparison.records
    return render(
        "comparison.html",
        names=[plain(name, 120) for name in comparison.names],
        states=[record.state.state for record in records],
        started=[when(record.summary.started, short=True) for record in records],
        models=sorted({record.summary.model for record in records}),
        lead=_lead(comparison),
        data=comparison.data,
        figures=[(called(figure.name), figure.texts, figure.best) for figure in comparison.figures],
        charts=draw_curves(comparison),
        recipe=[(key, [plain(value, 300) for value in values]) for key, values in comparison.recipe.items()],
        environment=[(key, [plain(value, 300) for value in values]) for key, values in comparison.environment.items()],
        classes=_classes(records),
    )


def _figures(records: Sequence[RunRecord]) -> list[Figure]:
    figures = [
        Figure(
            "epochs",
            [record.summary.epochs for record in records],
            [
                f"{record.summary.epochs}"
                + (
                    f" of {record.summary.planned}"
                    if record.summary.planned not in (None, record.summary.epochs)
                    else ""
                )
                for record in records
            ],
        ),
        _plain_figure("best_epoch", [record.summary.best_epoch for record in records]),
    ]
    rows = [record.best or {} for record in records]
    for key in dict.fromkeys(key for row in rows for key in row if key == "loss" or key.startswith("val_")):
        figures.append(_ranked(key, [row.get(key) for row in rows]))
    measured = [record.split("test") for record in records]
    notes = [_not_of_the_best(record, "test") for record in records]
    for name in dict.fromkeys(name for split in measured if split is not None for name in split.metrics):
        known = [None if split is None else split.metrics.get(name) for split in measured]
        figure = _ranked(f"test_{name}", [None if note else value for value, note in zip(known, notes, strict=True)])
        texts = [
            f"{number(value)} ({note})" if note and value is not None else number(value)
            for value, note in zip(known, notes, strict=True)
        ]
        figures.append(replace(figure, texts=texts))
    parameters = [record.parameters.get("parameters") for record in records]
    if any(value is not None for value in parameters):
        figures.append(_plain_figure("parameters", parameters))
    each = [record.summary.seconds / record.summary.epochs if record.summary.epochs else None for record in records]
    for name, seconds in (("seconds", [record.summary.seconds for record in records]), ("seconds_per_epoch", each)):
        figures.append(Figure(name, list(seconds), ["–" if one is None else duration(one) for one in seconds]))
    return figures


# Another checkpoint or other data may have been measured last: its figures are no better and no worse.
def _not_of_the_best(record: RunRecord, name: str) -> str | None:
    split = record.split(name)
    if split is None:
        return None
    checkpoint, data = split.evidence.get("checkpoint"), split.evidence.get("data")
    if checkpoint != _BEST:
        return f"with {plain(checkpoint, 40)}" if checkpoint else "of an unknown checkpoint"
    if data != record.dataset.get("name", data):
        return f"on {plain(data, 40)}"
    if split.after is not None and split.after < (record.summary.best_epoch or 0):
        return f"of epoch {split.after} or earlier"
    return None


def _plain_figure(name: str, values: Sequence[int | None]) -> Figure:
    return Figure(name, list(values), [number(value) for value in values])


def _ranked(name: str, values: Sequence[float | None]) -> Figure:
    known = [value for value in values if value is not None and math.isfinite(value)]
    lower = runs.lower_is_better(name)
    best: list[int] = []
    if len(known) > 1 and len(set(known)) > 1:
        top = min(known) if lower else max(known)
        best = [place for place, value in enumerate(values) if value == top]
    return Figure(name, list(values), [number(value) for value in values], best)


def _differences(rows: Sequence[tuple[str, list[Any]]], write: Callable[[Any], str]) -> dict[str, list[str]]:
    return {
        name: ["–" if value is None else write(value) for value in values]
        for name, values in rows
        if any(value != values[0] for value in values)
    }


def _data(records: Sequence[RunRecord]) -> str | None:
    digests = [record.dataset.get("sha256") for record in records]
    if len({digest for digest in digests if digest}) > 1:
        return "the runs saw different data: their metrics are not of the same samples"
    if None in digests and len(digests) > 1:
        return "of some runs it is not known which data they saw"
    return None


def _lead(comparison: Comparison) -> str:
    count = len(comparison.recipe)
    said = f"{len(comparison.names)} runs. "
    if not count:
        return said + "Their recipes are the same."
    shown = ", ".join(list(comparison.recipe)[:3]) + (f" and {count - 3} more" if count > 3 else "")
    return said + f"Their recipes differ in {shown}."


def called(name: str) -> str:
    """A figure's name as a heading has it."""
    if name.startswith("test_"):
        return f"test {word(name.removeprefix('test_'))}"
    known = {"loss": "training loss", "seconds": "time", "seconds_per_epoch": "time per epoch"}
    return known.get(name, word(name))


def draw_curves(comparison: Comparison) -> list[Chart]:
    """Losses and metrics over the epochs, a curve a run."""
    histories = [record.history for record in comparison.records]
    keys = dict.fromkeys(key for history in histories for row in history for key in row)
    drawn: list[Chart] = []
    for key in keys:
        if key != "loss" and not key.startswith("val_"):
            continue
        series = [
            column(history, key, name)
            for history, name in zip(histories, comparison.names, strict=True)
            if any(row.get(key) is not None for row in history)
        ]
        if series:
            title = called(key)
            falls = runs.lower_is_better(key)
            drawn.append(curves(f"curve-{len(drawn)}", title[:1].upper() + title[1:], series, falls=falls))
    return drawn


# F1 of each class, where every run knows the same classes on the same split; those that differ most first.
def _classes(records: Sequence[RunRecord]) -> dict[str, Any] | None:
    for name in ("test", "validation"):
        splits = [record.split(name) for record in records]
        known = [
            split.classes
            for split, record in zip(splits, records, strict=True)
            if split is not None and split.classes and _not_of_the_best(record, name) is None
        ]
        labels = [[each["label"] for each in classes] for classes in known]
        if len(known) < len(records) or any(each != labels[0] for each in labels):
            continue
        rows = [
            (label, [classes[place]["f1"] if classes[place]["samples"] else None for classes in known])
            for place, label in enumerate(labels[0])
        ]
        if len(rows) > _MOST_CLASSES:
            rows = sorted(rows, key=lambda row: _spread(row[1]), reverse=True)[:_MOST_CLASSES]
        rows.sort(key=lambda row: row[1].count(None) == len(row[1]))
        of = f"; the {_MOST_CLASSES} of {len(labels[0]):,} that differ most" if len(labels[0]) > _MOST_CLASSES else ""
        return {
            "caption": f"F1 of each class on the {name} data{of}",
            "rows": [(plain(label, 120), *_cells(values)) for label, values in rows],
        }
    return None


def _spread(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return max(known) - min(known) if known else -1.0


def _cells(values: Sequence[float | None]) -> tuple[list[str], list[int]]:
    figure = _ranked("f1", list(values))
    return ["–" if value is None else f"{value:.3f}" for value in values], figure.best
