"""The same weights in another form lie in the same version: is the newest version of a model of these weights?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from py_authoring.archive_view import read_archive
from py_authoring.contract import Contract
from py_authoring.difference import measure, tolerance
from py_authoring.errors import AuthoringError
from py_authoring.export import golden
from py_authoring.export.archive import versions
from py_authoring.platforms import MODEL_FILES


def find_sibling(directory: Path, contract: Contract, examples: Sequence[golden.Example]) -> Path | None:
    """The folder of the newest version, if this model belongs beside the one in it.

    It does if there is no file of its kind yet, and another one comes from the same run and checkpoint and has the same
    golden examples: those are drawn by seed, and their outputs are what the eager weights gave.
    """
    numbers = versions(directory)
    if not numbers:
        return None
    folder = directory / str(numbers[-1])
    if (folder / MODEL_FILES[contract.platform]).exists():
        return None
    others = (folder / name for name in MODEL_FILES.values())
    return folder if any(_same_weights(other, contract, examples) for other in others if other.is_file()) else None


def _same_weights(path: Path, contract: Contract, examples: Sequence[golden.Example]) -> bool:
    try:
        archive = read_archive(path)
        its = archive.contract()
        if its is None or _origin(its) != _origin(contract):
            return False
        its_examples = golden.from_bytes(archive.extra[its.golden.file], its)
    except (AuthoringError, KeyError):
        return False  # what cannot be read is no neighbour
    pairs = list(zip(examples, its_examples, strict=False))
    return bool(pairs) and all(_same(ours, other) for ours, other in pairs)


def _origin(contract: Contract) -> tuple[object, ...]:
    origin = contract.provenance
    return origin.run, origin.checkpoint, origin.untrained, origin.seed, origin.precision


# By torch's own tolerance: a reduced model's, in the contract, is wide enough for the weights of another epoch.
def _same(one: golden.Example, other: golden.Example) -> bool:
    if one.inputs.keys() != other.inputs.keys() or one.outputs.keys() != other.outputs.keys():
        return False
    inputs = all(_equal(value, other.inputs[name]) for name, value in one.inputs.items())
    return inputs and all(
        measure(other.outputs[name], value, *tolerance(value.dtype)).within for name, value in one.outputs.items()
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)
