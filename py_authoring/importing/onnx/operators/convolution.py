"""Convolutions and pooling in one, two and three dimensions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from py_authoring.importing.onnx.registry import handler, operator
from py_authoring.importing.source import literal

if TYPE_CHECKING:
    from py_authoring.importing.onnx.nodes import Node
    from py_authoring.importing.onnx.translation import Translation


def pads_of(
    sizes: list[int],
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    pads: list[int] | None,
    auto_pad: str,
) -> list[int]:
    """Padding before each axis, then after each axis."""
    rank = len(kernel)
    if auto_pad == "SAME_UPPER" or auto_pad == "SAME_LOWER":
        result = [0] * (2 * rank)
        for axis in range(rank):
            steps = -(-sizes[axis] // strides[axis])
            span = (kernel[axis] - 1) * dilations[axis] + 1
            total = max((steps - 1) * strides[axis] + span - sizes[axis], 0)
            less, more = total // 2, total - total // 2
            result[axis] = less if auto_pad == "SAME_UPPER" else more
            result[axis + rank] = more if auto_pad == "SAME_UPPER" else less
        return result
    if auto_pad == "VALID" or pads is None:
        return [0] * (2 * rank)
    return pads


def pad_around(x: Tensor, pads: list[int], value: float) -> Tensor:
    """Numbers around the last axes."""
    rank = len(pads) // 2
    flat = [0 for _ in range(0)]
    for axis in range(rank - 1, -1, -1):
        flat.append(pads[axis])
        flat.append(pads[axis + rank])
    return torch.nn.functional.pad(x, flat, value=value)


def _ones(given: list[int] | None, rank: int) -> list[int]:
    return [1] * rank if given is None else given


@handler("Conv")
def convolution(translation: Translation, node: Node) -> None:
    """torch's own convolution where the padding is the same on both sides; `conv` otherwise."""
    given = node.attributes
    weight = translation.value(node.inputs[1])
    rank = translation.rank(node.inputs[1]) or 0
    pads = given.get("pads", [0] * 2 * max(rank - 2, 0))
    even = pads[: len(pads) // 2] == pads[len(pads) // 2 :]
    if rank not in (3, 4, 5) or not even or given.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        translation.call(node, conv)
        return
    texts = [translation.tensor(translation.value(node.inputs[0])), translation.tensor(weight)]
    if len(node.inputs) > 2:
        texts.append(translation.tensor(translation.value(node.inputs[2])))
    half = pads[: len(pads) // 2]
    for word, value, usual in (
        ("stride", given.get("strides"), 1),
        ("padding", half, 0),
        ("dilation", given.get("dilations"), 1),
    ):
        if value and set(value) != {usual}:
            texts.append(f"{word}={literal(list(value))}")
    if given.get("group", 1) != 1:
        texts.append(f"groups={literal(given['group'])}")
    translation.define(node.outputs[0], f"F.conv{rank - 2}d({', '.join(texts)})")


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    kernel_shape: list[int] | None = None,
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    auto_pad: str = "NOTSET",
    group: int = 1,
) -> Tensor:
    """A convolution with any padding."""
    rank = x.dim() - 2
    steps, apart = _ones(strides, rank), _ones(dilations, rank)
    around = pads_of(list(x.shape[2:]), list(weight.shape[2:]), steps, apart, pads, auto_pad)
    nothing = [0] * rank
    return torch.convolution(pad_around(x, around, 0.0), weight, bias, steps, nothing, apart, False, nothing, group)


@operator("ConvTranspose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    kernel_shape: list[int] | None = None,
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    auto_pad: str = "NOTSET",
    group: int = 1,
    output_padding: list[int] | None = None,
    output_shape: list[int] | None = None,
) -> Tensor:
    """The transpose of a convolution; padding is what is cut off."""
    rank = x.dim() - 2
    kernel = list(weight.shape[2:])
    steps, apart = _ones(strides, rank), _ones(dilations, rank)
    extra = [0] * rank if output_padding is None else output_padding
    around = [0] * (2 * rank) if pads is None else pads
    nothing = [0] * rank
    whole = torch.convolution(x, weight, bias, steps, nothing, apart, True, nothing, group)
    for axis in range(rank):
        have = whole.shape[axis + 2]
        before = around[axis]
        size = have - before - around[axis + rank] + extra[axis]
        if output_shape is not None or auto_pad == "SAME_UPPER" or auto_pad == "SAME_LOWER":
            size = x.shape[axis + 2] * steps[axis]
            if output_shape is not None:
                size = output_shape[len(output_shape) - rank + axis]
            total = (x.shape[axis + 2] - 1) * steps[axis] + extra[axis] + (kernel[axis] - 1) * apart[axis] + 1 - size
            total = max(total, 0)
            before = total // 2 if auto_pad != "SAME_LOWER" else total - total // 2
            if auto_pad == "NOTSET" or auto_pad == "VALID":
                before = total // 2
        more = before + size - have
        if more > 0:
            filled = [0] * (2 * rank)
            filled[axis + rank] = more
            whole = pad_around(whole, filled, 0.0)
            if bias is not None:
                at = [1] * whole.dim()
                at[1] = -1
                tail = whole.narrow(axis + 2, have, more) + bias.reshape(at)
                whole = torch.cat([whole.narrow(axis + 2, 0, have), tail], axis + 2)
        whole = whole.narrow(axis + 2, before, size)
    return whole


def pooled_pads(
    sizes: list[int],
    kernel: list[int],
    steps: list[int],
    apart: list[int],
    pads: list[int] | None,
    auto_pad: str,
    ceil_mode: int,
) -> list[int]:
    """Padding of a pooling: what `ceil_mode` needs is put after the last element."""
    rank = len(kernel)
    around = list(pads_of(sizes, kernel, steps, apart, pads, auto_pad))
    for axis in range(rank):
        whole = sizes[axis] + around[axis] + around[axis + rank]
        span = (kernel[axis] - 1) * apart[axis] + 1
        count = (whole - span) // steps[axis] + 1
        if ceil_mode and auto_pad != "SAME_UPPER" and auto_pad != "SAME_LOWER":
            more = -(-(whole - span) // steps[axis]) + 1
            # a window that would begin in the padding behind is left out
            if (more - 1) * steps[axis] < sizes[axis] + around[axis]:
                count = more
        need = (count - 1) * steps[axis] + span - whole
        if need > 0:
            around[axis + rank] += need
    return around


def windows(x: Tensor, kernel: list[int], steps: list[int], apart: list[int]) -> Tensor:
    """`[n, c, out…, kernel…]`: what each window sees."""
    rank = len(kernel)
    for axis in range(rank):
        span = (kernel[axis] - 1) * apart[axis] + 1
        x = x.unfold(axis + 2, span, steps[axis])
        x = x[..., :: apart[axis]]
    return x


@handler("MaxPool")
def max_pooling(translation: Translation, node: Node) -> None:
    """torch's own pooling where it says the same."""
    given = node.attributes
    kernel, pads = given["kernel_shape"], given.get("pads", [0] * 2 * len(given["kernel_shape"]))
    half = pads[: len(kernel)]
    even = half == pads[len(kernel) :] and all(2 * pad <= size for pad, size in zip(half, kernel, strict=True))
    dtype = translation.dtype(node.inputs[0])
    plain = given.get("auto_pad", "NOTSET") in ("NOTSET", "VALID") and not given.get("ceil_mode", 0)
    floats = dtype is None or dtype.is_floating_point
    if len(node.outputs) > 1 or not even or not plain or not floats or len(kernel) > 3:
        translation.call(node, max_pool if len(node.outputs) == 1 else max_pool_with_indices)
        return
    texts = [translation.tensor(translation.value(node.inputs[0])), literal(list(kernel))]
    texts.append(f"stride={literal(list(given.get('strides', [1] * len(kernel))))}")
    if any(half):
        texts.append(f"padding={literal(list(half))}")
    if set(given.get("dilations", [1])) != {1}:
        texts.append(f"dilation={literal(list(given['dilations']))}")
    translation.define(node.outputs[0], f"F.max_pool{len(kernel)}d({', '.join(texts)})")


def max_pool(
    x: Tensor,
    kernel_shape: list[int],
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    storage_order: int = 0,
) -> Tensor:
    """The largest number of each window."""
    rank = len(kernel_shape)
    steps, apart = _ones(strides, rank), _ones(dilations, rank)
    around = pooled_pads(list(x.shape[2:]), kernel_shape, steps, apart, pads, auto_pad, ceil_mode)
    # whole numbers up to 32 bits are exact as float64
    wide = x if x.is_floating_point() else x.to(torch.float64)
    seen = windows(pad_around(wide, around, -math.inf), kernel_shape, steps, apart)
    return seen.flatten(2 + rank).amax(-1).to(x.dtype)


def max_pool_with_indices(
    x: Tensor,
    kernel_shape: list[int],
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    storage_order: int = 0,
) -> tuple[Tensor, Tensor]:
    """The largest number of each window, and its place in the flattened input."""
    rank = len(kernel_shape)
    steps, apart = _ones(strides, rank), _ones(dilations, rank)
    around = pooled_pads(list(x.shape[2:]), kernel_shape, steps, apart, pads, auto_pad, ceil_mode)
    wide = x if x.is_floating_point() else x.to(torch.float64)
    place = torch.arange(x.numel(), dtype=torch.float64, device=x.device).reshape(x.shape)
    if storage_order:
        sizes = list(x.shape)
        plane = 1
        for size in sizes[2:]:
            plane = plane * size
        inner = torch.arange(plane, dtype=torch.float64, device=x.device)
        turned = [sizes[x.dim() - 1 - axis] for axis in range(rank)]
        order = [rank - 1 - axis for axis in range(rank)]
        inner = inner.reshape(turned).permute(order)
        outer = torch.arange(sizes[0] * sizes[1], dtype=torch.float64, device=x.device) * plane
        place = outer.reshape([sizes[0], sizes[1]] + [1] * rank) + inner
    seen = windows(pad_around(wide, around, -math.inf), kernel_shape, steps, apart).flatten(2 + rank)
    places = windows(pad_around(place, around, -1.0), kernel_shape, steps, apart).flatten(2 + rank)
    chosen = torch.argmax(seen, -1, keepdim=True)
    values = torch.gather(seen, -1, chosen).squeeze(-1)
    return values.to(x.dtype), torch.gather(places, -1, chosen).squeeze(-1).to(torch.int64)


@operator("AveragePool")
def average_pool(
    x: Tensor,
    kernel_shape: list[int],
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
) -> Tensor:
    """The mean of each window, with or without the padding."""
    rank = len(kernel_shape)
    steps, apart = _ones(strides, rank), _ones(dilations, rank)
    sizes = list(x.shape[2:])
    around = pooled_pads(sizes, kernel_shape, steps, apart, pads, auto_pad, ceil_mode)
    stated = pads_of(sizes, kernel_shape, steps, apart, pads, auto_pad)
    seen = windows(pad_around(x, around, 0.0), kernel_shape, steps, apart).flatten(2 + rank).sum(-1)
    ones = torch.ones([1, 1] + sizes, dtype=x.dtype, device=x.device)
    if count_include_pad:
        # what ceil_mode adds behind counts for nobody
        ones = pad_around(ones, stated, 1.0)
        around = [around[position] - stated[position] for position in range(2 * rank)]
    counts = windows(pad_around(ones, around, 0.0), kernel_shape, steps, apart).flatten(2 + rank).sum(-1)
    return seen / counts


@operator("LpPool")
def lp_pool(
    x: Tensor,
    kernel_shape: list[int],
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    p: int = 2,
) -> Tensor:
    """The p-norm of each window."""
    rank = len(kernel_shape)
    steps, apart = _ones(strides, rank), _ones(dilations, rank)
    around = pooled_pads(list(x.shape[2:]), kernel_shape, steps, apart, pads, auto_pad, ceil_mode)
    powers = pad_around(torch.abs(x) ** p, around, 0.0)
    return windows(powers, kernel_shape, steps, apart).flatten(2 + rank).sum(-1) ** (1.0 / p)


@operator("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    """The mean of each channel."""
    return torch.mean(x, list(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    """The largest number of each channel."""
    return torch.amax(x, list(range(2, x.dim())), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(x: Tensor, p: int = 2) -> Tensor:
    """The p-norm of each channel."""
    return torch.sum(torch.abs(x) ** p, list(range(2, x.dim())), keepdim=True) ** (1.0 / p)


@operator("MaxUnpool")
def max_unpool(
    x: Tensor,
    indices: Tensor,
    output_shape: list[int] | None = None,
    kernel_shape: list[int] | None = None,
    strides: list[int] | None = None,
    pads: list[int] | None = None,
) -> Tensor:
    """Numbers put back to where `MaxPool` found them, zeros elsewhere."""
    sizes = list(x.shape)
    rank = x.dim() - 2
    if kernel_shape is None:
        raise ValueError("MaxUnpool without kernel_shape")
    steps = _ones(strides, rank)
    around = [0] * (2 * rank) if pads is None else pads
    for axis in range(rank):
        grown = (sizes[axis + 2] - 1) * steps[axis] + kernel_shape[axis]
        sizes[axis + 2] = grown - around[axis] - around[axis + rank]
    total = 1
    for size in sizes:
        total = total * size
    flat = torch.zeros([total], dtype=x.dtype, device=x.device).scatter(0, indices.reshape(-1), x.reshape(-1))
    made = flat.reshape(sizes)
    if output_shape is not None:
        rest = [0] * (2 * rank)
        for axis in range(rank):
            rest[axis + rank] = output_shape[axis + 2] - sizes[axis + 2]
        made = pad_around(made, rest, 0.0)
    return made
