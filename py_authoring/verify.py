"""A file with a contract → does it still compute what its author saw? Replays its golden examples in PyTorch."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from py_authoring.archive_view import Archive, InvalidFileContractError, read_archive
from py_authoring.contract import Contract, Image
from py_authoring.device import choose_device
from py_authoring.difference import Difference, measure, worst
from py_authoring.errors import AuthoringError, InvalidContractError, RefusedError
from py_authoring.export import golden, picture
from py_authoring.export.parity import last_line, run
from py_authoring.export.returns import flatten_as


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


def verify(path: Path | str | Archive, *, device: str = "cpu") -> Verification:
    """Replays the golden examples of a file.

    Args:
        path: a model.pt with a contract, or what `read_archive` made of one.
        device: auto, cpu, cuda or cuda:N; `cuda` never falls back.

    Raises:
        NotFoundError, InvalidModelError: no such file, or no TorchScript archive.
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
    where = choose_device(device)
    module = archive.load(where)
    names = [part.name for part in contract.inputs]
    seen: dict[str, list[Difference]] = {part.name: [] for part in contract.outputs}
    for number, example in enumerate(examples):
        if contract.image is not None:
            _compare_pictures(archive, contract.image, number, example)
        inputs = {name: value.to(where) for name, value in example.inputs.items()}
        try:
            returned = run(module, [name for name in names if name in inputs], inputs)
            outputs = flatten_as(returned, contract.returns)
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
