"""Graphs that look like what a kernel takes compute what eager does, with our operators written in torch here."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from py_authoring.export import kernels
from py_authoring.export.kernels import attention, matmul

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def attention_in_torch():
    def meaning(query, key, value, mask, scale, causal, order, none_is_nan):
        shared = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(shared, 1) for each in (key, value))
        scores = (query * scale) @ key.transpose(-1, -2)
        if causal:
            scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
        scores = scores if mask is None else scores + mask.expand(scores.shape)
        weights = scores.softmax(-1)
        if not none_is_nan:
            weights = weights.nan_to_num(0.0)
        axes = attention._ORDERS[order]
        return (weights @ value).permute(axes).contiguous().permute([axes.index(axis) for axis in range(4)])

    library = torch.library.Library("rust_host", "IMPL")
    library.impl("attention", meaning, "CPU")
    yield
    library._destroy()


class Stacked(nn.Module):
    """An attention over what another one gave, by call and by hand."""

    def forward(self, x: Tensor) -> Tensor:
        few = F.scaled_dot_product_attention(x[:, :2], x, x)
        again = F.scaled_dot_product_attention(x, few, few)
        by_hand = torch.softmax(again @ x.transpose(1, 2), -1) @ x
        return torch.softmax(x @ by_hand.transpose(1, 2), -1) @ by_hand


class Wide(nn.Module):
    """Masks with more heads or rows than the scores have."""

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(2, (1, -1)).transpose(1, 2)
        bias = torch.arange(4.0).view(4, 1, 1)
        a = torch.softmax(heads @ heads.transpose(2, 3) + bias, -1) @ heads
        one = x[:, :1]
        b = torch.softmax(one @ x.transpose(1, 2) + torch.ones(5, x.shape[1]), -1) @ x
        return a.sum(1) + b.sum(1, keepdim=True)


class Nothing(nn.Module):
    """A query that sees no key without a mask."""

    def forward(self, x: Tensor) -> Tensor:
        large = x.abs() * 1e30
        return torch.softmax(large @ (-large).transpose(1, 2), -1) @ x


class WordsFirst(nn.Module):
    """Heads that are split as torch's layer does, of an input itself, and of what is not divided by heads."""

    def forward(self, x: Tensor) -> Tensor:
        words, batch, size = x.shape
        split = x.view(words, batch * 2, size // 2).transpose(0, 1).view(batch, 2, words, size // 2)
        a = F.scaled_dot_product_attention(split, split, split)
        other = x.sin().reshape(words * batch, size).transpose(0, 1).reshape(batch, 2, words, size // 2)
        return a + F.scaled_dot_product_attention(other, other, other)


class Projected(nn.Module):
    """What comes out of an attention with words first, and is not split into words and batch behind its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        words, batch, size = x.shape
        split = self.layer(x).view(words, batch * 2, size // 2).transpose(0, 1).view(batch, 2, words, size // 2)
        y = F.scaled_dot_product_attention(split, split, split).permute(2, 0, 1, 3).reshape(words * batch, size)
        return self.layer(y).view(words, batch, 4, 2).transpose(0, 1).sum(2) + self.layer(y).transpose(0, 1).sum()


@pytest.mark.parametrize("kind", [Stacked, Wide, Nothing, WordsFirst, Projected])
def test_what_looks_like_an_attention_computes_what_eager_does(kind: type[nn.Module]) -> None:
    torch.manual_seed(1)
    model, x = kind().eval(), torch.randn(3, 6, 8)
    with torch.no_grad():
        program = torch.export.export(model, (), kwargs={"x": x})
        found = kernels.with_own_kernels(program, 16)
        expected, given = model(x), (model if found is None else found[0])(x=x)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


class Doubled(nn.Module):
    """A layer of float64 whose product would have the name of the kernel's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.double()).float() @ x.transpose(1, 2)


class Strided(nn.Module):
    """Numbers that are taken by where eager's convolution puts them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_strided(self.layer(x), (2, 5), (1, 2))


def test_layers_of_other_floats_and_strides_that_are_looked_at_are_left_alone() -> None:
    with torch.no_grad():
        program = torch.export.export(Doubled().eval(), (), kwargs={"x": torch.randn(3, 6, 8)})
        found = kernels.with_own_kernels(program, 16)
        assert found is None or matmul not in found[1]
        program = torch.export.export(Strided().eval(), (), kwargs={"x": torch.randn(2, 3, 8, 8)})
        assert kernels.with_own_kernels(program, 16) is None
