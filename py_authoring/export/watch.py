"""Where a model turns tensors into Python values while it is recorded, and what those values depend on.

In: a forward pass that `torch.jit.trace` records inside `Watch`. Out: an `Event` for each conversion in the author's
code. torch only warns of these, in the same words for a shape and a value; here the recorded graph tells which it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from py_authoring.export.graph import Place, place_at

_TORCH = str(Path(torch.__file__).parent)
_LIBRARIES = str(Path(torch.__file__).parent.parent)
#: Conversions on whose result Python branches.
_BRANCHES = {"__bool__", "__contains__", "equal", "allclose", "is_nonzero"}
_NUMBERS = {"__int__", "__float__", "__complex__", "__index__", "__array__", "item", "tolist", "numpy"}
#: A size of what these return depends on values.
_SIZED_BY_VALUES = {
    "aten::nonzero",
    "aten::nonzero_numpy",
    "aten::argwhere",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::repeat_interleave",
}


@dataclass(frozen=True)
class Event:
    """A tensor became a Python value.

    Attributes:
        place: the line of the author's code.
        branches: Python branched on it; otherwise it took a number out.
        by_value: the value depends on the values of an input, not only on sizes and weights.
        sizes: the sizes that it depends on.
    """

    place: Place
    branches: bool
    by_value: bool
    sizes: tuple[int, ...]


class Watch(TorchFunctionMode):
    """Collects events while it is active; only useful around a `torch.jit.trace`."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Notes a conversion, and lets everything happen as it would."""
        name = getattr(function, "__name__", "")
        if (name in _BRANCHES or name in _NUMBERS) and torch._C._get_tracing_state() is not None:
            place = _caller(sys._getframe(1))
            tensors = [value for value in args if isinstance(value, Tensor)]
            if place is not None and tensors:
                origins = [_Origin.of(tensor) for tensor in tensors]
                self.events.append(
                    Event(
                        place=place,
                        branches=name in _BRANCHES,
                        by_value=any(origin.by_value for origin in origins),
                        sizes=tuple(size for origin in origins for size in origin.sizes),
                    )
                )
        return function(*args, **(kwargs or {}))


class _Origin:
    """What a value of the graph that is being recorded depends on."""

    def __init__(self) -> None:
        self.by_value = False
        self.sizes: list[int] = []
        self._seen: set[str] = set()

    @classmethod
    def of(cls, tensor: Tensor) -> _Origin:
        origin = cls()
        origin._follow(torch._C._get_value_trace(tensor))  # type: ignore[attr-defined]
        return origin

    def _follow(self, value: Any) -> None:
        waiting = [value]
        while waiting:
            current = waiting.pop()
            if current.debugName() in self._seen:
                continue
            self._seen.add(current.debugName())
            node = current.node()
            kind = node.kind()
            if kind == "prim::Param":
                self.by_value = True
            elif kind == "aten::size":
                self._note_size(node)
            elif kind not in ("prim::Constant", "prim::GetAttr"):  # weights do not change
                waiting.extend(node.inputs())

    def _note_size(self, node: Any) -> None:
        tensor, *axis = node.inputs()
        sizes = tensor.type().sizes() if tensor.type().kind() == "TensorType" else None
        number = axis[0].toIValue() if axis else None
        if sizes is None or not isinstance(number, int) or not -len(sizes) <= number < len(sizes):
            self.sizes.extend(sizes or ())
        else:
            self.sizes.append(sizes[number])
        self.by_value |= _sized_by_values(tensor)


def _sized_by_values(value: Any) -> bool:
    waiting, seen = [value], set()
    while waiting:
        node = waiting.pop().node()
        if node.kind() in _SIZED_BY_VALUES or (node.kind() == "aten::index" and _has_mask(node)):
            return True
        for before in node.inputs():
            if before.debugName() not in seen:
                seen.add(before.debugName())
                waiting.append(before)
    return False


def _has_mask(index: Any) -> bool:
    _, chosen = index.inputs()
    kinds = [each.type() for each in chosen.node().inputs()]
    return any(kind.kind() == "TensorType" and kind.dtype() == torch.bool for kind in kinds)


# torch's own modules check shapes: not the author's business. Other libraries are called by a line that is.
def _caller(frame: FrameType | None) -> Place | None:
    if frame is not None and frame.f_code.co_filename.startswith(_TORCH):
        return None
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        frame = frame.f_back
    return None if frame is None else place_at(frame.f_code.co_filename, frame.f_lineno)
