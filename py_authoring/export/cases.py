"""Which sizes are tried, and what the eager model gives for them.

In: the eager model and a sampler. Out: the cases that the exported model must reproduce, and for each free dimension
the sizes that the eager model itself takes or refuses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from py_authoring.errors import AuthoringError, ModelFileError, RefusedError
from py_authoring.export.parity import Case, describe, eager_case, run
from py_authoring.export.returns import Layout, layout_of
from py_authoring.export.samples import BATCH, Sampler
from py_authoring.model_file import first_line, where

#: Tried besides the recipe's: nothing, one, and one that few would write into a model by chance.
EXTRA_BATCH_SIZES = (0, 1, 3)


@dataclass
class Cases:
    """What the eager model did.

    Attributes:
        layout: names and nesting of the outputs.
        cases: inputs and outputs, the first in the recipe's first batch size.
        tried: dimension → size → whether the eager model took it.
    """

    layout: Layout
    cases: list[Case] = field(default_factory=list)
    tried: dict[str, dict[int, bool]] = field(default_factory=dict)


def run_cases(
    model: nn.Module,
    sampler: Sampler,
    batch_sizes: Sequence[int],
    output_names: Sequence[str] | None,
    file: Path,
) -> Cases:
    """Runs the eager model at the recipe's batch sizes, at batch 0, 1 and 3, and at other sizes of other dimensions.

    Args:
        model: in evaluation mode.
        sampler: of real inputs.
        batch_sizes: these must work.
        output_names: the recipe's names.
        file: model.py, for messages.

    Raises:
        ModelFileError: forward fails at one of `batch_sizes`; names the line.
        RefusedError: it returns no tensors, or is not repeatable.
    """
    batched = BATCH in sampler.dims
    required = list(dict.fromkeys(batch_sizes)) if batched else [1]
    first = _draw(sampler, {BATCH: required[0]} if batched else {}, 0)
    returned = _first_run(model, sampler, first, file)
    result = Cases(layout_of(returned, output_names), tried={dim: {} for dim in sampler.dims})
    for number, size in enumerate(required):
        sizes = {BATCH: size} if batched else {}
        _add(result, model, sampler, sizes, number, file)
    if batched:
        for size in (size for size in EXTRA_BATCH_SIZES if size not in required):
            _try(result, model, sampler, {BATCH: size}, 50 + size, BATCH)
    natural = _sizes(sampler, first)
    for dim in sampler.dims:
        if dim == BATCH:
            continue
        have = natural[dim]
        others = dict.fromkeys([1, 2, have // 2, have - 1, have + 1, 2 * have + 1])
        for size in (size for size in others if size > 0 and size != have):
            sizes = {**({BATCH: max(required)} if batched else {}), dim: size}
            _try(result, model, sampler, sizes, 60 + size % 40, dim)
    return result


def golden_cases(
    model: nn.Module, sampler: Sampler, layout: Layout, count: int, batch_sizes: Sequence[int]
) -> list[Case]:
    """Real inputs that no comparison used, in turn at each batch size."""
    cases = []
    for number in range(count):
        sizes = {BATCH: batch_sizes[number % len(batch_sizes)]} if BATCH in sampler.dims else {}
        inputs = _draw(sampler, sizes, 1000 + number)
        cases.append(eager_case(model, sampler.names, layout, _sizes(sampler, inputs), inputs))
    return cases


def _draw(sampler: Sampler, sizes: Mapping[str, int], seed: int) -> dict[str, Tensor]:
    return sampler.draw(sizes, seed)


def _sizes(sampler: Sampler, inputs: Mapping[str, Tensor]) -> dict[str, int]:
    return {dim: inputs[name].shape[axis] for name, axes in sampler.free.items() for axis, dim in axes.items()}


def _first_run(model: nn.Module, sampler: Sampler, inputs: Mapping[str, Tensor], file: Path) -> object:
    try:
        with torch.no_grad():
            return run(model, sampler.names, inputs)
    except AuthoringError:
        raise
    except Exception as error:
        raise _failed(error, file, _sizes(sampler, inputs)) from error


def _add(result: Cases, model: nn.Module, sampler: Sampler, sizes: Mapping[str, int], seed: int, file: Path) -> None:
    inputs = _draw(sampler, sizes, seed)
    whole = _sizes(sampler, inputs)
    try:
        result.cases.append(eager_case(model, sampler.names, result.layout, whole, inputs))
    except AuthoringError:
        raise
    except Exception as error:
        raise _failed(error, file, whole) from error
    for dim, size in whole.items():
        result.tried[dim][size] = True


# A size that the author did not ask for: what the eager model refuses is a bound, and no mistake.
def _try(result: Cases, model: nn.Module, sampler: Sampler, sizes: Mapping[str, int], seed: int, dim: str) -> None:
    inputs = _draw(sampler, sizes, seed)
    whole = _sizes(sampler, inputs)
    try:
        result.cases.append(eager_case(model, sampler.names, result.layout, whole, inputs))
    except RefusedError:
        raise
    except Exception:  # forward may raise anything
        result.tried[dim].setdefault(whole[dim], False)
    else:
        for name, size in whole.items():
            result.tried[name][size] = True


def _failed(error: Exception, file: Path, sizes: Mapping[str, int]) -> ModelFileError:
    return ModelFileError(
        f"{where(error, file)}: forward fails at {describe(sizes)}: {type(error).__name__}: {first_line(error)}",
        hint="export.batch_sizes in the recipe says at which batch sizes the model must work",
    )
