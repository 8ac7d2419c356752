"""Modules that hostile files are made of. (torch reads annotations as they stand: no `from __future__` here.)"""

import torch
from torch import nn


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(4))
        self.step: int = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.bias + self.step


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))
        self.inner = Inner()
        self.pair = (1, 2.5)
        self.names = ["a"]
        self.table = {"a": 1}
        self.seq = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.seq(self.inner(x)) + self.weight + self.pair[0] * self.pair[1] + len(self.names) + self.table["a"]


class Loaded(nn.Module):
    """Its code runs while it is loaded."""

    w: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.ones(4, 4)

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.w, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        self.w = state[0]
        self.training = state[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.w


# As in a script of its own: the code lies in code/__torch__.py.
for kind in (Inner, Plain, Loaded):
    kind.__module__ = "__main__"
