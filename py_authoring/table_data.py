"""Rows of a CSV or Parquet file → samples: columns of numbers and of categories, and one to predict.

In: the recipe's data section. Out: `Splits`, with what the training rows taught. Every message names file and row.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from py_authoring import model_file
from py_authoring.data import ArrayDataset, Splits
from py_authoring.errors import DataError, NotFoundError, UnavailableError
from py_authoring.learnt import Learnt, Scale
from py_authoring.preprocessing import are_whole
from py_authoring.recipe_problems import suggest
from py_authoring.recipe_sections import CsvData, HfData, ParquetData, TextData
from py_authoring.splitting import Parts, count_classes_in, fill_parts, split_by_names, split_indices


@dataclass(frozen=True)
class Table:
    """Columns by name, and where each row stands.

    Attributes:
        path: the file.
        header: the names of the columns.
        rows: how many.
        values: column → its values, text of a CSV, whatever a Parquet file holds.
        place: row number, from 0 → `data.csv:2`.
        splits: train, validation or test for each row, where the data comes so.
    """

    path: Path
    header: list[str]
    rows: int
    values: Callable[[str], Sequence[Any]] = field(repr=False)
    place: Callable[[int], str] = field(repr=False)
    splits: Sequence[str] | None = field(default=None, repr=False)

    def need(self, columns: Sequence[str]) -> None:
        """Raises `DataError` for the first column that is not there."""
        for column in columns:
            if column not in self.header:
                near = suggest(column, self.header)
                raise DataError(f"`{self.path}` has no column `{column}`{near}; it has {', '.join(self.header)}")

    def numbers(self, column: str) -> Tensor:
        """A column as float32 `[rows]`; raises `DataError` with the row of a value that is no finite number."""
        values = [self._number(row, column, value) for row, value in enumerate(self.values(column))]
        return torch.tensor(values, dtype=torch.float64).to(torch.float32)

    def texts(self, column: str) -> list[str]:
        """A column as text; raises `DataError` with the row of a value that is missing."""
        texts = [_as_text(value) for value in self.values(column)]
        for row, text in enumerate(texts):
            if not text:
                raise DataError(f"{self.place(row)}: column `{column}` is empty, expected a value")
        return [text for text in texts if text is not None]

    def _number(self, row: int, column: str, value: Any) -> float:
        shown = "empty" if value is None or value == "" else repr(value)
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.place(row)}: column `{column}` is {shown}, expected a number") from error
        if not math.isfinite(number) or abs(number) > torch.finfo(torch.float32).max:
            raise DataError(f"{self.place(row)}: column `{column}` is {shown}, expected a finite number of 32 bits")
        return number


def load_table(section: CsvData | ParquetData | HfData, learnt: Learnt | None) -> Splits:
    """Reads the file or folder of a section and splits its rows.

    Args:
        section: the recipe's.
        learnt: what an earlier training learnt: categories and classes keep their numbers.

    Raises:
        NotFoundError, DataError: no file, no such column, or a wrong value; names the row.
        UnavailableError: a Parquet file, and pyarrow is not installed.
    """
    path = Path(section.path)
    table = _read(section, path)
    apart = [name for name in (section.target, section.split_column) if name is not None]
    if section.split_by == "hash" and section.split_key is not None:
        apart.append(section.split_key)
    table.need([*apart, *(section.features or []), *section.categories])
    features = section.features or [name for name in table.header if name not in apart]
    unused = [name for name in section.categories if name not in features]
    if unused:
        raise DataError(f"data.categories has `{unused[0]}`, which is not among data.features or is no feature")
    if section.target in features:
        raise DataError(f"data.features has `{section.target}`, which is what is predicted")
    if section.separate:
        wrong = next((name for name in features if not name.isidentifier()), None)
        if wrong is not None:
            raise DataError(
                f"`{path}`: column `{wrong}` can be no argument of forward, as data.separate makes each one",
                hint="rename it to a word of letters, digits and `_`, or leave data.separate out",
            )
    if learnt is not None:
        features = _as_learnt(features, section, learnt, path)
    numbers = {name: table.numbers(name) for name in features if name not in section.categories}
    words = {name: table.texts(name) for name in features if name in section.categories}
    parts = split_rows(table, section)
    target, facts = read_target(table, section, parts, learnt)
    if learnt is None:
        learnt = Learnt(
            numbers={name: scale_of(values[parts[0]]) for name, values in numbers.items()},
            categories={name: _distinct([texts[row] for row in parts[0].tolist()]) for name, texts in words.items()},
            **facts,
        )
    ids = {name: _ids(table, name, texts, learnt.categories.get(name, [])) for name, texts in words.items()}
    inputs = _inputs(section, features, numbers, ids)
    dataset = ArrayDataset(inputs, target)
    described = {name: _describe(values) for name, values in learnt.categories.items()}
    notes = described if section.separate else _joined(section.category_input, described)
    if numbers and not section.separate:
        notes |= _columns(section.input, list(numbers))
    train, validation, test = (dataset.subset(part) for part in parts)
    return Splits(train, validation, test, path.name, learnt.labels, learnt, descriptions=notes)


def _read(section: CsvData | ParquetData | HfData, path: Path) -> Table:
    match section:
        case CsvData():
            return read_csv(path, section.delimiter)
        case ParquetData():
            return read_parquet(path)
        case HfData():
            return read_saved_dataset(path)


def read_csv(path: Path, delimiter: str) -> Table:
    """A CSV file with a header line, in UTF-8.

    Raises:
        NotFoundError, DataError: names the line that has too many or too few fields.
    """
    begun, rows = 1, []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = next(reader, [])
            begun = reader.line_num + 1
            for row in reader:
                if row:
                    rows.append((reader.line_num, row))
                begun = reader.line_num + 1
    except FileNotFoundError as error:
        raise NotFoundError(f"data.path `{path}` is not there") from error
    except csv.Error as error:  # of a quote that is not closed, too, which would swallow the rows below it
        reason = csv_reason(error)
        hint = 'a field with a quote is written as "5"" pipe"' if "quote" in reason else None
        raise DataError(f"{path}:{begun}: the row cannot be read: {reason}", hint=hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`{path}` cannot be read: {model_file.first_line(error)}") from error
    if not rows:
        raise DataError(f"`{path}` has no rows below its header")
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"`{path}` has two columns `{twice}`")
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(f"{path}:{line}: {len(row)} fields, the header has {len(header)}")

    def values(name: str) -> list[str]:
        at = header.index(name)
        return [row[at] for _, row in rows]

    return Table(path, header, len(rows), values, lambda row: f"{path}:{rows[row][0]}")


def csv_reason(error: csv.Error) -> str:
    """What is wrong with the quotes of a row; the csv module's own words say it to programmers."""
    text = model_file.first_line(error)
    if text == "unexpected end of data":
        return "a quote is opened and never closed"
    return "a quote is closed in the middle of a field" if "expected after" in text else text


