"""Which processors a compiled model is for: this very one, or all of a level that x86-64 has names for.

In: the recipe's `export.cpu`. Out: the vector instructions that torch's generator may use, and g++'s word for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from py_authoring.errors import UnavailableError

#: What g++ may use besides the vector instructions that the metadata name, by torch's word for a processor. Without it
#: g++ uses all that this very processor has, and nobody could tell whether another one has it too.
MACHINES = {"AVX2": "x86-64-v3", "AVX512": "x86-64-v4"}
#: Code of both levels in one package.
BOTH = "x86-64-v3+v4"


@dataclass(frozen=True)
class Processor:
    """What code is made for.

    Attributes:
        capability: torch's word: `AVX2`, `AVX512`, or what else this machine has.
        machine: what g++'s `-march` takes; None where torch chooses.
        is_this: for this very processor, with what it has beyond the level.
    """

    capability: str
    machine: str | None
    is_this: bool


def find_processors(cpu: str) -> list[Processor]:
    """What `export.cpu` means here: one kind of processor, or both levels, the lower first.

    Args:
        cpu: as in the recipe.

    Raises:
        UnavailableError: this processor lacks the instructions, and an export runs what it made.

    Example:
        >>> [processor.is_this for processor in find_processors("native")]
        [True]
    """
    return [find_processor(each, asked=cpu) for each in (sorted(MACHINES.values()) if cpu == BOTH else [cpu])]


def find_processor(cpu: str, asked: str | None = None) -> Processor:
    """What one of them means.

    Args:
        cpu: `native`, `x86-64-v3` or `x86-64-v4`.
        asked: what the user said, if it is another word.

    Raises:
        UnavailableError: this processor lacks the instructions, and an export runs what it made.
    """
    here = torch.backends.cpu.get_cpu_capability()
    if cpu == "native":
        return Processor(here, MACHINES.get(here), True)
    wanted = next(capability for capability, machine in MACHINES.items() if machine == cpu)
    if here not in MACHINES or here < wanted:  # AVX2 < AVX512
        raise UnavailableError(
            f"`--cpu {asked or cpu}` is code with {wanted}, which this processor does not have, "
            "and an export runs what it made",
            hint="export on such a processor, or with `--cpu native`",
        )
    return Processor(wanted, cpu, False)


@contextmanager
def generating_for(processor: Processor) -> Iterator[None]:
    """Lets the code generator use the level's instructions alone; its own setting chooses by width, VNNI included."""
    from torch._inductor import cpu_vec_isa

    module: Any = cpu_vec_isa
    listed = module.valid_vec_isa_list
    only = {"AVX2": cpu_vec_isa.VecAVX2, "AVX512": cpu_vec_isa.VecAVX512}
    if not processor.is_this:
        module.valid_vec_isa_list = lambda: [only[processor.capability]()]
    try:
        yield
    finally:
        module.valid_vec_isa_list = listed
