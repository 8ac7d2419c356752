"""A `Prediction` as text for a person, to the letter as `rust-host run` prints it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from py_authoring.export.golden import DATATYPES
from py_authoring.prediction import Prediction, plain

_ROWS, _COLUMNS, _LISTED = 10, 10, 100


def as_text(prediction: Prediction) -> str:
    """Outputs as tables; labels with probabilities where the contract has labels."""
    blocks = [f"{prediction.model} on {prediction.device}\n"]
    for name, value in prediction.outputs.items():
        likely = prediction.likely.get(name)
        shown = _tensor(value) if likely is None else _labels(likely)
        blocks.append(f"{name}  {DATATYPES[value.dtype]} {list(value.shape)}\n{shown}")
    return "\n".join(blocks).rstrip("\n")


def number(value: float) -> str:
    """Six digits, in powers of ten where the number is very large or small.

    Example:
        >>> [number(x) for x in (3.0, 1 / 3, 1234.5678, 1.5e-7, math.nan, 1e12, 120000.4)]
        ['3', '0.333333', '1234.57', '1.5e-7', 'NaN', '1e12', '120000']
    """
    size = abs(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    if value == int(value) and size < 1e9:
        return str(int(value))
    if not 1e-4 <= size < 1e9:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    places = max(5 - math.floor(math.log10(size)), 0)
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def shortest(value: float | np.floating) -> str:
    """The fewest digits that read back as the same number of its width, as the host writes tables.

    Example:
        >>> [shortest(np.float32(x)) for x in (4, 0.1, 1e-7, 1e13, math.inf)]
        ['4.0', '0.1', '1e-7', '1e+13', 'inf']
    """
    if not np.isfinite(value):
        return "NaN" if np.isnan(value) else "inf" if value > 0 else "-inf"
    if value == 0:
        return "-0.0" if np.signbit(value) else "0.0"
    digits, _, power = np.format_float_scientific(value, unique=True, trim="-", exp_digits=1).partition("e")
    least, most = (-6, 12) if isinstance(value, np.float32) else (-5, 15)
    if least <= int(power) <= most:
        return np.format_float_positional(value, unique=True, trim="0")
    return f"{digits.rstrip('.')}e{int(power):+d}"


def _labels(rows: Sequence[Sequence[tuple[str, float]]]) -> str:
    if not rows:
        return "  no rows\n"
    lines = []
    for place, row in enumerate(rows[:_LISTED]):
        cells = [f"[{place}]"]
        for label, share in row:
            cells += [label, f"{share * 100:.1f} %"]
        lines.append(cells)
    return _columns(lines) + _more(len(rows), _LISTED)


def _tensor(value: Tensor) -> str:
    if not value.numel():
        return "  no values\n"
    *outer, width = list(value.shape) or [1]
    rows = value.numel() // width
    corner = value.reshape(rows, width)[:_ROWS, :_COLUMNS]
    cells = [[_cell(item) for item in row] for row in corner]
    if not value.dim():
        return f"  {cells[0][0]}\n"
    placed = len(outer) > 1 or any(size > 1 for size in outer)
    lines = []
    for place, row in enumerate(cells):
        line = [str([int(part) for part in np.unravel_index(place, outer)]), *row] if placed else row
        lines.append([*line, f"… ({width} values)"] if width > _COLUMNS else line)
    return _columns(lines) + _more(rows, _ROWS)


def _cell(item: Tensor) -> str:
    return number(float(item.to(torch.float64))) if item.is_floating_point() else json.dumps(plain(item))


def _columns(rows: Sequence[Sequence[str]]) -> str:
    count = max(len(row) for row in rows)
    widths = [max((len(row[column]) for row in rows if column < len(row)), default=0) for column in range(count)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    return "".join(f"  {line}\n" for line in lines)


def _more(count: int, shown: int) -> str:
    return f"  … ({count} rows)\n" if count > shown else ""
