"""Lines of `forward` and tensors → the text of a model.py and the weights beside it.

Owns Python names: each is given out once. Knows nothing of where the lines come from.
"""

from __future__ import annotations

import importlib
import json
import keyword
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

WEIGHTS_FILE = "weights.safetensors"
EXAMPLES_FILE = "examples.safetensors"
CLASS_NAME = "Imported"
_TAKEN = {"torch", "F", "self", "Tensor", "nn", "Path", "load_file", CLASS_NAME, "example_inputs"}
#: Those that the lines use; an input may well be called `input`.
_BUILTINS = {"bool", "dict", "float", "int", "len", "list", "max", "min", "range", "str", "super", "tuple"}
_ATTRIBUTES = set(dir(torch.nn.Module()))
_WIDTH = 120


class Source:
    """A model.py that is being written.

    Attributes:
        tensors: attribute of the module → weights, trainable ones and others.

    Example:
        >>> source = Source()
        >>> x = source.name("input.1")
        >>> weight = source.tensor("fc.weight", torch.zeros(2, 3), trainable=True)
        >>> source.line(f"y = F.linear({x}, {weight})")
        >>> source.lines[0].strip()
        'y = F.linear(input_1, self.fc_weight)'
        >>> source.render("Two numbers of three.", {x: "Tensor"}, ["y"], ["Tensor"]).count(source.lines[0])
        1
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._trainable: set[str] = set()
        self._lines: list[str] = []
        self._depth = 2
        self._names = dict.fromkeys([*_TAKEN, *_BUILTINS, *keyword.kwlist], 1)
        self._attributes = dict.fromkeys([*_ATTRIBUTES, *keyword.kwlist], 1)
        self._imports: dict[tuple[str, str], str] = {}

    def name(self, wanted: str) -> str:
        """A name for a variable, as near to `wanted` as Python allows; never the same twice."""
        return _fresh(wanted, self._names)

    def line(self, text: str) -> None:
        """One statement at the present depth."""
        self._lines.append("    " * self._depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """`head` and, one deeper, what is written inside the block."""
        self.line(head)
        self._depth += 1
        before = len(self._lines)
        yield
        if len(self._lines) == before:
            self.line("pass")
        self._depth -= 1

    def use(self, function: Callable[..., Any]) -> str:
        """Imports a function of this package into model.py; its name there."""
        key = (function.__module__, function.__name__)
        if key not in self._imports:
            self._imports[key] = _fresh(function.__name__, self._names)
        return self._imports[key]

    def tensor(self, wanted: str, value: Tensor, *, trainable: bool) -> str:
        """Stores a tensor with the module; the expression that reads it."""
        name = _fresh(wanted, self._attributes)
        self.tensors[name] = value.detach().contiguous()
        if trainable:
            self._trainable.add(name)
        return f"self.{name}"

    @property
    def lines(self) -> list[str]:
        """The statements so far."""
        return list(self._lines)

    def holder(self) -> SimpleNamespace:
        """What `self` is while lines are tried: the tensors by name."""
        return SimpleNamespace(**self.tensors)

    def run(self, known: dict[str, Any]) -> dict[str, Any]:
        """Runs the lines now, with values for the names that they read; all names afterwards."""
        space = dict(known)
        for (module, name), here in self._imports.items():
            space[here] = getattr(importlib.import_module(module), name)
        space["self"] = self.holder()
        with torch.no_grad():
            exec("\n".join(line[8:] for line in self._lines), space)
        return space

    def weights(self) -> dict[str, Tensor]:
        """What goes into the weights file; memory of its own for each name."""
        return {name: value.clone() for name, value in self.tensors.items()}

    def render(self, about: str, inputs: dict[str, str], outputs: Sequence[str], kinds: Sequence[str]) -> str:
        """The text of model.py.

        Args:
            about: what this is, as a docstring.
            inputs: forward's arguments → their types.
            outputs: expressions that forward returns.
            kinds: their types.
        """
        result = ", ".join(outputs)
        returned = kinds[0] if len(kinds) == 1 else f"tuple[{', '.join(kinds)}]"
        arguments = ", ".join(["self", *(f"{name}: {kind}" for name, kind in inputs.items())])
        head = f"    def forward({arguments}) -> {returned}:"
        if len(head) > _WIDTH:
            head = "    def forward(\n        " + arguments.replace(", ", ",\n        ") + f",\n    ) -> {returned}:"
        body = [head, f'        """{_first_sentence(about)}"""', *self._lines, f"        return {result}"]
        return "\n".join([*self._top(about, body), *self._class(about, body), *_EXAMPLES.splitlines()]) + "\n"

    def _top(self, about: str, body: Sequence[str]) -> list[str]:
        text = "\n".join(body)
        top = [f'"""{about}"""', "", "from pathlib import Path", "", "import torch"]
        if re.search(r"\bF\.", text):
            top.append("import torch.nn.functional as F")
        top += ["from safetensors.torch import load_file", "from torch import Tensor, nn"]
        if self._imports:
            top.append("")
            for module in sorted({module for module, _ in self._imports}):
                every = sorted((name, here) for (place, name), here in self._imports.items() if place == module)
                names = [name if name == here else f"{name} as {here}" for name, here in every]
                line = f"from {module} import {', '.join(names)}"
                if len(line) > _WIDTH:
                    line = f"from {module} import (\n    " + ",\n    ".join(names) + ",\n)"
                top.append(line)
        return top

    def _class(self, about: str, body: Sequence[str]) -> list[str]:
        lines = ["", "", f"class {CLASS_NAME}(nn.Module):", f'    """{_first_sentence(about)}"""', ""]
        lines += ["    def __init__(self) -> None:", "        super().__init__()"]
        for name, value in self.tensors.items():
            dtype = "" if value.dtype == torch.float32 else f", dtype={value.dtype}"
            shape = str(tuple(value.shape)) if value.dim() != 1 else str(value.shape[0])
            empty = f"torch.empty({shape}{dtype})"
            if name in self._trainable:
                lines.append(f"        self.{name} = nn.Parameter({empty})")
            else:
                lines.append(f'        self.register_buffer("{name}", {empty})')
        if self.tensors:
            lines.append(f'        self.load_state_dict(load_file(Path(__file__).with_name("{WEIGHTS_FILE}")))')
        return [*lines, "", *body]


def literal(value: Any) -> str:
    """A Python number, text or list of such, as TorchScript reads it.

    Example:
        >>> literal([1, 2]), literal(float("-inf")), literal(0.5)
        ('[1, 2]', '-float("inf")', '0.5')
    """
    if isinstance(value, float):
        if math.isnan(value):
            return 'float("nan")'
        if math.isinf(value):
            return 'float("inf")' if value > 0 else '-float("inf")'
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, str):
        return json.dumps(value)  # a text of the file never ends its own quotes
    return repr(value)


_EXAMPLES = f'''

def example_inputs(batch_size: int) -> dict[str, Tensor]:
    """The inputs that the import was checked with, repeated along axis 0 where that is free."""
    found = load_file(Path(__file__).with_name("{EXAMPLES_FILE}"))
    for name in FREE:
        repeats = -(-batch_size // found[name].shape[0])
        found[name] = found[name].repeat(repeats, *[1] * (found[name].dim() - 1))[:batch_size]
    return found
'''


def _first_sentence(about: str) -> str:
    return about.split("\n")[0].split(". ")[0].rstrip(".") + "."


# Each name with the number that the last one like it got, so that many alike take no longer than others.
def _fresh(wanted: str, taken: dict[str, int]) -> str:
    name = re.sub(r"\W+", "_", wanted, flags=re.ASCII).strip("_") or "value"
    if name[0].isdigit():
        name = f"_{name}"
    stem = name
    while name in taken:
        taken[stem] += 1
        name = f"{stem}_{taken[stem]}"
    taken[name] = 1
    return name
