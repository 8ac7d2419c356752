"""What a training starts from, and what of it stays: weights of a file, and frozen parts of the model.

In: the recipe's model section. Out: the same model with those weights. Names and shapes must agree; what is to be
learnt anew, as a head for other classes, the recipe names.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from py_authoring.errors import CheckpointError, NotFoundError, RecipeError
from py_authoring.recipe import ResolvedRecipe
from py_authoring.recipe_problems import suggest

_GLOBAL = re.compile(r"GLOBAL (\S+)")
#: Files of before 2019 lack it, and torch counts from 0 then.
_COUNTER = ".num_batches_tracked"


def load_pretrained(model: nn.Module, resolved: ResolvedRecipe, say: Callable[[str], None] = lambda text: None) -> None:
    """Gives a fresh model the weights of `model.weights`, but for the parts in `model.fresh`; nothing without a file.

    Args:
        model: on any device.
        resolved: the recipe.
        say: gets one line: how many tensors, and which were left out.

    Raises:
        NotFoundError: the file is not there.
        CheckpointError: it cannot be read, holds more than tensors, or is of another model; names the first parameter
            that differs, with both shapes. The model is as it was.
        RecipeError: `model.fresh` names no part of the model.
    """
    section = resolved.recipe.model
    known = model.state_dict()
    fresh = _named(model, section.fresh, "model.fresh")
    if section.weights is None:
        return
    path = Path(section.weights)
    given = read_state_dict(path)
    expected = {name: value for name, value in known.items() if name not in fresh}
    offered = {name: value for name, value in given.items() if not _is_part(name, section.fresh)}
    _compare(expected, offered, path)
    model.load_state_dict({**known, **offered})
    left = [name for name in known if name in fresh and not name.endswith(_COUNTER)]
    new = f"; new are {', '.join(left[:4])}{f' and {len(left) - 4} more' if len(left) > 4 else ''}" if left else ""
    say(f"weights: {len(offered)} tensors of {path.name}{new}")


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Takes parts out of the training.

    Args:
        model: its parameters in these parts want no gradient afterwards.
        patterns: names of modules or parameters; `*` stands for any.

    Returns:
        The modules that must stay in evaluation mode: a BatchNorm in training mode would change its statistics.

    Raises:
        RecipeError: a pattern names no part, or nothing is left to train.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> freeze(model, ["0"]), [name for name, value in model.named_parameters() if value.requires_grad]
        ([Linear(in_features=2, out_features=2, bias=True)], ['1.weight', '1.bias'])
    """
    names = _named(model, patterns, "model.freeze")
    for name, parameter in model.named_parameters(remove_duplicate=False):  # a tied one has two names
        if name in names:
            parameter.requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in model.parameters()):
        raise RecipeError("model.freeze leaves no parameter to train", hint="name fewer parts")
    return [module for name, module in model.named_modules() if name and _is_part(name, patterns)]


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of what `torch.save` wrote; code in a file does not run.

    Checkpoints that keep the weights under `state_dict` or `model` are read too; the `module.` that DataParallel writes
    before each name is taken off.

    Raises:
        NotFoundError: the file is not there.
        CheckpointError: it is damaged, or holds something else.
    """
    if not path.is_file():
        raise NotFoundError(f"model.weights `{path}` is not there", hint="without the key a training starts at random")
    found = _read(path)
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(each, Tensor) for each in found.values()):
        what = f"a {type(found).__name__}" if not isinstance(found, Mapping) else "other things than tensors by name"
        raise CheckpointError(
            f"`{path}` holds {what}, expected a state dict", hint='write one: `torch.save(model.state_dict(), "x.pth")`'
        )
    state = {str(name): value for name, value in found.items()}
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = _GLOBAL.search(str(error))
        if asked is None:
            raise CheckpointError(f"`{path}` cannot be read: it is no file of weights, or is damaged") from error
        raise CheckpointError(
            f"`{path}` asks for `{asked[1]}`, and only tensors are read, so that no code of a file runs",
            hint='where the file is from, write `torch.save(model.state_dict(), "x.pth")`',
        ) from error
    except Exception as error:  # both readers raise whatever they stumble over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"`{path}` cannot be read: {reason}") from error


def _compare(expected: Mapping[str, Tensor], offered: Mapping[str, Tensor], path: Path) -> None:
    head = next(reversed([*expected]), "").rpartition(".")[0]
    for name, value in expected.items():
        given = offered.get(name)
        hint = "model.arguments in the recipe, or another class, may give that shape"
        if name.rpartition(".")[0] == head:
            hint = f"a head for other classes is learnt anew: `--set 'model.fresh=[\"{head}\"]'`"
        if given is None and not name.endswith(_COUNTER):
            raise CheckpointError(
                f"`{path}` has no `{name}`, which model.py has with shape {list(value.shape)}"
                f"{suggest(name, [*offered])}",
                hint=hint,
            )
        if given is not None and given.shape != value.shape:
            raise CheckpointError(
                f"`{name}` has shape {list(given.shape)} in `{path}` and {list(value.shape)} in model.py", hint=hint
            )
    extra = next((name for name in offered if name not in expected), None)
    if extra is not None:
        raise CheckpointError(
            f"`{path}` has `{extra}` of shape {list(offered[extra].shape)}, which model.py does not have"
        )


# Of parameters and buffers; a part is named itself, or is inside of one that is.
def _named(model: nn.Module, patterns: Sequence[str], key: str) -> set[str]:
    names = [*model.state_dict()]
    for pattern in patterns:
        if not any(_is_part(name, [pattern]) for name in names):
            parts = [name for name, _ in model.named_modules() if name] + names
            raise RecipeError(f"{key} has {pattern!r}, which is no part of the model{suggest(pattern, parts)}")
    return {name for name in names if _is_part(name, patterns)}


def _is_part(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*") for pattern in patterns)
