"""What the functions return → how a notebook shows it: a heading, tables, a few charts; self-contained, light or dark.

Each `_repr_html_` of this package is one call of a function here. Where Jinja2 or matplotlib is missing it gives None,
and a notebook shows the plain text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from py_authoring.errors import UnavailableError
from py_authoring.recipe_toml import format_value
from py_authoring.report import charts, check_packages, page
from py_authoring.report.charts import number
from py_authoring.report.collect import SplitRecord
from py_authoring.report.drawing import Chart, Table, plain
from py_authoring.runs import read_recipe

if TYPE_CHECKING:
    from py_authoring.evaluation import Evaluation
    from py_authoring.export import Version
    from py_authoring.report.comparison import Comparison
    from py_authoring.run_evaluation import RunEvaluation
    from py_authoring.run_folder import Run
    from py_authoring.runs import RunSummary
    from py_authoring.sweeping import Sweep
    from py_authoring.verify import Verification

_MOST_CLASSES = 30


def show_run(run: Run) -> str | None:
    """A training: the metrics of its best epoch, its curves, where it lies."""
    best = next((row for row in run.history if row["epoch"] == run.best_epoch), None)
    epochs = "1 epoch" if run.epochs == 1 else f"{run.epochs} epochs"
    title = f"{run.model}: {epochs} in {page.duration(run.seconds)}"
    tables = [_metrics(f"Validation, epoch {run.best_epoch}", run.metrics)] if run.metrics else []
    weighted = "loss.class_weights" in read_recipe(run.path)
    return _show(
        title, f"run {run.path}", tables, lambda: charts.training_charts(run.history, best, weighted=weighted)[:2]
    )


def show_evaluation(
    evaluation: Evaluation, title: str = "Evaluation", split: str = "data", note: str = ""
) -> str | None:
    """A split: metrics, each class, confusion matrix, calibration; of numbers, the errors."""
    classes = [asdict(each) for each in evaluation.per_class or []]
    seen = evaluation.evidence.to_dict() if evaluation.evidence is not None else {}
    wrong = {
        (true, said): count
        for true, row in enumerate(evaluation.confusion or [])
        for said, count in enumerate(row)
        if count and true != said
    }
    wrong = wrong or {(true, said): count for true, said, count in seen.get("confused", [])}
    ordered = dict(sorted(wrong.items(), key=lambda item: -item[1]))
    record = SplitRecord(split, evaluation.samples, evaluation.metrics, classes, ordered, seen)
    tables = [_metrics(f"{evaluation.samples:,} samples", evaluation.metrics)]
    if classes:
        shown = (
            sorted(classes, key=lambda each: (not each["samples"], each["f1"]))[:_MOST_CLASSES]
            if len(classes) > _MOST_CLASSES
            else sorted(classes, key=lambda each: not each["samples"])
        )
        caption = "Classes" if len(shown) == len(classes) else f"The {len(shown)} classes with the smallest F1"
        rows = [
            [
                plain(each["label"], 60),
                *charts.shares(each),
                str(each["samples"]),
            ]
            for each in shown
        ]
        tables.append(Table(caption, ["class", "precision", "recall", "F1", "samples"], rows))

    def drawn() -> list[Chart]:
        found = [charts.confusion_chart(record), charts.calibration_chart(record), *charts.points_charts(record)]
        return [each for each in found if each is not None]

    return _show(title, note, tables, drawn)


def show_run_evaluation(result: RunEvaluation) -> str | None:
    """A checkpoint on a split."""
    title = f"{result.model} on {plain(result.data, 60)}, {result.split}"
    return show_evaluation(result.evaluation, title, result.split, f"checkpoint {result.checkpoint}")


def show_version(version: Version) -> str | None:
    """An exported file: what it takes and gives, and how far it is from the eager model."""
    contract = version.contract
    parts = [("input", part) for part in contract.inputs] + [("output", part) for part in contract.outputs]
    tensors = [
        [f"{kind} {plain(part.name, 60)}", part.datatype, " × ".join(str(each) for each in part.dims) or "one number"]
        for kind, part in parts
    ]
    parity = [
        [plain(name, 60), f"{difference.max_abs:.3g}", f"{difference.max_rel:.3g}"]
        for name, difference in version.differences.items()
    ]
    tables = [
        Table("What it takes and gives", ["tensor", "datatype", "shape"], tensors, left=3),
        Table(f"Against the eager model, {version.cases} inputs", ["output", "max |diff|", "relative"], parity),
    ]
    title = f"{version.name}, version {version.number}: {version.size:,} bytes"
    note = f"{version.path}, {contract.golden.count} golden examples"
    return _show(title, ". ".join([note, *version.notes]), tables)


def show_verification(result: Verification) -> str | None:
    """The golden examples, replayed."""
    rows = [
        [
            plain(each.name, 60),
            f"{each.difference.max_abs:.3g}",
            f"{each.atol:.3g} + {each.rtol:.3g} × |value|",
            each.difference.reason or ("ok" if each.difference.within else "over"),
        ]
        for each in result.outputs
    ]
    table = Table("Golden examples", ["output", "max |diff|", "allowed", "verdict"], rows)
    verdict = "computes here what its author saw" if result.ok else "does not compute here what its author saw"
    return _show(f"{result.name} {verdict}", f"{result.examples} examples on {result.device}", [table])


def show_runs(found: Sequence[RunSummary]) -> str | None:
    """The list of runs."""
    rows = [
        [
            each.model,
            each.run,
            each.state,
            f"{each.epochs} of {each.planned}" if each.planned is not None else str(each.epochs),
            page.word(each.metric) if each.metric else "–",
            number(each.value),
        ]
        for each in found
    ]
    table = Table("Runs, oldest first", ["model", "run", "state", "epochs", "best", "value"], rows, left=5)
    return _show("1 run" if len(found) == 1 else f"{len(found)} runs", "", [table])


def show_sweep(sweep: Sweep) -> str | None:
    """A sweep: its trials, best first, and what mattered."""
    keys = [*sweep.best.values]
    rows = [
        [
            str(trial.number),
            trial.state,
            *(format_value(trial.values[key]) for key in keys),
            number(trial.value),
            "–" if trial.epoch is None else str(trial.epoch),
            trial.run,
        ]
        for trial in sweep.trials
    ]
    head = ["trial", "state", *keys, page.word(sweep.monitor), "in epoch", "run"]
    tables = [Table("Trials, best first", head, rows, left=2)]
    if sweep.importance is not None:
        shares = [[key, f"{100 * share:.0f} %"] for key, share in sweep.importance.items()]
        tables.append(Table("How much of the differences is of each key", ["key", "share"], shares))
    return _show(f"{sweep.model}: {len(rows)} trials", sweep.command, tables)


def show_comparison(comparison: Comparison) -> str | None:
    """Runs side by side, with the curves of two figures."""
    from py_authoring.report import comparison as side_by_side

    rows = [
        [
            side_by_side.called(figure.name),
            *(f"★ {text}" if place in figure.best else text for place, text in enumerate(figure.texts)),
        ]
        for figure in comparison.figures
    ]
    names = [plain(name, 60) for name in comparison.names]
    tables = [Table("Of each run’s best epoch; ★ marks the best value", ["figure", *names], rows)]
    if comparison.recipe:
        differing = [[key, *(plain(value, 80) for value in values)] for key, values in comparison.recipe.items()]
        tables.append(Table("Recipe keys that differ", ["key", *names], differing))
    note = comparison.data or ""
    return _show(f"{len(names)} runs compared", note, tables, lambda: side_by_side.draw_curves(comparison)[:2])


def _metrics(caption: str, metrics: dict[str, float]) -> Table:
    return Table(caption, ["metric", "value"], [[page.word(name), number(value)] for name, value in metrics.items()])


def _show(title: str, note: str, tables: Sequence[Table], draw: object = None) -> str | None:
    try:
        check_packages()
    except UnavailableError:
        return None
    drawn = draw() if callable(draw) else []
    return page.render("fragment.html", title=plain(title), lines=plain(note), tables=tables, charts=drawn)
