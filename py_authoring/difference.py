"""How far one tensor is from another: what parity (export against eager) and verify (golden against here) both measure.

In: two tensors and a tolerance. Out: the largest differences, and whether they are allowed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: torch.testing.assert_close's defaults: datatype → (rtol, atol). All others are compared exactly.
DEFAULT_TOLERANCES: dict[torch.dtype, tuple[float, float]] = {
    torch.float16: (1e-3, 1e-5),
    torch.bfloat16: (1.6e-2, 1e-5),
    torch.float32: (1.3e-6, 1e-5),
    torch.float64: (1e-7, 1e-7),
}


@dataclass(frozen=True)
class Difference:
    """The distance of a result from the expected one.

    Attributes:
        max_abs: largest absolute difference; infinite where a NaN, a datatype or a shape does not agree.
        max_rel: largest difference divided by the expected value, over the elements where that is not 0.
        within: whether every element keeps `|got - expected| <= atol + rtol * |expected|`; NaN equals NaN.
        reason: what does not agree besides values: datatype or shape; None if both do.
    """

    max_abs: float
    max_rel: float
    within: bool
    reason: str | None = None


def tolerance(dtype: torch.dtype, rtol: float | None = None, atol: float | None = None) -> tuple[float, float]:
    """`(rtol, atol)` for a datatype: torch's defaults, where none is given; integers are always exact.

    Example:
        >>> tolerance(torch.float32), tolerance(torch.float32, rtol=0.1), tolerance(torch.int64, rtol=0.1)
        ((1.3e-06, 1e-05), (0.1, 1e-05), (0.0, 0.0))
    """
    if dtype not in DEFAULT_TOLERANCES:
        return 0.0, 0.0
    default_rtol, default_atol = DEFAULT_TOLERANCES[dtype]
    return default_rtol if rtol is None else rtol, default_atol if atol is None else atol


def measure(got: Tensor, expected: Tensor, rtol: float, atol: float) -> Difference:
    """Compares two tensors of any shape, datatype and device.

    Example:
        >>> measure(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0]), rtol=0.0, atol=0.1)
        Difference(max_abs=0.5, max_rel=0.25, within=False, reason=None)
    """
    got, expected = got.detach().cpu(), expected.detach().cpu()
    if got.dtype != expected.dtype:
        return Difference(math.inf, math.inf, False, f"has datatype {got.dtype}, expected {expected.dtype}")
    if got.shape != expected.shape:
        return Difference(math.inf, math.inf, False, f"has shape {list(got.shape)}, expected {list(expected.shape)}")
    if got.numel() == 0:
        return Difference(0.0, 0.0, True)
    same = torch.eq(got, expected)
    if got.is_floating_point():
        same |= got.isnan() & expected.isnan()
    if bool(same.all()):
        return Difference(0.0, 0.0, True)
    distance = torch.where(same, 0.0, (got.double() - expected.double()).abs())
    distance = torch.where(distance.isnan(), math.inf, distance)
    size = expected.double().abs()
    # integers beyond 2**53 may differ and still be one number as a double: what is not the same is never within
    exact = not got.is_floating_point()
    within = same if exact else same | (size.isfinite() & (distance <= atol + rtol * size))
    relative = torch.where(same | (size == 0), 0.0, distance / size)
    relative = torch.where(relative.isnan(), math.inf, relative)
    return Difference(float(distance.max()), float(relative.max()), bool(within.all()))


def worst(differences: Sequence[Difference]) -> Difference:
    """The largest of several differences; none are a difference of 0.

    Example:
        >>> worst([Difference(0.5, 0.1, True), Difference(0.25, 0.2, True)])
        Difference(max_abs=0.5, max_rel=0.2, within=True, reason=None)
    """
    return Difference(
        max((difference.max_abs for difference in differences), default=0.0),
        max((difference.max_rel for difference in differences), default=0.0),
        all(difference.within for difference in differences),
        next((difference.reason for difference in differences if difference.reason), None),
    )
