"""Operators that move elements without computing: reshape, transpose, join, cut, pad."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from py_authoring.errors import RefusedError
from py_authoring.importing.onnx.registry import handler, operator
from py_authoring.importing.onnx.values import Value
from py_authoring.importing.source import literal

if TYPE_CHECKING:
    from py_authoring.importing.onnx.nodes import Node
    from py_authoring.importing.onnx.translation import Translation


@handler("Constant")
def constant(translation: Translation, node: Node) -> None:
    """A number of the file."""
    from py_authoring.importing.onnx.nodes import to_torch

    attributes = node.attributes
    if "value" in attributes:
        value = to_torch(attributes["value"])
    elif "value_float" in attributes or "value_floats" in attributes:
        value = torch.tensor(attributes.get("value_float", attributes.get("value_floats")), dtype=torch.float32)
    elif "value_int" in attributes or "value_ints" in attributes:
        value = torch.tensor(attributes.get("value_int", attributes.get("value_ints")), dtype=torch.int64)
    else:
        raise RefusedError(f"operator Constant with attribute `{next(iter(attributes), None)}` is not supported")
    name = node.outputs[0]
    translation.bind(name, Value("tensor", None, value, name, value.is_floating_point() and value.dim() > 0))


@handler("ConstantOfShape")
def constant_of_shape(translation: Translation, node: Node) -> None:
    """One number everywhere."""
    from py_authoring.importing.onnx.nodes import to_torch

    value = to_torch(node.attributes["value"]) if "value" in node.attributes else torch.zeros(1)
    shape = translation.ints(translation.value(node.inputs[0]))
    translation.define(
        node.outputs[0],
        f"torch.full({shape}, {literal(value.item())}, dtype={value.dtype}, device={translation.device})",
    )


@handler("Reshape")
def reshape(translation: Translation, node: Node) -> None:
    """Another shape; 0 keeps a size, -1 takes what is left."""
    value = translation.tensor(translation.value(node.inputs[0]))
    given = node.attributes.get("shape")  # opset 1 to 4
    target = None if given is not None else translation.value(node.inputs[1])
    shape = literal(given) if target is None else translation.ints(target)
    known = given if given is not None else None
    if target is not None and target.constant is not None:
        known = target.constant.tolist()
    whole = known is not None and 0 not in known
    from_sizes = target is not None and target.kind in ("ints", "int") and target.parts is not None
    if whole or (from_sizes and target is not None and "0" not in (target.parts or [])):
        translation.define(node.outputs[0], f"{value}.reshape({shape})")
        return
    keeps = node.attributes.get("allowzero", 0)
    use = translation.source.use(reshape_to)
    translation.define(node.outputs[0], f"{use}({value}, {shape}{', allowzero=1' if keeps else ''})")


def reshape_to(x: Tensor, shape: list[int], allowzero: int = 0) -> Tensor:
    """Another shape; 0 keeps a size unless `allowzero`, -1 takes what is left."""
    sizes = [0 for _ in range(0)]
    for axis, size in enumerate(shape):
        sizes.append(x.shape[axis] if size == 0 and not allowzero else size)
    return x.reshape(sizes)


@operator("Flatten")
def flatten(x: Tensor, axis: int = 1) -> Tensor:
    """Two axes: those before `axis` and those from it on."""
    first, second = 1, 1
    for position, size in enumerate(x.shape):
        if position < (axis + x.dim() if axis < 0 else axis):
            first = first * size
        else:
            second = second * size
    return x.reshape([first, second])


@handler("Transpose")
def transpose(translation: Translation, node: Node) -> None:
    """Axes in another order; reversed, if none is given."""
    value = translation.tensor(translation.value(node.inputs[0]))
    order = node.attributes.get("perm")
    if order is None:
        translation.define(node.outputs[0], f"{translation.source.use(reverse_axes)}({value})")
    else:
        translation.define(node.outputs[0], f"{value}.permute({literal(order)})")


def reverse_axes(x: Tensor) -> Tensor:
    """The last axis first."""
    return x.permute([x.dim() - 1 - axis for axis in range(x.dim())])


@operator("Concat")
def concat(inputs: list[Tensor], axis: int = 1) -> Tensor:
    """Tensors one after the other along an axis."""
    return torch.cat(inputs, axis)


def split(x: Tensor, split: list[int], axis: int = 0) -> list[Tensor]:
    """Parts along an axis."""
    return list(torch.split(x, split, axis))


@handler("Split")
def split_into(translation: Translation, node: Node) -> None:
    """As many parts as there are outputs, where no sizes are given."""
    more = {}
    sizes = len(node.inputs) > 1 or "split" in node.attributes
    if sizes:
        translation.call(node, split, spread=True)
        return
    more = {"count": literal(node.attributes.get("num_outputs", len(node.outputs)))}
    attributes = {name: value for name, value in node.attributes.items() if name != "num_outputs"}
    from dataclasses import replace

    translation.call(replace(node, attributes=attributes), split_evenly, spread=True, **more)


def split_evenly(x: Tensor, count: int, axis: int = 0) -> list[Tensor]:
    """So many parts of equal size, the last one perhaps smaller."""
    size = -(-x.shape[axis] // count)
    sizes = [min(size, x.shape[axis] - size * part) for part in range(count)]
    return list(torch.split(x, sizes, axis))


def slice_axes(
    x: Tensor,
    starts: list[int],
    ends: list[int],
    axes: list[int] | None = None,
    steps: list[int] | None = None,
) -> Tensor:
    """A range of each axis named; steps may be negative."""
    for position in range(len(starts)):
        axis = position if axes is None else axes[position]
        step = 1 if steps is None else steps[position]
        size = x.shape[axis]
        start, end = starts[position], ends[position]
        if step > 0:
            start = min(max(start + size if start < 0 else start, 0), size)
            end = min(max(end + size if end < 0 else end, 0), size)
            x = torch.slice_copy(x, axis, start, max(start, end), step)
        else:
            start = min(max(start + size if start < 0 else start, 0), size - 1)
            end = min(max(end + size if end < 0 else end, -1), size - 1)
            x = torch.index_select(x, axis, torch.arange(start, min(start, end), step, device=x.device))
    return x


@handler("Slice")
def slice_simply(translation: Translation, node: Node) -> None:
    """A range along axes, where it stands in the file; anything else by `slice_axes`."""
    attributes, names = node.attributes, node.inputs
    given: list[list[int] | None] = [attributes.get("starts"), attributes.get("ends"), attributes.get("axes"), None]
    for position, name in enumerate(names[1:]):
        value = translation.value(name)
        if value.kind != "none":
            given[position] = None if value.constant is None else value.constant.reshape(-1).tolist()
    known = all(given[position] is not None for position in range(max(len(names) - 1, 2)))
    if not known or given[0] is None or given[1] is None or any(step < 1 for step in given[3] or []):
        translation.call(node, slice_axes)
        return
    value_text = translation.tensor(translation.value(names[0]))
    axes = given[2] if given[2] is not None else list(range(len(given[0])))
    steps = given[3] or [1] * len(axes)
    if any(axis < 0 for axis in axes):
        translation.call(node, slice_axes)
        return
    parts = [":"] * (max(axes, default=-1) + 1)
    for axis, start, end, step in zip(axes, given[0], given[1], steps, strict=True):
        first, last = "" if start == 0 else literal(start), "" if end >= 2**31 - 1 else literal(end)
        parts[axis] = f"{first}:{last}{f':{literal(step)}' if step != 1 else ''}"
    translation.define(node.outputs[0], f"{value_text}[{', '.join(parts)}]" if parts else value_text)


@operator("Squeeze")
def squeeze(x: Tensor, axes: list[int] | None = None) -> Tensor:
    """Axes of size 1 left out: those named, or all."""
    if axes is None:
        return x.squeeze()
    kept = [0 for _ in range(0)]
    for axis, size in enumerate(x.shape):
        if axis not in axes and axis - x.dim() not in axes:
            kept.append(size)
    return x.reshape(kept)


@operator("Unsqueeze")
def unsqueeze(x: Tensor, axes: list[int]) -> Tensor:
    """Axes of size 1 put in, counted in the result."""
    rank = x.dim() + len(axes)
    for axis in sorted([axis + rank if axis < 0 else axis for axis in axes]):
        x = x.unsqueeze(axis)
    return x


@operator("Expand")
def expand(x: Tensor, shape: list[int]) -> Tensor:
    """Repeated to a shape; both sides broadcast."""
    rank = max(x.dim(), len(shape))
    own = [1] * (rank - x.dim()) + list(x.shape)
    asked = [1] * (rank - len(shape)) + shape
    return x.expand([asked[axis] if own[axis] == 1 else own[axis] for axis in range(rank)])


@operator("Tile", since=6)
def tile(x: Tensor, repeats: list[int]) -> Tensor:
    """Repeated along each axis."""
    return x.repeat(repeats)


@operator("Tile")
def tile_axis(x: Tensor, tiles: int, axis: int) -> Tensor:
    """Repeated along one axis, as the opsets before 6 have it."""
    return torch.cat([x] * tiles, axis)


@operator("Pad")
def pad_by_attributes(
    x: Tensor,
    pads: list[int] | None = None,
    paddings: list[int] | None = None,
    mode: str = "constant",
    value: float = 0.0,
) -> Tensor:
    """Numbers put around; the opsets before 11 state them as attributes."""
    given = paddings if pads is None else pads
    if given is None:
        raise ValueError("a padding without sizes")
    return _pad(x, given, list(range(x.dim())), mode, torch.tensor(value, dtype=x.dtype))


@operator("Pad", since=11)
def pad(
    x: Tensor,
    pads: list[int],
    constant_value: Tensor | None = None,
    axes: list[int] | None = None,
    mode: str = "constant",
) -> Tensor:
    """Numbers put around, or, where a size is negative, cut off."""
    fill = torch.zeros([], dtype=x.dtype) if constant_value is None else constant_value
    return _pad(x, pads, list(range(x.dim())) if axes is None else axes, mode, fill)


# By index: one rule for every mode, datatype and number of axes.
def _pad(x: Tensor, pads: list[int], axes: list[int], mode: str, fill: Tensor) -> Tensor:
    for position in range(len(axes)):
        axis = axes[position]
        before, after = pads[position], pads[position + len(axes)]
        size = x.shape[axis]
        where = torch.arange(-before, size + after, device=x.device)
        if mode == "constant":
            inside = (where >= 0) & (where < size)
            shape = [1] * x.dim()
            shape[axis] = -1
            if size == 0:
                sizes = list(x.shape)
                sizes[axis] = before + after
                x = fill.reshape([]).to(x.dtype).expand(sizes)
            else:
                taken = torch.index_select(x, axis, where.clamp(0, size - 1))
                x = torch.where(inside.reshape(shape), taken, fill.reshape([]).to(x.dtype))
            continue
        if mode == "reflect":
            period = max(2 * (size - 1), 1)
            turned = torch.remainder(where, period)
            where = torch.where(turned >= size, period - turned, turned)
        elif mode == "edge":
            where = where.clamp(0, size - 1)
        elif mode == "wrap":
            where = torch.remainder(where, size)
        else:
            raise ValueError("unknown mode of padding")
        x = torch.index_select(x, axis, where)
    return x


@operator("DepthToSpace")
def depth_to_space(x: Tensor, blocksize: int, mode: str = "DCR") -> Tensor:
    """Channels as blocks of pixels."""
    n, c, h, w = x.shape
    size = blocksize
    if mode == "DCR":
        blocks = x.reshape([n, size, size, c // (size * size), h, w]).permute([0, 3, 4, 1, 5, 2])
    else:
        blocks = x.reshape([n, c // (size * size), size, size, h, w]).permute([0, 1, 4, 2, 5, 3])
    return blocks.reshape([n, c // (size * size), h * size, w * size])


@operator("SpaceToDepth")
def space_to_depth(x: Tensor, blocksize: int, mode: str = "DCR") -> Tensor:
    """Blocks of pixels as channels."""
    n, c, h, w = x.shape
    size = blocksize
    blocks = x.reshape([n, c, h // size, size, w // size, size])
    order = [0, 3, 5, 1, 2, 4] if mode == "DCR" else [0, 1, 3, 5, 2, 4]
    return blocks.permute(order).reshape([n, c * size * size, h // size, w // size])


@operator("CenterCropPad")
def center_crop_pad(x: Tensor, shape: list[int], axes: list[int] | None = None) -> Tensor:
    """The middle of a size, with zeros around where there is too little."""
    for position in range(len(shape)):
        axis = position if axes is None else axes[position]
        size, wanted = x.shape[axis], shape[position]
        if wanted < size:
            start = (size - wanted) // 2
            x = torch.slice_copy(x, axis, start, start + wanted)
        elif wanted > size:
            before = (wanted - size) // 2
            x = _pad(x, [before, wanted - size - before], [axis], "constant", torch.zeros([], dtype=x.dtype))
    return x


@operator("Trilu")
def trilu(x: Tensor, k: int = 0, upper: int = 1) -> Tensor:
    """One side of a diagonal, zeros on the other."""
    return torch.triu(x, k) if upper else torch.tril(x, k)


def eye_like(x: Tensor, dtype: int = 0, k: int = 0) -> Tensor:
    """Ones on a diagonal."""
    rows, columns = x.shape[0], x.shape[1]
    row = torch.arange(rows, device=x.device).unsqueeze(1)
    made = row + k == torch.arange(columns, device=x.device)
    return made.to(x.dtype) if dtype == 0 else made


@handler("EyeLike")
def eye_of(translation: Translation, node: Node) -> None:
    """Ones on a diagonal, in a datatype that the node may name."""
    from py_authoring.importing.onnx.values import DTYPES

    value = translation.tensor(translation.value(node.inputs[0]))
    to = node.attributes.get("dtype")
    shift = literal(node.attributes.get("k", 0))
    dtype = f".to({DTYPES[to]})" if to else ""
    translation.define(node.outputs[0], f"{translation.source.use(eye_like)}({value}, k={shift}){dtype}")


@operator("Range")
def arange(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Numbers from a start in steps, up to a limit that is left out."""
    count = int(torch.ceil((limit - start).to(torch.float64) / delta.to(torch.float64)).clamp(min=0))
    return (start + torch.arange(count, device=start.device) * delta).to(start.dtype)


