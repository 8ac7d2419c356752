"""Containers: in which order the others run."""

from __future__ import annotations

from typing import Any

from py_authoring.importing.errors import ForeignFileError
from py_authoring.importing.torch7.reader import Object, Table
from py_authoring.importing.torch7.writing import Node, Value, Writer, module


def children_of(container: Object) -> list[Object]:
    """The modules of a container, in order."""
    inside = container.get("modules")
    found = inside.list() if isinstance(inside, Table) else []
    if not all(isinstance(each, Object) for each in found):
        raise ForeignFileError(f"module {container.name} holds what is no module")
    return found


@module("Sequential")
def sequential(writer: Writer, container: Object, value: Value) -> Value:
    """One after the other."""
    for child in children_of(container):
        value = writer(child, value)
    return value


@module("ConcatTable")
def concat_table(writer: Writer, container: Object, value: Value) -> Value:
    """Each on the same input."""
    return [writer(child, value) for child in children_of(container)]


@module("ParallelTable")
def parallel_table(writer: Writer, container: Object, values: list[Value]) -> Value:
    """The first on the first input, and so on."""
    return [writer(child, value) for child, value in zip(children_of(container), values, strict=True)]


@module("MapTable")
def map_table(writer: Writer, container: Object, values: list[Value]) -> Value:
    """The same one on each input."""
    inner = container.get("module") or children_of(container)[0]
    return [writer(inner, value) for value in values]


@module("Concat", "DepthConcat")
def concat(writer: Writer, container: Object, value: Node) -> Value:
    """Each on the same input, the results one after the other along a dimension."""
    parts = [writer(child, value) for child in children_of(container)]
    axis = int(container.get("dimension", 1)) - 1
    if container.name.endswith("DepthConcat") and len({tuple(part.example.shape[2:]) for part in parts}) > 1:
        raise ForeignFileError("module nn.DepthConcat joins maps of different sizes, which is not supported")
    return writer.define("joined", f"torch.cat([{', '.join(part.text for part in parts)}], {axis})", *parts)


@module("Parallel")
def parallel(writer: Writer, container: Object, value: Node) -> Value:
    """The first on the first slice, and so on; the results one after the other."""
    axis, out = int(container.get("inputDimension")) - 1, int(container.get("outputDimension")) - 1
    parts = []
    for position, child in enumerate(children_of(container)):
        parts.append(writer(child, writer.define("part", f"{value.text}.select({axis}, {position})", value)))
    return writer.define("joined", f"torch.cat([{', '.join(part.text for part in parts)}], {out})", *parts)


@module("gModule")
def graph(writer: Writer, container: Object, value: Value) -> Value:
    """A graph of nngraph: its nodes in the order of a forward pass."""
    arrived: dict[int, dict[int, Any]] = {}
    nodes = container.get("forwardnodes")
    outnode = container.get("outnode")
    if not isinstance(nodes, Table) or not isinstance(outnode, Object):
        raise ForeignFileError("module nn.gModule has no forwardnodes or no outnode")
    first = container.get("innode")
    result: Value | None = None
    for node in nodes.list():
        data = node.get("data")
        if node is first or (isinstance(first, Object) and data is first.get("data")):
            made: Value = value
        else:
            made = _run_node(writer, data, arrived.get(id(data), {}))
        if data is outnode.get("data"):
            single = len(_table(outnode.get("children")).list()) == 1
            inputs = arrived.get(id(data), {})
            result = inputs[1] if single and len(inputs) == 1 else [inputs[key] for key in sorted(inputs)]
        for child in _table(node.get("children")).list():
            below = child.get("data")
            place = _table(below.get("mapindex") if isinstance(below, Table) else None).get(data)
            arrived.setdefault(id(below), {})[int(place or 0)] = made
    if result is None:
        raise ForeignFileError("module nn.gModule never reaches its outnode")
    return result


def _run_node(writer: Writer, data: Any, inputs: dict[int, Any]) -> Value:
    if not isinstance(data, Table) or not inputs:
        raise ForeignFileError("a node of nn.gModule has no input")
    values = [inputs[key] for key in sorted(inputs)]
    value: Any = values[0] if len(values) == 1 else values
    select = data.get("selectindex")
    if select is not None:
        chosen: Value = value[int(select) - 1]
        return chosen
    inner = data.get("module")
    made: Value = writer(inner, value) if isinstance(inner, Object) else value
    return made


def _table(value: Any) -> Table:
    return value if isinstance(value, Table) else Table()
