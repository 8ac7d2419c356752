"""Words as a user types them → input tensors, as `rust-host run --input` reads them.

A value is a file, told by its content (.npy, .npz, PNG, JPEG, JSON), or JSON. Every message names input and file.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from py_authoring.contract import Contract, Input
from py_authoring.errors import DataError, NotFoundError, UsageError
from py_authoring.export.golden import DATATYPES
from py_authoring.model_file import first_line
from py_authoring.pictures import levels, read_picture

DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}
_NAME = re.compile(r"[A-Za-z_][\w.]*")
_PATH = re.compile(r"[^\[{\",\n]*(/|\.\w{1,5}$)")


def read_inputs(words: Sequence[str], contract: Contract) -> tuple[dict[str, Tensor], list[str]]:
    """Reads every word.

    Args:
        words: `NAME=VALUE`, or `VALUE` where one input is needed, or where the value names its inputs itself.
        contract: the model's.

    Returns:
        Tensors by input, and a sentence for each that was converted.

    Raises:
        NotFoundError: a file is not there.
        UsageError, DataError: a value cannot be read, or fits no input.
    """
    found: dict[str, Tensor] = {}
    notes: list[str] = []
    for word in words:
        name, value = _split(word, contract)
        shown = f"input `{name}`" if name is not None else "input"
        for key, tensor in _read(name, value, shown, contract).items():
            if key in found:
                raise UsageError(f"input `{key}` was given twice")
            found[key] = _as_the_contract_asks(_input(contract, key), tensor, notes)
    return found, notes


def picture_input(data: bytes, name: str, contract: Contract, shown: str) -> Tensor:
    """A picture file as a batch of one, as the contract's `image` says.

    Raises:
        UsageError: the contract does not say how a picture becomes this input.
        DataError: the file cannot be decoded.
    """
    about, part = contract.image, _input(contract, name)
    if about is None or about.input != name:
        raise UsageError(
            f"`{shown}`: no contract says how a picture becomes the input `{name}`",
            hint="give a .npy with the numbers, or export the model with an `image` section in its recipe",
        )
    size = None if about.size is None else (about.size.height, about.size.width)
    pixels = torch.from_numpy(read_picture(data, about.color, size, shown))
    dtype = DTYPES[part.datatype]
    if dtype == torch.uint8 and about.rescale_factor is None:
        values = pixels
    elif dtype.is_floating_point:
        values = levels(about.rescale_factor, dtype)[pixels.to(torch.int64)]
    else:
        raise UsageError(f"`{shown}`: a picture cannot become {part.datatype}")
    return (values if about.layout == "NCHW" else values.permute(1, 2, 0).contiguous())[None]


def is_picture(data: bytes) -> bool:
    """Whether bytes begin as a PNG or JPEG file."""
    return data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))


def is_there(word: str) -> bool:
    """Whether a word is a path at which there is something; JSON is none, and may be too long to ask for."""
    try:
        return Path(word).exists()
    except (OSError, ValueError):
        return False


def _split(word: str, contract: Contract) -> tuple[str | None, str]:
    name, equals, value = word.partition("=")
    known = any(part.name == name for part in contract.inputs)
    if equals and (known or (_NAME.fullmatch(name) and not is_there(word))):
        _input(contract, name)
        return name, value
    return None, word


def _read(name: str | None, value: str, shown: str, contract: Contract) -> dict[str, Tensor]:
    path = Path(value)
    data: bytes | None = None
    if is_there(value):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"`{value}` cannot be read: {(error.strerror or str(error)).lower()}") from error
    elif _PATH.match(value) and not _is_json(value):
        raise NotFoundError(f"{shown}: `{value}`: no such file or folder")
    shown = shown if data is None else f"`{value}`"
    if data is not None and data.startswith(b"\x93NUMPY"):
        return {_sole(name, shown, contract): _array(_load(data, value), value)}
    if data is not None and data.startswith(b"PK"):
        return _arrays(name, _load(data, value), value, shown, contract)
    if data is not None and is_picture(data):
        key = _sole(name, shown, contract)
        return {key: picture_input(data, key, contract, value)}
    try:
        text = value if data is None else data.decode("utf-8-sig")
        document = json.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of too many digits and too many brackets, too
        raise UsageError(f"{shown} is no JSON and no .npy, .npz, PNG or JPEG file: {first_line(error)}") from error
    if name is None and isinstance(document, Mapping) and document:
        return {key: _from_json(inner, _input(contract, key)) for key, inner in document.items()}
    key = _sole(name, shown, contract)
    return {key: _from_json(document, _input(contract, key))}


def _arrays(name: str | None, archive: Any, path: str, shown: str, contract: Contract) -> dict[str, Tensor]:
    names, inputs = list(archive.files), [part.name for part in contract.inputs]
    try:
        arrays = {key: _array(archive[key], path) for key in names}
    except DataError:
        raise
    except Exception as error:  # of a damaged one NumPy and zipfile raise whatever their readers stumble over
        raise DataError(f"`{path}` cannot be read: {first_line(error)}") from error
    if name is None and all(key in inputs for key in names):
        return arrays
    if name is None and names == [f"arr_{place}" for place in range(len(names))] and len(names) <= len(inputs):
        return dict(zip(inputs, arrays.values(), strict=False))
    key = _sole(name, shown, contract)
    if key in arrays or len(arrays) == 1:
        return {key: arrays.get(key, next(iter(arrays.values())))}
    there = ", ".join(f"`{each}`" for each in names) or "no arrays"
    raise UsageError(f"`{path}` holds {there}, expected an array `{key}`")


def _load(data: bytes, path: str) -> Any:
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # as above
        raise DataError(f"`{path}` is no array that can be read: {first_line(error)}") from error


def _array(array: np.ndarray, path: str) -> Tensor:
    native = array.astype(array.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(np.ascontiguousarray(native).reshape(native.shape))
    except TypeError as error:
        raise DataError(f"`{path}` holds {array.dtype}, expected numbers") from error


def _from_json(value: Any, part: Input) -> Tensor:
    dtype = DTYPES[part.datatype]
    try:
        numbers = _numbers(value, part)
        tensor = torch.tensor(numbers, dtype=dtype)
    except UsageError:
        raise
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:  # RecursionError is a RuntimeError
        raise UsageError(f"input `{part.name}` is no array of {part.datatype}: {first_line(error)}") from error
    if not dtype.is_floating_point and dtype != torch.bool and tensor.tolist() != numbers:
        raise UsageError(f"input `{part.name}` has a number that {part.datatype} cannot hold")
    return tensor


def _numbers(value: Any, part: Input) -> Any:
    if isinstance(value, list):
        return [_numbers(inner, part) for inner in value]
    if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
        return float(value.replace("Infinity", "inf"))
    if isinstance(value, bool) != (part.datatype == "BOOL") or not isinstance(value, int | float):
        raise UsageError(f"input `{part.name}` has {json.dumps(value)[:40]}, expected {part.datatype}")
    return value


def _as_the_contract_asks(part: Input, tensor: Tensor, notes: list[str]) -> Tensor:
    wanted = DTYPES[part.datatype]
    if tensor.dtype == wanted or not (tensor.is_floating_point() and wanted.is_floating_point):
        return tensor
    words = [str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, wanted)]
    notes.append(f"input `{part.name}` was {words[0]}, converted to {words[1]} as the contract asks")
    return tensor.to(wanted)


def _sole(name: str | None, shown: str, contract: Contract) -> str:
    if name is not None:
        return name
    needed = [part.name for part in contract.inputs if not part.optional]
    if len(needed) == 1:
        return needed[0]
    if not needed and len(contract.inputs) == 1:
        return contract.inputs[0].name
    takes = ", ".join(f"`{part.name}`" for part in contract.inputs)
    raise UsageError(f"{shown} has no name, the model takes {takes}", hint=f"`{contract.inputs[0].name}=…`")


def _input(contract: Contract, name: str) -> Input:
    part = next((part for part in contract.inputs if part.name == name), None)
    if part is None:
        takes = ", ".join(f"`{part.name}`" for part in contract.inputs)
        raise UsageError(f"unknown input `{name}`, the model takes {takes}")
    return part


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
