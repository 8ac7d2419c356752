"""Sizes and what graphs compute from them: lists of Python numbers instead of tensors.

So `Shape → Gather → Concat → Reshape` becomes `x.reshape([x_shape[0], 64])`, which a trace records with its origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from py_authoring.importing.onnx.conversions import divide_sizes
from py_authoring.importing.onnx.values import Value
from py_authoring.importing.source import literal

if TYPE_CHECKING:
    from py_authoring.importing.onnx.nodes import Node
    from py_authoring.importing.onnx.translation import Translation

_INT64 = 7
#: Div and Mod as they are where nothing is below 0.
_INFIX = {"Add": "{} + {}", "Sub": "{} - {}", "Mul": "{} * {}", "Div": "{} // {}", "Mod": "{} % {}"}
_CALLS = {"Max": "max({}, {})", "Min": "min({}, {})"}


def write(translation: Translation, node: Node, values: Sequence[Value]) -> bool:
    """Writes a node that is about sizes alone; False if it is not."""
    if node.operator == "Shape" and node.domain == "" and values[0].kind == "tensor":
        return _shape(translation, node, values[0])
    if node.operator == "Size" and values[0].kind == "tensor" and values[0].constant is None:
        translation.define(node.outputs[0], f"{translation.tensor(values[0])}.numel()", "int")
        return True
    if not any(value.kind in ("ints", "int") for value in values):
        return False
    if node.operator == "Size" and values[0].kind == "ints":
        translation.bind(node.outputs[0], Value("int", f"len({values[0].text})"))
        return True
    if not all(value.kind in ("ints", "int", "none") or _whole(value) for value in values):
        return False
    made = _compute(translation, node, values)
    if made is None:
        return False
    translation.bind(node.outputs[0], made)
    return True


def _shape(translation: Translation, node: Node, value: Value) -> bool:
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    if value.constant is not None:
        whole = torch.tensor(list(value.constant.shape), dtype=torch.int64)[start:end]
        translation.bind(node.outputs[0], Value("tensor", None, whole, node.outputs[0]))
        return True
    name = translation.define(node.outputs[0], f"list({translation.tensor(value)}.shape)", "ints")
    rank = translation.rank(node.inputs[0])
    if rank is not None:
        chosen = [f"{name}[{axis}]" for axis in range(rank)][start:end]
        translation.bind(node.outputs[0], _listed(chosen))
    elif start or end is not None:
        cut = f"{name}[{literal(start)}:{'' if end is None else literal(end)}]"
        translation.bind(node.outputs[0], Value("ints", cut))
    return True


def _compute(translation: Translation, node: Node, values: Sequence[Value]) -> Value | None:
    first = values[0]
    if node.operator == "Identity" or (node.operator == "Cast" and node.attributes.get("to") == _INT64):
        return first
    if node.operator in _INFIX or node.operator in _CALLS:
        return _arithmetic(translation, node, values)
    parts = _parts(first)
    if node.operator == "Concat":
        every = [_parts(value) for value in values]
        if all(each is not None for each in every):
            return _listed([part for each in every for part in each or []])
        texts = [value.text if value.constant is None else str(value.constant.tolist()) for value in values]
        return Value("ints", f"({' + '.join(map(str, texts))})")
    if node.operator == "Gather" and values[1].constant is not None and first.kind == "ints":
        return _gather(first, parts, values[1].constant)
    if node.operator == "Slice" and parts is not None:
        return _slice(node, parts, values)
    if node.operator == "Unsqueeze" and first.kind == "int":
        return _listed([str(first.text)])
    if node.operator == "Squeeze" and first.kind == "ints" and parts is not None and len(parts) == 1:
        return Value("int", parts[0])
    if node.operator == "Reshape" and values[1].constant is not None:
        return _reshape(first, parts, values[1].constant.tolist())
    if node.operator == "ReduceProd" and parts and not node.attributes.get("keepdims", 1):
        return Value("int", f"({' * '.join(parts)})")
    if node.operator == "Range" and all(len(_parts(value) or []) == 1 for value in values):
        numbers = ", ".join((_parts(value) or [""])[0] for value in values)
        return Value("tensor", f"torch.arange({numbers}, device={translation.device})")
    return None


def _arithmetic(translation: Translation, node: Node, values: Sequence[Value]) -> Value | None:
    pattern = _INFIX.get(node.operator) or _CALLS[node.operator]
    if len(values) != 2:
        return None
    left, right = (_parts(value) for value in values)
    if left is None or right is None:
        return None
    length = max(len(left), len(right))
    if {len(left), len(right)} - {1, length}:
        return None
    pairs = zip(left * (length if len(left) == 1 else 1), right * (length if len(right) == 1 else 1), strict=True)
    infix = node.operator in _INFIX
    # what comes of sizes alone without a minus is a size
    if node.operator in ("Div", "Mod") and any("-" in part for part in [*left, *right]):
        if node.operator == "Mod" and node.attributes.get("fmod", 0):
            return None
        if node.operator == "Div":
            pattern, infix = f"{translation.source.use(divide_sizes)}({{}}, {{}})", False
    made = [f"({pattern.format(*pair)})" if infix else pattern.format(*pair) for pair in pairs]
    scalar = all(value.kind == "int" or (value.constant is not None and value.constant.dim() == 0) for value in values)
    return Value("int", made[0]) if scalar else _listed(made)


def _gather(first: Value, parts: list[str] | None, indices: torch.Tensor) -> Value | None:
    if indices.dim() > 1:
        return None
    chosen = [int(index) for index in indices.reshape(-1).tolist()]
    texts = [f"{first.text}[{index}]" if parts is None else parts[index] for index in chosen]
    return Value("int", texts[0]) if indices.dim() == 0 else _listed(texts)


def _slice(node: Node, parts: list[str], values: Sequence[Value]) -> Value | None:
    if len(values) == 1:
        numbers = [node.attributes.get(name) for name in ("starts", "ends")]
        steps = [1]
    else:
        if any(value.constant is None and value.kind != "none" for value in values[1:]):
            return None
        numbers = [None if value.constant is None else value.constant.tolist() for value in values[1:3]]
        given = values[4].constant if len(values) > 4 else None
        steps = [1] if given is None else given.tolist()
    if numbers[0] is None or numbers[1] is None or steps[0] < 1:
        return None
    return _listed(parts[numbers[0][0] : numbers[1][0] : steps[0]])


def _reshape(first: Value, parts: list[str] | None, shape: list[int]) -> Value | None:
    if first.kind == "int" and shape in ([1], [-1]):
        return _listed([str(first.text)])
    if first.kind == "ints" and shape == [-1]:
        return first
    if first.kind == "ints" and shape == [] and parts is not None and len(parts) == 1:
        return Value("int", parts[0])
    return None


def _parts(value: Value) -> list[str] | None:
    if value.constant is not None:
        return [str(number) for number in value.constant.reshape(-1).tolist()] if value.small else None
    return [str(value.text)] if value.kind == "int" else value.parts


def _listed(parts: list[str]) -> Value:
    return Value("ints", f"[{', '.join(parts)}]", parts=parts)


def _whole(value: Value) -> bool:
    return value.constant is not None and value.constant.dtype in (torch.int64, torch.int32) and value.small
