"""Eager model → the same model with smaller numbers, float32 in and out, and how far its results moved.

In: the model, inputs, what it gave for them. Out: a module that can be scripted, traced or compiled as any other, and
for each output the tolerance that its distance from the float32 model asks for.
"""

from __future__ import annotations

import copy
import itertools
import linecache
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from py_authoring.contract import Metric
from py_authoring.difference import measure, tolerance
from py_authoring.errors import RefusedError
from py_authoring.export.parity import Case, describe, eager_case
from py_authoring.export.returns import Layout
from py_authoring.model_file import first_line

#: Room for another machine's rounding, as a multiple of what was measured here.
_ROOM = 2.0
# also as a word of a longer name, and as Lightning's users shorten them
_RISING = ("accuracy", "acc", "precision", "recall", "f1", "r2", "auc", "auroc", "iou")
_FALLING = ("mae", "mse", "rmse")
_numbers = itertools.count()


def reduce(model: nn.Module, precision: str, names: Sequence[str], layout: Layout, example: Case) -> nn.Module:
    """A copy of the model that computes with smaller numbers.

    Args:
        model: in evaluation mode; it stays as it is.
        precision: `bf16` or `int8-dynamic`.
        names: forward's arguments, in order.
        layout: how its outputs are nested.
        example: tells which inputs and outputs are float32.

    Raises:
        RefusedError: there is nothing in it to make smaller.
    """
    if precision == "bf16":
        small = copy.deepcopy(model).to(torch.bfloat16)
        return _between(small, names, layout, example).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is on its way out of torch; there is no other for TorchScript
        quantized: nn.Module = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            model, {nn.Linear, nn.LSTM}, dtype=torch.qint8
        )
    if not any("quantized" in type(module).__module__ for module in quantized.modules()):
        raise RefusedError(
            "int8-dynamic is for nn.Linear and nn.LSTM, and the model has neither",
            hint="`--precision bf16` makes every weight smaller",
        )
    return quantized.eval()


def run_reduced(
    reduced: nn.Module, names: Sequence[str], layout: Layout, cases: Sequence[Case], precision: str
) -> list[Case]:
    """What the reduced model gives for inputs that the float32 model took.

    Raises:
        RefusedError: it fails, or gives another datatype.
    """
    results = []
    for case in cases:
        try:
            got = eager_case(reduced, names, layout, case.sizes, case.inputs)
        except RefusedError:
            raise
        except Exception as error:  # forward may raise anything
            what = f"{type(error).__name__}: {first_line(error)}"
            raise RefusedError(
                f"the model fails in {precision} at {describe(case.sizes)}: {what}",
                hint="forward makes numbers of a fixed datatype, or reads the weights of a layer itself",
            ) from error
        for name, value in got.outputs.items():
            if not bool(value.isfinite().all()) and bool(case.outputs[name].isfinite().all()):
                raise RefusedError(f"output `{name}` is not finite in {precision} at {describe(case.sizes)}")
        results.append(got)
    return results


def tolerances(
    reference: Sequence[Case], reduced: Sequence[Case], rtol: float | None, atol: float | None
) -> dict[str, tuple[float, float]]:
    """Output → `(rtol, atol)` that the distance from the float32 model asks for, with room for other machines."""
    found = {}
    for name, value in reference[0].outputs.items():
        plain = tolerance(value.dtype, rtol, atol)
        pairs = zip(reference, reduced, strict=True)
        apart = max(measure(two.outputs[name], one.outputs[name], *plain).max_abs for one, two in pairs)
        # whole numbers, a class say, are equal or not: no tolerance makes them so
        found[name] = plain if plain == (0.0, 0.0) else (plain[0], max(plain[1], _round_up(_ROOM * apart)))
    return found


def own_tolerance(precision: str) -> tuple[float | None, float | None]:
    """How far the exported model may be from the reduced eager one: bfloat16 is rounded at other places."""
    return (2.0**-6, 2.0**-6) if precision == "bf16" else (None, None)


def check_metrics(before: Sequence[Metric], after: Sequence[Metric], largest: float, precision: str) -> None:
    """Raises:
    RefusedError: a metric got worse by more than `largest`, or is no number any more; the loss is shown, and decides
        nothing.
    """
    was = {metric.name: metric.value for metric in before}
    for metric in after:
        old, new = was.get(metric.name), metric.value
        rises, falls = _has_word(metric.name, _RISING), _has_word(metric.name, _FALLING)
        if old is None or not (rises or falls):
            continue
        if new is None:
            raise RefusedError(
                f"{precision} costs too much: {metric.name} was {old:.4f} and is not finite",
                hint="nothing was written; without --precision the numbers stay float32",
            )
        lost = old - new if rises else new - old
        if lost > largest:
            raise RefusedError(
                f"{precision} costs too much: {metric.name} {old:.4f} → {new:.4f}, "
                f"worse by {lost:.4f}, allowed {largest:g}",
                hint="nothing was written; export.max_metric_drop says how much may be lost",
            )


def describe_change(before: Sequence[Metric], after: Sequence[Metric], precision: str) -> str:
    """`bf16: loss 0.0517 → 0.0521, accuracy 0.9833 → 0.9833`; without data that nothing was measured."""
    was = {metric.name: metric.value for metric in before}
    shown = [
        f"{metric.name} {was[metric.name]:.4f} → {metric.value:.4f}"
        for metric in after
        if metric.value is not None and was.get(metric.name) is not None
    ]
    if shown:
        return f"{precision}: {', '.join(shown)}"
    why = "the steps of a LightningModule run in float32" if before else "no data"
    return f"{precision}: {why}, so no metric was compared"


def _has_word(name: str, words: Sequence[str]) -> bool:
    return any(word in words for word in re.split(r"[^a-z0-9]+", name.lower()))


def _round_up(value: float) -> float:
    if value == 0 or not math.isfinite(value):
        return value
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.2g}")


# TorchScript compiles source, so the casts around a model of any signature have to be source: these few lines.
def _between(model: nn.Module, names: Sequence[str], layout: Layout, example: Case) -> nn.Module:
    def narrow(name: str) -> str:
        return f"{name}.to(torch.bfloat16)" if example.inputs[name].dtype == torch.float32 else name

    floats = {name for name, value in example.outputs.items() if value.dtype == torch.float32}
    leaves = {
        name: "_result" + "".join(f"[{step!r}]" for step in path) + (".to(torch.float32)" if name in floats else "")
        for name, path in zip(layout.names, layout.paths, strict=True)
    }
    arguments = ", ".join(f"{name}={narrow(name)}" for name in names)
    source = (
        "class Between(nn.Module):\n"
        "    def __init__(self, model: nn.Module) -> None:\n"
        "        super().__init__()\n"
        "        self.model = model\n\n"
        f"    def forward(self, {', '.join(f'{name}: Tensor' for name in names)}):\n"
        f"        _result = self.model({arguments})\n"
        f"        return {_nested(layout.tree, leaves)}\n"
    )
    file = f"<bfloat16 {next(_numbers)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    space: dict[str, Any] = {"nn": nn, "torch": torch, "Tensor": Tensor, "__name__": __name__}
    exec(compile(source, file, "exec"), space)
    wrapped: nn.Module = space["Between"](model)
    return wrapped


def _nested(tree: Any, leaves: Mapping[str, str]) -> str:
    if isinstance(tree, str):
        return leaves[tree]
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key!r}: {_nested(inner, leaves)}" for key, inner in tree.items()) + "}"
    return "(" + "".join(f"{_nested(inner, leaves)}, " for inner in tree) + ")"
