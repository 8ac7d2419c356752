"""The table: operator and opset → what computes it.

An entry is a function on tensors, a line of PyTorch as a template, or a handler that writes lines itself. A function's
parameters are named: those called as one of the operator's attributes in ONNX's own schema take that attribute, the
others take the operator's inputs in order. So one function serves the opsets in which `axes` is an attribute and those
in which it is an input.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from py_authoring.importing.onnx.nodes import Node
    from py_authoring.importing.onnx.translation import Translation

Function = TypeVar("Function", bound=Callable[..., Any])
Handler = Callable[["Translation", "Node"], None]


@dataclass(frozen=True)
class Entry:
    """How an operator is computed from one opset on.

    Attributes:
        since: the first opset that it is for.
        outputs: how many outputs a node must ask for, at the least.
        function: computes it; compiled by TorchScript too.
        template: `torch.relu({0})`; inputs by number.
        handler: writes the lines.
        spread: the function returns a list of as many tensors as the node has outputs.
    """

    since: int
    outputs: int = 0
    function: Callable[..., Any] | None = None
    template: str | None = None
    handler: Handler | None = None
    spread: bool = False


_TABLE: dict[tuple[str, str], list[Entry]] = {}


def operator(
    *names: str, since: int = 1, outputs: int = 0, domain: str = "", spread: bool = False
) -> Callable[[Function], Function]:
    """Registers a function on tensors for operators.

    Example:
        >>> find("", "Relu", 14, 1).template
        'torch.relu({0})'
    """

    def register(function: Function) -> Function:
        for name in names:
            _add(domain, name, Entry(since, outputs, function=function, spread=spread))
        return function

    return register


def handler(*names: str, since: int = 1, outputs: int = 0, domain: str = "") -> Callable[[Handler], Handler]:
    """Registers what writes its lines itself."""

    def register(function: Handler) -> Handler:
        for name in names:
            _add(domain, name, Entry(since, outputs, handler=function))
        return function

    return register


def template(text: str, *names: str, since: int = 1) -> None:
    """Registers a line of PyTorch."""
    for name in names:
        _add("", name, Entry(since, template=text))


def find(domain: str, name: str, opset: int, outputs: int) -> Entry | None:
    """The entry for a node; None if there is none."""
    _load()
    fitting = [each for each in _TABLE.get((domain, name), []) if each.since <= opset and each.outputs <= outputs]
    return max(fitting, key=lambda each: (each.since, each.outputs), default=None)


def names() -> list[str]:
    """All operators of the table, those of ONNX's own domain without a prefix."""
    _load()
    return sorted(f"{domain}:{name}" if domain else name for domain, name in _TABLE)


def parameters(function: Callable[..., Any]) -> dict[str, tuple[str, bool]]:
    """Parameter → (`Tensor`, `ints`, `int`, `float`, `str`, `tensors`, …; whether it may be left out)."""
    hints = typing.get_type_hints(function)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints[name]
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        optional = type(None) in typing.get_args(hint)
        word = str(parts[0] if optional else hint).replace("<class '", "").replace("'>", "")
        kind = _KINDS[word]
        found[name] = (kind, optional or parameter.default is not parameter.empty)
    return found


_KINDS = {
    "torch.Tensor": "tensor",
    "list[torch.Tensor]": "tensors",
    "list[int]": "ints",
    "list[float]": "floats",
    "list[str]": "strs",
    "int": "int",
    "float": "float",
    "str": "str",
    "bool": "bool",
}


def _add(domain: str, name: str, entry: Entry) -> None:
    entries = _TABLE.setdefault((domain, name), [])
    assert all((each.since, each.outputs) != (entry.since, entry.outputs) for each in entries), name
    entries.append(entry)


def _load() -> None:
    import py_authoring.importing.onnx.operators  # noqa: F401  (registers)
