"""Eager model → machine code: `torch.export`, AOTInductor, and the package `model.pt2` around the shared library.

In: the model, real inputs, contract and golden examples. Out: the bytes of a package, and what runs them. The library
is linked to no libtorch: any host that has the functions it leaves undefined can open it.
"""

from __future__ import annotations

import ctypes
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor.exc import CppCompileError

from py_authoring.contract import CONTRACT_FILE, GOLDEN_FILE, Contract
from py_authoring.errors import AuthoringError, UnavailableError, WriteError
from py_authoring.export import checked_loops, elf, in_place, kernels, linking, program
from py_authoring.export.cases import Cases
from py_authoring.export.operators import Need, needs_of, watch_operators
from py_authoring.export.processors import Processor, find_processor, find_processors, generating_for
from py_authoring.export.program import Limits
from py_authoring.export.samples import Sampler
from py_authoring.export.silence import silence
from py_authoring.tools import find_compiler

#: Without an operator of its own for it the code generator calls the host's: then the package needs libtorch.
_OPTIONS: dict[str, Any] = {
    "freezing": True,
    "max_autotune": True,
    "max_autotune_gemm_backends": "CPP,ATEN",
    "aot_inductor.package": True,
    "aot_inductor.link_libtorch": False,
    # or the probe for vector instructions, built without libtorch as well, fails, and the code is scalar
    "cpp.vec_isa_ok": True,
    # precompiled headers go into the common cache, 280 MB for each folder that an export worked in
    "aot_inductor.precompile_headers": False,
    "cpp_cache_precompile_headers": False,
    # debugging tables make the library five times as large and hold this machine's paths
    "aot_inductor.enable_line_tables": False,
    "aot_inductor.enable_frame_pointer": False,
}
#: The host says how many threads there are: a number written into the code would be this machine's.
_MANY_THREADS: dict[str, Any] = {"cpp.dynamic_threads": True}
#: Code without threads: asking for them takes a microsecond, which is half of a call of a tiny network.
_ONE_THREAD: dict[str, Any] = {"cpp.dynamic_threads": False, "cpp.threads": 1}
#: A call of fewer floating-point operations ends before a second thread has begun.
_FEW_OPERATIONS = 2_000_000
#: What g++ says is wrong, without the place in a file that is gone by now.
_COMPLAINT = re.compile(r"(?m)\b(?:fatal )?error: .+$|cannot find .+$|undefined reference .+$")
#: Beside `model`, the name that torch loads: the same for a processor that has more.
BETTER = "x86-64-v4"
#: What torch does not need in order to load the package. It needs the library, its metadata, and for operators without
#: a C function of their own a list of them.
_SOURCES = (".cpp", ".h", ".o", ".kernel_metadata.json", "_flags.json")


@dataclass(frozen=True)
class Library:
    """What the compiler made.

    Attributes:
        codes: for each kind of processor its name in the package, and name → content of its files: the shared library
            and what torch wants to know about it. `model`, which torch loads, comes first and runs on most processors.
        limits: sizes that the code was made for.
        needs: what it asks of its host that only libtorch has.
        notes: what a person should know.
    """

    codes: dict[str, dict[str, bytes]]
    limits: Limits
    needs: list[Need]
    notes: list[str]


def compile_model(
    model: nn.Module,
    sampler: Sampler,
    cases: Cases,
    batch_sizes: Sequence[int],
    debug: bool = False,
    cpu: str = "native",
) -> Library:
    """Compiles a model in evaluation mode for the processors of `export.cpu`; drops the cases that it is not for.

    Raises:
        UnavailableError: no C++ compiler, one that fails, or none that knows the processor's vector instructions; or
            this processor lacks what the code would be for.
        WriteError: the temporary folder is full, or not writable.
        RefusedError: the model has control flow, a fixed size, or something that the compiler does not know.
    """
    compiler = find_compiler()
    processors = find_processors(cpu)
    inputs, free = program.recording_inputs(sampler, cases, batch_sizes)
    with program.watch_sizes() as seen, program.lstms_of_any_length(), silence(not debug), torch.no_grad():
        try:
            exported = torch.export.export(
                model, (), kwargs=dict(inputs), dynamic_shapes=program.dynamic_shapes(sampler, free)
            )
            program.refuse_writes(exported)
            limits = program.limits_of(exported, sampler, free, seen)
            notes = program.keep_within(cases, limits, sampler.batch, batch_sizes, seen)
        except AuthoringError:
            raise
        except Exception as error:  # torch raises a dozen kinds, and whatever forward raises
            raise program.refused(error, seen, "a compiled model") from error
        codes: dict[str, dict[str, bytes]] = {}
        try:
            with watch_operators() as places:
                for processor, name in zip(processors, ["model", BETTER], strict=False):
                    codes[name] = compile_program(exported, inputs, compiler, processor)
        except Exception as error:  # the code generator, the autotuner and g++ raise each their own
            raise _of_this_machine(error, compiler) or program.refused(error, seen, "a compiled model") from error
    isas = [_isa_of(files, compiler) for files in codes.values()]
    needs = list(dict.fromkeys(need for files in codes.values() for need in needs_of(files, places)))
    glibc = max(elf.needed_glibc(_library_of(files) or b"") for files in codes.values())
    notes += _said(isas, needs, glibc)
    return Library(codes, limits, needs, notes)


