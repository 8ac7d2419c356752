"""A CSV file or a folder of pictures → a row of outputs for each row or picture, as `rust-host run --output out.csv`.

Columns meet inputs by the contract's names; what is no input passes through. Every message names the row or the path.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from py_authoring.contract import Contract, Input, Output
from py_authoring.errors import DataError, NotFoundError, UsageError
from py_authoring.folder_data import find_pictures, read_file
from py_authoring.model_file import first_line
from py_authoring.prediction import Predictor, most_likely
from py_authoring.prediction_inputs import DTYPES, is_there, picture_input
from py_authoring.prediction_text import shortest
from py_authoring.recipe_problems import suggest
from py_authoring.table_data import csv_reason, described_columns

_MOST_VALUES = 32
_ROWS, _PICTURES = 4096, 32
_IDS = ("", "id", "index", "key", "row", "unnamed: 0", "rownames")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Mapped:
    """Rows with their outputs.

    Attributes:
        header: names of the columns.
        rows: texts, in the order of the input.
        notes: what a person should know, a sentence each.
    """

    header: list[str]
    rows: list[list[str]]
    notes: list[str]

    def to_csv(self, delimiter: str = ",") -> str:
        """The table as text."""
        out = io.StringIO()
        writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows(self.rows)
        return out.getvalue()


def is_table(word: str) -> bool:
    """Whether a word names a table or a folder of pictures."""
    path = Path(word)
    return (is_there(word) and path.is_dir()) or path.suffix.lower() in _SEPARATORS


def delimiter_of(path: Path) -> str:
    """What stands between the fields of a file to write, by its ending.

    Raises:
        UsageError: another ending.
    """
    if path.suffix.lower() not in _SEPARATORS:
        raise UsageError(f"`{path}` is no .csv and no .tsv", hint="`rust-host run` writes .jsonl and .parquet, too")
    return _SEPARATORS[path.suffix.lower()]


def map_csv(predictor: Predictor, path: Path, top_k: int | None = None) -> Mapped:
    """Runs a model over the rows of a CSV file.

    Args:
        predictor: what `open_predictor` gave.
        path: with a header; commas, or tabs or semicolons where the header has no comma.
        top_k: labels of each row; None: the likeliest, and all values.

    Raises:
        NotFoundError, DataError: no file, or a wrong row.
        UsageError: no column fits an input.
    """
    header, rows = _read(path)
    notes: list[str] = []
    try:
        plan = _plan(predictor.contract, header, rows, notes)
    except UsageError as error:
        raise UsageError(f"`{path}`: {error.message}", hint=error.hint) from error
    taken = {place for columns in plan.values() for place in columns}
    passed = [place for place in range(len(header)) if place not in taken]
    parts = {part.name: part for part in predictor.contract.inputs}
    least, most = _batching(predictor.contract, [parts[name] for name in plan])

    def calls() -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(rows), min(most, _ROWS)):
            some = rows[start : start + min(most, _ROWS)]
            yield {name: _tensor(path, parts[name], header, columns, some, start) for name, columns in plan.items()}

    kept = [[row[place] for place in passed] for row in rows]
    return _outputs(predictor, [header[place] for place in passed], kept, calls(), least, top_k, notes)


def map_pictures(predictor: Predictor, folder: Path, top_k: int | None = None) -> Mapped:
    """Runs a model over every .png, .jpg and .jpeg below a folder, sorted by path; hidden files are left out.

    Raises:
        DataError: no picture, or one that cannot be decoded, or of another size than the one before.
        UsageError: the model takes no pictures, or needs another input besides.
    """
    image = predictor.contract.image
    others = [
        part.name
        for part in predictor.contract.inputs
        if not part.optional and (image is None or part.name != image.input)
    ]
    if image is None or others:
        what = f"needs `{others[0]}` besides" if image is not None else "takes no pictures, by its contract"
        raise UsageError(f"model `{predictor.contract.name}` {what}")
    paths = find_pictures(folder)
    if not paths:
        raise DataError(f"`{folder}` has no .png, .jpg or .jpeg file")
    part = next(part for part in predictor.contract.inputs if part.name == image.input)
    least, most = _batching(predictor.contract, [part])

    def calls() -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(paths), min(most, _PICTURES)):
            batch = []
            for path in paths[start : start + min(most, _PICTURES)]:
                batch.append(picture_input(read_file(path), part.name, predictor.contract, str(path)))
                if batch[-1].shape != batch[0].shape:
                    raise DataError(
                        f"`{path}` has another size than the picture before it",
                        hint="export.image.size in the recipe lets the host resize them",
                    )
            yield {part.name: torch.cat(batch)}

    shown = [[os.fsencode(path).decode(errors="replace")] for path in paths]  # a name need not be UTF-8
    return _outputs(predictor, ["path"], shown, calls(), least, top_k, [])


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError(f"`{path}`: no such file or folder") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`{path}` cannot be read: {first_line(error)}") from error
    first = text.partition("\n")[0]
    delimiter = "," if "," in first else "\t" if "\t" in first else ";" if ";" in first else ","
    lines: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            if row:
                lines.append(row)
    except csv.Error as error:
        where = f"row {len(lines)}" if lines else "the header"
        raise DataError(f"`{path}`: {where} cannot be read: {csv_reason(error)}") from error
    header, *rows = lines or [[]]
    if not header:
        raise DataError(f"`{path}` is empty, expected a header")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise DataError(f"`{path}`: row {number}: {len(row)} fields, the header has {len(header)}")
    return header, rows


def _plan(
    contract: Contract, header: Sequence[str], rows: Sequence[Sequence[str]], notes: list[str]
) -> dict[str, list[int]]:
    """Input → its columns."""
    numeric = [all(_is_number(row[place]) for row in rows) for place in range(len(header))]
    needed = [part for part in contract.inputs if not part.optional]
    plan: dict[str, list[int]] = {}
    for part in contract.inputs:
        columns = _columns_of(part, header, numeric, alone=needed == [part], notes=notes)
        if columns is None:
            continue
        twice = [place for place in columns if any(place in others for others in plan.values())]
        if twice:
            raise UsageError(f"column `{header[twice[0]]}` fits two inputs")
        plan[part.name] = columns
    if not plan:
        raise UsageError("no column fits an input of the model")
    return plan


def _columns_of(
    part: Input, header: Sequence[str], numeric: Sequence[bool], *, alone: bool, notes: list[str]
) -> list[int] | None:
    sizes = part.shape[1:]
    fixed = int(np.prod(sizes)) if all(size >= 0 for size in sizes) else None
    if part.name in header:
        if fixed not in (1, None) or (fixed is None and len(sizes) != 1):
            raise UsageError(
                f"column `{part.name}` has one value a row, the input of that name takes {part.shape}",
                hint=f"name the columns `{part.name}.0`, `{part.name}.1`, …",
            )
        return [header.index(part.name)]
    for separator, start in ((".", 0), ("_", 0), (".", 1), ("_", 1)):
        found: list[int] = []
        while (name := f"{part.name}{separator}{start + len(found)}") in header:
            found.append(header.index(name))
        if found and (fixed == len(found) or (fixed is None and len(sizes) == 1)):
            return found
        if found:
            raise UsageError(
                f"the table has {len(found)} columns `{part.name}{separator}{start}`, …, "
                f"the input `{part.name}` takes the shape {part.shape}"
            )
    if part.optional:
        return None
    names = described_columns(part.description)
    if len(names) == fixed and all(name in header for name in names):  # wherever they stand
        columns = [header.index(name) for name in names]
        notes.append(f"input `{part.name}` takes the columns {_list(header, columns)} in this order")
        return columns
    columns = [place for place, name in enumerate(header) if numeric[place] and not _is_id(name)]
    if alone and fixed is not None and len(columns) == fixed == len(names):
        lacking = next(name for name in names if name not in header)
        raise UsageError(
            f"the table has no column `{lacking}`, on which input `{part.name}` was trained{suggest(lacking, header)}",
            hint=f"name the columns as in training: {_list(names, range(len(names)))}",
        )
    if alone and fixed is not None and len(columns) == fixed:
        notes.append(f"input `{part.name}` takes the columns {_list(header, columns)} in this order")
        return columns
    raise UsageError(
        f"no column fits the input `{part.name}` {part.shape}, the table has {_list(header, range(len(header)))}",
        hint=f"name its column `{part.name}`"
        if fixed == 1
        else f"name its columns `{part.name}.0`, `{part.name}.1`, …",
    )


def _tensor(
    path: Path, part: Input, header: Sequence[str], columns: Sequence[int], rows: Sequence[Sequence[str]], start: int
) -> Tensor:
    dtype = DTYPES[part.datatype]
    values = np.empty((len(rows), len(columns)), object)
    for row, fields in enumerate(rows):
        for place, column in enumerate(columns):
            try:
                values[row, place] = _value(fields[column], dtype)
            except ValueError as error:
                raise DataError(f"`{path}`: row {start + row + 1}: column `{header[column]}`: {error}") from error
    shape = [len(rows), *(len(columns) if size < 0 else size for size in part.shape[1:])]
    return torch.tensor(values.tolist(), dtype=dtype).reshape(shape)


def _value(text: str, dtype: torch.dtype) -> float | int | bool:
    text = text.strip()
    if not text:
        raise ValueError("a value is missing")
    if dtype == torch.bool:
        known = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
        if text.lower() not in known:
            raise ValueError(f"`{text}` is neither true nor false")
        return known[text.lower()]
    if not _is_number(text):
        raise ValueError(f"`{text}` is no number")
    if dtype.is_floating_point:
        number = float(text)
        if np.isfinite(number) and abs(number) > torch.finfo(dtype).max:
            raise ValueError(f"`{text}` is beyond what the input holds")
        return number
    try:
        whole = int(text)
    except ValueError:
        if not float(text).is_integer():
            raise ValueError(f"`{text}` is no whole number") from None
        whole = int(float(text))
    if not torch.iinfo(dtype).min <= whole <= torch.iinfo(dtype).max:
        raise ValueError(f"`{text}` is beyond what the input holds")
    return whole


def _outputs(
    predictor: Predictor,
    names: Sequence[str],
    kept: Sequence[list[str]],
    calls: Iterator[dict[str, Tensor]],
    least: int,
    top_k: int | None,
    notes: list[str],
) -> Mapped:
    header = list(names)
    rows: list[list[str]] = []
    for inputs in calls:
        count = len(next(iter(inputs.values())))
        if count < least:  # the last row is repeated, and the copies are dropped
            again = torch.arange(least).clamp(max=count - 1)
            inputs = {name: value[again] for name, value in inputs.items()}
        predictor.check(inputs)
        outputs = predictor(inputs)
        flat = {}
        for part in predictor.contract.outputs:
            value = outputs[part.name]
            if not value.dim() or len(value) != max(count, least):
                raise UsageError(f"output `{part.name}` of shape {list(value.shape)} has no row for each of the table")
            flat[part.name] = value[:count].reshape(count, -1)
        if len(header) == len(names):
            header += _header(predictor.contract, flat, header, top_k, notes)
        for place in range(count):
            cells = [
                cell for part in predictor.contract.outputs for cell in _cells(part, flat[part.name][place], top_k)
            ]
            rows.append([*kept[len(rows)], *cells])
    if len(header) == len(names):  # no row: the header is what the contract says of the outputs
        shapes = {part.name: part.shape[1:] for part in predictor.contract.outputs}
        none = {name: torch.empty(0, int(np.prod([max(size, 1) for size in shape]))) for name, shape in shapes.items()}
        header += _header(predictor.contract, none, header, top_k, notes)
    return Mapped(header, rows, notes)


def _header(
    contract: Contract, flat: dict[str, Tensor], taken: Sequence[str], top_k: int | None, notes: list[str]
) -> list[str]:
    one = sum(_labels(part, flat[part.name].shape[1]) is not None for part in contract.outputs) == 1
    header: list[str] = []
    for part in contract.outputs:
        width = flat[part.name].shape[1]
        labels, prefix = _labels(part, width), "" if one else f"{part.name}."
        if labels is None:
            names = [part.name] if width == 1 else [f"{part.name}.{place}" for place in range(width)]
        elif top_k is None:
            names = [f"{prefix}label", f"{prefix}score"]
            names += [f"{part.name}.{label}" for label in labels] if width <= _MOST_VALUES else []
        else:
            ranks = range(1, min(top_k, width) + 1)
            names = [f"{prefix}{word}_{rank}" for rank in ranks for word in ("label", "score")]
        for name in names:
            free = name
            if free in taken or free in header:
                free = f"{part.name}.{name}"
                notes.append(f"the table has a column `{name}`, the model's is written as `{free}`")
            header.append(free)
    return header


def _cells(part: Output, row: Tensor, top_k: int | None) -> list[str]:
    values = row.numpy() if row.dtype != torch.bfloat16 else row.to(torch.float32).numpy()
    labels = _labels(part, len(row))
    cells: list[str] = []
    if labels is not None:
        likely = most_likely(row.to(torch.float64).numpy(), part, 1 if top_k is None else top_k)
        cells = [text for label, share in likely for text in (label, shortest(np.float32(share)))]
    if labels is None or (top_k is None and len(row) <= _MOST_VALUES):
        cells += [_text(value) for value in values]
    return cells


def _text(value: np.generic) -> str:
    if isinstance(value, np.float16):
        value = np.float32(value)
    if isinstance(value, np.floating):
        return shortest(value)
    return str(value).lower()


def _labels(part: Output, width: int) -> list[str] | None:
    return part.labels if part.labels and len(part.labels) == width else None


def _batching(contract: Contract, inputs: Sequence[Input]) -> tuple[int, int]:
    least, most = 0, 2**62
    for part in inputs:
        first = part.dims[0] if part.dims else None
        if isinstance(first, str):
            bounds = contract.dims.get(first)
            least = max(least, (bounds.min or 0) if bounds else 0)
            most = min(most, bounds.max if bounds and bounds.max is not None else most)
        elif first == 1 and len(part.dims) > 1:
            most = 1
        else:
            raise UsageError(
                f"input `{part.name}` has the fixed shape {part.shape}, which leaves no dimension for rows"
            )
    return least, most


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _is_id(name: str) -> bool:
    small = name.lower()
    return small in _IDS or small.endswith(("_id", ".id")) or small.startswith("__index_level_")


def _list(header: Sequence[str], places: Sequence[int] | range) -> str:
    names = [f"`{header[place]}`" for place in places]
    return ", ".join([*names[:10], "…"] if len(names) > 10 else names) or "none"
