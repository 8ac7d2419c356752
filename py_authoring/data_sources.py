"""One loader for each `data.kind`: digits, IDX folder, CSV, NPZ, a function in model.py.

In: the recipe's data section. Out: `Splits`. Every message names the file, and the line or array in it.
"""

from __future__ import annotations

import csv
import gzip
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from py_authoring import model_file
from py_authoring.data import ArrayDataset, Splits, split
from py_authoring.errors import DataError, NotFoundError
from py_authoring.recipe import ResolvedRecipe
from py_authoring.recipe_problems import suggest
from py_authoring.recipe_sections import CsvData, DigitsData, FunctionData, IdxData, NoData, NpzData

# The files of MNIST, under the names that its mirrors give them.
_IDX_NAMES = {
    "train images": ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
    "train labels": ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte"),
    "test images": ("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"),
    "test labels": ("t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"),
}


def load(resolved: ResolvedRecipe) -> Splits:
    """Loads what `resolved.recipe.data` names; see `py_authoring.data.load_splits`."""
    section = resolved.recipe.data
    match section:
        case DigitsData():
            return _load_digits(section)
        case IdxData():
            return _load_idx(section)
        case CsvData():
            return _load_csv(section)
        case NpzData():
            return _load_npz(section)
        case FunctionData():
            return _load_function(section, resolved)
        case NoData():
            raise DataError(f'model `{resolved.name}` has no data: data.kind is "none"')


