"""A file with a contract → does it still compute what its author saw? Replays its golden examples.

TorchScript and compiled packages run in PyTorch, ONNX in ONNX Runtime.
"""

from __future__ import annotations

import platform
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from py_authoring import trusted
from py_authoring.archive_view import Archive, InvalidFileContractError, metadata_of, read_archive
from py_authoring.contract import Contract, Image
from py_authoring.device import choose_device
from py_authoring.difference import Difference, measure, worst
from py_authoring.errors import AuthoringError, DeviceError, InvalidContractError, RefusedError
from py_authoring.export import golden, picture
from py_authoring.export.parity import last_line, run
from py_authoring.export.returns import flatten_as
from py_authoring.platforms import COMPILED, TORCHSCRIPT


class ReplayError(AuthoringError, RuntimeError):
    """The model raises for one of its own golden examples, or the example contradicts itself."""

    kind = "mismatch"


@dataclass(frozen=True)
class OutputResult:
    """How one output fared, over all examples: the largest differences beside what is allowed."""

    name: str
    difference: Difference
    rtol: float
    atol: float


@dataclass(frozen=True)
class Verification:
    """The verdict on a file.

    Attributes:
        path: the file.
        name: the model's name.
        device: where it ran.
        examples: how many were replayed.
        outputs: one result each.
    """

    path: Path
    name: str
    device: str
    examples: int
    outputs: list[OutputResult] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every output of every example is within its tolerance."""
        return all(result.difference.within for result in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON; a difference that is no finite number is null."""
        return {
            "path": str(self.path),
            "name": self.name,
            "device": self.device,
            "torch": str(torch.__version__),
            "examples": self.examples,
            "ok": self.ok,
            "outputs": [
                {
                    "name": result.name,
                    "max_abs": _finite(result.difference.max_abs),
                    "max_rel": _finite(result.difference.max_rel),
                    "rtol": result.rtol,
                    "atol": result.atol,
                    "ok": result.difference.within,
                    "reason": result.difference.reason,
                }
                for result in self.outputs
            ],
            "seconds": self.seconds,
        }

    def _repr_html_(self) -> str | None:
        from py_authoring.report import notebook

        return notebook.show_verification(self)


def verify(path: Path | str | Archive, *, device: str = "cpu") -> Verification:
    """Replays the golden examples of a file.

    Args:
        path: a model file with a contract, or what `read_archive` made of one.
        device: auto, cpu, cuda or cuda:N; `cuda` never falls back.

    Raises:
        NotFoundError, InvalidModelError: no such file, or no model.
        RefusedError: a compiled package that is not trusted, or for another processor.
        InvalidFileContractError: it has no contract, a wrong one, or no golden examples.
        DeviceError: the device is not there.
        ReplayError: the model raises for an example, or its picture becomes another input than the one beside it.

    Example:
        >>> import shutil, tempfile
        >>> from py_authoring.export import export
        >>> version = export(shutil.copytree("models/some_nn_arch", tempfile.mkdtemp() + "/some_nn_arch"))
        >>> result = verify(version.path)
        >>> result.ok, result.examples, result.device
        (True, 4, 'cpu')
    """
    started = time.perf_counter()
    archive = path if isinstance(path, Archive) else read_archive(path)
    contract, examples = _examples(archive)
    # the best that there is for a file that only the CPU runs is the CPU
    where = choose_device("cpu" if device == "auto" and archive.platform != TORCHSCRIPT else device)
    call = open_model(archive, contract, where)
    seen: dict[str, list[Difference]] = {part.name: [] for part in contract.outputs}
    for number, example in enumerate(examples):
        if contract.image is not None:
            _compare_pictures(archive, contract.image, number, example)
        inputs = {name: value.to(where) for name, value in example.inputs.items()}
        try:
            outputs = call(inputs)
        except RefusedError as error:
            raise ReplayError(f"`{archive.path}`: golden example {number}: {error.message}") from error
        except Exception as error:  # the interpreter raises RuntimeError, or the author's own exception type
            raise ReplayError(
                f"`{archive.path}` fails on its golden example {number} on {where}: {last_line(error)}"
            ) from error
        for part in contract.outputs:
            difference = measure(outputs[part.name], example.outputs[part.name], part.rtol, part.atol)
            seen[part.name].append(difference)
    results = [OutputResult(part.name, worst(seen[part.name]), part.rtol, part.atol) for part in contract.outputs]
    return Verification(archive.path, contract.name, str(where), len(examples), results, time.perf_counter() - started)


