"""Sums along an axis, sorting, the largest of many (native/order.cpp).

torch's code generator leaves them to its host. In: an exported graph, which stays as it is. The kernel has the names by
which generated code asks its host: linked in, it answers in its place.
"""

from __future__ import annotations

from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

_aten = torch.ops.aten
OPERATOR = None
SOURCE = "order.cpp"
_GIVES_VALUES = {_aten.sort.default, _aten.sort.stable}
_SORTS = {*_GIVES_VALUES, _aten.argsort.default, _aten.argsort.stable}
LAYERS = {*_SORTS, _aten.topk.default, _aten.cumsum.default, _aten.cumprod.default}
_NUMBERS = {torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool}


def replace(module: fx.GraphModule, lanes: int) -> int:
    """How many calls there are that the kernel answers.

    None where one is of numbers that it does not know, or gives the places of equal numbers as torch's sort that is not
    stable happens to have them, which is another order on another processor.

    Args:
        module: a graph.
        lanes: floats in a vector of the processor that the code is for.
    """
    calls = [node for node in module.graph.nodes if node.target in LAYERS]
    return len(calls) if all(_is_known(node) and _has_one_order(node) for node in calls) else 0


def _is_known(node: fx.Node) -> bool:
    results: Any = node.meta.get("val")
    values = [each.meta.get("val") for each in node.all_input_nodes]
    values += results if isinstance(results, (tuple, list)) else [results]
    return all(value.dtype in _NUMBERS for value in values if isinstance(value, Tensor))


def _has_one_order(node: fx.Node) -> bool:
    if node.target not in _SORTS or node.kwargs.get("stable"):
        return True
    is_values = [user.target == getitem and user.args[1] == 0 for user in node.users]
    return node.target in _GIVES_VALUES and all(is_values)
