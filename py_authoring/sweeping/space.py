"""Which keys a sweep varies, and between which values: the few forms, and their check against the recipe's schema.

In: `KEY=FORM` texts of the command line, `sweep.toml` of a model. Out: one `Dimension` a key, or one `SpaceError` with
all mistakes. No torch here.

| form | values |
|---|---|
| `[16, 32, 64]` | these |
| `uniform(0, 0.5)` | numbers, each part of the range as often |
| `log(1e-5, 1e-1)` | numbers, each power of ten as often |
| `int(2, 8)` | whole numbers, both ends too |
| `logint(16, 1024)` | whole numbers, each doubling as often |
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from py_authoring import recipe_toml
from py_authoring.errors import RecipeError, UsageError
from py_authoring.recipe import ResolvedRecipe, flatten, load_recipe
from py_authoring.recipe_problems import suggest
from py_authoring.runs import LOWER_IS_BETTER

SPACE_FILE = "sweep.toml"
Kind = Literal["choices", "uniform", "log", "int", "logint"]
_RANGES: tuple[Kind, ...] = ("uniform", "log", "int", "logint")
_RANGE = re.compile(r"^\s*(\w+)\s*\(([^(),]*),([^(),]*)\)\s*$")
FORMS = "[a, b, …], uniform(a, b), log(a, b), int(a, b) or logint(a, b)"

#: Keys that decide what a trial is measured by: with other values of them the figures of two trials say nothing.
_MEASURE = {"training.monitor", "metrics"} | {
    f"data.{key}"
    for key in (
        *("kind", "path", "function", "target", "task", "validation", "test"),
        *("split_seed", "split_by", "split_column", "split_key"),
    )
}


class SpaceError(UsageError):
    """What a sweep was asked to vary is wrong; all mistakes are in `problems`."""


@dataclass(frozen=True)
class Dimension:
    """One key and its values.

    Attributes:
        key: the recipe's, as `optimizer.lr`.
        kind: the form.
        choices: of a list.
        low: of a range; both ends belong to it.
        high: of a range.
    """

    key: str
    kind: Kind
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0

    @property
    def form(self) -> str:
        """As it is typed: `log(1e-05, 0.1)`."""
        if self.kind == "choices":
            return recipe_toml.format_value(self.choices)
        return f"{self.kind}({self.low!r}, {self.high!r})"

    def values(self) -> Sequence[Any] | None:
        """All values, where they can be counted."""
        if self.kind == "int":
            return range(int(self.low), int(self.high) + 1)
        return self.choices or None

    @property
    def count(self) -> int:
        """How many values there are; 0 where they cannot be counted."""
        return int(self.high) - int(self.low) + 1 if self.kind == "int" else len(self.choices)

    def ends(self) -> tuple[Any, ...]:
        """The values that tell whether a recipe takes all others."""
        return self.choices or (self.low, self.high)

    def draw(self, source: random.Random) -> Any:
        """A value at random."""
        if self.kind == "choices":
            return source.choice(self.choices)
        if self.kind == "uniform":
            return source.uniform(self.low, self.high)
        if self.kind == "int":
            return source.randint(int(self.low), int(self.high))
        # half a step beyond both ends, or these would come half as often as their neighbours
        margin = 0.5 if self.kind == "logint" else 0.0
        drawn = math.exp(source.uniform(math.log(self.low - margin), math.log(self.high + margin)))
        inside = min(max(drawn, self.low), self.high)
        return round(inside) if self.kind == "logint" else inside


def parse_form(key: str, form: Any) -> Dimension:
    """A key and its form, as text or as a list that TOML has read.

    Raises:
        ValueError: what is wrong with the form, after the key's name.

    Example:
        >>> parse_form("optimizer.lr", "log(1e-4, 1e-1)")
        Dimension(key='optimizer.lr', kind='log', choices=(), low=0.0001, high=0.1)
        >>> parse_form("optimizer.name", "[sgd, adam]").choices
        ('sgd', 'adam')
    """
    if isinstance(form, list):
        return _of_list(key, form)
    text = form.strip() if isinstance(form, str) else ""
    if text.startswith("[") and text.endswith("]"):
        read = recipe_toml.parse_value(text)
        # a shell takes the quotes of ["sgd", "adam"] away
        words = [word.strip() for word in text[1:-1].split(",") if word.strip()]
        if not isinstance(read, list) and any(set(word) & set("\"'[]{}") for word in words):
            raise ValueError(f'`{text}` is no list; expected each text in quotes, ["a", "b"], or none, [a, b]')
        return _of_list(key, read if isinstance(read, list) else [recipe_toml.parse_value(word) for word in words])
    match = _RANGE.match(text)
    if match is None:
        shown = text or recipe_toml.format_value(form)
        raise ValueError(f"`{shown}` is no form of values; expected {FORMS}")
    kind = next((each for each in _RANGES if each == match[1]), None)
    if kind is None:
        raise ValueError(f"`{match[1]}` is no form of values; expected {FORMS}{suggest(match[1], _RANGES)}")
    low, high = (_number(kind, end.strip()) for end in (match[2], match[3]))
    if low >= high:
        raise ValueError(f"`{text}` goes from {low} to {high}; expected the smaller end first")
    if kind in ("log", "logint") and low <= 0:
        raise ValueError(f"`{text}` begins at {low}; a range over powers begins above 0")
    return Dimension(key, kind, low=low, high=high)


def read_space(directory: Path, vary: Sequence[str]) -> tuple[list[Dimension], list[str]]:
    """The dimensions of a sweep: those of the model's sweep.toml, and over them those of the command line.

    Args:
        directory: the model's folder.
        vary: `KEY=FORM` texts.

    Returns:
        The dimensions that can be read, and a line for each mistake in the others; `check_space` takes both.

    Raises:
        SpaceError: there is nothing to vary.
    """
    problems: list[str] = []
    given: dict[str, tuple[Any, str]] = {}
    file = directory / SPACE_FILE
    for key, form in _read_file(file, problems).items():
        given[key] = (form, f"{file}: {key}")
    for text in vary:
        key, equals, form = text.partition("=")
        key = key.strip()
        if not equals or not key:
            problems.append(f"--vary {text}: expected KEY=FORM, as optimizer.lr=log(1e-4, 1e-1)")
        elif given.get(key, ("", ""))[1].startswith("--vary"):
            problems.append(f"--vary {key}: given twice")
        else:
            given[key] = (form, f"--vary {key}")
    dimensions = []
    for key, (form, place) in given.items():
        try:
            dimensions.append(parse_form(key, form))
        except ValueError as error:
            problems.append(f"{place}: {error}")
    if not dimensions and not problems:
        raise SpaceError(
            f"nothing to vary: no `--vary`, and no `{file}`",
            hint=f"`--vary 'optimizer.lr=log(1e-4, 1e-1)'`; forms: {FORMS}",
        )
    return dimensions, problems


def check_space(
    model: str | Path, dimensions: Sequence[Dimension], overrides: Sequence[str], mistakes: Sequence[str] = ()
) -> ResolvedRecipe:
    """Whether the recipe takes every value, before anything is trained.

    Args:
        model: a name in ./models, or a path to a model's folder.
        dimensions: what is varied.
        overrides: `key=value` texts that hold in every trial.
        mistakes: those that `read_space` found.

    Returns:
        The recipe without the varied values.

    Raises:
        RecipeError: the recipe itself is wrong.
        SpaceError: with every mistake.
    """
    base = load_recipe(model, overrides=overrides)
    problems: dict[str, None] = dict.fromkeys(mistakes)
    fixed = {text.partition("=")[0].strip() for text in overrides}
    for dimension in dimensions:
        reason = _cannot_vary(dimension.key, base.recipe.training.monitor, fixed)
        if reason is not None:
            problems[f"--vary {dimension.key}: {reason}"] = None
    first = {dimension.key: dimension.ends()[0] for dimension in dimensions}
    for dimension in dimensions:
        for value in dimension.ends():
            try:
                load_recipe(model, overrides=[*overrides, *as_overrides({**first, dimension.key: value})])
            except RecipeError as error:
                for problem in error.problems or [error.message]:
                    problems[problem.replace("--set ", "--vary ", 1)] = None
    if problems:
        raise _wrong(list(problems))
    return base


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Values as `--set` takes them.

    Example:
        >>> as_overrides({"optimizer.lr": 0.01, "optimizer.name": "sgd"})
        ['optimizer.lr=0.01', 'optimizer.name="sgd"']
    """
    return [f"{key}={recipe_toml.format_value(value)}" for key, value in values.items()]


