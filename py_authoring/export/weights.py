"""A model's folder → the eager model that will be exported, with a checkpoint's weights, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from py_authoring import checkpoint as checkpoints
from py_authoring.errors import UsageError
from py_authoring.learnt import learnt_of
from py_authoring.model_file import build_model, load_module
from py_authoring.pretrained import load_pretrained
from py_authoring.recipe import ResolvedRecipe, load_recipe, override_recipe

#: What `py-authoring import` calls the sentence about a file's origin in the model.py that it writes.
IMPORTED_FROM = "IMPORTED_FROM"


@dataclass(frozen=True)
class Weights:
    """An eager model in evaluation mode on the CPU, and its origin.

    Attributes:
        model: the model.
        resolved: model and data as they were trained, export section as it is now.
        checkpoint: the file; None if the weights are the initial ones.
        saved: what else the checkpoint holds.
        imported: where model.py says that its weights come from; None for a model that was written here.
    """

    model: nn.Module
    resolved: ResolvedRecipe
    checkpoint: Path | None
    saved: dict[str, Any] = field(default_factory=dict, repr=False)
    imported: str | None = None

    @property
    def run(self) -> str | None:
        """The name of the run that the checkpoint lies in."""
        if self.checkpoint is None or self.checkpoint.parent.name != checkpoints.CHECKPOINTS:
            return None
        return self.checkpoint.parent.parent.name


def load_weights(
    model: str | Path,
    *,
    checkpoint: str | Path | None = None,
    untrained: bool = False,
    method: str | None = None,
    precision: str | None = None,
    cpu: str | None = None,
    overrides: Sequence[str] = (),
) -> Weights:
    """Builds the model of a folder and loads its weights.

    Args:
        model: a name in ./models, or a path to a model's folder.
        checkpoint: `best` or `last` of the latest run, a run's folder, or a file; default: best.
        untrained: take the initial weights of training.seed; a recipe without data has no others.
        method: script, trace, compiled or onnx; default: the recipe's.
        precision: fp32, bf16 or int8-dynamic; default: the recipe's.
        cpu: native, x86-64-v3, x86-64-v4 or x86-64-v3+v4; default: the recipe's.
        overrides: `key=value` texts.

    Raises:
        NotFoundError: no such model, run or checkpoint.
        CheckpointError: it does not fit model.py.
        UsageError: a checkpoint was named and the initial weights asked for.
    """
    flags = {"--method": method, "--precision": precision, "--cpu": cpu}
    current = load_recipe(model, overrides=overrides, flags=flags)
    if untrained and checkpoint is not None:
        raise UsageError("`--untrained` and `--checkpoint` contradict each other")
    # a recipe without data has a run only where weights were imported for it
    alone = current.recipe.data.kind == "none" and not checkpoints.list_runs(current.directory)
    if untrained or (checkpoint is None and alone):
        imported = getattr(load_module(current), IMPORTED_FROM, None)
        return Weights(_initial(current), current, None, imported=imported if isinstance(imported, str) else None)
    file = checkpoints.find_checkpoint(current.directory, path=checkpoint or "best")
    saved = checkpoints.load_checkpoint(file)
    trained = checkpoints.recipe_of(saved, current.directory)
    # what was trained stays as it was trained; what the file says about itself may have been rewritten since
    recipe = trained.recipe.model_copy(update={"export": current.recipe.export})
    resolved = override_recipe(replace(trained, recipe=recipe), overrides=overrides, flags=flags)
    built = build_model(resolved, learnt_of(saved))
    checkpoints.load_weights_into(built, saved, file)
    return Weights(built.eval(), resolved, file, saved)


def _initial(resolved: ResolvedRecipe) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(resolved.recipe.training.seed)
        model = build_model(resolved)
    load_pretrained(model, resolved)
    return model.eval()
