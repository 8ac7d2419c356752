"""A LightningModule under our Ignite engine: its own steps, optimizer, schedule and hooks, in Lightning's order.

In: the module that model.py builds. Out: what a `Session` needs of any model. Nothing here imports Lightning by itself:
a model.py that needs it has done so before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from py_authoring.errors import CheckpointError

#: The packages that a LightningModule may come from: one library under its newer and its older name.
LIGHTNING = ("lightning", "pytorch_lightning")
#: Sections of a recipe of which a LightningModule says everything itself, and what says it.
OWN_SECTIONS = {
    "loss": "training_step computes the loss",
    "optimizer": "configure_optimizers makes the optimizer",
    "scheduler": "configure_optimizers makes the schedule",
    "metrics": "self.log says what is measured",
    "metric_functions": "self.log says what is measured",
}


def is_lightning(model: Any) -> bool:
    """Whether a model, or a class, is a LightningModule; looks at the names of its bases alone.

    Example:
        >>> from torch import nn
        >>> is_lightning(nn.Linear(1, 1))
        False
    """
    return lightning_base(model) is not None


def lightning_base(model: Any) -> type | None:
    """Lightning's own class among the bases of a model or a class; None where there is none."""
    bases = (model if isinstance(model, type) else type(model)).__mro__
    ours = (base for base in bases if base.__name__ == "LightningModule")
    return next((base for base in ours if base.__module__.partition(".")[0] in LIGHTNING), None)


def load_hooks(model: Any, saved: Mapping[str, Any]) -> None:
    """Gives on_load_checkpoint what on_save_checkpoint added to a checkpoint; before the weights are loaded.

    Raises:
        CheckpointError: it raised.
    """
    added = saved.get("lightning_hooks")
    if not added or not is_lightning(model):
        return
    try:
        model.on_load_checkpoint(dict(added))
    except Exception as error:  # a user's hook can raise anything
        raise CheckpointError(
            f"on_load_checkpoint of {type(model).__name__} cannot take what this checkpoint holds: "
            f"{type(error).__name__}: {error}"
        ) from error
