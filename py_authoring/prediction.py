"""An exported model and inputs as a user has them → outputs, with the numbers and in the form of `rust-host run`.

In: a model's name or file; words, as `image=7.png`. Out: `Prediction`, which prints itself as the host does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from py_authoring.archive_view import InvalidFileContractError, read_archive
from py_authoring.contract import Activation, Contract, Output
from py_authoring.device import choose_device
from py_authoring.errors import AuthoringError, NotFoundError, UsageError
from py_authoring.export.archive import versions
from py_authoring.export.golden import DATATYPES
from py_authoring.export.parity import last_line
from py_authoring.platforms import MODEL_FILES, TORCHSCRIPT
from py_authoring.recipe import find_model
from py_authoring.verify import open_model


class FailedCallError(AuthoringError, RuntimeError):
    """The model raised for inputs that fit its contract."""

    kind = "failed"


@dataclass(frozen=True)
class Predictor:
    """A model file that is open.

    Attributes:
        path: the file.
        contract: what it says of itself.
        device: where it runs.
    """

    path: Path
    contract: Contract
    device: torch.device
    _call: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = field(repr=False)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Runs the model once, on inputs that `check` let through.

        Returns:
            Outputs by name, on the CPU.

        Raises:
            FailedCallError: the model raised.
        """
        moved = {name: value.to(self.device) for name, value in inputs.items()}
        try:
            return {name: value.cpu() for name, value in self._call(moved).items()}
        except AuthoringError:
            raise
        except Exception as error:  # the interpreter raises RuntimeError, or the author's own exception type
            raise FailedCallError(f"model `{self.contract.name}` failed: {last_line(error)}") from error

    def check(self, inputs: Mapping[str, Tensor]) -> None:
        """Raises `UsageError` for an input that is missing, or whose datatype or shape is not the contract's."""
        takes = ", ".join(f"`{part.name}`" for part in self.contract.inputs)
        sizes: dict[str, tuple[int, str]] = {}
        for part in self.contract.inputs:
            value = inputs.get(part.name)
            if value is None:
                if part.optional:
                    continue
                raise UsageError(f"missing input `{part.name}`, the model takes {takes}")
            datatype = DATATYPES.get(value.dtype)
            name = self.contract.name
            if datatype != part.datatype:
                raise UsageError(f"input `{part.name}` is {datatype}, model `{name}` expects {part.datatype}")
            fits = value.dim() == len(part.dims) and all(
                not isinstance(dim, int) or size == dim for size, dim in zip(value.shape, part.dims, strict=True)
            )
            if not fits:
                dims = ", ".join(str(dim) for dim in part.dims)
                raise UsageError(f"input `{part.name}` has shape {list(value.shape)}, model `{name}` expects [{dims}]")
            for size, dim in zip(value.shape, part.dims, strict=True):
                first, where = sizes.setdefault(str(dim), (size, part.name))
                if not isinstance(dim, int) and first != size:
                    raise UsageError(
                        f"`{dim}` is {size} in input `{part.name}` and {first} in input `{where}`, they must be equal"
                    )
        for dim, (size, _) in sizes.items():
            bounds = self.contract.dims.get(dim)
            if bounds is not None and (size < (bounds.min or 0) or (bounds.max is not None and size > bounds.max)):
                most = "" if bounds.max is None else f" and at most {bounds.max}"
                raise UsageError(f"dimension `{dim}` is {size}, expected at least {bounds.min or 0}{most}")


