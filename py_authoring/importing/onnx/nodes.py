"""What a graph's nodes say: operator, inputs, attributes as Python values; and whether the table has every operator."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import onnx.inliner
import torch
from onnx import numpy_helper
from torch import Tensor

from py_authoring.errors import RefusedError
from py_authoring.importing.errors import ForeignFileError
from py_authoring.importing.onnx import registry
from py_authoring.importing.onnx.values import DTYPES


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
    """A node of the file; inputs and outputs that are left out at the end are dropped."""
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    outputs = list(proto.output)
    while outputs and not outputs[-1]:
        outputs.pop()
    inputs = list(proto.input)
    while inputs and not inputs[-1]:
        inputs.pop()
    attributes = {each.name: _attribute(each) for each in proto.attribute}
    return Node(proto.op_type, domain, opsets.get(domain, 1), inputs, outputs, attributes)


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
    try:
        schema = onnx.defs.get_schema(node.operator, node.opset, node.domain)
    except onnx.defs.SchemaError:
        return set(node.attributes)
    return set(schema.attributes) | set(node.attributes)


def opsets(model: onnx.ModelProto) -> dict[str, int]:
    """Domain → version; ONNX's own domain is the empty text."""
    return {("" if each.domain == "ai.onnx" else each.domain): each.version for each in model.opset_import}


def inline(model: onnx.ModelProto) -> onnx.ModelProto:
    """Puts functions of the file, and operators outside the table that ONNX defines by others, in their places."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
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
    found, waiting = [], [graph]
    while waiting:
        current = waiting.pop()
        for node in current.node:
            found.append(node)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    waiting.append(attribute.g)
                waiting.extend(attribute.graphs)
    return found
