"""Scaled dot-product attention (native/attention.inc).

torch's code generator leaves it to its host, also where it is written by hand: softmax(q @ kᵀ) @ v. In: an exported
graph. Out: every attention that the kernel can take as one operator, whose result lies in memory as what follows wants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from py_authoring.export.kernels.graph import depends_on_inputs, let_views_copy, looks_at_strides, only_user, put
from py_authoring.export.kernels.heads import read_as_they_lie

_aten = torch.ops.aten
_PRODUCTS = {_aten.matmul.default, _aten.bmm.default}
OPERATOR = "attention"
SOURCE = "attention.cpp"
LAYERS = {_aten.scaled_dot_product_attention.default}
#: By torch's rule for its name.
C_FUNCTION = """AOTITorchError aoti_torch_cpu_attention(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle,
AtenTensorHandle*, double, int32_t, int64_t, int32_t, AtenTensorHandle*)"""

torch.library.define(
    "rust_host::attention",
    "(Tensor query, Tensor key, Tensor value, Tensor? mask, float scale, bool causal, int order, bool none_is_nan)"
    " -> Tensor",
)
#: How the result [batch, heads, queries, size] lies in memory: the order of its axes, the last one always last.
_ORDERS = ([0, 1, 2, 3], [0, 2, 1, 3], [2, 0, 1, 3])


@torch.library.register_fake("rust_host::attention")  # type: ignore[untyped-decorator]
def _shape_of_result(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
    scale: float, causal: bool, order: int, none_is_nan: bool,
) -> Tensor:  # fmt: skip
    sizes, axes = (*query.shape[:3], value.shape[3]), _ORDERS[order]
    lying = query.new_empty([sizes[axis] for axis in axes])
    return lying.permute([axes.index(axis) for axis in range(4)])


def attention() -> Any:
    """The operator, for torch's table of those that have a C function."""
    return torch.ops.rust_host.attention.default


@dataclass
class _Attention:
    """What a graph computes: softmax(query·keyᵀ × scale + mask)·value.

    Attributes:
        mask: added, or, of truth values, what may be seen.
        nodes: what the operator replaces; the last one is the result.
        none_is_nan: whether a query that sees no key gets NaN, as by hand, or zeros, as torch's operator has it.
    """

    query: fx.Node
    key: fx.Node
    value: fx.Node
    mask: fx.Node | None
    scale: float
    nodes: list[fx.Node]
    causal: bool = False
    shares_heads: bool = False
    none_is_nan: bool = False


def replace(module: fx.GraphModule, lanes: int) -> int:
    """Puts the operator in the place of plain attentions, and returns how many there were.

    Plain: of float32, without dropout, `[batch, heads, n, size]` or `[batch, n, size]` with the same batch everywhere.
    The rest stays as it is.

    Args:
        module: a graph in functional form.
        lanes: floats in a vector of the processor that the code is for.
    """
    for node in list(module.graph.nodes):
        if node.target in LAYERS:
            read_as_they_lie(module, node)
    replaced = 0
    for node in list(module.graph.nodes):  # one after the other: what one makes, the next may take
        found = _of_call(node) if node.target in LAYERS else None
        if node.target == _aten.softmax.int:
            found = _by_hand(module, node)
        replaced += found is not None and _replace(module, found)
    if replaced:
        let_views_copy(module)
    return replaced


def _of_call(node: fx.Node) -> _Attention | None:
    given = {each.name: each.default_value for each in cast(Any, node.target)._schema.arguments}
    given |= dict(zip(given, node.args, strict=False)) | node.kwargs
    mask, scale = given["attn_mask"], given["scale"]
    query, key, value = (given[name] for name in ("query", "key", "value"))
    size = query.meta["val"].shape[-1]
    if scale is None and type(size) is int and size > 0:
        scale = size**-0.5
    if given["dropout_p"] != 0 or not isinstance(scale, float | int) or (mask is not None and given["is_causal"]):
        return None
    parts = (query, key, value, mask, float(scale), [node], bool(given["is_causal"]), bool(given["enable_gqa"]))
    return _Attention(*parts)


# From its softmax, backwards to the scores and on to the values. The scores must be nobody else's.
def _by_hand(module: fx.GraphModule, softmax: fx.Node) -> _Attention | None:
    weights, rank = softmax, softmax.meta["val"].dim()
    if softmax.args[1] not in (-1, rank - 1) or len(softmax.args) > 2 or softmax.kwargs:
        return None
    nodes = [softmax]
    if (dropout := only_user(weights)) is not None and dropout.target == _aten.clone.default and not dropout.kwargs:
        weights = dropout
        nodes.append(weights)
    result = only_user(weights)
    if result is None or result.target not in _PRODUCTS or result.args[0] is not weights or result.args[1] is weights:
        return None
    nodes.append(result)
    scores, mask, scale = cast(fx.Node, softmax.args[0]), None, 1.0
    while only_user(scores) is not None and scores.op == "call_function":
        nodes.insert(0, scores)
        if scores.target in _PRODUCTS:
            query, turned = (cast(fx.Node, each) for each in scores.args)
            key = _turned_back(turned)
            if key is None:
                return None
            found = (query, key, cast(fx.Node, result.args[1]), mask, scale, nodes)
            return _Attention(*found, none_is_nan=True)
        first, second = scores.args[:2] if len(scores.args) > 1 else (None, None)
        if scores.target in (_aten.mul.Tensor, _aten.div.Tensor) and isinstance(second, float | int) and second != 0:
            scale = scale * second if scores.target == _aten.mul.Tensor else scale / second
        elif mask is not None or scale != 1 or not isinstance(second, fx.Node) or second is first:
            return None  # a mask that is multiplied, too, or two
        elif not _are_alike(scores, cast(fx.Node, first)):
            return None  # the mask has more rows or heads than the scores
        elif (
            scores.target == _aten.add.Tensor
            and not scores.kwargs
            and _is_mask(second.meta.get("val"), rank, (torch.float32,))
        ):
            mask = second
        elif scores.target == _aten.masked_fill.Scalar and scores.args[2] == -torch.inf:
            if not _is_mask(second.meta.get("val"), rank, (torch.bool,)):
                return None
            with module.graph.inserting_before(softmax):
                mask = module.graph.call_function(_aten.logical_not.default, (second,))
            mask.meta["val"] = second.meta["val"]  # of the same sizes and datatype
        else:
            return None
        scores = cast(fx.Node, first)
    return None


