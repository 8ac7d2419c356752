"""Modules that take or give tables."""

from __future__ import annotations

from typing import Any

from py_authoring.importing.torch7.reader import Object
from py_authoring.importing.torch7.writing import Node, Value, Writer, module

_INFIX = {"CAddTable": "+", "CSubTable": "-", "CMulTable": "*", "CDivTable": "/"}


@module(*_INFIX)
def arithmetic(writer: Writer, each: Object, values: list[Node]) -> Value:
    """All of a table by one operator."""
    sign = _INFIX[each.name.rpartition(".")[2]]
    return writer.define("total", f" {sign} ".join(value.text for value in values), *values)


@module("CMaxTable", "CMinTable")
def extreme(writer: Writer, each: Object, values: list[Node]) -> Value:
    """The largest or smallest of a table, element by element."""
    function = "torch.maximum" if "Max" in each.name else "torch.minimum"
    result = values[0]
    for value in values[1:]:
        result = writer.define("extreme", f"{function}({result.text}, {value.text})", result, value)
    return result


@module("JoinTable")
def join(writer: Writer, each: Object, values: list[Node]) -> Value:
    """A table's tensors one after the other."""
    axis = axis_of(each, values[0], "dimension")
    return writer.define("joined", f"torch.cat([{', '.join(value.text for value in values)}], {axis})", *values)


@module("SplitTable")
def split(writer: Writer, each: Object, value: Node) -> Value:
    """The slices of a dimension as a table."""
    axis = axis_of(each, value, "dimension")
    count = value.example.shape[axis]
    return [writer.define("part", f"{value.text}.select({axis}, {position})", value) for position in range(count)]


@module("SelectTable")
def select(writer: Writer, each: Object, values: list[Any]) -> Value:
    """One of a table; negative numbers count from its end."""
    index = int(each.get("index"))
    return values[index - 1 if index > 0 else index]  # type: ignore[no-any-return]


@module("NarrowTable")
def narrow(writer: Writer, each: Object, values: list[Any]) -> Value:
    """A part of a table."""
    start = int(each.get("offset")) - 1
    return values[start : start + int(each.get("length", 1))]


@module("FlattenTable")
def flatten(writer: Writer, each: Object, values: list[Value]) -> list[Value]:
    """A table of tables as one."""
    found: list[Value] = []
    for value in values:
        writer.step()
        found.extend(flatten(writer, each, value) if isinstance(value, list) else [value])
    return found


@module("MM")
def matmul(writer: Writer, each: Object, values: list[Node]) -> Value:
    """A product of two matrices, or of two batches of them."""
    one, two = values
    first = f"{one.text}.transpose(-1, -2)" if each.get("transA") else one.text
    second = f"{two.text}.transpose(-1, -2)" if each.get("transB") else two.text
    return writer.define("product", f"torch.matmul({first}, {second})", one, two)


@module("DotProduct")
def dot(writer: Writer, each: Object, values: list[Node]) -> Value:
    """Products of rows."""
    one, two = values
    return writer.define("product", f"({one.text} * {two.text}).sum(-1)", one, two)


def axis_of(each: Object, value: Node, key: str) -> int:
    """A dimension counted from 1, or from the end, moved by one where the input has a batch beside `nInputDims`."""
    place = int(each.get(key))
    inner = each.get("nInputDims", each.get("numInputDims", each.get("nInputDim")))
    if place < 0:
        return place + value.rank
    moved = inner is not None and int(inner) > 0 and value.rank == int(inner) + 1
    return place - 1 + (1 if moved else 0)
