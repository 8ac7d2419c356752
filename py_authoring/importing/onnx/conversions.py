"""Between tensors, lists of sizes and datatypes that torch hardly computes with. TorchScript compiles all of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def as_tensor(values: list[int], device: torch.device) -> Tensor:
    """Sizes as int64 `[n]`; a trace keeps where they come from."""
    if torch.jit.is_scripting() or not torch.jit.is_tracing():
        return torch.tensor(values, dtype=torch.int64, device=device)
    return torch.stack([torch.as_tensor(each) for each in values]).to(device)


def divide_sizes(a: int, b: int) -> int:
    """A quotient of sizes, cut towards zero; a trace keeps where they come from.

    Example:
        >>> divide_sizes(-7, 2), divide_sizes(7, 2)
        (-3, 3)
    """
    if not torch.jit.is_scripting():
        wide: Any = a + b * 0
        if isinstance(wide, Tensor):  # sizes are such while torch traces
            return torch.div(wide, b, rounding_mode="trunc")  # type: ignore[return-value]
    whole = abs(a) // abs(b)
    return whole if (a < 0) == (b < 0) else -whole


def to_ints(x: Tensor) -> list[int]:
    """The whole numbers of a tensor of any shape, in its order."""
    values: list[int] = x.reshape(-1).to(torch.int64).tolist()
    return values


def to_floats(x: Tensor) -> list[float]:
    """The numbers of a tensor of any shape, in its order."""
    values: list[float] = x.reshape(-1).to(torch.float64).tolist()
    return values


def widen(x: Tensor) -> Tensor:
    """Unsigned numbers beyond 8 bits as signed ones that torch can add; of 64 bits the bits stay what they are."""
    if x.dtype == torch.uint16:
        return x.to(torch.int32)
    if x.dtype == torch.uint32 or x.dtype == torch.uint64:
        return x.to(torch.int64)
    return x


def ordered(x: Tensor) -> Tensor:
    """As `widen`, but 64 bits are shifted so that a comparison says what it would say without a sign."""
    if x.dtype == torch.uint64:
        return x.to(torch.int64) ^ (-9223372036854775807 - 1)
    return widen(x)


def unordered(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Back from `ordered`."""
    if dtype == torch.uint64:
        return (x ^ (-9223372036854775807 - 1)).to(dtype)
    return x.to(dtype)


def align(x: Tensor, other: Tensor, axis: int | None = None) -> Tensor:
    """Shapes the second operand of the opsets before 7: its first axis lies under `axis` of the first operand."""
    if axis is None:
        return x
    missing = other.dim() - (axis + other.dim() if axis < 0 else axis) - x.dim()
    return x.reshape(list(x.shape) + [1] * max(missing, 0))