def read_idx(path: Path) -> Tensor:
    """Reads an IDX file of unsigned bytes, gzipped or not.

    Returns:
        uint8, of the shape that the file states.

    Raises:
        DataError: it is no IDX file, holds another type, or has fewer or more bytes than its shape needs.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"`{path}` cannot be read: {model_file.first_line(error)}") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[3] == 0:
        raise DataError(f"`{path}` is no IDX file: it begins with {data[:4].hex(' ') or 'nothing'}")
    if data[2] != 0x08:
        raise DataError(f"`{path}` holds IDX type {data[2]:#04x}, expected 0x08 (unsigned bytes)")
    start = 4 + 4 * data[3]
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    if len(data) != start + math.prod(shape):
        raise DataError(f"`{path}` has {len(data)} bytes, its shape {shape} needs {start + math.prod(shape)}")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())


def _load_digits(section: DigitsData) -> Splits:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.float32)[:, None] / 16
    images = torch.nn.functional.interpolate(images, size=(section.size, section.size), mode="bilinear")
    target = torch.from_numpy(bunch.target).to(torch.int64)
    dataset = ArrayDataset({section.input: images.clamp(0, 1)}, target)
    parts = split(dataset, section.validation, section.test, section.split_seed)
    return Splits(*parts, name="digits", labels=[str(digit) for digit in range(10)])


def _load_idx(section: IdxData) -> Splits:
    folder = Path(section.path)
    if not folder.is_dir():
        raise NotFoundError(f"data.path `{folder}` is no folder", hint="it holds train-images-idx3-ubyte[.gz] and more")
    train = _idx_pair(folder, "train", section.input)
    if train is None:
        raise NotFoundError(
            f"`{folder}` has no MNIST files: expected {_IDX_NAMES['train images'][0]} and "
            f"{_IDX_NAMES['train labels'][0]}, gzipped or not"
        )
    test = _idx_pair(folder, "test", section.input)
    share = 0.0 if test is not None else section.test
    parts = split(train, section.validation, share, section.split_seed)
    classes = int(max(part.target.max() for part in (train, test) if part is not None and len(part))) + 1
    return Splits(
        parts[0], parts[1], test if test is not None else parts[2], folder.name, [str(i) for i in range(classes)]
    )


def _idx_pair(folder: Path, which: str, name: str) -> ArrayDataset | None:
    found = []
    for what in (f"{which} images", f"{which} labels"):
        candidates = [folder / (stem + suffix) for stem in _IDX_NAMES[what] for suffix in ("", ".gz")]
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is not None:
            found.append(path)
    if len(found) == 1:
        raise NotFoundError(f"`{found[0]}` is there, but the file of its {which} images or labels is not")
    if not found:
        return None
    images, labels = (read_idx(path) for path in found)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"`{found[0]}` has shape {list(images.shape)} and `{found[1]}` {list(labels.shape)}; "
            "expected [samples, height, width] and [samples]"
        )
    return ArrayDataset({name: images[:, None]}, labels.to(torch.int64))


def _load_csv(section: CsvData) -> Splits:
    path = Path(section.path)
    header, rows = _read_csv(path, section.delimiter)
    for column in [section.target, *(section.features or [])]:
        if column not in header:
            raise DataError(f"`{path}` has no column `{column}`{suggest(column, header)}; it has {', '.join(header)}")
    features = section.features or [column for column in header if column != section.target]
    at = [header.index(column) for column in features]
    values = torch.tensor([[_number(path, line, header[i], row[i]) for i in at] for line, row in rows])
    place = header.index(section.target)
    if section.task == "regression":
        numbers = [[_number(path, line, section.target, row[place])] for line, row in rows]
        target, labels = torch.tensor(numbers, dtype=torch.float32), None
    else:
        texts = [row[place] for _, row in rows]
        labels = sorted(set(texts), key=_label_order)
        number = {label: index for index, label in enumerate(labels)}
        target = torch.tensor([number[text] for text in texts])
    parts = split(ArrayDataset({section.input: values}, target), section.validation, section.test, section.split_seed)
    return Splits(*parts, name=path.name, labels=labels)


def _read_csv(path: Path, delimiter: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter)
            header = next(reader, [])
            rows = [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError as error:
        raise NotFoundError(f"data.path `{path}` is not there") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"`{path}` cannot be read: {model_file.first_line(error)}") from error
    if not rows:
        raise DataError(f"`{path}` has no rows below its header")
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(f"{path}:{line}: {len(row)} fields, the header has {len(header)}")
    return header, rows


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"{path}:{line}: column `{column}` is {text!r}, expected a number") from error


def _label_order(label: str) -> tuple[int, float, str]:
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label


def _load_npz(section: NpzData) -> Splits:
    path = Path(section.path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise NotFoundError(f"data.path `{path}` is not there") from error
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"`{path}` is no .npz file of plain arrays: {model_file.first_line(error)}") from error
    names = section.inputs if section.inputs is not None else [name for name in arrays if name != section.target]
    for name in [section.target, *names]:
        if name not in arrays:
            raise DataError(f"`{path}` has no array `{name}`{suggest(name, list(arrays))}; it has {', '.join(arrays)}")
    tensors = {name: _tensor(arrays[name], f"array `{name}` of `{path}`") for name in [*names, section.target]}
    target = tensors.pop(section.target)
    dataset = _dataset(tensors, target, f"`{path}`")
    return Splits(*split(dataset, section.validation, section.test, section.split_seed), name=path.name)


def _load_function(section: FunctionData, resolved: ResolvedRecipe) -> Splits:
    file = resolved.directory / model_file.MODEL_FILE
    function = getattr(model_file.load_module(resolved), section.function, None)
    if function is None:
        raise DataError(f"`{file}` has no function `{section.function}`", hint="data.function in the recipe names it")
    with torch.random.fork_rng(devices=[]):  # what the function draws must not shift the weights
        torch.manual_seed(section.split_seed)
        returned = model_file.call(function, file, **section.arguments)
    what = f"`{section.function}` of `{file}`"
    if isinstance(returned, tuple) and len(returned) == 2:
        dataset = _from_pair(returned, what)
        parts = split(dataset, section.validation, section.test, section.split_seed)
    elif isinstance(returned, tuple) and len(returned) == 3:
        train, validation, test = (_from_pair(part, what) for part in returned)
        parts = (train, validation, test)
    else:
        raise DataError(
            f"{what} must return (inputs, target), or three such pairs; it returned {type(returned).__name__}"
        )
    return Splits(*parts, name=f"{resolved.name}:{section.function}")


def _from_pair(pair: Any, what: str) -> Any:
    if not isinstance(pair, tuple):
        return pair  # a dataset of the user's own
    inputs, target = pair
    if not isinstance(inputs, Mapping):
        raise DataError(f"{what} must return its inputs as a dict by forward's arguments, not {type(inputs).__name__}")
    tensors: dict[str, Tensor | Sequence[Tensor]] = {}
    for name, value in inputs.items():
        if isinstance(value, list | tuple):
            tensors[name] = [_tensor(item, f"input `{name}` of {what}") for item in value]
        else:
            tensors[name] = _tensor(value, f"input `{name}` of {what}")
    return _dataset(tensors, _tensor(target, f"the target of {what}"), what)


def _dataset(inputs: Mapping[str, Tensor | Sequence[Tensor]], target: Tensor, what: str) -> ArrayDataset:
    for name, values in inputs.items():
        if len(values) != len(target):
            raise DataError(f"{what} has {len(values)} samples of `{name}` and {len(target)} of the target")
    return ArrayDataset(inputs, target)


def _tensor(value: Any, what: str) -> Tensor:
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{what} is no array of numbers: {model_file.first_line(error)}") from error
    # NumPy's default is float64, the weights are float32; whole numbers are classes or tokens, which torch wants wide.
    if tensor.dtype == torch.float64:
        return tensor.to(torch.float32)
    return tensor.to(torch.int64) if tensor.dtype in (torch.int8, torch.int16, torch.int32) else tensor
