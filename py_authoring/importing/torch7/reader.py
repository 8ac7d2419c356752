"""The bytes of a .t7 file, binary or ascii → tables, numbers, texts, tensors and objects.

Nothing of the file is run: Lua functions are bytecode, of which only the length is read. Every size in the file is
held against the bytes that are left, and nesting is counted, so that a hostile file costs no more than its length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from py_authoring.errors import NotFoundError
from py_authoring.importing.errors import ForeignFileError

_NIL, _NUMBER, _STRING, _TABLE, _OBJECT, _BOOLEAN, _FUNCTION = range(7)
#: Functions that may refer to themselves; the second is how older files write them.
_RECURSIVE_FUNCTIONS = (8, 7)
#: Far beyond any network; a file of nothing but opening brackets ends here.
_DEEPEST = 20_000
_MOST_DIMENSIONS = 64

_STORAGES: dict[str, str] = {
    "Double": "<f8",
    "Float": "<f4",
    "Half": "<f2",
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "i1",
    "Byte": "u1",
}
_CUDA = {"": "Float", "Double": "Double", "Half": "Half", "Long": "Long", "Int": "Int", "Short": "Short"}
_CUDA |= {"Char": "Char", "Byte": "Byte"}


class Table(dict[Any, Any]):
    """A Lua table; equal only to itself, so that it can be a key as in Lua."""

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def list(self) -> list[Any]:
        """The values of 1, 2, 3, … up to the first that is missing.

        Example:
            >>> Table({1: "a", 2: "b", "x": 0}).list()
            ['a', 'b']
        """
        found: list[Any] = []
        while len(found) + 1 in self:
            found.append(self[len(found) + 1])
        return found


@dataclass(eq=False)
class Object:
    """An object of a Torch class: its name, and its fields as far as they are a table."""

    name: str
    fields: Table = field(default_factory=Table, repr=False)

    def get(self, key: str, default: Any = None) -> Any:
        """A field; what Lua calls nil is the default."""
        value = self.fields.get(key)
        return default if value is None else value


@dataclass(frozen=True)
class Function:
    """A Lua function that was skipped.

    Attributes:
        size: bytes of bytecode.
    """

    size: int


def read_t7(path: Path) -> Any:
    """Reads the first value of a .t7 file.

    Returns:
        None, bool, int or float, str, `Table`, `Object`, `Function`, or a tensor (a storage is one of one dimension).

    Raises:
        NotFoundError: the file cannot be read.
        ForeignFileError: it is damaged, cut off, or no Torch7 file; says where.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"cannot read `{path}`: {(error.strerror or str(error)).lower()}") from error
    try:
        return Reader(data).read()
    except _Damaged as error:
        raise ForeignFileError(f"`{path}` is no Torch7 file, or is damaged: {error}") from error


class _Damaged(Exception):
    pass


