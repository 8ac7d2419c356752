"""One loader for each `data.kind`; those of digits, IDX, NPZ and of a function in model.py are here.

In: the recipe's data section. Out: `Splits`. Every message names the file, and the line or array in it.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from py_authoring import folder_data, model_file, table_data, text_data
from py_authoring.data import ArrayDataset, Splits
from py_authoring.errors import DataError, NotFoundError
from py_authoring.learnt import Learnt, Scale
from py_authoring.recipe import ResolvedRecipe
from py_authoring.recipe_problems import suggest
from py_authoring.recipe_sections import (
    CsvData,
    DigitsData,
    FolderData,
    FunctionData,
    HfData,
    IdxData,
    NoData,
    NpzData,
    ParquetData,
    SplitSection,
    TextData,
)
from py_authoring.splitting import count_classes_in, split_indices

# The files of MNIST, under the names that its mirrors give them.
_IDX_NAMES = {
    "train images": ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
    "train labels": ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte"),
    "test images": ("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"),
    "test labels": ("t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"),
}
#: No gzip file holds more for each of its bytes.
_GZIP_RATIO = 1032
_MOST_IDX_AXES = 32


def load(resolved: ResolvedRecipe, learnt: Learnt | None = None) -> Splits:
    """Loads what `resolved.recipe.data` names; see `py_authoring.data.load_splits`."""
    section, task = resolved.recipe.data, resolved.recipe.task
    match section:
        case DigitsData():
            return _with_learnt(_load_digits(section), learnt, task)
        case FolderData():
            return folder_data.load_folder(section, learnt)
        case IdxData():
            loaded = _load_idx(section)
            if learnt is None and task == "classification":
                _check_classes(loaded, f"`{section.path}`")
            return _with_learnt(loaded, learnt, task)
        case CsvData() | ParquetData() | HfData():
            return table_data.load_table(section, learnt)
        case TextData():
            return text_data.load_text(section, learnt)
        case NpzData():
            return _with_learnt(_load_npz(section), learnt, task)
        case FunctionData():
            return _with_learnt(_load_function(section, resolved), learnt, task)
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
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            file: BinaryIO = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if packed else raw
            return _read_idx(file, path, path.stat().st_size * (_GZIP_RATIO if packed else 1))
    except MemoryError as error:
        raise DataError(f"`{path}` states a shape that does not fit into this machine's memory") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"`{path}` cannot be read: {model_file.first_line(error)}") from error


def _read_idx(file: BinaryIO, path: Path, most: int) -> Tensor:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[3] == 0:
        raise DataError(f"`{path}` is no IDX file: it begins with {head.hex(' ') or 'nothing'}")
    if head[2] != 0x08:
        raise DataError(f"`{path}` holds IDX type {head[2]:#04x}, expected 0x08 (unsigned bytes)")
    if head[3] > _MOST_IDX_AXES:
        raise DataError(f"`{path}` states {head[3]} axes, expected at most {_MOST_IDX_AXES}")
    sizes = file.read(4 * head[3])
    shape = [int.from_bytes(sizes[at : at + 4], "big") for at in range(0, len(sizes), 4)]
    start, needed = 4 + 4 * head[3], math.prod(shape)
    # no more than the shape asks for is unpacked: a gzip file of 1 MB can hold 1 GB
    data = file.read(min(needed, most) + 1) if len(sizes) == 4 * head[3] else b""
    if len(data) != needed or len(sizes) != 4 * head[3]:
        has = "more bytes than its shape" if len(data) > needed else f"{4 + len(sizes) + len(data)} bytes, its shape"
        raise DataError(f"`{path}` has {has} {shape} needs{'' if len(data) > needed else f' {start + needed}'}")
    return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(shape).copy())


def _load_digits(section: DigitsData) -> Splits:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.float32)[:, None] / 16
    images = torch.nn.functional.interpolate(images, size=(section.size, section.size), mode="bilinear")
    target = torch.from_numpy(bunch.target).to(torch.int64)
    dataset = ArrayDataset({section.input: images.clamp(0, 1)}, target)
    parts = _split(dataset, section)
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
    shares = section.model_copy(update={"test": 0.0}) if test is not None else section
    parts = _split(train, shares)
    if not len(train) and not (test is not None and len(test)):
        raise DataError(f"`{folder}` has files of 0 samples")
    classes = int(max(part.target.max() for part in (train, test) if part is not None and len(part))) + 1
    labels = [str(number) for number in range(classes)]
    return Splits(parts[0], parts[1], test if test is not None else parts[2], folder.name, labels)


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


def _load_npz(section: NpzData) -> Splits:
    path = Path(section.path)
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise DataError(f"`{path}` is a .npy file of one array, expected .npz with inputs and target by name")
        with archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise NotFoundError(f"data.path `{path}` is not there") from error
    except DataError:
        raise
    except Exception as error:  # of a damaged one NumPy and zipfile raise whatever their readers stumble over
        raise DataError(f"`{path}` is no .npz file of plain arrays: {model_file.first_line(error)}") from error
    names = section.inputs if section.inputs is not None else [name for name in arrays if name != section.target]
    for name in [section.target, *names]:
        if name not in arrays:
            raise DataError(f"`{path}` has no array `{name}`{suggest(name, list(arrays))}; it has {', '.join(arrays)}")
    single = next((name for name in [*names, section.target] if not arrays[name].ndim), None)
    if single is not None:
        raise DataError(
            f"`{path}`: array `{single}` is one value, expected an axis of samples",
            hint="data.inputs names the arrays to use",
        )
    tensors = {name: _tensor(arrays[name], f"array `{name}` of `{path}`") for name in [*names, section.target]}
    target = tensors.pop(section.target)
    dataset = _dataset(tensors, target, f"`{path}`")
    return Splits(*_split(dataset, section), name=path.name)


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
        parts = _split(dataset, section)
    elif isinstance(returned, tuple) and len(returned) == 3:
        train, validation, test = (_from_pair(part, what) for part in returned)
        parts = (train, validation, test)
    else:
        raise DataError(
            f"{what} must return (inputs, target), or three such pairs; it returned {type(returned).__name__}"
        )
    return Splits(*parts, name=f"{resolved.name}:{section.function}")


def _split(dataset: ArrayDataset, section: SplitSection) -> tuple[ArrayDataset, ArrayDataset, ArrayDataset]:
    def content(index: int) -> bytes:
        inputs, target = dataset[index]
        return b"\0".join(part.contiguous().numpy().tobytes() for part in (*inputs.values(), torch.as_tensor(target)))

    train, validation, test = split_indices(len(dataset), section, content)
    return dataset.subset(train), dataset.subset(validation), dataset.subset(test)


def _check_classes(splits: Splits, what: str) -> None:
    parts = [part.target for part in (splits.train, splits.validation, splits.test) if isinstance(part, ArrayDataset)]
    target = torch.cat(parts)
    if target.dtype == torch.int64 and target.dim() == 1 and len(target) and int(target.min()) >= 0:
        labels = splits.labels or [str(number) for number in range(int(target.max()) + 1)]
        count_classes_in(target, torch.arange(len(parts[0])), labels, what)


def _with_learnt(splits: Splits, learnt: Learnt | None, task: str) -> Splits:
    """What arrays taught: the scale of each channel or column of a floating input, of the target, the class counts."""
    dataset = splits.train
    if learnt is not None:
        return replace(splits, learnt=learnt, labels=learnt.labels or splits.labels)
    if not isinstance(dataset, ArrayDataset) or not len(dataset):
        return splits
    numbers: dict[str, Scale] = {}
    channels: list[Scale] = []
    for name, values in dataset.inputs.items():
        if not isinstance(values, Tensor) or not (values.is_floating_point() or values.dtype == torch.uint8):
            continue
        if values.dim() == 4:
            channels = [_scale(values[:, channel]) for channel in range(values.shape[1])]
        elif values.dim() == 2:
            numbers |= {f"{name}.{column}": _scale(values[:, column]) for column in range(values.shape[1])}
    target, counts, scale = dataset.target, None, None
    if task == "regression" and not target.is_complex():
        scale = table_data.scale_of(target.reshape(-1))
    elif target.dtype == torch.int64 and target.dim() == 1 and int(target.min()) >= 0:
        counts = torch.bincount(target, minlength=len(splits.labels or [])).tolist()
    return replace(splits, learnt=Learnt(splits.labels, counts, numbers, {}, scale, channels))


def _scale(values: Tensor) -> Scale:
    if values.dtype != torch.uint8:
        return table_data.scale_of(values.reshape(-1))
    counts = torch.bincount(values.reshape(-1).to(torch.int32), minlength=256).to(torch.float64)
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = float((counts * levels).sum() / counts.sum())
    deviation = float((counts * (levels - mean) ** 2).sum() / counts.sum()) ** 0.5
    return Scale(mean, deviation if deviation > 1e-6 else 1.0)  # what rounding leaves of 0


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
    for name, values in [*inputs.items(), ("the target", target)]:
        if isinstance(values, Tensor) and not values.dim():
            raise DataError(f"{what}: `{name}` is one value, expected an axis of samples")
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
