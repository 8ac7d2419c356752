"""LSTM layers (native/lstm_steps.inc).

torch's code generator leaves them to its host's oneDNN. In: an exported graph. Out: each layer as one linear layer,
which is the input's share of the gates for all steps and both directions, and one operator for the steps.
"""

from __future__ import annotations

from operator import getitem
from typing import Any, cast

import torch
from torch import Tensor, fx

from py_authoring.export.kernels.graph import OWN_LINEAR, add_constant, constant, depends_on_inputs

_aten = torch.ops.aten
OPERATOR = "lstm_layer"
SOURCE = "lstm.cpp"
LAYERS = {_aten.lstm.input}
#: By torch's rule for its name.
C_FUNCTION = """AOTITorchError aoti_torch_cpu_lstm_layer(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle*,
AtenTensorHandle*, int64_t, int64_t, int32_t, AtenTensorHandle*, AtenTensorHandle*)"""

torch.library.define(
    "rust_host::lstm_layer",
    "(Tensor gates, Tensor weight, Tensor? h, Tensor? c, int hidden, int directions, bool batch_first)"
    " -> (Tensor, Tensor)",
)


@torch.library.register_fake("rust_host::lstm_layer")  # type: ignore[untyped-decorator]
def _shapes_of_results(
    gates: Tensor, weight: Tensor, h: Tensor | None, c: Tensor | None, hidden: int, directions: int, batch_first: bool
) -> tuple[Tensor, Tensor]:
    first, second, _ = gates.shape
    batch = first if batch_first else second
    out = gates.new_empty((first, second, directions * hidden))
    return out, gates.new_empty((2, directions, batch, hidden))


def lstm_layer() -> Any:
    """The operator, for torch's table of those that have a C function."""
    return torch.ops.rust_host.lstm_layer.default


def pack(weight: Tensor, lanes: int) -> Tensor:
    """Weights of the state in the order in which the kernel needs them.

    Args:
        weight: torch's `weight_hh`, float32 `[4 × hidden, hidden]`.
        lanes: floats in a vector.

    Returns:
        float32 `[groups × hidden × 4 × lanes]`; a group is `lanes` units of the state, the last filled up with zeros.
    """
    hidden = weight.shape[1]
    return in_groups(weight, lanes).view(-1, 4 * lanes, hidden).transpose(1, 2).reshape(-1)


def in_groups(gates: Tensor, lanes: int) -> Tensor:
    """What belongs to gates, `[4 × hidden, …]`, in the kernel's order of them: `[groups × 4 × lanes, …]`."""
    hidden = gates.shape[0] // 4
    groups = -(-hidden // lanes)
    padded = gates.new_zeros(4, groups * lanes, *gates.shape[1:])
    padded[:, :hidden] = gates.reshape(4, hidden, *gates.shape[1:])
    return padded.view(4, groups, lanes, *gates.shape[1:]).transpose(0, 1).flatten(0, 2)


def replace(module: fx.GraphModule, lanes: int) -> int:
    """Puts the operator in the place of LSTMs, and returns how many there were.

    Of float32, with constant weights, without projections; the rest stays as it is.

    Args:
        module: a graph in functional form.
        lanes: floats in a vector of the processor that the code is for.
    """
    nodes = [node for node in module.graph.nodes if node.op == "call_function" and node.target == _aten.lstm.input]
    return sum(_replace(module, node, lanes) for node in nodes)


def _replace(module: fx.GraphModule, node: fx.Node, lanes: int) -> bool:
    x, states, given, has_biases, count, dropout, train, both, batch_first = cast(Any, node.args)
    weights, directions = [constant(module, each) for each in given], 2 if both else 1
    each = 4 if has_biases else 2  # a projection is one more
    if len(weights) != each * count * directions or (train and dropout) or not depends_on_inputs(x):
        return False
    if not all(map(_is_plain, [x.meta["val"], *(state.meta.get("val") for state in states), *weights])):
        return False
    layers = [cast(list[Tensor], weights[at : at + each]) for at in range(0, len(weights), each)]
    with module.graph.inserting_before(node):
        lasts = []
        for at in range(0, len(layers), directions):
            own = layers[at : at + directions]
            parts = [_state(module, state, own, at, len(layers)) for state in states]
            x, last = _layer(module, x, parts, own, batch_first, lanes)
            lasts.append(last)
        results = [x]
        for kind in range(2):  # h and c
            ends = [_call(module, _aten.select.int, last, 0, kind) for last in lasts]
            results.append(ends[0] if count == 1 else _call(module, _aten.cat.default, ends))
    for user in list(node.users):
        user.replace_all_uses_with(results[cast(int, user.args[1])])
        module.graph.erase_node(user)
    module.graph.erase_node(node)
    return True


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float32 and value.device.type == "cpu"


# The nodes of a layer's states and of its last ones, of both directions; `own` are torch's weights and biases of each.
def _layer(
    module: fx.GraphModule, x: fx.Node, states: list[fx.Node | None], own: list[list[Tensor]],
    batch_first: bool, lanes: int,
) -> tuple[fx.Node, fx.Node]:  # fmt: skip
    shares = [torch.cat([in_groups(parts[0], lanes) for parts in own])]
    if len(own[0]) > 2:
        shares.append(torch.cat([in_groups(parts[2] + parts[3], lanes) for parts in own]))
    constants = [add_constant(module, share) for share in shares]
    weight = add_constant(module, torch.cat([pack(parts[1], lanes) for parts in own]))
    gates = module.graph.call_function(_aten.linear.default, (x, *constants))
    gates.meta[OWN_LINEAR] = True
    value = x.meta["val"]
    gates.meta["val"] = value.new_empty((*value.shape[:-1], shares[0].shape[0]))
    sizes = (own[0][1].shape[1], len(own), batch_first)
    done = module.graph.call_function(lstm_layer(), (gates, weight, *states, *sizes))
    done.meta["val"] = _shapes_of_results(gates.meta["val"], value, None, None, *sizes)
    return _call(module, getitem, done, 0), _call(module, getitem, done, 1)


# The layer's part of a state of `count`; none where it is zero: then the first step has nothing to multiply. (A weight
# that is no number makes none of a zero, too.)
def _state(module: fx.GraphModule, state: fx.Node, own: list[list[Tensor]], begin: int, count: int) -> fx.Node | None:
    if state.target == _aten.zeros.default and all(bool(parts[1].isfinite().all()) for parts in own):
        return None
    if len(own) == count:
        return state
    return _call(module, _aten.slice.Tensor, state, 0, begin, begin + len(own))


# With what its result looks like, which the kernels that come after this one ask for.
def _call(module: fx.GraphModule, target: Any, *args: Any) -> fx.Node:
    new = module.graph.call_function(target, args)
    new.meta["val"] = target(*fx.node.map_arg(args, lambda each: each.meta["val"]))
    return new