class Reader:
    """Reads one value.

    Args:
        data: the whole file.
    """

    def __init__(self, data: bytes) -> None:
        self._input = _Ascii(data) if data[:1].isdigit() else _Binary(data)
        self._objects: dict[int, Any] = {}

    def read(self) -> Any:
        """The value; what nests is kept on a list of our own, for Python's stack is short."""
        waiting: list[Generator[Any, Any, Any]] = [self._value()]
        result: Any = None
        while waiting:
            if len(waiting) > _DEEPEST:
                raise _Damaged(f"it nests deeper than {_DEEPEST:,} levels")
            try:
                waiting.append(waiting[-1].send(result))
                result = None
            except StopIteration as done:
                waiting.pop()
                result = done.value
        return result

    def _value(self) -> Generator[Any, Any, Any]:
        source = self._input
        tag = source.int32()
        if tag == _NIL:
            return None
        if tag == _NUMBER:
            number = source.double()
            return int(number) if number.is_integer() else number
        if tag == _STRING:
            return source.text()
        if tag == _BOOLEAN:
            return source.int32() != 0
        if tag == _FUNCTION:
            size = source.skip()
            yield self._value()
            return Function(size)
        if tag not in (_TABLE, _OBJECT, *_RECURSIVE_FUNCTIONS):
            raise _Damaged(f"unknown kind of value {tag} at byte {source.position:,}")
        index = source.int32()
        if index in self._objects:
            return self._objects[index]
        if tag in _RECURSIVE_FUNCTIONS:
            function = Function(source.skip())
            self._objects[index] = function
            yield self._value()  # what it closes over
            return function
        if tag == _TABLE:
            table = Table()
            self._objects[index] = table
            yield self._pairs(table, source.count(source.int32(), 2 * source.smallest))
            return table
        return (yield self._object(index))

    def _pairs(self, table: Table, count: int) -> Generator[Any, Any, None]:
        for _ in range(count):
            key = yield self._value()
            value = yield self._value()
            table[key] = value

    def _object(self, index: int) -> Generator[Any, Any, Any]:
        source = self._input
        version = source.text()
        name = source.text() if version.startswith("V ") else version
        kind = _storage_of(name, "Storage")
        if kind is not None:
            storage = torch.from_numpy(source.numbers(source.int64(), kind))
            self._objects[index] = storage
            return storage
        if _storage_of(name, "Tensor") is not None:
            tensor = yield self._tensor(_storage_of(name, "Tensor") or "")
            self._objects[index] = tensor
            return tensor
        made = Object(name)
        self._objects[index] = made
        if name in ("tds.Hash", "tds.Vec"):
            count = source.count(source.int64(), source.smallest)
            if name == "tds.Hash":
                yield self._pairs(made.fields, count)
            else:
                for position in range(count):
                    made.fields[position + 1] = yield self._value()
            return made
        fields = yield self._value()
        if isinstance(fields, Table):
            made.fields = fields
        return made

    def _tensor(self, kind: str) -> Generator[Any, Any, Tensor]:
        source = self._input
        rank = source.int32()
        if not 0 <= rank <= _MOST_DIMENSIONS:
            raise _Damaged(f"a tensor with {rank:,} dimensions at byte {source.position:,}")
        sizes, strides = source.int64s(rank), source.int64s(rank)
        offset = source.int64() - 1
        storage = yield self._value()
        if storage is None or rank == 0:
            return torch.from_numpy(np.empty(0, np.dtype(kind).newbyteorder("=")))
        if not isinstance(storage, Tensor) or storage.dim() != 1:
            raise _Damaged(f"a tensor without its storage at byte {source.position:,}")
        numel, last = 1, offset
        for size, stride in zip(sizes, strides, strict=True):
            numel *= size
            last += (size - 1) * stride
        inside = offset >= 0 and min(sizes) >= 0 and min(strides) >= 0
        if not inside or (numel and last >= storage.numel()) or numel > storage.numel():
            raise _Damaged(f"a tensor of sizes {sizes} that its storage of {storage.numel():,} numbers does not hold")
        return storage.as_strided(sizes, strides, offset if numel else 0)


def _storage_of(name: str, ending: str) -> str | None:
    if not name.startswith("torch.") or not name.endswith(ending):
        return None
    word = name.removeprefix("torch.").removesuffix(ending)
    if word.startswith("Cuda"):
        word = _CUDA.get(word.removeprefix("Cuda"), "?")
    return _STORAGES.get(word)


