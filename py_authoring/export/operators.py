"""What a compiled model asks of its host that only libtorch has: which operators, and the author's line for each.

In: the code generator at work, then the files that it made. Out: a list of needs; an empty one runs anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from py_authoring.errors import RefusedError
from py_authoring.export import elf
from py_authoring.export.graph import Place
from py_authoring.export.program import place_of_text

#: Operators without a C function of their own go through one for all of them, which takes their names from a list.
_BY_NAME = "proxy_executor_"


@dataclass(frozen=True)
class Need:
    """An operator that the host must have.

    Attributes:
        name: as libtorch calls it: `mkldnn_rnn_layer`.
        place: the line that it comes from, where torch knows one.
    """

    name: str
    place: Place | None = None

    def __str__(self) -> str:
        return f"`{self.name}`" + (f" at {self.place}" if self.place else "")


@contextmanager
def watch_operators() -> Iterator[dict[str, Place]]:
    """Notes the author's line of every operator that the code generator leaves to the host, by its name.

    torch knows it while it generates the call, and drops it.
    """
    from torch._inductor import ir

    seen: dict[str, Place] = {}
    kernel: Any = ir.ExternKernel
    comment = kernel.codegen_comment

    def note(self: Any, *arguments: Any, **named: Any) -> None:
        place = next(filter(None, map(place_of_text, self.get_stack_traces())), None)
        if place is not None:
            for name in (self.try_get_kernel_name(), getattr(self.op_overload, "_name", None)):
                if name:
                    seen.setdefault(_plain(str(name)), place)
        comment(self, *arguments, **named)

    kernel.codegen_comment = note
    try:
        yield seen
    finally:
        kernel.codegen_comment = comment


def needs_of(files: Mapping[str, bytes], places: Mapping[str, Place]) -> list[Need]:
    """The operators that the host must have, by what the library leaves undefined.

    Args:
        files: name → content, as the compiler made them: the library, and a list of what it calls by name.
        places: of `watch_operators`.

    Raises:
        UnreadableLibraryError: the library cannot be read.
    """
    names: list[str] = []
    for file, data in files.items():
        if file.endswith(".so"):
            asked = elf.host_operators(elf.undefined_symbols(data))
            by_name = _called_by_name(files) if any(name.startswith(_BY_NAME) for name in asked) else []
            names += [name for name in asked if not (by_name and name.startswith(_BY_NAME))] + by_name
    return [Need(name, places.get(name)) for name in dict.fromkeys(names)]


def refuse_needs(needs: Sequence[Need]) -> None:
    """Raises:
    RefusedError: there is one, and so the model does not run without libtorch.
    """
    if needs:
        raise RefusedError(
            f"the compiled model needs libtorch for {', '.join(map(str, needs))}, and export.without_libtorch is true",
            hint="write that line with other operators, or export with `--set export.without_libtorch=false`",
        )


def _called_by_name(files: Mapping[str, bytes]) -> list[str]:
    lists = [json.loads(data) for name, data in files.items() if name.endswith(".json") and "_metadata" not in name]
    nodes = [node for each in lists if isinstance(each, dict) for node in each.get("nodes", [])]
    return [_plain(str(node["node"]["target"])) for node in nodes]


# `at::addmm_out`, `aoti_torch_cpu_addmm_out`, `torch.ops.aten.addmm.out` and `aten::addmm.out` are one.
def _plain(name: str) -> str:
    last = name.rpartition("::")[2].removeprefix("torch.ops.aten.").removeprefix("aoti_torch_cpu_")
    return last.removesuffix(".default").replace(".", "_")
