"""torch's nn.MultiheadAttention without the copies that it makes: words before the batch, and query, key, value apart.

In: an exported graph with its attention as one node. Out: the same with views in their place, which the kernel reads as
they lie, and both linear layers on [batch, words, size].
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import fx

from py_authoring.export.kernels.graph import only_user

_aten = torch.ops.aten
_VIEWS = {_aten.view.default, _aten.reshape.default}
_BETWEEN = _VIEWS | {_aten.select.int, _aten.squeeze.dim, _aten.transpose.int, _aten.unsqueeze.default}


def read_as_they_lie(module: fx.GraphModule, attention: fx.Node) -> None:
    """Changes what goes into `scaled_dot_product_attention` and comes out of it where it is torch's own layer's."""
    for place in range(3):
        _split_heads(module, attention, place)
    _project_batch_first(module, attention)
    module.graph.eliminate_dead_code()


def _is(node: Any, targets: Any, *args: Any) -> bool:
    return isinstance(node, fx.Node) and node.target in targets and node.args[1:] == args


def _sizes(node: fx.Node) -> list[str]:
    return [str(size) for size in node.meta["val"].shape]  # to compare free sizes themselves would fix them


# [words, batch, size] → view [words, batch × heads, head's size] → transpose → view [batch, heads, words, head's size]:
# of a part of something that cannot be views, without the step over batch × heads it can.
def _split_heads(module: fx.GraphModule, attention: fx.Node, place: int) -> None:
    last = cast(fx.Node, attention.args[place])
    if last.target not in _VIEWS or not _is(turned := last.args[0], {_aten.transpose.int}, 0, 1):
        return
    merged = cast(fx.Node, cast(fx.Node, turned).args[0])
    if merged.target not in _VIEWS:
        return
    start = cast(fx.Node, merged.args[0])
    if start.meta["val"].dim() != 3 or merged.meta["val"].dim() != 3 or last.meta["val"].dim() != 4:
        return
    (words, batch, _), (batch_too, _, words_too, _) = _sizes(start), _sizes(last)
    heads, size = last.meta["val"].shape[1], last.meta["val"].shape[3]
    if (words, batch) != (words_too, batch_too) or start.meta["val"].shape[2] != heads * size:
        return
    if (_sizes(merged)[0], _sizes(merged)[2]) != (words, str(size)):
        return
    sizes = cast(Any, last.args[1])
    graph = module.graph
    with graph.inserting_before(attention):
        split = graph.call_function(_aten.reshape.default, (_unpacked(start), [sizes[2], sizes[0], heads, size]))
        new = graph.call_function(_aten.permute.default, (split, [1, 2, 0, 3]))
    new.meta["val"] = last.meta["val"]
    attention.update_arg(place, new)
    _project_first(module, start)


# The part of a projection before it is copied together with the others.
def _unpacked(part: fx.Node) -> fx.Node:
    if part.target == _aten.select.int:
        copy = cast(fx.Node, part.args[0])
        if copy.target == _aten.clone.default:
            part.update_arg(0, copy.args[0])
    return part


# linear(transpose(x)) → transpose(linear(x)), behind a part: without a copy of x.
def _project_first(module: fx.GraphModule, part: fx.Node) -> None:
    linear = part
    while linear.target != _aten.linear.default:
        if linear.op != "call_function" or linear.target not in _BETWEEN:
            return
        linear = cast(fx.Node, linear.args[0])
    turned = linear.args[0]
    if not _is(turned, {_aten.transpose.int}, 1, 0) and not _is(turned, {_aten.transpose.int}, 0, 1):
        return
    if cast(fx.Node, turned).meta["val"].dim() != 3:
        return
    graph = module.graph
    with graph.inserting_before(linear):
        x = cast(fx.Node, cast(fx.Node, turned).args[0])
        new = graph.call_function(_aten.linear.default, (x, *linear.args[1:]), linear.kwargs)
        back = graph.call_function(_aten.transpose.int, (new, 1, 0))
    new.meta["val"], back.meta["val"] = linear.meta["val"].transpose(0, 1), linear.meta["val"]
    linear.replace_all_uses_with(back)


# Behind it: permute to [words, batch, …], view, linear, view, transpose to [batch, words, …].
def _project_batch_first(module: fx.GraphModule, attention: fx.Node) -> None:
    chain = [attention]
    while len(chain) < 6:
        following = only_user(chain[-1])
        if following is None:
            return
        chain.append(following)
    _, permuted, merged, linear, split, turned = chain
    fits = _is(permuted, {_aten.permute.default}, [2, 0, 1, 3]) and merged.target in _VIEWS and split.target in _VIEWS
    if not fits or linear.target != _aten.linear.default or linear.args[0] is not merged:
        return
    if not _is(turned, {_aten.transpose.int}, 1, 0) and not _is(turned, {_aten.transpose.int}, 0, 1):
        return
    if split.meta["val"].dim() != 3 or permuted.meta["val"].dim() != 4:
        return
    heads, size = permuted.meta["val"].shape[2:]
    words, batch, _ = _sizes(split)
    if _sizes(permuted)[:2] != [words, batch] or merged.meta["val"].shape[-1] != heads * size:
        return
    graph, sizes = module.graph, cast(Any, split.args[1])
    with graph.inserting_before(linear):
        rows = graph.call_function(_aten.transpose.int, (attention, 1, 2))
        joined = graph.call_function(_aten.reshape.default, (rows, [sizes[1], sizes[0], heads * size]))
        new = graph.call_function(_aten.linear.default, (joined, *linear.args[1:]), linear.kwargs)
    rows.meta["val"] = attention.meta["val"].transpose(1, 2)
    joined.meta["val"] = rows.meta["val"].flatten(2)
    new.meta["val"] = turned.meta["val"]
    turned.replace_all_uses_with(new)
