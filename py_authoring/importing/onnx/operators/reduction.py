"""Operators that make one number of many along axes, and running sums."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from py_authoring.importing.onnx.registry import operator


def reduced_axes(x: Tensor, axes: list[int] | None, noop_with_empty_axes: int) -> list[int]:
    """The axes that are meant: those named, or all, or none."""
    if axes is None or len(axes) == 0:
        return [0 for _ in range(0)] if noop_with_empty_axes else list(range(x.dim()))
    return axes


@operator("ReduceSum")
def reduce_sum(x: Tensor, axes: list[int] | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """The sum."""
    chosen = reduced_axes(x, axes, noop_with_empty_axes)
    return x if len(chosen) == 0 else torch.sum(x, chosen, keepdim=keepdims != 0).to(x.dtype)


@operator("ReduceMean")
def reduce_mean(x: Tensor, axes: list[int] | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """The mean."""
    chosen = reduced_axes(x, axes, noop_with_empty_axes)
    if len(chosen) == 0:
        return x
    if x.is_floating_point():
        return torch.mean(x, chosen, keepdim=keepdims != 0)
    return torch.mean(x.to(torch.float64), chosen, keepdim=keepdims != 0).to(x.dtype)


@operator("ReduceProd")
def reduce_prod(x: Tensor, axes: list[int] | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """The product."""
    chosen = reduced_axes(x, axes, noop_with_empty_axes)
    places = sorted([axis + x.dim() if axis < 0 else axis for axis in chosen])
    result = x
    for position in range(len(places)):  # the last axis first, so that the others keep their numbers
        result = torch.prod(result, places[len(places) - 1 - position], keepdim=keepdims != 0)
    return result.to(x.dtype)


def _lowest(x: Tensor) -> float:
    if x.dtype == torch.bool:
        return 0.0
    return -math.inf if x.is_floating_point() else -2147483648.0


def _highest(x: Tensor) -> float:
    if x.dtype == torch.bool:
        return 1.0
    return math.inf if x.is_floating_point() else 2147483647.0


def _filled(x: Tensor, axes: list[int], keepdim: bool, value: float) -> Tensor:
    return (torch.sum(torch.zeros_like(x, dtype=torch.float64), axes, keepdim=keepdim) + value).to(x.dtype)


@operator("ReduceMax")
def reduce_max(x: Tensor, axes: list[int] | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """The largest; of nothing the smallest number there is."""
    chosen = reduced_axes(x, axes, noop_with_empty_axes)
    if len(chosen) == 0:
        return x
    if x.numel() == 0:
        return _filled(x, chosen, keepdims != 0, _lowest(x))
    return torch.amax(x, chosen, keepdim=keepdims != 0)


@operator("ReduceMin")
def reduce_min(x: Tensor, axes: list[int] | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """The smallest; of nothing the largest number there is."""
    chosen = reduced_axes(x, axes, noop_with_empty_axes)
    if len(chosen) == 0:
        return x
    if x.numel() == 0:
        return _filled(x, chosen, keepdims != 0, _highest(x))
    return torch.amin(x, chosen, keepdim=keepdims != 0)


@operator("ReduceL1")
def reduce_l1(x: Tensor, axes: list[int] | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """The sum of absolute values."""
    return reduce_sum(torch.abs(x), axes, keepdims, noop_with_empty_axes)


@operator("ReduceL2")
def reduce_l2(x: Tensor, axes: list[int] | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """The root of the sum of squares."""
    return torch.sqrt(reduce_sum(x * x, axes, keepdims, noop_with_empty_axes)).to(x.dtype)


@operator("ReduceSumSquare")
def reduce_sum_square(
    x: Tensor, axes: list[int] | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """The sum of squares."""
    return reduce_sum(x * x, axes, keepdims, noop_with_empty_axes)


@operator("ReduceLogSum")
def reduce_log_sum(
    x: Tensor, axes: list[int] | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """The logarithm of the sum."""
    return torch.log(reduce_sum(x, axes, keepdims, noop_with_empty_axes))


@operator("ReduceLogSumExp")
def reduce_log_sum_exp(
    x: Tensor, axes: list[int] | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """The logarithm of the sum of powers of e."""
    chosen = reduced_axes(x, axes, noop_with_empty_axes)
    return x if len(chosen) == 0 else torch.logsumexp(x, chosen, keepdim=keepdims != 0)


@operator("ArgMax")
def arg_max(x: Tensor, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Where the largest number of an axis is; the first of equal ones, or the last."""
    if select_last_index:
        return x.shape[axis] - 1 - torch.argmax(torch.flip(x, [axis]), axis, keepdim=keepdims != 0)
    return torch.argmax(x, axis, keepdim=keepdims != 0)


@operator("ArgMin")
def arg_min(x: Tensor, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Where the smallest number of an axis is; the first of equal ones, or the last."""
    if select_last_index:
        return x.shape[axis] - 1 - torch.argmin(torch.flip(x, [axis]), axis, keepdim=keepdims != 0)
    return torch.argmin(x, axis, keepdim=keepdims != 0)


@operator("CumSum")
def cum_sum(x: Tensor, axis: int, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Running sums, from either end, with or without the number itself."""
    turned = torch.flip(x, [axis]) if reverse else x
    if exclusive and turned.shape[axis] > 0:  # moved, and not taken away again, which would round
        zeros = torch.zeros_like(turned.narrow(axis, 0, 1))
        turned = torch.cat([zeros, turned.narrow(axis, 0, turned.shape[axis] - 1)], axis)
    result = torch.cumsum(turned, axis).to(x.dtype)
    return torch.flip(result, [axis]) if reverse else result


@operator("CumProd")
def cum_prod(x: Tensor, axis: int, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Running products, from either end, with or without the number itself."""
    turned = torch.flip(x, [axis]) if reverse else x
    if exclusive and turned.shape[axis] > 0:
        ones = torch.ones_like(turned.narrow(axis, 0, 1))
        turned = torch.cat([ones, turned.narrow(axis, 0, turned.shape[axis] - 1)], axis)
    result = torch.cumprod(turned, axis).to(x.dtype)
    return torch.flip(result, [axis]) if reverse else result
