"""What `peers.py` found, as a page with tables and as a picture. Reads and measures nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

Cell = tuple[str, int, int]
"""Model, batch, threads."""
Times = dict[Cell, dict[str, float]]
"""Microseconds by engine."""

PAGE = """# Beside other engines

Written by `make bench` (`benches/peers.py`) on {machine}; {versions}.

`{command}`: a cell is the median of that many blocks of that many seconds, as × the fastest of its row, on the same
inputs; outputs were compared with eager PyTorch's first. ONNX Runtime and rten run one file with a free batch, OpenVINO
one reshaped to the batch, in float32; torch.compile compiles for each size, with weights as constants; the C++ loop and
torch.jit run the file's own form, binary and wheel their optimised form of it.

![Ratios to the fastest](pictures/peers.png)

{tables}
{gains}
{starts}
{skipped}"""

STARTS = """`Net`, batch 1, one thread, from the start of a process to the end of its first prediction:

| | ms | most memory, MB | files it maps, MB |
|---|---|---|---|
{rows}

The files are programs, libraries and data in memory; Python's own modules are read, not mapped, and not counted.
"""


def mean(values: Iterator[float]) -> float:
    """The geometric mean."""
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def title(cell: Cell) -> str:
    """`Net 28x28, batch 8`"""
    return f"{cell[0]}, batch {cell[1]}"


def table(cells: Times, engines: list[str], threads: int) -> list[str]:
    """Ratios to the fastest of the row, whose microseconds are said."""
    lines = [f"| {threads} thread{'s' * (threads > 1)} | fastest, µs | " + " | ".join(engines) + " |"]
    lines.append("|---" * (len(engines) + 2) + "|")
    rows = {cell: times for cell, times in cells.items() if cell[2] == threads}
    for cell, times in rows.items():
        best = min(times.values())
        ratios = [f"{times[e] / best:.2f}" if e in times else "-" for e in engines]
        shown = [f"**{r}**" if r == "1.00" else r for r in ratios]
        lines.append(f"| {title(cell)} | {best:,.1f} | " + " | ".join(shown) + " |")
    means = [mean(t[e] / min(t.values()) for t in rows.values() if e in t) for e in engines]
    lines.append("| geometric mean | | " + " | ".join(f"{m:.2f}" for m in means) + " |")
    return lines


def draw(cells: Times, engines: list[str], path: Path) -> None:
    """The ratios as a map, a panel for each number of threads."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.colors import LogNorm

    counts = sorted({threads for _, _, threads in cells})
    figure, panels = pyplot.subplots(
        1, len(counts), figsize=(6.6 * len(counts), 5.6), squeeze=False, layout="constrained"
    )
    for panel, count in zip(panels.flat, counts, strict=True):
        rows = [cell for cell in cells if cell[2] == count]
        ratios = [[cells[c].get(e, math.nan) / min(cells[c].values()) for e in engines] for c in rows]
        panel.imshow(ratios, norm=LogNorm(1, 5), cmap="RdYlGn_r", aspect="auto")
        panel.set_xticks(range(len(engines)), engines, rotation=35, ha="right", fontsize=8)
        panel.set_yticks(range(len(rows)), [title(c) for c in rows], fontsize=8)
        panel.set_title(f"time of a call, × the fastest; {count} thread{'s' * (count > 1)}", fontsize=9)
        for y, x in itertools.product(range(len(rows)), range(len(engines))):
            text = "-" if math.isnan(ratios[y][x]) else f"{ratios[y][x]:.2f}"
            panel.text(x, y, text, ha="center", va="center", fontsize=7)
    figure.savefig(path, dpi=110)


def page(
    cells: Times,
    engines: list[str],
    starts: dict[str, tuple[float, float, float]],
    skipped: dict[str, str],
    **about: str,
) -> str:
    """The whole page."""
    counts = sorted({threads for _, _, threads in cells})
    tables = "\n\n".join("\n".join(table(cells, engines, count)) for count in counts)
    gains = ""
    if counts[1:]:
        both = [(times, cells[model, batch, counts[1]]) for (model, batch, n), times in cells.items() if n == counts[0]]
        by = {e: mean(one[e] / two[e] for one, two in both if e in one and e in two) for e in engines}
        gains = (
            "\nGain by the second thread, geometric mean: " + ", ".join(f"{e} {g:.2f}" for e, g in by.items()) + ".\n"
        )
    rows = [f"| {e} | {s * 1e3:,.0f} | {m:,.0f} | {d:,.0f} |" for e, (s, m, d) in starts.items()]
    missing = [f"- {engine}: {why}" for engine, why in skipped.items()]
    return PAGE.format(
        tables=tables,
        gains=gains,
        starts=STARTS.format(rows="\n".join(rows)) if rows else "",
        skipped="\n".join(["Not measured:", "", *missing, ""]) if missing else "",
        **about,
    )