@dataclass(frozen=True)
class Prediction:
    """What a model said.

    Attributes:
        model: its name.
        device: where it ran.
        outputs: name → array.
        likely: output with labels → for each row of the batch the labels with their probabilities, most likely first.
        notes: what a person should know, a sentence each.
    """

    model: str
    device: str
    outputs: dict[str, Tensor]
    likely: dict[str, list[list[tuple[str, float]]]]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The document of `rust-host run --json`: float32 with the fewest digits that read back as the same."""
        outputs = [
            {"name": name, "datatype": DATATYPES[value.dtype], "shape": list(value.shape), "data": plain(value)}
            for name, value in self.outputs.items()
        ]
        document: dict[str, Any] = {"model_name": self.model, "device": self.device, "outputs": outputs}
        if self.likely:
            document["predictions"] = [
                {
                    "output": name,
                    "rows": [[{"label": label, "probability": share} for label, share in row] for row in rows],
                }
                for name, rows in self.likely.items()
            ]
        return document


def open_predictor(model: str | Path, device: str = "cpu") -> Predictor:
    """Opens the newest version of a model, or a file.

    Args:
        model: a name in ./models, a model's folder, a version's folder, or a model file.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        NotFoundError: no such model or file, or no exported version.
        InvalidModelError, InvalidFileContractError: it is no model, or has no contract.
    """
    archive = read_archive(find_file(model))
    contract = archive.contract()
    if contract is None:
        raise InvalidFileContractError(
            f"`{archive.path}` has no contract, so nothing says what its inputs are called",
            hint="`py-authoring export` writes one",
        )
    where = choose_device("cpu" if device == "auto" and archive.platform != TORCHSCRIPT else device)
    return Predictor(archive.path, contract, where, open_model(archive, contract, where))


def find_file(model: str | Path) -> Path:
    """The model file that a name, a folder or a path means.

    Raises:
        NotFoundError: there is none; says how to get one.
    """
    path = Path(model)
    if path.is_file():
        return path
    inside = next((path / name for name in MODEL_FILES.values() if (path / name).is_file()), None)
    if inside is not None:
        return inside
    directory = path if path.is_dir() and versions(path) else find_model(model)
    for number in reversed(versions(directory)):
        for name in MODEL_FILES.values():
            if (directory / str(number) / name).is_file():
                return directory / str(number) / name
    raise NotFoundError(
        f"model `{directory.name}` has no exported version in `{directory}`",
        hint=f"`py-authoring export {model}`",
    )


def predict(predictor: Predictor, inputs: Mapping[str, Tensor], top_k: int = 3) -> Prediction:
    """Checks inputs, runs the model once and names the most likely labels.

    Args:
        predictor: what `open_predictor` gave.
        inputs: by name, as the contract says.
        top_k: labels of each row.

    Raises:
        UsageError: an input does not fit.
        FailedCallError: the model raised.
    """
    predictor.check(inputs)
    outputs = predictor(inputs)
    likely = {}
    for part in predictor.contract.outputs:
        value = outputs[part.name]
        if part.labels is not None and value.dim() and value.shape[-1] == len(part.labels) > 0:
            rows = value.reshape(-1, value.shape[-1]).to(torch.float64).numpy()
            likely[part.name] = [most_likely(row, part, top_k) for row in rows]
    return Prediction(predictor.contract.name, str(predictor.device), outputs, likely)


def most_likely(row: np.ndarray, output: Output, top_k: int) -> list[tuple[str, float]]:
    """The labels of one row with their probabilities, most likely first; equal ones in the order of the labels.

    Args:
        row: float64 `[labels]`.
        output: with labels and activation.
        top_k: how many.
    """
    shares = probabilities(row, output.activation)
    order = np.argsort(-shares, kind="stable")[:top_k]
    labels = output.labels or []
    return [(labels[place], float(shares[place])) for place in order]


def probabilities(row: np.ndarray, activation: Activation | None) -> np.ndarray:
    """Values → probabilities; raw numbers go through softmax.

    Example:
        >>> probabilities(np.array([1000.0, 1000.0]), None)
        array([0.5, 0.5])
    """
    if activation in ("softmax", "sigmoid"):
        return row
    if activation == "log_softmax":
        return np.asarray(np.exp(row))
    powers = np.exp(row - row.max())
    return np.asarray(powers / powers.sum())


def plain(value: Tensor) -> Any:
    """A tensor as nested lists of plain values; what is no finite number is text, as JSON has none."""
    if value.dtype in (torch.float16, torch.bfloat16):
        value = value.to(torch.float32)
    if value.dtype == torch.float32:
        flat = [float(str(number)) for number in value.reshape(-1).numpy()]  # the shortest digits of 32 bits
        return _nested([_finite(number) for number in flat], list(value.shape))
    if value.is_floating_point():
        return _nested([_finite(number) for number in value.reshape(-1).tolist()], list(value.shape))
    return value.tolist()


def _finite(number: float) -> float | str:
    return number if np.isfinite(number) else {"inf": "Infinity", "-inf": "-Infinity"}.get(str(number), "NaN")


def _nested(flat: Sequence[Any], shape: Sequence[int]) -> Any:
    if not shape:
        return flat[0]
    step = len(flat) // shape[0] if shape[0] else 0
    return [_nested(flat[start * step : (start + 1) * step], shape[1:]) for start in range(shape[0])]
