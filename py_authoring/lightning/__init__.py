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


def load_attributes(model: Any, saved: Mapping[str, Any]) -> None:
    """Gives a LightningModule the plain attributes that training changed, as a temperature, as they were measured."""
    if is_lightning(model) and "lightning_model" in saved:
        from py_authoring.lightning.attributes import put_back

        put_back(model, saved["lightning_model"]["attributes"], known=True)


def load_hooks(model: Any, saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """The weights of a checkpoint, after on_load_checkpoint: it gets epoch, global_step, state_dict and what was added.

    Any other model's are returned as they are.

    Args:
        model: any.
        saved: a checkpoint.

    Raises:
        CheckpointError: on_load_checkpoint raised.
    """
    weights: Mapping[str, Any] = saved["model"]
    if not is_lightning(model) or "lightning_hooks" not in saved:
        return weights
    place = saved.get("lightning_model") or {"epoch": saved["epoch"], "global_step": saved["iteration"]}
    checkpoint = {
        "epoch": place["epoch"],
        "global_step": place["global_step"],
        "state_dict": dict(weights),
        **saved["lightning_hooks"],
    }
    try:
        model.on_load_checkpoint(checkpoint)
        weights = checkpoint["state_dict"]
    except Exception as error:  # a user's hook can raise anything
        raise CheckpointError(
            f"on_load_checkpoint of {type(model).__name__} cannot take what this checkpoint holds: "
            f"{type(error).__name__}: {error}"
        ) from error
    return weights
