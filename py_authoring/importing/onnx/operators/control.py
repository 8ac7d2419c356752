"""Control flow: Python's own, so that scripting keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from py_authoring.errors import RefusedError
from py_authoring.importing.onnx.operators.sequences import no_tensors
from py_authoring.importing.onnx.registry import handler
from py_authoring.importing.onnx.values import Value
from py_authoring.importing.source import literal

if TYPE_CHECKING:
    from py_authoring.importing.onnx.nodes import Node
    from py_authoring.importing.onnx.translation import Translation

_FOREVER = 2**63 - 1


@handler("If")
def branch(translation: Translation, node: Node) -> None:
    """One of two graphs."""
    condition = translation.value(node.inputs[0])
    if condition.constant is not None:
        graph = node.attributes["then_branch" if bool(condition.constant.item()) else "else_branch"]
        for name, value in zip(node.outputs, translation.subgraph(graph), strict=True):
            translation.bind(name, value)
        return
    names = [translation.source.name(name or "unused") for name in node.outputs]
    kinds: list[str] = []
    test = f"bool({translation.tensor(condition)})"
    for head, graph in ((f"if {test}:", "then_branch"), ("else:", "else_branch")):
        with translation.source.block(head):
            results = translation.subgraph(node.attributes[graph])
            kinds = kinds or _kinds(results)
            for name, value, kind in zip(names, results, kinds, strict=True):
                translation.source.line(f"{name} = {_text(translation, value, kind)}")
    for name, variable, kind in zip(node.outputs, names, kinds, strict=True):
        translation.bind(name, Value(kind, variable, name=name))


@handler("Loop")
def loop(translation: Translation, node: Node) -> None:
    """A graph again and again, so many times or while a condition holds."""
    body = node.attributes["body"]
    inputs = [*node.inputs, *[""] * (2 - len(node.inputs))]
    count, condition = translation.value(inputs[0]), translation.value(inputs[1])
    carried = [translation.value(name) for name in inputs[2:]]
    kinds = _kinds(carried)
    states = _assign(translation, node.outputs[: len(carried)], carried, kinds)
    scans = [translation.source.name(f"{name}_list") for name in node.outputs[len(carried) :]]
    for scan in scans:
        translation.source.line(f"{scan} = {translation.source.use(no_tensors)}()")
    going = translation.source.name("going")
    first = "True" if condition.kind == "none" else translation.argument(condition, "bool")
    translation.source.line(f"{going} = {first}")
    step = translation.source.name("step")
    times = str(_FOREVER) if count.kind == "none" else translation.argument(count, "int")
    translation.source.line(f"{step} = 0")
    with translation.source.block(f"while {step} < {times} and {going}:"):
        arguments = [
            Value("int", step),
            Value("tensor", f"torch.tensor({going})"),
            *(Value(kind, text) for kind, text in zip(kinds, states, strict=True)),
        ]
        results = translation.subgraph(body, arguments)
        new = [_text(translation, value, kind) for value, kind in zip(results[1:], kinds, strict=False)]
        for scan, value in zip(scans, results[1 + len(states) :], strict=True):
            translation.source.line(f"{scan} = {scan} + [{translation.tensor(value)}]")
        _advance(translation, states, new)
        translation.source.line(f"{going} = {translation.argument(results[0], 'bool')}")
        translation.source.line(f"{step} = {step} + 1")
    for name, kind, text in zip(node.outputs, kinds, states, strict=False):
        translation.bind(name, Value(kind, text, name=name))
    for name, scan in zip(node.outputs[len(states) :], scans, strict=True):
        translation.define(name, f"{translation.source.use(stack_all)}({scan})")


@handler("Scan", since=9)
def scan(translation: Translation, node: Node) -> None:
    """A graph for each slice of sequences."""
    given = node.attributes
    body, count = given["body"], given["num_scan_inputs"]
    states_in, sequences = node.inputs[: len(node.inputs) - count], node.inputs[len(node.inputs) - count :]
    scanned = len(node.outputs) - len(states_in)
    axes = given.get("scan_input_axes", [0] * count)
    backward = given.get("scan_input_directions", [0] * count)
    out_axes = given.get("scan_output_axes", [0] * scanned)
    out_backward = given.get("scan_output_directions", [0] * scanned)
    carried = [translation.value(name) for name in states_in]
    states = _assign(translation, node.outputs[: len(carried)], carried, ["tensor"] * len(carried))
    texts = [translation.tensor(translation.value(name)) for name in sequences]
    lists = [translation.source.name(f"{name}_list") for name in node.outputs[len(carried) :]]
    for each in lists:
        translation.source.line(f"{each} = {translation.source.use(no_tensors)}()")
    step = translation.source.name("step")
    with translation.source.block(f"for {step} in range({texts[0]}.shape[{literal(axes[0])}]):"):
        slices = []
        for text, axis, turned in zip(texts, map(literal, axes), backward, strict=True):
            place = f"{text}.shape[{axis}] - 1 - {step}" if turned else step
            slices.append(Value("tensor", f"{text}.select({axis}, {place})"))
        arguments = [*(Value("tensor", text) for text in states), *slices]
        results = translation.subgraph(body, arguments)
        new = [translation.tensor(value) for value in results[: len(states)]]
        for each, value in zip(lists, results[len(states) :], strict=True):
            translation.source.line(f"{each} = {each} + [{translation.tensor(value)}]")
        _advance(translation, states, new)
    for name, text in zip(node.outputs, states, strict=False):
        translation.bind(name, Value("tensor", text, name=name))
    for name, each, axis, turned in zip(node.outputs[len(states) :], lists, out_axes, out_backward, strict=True):
        order = f"{each}[::-1]" if turned else each
        translation.define(name, f"torch.stack({order}, {literal(axis)})")


def stack_all(values: list[Tensor]) -> Tensor:
    """The results of all rounds along a new axis; of no round an empty tensor."""
    return torch.stack(values) if len(values) > 0 else torch.zeros([0])


def _kinds(values: Sequence[Value]) -> list[str]:
    return ["tensors" if value.kind == "tensors" else "tensor" for value in values]


def _text(translation: Translation, value: Value, kind: str) -> str:
    if value.kind == "none":
        raise RefusedError("a branch that gives nothing is not supported")
    if kind == "tensors":
        return translation.text(value)
    if value.constant is not None and value.constant.numel() == 0 and value.text is None:
        return f"torch.zeros({literal(list(value.constant.shape))}, dtype={value.constant.dtype})"
    return translation.tensor(value)


def _assign(translation: Translation, names: Sequence[str], values: Sequence[Value], kinds: Sequence[str]) -> list[str]:
    states = []
    for name, value, kind in zip(names, values, kinds, strict=True):
        text = _text(translation, value, kind)
        states.append(translation.source.name(name or "state"))
        translation.source.line(f"{states[-1]} = {text}")
    return states


# All at once: one state may become another's old value.
def _advance(translation: Translation, states: Sequence[str], new: Sequence[str]) -> None:
    if states:
        translation.source.line(f"{', '.join(states)} = {', '.join(new)}")
