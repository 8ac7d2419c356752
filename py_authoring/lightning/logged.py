"""`self.log` → numbers: the mean over an epoch by batch size, minimum, maximum, sum, or a torchmetrics metric.

Sums are float32 tensors, as Lightning's, so that a schedule that watches a value decides the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

_REDUCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "max": torch.maximum,
    "min": torch.minimum,
    "sum": torch.add,
    "mean": torch.add,
}


@dataclass
class Value:
    """What was logged under one name in one hook.

    Attributes:
        name: as given to `self.log`.
        on_step, on_epoch, reduction, prog_bar: as given, defaults filled in.
        total: so far in this epoch, of a mean each value times its batch size.
        weight: the sum of those batch sizes.
        last: of the latest batch.
        metric: the attribute that holds the torchmetrics metric, where one was logged.
        computed: what the epoch came to, kept until the next `self.log`.
    """

    name: str
    on_step: bool
    on_epoch: bool
    reduction: str
    prog_bar: bool
    total: Tensor | None = None
    weight: int = 0
    last: Tensor | None = None
    metric: str | None = None
    computed: Tensor | None = None

    def same_arguments(self, other: Value) -> bool:
        """Whether both were logged alike."""
        mine, theirs = ((v.on_step, v.on_epoch, v.reduction, v.prog_bar, v.metric) for v in (self, other))
        return mine == theirs


class Logged:
    """What a module logged in the epoch that is going on, in training or in an evaluation.

    Args:
        module: finds its metrics by attribute.
        count_samples: batch → samples in it, Lightning's own way of counting.
    """

    def __init__(self, module: nn.Module, count_samples: Callable[[Any], int]) -> None:
        self.module = module
        self.values: dict[str, Value] = {}
        self._count_samples = count_samples
        self._batch: Any = None
        self._samples: int | None = None

    def start_batch(self, batch: Any) -> None:
        """Remembers the batch of which values may be logged; None after it."""
        self._batch, self._samples = batch, None

    def log(
        self,
        fx: str,
        name: str,
        value: Any,
        *,
        prog_bar: bool,
        on_step: bool,
        on_epoch: bool,
        reduce_fx: Any,
        batch_size: int | None,
        metric_attribute: str | None,
        **others: Any,
    ) -> None:
        """What `LightningModule.log` calls, with everything checked and filled in.

        Raises:
            ValueError: another reduction than mean, min, max, sum; or logged twice with other arguments.
        """
        reduction = str(getattr(reduce_fx, "__name__", reduce_fx)).lower().replace("avg", "mean")
        if reduction not in _REDUCTIONS:
            raise ValueError(f"self.log({name!r}): reduce_fx is {reduce_fx}; expected mean, min, max or sum")
        if not on_step and not on_epoch:
            raise ValueError(f"self.log({name!r}): on_step and on_epoch are both False, so nothing is logged")
        new = Value(name, on_step, on_epoch, reduction, prog_bar, metric=metric_attribute)
        kept = self.values.setdefault(f"{fx}.{name}", new)
        if not kept.same_arguments(new):
            raise ValueError(f"self.log({name!r}) is called twice in {fx}, with other arguments")
        kept.computed = None
        if metric_attribute is not None:
            of_batch = getattr(value, "_forward_cache", None)
            kept.last = of_batch.detach() if isinstance(of_batch, Tensor) else None
            return
        value = value.detach()
        if value.dtype not in (torch.float32, torch.float64):
            value = value.to(torch.get_default_dtype())
        kept.last = value.clone() if on_step else None
        if not on_epoch:
            return
        if reduction == "mean":
            samples = self._size(batch_size)
            value, kept.weight = value * samples, kept.weight + samples
        kept.total = value.clone() if kept.total is None else _REDUCTIONS[reduction](kept.total, value)

    def reset(self, metrics: bool | None = None, fx: str | None = None) -> None:
        """Nothing: Lightning's `log` asks for it where a hook runs anew, which is when an epoch is over here."""

    def of_step(self) -> dict[str, Tensor]:
        """Name → value of the batch that was just trained on, also as `name_step` where the epoch has one too."""
        return dict(_names(((v, v.last) for v in self.values.values() if v.on_step), "step"))

    def of_epoch(self) -> dict[str, Tensor]:
        """Name → what the epoch came to, also as `name_epoch` where each step has one too."""
        return dict(_names(((v, self._compute(v)) for v in self.values.values() if v.on_epoch), "epoch"))

    def row(self) -> dict[str, float]:
        """Name → the epoch's number, or the last step's where there is no other; in the order of logging."""
        found = {v.name: self._compute(v) if v.on_epoch else v.last for v in self.values.values()}
        return {name: float(value) for name, value in found.items() if value is not None}

    def in_progress_bar(self) -> list[str]:
        """The names that were logged with `prog_bar=True`."""
        return list(dict.fromkeys(value.name for value in self.values.values() if value.prog_bar))

    def clear(self) -> None:
        """Begins the next epoch; metrics forget theirs too."""
        for value in self.values.values():
            if value.metric is not None:
                metric: Any = self.module.get_submodule(value.metric)
                metric.reset()
        self.values.clear()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint within an epoch keeps; the state of metrics is kept with the module's attributes."""
        return {key: asdict(value) for key, value in self.values.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken."""
        device = next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))
        self.values = {key: Value(**fields) for key, fields in state.items()}
        for value in self.values.values():
            for name in ("total", "last", "computed"):
                tensor = getattr(value, name)
                setattr(value, name, None if tensor is None else tensor.to(device))

    def _compute(self, value: Value) -> Tensor | None:
        if value.computed is None:
            if value.metric is not None:
                metric: Any = self.module.get_submodule(value.metric)
                value.computed = metric.compute().detach()
            elif value.total is not None:
                value.computed = value.total / value.weight if value.reduction == "mean" else value.total
        return value.computed

    def _size(self, given: int | None) -> int:
        if given is not None:
            return int(given)
        if self._samples is None:
            self._samples = 1 if self._batch is None else self._count_samples(self._batch)
        return self._samples


def _names(values: Iterator[tuple[Value, Tensor | None]], suffix: str) -> Iterator[tuple[str, Tensor]]:
    for value, found in values:
        if found is not None:
            yield value.name, found
            if value.on_step and value.on_epoch:
                yield f"{value.name}_{suffix}", found
