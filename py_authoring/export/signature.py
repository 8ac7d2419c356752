"""What was observed → the contract's inputs, outputs and dimensions.

In: the recipe's export section and the eager cases. Out: the parts of a contract that describe tensors, checked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from py_authoring.contract import Bounds, Datatype, Image, ImageSize, Input, Output
from py_authoring.difference import tolerance
from py_authoring.errors import RecipeError, RefusedError
from py_authoring.export.golden import DATATYPES
from py_authoring.export.parity import Case
from py_authoring.export.samples import Sampler
from py_authoring.recipe_sections import ExportSection, ImageSection


def describe_inputs(
    sampler: Sampler,
    cases: Sequence[Case],
    optional: Collection[str] = (),
    descriptions: Mapping[str, str] | None = None,
) -> list[Input]:
    """Names, datatypes and shapes of the inputs; free axes carry the names that the recipe gives them."""
    inputs = []
    for name in sampler.names:
        value = cases[0].inputs[name]
        dims = [sampler.free[name].get(axis, size) for axis, size in enumerate(value.shape)]
        datatype = _datatype("input", name, value)
        inputs.append(
            Input(
                name=name,
                datatype=datatype,
                shape=_shape(dims),
                dims=dims,
                description=(descriptions or {}).get(name),
                optional=name in optional,
            )
        )
    return inputs


def describe_outputs(
    names: Sequence[str], cases: Sequence[Case], section: ExportSection, labels: Sequence[str] | None
) -> list[Output]:
    """Names, datatypes, shapes and tolerances of the outputs.

    An axis that had one size in all cases is fixed; one that always had a dimension's size carries that dimension's
    name; any other gets a name of its own. Labels and activation belong to the first output.

    Raises:
        RecipeError: the recipe has labels that do not fit.
    """
    outputs = []
    for position, name in enumerate(names):
        values = [case.outputs[name] for case in cases]
        if len({value.dim() for value in values}) > 1:
            raise RefusedError(f"output `{name}` has {values[0].dim()} dimensions for one input and not for another")
        dims = [_dim(name, axis, [value.shape[axis] for value in values], cases) for axis in range(values[0].dim())]
        rtol, atol = tolerance(values[0].dtype, section.rtol, section.atol)
        first = position == 0
        outputs.append(
            Output(
                name=name,
                datatype=_datatype("output", name, values[0]),
                shape=_shape(dims),
                dims=dims,
                labels=_labels(name, dims, section, labels) if first else None,
                activation=section.activation if first else None,
                rtol=rtol,
                atol=atol,
            )
        )
    return outputs


def describe_image(image: ImageSection | None, inputs: Sequence[Input]) -> Image | None:
    """How a picture becomes an input, if the recipe or the data says so.

    Raises:
        RecipeError: the input that it names is not there, or takes no batch of pictures.
    """
    if image is None:
        return None
    name = image.input or inputs[0].name
    taker = next((part for part in inputs if part.name == name), None)
    if taker is None:
        raise RecipeError(f"export.image.input is `{name}`, which is no input; inputs are {_names(inputs)}")
    if len(taker.shape) != 4:
        raise RecipeError(f"export.image is for input `{name}`, which has {len(taker.shape)} dimensions, expected 4")
    channels = taker.shape[1 if image.layout == "NCHW" else 3]
    expected = 1 if image.color == "L" else 3
    if channels not in (-1, expected):
        raise RecipeError(
            f'export.image.color "{image.color}" has {expected} channels, '
            f"input `{name}` of shape {taker.shape} takes {channels} in layout {image.layout}"
        )
    size = ImageSize(height=image.size.height, width=image.size.width) if image.size else None
    return Image(input=name, color=image.color, layout=image.layout, size=size, rescale_factor=image.rescale_factor)


def bounds_of(tried: Mapping[str, Mapping[int, bool]]) -> dict[str, Bounds]:
    """Dimension → size → whether the eager model took it, as bounds.

    The smallest size that worked is the minimum. A maximum is only stated where a larger size was tried and failed.

    Example:
        >>> bounds_of({"batch": {0: False, 1: True, 5: True}, "time": {1: True, 9: True, 10: False}})
        {'batch': Bounds(min=1, max=None), 'time': Bounds(min=1, max=9)}
    """
    bounds = {}
    for dim, sizes in tried.items():
        worked = [size for size, works in sizes.items() if works]
        failed_above = [size for size, works in sizes.items() if not works and size > max(worked)]
        bounds[dim] = Bounds(min=min(worked), max=max(worked) if failed_above else None)
    return bounds


def _dim(output: str, axis: int, sizes: Sequence[int], cases: Sequence[Case]) -> int | str:
    if len(set(sizes)) == 1:
        return sizes[0]
    for dim in cases[0].sizes:
        if all(size == case.sizes[dim] for size, case in zip(sizes, cases, strict=True)):
            return dim
    return f"{output}_{axis}"


def _labels(
    name: str, dims: Sequence[int | str], section: ExportSection, labels: Sequence[str] | None
) -> list[str] | None:
    last = dims[-1] if dims else None
    if section.labels is not None:
        if isinstance(last, int) and len(section.labels) != last:
            raise RecipeError(
                f"export.labels has {len(section.labels)} labels, output `{name}` has {last} columns, shape {dims}"
            )
        return list(section.labels)
    return list(labels) if labels is not None and len(labels) == last else None


def _shape(dims: Sequence[int | str]) -> list[int]:
    return [dim if isinstance(dim, int) else -1 for dim in dims]


def _datatype(kind: str, name: str, value: Tensor) -> Datatype:
    if value.layout != torch.strided or value.dtype not in DATATYPES:
        what = value.dtype if value.layout == torch.strided else value.layout
        raise RefusedError(f"{kind} `{name}` is {what}, which a contract has no word for")
    return DATATYPES[value.dtype]


def _names(inputs: Sequence[Input]) -> str:
    return ", ".join(f"`{part.name}`" for part in inputs)
