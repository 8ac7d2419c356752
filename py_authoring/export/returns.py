"""What forward returns → flat outputs by name, and the tree that says how they were nested.

In: a tensor, tuple, list or dict of such, nested at will. Out: `Returned`, the same for eager and exported results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from py_authoring.errors import RecipeError, RefusedError

_Path = tuple[int | str, ...]


@dataclass(frozen=True)
class Layout:
    """How outputs are nested, and what they are called.

    Attributes:
        names: of the outputs, in order.
        tree: the contract's `returns`.
        paths: where each output lies in what forward returns.
    """

    names: list[str]
    tree: Any
    paths: list[_Path]

    def flatten(self, returned: Any) -> dict[str, Tensor]:
        """What forward returned, by output name.

        Raises:
            RefusedError: it is nested otherwise than when the layout was made.
        """
        leaves = dict(_leaves(returned))
        if list(leaves) != self.paths:
            raise RefusedError("forward returns differently nested outputs for different inputs; a host needs one form")
        return dict(zip(self.names, leaves.values(), strict=True))


def layout_of(returned: Any, output_names: Sequence[str] | None = None) -> Layout:
    """Names the outputs: as the recipe says, else by the keys of dicts, else `output` or `output_0`, `output_1`, ….

    Raises:
        RefusedError: forward returns something that is no tensor, or nothing.
        RecipeError: `output_names` are too few, too many, or not different.

    Example:
        >>> import torch
        >>> y = torch.zeros(1)
        >>> layout_of(y).tree, layout_of((y, [y])).tree, layout_of({"a": y, "b": (y, y)}).tree
        ('output', ['output_0', ['output_1']], {'a': 'a', 'b': ['b_0', 'b_1']})
    """
    paths = [path for path, _ in _leaves(returned)]
    if not paths:
        raise RefusedError("forward returns no tensor")
    if output_names is None:
        names = _names(paths)
    else:
        names = list(output_names)
        problems = []
        if len(names) != len(paths):
            problems.append(f"export.output_names has {len(names)} names, forward returns {len(paths)} tensors")
        problems += [f"export.output_names has `{n}` {k} times" for n, k in Counter(names).items() if k > 1]
        problems += ["export.output_names has an empty name"] * ("" in names)
        if problems:
            raise RecipeError(problems[0], problems=problems[1:])
    numbered = iter(names)
    return Layout(names, _tree(returned, numbered), paths)


def flatten_as(returned: Any, tree: Any) -> dict[str, Tensor]:
    """What forward returned, by the output names in a contract's `returns`.

    Raises:
        RefusedError: it is not nested as the contract says.

    Example:
        >>> import torch
        >>> list(flatten_as((torch.ones(1), {"k": torch.zeros(2)}), ["y", {"k": "z"}]))
        ['y', 'z']
    """
    names: dict[str, Tensor] = {}
    waiting = [(returned, tree)]
    while waiting:
        value, below = waiting.pop(0)
        if isinstance(below, str) and isinstance(value, Tensor):
            names[below] = value
        elif isinstance(below, dict) and isinstance(value, Mapping) and list(value) == list(below):
            waiting[:0] = [(value[key], below[key]) for key in below]
        elif isinstance(below, list) and isinstance(value, list | tuple) and len(value) == len(below):
            waiting[:0] = zip(value, below, strict=True)
        else:
            raise RefusedError(f"forward returns {type(value).__name__} where the contract's `returns` says {below!r}")
    return names


def _leaves(returned: Any, path: _Path = ()) -> Iterator[tuple[_Path, Tensor]]:
    if isinstance(returned, Tensor):
        yield path, returned
    elif isinstance(returned, Mapping):
        for key, value in returned.items():
            if not isinstance(key, str):
                raise RefusedError(f"forward returns a dict with the key {key!r}; only texts can be keys")
            yield from _leaves(value, (*path, key))
    elif isinstance(returned, list | tuple):
        for position, value in enumerate(returned):
            yield from _leaves(value, (*path, position))
    else:
        place = "".join(f"[{part!r}]" for part in path)
        raise RefusedError(
            f"forward returns {type(returned).__name__}{f' at {place}' if place else ''}, "
            "where only tensors, and tuples, lists and dicts of them, can be outputs"
        )


def _names(paths: Sequence[_Path]) -> list[str]:
    if paths == [()]:
        return ["output"]
    names = []
    for number, path in enumerate(paths):
        named = bool(path) and isinstance(path[0], str)
        names.append("_".join(str(part) for part in path) if named else f"output_{number}")
    if len(set(names)) == len(names) and "" not in names:
        return names
    return [f"output_{number}" for number in range(len(paths))]


def _tree(returned: Any, names: Iterator[str]) -> Any:
    if isinstance(returned, Mapping):
        return {key: _tree(value, names) for key, value in returned.items()}
    if isinstance(returned, list | tuple):
        return [_tree(value, names) for value in returned]
    return next(names)
