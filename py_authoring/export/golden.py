"""Golden examples: real inputs and what the eager model gave for them, as safetensors.

In: inputs and outputs by name. Out: the bytes of `golden.safetensors`, and back. Keys as in docs/contract.md:
`0.input.<name>`, `0.output.<name>`, `0.raw.<name>`, `1.input.<name>`, …
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import safetensors.torch
import torch
from torch import Tensor

from py_authoring.contract import Contract, Datatype
from py_authoring.errors import InvalidContractError

DATATYPES: dict[torch.dtype, Datatype] = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.uint16: "UINT16",
    torch.uint32: "UINT32",
    torch.uint64: "UINT64",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.float32: "FP32",
    torch.float64: "FP64",
}


@dataclass(frozen=True)
class Example:
    """One call of the model: tensors by the names of the contract."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    #: encoded pictures, of which the first row of the input of that name was made
    pictures: dict[str, bytes] = field(default_factory=dict)


def to_bytes(examples: Sequence[Example]) -> bytes:
    """The examples as a safetensors file.

    Example:
        >>> data = to_bytes([Example({"x": torch.ones(1)}, {"y": torch.zeros(2)})])
        >>> sorted(safetensors.torch.load(data))
        ['0.input.x', '0.output.y']
    """
    tensors = {}
    for number, example in enumerate(examples):
        for role, named in (("input", example.inputs), ("output", example.outputs)):
            for name, value in named.items():
                # a copy: safetensors refuses tensors that share memory, as the two outputs of a cell may
                tensors[f"{number}.{role}.{name}"] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, picture in example.pictures.items():
            tensors[f"{number}.raw.{name}"] = torch.frombuffer(bytearray(picture), dtype=torch.uint8)
    return safetensors.torch.save(tensors)


def from_bytes(data: bytes, contract: Contract) -> list[Example]:
    """Reads the examples that a contract announces.

    Raises:
        InvalidContractError: no safetensors, or a tensor is missing, left over, or of another datatype or rank.
    """
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # safetensors raises its own error and a few of Python's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InvalidContractError(f"`{contract.golden.file}` cannot be read: {reason}") from error
    examples = []
    for number in range(contract.golden.count):
        sides = []
        for role, parts in (("input", contract.inputs), ("output", contract.outputs)):
            named = {}
            for part in parts:
                key = f"{number}.{role}.{part.name}"
                value = tensors.pop(key, None)
                if value is None:
                    if role == "input" and getattr(part, "optional", False):
                        continue
                    raise InvalidContractError(f"`{contract.golden.file}` lacks `{key}`")
                if DATATYPES.get(value.dtype) != part.datatype:
                    got = DATATYPES.get(value.dtype, str(value.dtype))
                    raise InvalidContractError(f"golden `{key}` has datatype {got}, the contract says {part.datatype}")
                if value.dim() != len(part.shape):
                    raise InvalidContractError(
                        f"golden `{key}` has shape {list(value.shape)}, the contract says {part.shape}"
                    )
                named[part.name] = value
            sides.append(named)
        inputs, outputs = sides
        examples.append(Example(inputs, outputs, _pictures(tensors, number, contract)))
    if tensors:
        raise InvalidContractError(
            f"`{contract.golden.file}` has `{min(tensors)}`, of which the contract knows nothing"
        )
    return examples


def _pictures(tensors: dict[str, Tensor], number: int, contract: Contract) -> dict[str, bytes]:
    """Those of one example, taken out; files of before have none."""
    if contract.image is None:
        return {}
    key = f"{number}.raw.{contract.image.input}"
    value = tensors.pop(key, None)
    if value is None:
        return {}
    if value.dtype != torch.uint8 or value.dim() != 1:
        raise InvalidContractError(f"golden `{key}` is no vector of bytes")
    return {contract.image.input: value.numpy().tobytes()}