def _library_of(files: Mapping[str, bytes]) -> bytes | None:
    return next((data for name, data in files.items() if name.endswith(".so")), None)


# The vector instructions that the code uses.
def _isa_of(files: Mapping[str, bytes], compiler: str) -> str:
    metadata = next((data for name, data in files.items() if name.endswith("_metadata.json")), None)
    if metadata is None or _library_of(files) is None:
        raise UnavailableError(
            f"torch {torch.__version__} compiled no library with metadata that this export knows",
            hint="take the torch that this project names; `--method script` needs no compiler",
        )
    isa = str(json.loads(metadata).get("AOTI_CPU_ISA", ""))
    if isa in ("", "INVALID_VEC_ISA"):
        raise UnavailableError(
            f"`{compiler}` made scalar code only: it does not know this processor's vector instructions",
            hint="take a newer g++: `CXX=g++-13 py-authoring export …`",
        )
    return isa


def to_bytes(library: Library, contract: Contract, golden: bytes) -> bytes:
    """The package with its extra files, as torch's own writer makes it."""
    from torch.export.pt2_archive import PT2ArchiveWriter
    from torch.export.pt2_archive.constants import AOTINDUCTOR_DIR, EXTRA_DIR

    buffer = io.BytesIO()
    with PT2ArchiveWriter(buffer) as writer:
        for code, files in library.codes.items():
            for name, data in files.items():
                writer.write_bytes(f"{AOTINDUCTOR_DIR}{code}/{name}", data)
        writer.write_bytes(f"{EXTRA_DIR}{CONTRACT_FILE}", contract.to_json().encode())
        writer.write_bytes(f"{EXTRA_DIR}{GOLDEN_FILE}", golden)
    return buffer.getvalue()


