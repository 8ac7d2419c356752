"""Eager and exported model side by side, on real inputs of many sizes.

In: both models, the exported one as the very bytes that will be written. Out: what was observed (shapes, datatypes,
largest differences), or a `ParityError` and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from py_authoring.difference import Difference, measure, tolerance, worst
from py_authoring.errors import ParityError, RefusedError
from py_authoring.export.returns import Layout
from py_authoring.export.samples import BATCH

#: TorchScript profiles its first calls and runs optimised code from then on: each input goes in so many times.
CALLS = 3

Forward = Callable[..., object]
#: Inputs by name → outputs by name: an exported model of any kind.
Runner = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Case:
    """One comparison: the sizes of the free dimensions, the inputs, and what the eager model gave."""

    sizes: dict[str, int]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


@dataclass
class Report:
    """What the comparison saw.

    Attributes:
        differences: output → the largest of all.
        tolerances: output → (rtol, atol).
        cases: how many inputs were compared.
    """

    tolerances: dict[str, tuple[float, float]]
    differences: dict[str, Difference] = field(default_factory=dict)
    cases: int = 0


def run(model: Forward, names: Sequence[str], inputs: Mapping[str, Tensor]) -> object:
    """One forward pass without gradients; the inputs are copies, so a model may write to them."""
    with torch.no_grad():
        return model(**{name: inputs[name].clone() for name in names})


def eager_case(
    model: nn.Module, names: Sequence[str], layout: Layout, sizes: Mapping[str, int], inputs: Mapping[str, Tensor]
) -> Case:
    """What the eager model gives, after two calls that must agree.

    Raises:
        RefusedError: two calls on one input differ, so no other machine could confirm the result.
        Exception: what forward raises for these inputs.
    """
    outputs = layout.flatten(run(model, names, inputs))
    again = layout.flatten(run(model, names, inputs))
    for name, value in outputs.items():
        difference = measure(again[name], value, *tolerance(value.dtype))
        if not difference.within:
            raise RefusedError(
                f"the model itself gives output `{name}` with a difference of {difference.max_abs:.3g} "
                "when it is called twice with one input in evaluation mode",
                hint="a random number or a state that forward changes; make it depend on the inputs alone",
            )
    return Case(dict(sizes), dict(inputs), {name: value.detach().clone() for name, value in outputs.items()})


def compare(
    exported: Runner,
    cases: Sequence[Case],
    rtol: float | None = None,
    atol: float | None = None,
    tolerances: Mapping[str, tuple[float, float]] | None = None,
) -> Report:
    """Runs the exported model on every case, several times each.

    Args:
        exported: fresh from the bytes that will be written.
        cases: what the eager model gave.
        rtol: largest relative difference; default: torch.testing's for the datatype.
        atol: largest absolute difference, likewise.
        tolerances: output → (rtol, atol), instead of these.

    Raises:
        ParityError: the exported model fails where the eager one works, or differs by more than the tolerance; names
            output, largest differences and sizes.
    """
    allowed = tolerances or {name: tolerance(value.dtype, rtol, atol) for name, value in cases[0].outputs.items()}
    report = Report(dict(allowed))
    seen: dict[str, list[Difference]] = {name: [] for name in report.tolerances}
    for case in cases:
        for _ in range(CALLS):
            got = _run_exported(exported, case)
            for name, expected in case.outputs.items():
                difference = measure(got[name], expected, *report.tolerances[name])
                seen[name].append(difference)
                if not difference.within:
                    raise _apart(name, difference, report.tolerances[name], case)
        report.cases += 1
    report.differences = {name: worst(differences) for name, differences in seen.items()}
    return report


def farthest(reports: Sequence[Report]) -> Report:
    """What was seen of several forms of one model on the same cases: the largest differences of all."""
    names = reports[0].differences
    return replace(reports[0], differences={name: worst([r.differences[name] for r in reports]) for name in names})


def _run_exported(exported: Runner, case: Case) -> dict[str, Tensor]:
    try:
        return exported(case.inputs)
    except RefusedError as error:
        raise ParityError(f"the exported model returns differently nested outputs at {describe(case.sizes)}") from error
    except Exception as error:  # the interpreter raises RuntimeError, or the author's own exception type
        raise ParityError(
            f"the exported model fails at {describe(case.sizes)}, where the eager one works: {last_line(error)}",
            hint=None if case.sizes.get(BATCH) is None else "a size of the example was written into the graph",
        ) from error


def describe(sizes: Mapping[str, int]) -> str:
    """`batch size 5, time 3`.

    Example:
        >>> describe({"batch": 5, "time": 3}), describe({})
        ('batch size 5, time 3', 'the example input')
    """
    parts = [f"batch size {size}" if name == BATCH else f"{name} {size}" for name, size in sizes.items()]
    return ", ".join(parts) or "the example input"


def last_line(error: Exception) -> str:
    """The useful line of what forward raised: the interpreter puts it last, after its own stack.

    Example:
        >>> last_line(RuntimeError("The following operation failed.\\nTraceback …\\nRuntimeError: shapes differ\\n"))
        'RuntimeError: shapes differ'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ~<-HER\t")]
    return lines[-1][:300] if lines else type(error).__name__


def _apart(name: str, difference: Difference, allowed: tuple[float, float], case: Case) -> ParityError:
    rtol, atol = allowed
    where = describe(case.sizes)
    if difference.reason is not None:
        return ParityError(
            f"output `{name}` of the exported model {difference.reason} as from the eager one, at {where}"
        )
    return ParityError(
        f"output `{name}` of the exported model differs from the eager one at {where}: "
        f"largest absolute difference {difference.max_abs:.3g}, relative {difference.max_rel:.3g}, "
        f"allowed {atol:.3g} + {rtol:.3g} × |value|",
        hint="nothing was written; if the difference is harmless, set export.rtol or export.atol in the recipe",
    )
