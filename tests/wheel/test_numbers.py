"""What goes through the wheel is what torch.jit computes, in the shape that forward returned."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rust_host


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))

    def forward(self, x):
        return self.layers(x)


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, h):
        new_h = torch.tanh(self.linear(x) + h)
        return new_h, new_h


class Keys(nn.Module):
    def forward(self, x):
        return {"double": x * 2, "half": x / 2}


class Nested(nn.Module):
    def forward(self, x: Tensor, many: list[Tensor]):
        return (x + many[0], [many[1] * 2, x]), {"deep": (x.sum(), 3)}


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, tokens):
        return self.head(self.lstm(self.embedding(tokens))[0][:, -1])


class Point(NamedTuple):
    x: Tensor
    count: int


class Named(nn.Module):
    def forward(self, x: Tensor) -> Point:
        return Point(x + 1, int(x.size(0)))


class Types(nn.Module):
    def forward(
        self,
        x: Tensor,
        scale: float,
        times: int = 2,
        flip: bool = False,
        mode: str = "add",
        extra: Tensor | None = None,
        sizes: list[int] | None = None,
        table: dict[str, float] | None = None,
        pair: tuple[int, str] = (0, ""),
    ) -> tuple[Tensor, str, int, float, bool, list[int] | None, dict[str, float] | None]:
        y = x * scale * times
        if flip:
            y = -y
        if extra is not None:
            y = y + extra
        return y, mode + pair[1], times + pair[0], scale, flip, sizes, table


FLOATS = np.arange(8, dtype=np.float32).reshape(2, 4) / 7


def test_a_classifier_gives_torchs_numbers_without_dropout(load):
    ours, theirs = load(Mlp(), optimise=False)
    for batch in (1, 5, 0):
        x = np.random.default_rng(batch).normal(size=(batch, 4)).astype(np.float32)
        np.testing.assert_array_equal(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), strict=True)


def test_two_inputs_go_by_order_or_by_name_and_come_back_as_a_tuple(load):
    ours, theirs = load(Cell(), optimise=False)
    h = np.ones((2, 4), np.float32)
    expected = theirs(torch.from_numpy(FLOATS), torch.from_numpy(h))[0].detach().numpy()
    for result in (ours(FLOATS, h), ours(FLOATS, h=h), ours(h=h, x=FLOATS)):
        assert isinstance(result, tuple)
        assert len(result) == 2
        for output in result:
            np.testing.assert_array_equal(output, expected, strict=True)
    named = ours.run({"h": h, "x": FLOATS})
    assert list(named) == ["output_0", "output_1"]
    np.testing.assert_array_equal(named["output_1"], expected, strict=True)


def test_a_dict_keeps_its_keys_and_their_order(load):
    ours, _ = load(Keys())
    result = ours(FLOATS)
    assert list(result) == list(ours.run({"x": FLOATS})) == ["double", "half"]
    np.testing.assert_array_equal(result["half"], FLOATS / 2, strict=True)


def test_nested_lists_tuples_and_dicts_stay_nested_and_are_flattened_by_run(load):
    ours, _ = load(Nested())
    (first, (second, third)), tail = ours(FLOATS, [FLOATS, FLOATS + 1])
    np.testing.assert_array_equal(first, FLOATS * 2)
    np.testing.assert_array_equal(second, (FLOATS + 1) * 2)
    np.testing.assert_array_equal(third, FLOATS)
    assert tail["deep"][0].shape == ()
    assert tail["deep"][1] == 3
    names = ["output_0.0", "output_0.1.0", "output_0.1.1", "output_1.deep.0", "output_1.deep.1"]
    assert list(ours.run({"x": FLOATS, "many": [FLOATS, FLOATS]})) == names


def test_integer_sequences_of_any_length_go_through_an_lstm(load):
    ours, theirs = load(Lstm())
    for length in (1, 7, 30):
        tokens = np.arange(2 * length).reshape(2, length) % 11
        expected = theirs(torch.from_numpy(tokens)).detach().numpy()
        np.testing.assert_allclose(ours(tokens), expected, rtol=1e-6, atol=1e-7)


def test_a_named_tuple_comes_back_with_its_fields(load):
    ours, _ = load(Named())
    result = ours(FLOATS)
    assert result._fields == ("x", "count")
    assert result.count == 2
    assert type(result) is type(ours(FLOATS))
    np.testing.assert_array_equal(result.x, FLOATS + 1)
    assert list(ours.run({"x": FLOATS})) == ["x", "count"]


def test_arguments_that_are_no_tensors_are_read_by_their_type(load):
    ours, _ = load(Types())
    y, mode, times, scale, flip, sizes, table = ours(
        FLOATS, 2, np.int64(3), np.True_, "a\0é", FLOATS, (1, 2), {"k": 1}, pair=[1, "!"]
    )
    np.testing.assert_allclose(y, FLOATS * -6 + FLOATS)
    assert (mode, times, scale, flip, sizes, table) == ("a\0é!", 4, 2.0, True, [1, 2], {"k": 1.0})
    assert isinstance(scale, float)
    y, mode, times, *_ = ours(FLOATS, scale=np.float32(0.5), extra=None)
    np.testing.assert_allclose(y, FLOATS)
    assert (mode, times) == ("add", 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": "2"},
        {"scale": True},
        {"scale": 1, "times": 1.5},
        {"scale": 1, "times": 1 << 70},
        {"scale": 1, "times": True},
        {"scale": 1, "flip": 1},
        {"scale": 1, "mode": b"add"},
        {"scale": 1, "extra": "x"},
        {"scale": 1, "sizes": 3},
        {"scale": 1, "sizes": [1, "2"]},
        {"scale": 1, "table": {1: 1.0}},
        {"scale": 1, "pair": (1,)},
    ],
)
def test_a_value_of_another_type_is_refused_by_the_arguments_name(load, wrong):
    ours, _ = load(Types())
    with pytest.raises(rust_host.InvalidInputError, match=f"input `{list(wrong)[-1]}"):
        ours(FLOATS, **wrong)


def test_numbers_and_lists_become_tensors(load):
    class Show(nn.Module):
        def forward(self, x):
            return x

    ours, _ = load(Show())
    for given, dtype in [([[1, 2], [3, 4]], "int64"), ([0.5, 1], "float32"), (3, "int64"), (0.5, "float32")]:
        result = ours(given)
        assert (result.dtype, result.tolist()) == (np.dtype(dtype), given)
    assert ours(True).dtype == np.dtype(bool)
    assert ours(np.float64(0.1)) == 0.1
    with pytest.raises(rust_host.InvalidInputError, match="cannot be made an array"):
        ours([[1, 2], [3]])
    with pytest.raises(rust_host.InvalidInputError, match="cannot be made an array of numbers"):
        ours(["a"])
