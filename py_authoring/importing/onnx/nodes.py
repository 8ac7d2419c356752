"""What a graph's nodes say: operator, inputs, attributes as Python values; and whether the table has every operator."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import onnx
import onnx.checker
import onnx.inliner
import torch
from onnx import numpy_helper
from torch import Tensor

from py_authoring.errors import RefusedError
from py_authoring.importing.errors import ForeignFileError
from py_authoring.importing.onnx import registry
from py_authoring.importing.onnx.values import DTYPES

#: What functions may come to in their places; a message of protobuf ends at 2 GiB.
_MOST_NODES, _MOST_BYTES = 1_000_000, 1 << 31


@dataclass(frozen=True)
class Node:
    """A node, with its attributes as Python values; graphs stay what they are."""

    operator: str
    domain: str
    opset: int
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


def to_torch(proto: onnx.TensorProto) -> Tensor:
    """A stored tensor.

    Raises:
        RefusedError: it is of a datatype that torch does not have.
        ForeignFileError: its numbers are not those of its shape.
    """
    if proto.data_type not in DTYPES:
        name = onnx.TensorProto.DataType.Name(proto.data_type)
        raise RefusedError(f"tensor `{proto.name}` is of datatype {name}, which is not supported")
    try:
        array = numpy_helper.to_array(proto)
    except Exception as error:  # NumPy raises what it stumbles over
        raise ForeignFileError(f"tensor `{proto.name}` does not hold what its shape {list(proto.dims)} says") from error
    dtype = DTYPES[proto.data_type]
    if dtype == torch.bfloat16:
        return torch.from_numpy(array.view("int16").copy()).view(torch.bfloat16).reshape(array.shape)
    if proto.data_type in (17, 18, 19, 20):
        return torch.from_numpy(array.view("uint8").copy()).view(dtype).reshape(array.shape)
    return torch.from_numpy(array.copy()).reshape(array.shape)


def node_of(proto: onnx.NodeProto, opsets: Mapping[str, int]) -> Node:
    """A node of the file; inputs and outputs that are left out at the end are dropped.

    Raises:
        ForeignFileError: an attribute is unknown to ONNX's schema of the operator, or of another type than it says.
    """
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    outputs = list(proto.output)
    while outputs and not outputs[-1]:
        outputs.pop()
    inputs = list(proto.input)
    while inputs and not inputs[-1]:
        inputs.pop()
    opset = opsets.get(domain, 1)
    types = _attribute_types(proto.op_type, opset, domain)
    attributes: dict[str, Any] = {}
    if types is None:
        if proto.attribute and registry.find(domain, proto.op_type, opset, len(outputs)) is not None:
            raise ForeignFileError(f"operator {proto.op_type} is not in opset {opset} of ONNX")
        return Node(proto.op_type, domain, opset, inputs, outputs, attributes)
    for each in proto.attribute:
        expected = types.get(each.name)
        # what is no text by the schema goes into lines of Python, so that none may come instead
        if expected is None or each.type != expected or each.ref_attr_name:
            words = onnx.AttributeProto.AttributeType
            asked = "it has no such attribute" if expected is None else f"expected {words.Name(expected)}"
            found = "a reference" if each.ref_attr_name else words.Name(each.type)
            raise ForeignFileError(
                f"a node of operator {proto.op_type} (opset {opset}) has attribute `{_shown(each.name)}` of type "
                f"{found}: {asked}"
            )
        attributes[each.name] = _attribute(each)
    return Node(proto.op_type, domain, opset, inputs, outputs, attributes)


def _shown(name: str) -> str:
    return repr(name[:60])[1:-1]


@lru_cache(maxsize=4096)
def _attribute_types(operator: str, opset: int, domain: str) -> dict[str, int] | None:
    try:
        schema = onnx.defs.get_schema(operator, opset, domain)
    except onnx.defs.SchemaError:
        return None
    return {name: int(each.type.value) for name, each in schema.attributes.items()}  # type: ignore[attr-defined]


def _attribute(proto: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if proto.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
        return list(value)
    if proto.type == onnx.AttributeProto.STRINGS:
        return [each.decode("utf-8", "replace") for each in value]
    if proto.type == onnx.AttributeProto.FLOAT:
        return float(str(torch.tensor(value).item())) if math.isfinite(value) else value
    return value


def attribute_names(node: Node) -> set[str]:
    """Which names are attributes of a node's operator, by ONNX's own schema of its opset."""
    return set(_attribute_types(node.operator, node.opset, node.domain) or ())


def opsets(model: onnx.ModelProto) -> dict[str, int]:
    """Domain → version; ONNX's own domain is the empty text."""
    return {("" if each.domain == "ai.onnx" else each.domain): each.version for each in model.opset_import}


