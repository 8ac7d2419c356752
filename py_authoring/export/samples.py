"""Real inputs in any size that the contract allows.

In: a recipe (validation data, or model.py's `example_inputs`). Out: inputs whose free axes have the sizes asked for,
and the names of those axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from py_authoring.data import Splits, collate
from py_authoring.errors import ModelFileError, RecipeError

BATCH = "batch"
#: Count and seed → inputs by name, as `model_file.example_inputs`; the count is at least 1.
Source = Callable[[int, int], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Sampler:
    """Draws inputs.

    Attributes:
        names: forward's arguments that get a tensor, in order.
        free: input → axis → name of the dimension.
        source: where the values come from.
        least: samples to ask the source for at the least; what is too much is cut off.
    """

    names: list[str]
    free: dict[str, dict[int, str]]
    source: Source
    least: int = 1

    @property
    def dims(self) -> list[str]:
        """The names of the free dimensions, in order of appearance."""
        return list(dict.fromkeys(name for axes in self.free.values() for name in axes.values()))

    @property
    def batch(self) -> str | None:
        """The dimension that counts samples: `batch`, or what the first free axis 0 is called; None without one."""
        leading = [axes[0] for axes in self.free.values() if 0 in axes]
        return BATCH if BATCH in self.dims else next(iter(leading), None)

    def draw(self, sizes: Mapping[str, int], seed: int) -> dict[str, Tensor]:
        """Real inputs; a dimension that `sizes` does not name keeps the size that the data has.

        Longer than the data means that it is repeated, shorter that it is cut.
        """
        count = 1 if self.batch is None else max(sizes.get(self.batch, 1), self.least)
        drawn = self.source(count, seed)
        natural: dict[str, int] = {}
        inputs = {}
        for name in self.names:
            value = drawn[name]
            for axis, dim in self.free[name].items():
                size = sizes.get(dim, natural.setdefault(dim, value.shape[axis]))
                value = _resize(value, axis, size)
            inputs[name] = value.contiguous()
        return inputs

    def sizes_of(self, inputs: Mapping[str, Tensor]) -> dict[str, int]:
        """The size of each free dimension in inputs that were drawn."""
        return {dim: inputs[name].shape[axis] for name, axes in self.free.items() for axis, dim in axes.items()}


def from_data(splits: Splits) -> Source:
    """Validation samples (or test, or training ones, where there are none), chosen by seed."""
    dataset = next((split for split in (splits.validation, splits.test, splits.train) if len(split)), splits.train)
    join = collate(dataset)

    def source(count: int, seed: int) -> dict[str, Tensor]:
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
        inputs, _ = join([dataset[order[position % len(order)]] for position in range(count)])
        return inputs

    return source


def make_sampler(
    arguments: Sequence[str],
    required: Sequence[str],
    source: Source,
    dynamic: Mapping[str, Mapping[str, str]] | None = None,
    least: int = 1,
) -> Sampler:
    """Finds which arguments get a tensor and which of their axes are free.

    Args:
        arguments: the arguments of forward, in order.
        required: those without a default.
        source: see `Source`.
        dynamic: the recipe's `export.dynamic`; an input that it leaves out has a free axis 0, called `batch`.
        least: see `Sampler`.

    Raises:
        ModelFileError: there is no example for a required argument, or one too many.
        RecipeError: `dynamic` names an input or axis that is not there.
    """
    drawn = source(2, 0)
    missing = [name for name in required if name not in drawn]
    unknown = [name for name in drawn if name not in arguments]
    if missing or unknown:
        wrong = f"lack forward's argument `{missing[0]}`" if missing else f"have `{unknown[0]}`"
        raise ModelFileError(
            f"the example inputs {wrong}; forward takes {', '.join(arguments)}",
            hint="the names of data.input, of the function's dict or of example_inputs are forward's arguments",
        )
    names = [name for name in arguments if name in drawn]
    given = dict(dynamic or {})
    problems = [f"export.dynamic has `{name}`, which is no input" for name in given if name not in names]
    free: dict[str, dict[int, str]] = {}
    for name in names:
        rank = drawn[name].dim()
        if name not in given:
            free[name] = {0: BATCH} if rank else {}
            continue
        free[name] = {}
        for key, dim in given[name].items():
            axis = int(key) if key.lstrip("-").isdecimal() else rank
            axis += rank if axis < 0 else 0
            if not 0 <= axis < rank:
                problems.append(f'export.dynamic.{name} has axis "{key}", the input has {rank} dimensions')
            elif not dim or dim.isdecimal():
                problems.append(f'export.dynamic.{name} calls axis "{key}" `{dim}`, expected a word')
            else:
                free[name][axis] = dim
    if problems:
        raise RecipeError("the recipe's export section does not fit the model:", problems=problems)
    sampler = Sampler(names, free, source, least)
    _check_fixed_axes(sampler)
    return sampler


def _check_fixed_axes(sampler: Sampler) -> None:
    batch = sampler.batch
    tries = [{} if batch is None else {batch: count} for count in (2, 2, 3, 1)]
    draws = [sampler.draw(sizes, seed) for seed, sizes in enumerate(tries)]
    problems = []
    for name in sampler.names:
        for axis in range(draws[0][name].dim()):
            sizes = sorted({draw[name].shape[axis] for draw in draws})
            if axis not in sampler.free[name] and len(sizes) > 1:
                problems.append(
                    f"axis {axis} of input `{name}` has sizes {', '.join(map(str, sizes))} in the data: "
                    f"name it, as export.dynamic = {{ {name} = {{ {_named_axes(axis)} }} }}"
                )
    if problems:
        raise RecipeError("an axis is free that the recipe does not name:", problems=problems)


def _named_axes(axis: int) -> str:
    return '"0" = "batch"' if axis == 0 else f'"0" = "batch", "{axis}" = "length"'


def _resize(value: Tensor, axis: int, size: int) -> Tensor:
    have = value.shape[axis]
    if size <= have:
        return value.narrow(axis, 0, size)
    if have == 0:
        raise ModelFileError(f"an example input has no entry along axis {axis}, so none can be repeated")
    return value.index_select(axis, torch.arange(size) % have)