class Package:
    """A package that torch has opened: machine code of whoever made it.

    Args:
        data: the whole file.
        code: which of its codes, one of `Library.codes`.

    Raises:
        WriteError: the temporary folder is full, or not writable.
    """

    def __init__(self, data: bytes, code: str = "model") -> None:
        _share_libtorch()
        # torch opens a package by its path only, and has read all of it when this returns
        try:
            with tempfile.NamedTemporaryFile(suffix=".pt2") as file, silence():
                file.write(data)
                file.flush()
                # aoti_load_package without its wish to read every extra file as text: the golden examples are none
                self._loader: Any = torch._C._aoti.AOTIModelPackageLoader(file.name, code, False, 1, -1)
        except OSError as error:
            raise _no_room(error.strerror or str(error)) from error

    def run(self, names: Sequence[str], inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """One call, as every host makes it: tensors in, in the contract's order; the outputs' leaves out."""
        outputs: list[Tensor] = self._loader.run([inputs[name].clone() for name in names])
        return outputs


def compile_program(
    exported: Any, inputs: Mapping[str, Tensor], compiler: str, processor: Processor | None = None
) -> dict[str, bytes]:
    """An exported program as machine code: name → content of the library and its metadata.

    Args:
        exported: of `torch.export.export`, in whose free sizes the code is free.
        inputs: argument → what to choose the fastest kernels with.
        compiler: path of g++.
        processor: what the code is for; default: this one.

    Raises:
        Exception: what the code generator, the autotuner and g++ raise, each their own.
    """
    from torch._inductor.utils import fresh_cache

    _share_libtorch()
    processor = processor or find_processor("native")
    threads = torch.get_num_threads()
    # a cache of its own: what an earlier compile left in the common one, a failed probe say, would decide here
    with tempfile.TemporaryDirectory(prefix="py-authoring-") as folder, fresh_cache(dir=folder, delete=False):
        try:
            torch.set_num_threads(1)  # threads that wait for one another on a busy machine decide nothing
            module = exported.module(check_guards=False)
            small = _is_small(module, inputs)
            options: dict[str, Any] = _ONE_THREAD if small else _MANY_THREADS
            objects: list[Path] = []
            if machine := processor.machine:
                options = options | {"cpp.march": machine}
                objects += [
                    kernels.compile_source(source, compiler, machine, Path(folder), added)
                    for source, added in linking.SOURCES.items()
                ]
                if own := kernels.with_own_kernels(exported, kernels.LANES[processor.capability]):
                    module, used = own
                    objects += [
                        kernels.compile_kernel(kernel, compiler, machine, Path(folder), small) for kernel in used
                    ]
                    options = options | {"aot_inductor.custom_ops_to_c_shims": kernels.c_functions(used)}
            wrapped = linking.wrapped(compiler, Path(folder), objects, in_place.header_in_place(Path(folder)))
            options = _OPTIONS | options | {"cpp.cxx": (None, str(wrapped))}
            with _generated_products(), checked_loops.on_one_thread(), generating_for(processor):
                made: Any = torch._inductor.aot_compile(module, (), dict(inputs), options=options)
        finally:
            torch.set_num_threads(threads)
        files = [Path(str(file)) for file in made if not str(file).endswith(_SOURCES)]
        return {file.name: file.read_bytes() for file in files}


# A host without libtorch has no matrix product, and on a busy machine the autotuner's choice between libtorch's and the
# generated one is a matter of chance. In float32 the generated one is taken wherever there is one.
@contextmanager
def _generated_products() -> Iterator[None]:
    from torch._inductor.select_algorithm import (
        ExternKernelCaller,
        add_preprocessing_fn,
        clear_preprocessing_fns,
    )

    def without_host(choices: list[Any]) -> list[Any]:
        generated = [choice for choice in choices if not isinstance(choice, ExternKernelCaller)]
        return generated if generated and generated[0].layout.dtype == torch.float32 else choices

    add_preprocessing_fn(without_host)
    try:
        yield
    finally:
        clear_preprocessing_fns()


def _is_small(module: Any, inputs: Mapping[str, Tensor]) -> bool:
    from torch.utils.flop_counter import FlopCounterMode

    lstm: Any = torch.ops.aten.mkldnn_rnn_layer
    with FlopCounterMode(display=False, custom_mapping={lstm: _operations_of_lstm}) as counter:
        module(**inputs)
    # none at all: operators that are not counted, of which nothing is known
    operations: int = counter.get_total_flops()
    return 0 < operations <= _FEW_OPERATIONS


# torch counts nothing there.
def _operations_of_lstm(x: Sequence[int], share: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    steps, rows, _size = x
    return 2 * steps * rows * (math.prod(share) + math.prod(weight))


# A full disk or a broken g++ is no fault of the model's. torch wraps what was raised, at times in a text.
def _of_this_machine(error: Exception, compiler: str) -> AuthoringError | None:
    cause = getattr(error, "inner_exception", error)
    if isinstance(cause, OSError):
        return _no_room(cause.strerror or str(cause))
    if not isinstance(cause, CppCompileError):
        return None
    output = cause.output if isinstance(cause.output, str) else str(cause)  # torch keeps bytes as they came
    if "No space left on device" in output:
        return _no_room("No space left on device")
    found = _COMPLAINT.search(output) or re.search(r"(?m)\S.*$", output)
    return UnavailableError(
        f"`{compiler}` cannot compile what torch made of the model: {found[0].strip() if found else 'it says nothing'}",
        hint="take another g++: `CXX=g++-13 py-authoring export …`; `--debug` shows the whole text",
    )


def _no_room(reason: str) -> WriteError:
    folder = tempfile.tempdir or os.environ.get("TMPDIR") or "/tmp"
    return WriteError(
        f"cannot write in the temporary folder `{folder}`: {reason[:1].lower()}{reason[1:]}",
        hint="free it, or name another one: `TMPDIR=FOLDER py-authoring …`",
    )


_shared: list[ctypes.CDLL] = []


# The library leaves libtorch's functions undefined, and Python loads libtorch for itself alone.
def _share_libtorch() -> None:
    if not _shared:
        path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
        _shared.append(ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL))


def _said(isas: Sequence[str], needs: Sequence[Need], glibc: tuple[int, int]) -> list[str]:
    built = f"compiled for {' and for '.join(isas)}: other processors need an export of their own"
    runs = f"needs libtorch for {', '.join(map(str, needs))}" if needs else "runs without libtorch"
    newer = f"needs glibc {glibc[0]}.{glibc[1]}, which systems from before this one may lack"
    return [f"{built}; {runs}"] + [newer] * (glibc > linking.OLDEST_GLIBC)
