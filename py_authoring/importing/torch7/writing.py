"""Torch7's modules → lines of PyTorch, each run at once on an example, so that every rank and size is known.

A table of Lua is a list here: containers leave no trace in the code but the order of its lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, TypeVar, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from py_authoring.errors import RefusedError
from py_authoring.importing.errors import ForeignFileError
from py_authoring.importing.source import Source
from py_authoring.importing.torch7.reader import Object, Table


class Node:
    """A tensor on its way: the Python name, and what it is for the example."""

    def __init__(self, text: str, example: Tensor) -> None:
        self.text = text
        self.example = example

    @property
    def rank(self) -> int:
        """How many dimensions it has."""
        return self.example.dim()


#: A tensor, or a table of such.
Value = Union[Node, "list[Value]"]
Rule = Callable[["Writer", Object, Any], Any]
Function = TypeVar("Function", bound=Callable[..., Any])

#: numbers of one tensor between two layers; 4 GB of float32.
_LARGEST = 1 << 30
#: lines, runs of modules and members of tables: a module in itself twice doubles them.
_MOST = 100_000

_RULES: dict[str, Rule] = {}


def module(*names: str) -> Callable[[Function], Function]:
    """Registers how a module is written: writer, module, value in → value out."""

    def register(function: Function) -> Function:
        for name in names:
            _RULES[name] = function
        return function

    return register


def supported() -> list[str]:
    """The modules that can be written, without `nn.`."""
    _load()
    return sorted(_RULES)


class Writer:
    """Writes modules into a `Source`.

    Args:
        largest: how many bytes of weights may come of the file, which is no more than it holds itself.
    """

    def __init__(self, largest: int = 1 << 62) -> None:
        _load()
        self.source = Source()
        self._weights: dict[tuple[Any, ...], str] = {}
        self._left = largest
        self._steps = 0

    def step(self) -> None:
        """Counts a line, a run of a module, or a member of a table.

        Raises:
            ForeignFileError: there are too many; a small file may ask for any number.
        """
        self._steps += 1
        if self._steps > _MOST:
            raise ForeignFileError(f"the network would become more than {_MOST:,} lines and runs of modules")

    def __call__(self, module: Object, value: Any) -> Any:
        """Writes a module; what comes out of it."""
        self.step()
        name = plain_name(module)
        if name not in _RULES:
            raise RefusedError(f"module {module.name} is not supported")
        try:
            return _RULES[name](self, module, value)
        except (RefusedError, ForeignFileError):
            raise
        except Exception as error:  # a field of another kind, an input that does not fit
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ForeignFileError(
                f"module {module.name} does not take {_shape(value)}: {reason[:200]}",
                hint="`--shape` gives the shape of the input, as 2x3x32x32",
            ) from error

    def define(self, wanted: str, text: str, *inputs: Node) -> Node:
        """Writes `name = text` and runs it on the example."""
        self.step()
        name = self.source.name(wanted)
        line = f"{name} = {text}"
        made = self._run(name, line, inputs, "meta")
        if made.numel() > _LARGEST:
            raise ForeignFileError(
                f"the network would make a tensor of shape {list(made.shape)}: {made.numel():,} numbers"
            )
        if any(not node.example.is_meta for node in inputs):
            made = self._run(name, line, inputs, "cpu")
        self.source.line(line)
        return Node(name, made)

    # Without memory first: what a file asks for may be more than there is.
    def _run(self, name: str, line: str, inputs: tuple[Node, ...], device: str) -> Tensor:
        space: dict[str, Any] = {"torch": torch, "F": F}
        space |= {node.text: node.example.to(device) for node in inputs}
        holder = self.source.holder()
        if device == "meta":
            holder = SimpleNamespace(**{key: value.to(device) for key, value in vars(holder).items()})
        space["self"] = holder
        with torch.no_grad():
            exec(line, space)
        return space[name]  # type: ignore[no-any-return]

    def weight(self, module: Object, key: str, *, shape: list[int] | None = None, trainable: bool = True) -> str:
        """Stores a tensor of a module; one that several modules share is stored once."""
        tensor = module.get(key)
        if not isinstance(tensor, Tensor):
            raise ForeignFileError(f"module {module.name} has no tensor `{key}`")
        return self.keep(f"{plain_name(module)}_{key}", tensor if shape is None else tensor.reshape(shape), trainable)

    def keep(self, wanted: str, tensor: Tensor, trainable: bool = True) -> str:
        """Stores a tensor; one that several modules share is stored once."""
        place = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype, trainable)
        if place not in self._weights:
            self._left -= tensor.numel() * tensor.element_size()
            if self._left < 0:
                raise ForeignFileError("the file's tensors overlap to more bytes than it holds")
            floats = tensor.is_floating_point()
            self._weights[place] = self.source.tensor(wanted, tensor, trainable=trainable and floats)
        return self._weights[place]


def plain_name(module: Object) -> str:
    """`Linear` of `nn.Linear` and `cudnn.Linear`."""
    name = module.name
    for prefix in ("nn.", "cudnn.", "nngraph."):
        name = name.removeprefix(prefix)
    return name


def modules_in(module: Object) -> Iterator[Object]:
    """A module and all below it, each once."""
    seen: set[int] = set()
    waiting: list[Object] = [module]
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inside = current.get("modules")
        children = inside.list() if isinstance(inside, Table) else []
        waiting.extend(child for child in reversed(children) if isinstance(child, Object))


def check_modules(root: Object) -> dict[str, int]:
    """How many of each module there are.

    Raises:
        RefusedError: some are not supported; all are named.
    """
    _load()
    counts = Counter(each.name for each in modules_in(root))
    missing = {name: count for name, count in counts.items() if plain_name(Object(name)) not in _RULES}
    if missing:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(missing.items()))
        raise RefusedError(
            f"{len(missing)} module{'s' if len(missing) > 1 else ''} of the file "
            f"{'are' if len(missing) > 1 else 'is'} not supported: {listed}",
            hint="docs/import.md lists the modules that are",
        )
    return dict(counts)


def _shape(value: Any) -> str:
    if isinstance(value, Node):
        return f"an input of shape {list(value.example.shape)}"
    return f"a table of {len(value)} values"


def _load() -> None:
    from py_authoring.importing.torch7 import containers, layers, tables  # noqa: F401  (each registers its modules)
