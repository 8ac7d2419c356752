"""The exponential moving average of a model's weights (`training.ema`): what is validated, kept as best and exported.

torch's `AveragedModel` does the work: the first iteration's weights are taken as they are, then
`average = ema × average + (1 - ema) × weights`. Buffers, such as the means of batch normalisation, are the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from py_authoring.errors import ModelFileError


class WeightAverage:
    """A handler that takes the weights into the average after each iteration.

    Args:
        model: what is trained; on its device.
        decay: between 0 and 1, as 0.999: about the last 1 / (1 - decay) iterations count.

    Raises:
        ModelFileError: the model cannot be copied.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(model, 0.9)
        >>> for weight in (1.0, 2.0):
        ...     _ = nn.init.constant_(model.weight, weight)
        ...     average(Engine(lambda trainer, batch: None))
        >>> round(average.model.weight.item(), 6)
        1.1
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._trained = model
        try:
            update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            self._averaged = AveragedModel(model, multi_avg_fn=update)
        except Exception as error:  # whatever an attribute of a user's model says to being copied
            raise ModelFileError(
                f"training.ema needs a copy of the model, and it cannot be copied: {error}",
                hint="copy.deepcopy(model) must work; keep open files and generators out of the module",
            ) from error

    def __call__(self, trainer: Engine) -> None:
        """Takes the weights as they are now into the average."""
        self._averaged.update_parameters(self._trained)

    @property
    def model(self) -> nn.Module:
        """The model with the averaged weights."""
        return self._averaged.module

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps besides the average, which is its `model`: the trained weights, and the count."""
        return {"trained": self._trained.state_dict(), "count": int(self._averaged.n_averaged)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken; `model` has its weights already."""
        self._trained.load_state_dict(state["trained"])
        torch.nn.init.constant_(self._averaged.n_averaged, state["count"])
