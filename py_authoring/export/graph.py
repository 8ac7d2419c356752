"""What the graph of a scripted or traced module says: source lines, baked devices, baked numbers.

In: a `torch.jit` module. Out: findings with the line of the author's file, where torch knows it.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_TORCH = str(Path(torch.__file__).parent)
_TRACED_FRAME = re.compile(r"^(?P<file>[^\n]+)\((?P<line>\d+)\): (?P<function>\S+)$", re.MULTILINE)
_SCRIPTED_FILE = re.compile(r'File "(?P<file>[^"\n]+)", line (?P<line>\d+)')
# These take an answer that lives on the CPU whatever the model's device is.
_CPU_CONSUMERS = {"aten::_pack_padded_sequence", "aten::Int", "aten::Float", "aten::Bool", "aten::item", "prim::device"}
# These bring a tensor to another one's device.
_MOVERS = {"aten::to", "aten::type_as", "aten::detach"}


@dataclass(frozen=True)
class Place:
    """A line of source.

    Attributes:
        file: as torch knows it; None where it knows none.
        line: from 1.
        text: the line, stripped; may be empty.
    """

    file: str | None
    line: int
    text: str

    def __str__(self) -> str:
        if self.file is None:
            return "a line that torch does not know"
        return f"`{shorten(self.file)}:{self.line}`" + (f": `{self.text}`" if self.text else "")


@dataclass(frozen=True)
class Finding:
    """Something in the graph that is worth a sentence."""

    place: Place
    what: str


def place_at(file: str, line: int) -> Place:
    """The place with its text, read from the file where it is there."""
    return Place(file, line, linecache.getline(file, line).strip())


def shorten(file: str) -> str:
    """A path as the author would write it: relative to the working folder if it lies below it."""
    try:
        return str(Path(file).resolve().relative_to(Path.cwd()))
    except ValueError:
        return file


def place_of(node: Any) -> Place:
    """The line that a node of a graph comes from: of the author's file rather than torch's own."""
    text: str = node.sourceRange()
    frames = [(match["file"], int(match["line"])) for match in _TRACED_FRAME.finditer(text)]
    if not frames:
        frames = [(match["file"], int(match["line"])) for match in _SCRIPTED_FILE.finditer(text)]
    own = [frame for frame in frames if not frame[0].startswith(_TORCH)]
    for file, line in (own or frames)[:1]:
        return place_at(file, line)
    return Place(None, 0, "")


def nodes_of(block: Any) -> Iterator[Any]:
    """Every node of a graph or block, inner blocks included."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from nodes_of(inner)


def baked_devices(module: torch.jit.ScriptModule) -> list[Finding]:
    """Tensors that a graph makes on, or moves to, one device for good.

    A trace writes the device of its example into every `torch.zeros(…)`; such a file fails on any other device. Single
    numbers are left out: they go together with tensors of every device.
    """
    found = []
    for node in nodes_of(module.inlined_graph):
        kind = node.kind()
        if kind == "prim::Constant" and node.hasAttribute("value") and node.kindOf("value") == "t":
            if node.t("value").dim() and not _ends_well(node.output()):
                found.append(Finding(place_of(node), f"a constant tensor on {node.t('value').device}"))
            continue
        if not kind.startswith("aten::"):
            continue
        for value in node.inputs():
            device = _constant_device(value)
            if device is None or node.outputsSize() != 1 or _ends_well(node.output()):
                continue
            source = next(iter(node.inputs())).node()
            if source.kind() == "prim::Constant" and source.hasAttribute("value") and source.kindOf("value") == "t":
                continue  # the constant itself is reported already
            found.append(Finding(place_of(node), f"`{kind.removeprefix('aten::')}` on {device}"))
    return _once(found)


def default_devices(module: torch.jit.ScriptModule) -> list[Finding]:
    """Tensors that scripted code makes without saying where, which means on the CPU.

    Only a suspicion: the result may be used where the CPU is right.
    """
    found = []
    for node in nodes_of(module.inlined_graph):
        if not node.kind().startswith("aten::") or node.outputsSize() != 1:
            continue
        schema = node.schema()
        if "Device? device" not in schema or any(_is_tensor(value) for value in node.inputs()):
            continue
        if node.kind() in ("aten::tensor", "aten::scalar_tensor") and not _is_list(next(iter(node.inputs()))):
            continue  # a single number
        if node.namedInput("device").node().mustBeNone() and not _ends_well(node.output()):
            found.append(Finding(place_of(node), f"`{node.kind().removeprefix('aten::')}` without a device"))
    return _once(found)


def changed_constant(first: torch.jit.ScriptModule, second: torch.jit.ScriptModule) -> Finding | None:
    """Where two traces of one model first differ: another operator, or another number written into the graph.

    Types are not looked at: they carry the sizes of the example by design.
    """
    here, there = list(nodes_of(first.inlined_graph)), list(nodes_of(second.inlined_graph))
    users: dict[str, Any] = {}
    for node in here:
        for value in node.inputs():
            users.setdefault(value.debugName(), node)
    for one, other in zip(here, there, strict=False):
        if one.kind() != other.kind():
            return Finding(place_of(one), f"`{one.kind()}` against `{other.kind()}`")
        mine, its = _constant(one), _constant(other)
        if mine != its:
            user = users.get(one.output().debugName(), one)
            place = place_of(one)
            seen = " against ".join(text if len(text) <= 60 else f"{text[:60]}…" for text in (mine or "", its or ""))
            return Finding(place if place.file is not None else place_of(user), seen)
    if len(here) != len(there):
        longer = here if len(here) > len(there) else there
        return Finding(place_of(longer[min(len(here), len(there))]), f"{len(here)} against {len(there)} operations")
    return None


def _constant(node: Any) -> str | None:
    if node.kind() != "prim::Constant" or not node.hasAttribute("value"):
        return None
    value = node.output().toIValue()
    if isinstance(value, torch.Tensor):
        return f"tensor {value.dtype} {list(value.shape)} {value.flatten()[:64].tolist()}"
    return repr(value)


def _constant_device(value: Any) -> torch.device | None:
    if str(value.type()) != "Device" or value.node().kind() != "prim::Constant":
        return None
    device = value.toIValue()
    return device if isinstance(device, torch.device) else None


# Nothing to report: a single number, or used only where the CPU is meant or the tensor is moved to another's device.
def _ends_well(value: Any, depth: int = 0) -> bool:
    if _rank(value) == 0:
        return True
    uses = [use.user for use in value.uses()]
    if not uses or depth > 8:
        return False
    return all(
        user.kind() in _CPU_CONSUMERS or (user.kind() in _MOVERS and _moves_away(user, value, depth)) for user in uses
    )


def _moves_away(mover: Any, value: Any, depth: int) -> bool:
    first, *others = list(mover.inputs())
    if first.debugName() != value.debugName():
        return False
    if mover.kind() == "aten::detach" or any(_constant_device(other) is not None for other in others):
        return _ends_well(mover.output(), depth + 1)
    moved = any(_is_tensor(other) or str(other.type()) == "Device" for other in others)
    return moved or _ends_well(mover.output(), depth + 1)


def _rank(value: Any) -> int | None:
    kind = value.type()
    if kind.kind() != "TensorType":
        return None
    rank: int | None = kind.dim()
    return rank


def _is_tensor(value: Any) -> bool:
    return bool(value.type().isSubtypeOf(torch._C.TensorType.get()))


def _is_list(value: Any) -> bool:
    return bool(value.type().kind() == "ListType")


def _once(findings: list[Finding]) -> list[Finding]:
    return list(dict.fromkeys(findings))