def open_model(
    archive: Archive, contract: Contract, where: torch.device
) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """A model file of any kind as a function: inputs by name → outputs by name.

    Raises:
        RefusedError: a compiled package that is not trusted, or for another processor.
        DeviceError: it runs on the CPU only.
        InvalidModelError, InvalidFileContractError: it cannot be opened.
    """
    names = [part.name for part in contract.inputs]
    if archive.platform == TORCHSCRIPT:
        module = archive.load(where)

        def interpret(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return flatten_as(run(module, [name for name in names if name in inputs], inputs), contract.returns)

        return interpret
    if where.type != "cpu":
        raise DeviceError(f"`{archive.path}` runs on the CPU only here", hint="`--device cpu`")
    opened: Any
    try:
        if archive.platform == COMPILED:
            _refuse_foreign_code(archive)
            from py_authoring.export.compiled import Package

            opened = Package(archive.data)
        else:
            from py_authoring.export.onnx_file import Session

            opened = Session(archive.data)
    except AuthoringError:
        raise
    except Exception as error:  # torch and ONNX Runtime raise each their own
        raise InvalidFileContractError(f"`{archive.path}` cannot be opened: {last_line(error)}") from error

    def compute(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs = opened.run(names, inputs)
        if len(outputs) != len(contract.outputs):
            raise RefusedError(f"the model gives {len(outputs)} outputs, the contract has {len(contract.outputs)}")
        return {part.name: value for part, value in zip(contract.outputs, outputs, strict=True)}

    return compute


#: torch's word for a set of instructions → Linux' words for the parts of it; of all others they are the same.
_FLAGS = {"AVX512": {"avx512f", "avx512dq", "avx512vl", "avx512bw"}}


def _refuse_foreign_code(archive: Archive) -> None:
    if not trusted.is_trusted(archive.path, archive.data):
        places = " or ".join(f"`{file}`" for file in trusted.lists_for(archive.path))
        entry = f'[[package]]\\nsha256 = "{trusted.digest_of(archive.data)}"\\n'
        raise RefusedError(
            f"`{archive.path}` is machine code, which may do anything, and its SHA-256 is not in {places}",
            hint="if you trust who made it: "
            f"`printf '\\n{entry}' >> {shlex.quote(str(trusted.list_of(archive.path)))}`",
        )
    metadata = metadata_of(archive)
    machine, wanted = metadata.get("AOTI_MACHINE", ""), metadata.get("AOTI_CPU_ISA", "").split()
    flags = _processor_flags()
    lacks = [each for each in wanted if flags and not _FLAGS.get(each, {each.lower()}) <= flags]
    foreign = bool(machine) and machine != platform.machine()
    if foreign or lacks:
        what = f"{machine}, and this is {platform.machine()}"
        if not foreign:
            what = f"a processor with {', '.join(lacks)}, which this one does not have"
        raise RefusedError(
            f"`{archive.path}` was compiled for {what}",
            hint="`py-authoring export … --method compiled` on this machine makes one for it",
        )


def _processor_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return set()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return set(line.partition(":")[2].split())


def _compare_pictures(archive: Archive, image: Image, number: int, example: golden.Example) -> None:
    for name, data in example.pictures.items():
        shown, expected = f"`{archive.path}`: golden `{number}.raw.{name}`", example.inputs[name][:1]
        try:
            got = picture.decode(data, image, expected.dtype)
        except InvalidContractError as error:
            raise InvalidFileContractError(f"{shown}: {error.message}") from error
        if got.shape != expected.shape:
            raise ReplayError(f"{shown} becomes the shape {list(got.shape)}, its input has {list(expected.shape)}")
        if not torch.equal(got, expected):
            largest = (got.double() - expected.double()).abs().max().item()
            raise ReplayError(f"{shown} becomes another input than `{number}.input.{name}`, by up to {largest:.3g}")


def _examples(archive: Archive) -> tuple[Contract, list[golden.Example]]:
    contract = archive.contract()
    if contract is None:
        raise InvalidFileContractError(
            f"`{archive.path}` has no contract, so there is nothing to verify",
            hint=f"`py-authoring export` writes one; `py-authoring inspect {archive.path}` shows what the file holds",
        )
    if contract.golden.count == 0:
        raise InvalidFileContractError(f"`{archive.path}` has a contract without golden examples: nothing to verify")
    try:
        return contract, golden.from_bytes(archive.extra[contract.golden.file], contract)
    except InvalidContractError as error:
        raise InvalidFileContractError(f"`{archive.path}`: {error.message}") from error


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
