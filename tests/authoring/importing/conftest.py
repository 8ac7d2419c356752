"""A writer of Torch7 files in both encodings: what the reader is tested with, and no part of the package."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

_WORDS = {
    torch.float64: ("Double", "d"),
    torch.float32: ("Float", "f"),
    torch.int64: ("Long", "q"),
    torch.int32: ("Int", "i"),
    torch.int16: ("Short", "h"),
    torch.int8: ("Char", "b"),
    torch.uint8: ("Byte", "B"),
}


@dataclass(eq=False)
class Thing:
    """An object of a Torch class."""

    name: str
    fields: dict[Any, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Storage:
    """A storage by itself, as nn.View keeps its sizes."""

    values: Tensor


class T7Writer:
    """Values → the bytes of a .t7 file."""

    def __init__(self, ascii: bool, prefix: str = "torch.") -> None:
        self.ascii, self.prefix = ascii, prefix
        self.parts: list[bytes] = []
        self.seen: dict[int, int] = {}
        self.kept: list[Any] = []

    def numbers(self, code: str, *values: Any) -> None:
        if self.ascii and code not in "bB":
            shown = [repr(value) if isinstance(value, float) else str(value) for value in values]
            self.parts.append((" ".join(shown) + "\n").encode())
        else:
            self.parts.append(struct.pack(f"<{len(values)}{code}", *values) + (b"\n" if self.ascii else b""))

    def text(self, text: bytes) -> None:
        self.numbers("i", len(text))
        self.parts.append(text + (b"\n" if self.ascii else b""))

    def known(self, value: Any) -> bool:
        index = self.seen.get(id(value))
        if index is None:
            self.seen[id(value)] = len(self.seen) + 1
            self.kept.append(value)
        self.numbers("i", self.seen[id(value)])
        return index is not None

    def head(self, name: str) -> None:
        self.text(b"V 1")
        self.text(name.encode())

    def value(self, value: Any) -> None:
        if value is None:
            self.numbers("i", 0)
        elif isinstance(value, bool):
            self.numbers("i", 5)
            self.numbers("i", int(value))
        elif isinstance(value, int | float):
            self.numbers("i", 1)
            self.numbers("d", float(value))
        elif isinstance(value, str):
            self.numbers("i", 2)
            self.text(value.encode())
        elif isinstance(value, list):
            self.value(dict(enumerate(value, 1)) if value else {})
        elif isinstance(value, dict):
            self.numbers("i", 3)
            if not self.known(value):
                self.numbers("i", len(value))
                for key, item in value.items():
                    self.value(key)
                    self.value(item)
        else:
            self.numbers("i", 4)
            if not self.known(value):
                self.object(value)

    def object(self, value: Any) -> None:
        if isinstance(value, Thing):
            self.head(value.name)
            self.value(value.fields)
        elif isinstance(value, Storage):
            word, code = _WORDS[value.values.dtype]
            self.head(f"{self.prefix}{word}Storage")
            self.numbers("q", value.values.numel())
            self.numbers(code, *value.values.tolist())
        else:
            word, _ = _WORDS[value.dtype]
            self.head(f"{self.prefix}{word}Tensor")
            self.numbers("i", value.dim())
            self.numbers("q", *value.shape)
            self.numbers("q", *value.contiguous().stride())
            self.numbers("q", 1)
            self.value(Storage(value.contiguous().reshape(-1)))


@pytest.fixture
def write_t7(tmp_path: Path) -> Callable[..., Path]:
    """Writes a value to a file."""

    def write(value: Any, *, ascii: bool = False, name: str = "net.t7", prefix: str = "torch.") -> Path:
        writer = T7Writer(ascii, prefix)
        writer.value(value)
        path = tmp_path / name
        path.write_bytes(b"".join(writer.parts))
        return path

    return write


@pytest.fixture
def nn() -> Callable[..., Thing]:
    """`nn("Linear", weight=…)`: a module as Torch7 keeps it; Sequential and the like take their children as a list."""

    def make(name: str, children: list[Thing] | None = None, **fields: Any) -> Thing:
        inside = {"modules": children} if children is not None else {}
        return Thing(name if "." in name else f"nn.{name}", {**inside, **fields, "train": False})

    return make


@pytest.fixture
def storage() -> type[Storage]:
    return Storage


@pytest.fixture
def call_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs py-authoring in this process: exit code, stdout, stderr."""
    from py_authoring.cli import main

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(arguments)
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return call
