"""A run's numbers → charts, each with its description in words and its numbers as a table.

In: rows of a history, a confusion matrix, bins, points. Out: `Chart`. However many epochs or classes there are, a chart
stays small: curves are thinned without losing a peak, matrices show the classes that are confused most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from py_authoring.report.collect import SplitRecord
from py_authoring.report.drawing import (
    INK,
    MUTED,
    ON_COLOR,
    PAPER,
    Chart,
    Table,
    draw,
    heat_color,
    plain,
    series_color,
    series_line,
)
from py_authoring.runs import lower_is_better

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Points of a curve, rows of its table, classes of a matrix that is drawn whole, and of the part of a larger one.
POINTS, ROWS, WHOLE_MATRIX, PART_OF_MATRIX = 400, 40, 30, 20
_DESCRIBED = 6  # of more curves a sentence each is no help
#: Metrics that people write in another way.
WORDS = {"f1": "F1", "mae": "MAE", "mse": "MSE", "rmse": "RMSE", "r2": "R²", "lr": "learning rate"}
#: Of each class.
SHARES = ("precision", "recall", "f1")
_SHARES = ("accuracy", *SHARES)
_SPREAD = "Distribution of errors"
_ERRORS = ("mae", "rmse")  # both in the target's unit, so on one axis
Series = tuple[str, list[int], list[float]]


def number(value: float | int | None, digits: int = 4) -> str:
    """A number as a person reads it; `–` where there is none.

    Example:
        >>> number(0.98324), number(12), number(1234567.0), number(None), number(1.2e-7)
        ('0.9832', '12', '1,234,567', '–', '1.2e-07')
    """
    if value is None or not math.isfinite(value):
        return "–" if value is None else "not finite"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}".replace("-", "−")
    text = f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
    return text if "e" in text else text.replace("-", "−")


def thin(series: Series, most: int = POINTS) -> Series:
    """A curve with fewer points: of each stretch its smallest and its largest value, and both ends.

    Example:
        >>> name, epochs, values = thin(("loss", list(range(1000)), [0.0] * 500 + [9.0] + [0.0] * 499), 20)
        >>> len(epochs) <= 22, max(values), epochs[0], epochs[-1]
        (True, 9.0, 0, 999)
    """
    name, epochs, values = series
    if len(epochs) <= most:
        return series
    width = math.ceil(len(epochs) / (most // 2))
    kept = {0, len(epochs) - 1}
    for start in range(0, len(epochs), width):
        stretch = [i for i in range(start, min(start + width, len(epochs))) if math.isfinite(values[i])]
        if stretch:
            kept |= {min(stretch, key=values.__getitem__), max(stretch, key=values.__getitem__)}
    order = sorted(kept)
    return name, [epochs[i] for i in order], [values[i] for i in order]


def column(history: Iterable[Mapping[str, Any]], key: str, name: str | None = None) -> Series:
    """One column of a history; what is missing or not finite becomes NaN, a gap in the curve."""
    rows = [row for row in history if key in row]
    values = [float(row[key]) if row[key] is not None else math.nan for row in rows]
    return name or key, [int(row["epoch"]) for row in rows], values


def training_charts(
    history: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None, *, weighted: bool = False
) -> list[Chart]:
    """Loss, each validation metric and the learning rate over the epochs; nothing before the first epoch.

    Args:
        history: one row an epoch.
        best: the row to mark.
        weighted: whether `loss.class_weights` count in the training loss.
    """
    if not history:
        return []
    keys = list(dict.fromkeys(key for row in history for key in row))
    at = int(best["epoch"]) if best else None
    losses = [column(history, "loss", "training")]
    if "val_loss" in keys:
        losses.append(column(history, "val_loss", "validation"))
    note = "loss.class_weights count in the training loss alone." if weighted and len(losses) > 1 else ""
    charts = [curves("loss", "Loss", losses, best=at, falls=True, note=note)]
    shares = [column(history, f"val_{name}", WORDS.get(name, name)) for name in _SHARES if f"val_{name}" in keys]
    if shares:
        charts.append(curves("shares", "Validation metrics", shares, best=at))
    errors = [column(history, f"val_{name}", WORDS[name]) for name in _ERRORS if f"val_{name}" in keys]
    if errors:
        charts.append(curves("errors", "Validation errors", errors, best=at, falls=True))
    done = {"val_loss", *(f"val_{name}" for name in (*_SHARES, *_ERRORS))}
    for key in keys:
        if key.startswith("val_") and key not in done:
            name = key.removeprefix("val_")
            series, falls = [column(history, key, WORDS.get(name, name))], lower_is_better(name)
            title = f"Validation {WORDS.get(name, name)}"
            charts.append(curves(f"metric-{len(charts)}", title, series, best=at, falls=falls))
    done |= {"epoch", "iteration", "loss", "lr", "seconds"}
    for key in keys:  # what a LightningModule logs under names of its own
        if key not in done and not key.startswith("val_"):
            charts.append(
                curves(f"metric-{len(charts)}", key, [column(history, key)], best=at, falls=lower_is_better(key))
            )
    rates = column(history, "lr", "learning rate")
    if len(set(rates[2])) > 1:
        charts.append(curves("lr", "Learning rate", [rates]))
    return charts


def curves(
    identifier: str,
    title: str,
    series: Sequence[Series],
    *,
    best: int | None = None,
    falls: bool = False,
    note: str = "",
) -> Chart:
    """Curves over epochs.

    Args:
        identifier: of the chart on its page.
        title: what is drawn.
        series: name, epochs, values; NaN is a gap.
        best: an epoch to mark.
        falls: whether lower is better.
        note: a sentence that the description ends with.
    """
    thinned = [thin(each) for each in series]
    finite = [value for _, _, values in thinned for value in values if math.isfinite(value)]
    logarithmic = bool(finite) and min(finite) > 0 and max(finite) / min(finite) > 100

    def paint(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for place, (name, epochs, values) in enumerate(thinned):
            marker = "o" if len(epochs) <= 25 else None
            axes.plot(
                epochs,
                values,
                color=series_color(place),
                linestyle=series_line(place),
                marker=marker,
                label=plain(name, 30),
            )
        marked = best if max(each[1][-1] for each in series) > 1 else None
        if marked is not None:
            axes.axvline(marked, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)), zorder=0)
        if logarithmic:
            axes.set_yscale("log")
        axes.set_xlabel(
            "epoch"
            + (f" (dotted: the best, {marked})" if marked is not None else "")
            + (", log scale" if logarithmic else "")
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(series) > 1:
            axes.legend(
                loc="lower left",
                bbox_to_anchor=(0, 1.01),
                ncols=4 if max(len(each[0]) for each in series) < 12 else 2,
                borderaxespad=0,
                handlelength=2.2,
                handletextpad=0.5,
                columnspacing=1.1,
            )

    description = " ".join(_describe_curve(each, falls) for each in series[:_DESCRIBED])
    if len(series) > _DESCRIBED:
        description += f" {len(series) - _DESCRIBED} more curves are in the table."
    description += f" {note}" if note else ""
    table = _curve_table(title, series, best)
    return Chart(identifier, title, description, draw(identifier, title, description, paint), table)


def confusion_chart(split: SplitRecord) -> Chart | None:
    """True classes down, predicted ones across: all of up to 30 classes, else the 20 in most mistakes."""
    count = len(split.classes)
    if not count:
        return None
    shown = list(range(count))
    if count > WHOLE_MATRIX:
        involved: dict[int, int] = {}
        for (true, predicted), times in split.wrong.items():
            for each in (true, predicted):
                involved[each] = involved.get(each, 0) + times
        shown = sorted(sorted(involved, key=lambda each: (-involved[each], each))[:PART_OF_MATRIX])
        if not shown:
            return None
    labels = [plain(split.label(each), 14) for each in shown]
    matrix = [[_cell(split, true, predicted) for predicted in shown] for true in shown]
    samples = [int(split.classes[each]["samples"]) for each in shown]

    def paint(axes: Axes) -> None:
        from matplotlib.collections import PolyCollection

        squares, colors = [], []
        for row, counts in enumerate(matrix):
            for place, times in enumerate(counts):
                share = times / samples[row] if samples[row] else 0.0
                squares.append([(place, row), (place + 1, row), (place + 1, row + 1), (place, row + 1)])
                colors.append(heat_color(0.1 + 0.9 * share if times else 0.035))
                if times:
                    color = ON_COLOR if share > 0.5 else INK
                    size = 8.5 if len(shown) <= 12 and times < 10_000 else 8 if times < 1000 else 6
                    axes.text(place + 0.5, row + 0.5, str(times), ha="center", va="center", color=color, fontsize=size)
        axes.add_collection(PolyCollection(squares, facecolors=colors, edgecolors=PAPER, linewidths=0.8))
        axes.set(xlim=(0, len(shown)), ylim=(len(shown), 0), aspect="equal")
        middles = [each + 0.5 for each in range(len(shown))]
        long = max(map(len, labels)) > 3
        size = 8.5 if len(shown) <= 20 else 8
        axes.set_xticks(middles, labels, rotation=90 if long else 0, fontsize=size)
        axes.set_yticks(middles, labels, fontsize=size)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")

    wrong = sum(split.wrong.values()) if len(shown) == count else int(split.evidence.get("wrong", 0))
    total = sum(int(each["samples"]) for each in split.classes)
    said = f"{total - wrong:,} of {total:,} {split.name} {values_or_samples(split)} are right."
    if len(shown) < count:
        said = f"The {len(shown)} of {count:,} classes that take part in most mistakes."
    pairs = [pair for pair in split.wrong if pair[0] in shown and pair[1] in shown][:1]
    for true, predicted in pairs:
        times = split.wrong[true, predicted]
        if times == 1:
            said += " No class is taken for the same other one twice."
            break
        said += f" Most often {plain(split.label(true), 40)} is taken for {plain(split.label(predicted), 40)}: "
        said += f"{_times(times)}."
    side = min(max(2.6, 0.28 * len(shown) + 0.9), 7.4)
    svg = draw(f"confusion-{split.name}", "Confusion matrix", said, paint, (max(side, 3.0), side))
    return Chart(f"confusion-{split.name}", "Confusion matrix", said, svg, _pairs_table(split), wide=len(shown) > 15)


def shares(about: Mapping[str, Any]) -> list[str]:
    """Precision, recall and F1 of a class as text; recall and F1 of no sample are `–`.

    Example:
        >>> shares({"precision": 0.5, "recall": 0.0, "f1": 0.0, "samples": 0})
        ['0.500', '–', '–']
    """
    return [f"{about[key]:.3f}" if about["samples"] or key == "precision" else "–" for key in SHARES]


def values_or_samples(split: SplitRecord) -> str:
    """What is counted: `values` where a sample has several that are right or wrong by themselves."""
    return "samples" if sum(int(each["samples"]) for each in split.classes) == split.samples else "values"


def calibration_chart(split: SplitRecord) -> Chart | None:
    """How often the model is right against how sure it is, in bins of confidence, with 95 % intervals."""
    calibration = split.evidence.get("calibration") or {}
    bins = [each for each in calibration.get("bins") or [] if _both_finite(each["confidence"], each["accuracy"])]
    if not bins:
        return None
    error = calibration.get("expected_error")
    largest = max(each["samples"] for each in bins)
    of = values_or_samples(split)

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        for each in bins:
            low, high = _interval(each["accuracy"], each["samples"])
            axes.plot([each["confidence"]] * 2, [low, high], color=series_color(0), linewidth=1.2, alpha=0.55)
        axes.scatter(
            [each["confidence"] for each in bins],
            [each["accuracy"] for each in bins],
            s=[20 + 100 * each["samples"] / largest for each in bins],
            color=series_color(0),
            edgecolors=PAPER,
            zorder=3,
        )
        axes.text(0.97, 0.03, "overconfident", transform=axes.transAxes, color=MUTED, fontsize=8, ha="right")
        axes.text(0.03, 0.97, "underconfident", transform=axes.transAxes, color=MUTED, fontsize=8, va="top")
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.06))
        axes.set_xlabel("confidence")
        axes.set_ylabel("share that is right")
        axes.grid(visible=True, axis="both")

    gap = max(bins, key=lambda each: abs(each["confidence"] - each["accuracy"]) * each["samples"])
    said = (
        f"On average confidence and accuracy differ by {number(100 * error, 2)} percentage points. "
        if error is not None
        else ""
    )
    said += (
        f"The bin that adds most: {gap['samples']:,} {of} with {gap['confidence']:.0%} confidence, "
        f"of which {gap['accuracy']:.0%} are right. Lines are 95 % intervals."
    )
    rows = [[f"{each['confidence']:.1%}", f"{each['accuracy']:.1%}", f"{each['samples']:,}"] for each in bins]
    table = Table("Calibration in bins of confidence", ["mean confidence", "right", of], rows)
    identifier = f"calibration-{split.name}"
    svg = draw(identifier, "Calibration", said, paint, (4.2, 3.7))
    return Chart(identifier, "Calibration", said, svg, table)


def points_charts(split: SplitRecord) -> list[Chart]:
    """Of numbers: predicted against true, and how the errors are distributed."""
    points = [(true, said) for true, said in split.evidence.get("points") or [] if _both_finite(true, said)]
    if not points:
        return []
    errors = [said - true for true, said in points]
    of = int(split.evidence.get("points_of") or len(points))
    part = f"{len(points):,} of {of:,} values, evenly over the data. " if of > len(points) else ""

    def paint_points(axes: Axes) -> None:
        ends = [min(min(point) for point in points), max(max(point) for point in points)]
        axes.plot(ends, ends, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        axes.scatter(
            [true for true, _ in points],
            [said for _, said in points],
            s=9,
            color=series_color(0),
            alpha=0.55,
            linewidths=0,
        )
        axes.set_xlabel("true")
        axes.set_ylabel("predicted")
        axes.grid(visible=True, axis="both")

    def paint_errors(axes: Axes) -> None:
        axes.hist(errors, bins=min(30, max(5, len(errors) // 8)), color=series_color(0), edgecolor=PAPER, linewidth=0.5)
        axes.axvline(0, color=INK, linewidth=0.9)
        axes.set_xlabel("predicted − true")
        axes.set_ylabel("values")

    ordered = sorted(errors)
    quantiles = [
        (f"{share:.0%}", ordered[round(share * (len(ordered) - 1))]) for share in (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    ]
    mean = math.fsum(errors) / len(errors)
    within = max(abs(quantiles[1][1]), abs(quantiles[5][1]))
    first = f"{part}Each point is one value; on the dotted line it would be exact."
    second = f"{part}The mean error is {number(mean, 3)}; nine in ten errors lie within ±{number(within, 3)}."
    table = Table(
        "Errors by rank",
        ["share of values below", "predicted − true"],
        [[name, number(value)] for name, value in quantiles],
    )
    scatter = f"points-{split.name}"
    histogram = f"errors-{split.name}"
    return [
        Chart(scatter, "Predicted against true", first, draw(scatter, "Predicted against true", first, paint_points)),
        Chart(histogram, _SPREAD, second, draw(histogram, _SPREAD, second, paint_errors), table),
    ]


def classes_chart(dataset: Mapping[str, Any], names: Sequence[str] = ()) -> Chart | None:
    """How many training samples each class has; of more than 30 classes the curve of their sizes."""
    counts = (dataset.get("splits") or {}).get("train", {}).get("classes") or []
    if len(counts) < 2:
        return None
    labels = [plain(label, 18) for label in dataset.get("labels") or names]
    if len(labels) != len(counts):
        labels = [str(each) for each in range(len(counts))]
    order = sorted(range(len(counts)), key=lambda each: (-counts[each], each))
    most, least = order[0], order[-1]
    said = (
        f"{len(counts):,} classes; the largest is {labels[most]} with {counts[most]:,} training samples, "
        f"the smallest {labels[least]} with {counts[least]:,}."
    )
    whole = len(counts) <= WHOLE_MATRIX
    long = whole and (max(map(len, labels)) > 3 or len(labels) > 15)

    def paint(axes: Axes) -> None:
        if whole:
            axes.bar(range(len(counts)), counts, color=series_color(0), width=0.72)
            axes.set_xticks(range(len(counts)), labels, rotation=90 if long else 0)
        else:
            _, ranks, values = thin(("", list(range(1, len(counts) + 1)), [float(counts[each]) for each in order]))
            axes.plot(ranks, values, color=series_color(0))
            axes.set_ylim(bottom=0)
            axes.set_xlabel("classes, largest first")
        axes.set_ylabel("training samples")

    shown = list(range(len(counts))) if whole else [*order[: ROWS // 2], *order[-ROWS // 2 :]]
    caption = (
        "Training samples of each class"
        if whole
        else f"The {ROWS // 2} largest and smallest of {len(counts):,} classes"
    )
    table = Table(caption, ["class", "samples"], [[labels[each], f"{counts[each]:,}"] for each in shown])
    return Chart(
        "classes", "Training samples by class", said, draw("classes", "Training samples by class", said, paint), table
    )


# Wilson's: 95 of 100 such intervals hold the true share, also where a bin has a handful of samples.
def _interval(share: float, samples: int) -> tuple[float, float]:
    z = 1.96
    middle = (share + z * z / (2 * samples)) / (1 + z * z / samples)
    half = z / (1 + z * z / samples) * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    return max(0.0, middle - half), min(1.0, middle + half)


def _describe_curve(series: Series, falls: bool) -> str:
    name, epochs, values = series
    called = plain(name, 40)
    called = called[:1].upper() + called[1:]
    known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if math.isfinite(value)]
    if not known:
        return f"{called}: no finite value."
    (first, start), (last, end) = known[0], known[-1]
    if first == last:
        return f"{called} {number(start)} in epoch {first}."
    if len({value for _, value in known}) == 1:
        return f"{called} {number(start)} throughout."
    way = f"{called} from {number(start)} to {number(end)}"
    if name == "learning rate":
        return f"{way} in epoch {last}."
    extreme = (min if falls else max)(known, key=lambda each: each[1])
    most = "lowest" if falls else "highest"
    if extreme[1] == end:
        return f"{way}, its {most}."
    return f"{way}, {most} {number(extreme[1])} in epoch {extreme[0]}."


def _curve_table(title: str, series: Sequence[Series], best: int | None) -> Table:
    values = [dict(zip(epochs, numbers, strict=True)) for _, epochs, numbers in series]
    epochs = sorted({epoch for each in values for epoch in each})
    step = math.ceil(len(epochs) / ROWS)
    shown = sorted({*epochs[::step], epochs[-1], *([best] if best in epochs else [])})
    caption = f"{title} by epoch" + (f"; {len(shown)} of {len(epochs):,}, history.csv has all" if step > 1 else "")
    rows = [
        [f"{epoch}{' (best)' if epoch == best else ''}", *(number(each.get(epoch, math.nan)) for each in values)]
        for epoch in shown
    ]
    return Table(caption, ["epoch", *(plain(name, 40) for name, _, _ in series)], rows)


def _cell(split: SplitRecord, true: int, predicted: int) -> int:
    if true != predicted:
        return split.wrong.get((true, predicted), 0)
    about = split.classes[true]
    return round(float(about["recall"]) * int(about["samples"]))


def _both_finite(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and math.isfinite(one + other)


def _pairs_table(split: SplitRecord) -> Table | None:
    if not split.wrong:
        return None
    rows = []
    for (true, predicted), times in list(split.wrong.items())[:15]:
        samples = int(split.classes[true]["samples"]) if true < len(split.classes) else 0
        share = f"{times / samples:.1%}" if samples else "–"
        rows.append([plain(split.label(true), 60), plain(split.label(predicted), 60), f"{times:,}", share])
    left = len(split.wrong) - len(rows)
    caption = "Classes taken for others, most frequent first" + (f"; {left:,} more pairs are left out" if left else "")
    return Table(caption, ["true", "predicted", "times", "of the class"], rows, left=2)


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")
