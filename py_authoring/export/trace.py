"""Eager model → TorchScript by recording one call; what a recording loses is found and refused.

Lost are: control flow and numbers that depend on data (`watch` sees the tensors that become Python values), a batch
size or another number that was written into the graph (recordings with other inputs differ), a device (it is there).
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from py_authoring.errors import RefusedError
from py_authoring.export import graph
from py_authoring.export.watch import Event, Watch

_SCRIPT_HINT = "`--method script` keeps it"
_CHECKS = (ast.Assert, ast.Raise)


def trace(
    model: nn.Module,
    names: Sequence[str],
    inputs: Mapping[str, Tensor],
    others: Sequence[Mapping[str, Tensor]],
) -> torch.jit.ScriptModule:
    """Records a model in evaluation mode, and checks that nothing was lost.

    Args:
        model: in evaluation mode.
        names: forward's arguments, in order.
        inputs: what is recorded with.
        others: inputs with other values and other sizes, for further recordings to compare with.

    Raises:
        RefusedError: data-dependent control flow, a baked number, size or device; names the source line.
    """
    recordings = [_watch(model, names, each) for each in (inputs, *others)]
    _refuse_lost_values(recordings)
    suspects = _changing_numbers(recordings)
    module = _record(model, names, inputs)
    for other in others:
        finding = graph.changed_constant(module, _record(model, names, other))
        if finding is not None:
            raise RefusedError(
                f"tracing bakes in what changes with the input, at {(suspects or [finding.place])[0]}: "
                f"{finding.what} for inputs of shapes {_shapes(inputs)} and {_shapes(other)}",
                hint=f"{_SCRIPT_HINT}; or take sizes from tensors, as `x.shape[0]`, without int()",
            )
    devices = graph.baked_devices(module)
    if devices:
        raise RefusedError(
            f"tracing bakes in the device at {devices[0].place}: {devices[0].what}",
            hint="`--method script`, with `device=x.device` in that line, keeps the device free",
            problems=[f"also at {finding.place}: {finding.what}" for finding in devices[1:5]],
        )
    return module


def _refuse_lost_values(recordings: Sequence[Sequence[Event]]) -> None:
    first = recordings[0]
    lost = [event for event in first if event.by_value]
    for other in recordings[1:]:
        lost += [event for event in other if event.by_value]
        for one, its in zip(first, other, strict=False):
            if one.place != its.place:
                break  # another road was taken, at a branch before this one
            if one.branches and one.sizes != its.sizes:
                lost.append(one)
    told: dict[graph.Place, Event] = {}
    for event in lost:
        if not _only_checks(event.place):
            told.setdefault(event.place, event)
    if not told:
        return
    worst = next((event for event in told.values() if event.branches), next(iter(told.values())))
    why = "data" if worst.by_value else "a size that changes"
    what = "loses the control flow" if worst.branches else "bakes in a number"
    raise RefusedError(
        f"tracing {what} at {worst.place}, which depends on {why}",
        hint=_SCRIPT_HINT,
        problems=[f"also at {place}" for place in told if place != worst.place][:5],
    )


def _changing_numbers(recordings: Sequence[Sequence[Event]]) -> list[graph.Place]:
    first = recordings[0]
    pairs = [pair for other in recordings[1:] for pair in zip(first, other, strict=False)]
    return [one.place for one, its in pairs if one.place == its.place and one.sizes != its.sizes]


# A recording of its own: nodes recorded under a watch carry the watch's line instead of the author's.
def _watch(model: nn.Module, names: Sequence[str], inputs: Mapping[str, Tensor]) -> list[Event]:
    watch = Watch()
    _record(model, names, inputs, watch)
    return watch.events


def _record(
    model: nn.Module, names: Sequence[str], inputs: Mapping[str, Tensor], watch: Watch | None = None
) -> torch.jit.ScriptModule:
    copies = {name: inputs[name].clone() for name in names}
    try:
        with warnings.catch_warnings(), torch.no_grad(), watch or nullcontext():
            # torch warns of each conversion, in the same words for a shape and a value; `watch` tells them apart
            warnings.simplefilter("ignore")
            module: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
                model, example_kwarg_inputs=copies, check_trace=False, strict=False
            )
    except RuntimeError as error:
        message = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(":.")
        raise RefusedError(f"cannot trace: {message[:1].lower()}{message[1:300]}", hint="`--method script`") from error
    return module


def _only_checks(place: graph.Place) -> bool:
    """Whether a line is an `assert`, or an `if` that only raises: a trace loses the check, and no result."""
    if place.file is None:
        return False
    try:
        tree = ast.parse(Path(place.file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return False
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt) or node.lineno != place.line:
            continue
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.If):
            return not node.orelse and all(isinstance(inner, _CHECKS) for inner in node.body)
    return False


def _shapes(inputs: Mapping[str, Tensor]) -> str:
    return ", ".join(str(list(value.shape)) for value in inputs.values())
