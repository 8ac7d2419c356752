"""What every kind of file becomes before it is written: a model.py in the making, examples, and how it is checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from py_authoring.importing.source import Source

#: The finished module → how it was checked, in a sentence; raises ParityError.
Check = Callable[[nn.Module], str]


@dataclass
class Draft:
    """A model that is about to be written.

    Attributes:
        source: the lines and weights.
        about: what it is, one sentence without a full stop.
        inputs: forward's arguments.
        outputs: expressions that forward returns.
        output_names: what the contract calls them.
        examples: forward's argument → a real input.
        free: forward's argument → axis → name of the dimension.
        check: see `Check`.
        notes: what a person should know.
    """

    source: Source
    about: str
    inputs: list[str]
    outputs: list[str]
    output_names: list[str]
    examples: dict[str, Tensor]
    free: dict[str, dict[int, str]]
    check: Check
    notes: list[str] = field(default_factory=list)

    def text(self, origin: str) -> str:
        """The text of model.py.

        Args:
            origin: where it comes from, for the file's head.
        """
        about = f"{self.about}.\n\n{origin}\n"
        leading = [name for name, axes in self.free.items() if 0 in axes]
        constants = f'IMPORTED_FROM = "{_quoted(origin)}"\nFREE = {leading!r}'.replace("'", '"')
        text = self.source.render(
            about, dict.fromkeys(self.inputs, "Tensor"), self.outputs, ["Tensor"] * len(self.outputs)
        )
        return text.replace("\n\n\nclass ", f"\n\n{constants}\n\n\nclass ", 1)


def plain_name(path: Path) -> str:
    """A file's name without what would end a docstring or a line.

    Example:
        >>> plain_name(Path("my net.onnx")), plain_name(Path("a'b.t7"))
        ('my net.onnx', 'a_b.t7')
    """
    return re.sub(r"[^\w .,:;()#+-]", "_", path.name)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
