"""Recipe text and command line → `Recipe`: merged, checked, and for every value where it came from.

In: `models/NAME/recipe.toml`, `--set key=value`, named flags. Out: a frozen `ResolvedRecipe`, or one `RecipeError` with
all mistakes. Order: defaults < recipe < what a resumed run was given < `--set` < flags. No torch here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from py_authoring import recipe_problems, recipe_toml
from py_authoring.errors import NotFoundError, RecipeError
from py_authoring.recipe_sections import CLASSIFICATION_METRICS, REGRESSION_METRICS, TAGS, VARIANTS, Recipe

__all__ = ["FLAGS", "Recipe", "ResolvedRecipe", "find_model", "flatten", "load_recipe", "model_names"]

#: Named flags and the key that each one sets.
FLAGS: dict[str, str] = {
    "--epochs": "training.epochs",
    "--lr": "optimizer.lr",
    "--seed": "training.seed",
    "--device": "training.device",
    "--method": "export.method",
    "--precision": "export.precision",
    "--cpu": "export.cpu",
}
RECIPE_FILE = "recipe.toml"


@dataclass(frozen=True)
class ResolvedRecipe:
    """A checked recipe, with the origin of each value.

    Attributes:
        recipe: the values.
        sources: dotted key → `default`, `recipe.toml:LINE`, `--set`, or the flag's name.
        directory: the folder of the model, `models/NAME`.
        name: the model's name.
    """

    recipe: Recipe
    sources: Mapping[str, str] = field(repr=False)
    directory: Path
    name: str

    def to_dict(self) -> dict[str, Any]:
        """The whole recipe as plain values, under the keys that a recipe uses."""
        return self.recipe.model_dump(mode="json", by_alias=True)

    def to_toml(self) -> str:
        """The whole recipe as TOML, defaults written out."""
        return recipe_toml.dump(self.to_dict())

    def sha256(self) -> str:
        """Of the values, in a spelling that does not depend on the file's."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def values(self) -> dict[str, tuple[Any, str]]:
        """Dotted key → (value, source), in the order of the sections."""
        return {key: (value, self.sources.get(key, "default")) for key, value in flatten(self.to_dict()).items()}


def model_names(models: Path | str = "models") -> list[str]:
    """The names of the models in a folder: its subfolders that hold a recipe."""
    return sorted(path.parent.name for path in Path(models).glob(f"*/{RECIPE_FILE}"))


def find_model(model: str | Path) -> Path:
    """The folder of a model: `models/NAME`, or a path to a folder that holds a recipe.

    Raises:
        NotFoundError: neither is there; names the nearest model.
    """
    text = str(model)
    candidates = [Path(text)] if "/" in text or text in (".", "..") else [Path("models") / text, Path(text)]
    for folder in candidates:
        if (folder / RECIPE_FILE).is_file():
            return folder
    folder = candidates[0]
    if folder.is_dir():
        raise NotFoundError(f"`{folder}` has no {RECIPE_FILE}", hint=f"`py-authoring new {folder.name}` writes one")
    names = model_names()
    near = recipe_problems.suggest(text, names)
    known = f"models here: {', '.join(names)}" if names else f"`py-authoring new {folder.name}` makes one"
    raise NotFoundError(f"no model `{text}`: `{folder}` is not there{near}", hint=known)


def load_recipe(
    model: str | Path,
    *,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    remembered: Mapping[str, tuple[Any, str]] | None = None,
) -> ResolvedRecipe:
    """Reads, merges and checks the recipe of a model.

    Args:
        model: a name in ./models, or a path to a model's folder.
        overrides: `key=value` texts, as given to `--set`; the value is TOML, a bare word is text.
        flags: flag → value, as `{"--epochs": 3}`; None values are left out.
        remembered: dotted key → (value, source) that a resumed run was started with.

    Raises:
        NotFoundError: there is no such model.
        RecipeError: with every mistake in `problems`, as `models/x/recipe.toml:8: unknown key …`.

    Example:
        >>> resolved = load_recipe("models/mnist", overrides=["training.epochs=2"])
        >>> resolved.recipe.training.epochs, resolved.sources["training.epochs"]
        (2, '--set')
    """
    directory = find_model(model)
    file = directory / RECIPE_FILE
    text, document = _read(file)
    return _resolve(document, recipe_toml.find_lines(text), file, overrides, flags or {}, remembered or {})


