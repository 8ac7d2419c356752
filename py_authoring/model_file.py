"""`models/NAME/model.py` → classes and functions → an eager model.

Owns the import of a user's file: under a private module name, from its present text, leaving no `__pycache__` behind,
and with the line of model.py in every error.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import inspect
import linecache
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from py_authoring.errors import ModelFileError, NotFoundError
from py_authoring.learnt import Learnt
from py_authoring.lightning import LIGHTNING
from py_authoring.recipe import ResolvedRecipe
from py_authoring.recipe_problems import suggest

MODEL_FILE = "model.py"


def build_model(resolved: ResolvedRecipe, learnt: Learnt | None = None) -> nn.Module:
    """Makes the model that a recipe names, in training mode, on the CPU, with fresh weights.

    The weights come from torch's global generator: seeding it is the caller's business.

    Args:
        resolved: the recipe.
        learnt: what the training samples taught, for a class with an argument of that name; None reads the data for it.

    Raises:
        NotFoundError: the folder has no model.py.
        ModelFileError: model.py does not load, has no such class, or the class does not take the recipe's arguments.

    Example:
        >>> from py_authoring.recipe import load_recipe
        >>> _ = torch.manual_seed(0)
        >>> build_model(load_recipe("models/some_nn_arch")).linear
        Linear(in_features=4, out_features=4, bias=True)
    """
    section = resolved.recipe.model
    file = resolved.directory / MODEL_FILE
    model_class = find_class(resolved)
    arguments = dict(section.arguments)
    if "learnt" in inspect.signature(model_class).parameters and "learnt" not in arguments:
        arguments["learnt"] = _learnt(resolved, file) if learnt is None else learnt
    try:
        inspect.signature(model_class).bind(**arguments)
    except TypeError as error:
        raise ModelFileError(
            f"`{file}`: {section.class_name}{inspect.signature(model_class)} does not fit model.arguments: {error}",
            hint=f"model.arguments stands in {resolved.directory / 'recipe.toml'}",
        ) from error
    return call(model_class, file, **arguments)  # type: ignore[no-any-return]


def find_class(resolved: ResolvedRecipe) -> type[nn.Module]:
    """Runs model.py and gives the class that the recipe names.

    Raises:
        NotFoundError, ModelFileError: as `build_model`.
    """
    section = resolved.recipe.model
    file = resolved.directory / MODEL_FILE
    module = load_module(resolved)
    classes = [name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, nn.Module)]
    model_class = getattr(module, section.class_name, None)
    if model_class is None:
        raise ModelFileError(
            f"`{file}` has no class `{section.class_name}`{suggest(section.class_name, classes)}",
            hint=f"model.class in {resolved.directory / 'recipe.toml'} names it; there: {', '.join(classes) or 'none'}",
        )
    if section.class_name not in classes:
        raise ModelFileError(f"`{section.class_name}` in `{file}` is no class derived from torch.nn.Module")
    return model_class  # type: ignore[no-any-return]


def _learnt(resolved: ResolvedRecipe, file: Path) -> Learnt:
    from py_authoring.data import load_splits

    learnt = load_splits(resolved).learnt
    if learnt is None:
        raise ModelFileError(
            f"`{file}`: {resolved.recipe.model.class_name} takes `learnt`, and nothing can be learnt from datasets of "
            "one's own",
            hint="let the function return arrays, or give the class its numbers by model.arguments",
        )
    return learnt


def forward_arguments(model: nn.Module) -> list[str]:
    """The names of the arguments that `forward` takes, `self` left out.

    Example:
        >>> forward_arguments(nn.Linear(1, 1))
        ['input']
    """
    return [name for name in inspect.signature(type(model).forward).parameters if name != "self"]


def example_inputs(resolved: ResolvedRecipe, count: int, seed: int = 0) -> dict[str, Tensor]:
    """Real inputs for trying a model: from the validation data, or from model.py where a recipe has no data.

    Args:
        resolved: the recipe.
        count: the leading (batch) size of every tensor; may be 0.
        seed: chooses the samples; the same seed, the same samples.

    Returns:
        The name of each of forward's arguments → a tensor of shape `[count, …]`.

    Raises:
        ModelFileError: the recipe has no data, and model.py no function `example_inputs(batch_size)`.
    """
    from py_authoring.data import collate, load_splits

    if resolved.recipe.data.kind == "none":
        file = resolved.directory / MODEL_FILE
        module = load_module(resolved)
        function = getattr(module, "example_inputs", None)
        if function is None:
            raise ModelFileError(
                f'`{file}` has no function `example_inputs(batch_size)`, which data.kind "none" needs',
                hint="write it: it returns a dict from each argument of forward to a tensor",
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inputs = call(function, file, max(count, 1))
        if not isinstance(inputs, dict) or not all(isinstance(value, Tensor) for value in inputs.values()):
            raise ModelFileError(f"`example_inputs` in `{file}` must return a dict of tensors, by forward's arguments")
        # what was imported says which inputs count samples along axis 0; of the others nothing is cut off
        free = getattr(module, "FREE", [*inputs])
        return {name: value[:count] if name in free and value.dim() else value for name, value in inputs.items()}
    splits = load_splits(resolved)
    dataset = next((split for split in (splits.validation, splits.test, splits.train) if len(split)), splits.train)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = [order[position % len(order)] for position in range(max(count, 1))]
    inputs, _ = collate(dataset)([dataset[index] for index in chosen])
    return {name: value[:count] for name, value in inputs.items()}


def find_function(resolved: ResolvedRecipe, name: str, key: str) -> Callable[..., Any]:
    """A function of model.py that a recipe names, from the module that the model's class was last taken from.

    Args:
        resolved: the recipe.
        name: the function's.
        key: of the recipe, for the message.

    Raises:
        NotFoundError, ModelFileError: there is no model.py, or no such function in it.
    """
    file = resolved.directory / MODEL_FILE
    module = sys.modules.get(_module_name(resolved))
    if module is None or module.__file__ != str(file.resolve()):
        module = load_module(resolved)
    function = getattr(module, name, None)
    if not inspect.isroutine(function):
        known = [each for each, value in vars(module).items() if inspect.isfunction(value)]
        raise ModelFileError(
            f"`{file}` has no function `{name}`{suggest(name, known)}",
            hint=f"{key} in {resolved.directory / 'recipe.toml'} names it; there: {', '.join(known) or 'none'}",
        )
    return function


def load_module(resolved: ResolvedRecipe) -> ModuleType:
    """Runs the model.py of a model and gives its module; a changed file is run anew.

    Raises:
        NotFoundError: there is no model.py.
        ModelFileError: it does not run; names the line.
    """
    file = resolved.directory / MODEL_FILE
    if not file.is_file():
        raise NotFoundError(f"`{file}` is not there", hint="it holds the model's class; `py-authoring new` writes one")
    name = _module_name(resolved)
    path = str(file.resolve())
    linecache.checkcache(path)  # TorchScript reads the source again; without this it would see the old text
    spec = importlib.util.spec_from_loader(name, _PlainLoader(name, path), origin=path)
    assert spec is not None
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses, typing and TorchScript look a class's module up here
    call(_PlainLoader(name, path).exec_module, file, module)
    return module


def call(function: Any, file: Path, *arguments: Any, **keywords: Any) -> Any:
    """Calls something of a user's; what it raises becomes a sentence with the line of the user's file.

    Raises:
        ModelFileError: with the exception's type and text.
    """
    try:
        return function(*arguments, **keywords)
    except ModelFileError:
        raise
    except Exception as error:
        missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else None
        hint = '`pip install "rust-host[lightning]"` has it' if missing in (*LIGHTNING, "torchmetrics") else None
        raise ModelFileError(f"{where(error, file)}: {type(error).__name__}: {first_line(error)}", hint=hint) from error


def where(error: BaseException, file: Path) -> str:
    """`models/x/model.py:12`, the last line of the user's file that an exception passed through."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f"{file}:{error.lineno}"
    path = str(file.resolve())
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f"{file}:{frames[-1].lineno}" if frames else str(file)


def first_line(error: BaseException) -> str:
    """The first line of an exception's text; torch's go on for pages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _module_name(resolved: ResolvedRecipe) -> str:
    return f"py_authoring_model_{''.join(c if c.isalnum() else '_' for c in resolved.name)}"


class _PlainLoader(importlib.machinery.SourceFileLoader):
    """Compiles from the text, every time: no `.pyc` is read, so none can be stale, and none is written."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)
