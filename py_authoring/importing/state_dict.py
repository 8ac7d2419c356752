"""Weights in safetensors → a checkpoint of a model that is here, as if it had been trained.

The architecture comes from model.py; names and shapes must agree, and the first that does not is named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from py_authoring import atomic, checkpoint
from py_authoring.errors import CheckpointError, NotFoundError, UsageError
from py_authoring.importing.errors import ForeignFileError
from py_authoring.model_file import MODEL_FILE, build_model
from py_authoring.recipe import RECIPE_FILE, find_model, load_recipe
from py_authoring.scaffold import schema_file

if TYPE_CHECKING:
    from py_authoring.importing import Imported


def import_state_dict(path: Path, model: str | None, say: Callable[[str], None]) -> Imported:
    """Writes a run with one checkpoint; a recipe too, where the model has none.

    Args:
        path: the .safetensors file.
        model: `models/NAME/model.py:Class`, or the name or folder of a model with a recipe.
        say: gets a line for each step.

    Raises:
        UsageError: no model is named.
        NotFoundError: it is not there.
        ForeignFileError: the file is damaged.
        CheckpointError: names, shapes or datatypes differ; names the first.
    """
    from py_authoring.importing import Imported

    if model is None:
        raise UsageError(
            f"`{path}` holds weights and no architecture",
            hint="`--model NAME` for a model with a recipe, or `--model models/NAME/model.py:Class`",
        )
    state = _read(path)
    folder, class_name = _find(model)
    new_recipe = not (folder / RECIPE_FILE).is_file()
    if new_recipe:
        text = _recipe(folder, class_name or "Net", path)
        atomic.write_text(folder / RECIPE_FILE, text)
    try:
        resolved = load_recipe(folder)
        if class_name is not None and class_name != resolved.recipe.model.class_name:
            raise UsageError(
                f"`{folder / RECIPE_FILE}` has model.class `{resolved.recipe.model.class_name}`, "
                f"`--model` names `{class_name}`"
            )
        module = build_model(resolved)
        say(f"import  {path}  state_dict, {len(state)} tensors for {resolved.recipe.model.class_name}")
        fit(module, state, path)
        module.load_state_dict(state)
        module.eval()
        run = folder / checkpoint.RUNS / checkpoint.new_run_name(folder)
        saved = {
            "format": checkpoint.FORMAT,
            "model": module.state_dict(),
            "recipe": resolved.to_dict(),
            "sources": dict(resolved.sources),
            "epoch": 0,
            "iteration": 0,
            "metrics": {},
            "imported": f"{path.name}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}",
        }
        with atomic.write_folder(run) as hidden:
            (hidden / checkpoint.CHECKPOINTS).mkdir()
            (hidden / "recipe.toml").write_text(resolved.to_toml(), encoding="utf-8")
            for name in ("last", "best"):
                torch.save(saved, hidden / checkpoint.CHECKPOINTS / f"{name}.pt")
    except BaseException:
        if new_recipe:  # the recipe alone would be half an import
            (folder / RECIPE_FILE).unlink(missing_ok=True)
        raise
    count = sum(value.numel() for value in state.values())
    place = run / checkpoint.CHECKPOINTS / "best.pt"
    return Imported(
        path=place,
        name=resolved.name,
        kind="state_dict",
        checked=f"all {len(state)} tensors fit, name by name",
        parameters=count,
        method=resolved.recipe.export.method,
        model=checkpoint.command_name(folder),
    )


def fit(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Whether weights are those of a module.

    Raises:
        CheckpointError: names the first that differs, in the order of the module, with both shapes.
    """
    for name, value in module.state_dict().items():
        given = state.get(name)
        if given is None:
            near = [other for other in state if other.rpartition(".")[2] == name.rpartition(".")[2]]
            same = next((other for other in near if state[other].shape == value.shape), None)
            hint = f"`{same}` in the file has that shape" if same else f"the file has {len(state)} tensors"
            raise CheckpointError(
                f"`{path}` has no `{name}`, which model.py has with shape {list(value.shape)}", hint=hint
            )
        if given.shape != value.shape:
            raise CheckpointError(
                f"`{name}` has shape {list(given.shape)} in `{path}` and {list(value.shape)} in model.py",
                hint="model.arguments in the recipe, or another class, may give that shape",
            )
        if given.dtype != value.dtype and given.is_floating_point() != value.is_floating_point():
            raise CheckpointError(f"`{name}` is {given.dtype} in `{path}` and {value.dtype} in model.py")
    known = module.state_dict()
    for name, given in state.items():
        if name not in known:
            raise CheckpointError(f"`{path}` has `{name}` of shape {list(given.shape)}, which model.py does not have")


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        reason = str(error).strip().splitlines()[0]
        raise ForeignFileError(f"`{path}` is no safetensors file, or is damaged: {reason}") from error
    if not state:
        raise ForeignFileError(f"`{path}` holds no tensor")
    return state


def _find(model: str) -> tuple[Path, str | None]:
    file, colon, class_name = model.rpartition(":")
    if not colon:
        return find_model(model), None
    path = Path(file)
    if path.name != MODEL_FILE:
        raise UsageError(f"`--model {model}`: expected models/NAME/{MODEL_FILE}:Class")
    if not path.is_file():
        raise NotFoundError(f"`{path}` is not there")
    return path.parent, class_name


def _recipe(folder: Path, class_name: str, path: Path) -> str:
    import os

    from py_authoring import recipe_toml

    schema: Any = os.path.relpath(schema_file(folder), folder)
    lines = [
        f"#:schema {schema}",
        f"# Written by `py-authoring import` for the weights of {path.name}.",
        "",
        "[model]",
        f"class = {recipe_toml.format_value(class_name)}",
        "",
        "[data]",
        'kind = "none" # model.py needs `example_inputs(batch_size)` to be exported; or name data: docs/recipe.md',
    ]
    return "\n".join(lines) + "\n"