# By their names: to compare free sizes would fix them.
def _are_alike(one: fx.Node, other: fx.Node) -> bool:
    return [*map(str, one.meta["val"].shape)] == [*map(str, other.meta["val"].shape)]


def _turned_back(node: fx.Node) -> fx.Node | None:
    if node.target == _aten.transpose.int:
        rank = node.meta["val"].dim()
        if {cast(int, axis) % rank for axis in node.args[1:]} == {rank - 2, rank - 1}:
            return cast(fx.Node, node.args[0])
    if node.target == _aten.permute.default and node.args[1] in ([0, 2, 1], [0, 1, 3, 2]):
        return cast(fx.Node, node.args[0])
    return None


def _replace(module: fx.GraphModule, found: _Attention) -> bool:
    parts, mask, last = [found.query, found.key, found.value], found.mask, found.nodes[-1]
    if not all(isinstance(part, fx.Node) for part in parts):
        return False
    if not _are_plain([part.meta.get("val") for part in parts], found.shares_heads):
        return False
    dims = parts[0].meta["val"].dim()
    if not any(map(depends_on_inputs, parts)) or (mask is not None and not _is_mask(mask.meta.get("val"), dims)):
        return False
    call = module.graph.call_function
    with module.graph.inserting_before(last):
        if mask is not None:
            mask = _added(module, mask, dims)
        parts = [_in_rows(module, part) for part in parts]
        if dims == 3:
            parts = [call(_aten.unsqueeze.default, (part, 1)) for part in parts]
        order = _order_wanted(last) if dims == 4 and not looks_at_strides(module) else 0
        new = call(attention(), (*parts, mask, found.scale, found.causal, order, found.none_is_nan))
        if dims == 3:
            new = call(_aten.squeeze.dim, (new, 1))
    put(module, new, found.nodes)
    return True


def _are_plain(values: list[Any], shares_heads: bool) -> bool:
    if not all(isinstance(value, Tensor) and value.dtype == torch.float32 for value in values):
        return False
    query, key, value = values
    if query.dim() not in (3, 4) or any(each.dim() != query.dim() or each.device.type != "cpu" for each in values):
        return False
    # by their names: to compare free sizes would fix them
    batches = {str(each.shape[0]) for each in values}
    if len(batches) != 1 or str(key.shape[-2]) != str(value.shape[-2]):
        return False
    if not all(type(each.shape[-1]) is int and each.shape[-1] > 0 for each in values):
        return False
    if query.dim() == 3:
        return True
    heads = [each.shape[1] for each in values]
    if not all(type(each) is int and each > 0 for each in heads) or heads[1] != heads[2]:
        return False
    return bool(heads[0] % heads[1] == 0 if shares_heads else heads[0] == heads[1])


def _is_mask(value: Any, dims: int, datatypes: tuple[torch.dtype, ...] = (torch.bool, torch.float32)) -> bool:
    return isinstance(value, Tensor) and value.dtype in datatypes and 2 <= value.dim() <= dims


# What is added to the scores, of four axes.
def _added(module: fx.GraphModule, mask: fx.Node, dims: int) -> fx.Node:
    value, call = mask.meta["val"], module.graph.call_function
    if value.dtype == torch.bool:
        mask = call(_aten.where.Scalar, (mask, 0.0, -torch.inf))
    for missing in range(4 - value.dim()):
        mask = call(_aten.unsqueeze.default, (mask, 1 if dims == 3 and missing == 0 and value.dim() == 3 else 0))
    return mask


# The kernel copies what is not in rows; fused into what makes it, the copy is cheaper.
def _in_rows(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    stride = node.meta["val"].stride()[-1]
    if type(stride) is int and stride == 1:
        return node
    return module.graph.call_function(_aten.contiguous.default, (node,))


def _order_wanted(node: fx.Node) -> int:
    user = only_user(node)
    if (
        user is not None
        and user.target == _aten.transpose.int
        and {cast(int, axis) % 4 for axis in user.args[1:]} == {1, 2}
    ):
        return 1
    if user is not None and user.target == _aten.permute.default and user.args[1] in _ORDERS:
        return _ORDERS.index(cast(Any, user.args[1]))
    return 0