def inline(model: onnx.ModelProto) -> onnx.ModelProto:
    """Puts functions of the file, and operators outside the table that ONNX defines by others, in their places.

    Raises:
        ForeignFileError: what comes of the file's functions is not valid ONNX, or too much.
    """
    if model.functions:
        _check_growth(model)
        try:
            model = onnx.inliner.inline_local_functions(model)
            onnx.checker.check_model(model)  # an attribute of a call may be of another type than where it goes
        except (onnx.checker.ValidationError, UnicodeDecodeError, RuntimeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise ForeignFileError(f"the file's functions do not fit their calls: {reason[:300]}") from error
    versions = opsets(model)
    wanted = []
    for proto in _all_nodes(model.graph):
        node = node_of(proto, versions)
        if registry.find(node.domain, node.operator, node.opset, len(node.outputs)) is None and _has_body(node):
            wanted.append((proto.domain, proto.op_type))
    if wanted:
        try:
            model = onnx.inliner.inline_selected_functions(model, sorted(set(wanted)), inline_schema_functions=True)
        except RuntimeError:  # it does not know every form; what is left is listed as not supported
            return model
    return model


# From the table of functions alone: one that calls another twice doubles it, again and again.
def _check_growth(model: onnx.ModelProto) -> None:
    bodies = {_key(each, each.name): _nodes_of(each.node) for each in model.functions}
    whole: dict[tuple[str, str, str], tuple[int, int]] = {}
    begun: set[tuple[str, str, str]] = set()

    def sizes(nodes: Sequence[onnx.NodeProto]) -> tuple[int, int]:
        each = [whole.get(_key(node, node.op_type), (1, node.ByteSize())) for node in nodes]
        # no further than to the bounds: numbers that double themselves grow long
        count, size = sum(count for count, _ in each), sum(size for _, size in each)
        return min(count, _MOST_NODES + 1), min(size, _MOST_BYTES + 1)

    waiting = list(bodies)
    while waiting:
        key = waiting[-1]
        inner = {_key(node, node.op_type) for node in bodies[key]} & bodies.keys()
        missing = [] if key in whole else [each for each in inner if each not in whole]
        if missing:
            begun.add(key)
            if begun & set(missing):
                raise ForeignFileError(f"function `{_shown(key[1])}` of the file calls itself")
            waiting.extend(missing)
            continue
        begun.discard(key)
        whole[key] = sizes(bodies[key])
        waiting.pop()
    count, size = sizes(_all_nodes(model.graph))
    if count > _MOST_NODES or size > _MOST_BYTES:
        raise ForeignFileError(
            "the file's functions in their places would come to more than "
            f"{_MOST_NODES:,} nodes or {_MOST_BYTES:,} bytes"
        )


def _key(proto: onnx.FunctionProto | onnx.NodeProto, name: str) -> tuple[str, str, str]:
    return "" if proto.domain == "ai.onnx" else proto.domain, name, proto.overload


def _has_body(node: Node) -> bool:
    try:
        schema = onnx.defs.get_schema(node.operator, node.opset, node.domain)
    except onnx.defs.SchemaError:
        return False
    return any(getattr(schema, word) for word in ("has_function", "has_context_dependent_function"))


def check_operators(model: onnx.ModelProto, opsets: Mapping[str, int]) -> dict[str, int]:
    """Operator → how many nodes.

    Raises:
        RefusedError: some are not in the table; all are named.
    """
    counts: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    for proto in _all_nodes(model.graph):
        node = node_of(proto, opsets)
        name = f"{node.domain}:{node.operator}" if node.domain else node.operator
        counts[name] += 1
        if registry.find(node.domain, node.operator, node.opset, len(node.outputs)) is None:
            missing[name] += 1
    if missing:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(missing.items()))
        raise RefusedError(
            f"{len(missing)} operator{'s' if len(missing) > 1 else ''} of the graph (opset {opsets.get('', 1)}) "
            f"{'are' if len(missing) > 1 else 'is'} not supported: {listed}",
            hint="docs/import.md lists the operators that are",
        )
    return dict(counts)


def _all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    return _nodes_of(graph.node)


def _nodes_of(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    found, waiting = [], [nodes]
    while waiting:
        for node in waiting.pop():
            found.append(node)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    waiting.append(attribute.g.node)
                waiting.extend(each.node for each in attribute.graphs)
    return found