@operator("ReverseSequence")
def reverse_sequence(x: Tensor, sequence_lens: Tensor, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """The first part of each sequence backwards, as long as it says."""
    moved = x.movedim([batch_axis, time_axis], [0, 1])
    time = torch.arange(moved.shape[1], device=x.device).unsqueeze(0)
    lengths = sequence_lens.to(torch.int64).unsqueeze(1)
    where = torch.where(time < lengths, lengths - 1 - time, time)
    shape = [where.shape[0], where.shape[1]] + [1] * (moved.dim() - 2)
    taken = torch.gather(moved, 1, where.reshape(shape).expand(moved.shape))
    return taken.movedim([0, 1], [batch_axis, time_axis])


@operator("Shape")
def shape_of(x: Tensor, start: int = 0, end: int | None = None) -> Tensor:
    """Sizes as a tensor; only where they are asked of a sequence's member."""
    return torch.tensor(list(x.shape)[start:end])


@operator("Size")
def size_of(x: Tensor) -> Tensor:
    """How many elements."""
    return torch.tensor(x.numel())


@operator("Col2Im")
def col2im(
    x: Tensor,
    image_shape: list[int],
    block_shape: list[int],
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Columns of blocks added up to an image of any number of axes."""
    rank = len(image_shape)
    steps = [1] * rank if strides is None else strides
    apart = [1] * rank if dilations is None else dilations
    around = [0] * (2 * rank) if pads is None else pads
    whole, block, count = [0] * rank, 1, [0] * rank
    for axis in range(rank):
        whole[axis] = image_shape[axis] + around[axis] + around[axis + rank]
        count[axis] = (whole[axis] - (block_shape[axis] - 1) * apart[axis] - 1) // steps[axis] + 1
        block = block * block_shape[axis]
    where = torch.zeros([1, 1], dtype=torch.int64, device=x.device)
    for axis in range(rank):
        inner = torch.arange(block_shape[axis], device=x.device) * apart[axis]
        outer = torch.arange(count[axis], device=x.device) * steps[axis]
        place = inner.unsqueeze(1) + outer.unsqueeze(0)
        rows, columns = where.shape[0] * place.shape[0], where.shape[1] * place.shape[1]
        where = where.unsqueeze(1).unsqueeze(3) * whole[axis] + place.unsqueeze(0).unsqueeze(2)
        where = where.reshape([rows, columns])
    n, channels = x.shape[0], x.shape[1] // block
    total = 1
    for size in whole:
        total = total * size
    flat = torch.zeros([n, channels, total], dtype=x.dtype, device=x.device)
    flat = flat.index_add(2, where.reshape(-1), x.reshape([n, channels, -1]))
    image = flat.reshape([n, channels] + whole)
    for axis in range(rank):
        image = image.narrow(axis + 2, around[axis], image_shape[axis])
    return image
