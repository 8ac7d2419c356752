"""Differences are those of torch.testing.assert_close, with figures."""

import math

import pytest
import torch

from py_authoring.difference import DEFAULT_TOLERANCES, measure, tolerance


@pytest.mark.parametrize("dtype", list(DEFAULT_TOLERANCES))
def test_the_default_tolerances_are_torch_s(dtype: torch.dtype) -> None:
    rtol, atol = tolerance(dtype)
    expected = torch.tensor([0.0, 1.0, -100.0], dtype=torch.float64)
    for factor in (0.5, 0.99, 1.01, 4.0):
        got = expected + factor * (atol + rtol * expected.abs())
        try:
            torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
            close = True
        except AssertionError:
            close = False
        assert measure(got, expected, rtol, atol).within is close
    torch.testing.assert_close(torch.ones(1, dtype=dtype) + rtol / 4, torch.ones(1, dtype=dtype))


@pytest.mark.parametrize(
    ("got", "expected", "within", "max_abs"),
    [
        ([math.nan], [math.nan], True, 0.0),
        ([math.inf], [math.inf], True, 0.0),
        ([math.inf], [-math.inf], False, math.inf),
        ([math.nan], [1.0], False, math.inf),
        ([1.0], [math.nan], False, math.inf),
        ([1.0], [math.inf], False, math.inf),
        ([], [], True, 0.0),
        ([0.0], [-0.0], True, 0.0),
        ([1e-3], [0.0], False, 1e-3),
    ],
)
def test_special_numbers(got: list[float], expected: list[float], within: bool, max_abs: float) -> None:
    difference = measure(torch.tensor(got), torch.tensor(expected), 1e-6, 1e-6)
    assert difference.within is within
    assert difference.max_abs == pytest.approx(max_abs)


def test_integers_are_exact_also_where_a_double_is_not() -> None:
    large = torch.tensor([2**62])
    assert not measure(large + 1, large, 0.0, 0.0).within
    assert measure(large, large, 0.0, 0.0).within
    for dtype in (torch.bool, torch.uint8, torch.uint16, torch.uint64):
        assert measure(torch.ones(2).to(dtype), torch.ones(2).to(dtype), 0.0, 0.0).within
        assert not measure(torch.ones(2).to(dtype), torch.zeros(2).to(dtype), 0.0, 0.0).within


def test_shapes_and_datatypes_must_agree() -> None:
    assert measure(torch.ones(2), torch.ones(3), 1.0, 1.0).reason == "has shape [2], expected [3]"
    assert "float64" in str(measure(torch.ones(2).double(), torch.ones(2), 1.0, 1.0).reason)
