"""Turns what pydantic found wrong in a recipe into lines that a person can act on.

In: the list of errors, and where each key came from. Out: one line a mistake, with file, line, key, what was expected
and the nearest valid key. No torch here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from py_authoring.recipe_sections import TAGS, VARIANTS, Recipe
from py_authoring.recipe_toml import format_value

Path = tuple[str, ...]

_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "list_type": "a list in [ ]",
    "tuple_type": "a list in [ ]",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "finite_number": "a finite number",
}


def describe(errors: Iterable[Any], document: Mapping[str, Any], place: Callable[[Path], str]) -> list[str]:
    """One line for each mistake.

    Args:
        errors: pydantic's `ValidationError.errors()`.
        document: what was validated; it tells which variant of a section was chosen.
        place: where a key stands, as `recipe.toml:8`.
    """
    lines: dict[Path, str] = {}
    for error in errors:
        path = _without_tags(error["loc"], document)
        if path in lines:  # a union of types reports each of its members
            continue
        chosen_by = (TAGS[path[0]][0],) if error["type"] == "union_tag_invalid" else ()
        lines[path] = f"{place(path + chosen_by)}: {_sentence(error, path, document)}"
    return sorted(lines.values(), key=_line_order)


def keys_of(path: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """The valid keys of a section, by the names that a recipe uses, and pydantic's field for each."""
    model: type[BaseModel] | None = Recipe
    for position, part in enumerate(path):
        if model is None:
            return {}
        if position == 0 and part in VARIANTS:
            tag, default = TAGS[part]
            section = document.get(part)
            chosen = section.get(tag, default) if isinstance(section, Mapping) else default
            model = VARIANTS[part].get(chosen) if isinstance(chosen, str) else None
        else:
            model = _model_in(model.model_fields[part].annotation) if part in model.model_fields else None
    return {field.alias or name: field for name, field in model.model_fields.items()} if model is not None else {}


def suggest(word: str, words: Sequence[str]) -> str:
    """`; did you mean x?`, or nothing when no word is near.

    Example:
        >>> suggest("batchsize", ["epochs", "batch_size"])
        '; did you mean batch_size?'
    """
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _model_in(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)), None)


# pydantic puts the chosen variant into the path, as in ("data", "idx", "path"); a recipe knows only data.path.
def _without_tags(location: Sequence[int | str], document: Mapping[str, Any]) -> Path:
    path = [str(part) for part in location]
    if len(path) > 1 and path[0] in VARIANTS and path[1] in VARIANTS[path[0]]:
        del path[1]
    kept: list[str] = []
    value: Any = document
    for part in path:
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif part == path[-1] and kept and not part.isdecimal() and isinstance(value, Mapping):
            value = None  # a key that is missing
        elif kept:
            continue  # the name of a member of a union
        kept.append(part)
    return tuple(kept)


def _sentence(error: Any, path: Path, document: Mapping[str, Any]) -> str:
    kind, name, context = error["type"], ".".join(path), error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key {name}{_nearest(path, document)}"
    if kind == "missing":
        field = keys_of(path[:-1], document).get(path[-1])
        meaning = f": {field.description}" if field is not None and field.description else ""
        return f"missing key {name}{meaning}"
    if kind == "union_tag_not_found":
        tag = TAGS[path[0]][0]
        return f"missing key {name}.{tag}; expected {_either(VARIANTS[path[0]])}"
    if kind == "union_tag_invalid":
        tag, variants = TAGS[path[0]][0], list(VARIANTS[path[0]])
        got = str(context.get("tag"))
        return f"{name}.{tag} is {format_value(got)}; expected {_either(variants)}{suggest(got, variants)}"
    got = error["input"]
    shown = format_value(got) if isinstance(got, str | int | float | list | dict) else str(got)
    if kind == "literal_error":
        field = keys_of(path[:-1], document).get(path[-1])
        choices = [choice for choice in _choices(field.annotation if field else None) if isinstance(choice, str)]
        if not choices:  # an item of a list of choices
            choices = [c for c in _choices(_item_type(path, document)) if isinstance(c, str)]
        expected = _either(choices) if choices else str(context.get("expected"))
        return f"{name} is {shown}; expected {expected}{suggest(str(got), choices)}"
    expected = _EXPECTED.get(kind) or _rule(kind, error["msg"], context)
    return f"{name} is {shown}; expected {expected}"


def _rule(kind: str, message: str, context: Mapping[str, Any]) -> str:
    if kind == "string_pattern_mismatch" and "cuda" in str(context.get("pattern")):
        return "auto, cpu, cuda or cuda:N"
    for start in (
        "Input should be ",
        "Value should have ",
        "String should have ",
        "List should have ",
        "Tuple should ",
    ):
        if message.startswith(start):
            rest = message.removeprefix(start)
            return f"a number {rest}" if rest.startswith(("greater", "less")) else rest
    return message[:1].lower() + message[1:]


def _nearest(path: Path, document: Mapping[str, Any]) -> str:
    here = list(keys_of(path[:-1], document))
    candidates = {key: key for key in here}
    for section in Recipe.model_fields:
        for key in keys_of((section,), document):
            candidates.setdefault(key, f"{section}.{key}")

    def likeness(key: str) -> float:
        # a key of the same section is the likelier slip; one of another must be much nearer
        return difflib.SequenceMatcher(None, path[-1], key).ratio() + (0.15 if key in here else 0.0)

    best = max(candidates, key=likeness)
    if likeness(best) >= 0.75:
        return f"; did you mean {candidates[best]}?"
    return f"; expected {_either(here)}" if here else ""


def _choices(annotation: Any) -> list[Any]:
    arguments = list(getattr(annotation, "__args__", ()))
    nested = [choice for argument in arguments for choice in _choices(argument)]
    return [argument for argument in arguments if isinstance(argument, str)] + nested


def _item_type(path: Path, document: Mapping[str, Any]) -> Any:
    field = keys_of(path[:-2], document).get(path[-2]) if len(path) > 1 else None
    return field.annotation if field is not None else None


def _either(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _line_order(line: str) -> tuple[str, int, str]:
    place, _, rest = line.partition(": ")
    file, _, number = place.rpartition(":")
    return (file, int(number), rest) if number.isdecimal() else (place, 0, rest)
