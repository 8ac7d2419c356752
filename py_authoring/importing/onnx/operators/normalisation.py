"""Normalisation by stored or by present mean and deviation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from py_authoring.importing.onnx.registry import handler, operator
from py_authoring.importing.source import literal

if TYPE_CHECKING:
    from py_authoring.importing.onnx.nodes import Node
    from py_authoring.importing.onnx.translation import Translation


@handler("BatchNormalization")
def batch_normalisation(translation: Translation, node: Node) -> None:
    """By stored statistics, which is what a model does once it is trained."""
    for name in node.inputs[3:5]:
        translation.value(name).trainable = False
    texts = [translation.tensor(translation.value(name)) for name in node.inputs]
    x, scale, shift, mean, var = texts
    epsilon = literal(node.attributes.get("epsilon", 1e-5))
    if node.attributes.get("training_mode", 0):
        translation.call(node, batch_norm_in_training)
        return
    if not node.attributes.get("spatial", 1):
        text = f"({x} - {mean}) / torch.sqrt({var} + {epsilon}) * {scale} + {shift}"
    else:
        text = f"F.batch_norm({x}, {mean}, {var}, {scale}, {shift}, eps={epsilon})"
    translation.define(node.outputs[0], text)


def batch_norm_in_training(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    var: Tensor,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 1,
    spatial: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """By the batch's own statistics; the running ones are returned."""
    axes = [0] + list(range(2, x.dim()))
    shape = [1, -1] + [1] * (x.dim() - 2)
    present = torch.mean(x, axes)
    spread = torch.mean((x - present.reshape(shape)) ** 2, axes)
    result = (x - present.reshape(shape)) / torch.sqrt(spread.reshape(shape) + epsilon)
    result = result * scale.reshape(shape) + shift.reshape(shape)
    return result, mean * momentum + present * (1 - momentum), var * momentum + spread * (1 - momentum)


@operator("InstanceNormalization")
def instance_norm(x: Tensor, scale: Tensor, shift: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Each channel of each sample by its own mean and deviation."""
    axes = list(range(2, x.dim()))
    shape = [1, -1] + [1] * (x.dim() - 2)
    mean = torch.mean(x, axes, keepdim=True)
    var = torch.mean((x - mean) ** 2, axes, keepdim=True)
    return (x - mean) / torch.sqrt(var + epsilon) * scale.reshape(shape) + shift.reshape(shape)


@operator("LayerNormalization")
def layer_norm(
    x: Tensor,
    scale: Tensor,
    shift: Tensor | None = None,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """The axes from `axis` on by their own mean and deviation; these are returned too."""
    first = axis + x.dim() if axis < 0 else axis
    axes = list(range(first, x.dim()))
    wide = x.to(torch.float32) if stash_type == 1 else x
    mean = torch.mean(wide, axes, keepdim=True)
    inverse = 1.0 / torch.sqrt(torch.mean((wide - mean) ** 2, axes, keepdim=True) + epsilon)
    result = ((wide - mean) * inverse).to(x.dtype) * scale
    if shift is not None:
        result = result + shift
    return result, mean, inverse


@operator("GroupNormalization", since=18)
def group_norm_by_group(x: Tensor, scale: Tensor, shift: Tensor, num_groups: int, epsilon: float = 1e-5) -> Tensor:
    """Groups of channels by their own mean and deviation; a scale for each group."""
    each = x.shape[1] // num_groups
    return torch.group_norm(x, num_groups, scale.repeat_interleave(each), shift.repeat_interleave(each), epsilon)


@operator("GroupNormalization", since=21)
def group_norm(
    x: Tensor, scale: Tensor, shift: Tensor, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Groups of channels by their own mean and deviation; a scale for each channel."""
    return torch.group_norm(x, num_groups, scale, shift, epsilon)


@operator("MeanVarianceNormalization")
def mean_variance_norm(x: Tensor, axes: list[int] | None = None) -> Tensor:
    """By mean and deviation over axes."""
    chosen = [0, 2, 3] if axes is None else axes
    mean = torch.mean(x, chosen, keepdim=True)
    spread = torch.mean(x * x, chosen, keepdim=True) - mean * mean
    return (x - mean) / (torch.sqrt(spread) + 1e-9)


@operator("LpNormalization")
def lp_norm(x: Tensor, axis: int = -1, p: int = 2) -> Tensor:
    """Divided by the p-norm of an axis; nothing stays nothing."""
    norm = torch.sum(torch.abs(x), axis, keepdim=True) if p == 1 else torch.sum(x * x, axis, keepdim=True).sqrt()
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


@operator("LRN")
def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """Divided by a power of the squares of neighbouring channels."""
    before = (size - 1) // 2
    squares = x * x
    total = torch.zeros_like(squares)
    channels = x.shape[1]
    for offset in range(-before, size - before):
        first, last = max(offset, 0), min(channels + offset, channels)
        if last > first:
            part = squares.narrow(1, first, last - first)
            head = torch.zeros_like(squares.narrow(1, 0, first - offset))
            tail = torch.zeros_like(squares.narrow(1, 0, channels - (first - offset) - (last - first)))
            total = total + torch.cat([head, part, tail], 1)
    return x / (bias + alpha / size * total) ** beta
