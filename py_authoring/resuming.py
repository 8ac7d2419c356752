"""Stopping and going on as if nothing had happened: the state of every random generator, and what a recipe may change.

In: a checkpoint. Out: generators set to where they were, and a refusal that names key, old and new value.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from py_authoring.errors import ResumeError
from py_authoring.recipe import ResolvedRecipe, flatten
from py_authoring.recipe_toml import format_value

#: Keys that do not change what the iterations done so far would have computed.
MAY_CHANGE = (
    *("training.epochs", "training.device", "training.checkpoint_every", "training.workers", "training.loggers"),
    "export.",
)


def seed_everything(seed: int) -> None:
    """Seeds the global generators of torch, NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_state() -> dict[str, Any]:
    """The state of the global generators, as values that a checkpoint can hold."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Puts the global generators back to what `random_state` saw."""
    torch.set_rng_state(state["torch"].cpu())
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if "cuda" in state and torch.cuda.is_available():
        known = [each.cpu() for each in state["cuda"]][: torch.cuda.device_count()]
        torch.cuda.set_rng_state_all(known)


def remembered_values(checkpoint: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """What a run was given on the command line: it holds on resuming, unless it is given anew.

    Returns:
        Dotted key → (value, `--set` or the flag).
    """
    values = flatten(checkpoint["recipe"])
    sources: Mapping[str, str] = checkpoint.get("sources", {})
    return {key: (values[key], source) for key, source in sources.items() if source.startswith("--") and key in values}


def compare_recipes(old: ResolvedRecipe, new: ResolvedRecipe) -> list[str]:
    """What has changed of what may change, one line each.

    Raises:
        ResumeError: something else has changed; each key with old and new value.
    """
    before, after = flatten(old.to_dict()), flatten(new.to_dict())
    allowed: list[str] = []
    refused: list[str] = []
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) == after.get(key):
            continue
        source = new.sources.get(key, "default")
        line = f"{key} was {_show(before.get(key))}, is now {_show(after.get(key))} ({source})"
        (allowed if key.startswith(MAY_CHANGE) else refused).append(line)
    if refused:
        hint = (
            "without `--resume` a new run starts; "
            "training.epochs, training.device, training.workers, training.loggers and export.* may change"
        )
        if len(refused) == 1:
            raise ResumeError(f"cannot resume with another recipe: {refused[0]}", hint=hint)
        raise ResumeError("cannot resume with another recipe", hint=hint, problems=refused)
    return [line for line in allowed if not line.startswith("export.")]


def _show(value: Any) -> str:
    return "not set" if value is None else format_value(value)
