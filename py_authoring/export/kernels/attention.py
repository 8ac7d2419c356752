"""Scaled dot-product attention (native/attention.inc).

torch's code generator leaves it to its host. In: an exported graph. Out: every attention that the kernel can take as
one operator, whose result lies in memory as what follows wants it.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, fx

from py_authoring.export.kernels.graph import depends_on_inputs, let_views_copy, only_user, put

_aten = torch.ops.aten
OPERATOR = "attention"
SOURCE = "attention.cpp"
LAYERS = {_aten.scaled_dot_product_attention.default}
#: By torch's rule for its name.
C_FUNCTION = """AOTITorchError aoti_torch_cpu_attention(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle,
AtenTensorHandle*, double, int32_t, int64_t, AtenTensorHandle*)"""

torch.library.define(
    "rust_host::attention",
    "(Tensor query, Tensor key, Tensor value, Tensor? mask, float scale, bool causal, int order) -> Tensor",
)
#: How the result [batch, heads, queries, size] lies in memory: the order of its axes, the last one always last.
_ORDERS = ([0, 1, 2, 3], [0, 2, 1, 3], [2, 0, 1, 3])


@torch.library.register_fake("rust_host::attention")  # type: ignore[untyped-decorator]
def _shape_of_result(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, causal: bool, order: int
) -> Tensor:
    sizes, axes = (*query.shape[:3], value.shape[3]), _ORDERS[order]
    lying = query.new_empty([sizes[axis] for axis in axes])
    return lying.permute([axes.index(axis) for axis in range(4)])


def attention() -> Any:
    """The operator, for torch's table of those that have a C function."""
    return torch.ops.rust_host.attention.default


def replace(module: fx.GraphModule, lanes: int) -> int:
    """Puts the operator in the place of plain attentions, and returns how many there were.

    Plain: of float32, without dropout, `[batch, heads, n, size]` or `[batch, n, size]` with the same batch everywhere.
    The rest stays as it is.

    Args:
        module: a graph in functional form.
        lanes: floats in a vector of the processor that the code is for.
    """
    attentions = [node for node in module.graph.nodes if node.op == "call_function" and node.target in LAYERS]
    found = sum(_replace(module, node) for node in attentions)
    if found:
        let_views_copy(module)
    return found


def _replace(module: fx.GraphModule, node: fx.Node) -> bool:
    given = {each.name: each.default_value for each in cast(Any, node.target)._schema.arguments}
    given |= dict(zip(given, node.args, strict=False)) | node.kwargs
    parts = [cast(fx.Node, given[name]) for name in ("query", "key", "value")]
    if not _are_plain([part.meta.get("val") for part in parts], given["enable_gqa"]):
        return False
    mask, dims = given["attn_mask"], parts[0].meta["val"].dim()
    if given["dropout_p"] != 0 or not any(map(depends_on_inputs, parts)):
        return False
    if mask is not None and (given["is_causal"] or not _is_mask(mask.meta.get("val"), dims)):
        return False
    size = parts[0].meta["val"].shape[-1]
    scale = size**-0.5 if given["scale"] is None else given["scale"]
    if not isinstance(scale, float | int):
        return False
    call = module.graph.call_function
    with module.graph.inserting_before(node):
        if mask is not None:
            mask = _added(module, mask, dims)
        parts = [_in_rows(module, part) for part in parts]
        if dims == 3:
            parts = [call(_aten.unsqueeze.default, (part, 1)) for part in parts]
        order = _order_wanted(node) if dims == 4 else 0
        new = call(attention(), (*parts, mask, float(scale), bool(given["is_causal"]), order))
        if dims == 3:
            new = call(_aten.squeeze.dim, (new, 1))
    put(module, new, [node])
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


def _is_mask(value: Any, dims: int) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.bool, torch.float32) and 2 <= value.dim() <= dims


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