def read_parquet(path: Path) -> Table:
    """A Parquet file; only the columns that are asked for are read.

    Raises:
        UnavailableError: pyarrow is not installed.
        NotFoundError, DataError: no file, or none of this kind.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UnavailableError(
            'data.kind "parquet" needs pyarrow, which is not installed', hint="`pip install 'rust-host[tables]'`"
        ) from error
    if not path.is_file():
        raise NotFoundError(f"data.path `{path}` is {'no file' if path.exists() else 'not there'}")
    try:
        file = ParquetFile(path)
        header, rows = list(file.schema_arrow.names), file.metadata.num_rows
    except (OSError, ValueError, ArrowException) as error:
        raise DataError(f"`{path}` is no Parquet file: {_reason(error)}") from error
    if not rows:
        raise DataError(f"`{path}` has no rows")

    def values(name: str) -> list[Any]:
        try:
            read: list[Any] = file.read(columns=[name]).column(0).to_pylist()
            return read
        except (OSError, ValueError, ArrowException) as error:
            raise DataError(f"`{path}`: column `{name}` cannot be read: {_reason(error)}") from error

    return Table(path, header, rows, values, lambda row: f"`{path}`: row {row + 1}")


def read_saved_dataset(path: Path) -> Table:
    """A folder of the `datasets` library, one dataset or one for each split; names of classes stand for their numbers.

    Raises:
        UnavailableError: the library is not installed.
        NotFoundError, DataError: no folder, none of this kind, or splits of other columns or names.
    """
    try:
        from datasets import DatasetDict, load_from_disk
    except ImportError as error:
        raise UnavailableError(
            'data.kind "hf" needs datasets, which is not installed', hint="`pip install 'rust-host[hf]'`"
        ) from error
    if not path.is_dir():
        raise NotFoundError(f"data.path `{path}` is {'no folder' if path.exists() else 'not there'}")
    try:
        loaded = load_from_disk(str(path))
    except Exception as error:  # it raises its own, pyarrow's, OSError, KeyError and what its JSON reader does
        raise DataError(f"`{path}` is no folder that `save_to_disk` wrote: {_reason(error)}") from error
    parts = dict(loaded) if isinstance(loaded, DatasetDict) else {"": loaded}
    header = list(next(iter(parts.values())).column_names)
    other = next((name for name, part in parts.items() if sorted(part.column_names) != sorted(header)), None)
    if other is not None:
        raise DataError(f"`{path}`: the columns of its split `{other}` are not those of `{next(iter(parts))}`")
    where = [(name, row) for name, part in parts.items() for row in range(len(part))]
    if not where:
        raise DataError(f"`{path}` has no rows")

    def values(name: str) -> list[Any]:
        read: list[Any] = []
        for part in parts.values():
            kind = part.features[name]
            numbers = part.with_format(None)[name][:]
            if hasattr(kind, "int2str"):  # a number below 0 stands for a class that is not known
                numbers = [kind.int2str(value) if value is not None and value >= 0 else None for value in numbers]
            read += numbers
        return read

    def place(row: int) -> str:
        name, at = where[row]
        return f"`{path}`: row {at + 1}" + (f" of `{name}`" if name else "")

    splits = [name for name, _ in where] if isinstance(loaded, DatasetDict) else None
    return Table(path, header, len(where), values, place, splits)


def split_rows(table: Table, section: CsvData | ParquetData | HfData | TextData) -> Parts:
    """Train, validation and test: by a column, by the seed, or by a hash of each row or of its key."""
    if table.splits is not None and section.split_column is None:
        ready = split_by_names(table.splits, lambda row: f"the split of {table.place(row)}")
        return fill_parts(ready, section, _key(table, section))
    if section.split_column is not None:
        column = section.split_column
        table.need([column])
        return split_by_names(table.texts(column), lambda row: f"{table.place(row)}: column `{column}`")
    return split_indices(table.rows, section, _key(table, section))


def _key(table: Table, section: CsvData | ParquetData | HfData | TextData) -> Callable[[int], str]:
    if section.split_by == "seed":
        return str
    used = [section.split_key] if section.split_key is not None else table.header
    table.need(used)
    columns = [[str(value) for value in table.values(name)] for name in used]
    return lambda row: "\0".join(column[row] for column in columns)


def read_target(
    table: Table, section: CsvData | ParquetData | HfData | TextData, parts: Parts, learnt: Learnt | None
) -> tuple[Tensor, dict[str, Any]]:
    """The column to predict, as numbers `[rows, 1]` or class numbers `[rows]`, and what it taught.

    Raises:
        DataError: a class that the earlier training had not, or one without a sample to train on.
    """
    column = section.target
    if section.task == "regression":
        numbers = table.numbers(column)
        return numbers[:, None], {"target": scale_of(numbers[parts[0]])}
    texts = table.texts(column)
    labels = learnt.labels if learnt is not None and learnt.labels is not None else _distinct(texts)
    number = {label: index for index, label in enumerate(labels)}
    unknown = next((row for row, text in enumerate(texts) if text not in number), None)
    if unknown is not None:
        raise DataError(
            f"{table.place(unknown)}: column `{column}` is {texts[unknown]!r}, "
            f"a class that was not learnt; those are {', '.join(labels)}"
        )
    target = torch.tensor([number[text] for text in texts])
    if learnt is not None:
        return target, {}
    counts = count_classes_in(target, parts[0], labels, f"`{table.path}`")
    return target, {"labels": labels, "class_counts": counts}


def scale_of(values: Tensor) -> Scale:
    """Mean and deviation of numbers, added up in 64 bits."""
    wide = values.to(torch.float64)
    if not len(wide):
        return Scale(0.0, 1.0)
    mean, deviation = float(wide.mean()), float(wide.std(correction=0))
    # what rounding leaves of 0 where all are equal; two float32 differ by far more
    return Scale(mean, deviation if deviation > 1e-12 * abs(mean) else 1.0)


def _as_learnt(
    features: Sequence[str], section: CsvData | ParquetData | HfData, learnt: Learnt, path: Path
) -> list[str]:
    """The columns in the order that the weights know them in, wherever they stand in this file."""
    known = [*learnt.numbers, *learnt.categories]
    if not known:  # labels alone
        return list(features)
    lacking = [name for name in known if name not in features]
    if lacking:
        raise DataError(
            f"`{path}`: column `{lacking[0]}` was trained on and is no feature here{suggest(lacking[0], features)}"
        )
    further = [name for name in features if name not in known]
    if further:
        raise DataError(
            f"`{path}`: column `{further[0]}` is a feature that was not trained on",
            hint=f"data.features names the columns to use: {_list(known)}",
        )
    moved = [name for name in known if (name in learnt.categories) != (name in section.categories)]
    if moved:
        was, now = ("a category", "of numbers") if moved[0] in learnt.categories else ("of numbers", "a category")
        raise DataError(
            f"`{path}`: column `{moved[0]}` was {was} when it was trained on, data.categories makes it {now}"
        )
    return list(features) if section.separate else known


def _inputs(
    section: CsvData | ParquetData | HfData, features: Sequence[str], numbers: dict[str, Tensor], ids: dict[str, Tensor]
) -> dict[str, Tensor]:
    if section.separate:
        return {name: numbers[name] if name in numbers else ids[name] for name in features}
    inputs = {}
    if numbers:
        inputs[section.input] = torch.stack(list(numbers.values()), dim=1)
    if ids:
        inputs[section.category_input] = torch.stack(list(ids.values()), dim=1)
    return inputs


def _ids(table: Table, column: str, texts: Sequence[str], values: Sequence[str]) -> Tensor:
    """What forward gets: whole numbers as they are, words as their ids."""
    if not are_whole(values) or not values:
        ids = {value: place for place, value in enumerate(values, 1)}
        return torch.tensor([ids.get(text, 0) for text in texts])
    wrong = next((row for row, text in enumerate(texts) if not are_whole([text])), None)
    if wrong is not None:
        raise DataError(
            f"{table.place(wrong)}: column `{column}` is {texts[wrong]!r}, "
            "expected a whole number as all its values to train on are"
        )
    return torch.tensor([int(text) for text in texts])


def _describe(values: Sequence[str]) -> str:
    """What a host must give: for the contract."""
    if are_whole(values) and values:
        return f"a category: {_list(values)}; any other counts as unknown"
    named = [f"{place} {value}" for place, value in enumerate(values, 1)]
    return f"a category by its id: 0 unknown, {_list(named)}"


def _joined(name: str, described: dict[str, str]) -> dict[str, str]:
    text = "; ".join(f"column {place} is `{column}`, {text}" for place, (column, text) in enumerate(described.items()))
    return {name: text} if described else {}


#: More would make a description that nobody reads, and a contract as large as a model.
_MOST_NAMED = 256


def _columns(name: str, columns: Sequence[str]) -> dict[str, str]:
    """Which columns an input is made of, and in which order; nothing where names could not be read back."""
    if len(columns) > _MOST_NAMED or any("`" in column for column in columns):
        return {}
    return {name: f"columns {', '.join(f'`{column}`' for column in columns)}"}


def described_columns(description: str | None) -> list[str]:
    """The columns that a description names; empty where it names none.

    Example:
        >>> described_columns("columns `age`, `bmi, rounded`"), described_columns("a category: 1, 2")
        (['age', 'bmi, rounded'], [])
    """
    whole = re.fullmatch(r"columns `[^`]*`(, `[^`]*`)*", description or "")
    return [] if whole is None else re.findall(r"`([^`]*)`", whole[0])


def _list(words: Sequence[str]) -> str:
    return ", ".join(words[:50]) + (f", … ({len(words)} in all)" if len(words) > 50 else "")


def _reason(error: Exception) -> str:
    """The first sentence of a library that writes several."""
    return model_file.first_line(error).split(". ")[0].rstrip(".")


def _distinct(texts: Sequence[str]) -> list[str]:
    return sorted(set(texts), key=_label_order)


def _label_order(label: str) -> tuple[int, float, str]:
    try:
        number = float(label)
    except ValueError:
        return 1, 0.0, label
    return (0, number, label) if math.isfinite(number) else (1, 0.0, label)  # NaN has no place among numbers


def _as_text(value: Any) -> str | None:
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return None  # pandas writes a missing text or number so
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    return str(value)
