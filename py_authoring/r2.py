"""R² as a metric of Ignite, whose own squares the targets in float32 and divides by zero where they do not vary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import ignite.distributed as idist
import torch
from ignite.metrics import Metric
from torch import Tensor


class R2(Metric):
    """The share of the targets' variance that the predictions explain: 1 at best, NaN where the targets do not vary.

    Sums are in float64 and of targets less the first one: their mean may be far larger than their deviation.

    Example:
        >>> metric = R2()
        >>> metric.update((torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 3.0])))
        >>> metric.compute()
        0.5
    """

    def reset(self) -> None:
        """Forgets what was seen."""
        self._shift = 0.0
        self._count = 0
        self._sums = torch.zeros(3, dtype=torch.float64)  # of squared errors, shifted targets, their squares

    def update(self, output: Sequence[Tensor]) -> None:
        """Adds a batch: predictions and targets, numbers `[values]` both."""
        predicted, target = (each.detach().double() for each in output)
        if not len(target):
            return
        if not self._count:
            self._shift = float(target[0])
        shifted = target - self._shift
        errors = predicted - target
        self._sums += torch.stack([(errors * errors).sum(), shifted.sum(), (shifted * shifted).sum()]).cpu()
        self._count += len(target)

    def compute(self) -> float:
        """R² of all that was seen, by all processes."""
        mine = torch.tensor([[self._count, self._shift, *self._sums.tolist()]], dtype=torch.float64)
        seen = cast(Tensor, idist.all_gather(mine))
        shift = float(seen[0, 1])
        count = errors = total = squares = 0.0
        for number, other, wrong, less, square in seen.tolist():
            moved = other - shift  # the first target of each process is another
            count, errors, total = count + number, errors + wrong, total + less + number * moved
            squares += square + 2 * moved * less + number * moved * moved
        variance = squares - total * total / count if count else 0.0
        return 1 - errors / variance if variance > 0 else math.nan