class _Input(ABC):
    """The bytes and how far they are read.

    Attributes:
        smallest: bytes that the shortest value takes.
    """

    smallest = 4

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if size < 0 or size > len(self.data) - self.position:
            left = len(self.data) - self.position
            raise _Damaged(f"it ends too early: {size:,} bytes should follow byte {self.position:,}, {left:,} do")
        start = self.position
        self.position += size
        return self.data[start : self.position]

    def count(self, number: int, each: int) -> int:
        """A number of values that take so many bytes each, if as many can follow."""
        left = len(self.data) - self.position
        if number < 0 or number * each > left:
            raise _Damaged(f"{number:,} values are announced at byte {self.position:,}, where {left:,} bytes follow")
        return number

    @abstractmethod
    def int32(self) -> int:
        """32 bits."""

    @abstractmethod
    def int64(self) -> int:
        """64 bits."""

    @abstractmethod
    def int64s(self, count: int) -> list[int]:
        """Several of 64 bits."""

    @abstractmethod
    def double(self) -> float:
        """A number."""

    @abstractmethod
    def numbers(self, count: int, kind: str) -> np.ndarray[Any, Any]:
        """A storage."""

    def chars(self, size: int) -> bytes:
        """So many bytes as they stand."""
        return self.take(size)

    def text(self) -> str:
        """A length and so many bytes."""
        return self.chars(self.int32()).decode("utf-8", "replace")

    def skip(self) -> int:
        """A length, whose bytes are passed over."""
        size = self.int32()
        self.chars(size)
        return size


class _Binary(_Input):
    def int32(self) -> int:
        return int.from_bytes(self.take(4), "little", signed=True)

    def int64(self) -> int:
        return int.from_bytes(self.take(8), "little", signed=True)

    def int64s(self, count: int) -> list[int]:
        return [self.int64() for _ in range(count)]

    def double(self) -> float:
        return float(np.frombuffer(self.take(8), "<f8")[0])

    def numbers(self, count: int, kind: str) -> np.ndarray[Any, Any]:
        dtype = np.dtype(kind)
        self.count(count, dtype.itemsize)
        found: np.ndarray[Any, Any] = np.frombuffer(self.take(count * dtype.itemsize), dtype)
        return found.astype(dtype.newbyteorder("="))


class _Ascii(_Input):
    """Numbers as words, one line an item; a line ends with one newline, which belongs to it."""

    smallest = 2
    #: longer words are no numbers
    _LONGEST = 64

    def _words(self, count: int) -> list[bytes]:
        self.count(count, 2)
        found = []
        for _ in range(count):
            while self.data[self.position : self.position + 1].isspace():
                self.position += 1
            start = self.position
            while not self.data[self.position : self.position + 1].isspace() and self.position < len(self.data):
                self.position += 1
                if self.position - start > self._LONGEST:
                    raise _Damaged(f"no number at byte {start:,}")
            if start == self.position:
                raise _Damaged(f"it ends too early, at byte {start:,}")
            found.append(self.data[start : self.position])
        self._end_line()
        return found

    def _end_line(self) -> None:
        if self.data[self.position : self.position + 1] == b"\n":
            self.position += 1

    def _whole(self, count: int) -> list[int]:
        start = self.position
        try:
            found = [int(word) for word in self._words(count)]
        except ValueError as error:
            raise _Damaged(f"no whole number at byte {start:,}") from error
        if any(not -(1 << 63) <= number < 1 << 63 for number in found):
            raise _Damaged(f"a number of more than 64 bits at byte {start:,}")
        return found

    def int32(self) -> int:
        return self._whole(1)[0]

    def int64(self) -> int:
        return self._whole(1)[0]

    def int64s(self, count: int) -> list[int]:
        return self._whole(count) if count else []

    def double(self) -> float:
        return float(self.numbers(1, "<f8")[0])

    def chars(self, size: int) -> bytes:
        found = self.take(size)
        self._end_line()
        return found

    def numbers(self, count: int, kind: str) -> np.ndarray[Any, Any]:
        start = self.position
        dtype = np.dtype(kind).newbyteorder("=")
        if dtype.itemsize == 1:  # bytes stand as they are in either encoding
            self.count(count, 1)
            return np.array(np.frombuffer(self.chars(count), dtype))
        try:
            words = [word.decode("ascii") for word in self._words(count)] if count else []
            if dtype.kind == "f":
                return np.array([float(word) for word in words], dtype)
            return np.array([int(word) for word in words], dtype)
        except (ValueError, OverflowError) as error:
            raise _Damaged(f"no number of datatype {dtype} at byte {start:,}") from error