def override_recipe(
    stored: ResolvedRecipe, *, overrides: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> ResolvedRecipe:
    """A recipe that a run stored, with other values given on the command line.

    Raises:
        RecipeError: as `load_recipe`.
    """
    file = stored.directory / RECIPE_FILE
    changed = _resolve(stored.to_dict(), {}, file, overrides, flags or {}, {}, stored=True)
    sources = {
        key: source if source.startswith("--") else stored.sources.get(key, "default")
        for key, source in changed.sources.items()
    }
    return ResolvedRecipe(changed.recipe, sources, stored.directory, stored.name)


def _resolve(
    document: dict[str, Any],
    lines: Mapping[tuple[str, ...], int],
    file: Path,
    overrides: Sequence[str],
    flags: Mapping[str, Any],
    remembered: Mapping[str, tuple[Any, str]],
    *,
    stored: bool = False,
) -> ResolvedRecipe:
    directory = file.parent
    origin: dict[tuple[str, ...], str] = {}
    problems: list[str] = []
    for key, (value, source) in _tags_first(remembered):
        _assign(document, tuple(key.split(".")), value, source, origin, problems)
    for override in overrides:
        key, equals, typed = override.partition("=")
        if not equals or not key.strip():
            problems.append(f"--set {override}: expected key=value, as training.epochs=3")
            continue
        value = recipe_toml.parse_value(typed.strip())
        _assign(document, tuple(key.strip().split(".")), value, "--set", origin, problems)
    for flag, value in flags.items():
        if value is not None:
            _assign(document, tuple(FLAGS[flag].split(".")), value, flag, origin, problems)
    for section, (tag, default) in TAGS.items():
        if default is not None and isinstance(document.get(section), dict):
            document[section].setdefault(tag, default)

    def place(path: tuple[str, ...]) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in origin:
                source, dotted = origin[path[:length]], ".".join(path[:length])
                return f"--set {dotted}" if source == "--set" else source
            if path[:length] in lines:
                return f"{file}:{lines[path[:length]]}"
        inside = next((source for key, source in origin.items() if key[: len(path)] == path), None)
        return f"{inside} {'.'.join(path)}" if inside is not None else str(file)

    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(document)
    except ValidationError as error:
        problems += recipe_problems.describe(error.errors(include_url=False), document, place)
    else:
        found = _contradictions(recipe)
        # a run that was trained by it may be a LightningModule's, and its recipe holds every section, given or not
        fits = {("training", "monitor")} - origin.keys() if stored else set()
        problems += [f"{place(path)}: {sentence}" for path, sentence in found if path not in fits]
    if problems or recipe is None:
        raise _wrong(file, problems)
    resolved = ResolvedRecipe(_with_absolute_paths(recipe, directory, origin), {}, directory, directory.resolve().name)
    sources = {}
    for key in flatten(resolved.to_dict()):
        where = place(tuple(key.split("."))) if _is_given(document, key) else "default"
        sources[key] = "--set" if where.startswith("--set ") else where.replace(str(file), RECIPE_FILE)
    return ResolvedRecipe(resolved.recipe, sources, directory, resolved.name)


def recipe_from_dict(values: Mapping[str, Any], directory: Path, sources: Mapping[str, str]) -> ResolvedRecipe:
    """The recipe that a run stored, as `ResolvedRecipe.to_dict` gave it.

    Raises:
        RecipeError: this version knows other keys than the one that stored it.
    """
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        problems = recipe_problems.describe(error.errors(include_url=False), values, lambda path: "stored recipe")
        raise _wrong(directory / "runs", problems) from error
    return ResolvedRecipe(recipe, dict(sources), directory, directory.resolve().name)


def flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys; an empty table stays a value.

    Example:
        >>> flatten({"a": {"b": 1, "c": {}}, "d": [2]})
        {'a.b': 1, 'a.c': {}, 'd': [2]}
    """
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _read(file: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _wrong(
            file, [f"{file}: not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"]
        ) from error
    except OSError as error:
        raise NotFoundError(f"cannot read `{file}`: {(error.strerror or str(error)).lower()}") from error
    try:
        return text, recipe_toml.parse(text)
    except recipe_toml.TOMLDecodeError as error:
        what, _, at = str(error).partition(" (at ")
        line = at.removeprefix("line ").partition(",")[0]
        where = f"{file}:{line}" if line.isdecimal() else str(file)
        raise _wrong(file, [f"{where}: not TOML: {what[:1].lower()}{what[1:]}"]) from error


def _assign(
    document: dict[str, Any],
    path: tuple[str, ...],
    value: Any,
    source: str,
    origin: dict[tuple[str, ...], str],
    problems: list[str],
) -> None:
    table = document
    for length, part in enumerate(path[:-1], 1):
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            problems.append(f"{source} {'.'.join(path)}: {'.'.join(path[:length])} is no table")
            return
        table = inner
    section = path[0]
    if len(path) == 2 and section in TAGS and path[1] == TAGS[section][0]:
        _drop_keys_of_other_variant(table, section, value, origin)
    table[path[-1]] = value
    origin[path] = source


# `--set data.kind=idx` replaces the section: what the recipe said for another kind does not apply, and is no mistake.
def _drop_keys_of_other_variant(
    table: dict[str, Any], section: str, value: Any, origin: Mapping[tuple[str, ...], str]
) -> None:
    tag, default = TAGS[section]
    variant = VARIANTS[section].get(value) if isinstance(value, str) else None
    if variant is None or table.get(tag, default) == value:
        return
    for key in list(table):
        if key not in variant.model_fields and (section, key) not in origin:
            del table[key]


def check_monitor(resolved: ResolvedRecipe) -> None:
    """Raises:
    RecipeError: `training.monitor` is none of the recipe's metrics; not for a LightningModule, which has its own.
    """
    for path, sentence in _wrong_monitor(resolved.recipe):
        key = ".".join(path)
        source = resolved.sources.get(key, "default")
        file = resolved.directory / RECIPE_FILE
        place = source.replace(RECIPE_FILE, str(file)) if source.startswith(RECIPE_FILE) else f"{source} {key}"
        raise _wrong(file, [f"{place}: {sentence}"])


def _wrong_monitor(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], str]]:
    monitors = ["loss", *(name for name in recipe.metric_names if name != "confusion_matrix"), *recipe.metric_functions]
    if recipe.training.monitor not in monitors:
        yield (
            ("training", "monitor"),
            f"training.monitor is {recipe_toml.format_value(recipe.training.monitor)}; expected {' or '.join(monitors)}"
            f"{recipe_problems.suggest(recipe.training.monitor, monitors)}",
        )


def _contradictions(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], str]]:
    valid = recipe.metric_names if recipe.metrics is not None else ()
    fitting = {"classification": CLASSIFICATION_METRICS, "regression": REGRESSION_METRICS, "other": ()}[recipe.task]
    for position, metric in enumerate(valid):
        if metric not in fitting:
            what = "metric_functions names your own" if recipe.task == "other" else f"a {recipe.task} loss"
            yield (
                ("metrics", str(position)),
                f"metrics has {metric}, which does not fit loss.name {recipe.loss.name} ({what})",
            )
    taken = ("loss", *recipe.metric_names)
    for position, name in enumerate(recipe.metric_functions):
        if name in taken or name in recipe.metric_functions[:position] or not name.isidentifier():
            why = "is no name of a function" if not name.isidentifier() else "is taken"
            yield ("metric_functions", str(position)), f"metric_functions has {name!r}, which {why}"
    if recipe.training.accumulate > recipe.training.batch_size:
        yield (
            ("training", "accumulate"),
            f"training.accumulate is {recipe.training.accumulate}, a batch has only {recipe.training.batch_size} "
            "samples (training.batch_size)",
        )
    if getattr(recipe.scheduler, "warmup", 0) and getattr(recipe.scheduler, "warmup_iterations", None):
        yield (
            ("scheduler", "warmup_iterations"),
            "scheduler.warmup and scheduler.warmup_iterations say the same in two units; expected one of them",
        )
    # without these it may be of a LightningModule, which names what it measures: then `check_monitor` comes later
    if recipe.model_fields_set & {"metrics", "metric_functions"}:
        yield from _wrong_monitor(recipe)
    data = recipe.data
    if data.kind != "none" and data.validation + data.test >= 1:
        yield (
            ("data", "test"),
            f"data.validation {data.validation} and data.test {data.test} leave nothing to train on; "
            "expected a sum below 1",
        )
    if recipe.loss.class_weights is not None and recipe.task != "classification":
        yield (
            ("loss", "class_weights"),
            f"loss.class_weights is for nll, cross_entropy and bce_with_logits, loss.name is {recipe.loss.name}",
        )
    if recipe.loss.function != "loss" and recipe.loss.name != "function":
        yield ("loss", "function"), f'loss.function is for loss.name = "function", loss.name is {recipe.loss.name}'
    if recipe.loss.label_smoothing and recipe.loss.name != "cross_entropy":
        yield (
            ("loss", "label_smoothing"),
            f"loss.label_smoothing is only for cross_entropy, loss.name is {recipe.loss.name}",
        )


# A path in a recipe is meant from the recipe's folder, one on the command line from where it was typed.
def _with_absolute_paths(recipe: Recipe, directory: Path, origin: Mapping[tuple[str, ...], str]) -> Recipe:
    sections = {}
    for name, key in (("data", "path"), ("model", "weights")):
        path = getattr(getattr(recipe, name), key, None)
        if path is not None:
            base = Path.cwd() if (name, key) in origin or (name,) in origin else directory
            whole = str((base / Path(path).expanduser()).resolve())
            sections[name] = getattr(recipe, name).model_copy(update={key: whole})
    return recipe.model_copy(update=sections)


# A section's kind goes before its other keys: choosing another kind clears the section.
def _tags_first(values: Mapping[str, tuple[Any, str]]) -> list[tuple[str, tuple[Any, str]]]:
    tags = {f"{section}.{tag}" for section, (tag, _) in TAGS.items()}
    return sorted(values.items(), key=lambda item: item[0] not in tags)


def _is_given(document: Mapping[str, Any], key: str) -> bool:
    value: Any = document
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True


def _wrong(file: Path, problems: Sequence[str]) -> RecipeError:
    hint = "docs/recipe.md lists every key; `py-authoring recipe show NAME` shows every value in force"
    if len(problems) == 1:
        return RecipeError(problems[0], hint=hint)
    return RecipeError(f"{len(problems)} mistakes in the recipe {file}", hint=hint, problems=problems)
