"""Layers of a compiled model as kernels of our own, which are linked into the package (../native).

In: an exported program. Out: its graph with operators of ours that only compiled code has, and their object files.
A kernel is a module here with `LAYERS` (torch's operators that it may compute), `OPERATOR` (its name), `C_FUNCTION` (as
generated code calls it), `SOURCE` (its file in `NATIVE`) and `replace`, which puts it into a graph. One without an
operator has the names of functions that generated code takes from its host.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import fx

from py_authoring.export.kernels import attention, convolution, lstm, matmul, order

NATIVE = Path(__file__).parent.parent / "native"
#: Floats in a vector, by torch's word for the processor.
LANES = {"AVX2": 8, "AVX512": 16}
# An LSTM makes linear layers, which are convolutions; attention takes views that convolutions would make copies of.
_KERNELS: tuple[ModuleType, ...] = (lstm, attention, convolution, matmul, order)
# Of -O3, what makes copies of the tiles' code: a fifth of the time to compile, and as fast.
_WITHOUT_COPIES = ["-fno-unswitch-loops", "-fno-split-loops", "-fno-ipa-cp-clone"]


def with_own_kernels(program: Any, lanes: int) -> tuple[fx.GraphModule, list[ModuleType]] | None:
    """The program's graph with our operators in it, and their kernels; None where none is of use.

    Args:
        program: of `torch.export.export`, in evaluation mode, on the CPU.
        lanes: floats in a vector of the processor that the code is for.
    """
    targets = {node.target for node in program.graph.nodes}
    if not any(targets & kernel.LAYERS for kernel in _KERNELS):
        return None
    # in functional form: nothing is written to between a layer and what goes into it
    module = cast(fx.GraphModule, program.run_decompositions({}).module(check_guards=False))
    used = [kernel for kernel in _KERNELS if kernel.replace(module, lanes)]
    if not used:
        return None
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return module, used


def c_functions(kernels: Sequence[ModuleType]) -> dict[Any, list[str]]:
    """Operator → its C function's declaration, as torch's code generator takes them."""
    own = [kernel for kernel in kernels if kernel.OPERATOR]
    return {getattr(torch.ops.rust_host, kernel.OPERATOR).default: [kernel.C_FUNCTION] for kernel in own}


def compile_kernel(kernel: ModuleType, compiler: str, machine: str, folder: Path, one_thread: bool) -> Path:
    """A kernel as an object file for one kind of processor.

    Args:
        kernel: one of those that `with_own_kernels` named.
        compiler: path of g++.
        machine: what its `-march` takes.
        one_thread: whether the code around it has no threads either.

    Raises:
        CppCompileError: g++ cannot compile it.
    """
    return compile_source(str(kernel.SOURCE), compiler, machine, folder, ["-fopenmp"] + ["-DONE_THREAD"] * one_thread)


def compile_source(source: str, compiler: str, machine: str, folder: Path, options: Sequence[str] = ()) -> Path:
    """A file of `NATIVE` as an object file, whose functions only the library sees that it is linked into.

    Args:
        source: the file's name.
        compiler: path of g++.
        machine: what its `-march` takes.
        folder: where the object file goes.
        options: more of g++'s.

    Raises:
        CppCompileError: g++ cannot compile it.
    """
    from torch._inductor.exc import CppCompileError
    from torch.utils.cpp_extension import include_paths

    made = (folder / source).with_suffix(".o")
    includes = [f"-I{path}" for path in include_paths()]
    usual = ["-c", "-O3", "-std=c++17", "-fPIC", f"-march={machine}", "-fvisibility=hidden", "-ffunction-sections"]
    command = [compiler, *usual, *options, *_WITHOUT_COPIES, *includes, str(NATIVE / source), "-o", str(made)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise CppCompileError(command, (done.stderr or done.stdout).decode(errors="replace"))
    return made
