"""Which sizes are tried, and what the eager model gives for them.

In: the eager model and a sampler. Out: the cases that the exported model must reproduce, and for each free dimension
the sizes that the eager model itself takes or refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from py_authoring.errors import AuthoringError, ModelFileError, RefusedError
from py_authoring.export.parity import Case, describe, eager_case, run
from py_authoring.export.returns import Layout, layout_of
from py_authoring.export.samples import Sampler
from py_authoring.model_file import first_line, where

#: Tried besides the recipe's: nothing, one, and one that few would write into a model by chance.
EXTRA_BATCH_SIZES = (0, 1, 3)
#: The same for a graph. No batch of nothing: compiled matrix products divide by the batch size, and die of it (SIGFPE).
GRAPH_BATCH_SIZES = (1, 3, 7)


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
    extra: Sequence[int] = EXTRA_BATCH_SIZES,
) -> Cases:
    """Runs the eager model at the recipe's batch sizes, at those of `extra`, and at other sizes of other dimensions.

    Args:
        model: in evaluation mode.
        sampler: of real inputs.
        batch_sizes: these must work.
        output_names: the recipe's names.
        file: model.py, for messages.
        extra: batch sizes that may fail.

    Raises:
        ModelFileError: forward fails at one of `batch_sizes`; names the line.
        RefusedError: it returns no tensors, or is not repeatable.
    """
    batch = sampler.batch
    required = list(dict.fromkeys(batch_sizes)) if batch else [1]
    first = sampler.draw({batch: required[0]} if batch else {}, 0)
    returned = _first_run(model, sampler, first, file)
    result = Cases(layout_of(returned, output_names), tried={dim: {} for dim in sampler.dims})
    for number, size in enumerate(required):
        sizes = {batch: size} if batch else {}
        _add(result, model, sampler, sizes, number, file)
    if batch:
        for size in (size for size in extra if size not in required):
            _try(result, model, sampler, {batch: size}, 50 + size, batch)
    natural = sampler.sizes_of(first)
    for dim in (dim for dim in sampler.dims if dim != batch):
        have = natural[dim]
        others = dict.fromkeys([1, 2, have // 2, have - 1, have + 1, 2 * have + 1])
        for size in (size for size in others if size > 0 and size != have):
            sizes = {**({batch: max(required)} if batch else {}), dim: size}
            _try(result, model, sampler, sizes, 60 + size % 40, dim)
    return result


def golden_cases(
    model: nn.Module,
    sampler: Sampler,
    layout: Layout,
    count: int,
    batch_sizes: Sequence[int],
    change_first: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda inputs: inputs,
) -> list[Case]:
    """Real inputs that no comparison used, in turn at each batch size; `change_first` may change those of the first."""
    cases = []
    for number in range(count):
        sizes = {sampler.batch: batch_sizes[number % len(batch_sizes)]} if sampler.batch else {}
        inputs = sampler.draw(sizes, 1000 + number)
        if number == 0:
            inputs = change_first(inputs)
        cases.append(eager_case(model, sampler.names, layout, sampler.sizes_of(inputs), inputs))
    return cases


def _first_run(model: nn.Module, sampler: Sampler, inputs: Mapping[str, Tensor], file: Path) -> object:
    try:
        return run(model, sampler.names, inputs)
    except AuthoringError:
        raise
    except Exception as error:
        raise _failed(error, file, sampler.sizes_of(inputs)) from error


def _add(result: Cases, model: nn.Module, sampler: Sampler, sizes: Mapping[str, int], seed: int, file: Path) -> None:
    inputs = sampler.draw(sizes, seed)
    whole = sampler.sizes_of(inputs)
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
    inputs = sampler.draw(sizes, seed)
    whole = sampler.sizes_of(inputs)
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
        hint="export.batch_sizes, export.dynamic and the example inputs say in which sizes the model must work",
    )