def _wrong(problems: Sequence[str]) -> SpaceError:
    hint = "docs/sweep.md shows every form; docs/recipe.md lists every key"
    if len(problems) == 1:
        return SpaceError(problems[0], hint=hint)
    return SpaceError(f"{len(problems)} mistakes in what is to be varied", hint=hint, problems=problems)


def _of_list(key: str, values: list[Any]) -> Dimension:
    if len(values) < 2:
        raise ValueError(f"has {len(values)} value{'' if len(values) == 1 else 's'}; expected two or more in [ ]")
    shown = [recipe_toml.format_value(value) for value in values]
    twice = next((text for text in shown if shown.count(text) > 1), None)
    if twice is not None:
        raise ValueError(f"has {twice} twice")
    other = next((text for value, text in zip(values, shown, strict=True) if not _is_plain(value)), None)
    if other is not None:
        raise ValueError(f"has {other}; expected texts, finite numbers, true or false, lists and tables of these")
    return Dimension(key, "choices", tuple(values))


# As the record can hold it: JSON knows no dates, and no numbers that are not finite.
def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _number(kind: Kind, text: str) -> float:
    try:
        number = int(text) if kind in ("int", "logint") else float(text)
    except ValueError:
        expected = "a whole number" if kind in ("int", "logint") else "a number"
        raise ValueError(f"`{text}` is no end of {kind}(a, b); expected {expected}") from None
    if not math.isfinite(number):
        raise ValueError(f"`{text}` is no end of {kind}(a, b); expected a finite number")
    return number


def _read_file(file: Path, problems: list[str]) -> dict[str, Any]:
    try:
        document = recipe_toml.parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{file}: cannot be read: {getattr(error, 'strerror', None) or 'it is no UTF-8'}")
        return {}
    except recipe_toml.TOMLDecodeError as error:
        problems.append(f"{file}: not TOML: {error}")
        return {}
    for key in document:
        if key != "vary":
            problems.append(f"{file}: unknown key {key}; expected one table [vary]{suggest(key, ['vary'])}")
    table = document.get("vary", {})
    if not isinstance(table, dict):
        problems.append(f"{file}: vary is {recipe_toml.format_value(table)}; expected a table of keys and forms")
        return {}
    return flatten(table)


def _cannot_vary(key: str, monitor: str, fixed: set[str]) -> str | None:
    if key in fixed:
        return "given by --set too"
    if key.partition(".")[0] == "export":
        return "changes no training"
    if key in _MEASURE or any(measure.startswith(f"{key}.") for measure in _MEASURE):
        return "decides what trials are measured by, so theirs could not be compared"
    if key.partition(".")[0] == "loss" and monitor == "loss":
        others = ", ".join(name for name in ("accuracy", "f1", "r2", *LOWER_IS_BETTER[1:]))
        return f"changes the loss, and training.monitor is loss; set training.monitor to another metric: {others}"
    return None
