"""Eager model → TorchScript by recording one call; what a recording loses is found and refused.

Lost are: control flow that depends on data (torch warns), a batch size or another number that was written into the
graph (two recordings differ), a device (the graph says so).
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from py_authoring.errors import RefusedError
from py_authoring.export import graph

_SCRIPT_HINT = "`--method script` keeps it"
_CHECKS = (ast.Assert, ast.Raise)


def trace(
    model: nn.Module,
    names: Sequence[str],
    inputs: Mapping[str, Tensor],
    others: Sequence[Mapping[str, Tensor]],
) -> tuple[torch.jit.ScriptModule, list[str]]:
    """Records a model in evaluation mode, and checks that nothing was lost.

    Args:
        model: in evaluation mode.
        names: forward's arguments, in order.
        inputs: what is recorded with.
        others: inputs with other values and other sizes, for further recordings to compare with.

    Returns:
        The module, and sentences about what looks odd but was found to do no harm.

    Raises:
        RefusedError: data-dependent control flow, a baked size, number or device; names the source line.
    """
    module, warned = _record(model, names, inputs)
    lost = list(dict.fromkeys(p for p, message in warned if "Python boolean" in message and not _only_checks(p)))
    suspects = list(
        dict.fromkeys(place for place, text in warned if "constants" not in text and not _only_checks(place))
    )
    if lost:
        also = [f"also at {place}" for place in [*lost, *suspects] if place != lost[0]]
        raise RefusedError(
            f"tracing loses the control flow at {lost[0]}, which depends on data",
            hint=_SCRIPT_HINT,
            problems=list(dict.fromkeys(also))[:5],
        )
    for other in others:
        changed, _ = _record(model, names, other)
        finding = graph.changed_constant(module, changed)
        if finding is not None:
            place = suspects[0] if suspects else finding.place
            raise RefusedError(
                f"tracing bakes in what changes with the input, at {place}: "
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
    return module, [
        f"tracing could not follow {place}; two recordings with other values and sizes agree" for place in suspects
    ]


def _record(
    model: nn.Module, names: Sequence[str], inputs: Mapping[str, Tensor]
) -> tuple[torch.jit.ScriptModule, list[tuple[graph.Place, str]]]:
    copies = {name: inputs[name].clone() for name in names}
    try:
        with warnings.catch_warnings(record=True) as caught, torch.no_grad():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", TracerWarning)
            _ignore_torch()
            module: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
                model, example_kwarg_inputs=copies, check_trace=False, strict=False
            )
    except RuntimeError as error:
        message = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(":.")
        raise RefusedError(f"cannot trace: {message[:1].lower()}{message[1:300]}", hint="`--method script`") from error
    return module, [
        (graph.place_at(item.filename, item.lineno), str(item.message))
        for item in caught
        if issubclass(item.category, TracerWarning)
    ]


# torch's own modules check shapes in ways that the tracer warns of; torch silences these, by the module's name.
_ignore_torch: Callable[[], None] = TracerWarning.ignore_lib_warnings


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
