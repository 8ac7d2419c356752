"""Lists of tensors, and values that may be missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from py_authoring.importing.onnx.registry import handler, operator
from py_authoring.importing.onnx.values import NONE, Value

if TYPE_CHECKING:
    from py_authoring.importing.onnx.nodes import Node
    from py_authoring.importing.onnx.translation import Translation


@operator("SequenceConstruct")
def sequence_construct(inputs: list[Tensor]) -> list[Tensor]:
    """A list."""
    return inputs


@handler("SequenceEmpty")
def sequence_empty(translation: Translation, node: Node) -> None:
    """An empty list."""
    translation.define(node.outputs[0], f"{translation.source.use(no_tensors)}()", "tensors")


def no_tensors() -> list[Tensor]:
    """An empty list, whose type TorchScript can tell."""
    nothing: list[Tensor] = []
    return nothing


@operator("SequenceAt")
def sequence_at(sequence: list[Tensor], position: int) -> Tensor:
    """One member; negative positions count from the end."""
    return sequence[position]


@operator("SequenceLength")
def sequence_length(sequence: list[Tensor]) -> Tensor:
    """How many members."""
    return torch.tensor(len(sequence))


@operator("SequenceInsert")
def sequence_insert(sequence: list[Tensor], tensor: Tensor, position: int | None = None) -> list[Tensor]:
    """A list with one more member, before a position or at the end."""
    if position is None:
        return sequence + [tensor]
    return sequence[:position] + [tensor] + sequence[position:]


@operator("SequenceErase")
def sequence_erase(sequence: list[Tensor], position: int | None = None) -> list[Tensor]:
    """A list without one member, the last if none is named."""
    count = len(sequence)
    at = count - 1 if position is None else (position + count if position < 0 else position)
    return sequence[:at] + sequence[at + 1 :]


@operator("ConcatFromSequence")
def concat_from_sequence(sequence: list[Tensor], axis: int, new_axis: int = 0) -> Tensor:
    """The members one after the other, along an axis or a new one."""
    return torch.stack(sequence, axis) if new_axis else torch.cat(sequence, axis)


@operator("SplitToSequence")
def split_to_sequence(x: Tensor, split: Tensor | None = None, axis: int = 0, keepdims: int = 1) -> list[Tensor]:
    """Parts of an axis: of size 1, of one size, or of sizes given."""
    if split is None:
        parts = list(torch.split(x, 1, axis))
        return parts if keepdims else [part.squeeze(axis) for part in parts]
    if split.dim() == 0:
        return list(torch.split(x, int(split), axis))
    sizes: list[int] = split.to(torch.int64).tolist()
    return list(torch.split(x, sizes, axis))


@handler("Optional")
def optional(translation: Translation, node: Node) -> None:
    """What is there, or nothing."""
    translation.bind(node.outputs[0], translation.value(node.inputs[0]) if node.inputs else NONE)


@handler("OptionalGetElement")
def optional_get_element(translation: Translation, node: Node) -> None:
    """What is there."""
    value = translation.value(node.inputs[0])
    kind = "list[Tensor]" if value.kind == "tensors" else "Tensor"
    if value.kind == "tensors":
        translation.define(node.outputs[0], f"{translation.source.use(existing_list)}({value.text})", "tensors")
    elif kind == "Tensor":
        translation.define(node.outputs[0], f"{translation.source.use(existing)}({translation.tensor(value)})")


def existing(value: Tensor | None) -> Tensor:
    """A tensor that must be there."""
    if value is None:
        raise ValueError("an optional value is missing")
    return value


def existing_list(value: list[Tensor] | None) -> list[Tensor]:
    """A list that must be there."""
    if value is None:
        raise ValueError("an optional value is missing")
    return value


@handler("OptionalHasElement")
def optional_has_element(translation: Translation, node: Node) -> None:
    """Whether anything is there."""
    value = translation.value(node.inputs[0]) if node.inputs else NONE
    if value.kind == "none":
        translation.bind(node.outputs[0], Value("tensor", None, torch.tensor(False), node.outputs[0]))
        return
    translation.define(node.outputs[0], f"torch.tensor({value.text or translation.tensor(value)} is not None)")
