"""Nodes of an exported graph as the kernels need them: constants, who uses what, one node in the place of several."""

from __future__ import annotations

from itertools import count
from operator import getitem
from typing import Any, cast

import torch
from torch import Tensor, fx

#: A key of `meta`: a linear layer that is to be the kernel's, however small, as nothing around it could take it in.
OWN_LINEAR = "rust_host_own_linear"


def constant(module: fx.GraphModule, node: Any) -> Tensor | None:
    """The tensor that a node stands for, if it is a weight or buffer, or a part of one."""
    if not isinstance(node, fx.Node):
        return None
    if node.target == getitem and _is_split(node.args[0]):
        parts: Any = node.args[0]
        whole = constant(module, parts.args[0])
        return None if whole is None else torch.split(whole, *parts.args[1:])[cast(int, node.args[1])]
    if node.op != "get_attr":
        return None
    value: Any = module
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value.detach() if isinstance(value, Tensor) else None


def _is_split(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target == torch.ops.aten.split_with_sizes.default


def add_constant(module: fx.GraphModule, value: Tensor) -> fx.Node:
    """A node for a tensor that the module gets; the graph's insertion point says where."""
    name = next(name for number in count() if not hasattr(module, name := f"packed_{number}"))
    module.register_buffer(name, value)
    return module.graph.get_attr(name)


def depends_on_inputs(node: fx.Node) -> bool:
    """What depends on constants alone, torch computes while it compiles; our operators have nothing for that."""
    seen: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if each.op == "placeholder":
            return True
        waiting += [before for before in each.all_input_nodes if before not in seen]
        seen.update(each.all_input_nodes)
    return False


def let_views_copy(module: fx.GraphModule) -> None:
    """What our operators made may lie in memory as no view can split it; reshape copies where it must."""
    for node in module.graph.nodes:
        if node.target == torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default


def looks_at_strides(module: fx.GraphModule) -> bool:
    """Whether something takes numbers by where they lie, which is elsewhere behind an operator of ours."""
    return any(node.target == torch.ops.aten.as_strided.default for node in module.graph.nodes)


def only_user(node: fx.Node) -> fx.Node | None:
    """What alone uses a node, or nothing."""
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def put(module: fx.GraphModule, new: fx.Node, replaced: list[fx.Node]) -> None:
    """The new node in the place of those, of which the last is used elsewhere."""
    new.meta["val"] = replaced[-1].meta["val"]
    replaced[-1].replace_all_uses_with(new)
    for each in reversed(replaced):
        module.graph.erase_node(each)
