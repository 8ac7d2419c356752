"""An ONNX graph → lines of PyTorch.

In: a checked ModelProto. Out: a `Source` with its weights, the names of inputs and outputs. Nodes whose inputs are all
known are computed now; what comes of `Shape` stays a list of sizes, so that a trace keeps it and Python reads it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx.inliner
import onnx.shape_inference
import torch
import torch.nn.functional as F
from torch import Tensor

from py_authoring.errors import AuthoringError, RefusedError
from py_authoring.importing.onnx import registry, sizes
from py_authoring.importing.onnx.conversions import as_tensor, to_floats, to_ints
from py_authoring.importing.onnx.nodes import (
    Node,
    attribute_names,
    check_operators,
    inline,
    node_of,
    opsets,
    to_torch,
)
from py_authoring.importing.onnx.values import DTYPES, NONE, SMALL, Value
from py_authoring.importing.source import Source, literal

_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
#: What these make may be far larger than what they take.
_GROWS = {"ConstantOfShape", "Expand", "Tile", "Range", "EyeLike", "OneHot", "Pad", "Resize", "Upsample", "Col2Im"}
_GROWS |= {"CenterCropPad", "MaxUnpool", "AffineGrid", "DFT", "STFT", "MelWeightMatrix", "ConvTranspose", "RoiAlign"}
_GROWS |= {"HannWindow", "HammingWindow", "BlackmanWindow", "Conv", "MatMul", "Einsum"}
_ABSENT = object()
_CPU = 'torch.device("cpu")'


@dataclass(frozen=True)
class Translated:
    """What came of a graph.

    Attributes:
        source: lines and weights.
        inputs: forward's argument → the name in the ONNX file.
        outputs: expressions that forward returns, by the name in the ONNX file.
        kinds: their types in Python.
        input_kinds: the types of forward's arguments.
        counts: operator → how many nodes.
    """

    source: Source
    inputs: dict[str, str]
    outputs: dict[str, str]
    kinds: list[str]
    input_kinds: list[str]
    counts: dict[str, int]


def translate(model: onnx.ModelProto) -> Translated:
    """Writes the lines of a model's graph.

    Args:
        model: checked, its external data loaded.

    Raises:
        RefusedError: operators are not supported; all are named.
    """
    model = inline(model)
    versions = opsets(model)
    counts = check_operators(model, versions)
    translation = Translation(model, versions)
    return translation.run(counts)


class Translation:
    """A graph on its way; handlers of operators write through it.

    Attributes:
        source: the lines so far.
        opsets: domain → version.
        device: the expression of the device that new tensors go to: an input's.
    """

    def __init__(self, model: onnx.ModelProto, opsets: Mapping[str, int]) -> None:
        self.source = Source()
        self.opsets = dict(opsets)
        self.graph = model.graph
        self._scopes: list[dict[str, Value]] = [{}]
        self._dtypes: list[dict[str, torch.dtype]] = [_dtypes(model)]
        self._shapes = _ranks(model)
        self.device = _CPU

    def run(self, counts: dict[str, int]) -> Translated:
        """The whole graph."""
        inputs, kinds = {}, []
        weights = {each.name for each in self.graph.initializer}
        for part in self.graph.input:
            if part.name in weights:
                continue
            name = self.source.name(part.name)
            kind, text = _kind_of(part.type)
            self.bind(part.name, Value(kind, name))
            inputs[name] = part.name
            kinds.append(text)
            if text == "Tensor" and self.device == _CPU:
                self.device = f"{name}.device"
        self._initializers(self.graph)
        self.nodes(self.graph.node)
        outputs, returned = {}, []
        for part in self.graph.output:
            value = self.value(part.name)
            if value.kind == "tensors":
                text, kind = self.text(value), "list[Tensor]"
            elif value.kind == "none":
                raise RefusedError(f"output `{part.name}` is an empty optional, which no contract has a word for")
            else:
                text, kind = self.tensor(value), "Tensor"
            outputs[part.name] = text
            returned.append(kind)
        return Translated(self.source, inputs, outputs, returned, kinds, counts)

    # names

    def bind(self, name: str, value: Value) -> None:
        """Says what an ONNX name stands for, in the present scope."""
        if name:
            self._scopes[-1][name] = value

    def value(self, name: str) -> Value:
        """What an ONNX name stands for; an empty name is an input that is left out."""
        if not name:
            return NONE
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        raise RefusedError(f"the graph uses `{name}` before it is made")

    def dtype(self, name: str) -> torch.dtype | None:
        """The datatype of an ONNX name, where it is known."""
        value = self.value(name)
        if value.constant is not None:
            return value.constant.dtype
        if value.kind in ("ints", "int"):
            return torch.int64
        return next((types[name] for types in reversed(self._dtypes) if name in types), None)

    def rank(self, name: str) -> int | None:
        """How many dimensions an ONNX name has, where that is known."""
        value = self.value(name)
        if value.constant is not None:
            return value.constant.dim()
        if value.kind in ("ints", "int"):
            return 1 if value.kind == "ints" else 0
        return self._shapes.get(name)

    def define(self, name: str, text: str, kind: str = "tensor") -> str:
        """Writes `name = text`; the Python name."""
        variable = self.source.name(name or "unused")
        self.source.line(f"{variable} = {text}")
        self.bind(name, Value(kind, variable, name=name))
        return variable

    # expressions

    def text(self, value: Value) -> str:
        """The expression of a value, as it is."""
        if value.text is None:
            assert value.constant is not None
            value.text = self.source.tensor(value.name, value.constant, trainable=value.trainable)
        return value.text

    def tensor(self, value: Value) -> str:
        """The expression of a value as a tensor."""
        if value.kind in ("ints", "int"):
            assert value.text is not None
            use = self.source.use(as_tensor)
            if value.kind == "int":
                return f"{use}([{value.text}], {self.device})[0]"
            return f"{use}({value.text}, {self.device})"
        return self.text(value)

    def number(self, value: Value, other: torch.dtype | None = None) -> str:
        """A scalar constant as a number, anything else as a tensor."""
        constant = value.constant
        if constant is not None and constant.dim() == 0 and constant.dtype in (torch.float32, torch.int64, other):
            number = constant.item()
            if isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number):
                return repr(number)
        return self.tensor(value)

    def ints(self, value: Value) -> str:
        """The expression of a value as a list of whole numbers."""
        if value.constant is not None:
            return literal([int(each) for each in value.constant.flatten().tolist()])
        if value.kind == "ints":
            return self.text(value)
        if value.kind == "int":
            return f"[{value.text}]"
        return f"{self.source.use(to_ints)}({self.text(value)})"

    def argument(self, value: Value, kind: str) -> str:
        """The expression of a value for a parameter of a kind."""
        if value.kind == "none":
            return "None"
        if kind == "ints":
            return self.ints(value)
        if kind in ("int", "float", "bool"):
            if value.constant is not None:
                convert = {"int": int, "float": float, "bool": bool}[kind]
                return literal(convert(value.constant.item()))
            text = self.text(value)
            return text if value.kind == kind else f"{kind}({text})"
        if kind == "floats" and value.constant is not None:
            return literal([float(each) for each in value.constant.flatten().tolist()])
        if kind == "floats":
            return f"{self.source.use(to_floats)}({self.tensor(value)})"
        if kind == "tensors":
            return self.text(value) if value.kind == "tensors" else f"[{self.tensor(value)}]"
        return self.tensor(value)

    # nodes

    def nodes(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Writes the lines of nodes in the order of the file."""
        for proto in nodes:
            self._node(node_of(proto, self.opsets))

    def subgraph(self, graph: onnx.GraphProto, arguments: Sequence[Value] = ()) -> list[Value]:
        """Writes the lines of a graph inside a node, in a scope of its own; the values of its outputs."""
        self._scopes.append({})
        for part, value in zip(graph.input, arguments, strict=True):
            self.bind(part.name, value)
        types = {**_types_in([*graph.input, *graph.value_info, *graph.output])}
        self._dtypes.append(types)
        self._initializers(graph)
        self.nodes(graph.node)
        results = [self.value(part.name) for part in graph.output]
        self._scopes.pop()
        self._dtypes.pop()
        return results

    def _initializers(self, graph: onnx.GraphProto) -> None:
        if graph.sparse_initializer:
            raise RefusedError("the graph holds sparse tensors, which are not supported")
        for part in graph.initializer:
            constant = to_torch(part)
            learnt = constant.is_floating_point() and constant.dim() > 0
            self.bind(part.name, Value("tensor", None, constant, part.name, learnt))

    def _node(self, node: Node) -> None:
        try:
            self._translate(node)
        except AuthoringError:
            raise
        except Exception as error:  # attributes of another kind than the operator has, inputs that do not fit
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RefusedError(
                f"a node of operator {node.operator} that makes `{''.join(node.outputs[:1])}` cannot be translated: "
                f"{type(error).__name__}: {reason[:200]}"
            ) from error

    def _translate(self, node: Node) -> None:
        entry = registry.find(node.domain, node.operator, node.opset, len(node.outputs))
        assert entry is not None
        values = [self.value(name) for name in node.inputs]
        if sizes.write(self, node, values):
            return
        if entry.handler is not None and node.operator in _OWN:
            entry.handler(self, node)
            return
        if self._can_fold(node, values):
            self._fold(node, entry)
            return
        self._write(node, entry)

    def _write(self, node: Node, entry: registry.Entry) -> None:
        if entry.handler is not None:
            entry.handler(self, node)
            return
        values = [self.value(name) for name in node.inputs]
        if entry.template is not None:
            text = entry.template.format(*(self.tensor(value) for value in values))
            self.define(node.outputs[0], text)
            return
        assert entry.function is not None
        self.call(node, entry.function, spread=entry.spread)

    def call(self, node: Node, function: Any, *, spread: bool = False, **more: str) -> None:
        """Writes the call of a function on tensors for a node."""
        text = f"{self.source.use(function)}({self._arguments(node, function, more)})"
        returned = str(function.__annotations__["return"])
        names = [self.source.name(name or "unused") for name in node.outputs]
        if spread and len(names) == 1:
            self.source.line(f"{names[0]} = {text}[0]")
        elif spread:
            self.source.line(f"{', '.join(names)} = {text}")
        elif returned.startswith("tuple"):
            count = returned.count(",") + 1
            unused = [self.source.name("unused") for _ in range(count - len(names))]
            self.source.line(f"{', '.join([*names, *unused])} = {text}")
        else:
            self.source.line(f"{names[0]} = {text}")
        kind = "tensors" if returned == "list[Tensor]" and not spread else "tensor"
        for name, variable in zip(node.outputs, names, strict=True):
            self.bind(name, Value(kind, variable, name=name))

    def _arguments(self, node: Node, function: Any, more: Mapping[str, str]) -> str:
        attributes = attribute_names(node)
        waiting = [self.value(name) for name in node.inputs]
        parts: list[str] = []
        named = False  # from the first that is left out, the others go by name
        given = dict(node.attributes)
        for name, (kind, optional) in registry.parameters(function).items():
            if name in more:
                text: Any = more[name]
            elif name in attributes:
                text = literal(given.pop(name)) if name in given else _ABSENT
            elif kind == "tensors" and waiting and waiting[0].kind != "tensors":
                text = f"[{', '.join(self.tensor(value) for value in waiting)}]"
                waiting = []
            elif waiting:
                value = waiting.pop(0)
                text = _ABSENT if value.kind == "none" and optional else self.argument(value, kind)
            else:
                text = _ABSENT
            if text is _ABSENT:
                named = True
            else:
                parts.append(f"{name}={text}" if named else text)
        ignored = {"name", "consumed_inputs", *more}
        left = [name for name in given if name not in ignored]
        if left or any(value.kind != "none" for value in waiting):
            what = f"attribute `{left[0]}`" if left else "so many inputs"
            raise RefusedError(f"operator {node.operator} with {what} is not supported in opset {node.opset}")
        return ", ".join(parts)

    # constants

    def _can_fold(self, node: Node, values: Sequence[Value]) -> bool:
        if node.operator in _RANDOM or any(isinstance(each, onnx.GraphProto) for each in node.attributes.values()):
            return False
        if any(value.kind != "none" and not value.small for value in values):
            return False
        if not any(value.constant is not None for value in values) and node.operator != "ConstantOfShape":
            return False
        if node.operator in _GROWS:
            return self._stays_small(node, values)
        return True

    def _stays_small(self, node: Node, values: Sequence[Value]) -> bool:
        constants = [value.constant for value in values if value.constant is not None]
        if node.operator == "Range":
            start, limit, delta = (float(each) for each in constants)
            return delta != 0 and abs(limit - start) / abs(delta) <= SMALL
        if node.operator in ("ConstantOfShape", "Expand", "Tile"):
            whole = math.prod(max(int(each), 1) for each in constants[-1].tolist())
            return whole * (constants[0].numel() if node.operator == "Tile" else 1) <= SMALL
        return False

    def _fold(self, node: Node, entry: registry.Entry) -> None:
        before, device = self.source, self.device
        self.source, self.device = Source(), _CPU  # the lines of this node alone
        self._scopes.append({})
        for position, name in enumerate(node.inputs):
            value = self.value(name)
            if value.constant is not None:
                self.bind(name, Value("tensor", f"_{position}", value.constant, name))
        self._write(node, entry)
        results = {name: self.value(name) for name in node.outputs if name}
        known = {f"_{position}": self.value(name).constant for position, name in enumerate(node.inputs) if name}
        self._scopes.pop()
        made, self.source, self.device = self.source, before, device
        space = made.run({**known, "torch": torch, "F": F})
        for name, value in results.items():
            found = space[str(value.text)] if value.constant is None else value.constant
            if isinstance(found, Tensor):
                self.bind(name, Value("tensor", None, found, name))
            else:
                self._write(node, entry)  # a sequence: there are no constants of that kind
                return


#: Handlers that look at constants themselves.
_OWN = {"Constant", "If", "Loop", "Scan"}


def _kind_of(proto: onnx.TypeProto) -> tuple[str, str]:
    word = proto.WhichOneof("value")
    if word == "optional_type":
        kind, text = _kind_of(proto.optional_type.elem_type)
        return kind, f"{text} | None"
    if word == "sequence_type":
        return "tensors", "list[Tensor]"
    return "tensor", "Tensor"


def _dtypes(model: onnx.ModelProto) -> dict[str, torch.dtype]:
    graph = _inferred(model)
    return _types_in([*graph.input, *graph.value_info, *graph.output])


def _inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    try:
        return onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # of what is known here nothing is needed for sure
        return model.graph


def _types_in(parts: Sequence[onnx.ValueInfoProto]) -> dict[str, torch.dtype]:
    return {
        part.name: DTYPES[part.type.tensor_type.elem_type]
        for part in parts
        if part.type.tensor_type.elem_type in DTYPES
    }


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    graph = _inferred(model)
    return {
        part.name: len(part.type.tensor_type.shape.dim)
        for part in [*graph.input, *graph.value_info, *graph.output]
        if part.type.tensor_type.HasField("shape")
    }
