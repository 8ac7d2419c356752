"""Whole numbers with a scale and a zero point."""

from __future__ import annotations

import torch
from torch import Tensor

from py_authoring.importing.onnx.operators.convolution import conv
from py_authoring.importing.onnx.registry import operator


def per_axis(part: Tensor, x: Tensor, axis: int) -> Tensor:
    """A scale or zero point, so that it broadcasts along its axis."""
    if part.dim() != 1 or part.shape[0] == 1:
        return part.reshape([]) if part.numel() == 1 else part
    shape = [1] * x.dim()
    shape[axis] = -1
    return part.reshape(shape)


def blocked(part: Tensor, x: Tensor, axis: int, block_size: int) -> Tensor:
    """A scale or zero point for each block of an axis, repeated to the size of `x`."""
    if block_size == 0:
        return per_axis(part, x, axis)
    return torch.repeat_interleave(part, block_size, axis).narrow(axis, 0, x.shape[axis])


def saturate(x: Tensor, like: Tensor) -> Tensor:
    """Rounded numbers within the bounds of a whole datatype."""
    low, high = -128, 127
    if like.dtype == torch.uint8:
        low, high = 0, 255
    elif like.dtype == torch.int16:
        low, high = -32768, 32767
    elif like.dtype == torch.uint16:
        low, high = 0, 65535
    return x.clamp(low, high).to(like.dtype)


def _largest(like: Tensor) -> float:
    if like.dtype == torch.float8_e4m3fn:
        return 448.0
    return 240.0 if like.dtype == torch.float8_e4m3fnuz else 57344.0


@operator("QuantizeLinear")
def quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    axis: int = 1,
    block_size: int = 0,
    saturate: int = 1,
) -> Tensor:
    """Numbers as whole ones: x / scale, rounded, + zero point."""
    zero = torch.zeros_like(scale, dtype=torch.uint8) if zero_point is None else zero_point
    divided = x.to(torch.float32) / blocked(scale, x, axis, block_size).to(torch.float32)
    if zero.is_floating_point():
        if saturate:
            divided = divided.clamp(-_largest(zero), _largest(zero))
        return divided.to(zero.dtype)
    return _saturate(torch.round(divided) + blocked(zero, x, axis, block_size).to(torch.float32), zero)


def _saturate(x: Tensor, like: Tensor) -> Tensor:
    return saturate(x, like)


@operator("DequantizeLinear")
def dequantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int = 1, block_size: int = 0
) -> Tensor:
    """Back to numbers: (x - zero point) × scale."""
    wide = x.to(torch.float32)
    if zero_point is not None:
        wide = wide - blocked(zero_point, x, axis, block_size).to(torch.float32)
    return (wide * blocked(scale, x, axis, block_size).to(torch.float32)).to(scale.dtype)


@operator("DynamicQuantizeLinear")
def quantize_dynamically(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """uint8 by the range that the numbers have; scale and zero point beside them."""
    low, high = torch.clamp(x.min(), max=0.0), torch.clamp(x.max(), min=0.0)
    scale = (high - low) / 255.0
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round(torch.clamp(-low / safe, 0.0, 255.0))
    return torch.clamp(torch.round(x / safe) + zero, 0.0, 255.0).to(torch.uint8), scale, zero.to(torch.uint8)


@operator("MatMulInteger")
def matmul_integer(a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
    """A product of whole numbers, int32."""
    one, two = a.to(torch.int32), b.to(torch.int32)
    if a_zero is not None:
        zero = a_zero.to(torch.int32)
        one = one - (zero.unsqueeze(-1) if zero.dim() == 1 and zero.shape[0] > 1 else zero)
    if b_zero is not None:
        two = two - b_zero.to(torch.int32)
    return torch.matmul(one, two)


@operator("QLinearMatMul")
def qlinear_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    """A product of quantised matrices, quantised again."""
    one = a.to(torch.float64) - a_zero.to(torch.float64)
    two = b.to(torch.float64) - b_zero.to(torch.float64)
    product = torch.matmul(one, two) * (a_scale.to(torch.float64) * b_scale.to(torch.float64))
    return _saturate(torch.round(product / y_scale.to(torch.float64)) + y_zero.to(torch.float64), y_zero)


@operator("ConvInteger")
def conv_integer(
    x: Tensor,
    weight: Tensor,
    x_zero: Tensor | None = None,
    w_zero: Tensor | None = None,
    kernel_shape: list[int] | None = None,
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    auto_pad: str = "NOTSET",
    group: int = 1,
) -> Tensor:
    """A convolution of whole numbers, int32; sums below 2⁵³ are exact as float64."""
    one, two = x.to(torch.float64), weight.to(torch.float64)
    if x_zero is not None:
        one = one - x_zero.to(torch.float64)
    if w_zero is not None:
        two = two - per_axis(w_zero, weight, 0).to(torch.float64)
    return conv(one, two, None, kernel_shape, strides, pads, dilations, auto_pad, group).to(torch.int32)


@operator("QLinearConv")
def qlinear_conv(
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
    kernel_shape: list[int] | None = None,
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    auto_pad: str = "NOTSET",
    group: int = 1,
) -> Tensor:
    """A convolution of quantised numbers, quantised again."""
    one = x.to(torch.float64) - x_zero.to(torch.float64)
    two = weight.to(torch.float64) - per_axis(w_zero, weight, 0).to(torch.float64)
    wide = None if bias is None else bias.to(torch.float64)
    sums = conv(one, two, wide, kernel_shape, strides, pads, dilations, auto_pad, group)
    scale = x_scale.to(torch.float64) * per_axis(w_scale, sums, 1).to(torch.float64) / y_scale.to(torch.float64)
    return _saturate(torch.round(sums * scale) + y_zero.to(torch.float64), y_zero)
