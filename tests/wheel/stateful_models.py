# ruff: noqa: UP006, UP035, UP045 - as torch.jit reads them
"""Models that keep state between calls, and some that only look so. (torch reads annotations as they stand.)"""

from typing import Dict, List, Optional, Tuple

import torch
from torch import nn


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x * self.count


class Keeps(nn.Module):
    """Keeps its input itself, for the next call."""

    last: Optional[torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.last = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last = self.last
        self.last = x
        return x if last is None else last


class Lists(nn.Module):
    seen: List[torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return torch.stack(self.seen).sum(0)


class Dicts(nn.Module):
    totals: Dict[str, torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.totals = {"a": torch.zeros(2)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.totals["a"] = self.totals["a"] + x
        return self.totals["a"]


class Buffer(nn.Module):
    """Writes into a buffer, and reads it through another attribute that shares its memory."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(4, 2))
        self.middle = self.total[1:3]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total[0:2] += x
        return self.middle.sum(0)


class ThroughAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x * 1]
        parts.append(self.total)
        parts[1].add_(x)
        return self.total


@torch.jit.script
class Point:
    def __init__(self, a: int) -> None:
        self.a = a

    def up(self) -> None:
        self.a += 1


class AnObject(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.point = Point(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.point.up()
        return x * self.point.a


@torch.jit.interface
class Step(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pass


class Plus(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


class BehindAnInterface(nn.Module):
    step: Step

    def __init__(self) -> None:
        super().__init__()
        self.step = Counter()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.step.forward(x)


class InAFork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.counter = Counter()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.jit.wait(torch.jit.fork(self.counter, x))


class AnotherMethod(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale

    @torch.jit.export
    def set_scale(self, scale: float) -> None:
        self.scale = scale


class Speech(nn.Module):
    """In the manner of Silero's network: chunks of sound, an LSTM whose state lies in attributes, and its own reset."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(24, 16)
        self.end = nn.Linear(16, 1)
        self._state = torch.zeros(0)
        self._context = torch.zeros(0)
        self._last_rate = 0

    def forward(self, x: torch.Tensor, rate: int) -> torch.Tensor:
        if x.size(-1) != 16:
            raise ValueError(f"Provided number of samples is {x.size(-1)}, supported are 16")
        if self._last_rate != 0 and self._last_rate != rate:
            self.reset_states()
        if len(self._context) == 0:
            self._context = torch.zeros(x.size(0), 8)
            self._state = torch.zeros(2, x.size(0), 16)
        x = torch.cat([self._context, x], 1)
        h, c = self.cell(x, (self._state[0], self._state[1]))
        self._state = torch.stack([h, c])
        self._context = x[:, -8:]
        self._last_rate = rate
        return torch.sigmoid(self.end(h))

    @torch.jit.export
    def reset_states(self) -> None:
        self._state = torch.zeros(0)
        self._context = torch.zeros(0)
        self._last_rate = 0

    @torch.jit.export
    def all_of(self, x: torch.Tensor, rate: int) -> torch.Tensor:
        self.reset_states()
        return torch.cat([self(x[:, i * 16 : i * 16 + 16], rate) for i in range(x.size(1) // 16)], 1)


STATEFUL = [Counter, Keeps, Lists, Dicts, Buffer, ThroughAList, AnObject, BehindAnInterface, InAFork, AnotherMethod]


class Normalised(nn.Module):
    """Would write to its means and variances in training; and writes in place to what is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(2), nn.ReLU(inplace=True), nn.Dropout(inplace=True))
        self.norm = nn.InstanceNorm1d(2, track_running_stats=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layers(x.expand(2, 2).unsqueeze(-1).repeat(1, 1, 2)))


class Local(nn.Module):
    """Lists, objects and tensors of its own, beside weights in the same lists."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        point = Point(1)
        point.up()
        parts = [self.weight, x]
        parts.append(x * 2)
        y = torch.zeros(2)
        for _ in range(3):
            y += x
        y.add_(self.weight)
        z = x.clone()
        z[0] = 1
        return y + torch.cat(parts).sum() + z + point.a


class WithoutGradients(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = x * 2
        return y + 1


class WritesItsInput(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x[0] = 5
        return x.add_(1)


class InterfaceAlone(nn.Module):
    step: Step

    def __init__(self) -> None:
        super().__init__()
        self.step = Plus()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.step.forward(x)


class ForkAlone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.jit.wait(torch.jit.fork(self.linear, x)) + 1


STATELESS = [Normalised, Local, WithoutGradients, WritesItsInput, InterfaceAlone, ForkAlone]


@torch.jit.script
class Answer:
    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


class NoForward(nn.Module):
    """As some files of other projects are: no `forward`, a dict of tensors in, an object in and out."""

    @torch.jit.export
    def generate(self, batch: Dict[str, torch.Tensor]) -> Tuple[torch.Tensor, torch.Tensor]:
        return batch["foo"], batch["bar"]

    @torch.jit.export
    def make(self, x: torch.Tensor) -> Answer:
        return Answer(x)

    @torch.jit.export
    def open(self, answer: Answer) -> torch.Tensor:
        return answer.x
