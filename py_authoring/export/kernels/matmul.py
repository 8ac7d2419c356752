"""Products of matrices that both depend on inputs (native/matmul.inc).

torch's code generator leaves them to its host where a size is free. In: an exported graph, which stays as it is. The
kernel has the names by which generated code asks its host: linked in, it answers in its place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from py_authoring.export.kernels.graph import constant

_aten = torch.ops.aten
OPERATOR = None
SOURCE = "matmul.cpp"
LAYERS = {
    getattr(_aten, name).default
    for name in ("matmul", "bmm", "mm", "addmm", "baddbmm", "addbmm", "einsum", "bilinear", "tensordot", "linear")
}


def replace(module: fx.GraphModule, lanes: int) -> int:
    """How many products there may be that the kernel answers.

    None in a graph that computes in other floats, too: any layer of it may become a product under the same names.

    Args:
        module: a graph.
        lanes: floats in a vector of the processor that the code is for.
    """
    calls = [node for node in module.graph.nodes if node.op == "call_function"]
    return sum(_is_product(module, node) for node in calls) if all(map(_is_plain, calls)) else 0


# Constant weights of a linear layer the code generator multiplies with itself.
def _is_product(module: fx.GraphModule, node: fx.Node) -> bool:
    return node.target in LAYERS and not (
        node.target == _aten.linear.default and constant(module, node.args[1]) is not None
    )


def _is_plain(node: fx.Node) -> bool:
    values: list[Any] = [each.meta.get("val") for each in (node, *node.all_input_nodes)]
    return all(
        value.device.type == "cpu" and (value.dtype == torch.float32 or not value.is_floating_point())
        for value in values
        if isinstance(value, Tensor)
    )
