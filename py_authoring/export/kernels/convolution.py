"""Convolutions and linear layers (native/convolution.inc, native/depthwise.inc).

torch's code generator leaves convolutions to its host, whose oneDNN prepares each call anew: for a small layer that
takes longer than its numbers. Its own matrix product is half as fast as it could be, because g++ 12 keeps the sums on
the stack. In: an exported graph. Out: every plain convolution and linear layer, and the batch normalisation, addition
and relu behind it, as one operator. A linear layer is a convolution of one row of pixels, a row of numbers a picture of
one line, and a transposed convolution an ordinary one that has an output for each place between its pixels.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from operator import getitem, mul
from typing import Any, cast

import torch
from torch import Tensor, fx

from py_authoring.export.kernels.graph import (
    OWN_LINEAR,
    add_constant,
    constant,
    depends_on_inputs,
    let_views_copy,
    looks_at_strides,
    only_user,
    put,
)

_aten = torch.ops.aten
OPERATOR = "direct_convolution"
SOURCE = "convolution.cpp"
_CONVOLUTIONS = {_aten.conv1d.default, _aten.conv1d.padding, _aten.conv2d.default, _aten.conv2d.padding}
_TRANSPOSED = {_aten.conv_transpose1d.default, _aten.conv_transpose2d.input}
LAYERS = {*_CONVOLUTIONS, *_TRANSPOSED, _aten.linear.default}
#: By torch's rule for its name.
C_FUNCTION = """AOTITorchError aoti_torch_cpu_direct_convolution(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle,
AtenTensorHandle*, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int32_t,
AtenTensorHandle*)"""

torch.library.define(
    "rust_host::direct_convolution",
    "(Tensor x, Tensor weight, Tensor bias, Tensor? other, int outputs, int kernel_h, int kernel_w, int stride_h,"
    " int stride_w, int padding_h, int padding_w, int dilation_h, int dilation_w, int groups, bool relu) -> Tensor",
)
_POOLINGS = {_aten.max_pool2d.default, _aten.avg_pool2d.default, _aten.adaptive_avg_pool2d.default}
# What keeps the order of a picture's numbers in memory; dropout is a clone in evaluation.
_KEEPS_LAYOUT = {*_POOLINGS, _aten.relu.default, _aten.clone.default}
_FLATTENS = {_aten.view.default, _aten.reshape.default, _aten.flatten.using_ints}
# A linear layer of fewer weights is faster among the code around it; of many rows, one of fewer still is not.
_FEWEST_WEIGHTS, _FEWEST_FOR_MANY_ROWS, _MANY_ROWS = 16_384, 1_024, 32
# As native/convolution.inc goes through them.
_MOST_CHANNELS_AT_ONCE, _CHANNELS_AT_ONCE = 256, 128


@torch.library.register_fake("rust_host::direct_convolution")  # type: ignore[untyped-decorator]
def _shape_of_result(
    x: Tensor, weight: Tensor, bias: Tensor, other: Tensor | None, outputs: int,
    kernel_h: int, kernel_w: int, stride_h: int, stride_w: int, padding_h: int, padding_w: int,
    dilation_h: int, dilation_w: int, groups: int, relu: bool,
) -> Tensor:  # fmt: skip
    n, _, height, width = x.shape
    out_h = (height + 2 * padding_h - dilation_h * (kernel_h - 1) - 1) // stride_h + 1
    out_w = (width + 2 * padding_w - dilation_w * (kernel_w - 1) - 1) // stride_w + 1
    return x.new_empty((n, out_h, out_w, outputs)).permute(0, 3, 1, 2)


def direct_convolution() -> Any:
    """The operator, for torch's table of those that have a C function."""
    return torch.ops.rust_host.direct_convolution.default


def pack(weight: Tensor, lanes: int, groups: int = 1) -> Tensor:
    """Weights in the order in which the kernel needs them.

    Args:
        weight: float32 `[outputs, channels of a group, h, w]`.
        lanes: floats in a vector.
        groups: of the convolution.

    Returns:
        float32 `[groups × vectors × channels × h × w × lanes]`; whole tiles of vectors for each group, the last one
        filled up with zeros. With a kernel for each channel, `[h × w × channels]`.
    """
    if _is_depthwise(weight, lanes, groups):
        return weight[:, 0].permute(1, 2, 0).clone(memory_format=torch.contiguous_format).flatten()
    return torch.cat([_pack_group(each, lanes) for each in weight.chunk(groups)])


def _pack_group(weight: Tensor, lanes: int) -> Tensor:
    outputs, channels, height, width = weight.shape
    padded = weight.new_zeros(_filled(outputs, lanes), channels, height, width)
    padded[:outputs] = weight
    vectors = padded.view(-1, lanes, channels, height, width)
    at_once = channels if channels <= _MOST_CHANNELS_AT_ONCE else _CHANNELS_AT_ONCE
    parts = torch.split(vectors, at_once, dim=2)
    return torch.cat([part.permute(0, 3, 4, 2, 1).flatten(1) for part in parts], dim=1).flatten()


def fill(bias: Tensor, weight: Tensor, lanes: int, groups: int = 1) -> Tensor:
    """A bias for every channel of the vectors of `pack`."""
    if _is_depthwise(weight, lanes, groups):
        return bias.clone(memory_format=torch.contiguous_format)
    outputs = bias.shape[0] // groups
    filled = bias.new_zeros(groups, _filled(outputs, lanes))
    filled[:, :outputs] = bias.view(groups, outputs)
    return filled.flatten()


# Groups of fewer outputs than a vector has places oneDNN computes in a quarter of the time.
def _fills_vectors(weight: Tensor, lanes: int, groups: int) -> bool:
    return groups == 1 or weight.shape[0] // groups >= lanes or _is_depthwise(weight, lanes, groups)


# As `is_depthwise` of native/depthwise.inc has it.
def _is_depthwise(weight: Tensor, lanes: int, groups: int) -> bool:
    return weight.shape[0] == groups >= lanes and weight.shape[1] == 1


# The outputs of whole tiles, which are up to four vectors wide.
def _filled(outputs: int, lanes: int) -> int:
    tile = (4 if outputs > 2 * lanes else 2) * lanes
    return -(-outputs // tile) * tile


def replace(module: fx.GraphModule, lanes: int) -> int:
    """Puts the operator in the place of plain layers, and returns how many there were.

    Plain: of float32, with constant weights; convolutions of pictures, or rows, in a batch, in groups that fill a
    vector or are single channels, transposed ones without groups and dilation; linear layers that are not tiny. The
    rest stays as it is.

    Args:
        module: a graph in functional form: nothing is written to between a layer and what goes into it.
        lanes: floats in a vector of the processor that the code is for.
    """
    nodes = [] if looks_at_strides(module) else list(module.graph.nodes)
    found = sum(_replace_convolution(module, node, lanes) for node in nodes if node.target in _CONVOLUTIONS)
    found += sum(_replace_transposed(module, node, lanes) for node in nodes if node.target in _TRANSPOSED)
    let_views_copy(module)
    for node in list(module.graph.nodes):
        _flatten_as_it_lies(module, node)
    linears = [node for node in module.graph.nodes if node.target == _aten.linear.default]
    found += sum(_replace_linear(module, node, lanes) for node in linears)
    return found


def _pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (int(values[0]), int(values[-1]))


@dataclass
class _Convolution:
    """What a convolution of pictures is made with; of rows, as pictures of one line."""

    picture: fx.Node
    is_row: bool
    weight: Tensor
    bias: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    beyond: tuple[int, int] = (0, 0)
    """More padding below and on the right; for a transposed one, more of the result there."""

    def normed(self, scale: Tensor, shift: Tensor, axis: int = 0) -> None:
        """With a factor and a summand for each output, which that axis of the weights has."""
        self.weight = self.weight * scale.view([-1 if each == axis else 1 for each in range(4)])
        self.bias = self.bias * scale + shift


# That of a layer that the kernel can compute.
def _parameters(module: fx.GraphModule, node: fx.Node) -> _Convolution | None:
    arguments = dict(zip((each.name for each in cast(Any, node.target)._schema.arguments), node.args, strict=False))
    arguments |= node.kwargs
    picture = cast(fx.Node, arguments["input"])
    weight, given, value = constant(module, arguments["weight"]), arguments.get("bias"), picture.meta.get("val")
    bias = constant(module, given)
    if weight is None or (given is not None and not _is_bias(bias)) or value is None or value.dim() != weight.dim():
        return None
    if not depends_on_inputs(picture) or not all(type(size) is int for size in value.shape[1:2]):
        return None
    if not weight.dtype == value.dtype == torch.float32 or not weight.device.type == value.device.type == "cpu":
        return None
    groups, is_row, is_transposed = cast(int, arguments.get("groups", 1)), weight.dim() == 3, node.target in _TRANSPOSED
    if bias is None:
        bias = weight.new_zeros(weight.shape[1] * groups if is_transposed else weight.shape[0])
    if is_row:
        weight = weight.unsqueeze(2)
    stride, dilation = (_across(arguments.get(name, 1), 1, is_row) for name in ("stride", "dilation"))
    padding, beyond = arguments.get("padding", 0), _across(arguments.get("output_padding", 0), 0, is_row)
    if padding == "same":
        lengths = [each * (size - 1) for each, size in zip(dilation, weight.shape[2:], strict=True)]
        padding, beyond = [length // 2 for length in lengths], (lengths[0] % 2, lengths[1] % 2)
    padding = _across(0 if padding == "valid" else padding, 0, is_row)
    return _Convolution(picture, is_row, weight, bias, stride, padding, dilation, groups, beyond)


# Of height and width; a row has a height that nothing moves over.
def _across(value: Any, of_height: int, is_row: bool) -> tuple[int, int]:
    height, width = _pair(value)
    return (of_height, width) if is_row else (height, width)


def _is_bias(value: Tensor | None) -> bool:
    return value is not None and value.dim() == 1 and value.dtype == torch.float32


def _replace_convolution(module: fx.GraphModule, node: fx.Node, lanes: int) -> bool:
    found = _parameters(module, node)
    if found is None or not _fills_vectors(found.weight, lanes, found.groups):
        return False
    replaced = [node]
    if (normed := _normalisation(module, node)) is not None:
        nodes, scale, shift = normed
        replaced += nodes
        found.normed(scale, shift)
    other, relu = _what_follows(replaced)
    graph = module.graph
    with graph.inserting_before(replaced[-1]):
        pictures = [None if each is None else _as_picture(graph, each, found) for each in (found.picture, other)]
        if any(found.beyond):
            added = [0, found.beyond[1], 0, found.beyond[0]]
            pictures[0] = graph.call_function(_aten.constant_pad_nd.default, (pictures[0], added))
        lying = [None if each is None else _channels_last(module, each) for each in pictures]
        new = _call(module, lying[0], lying[1], found, relu, lanes)
        if found.is_row:
            new = graph.call_function(_aten.squeeze.dim, (new, 2))
    put(module, new, replaced)
    return True


def _as_picture(graph: fx.Graph, node: fx.Node, found: _Convolution) -> fx.Node:
    return graph.call_function(_aten.unsqueeze.default, (node, 2)) if found.is_row else node


# Output o of a transposed convolution is the sum of input i × tap t with o + padding = i × stride + t. Those o that
# leave the same rest are an ordinary convolution with every stride-th tap; all of them are one, with stride² times the
# outputs, which are then put beside one another.
def _replace_transposed(module: fx.GraphModule, node: fx.Node, lanes: int) -> bool:
    found = _parameters(module, node)
    if found is None or found.groups != 1 or found.dilation != (1, 1):
        return False
    replaced = [node]
    if (normed := _normalisation(module, node)) is not None:
        nodes, scale, shift = normed
        replaced += nodes
        found.normed(scale, shift, axis=1)
    following = only_user(replaced[-1])
    if relu := following is not None and following.target == _aten.relu.default:
        replaced.append(following)
    graph, outputs = module.graph, found.bias.shape[0]
    sizes, strides = found.weight.shape[2:], found.stride
    # how many of the ordinary one, so that they reach the last output
    taps = [
        max(-(-size // stride), -(-(size - pad + beyond) // stride))
        for size, stride, pad, beyond in zip(sizes, strides, found.padding, found.beyond, strict=True)
    ]
    too_many = [
        stride * count + pad - size - beyond
        for stride, count, pad, size, beyond in zip(strides, taps, found.padding, sizes, found.beyond, strict=True)
    ]
    ordinary = replace_fields(
        found, weight=_by_rest(found.weight, strides, taps), bias=found.bias.repeat(strides[0] * strides[1]),
        stride=(1, 1), padding=(taps[0] - 1, taps[1] - 1), beyond=(0, 0),
    )  # fmt: skip
    with graph.inserting_before(replaced[-1]):
        picture = _as_picture(graph, found.picture, found)
        y = _call(module, _channels_last(module, picture), None, ordinary, relu, lanes)
        n, height, width = (graph.call_function(_aten.sym_size.int, (y, axis)) for axis in (0, 2, 3))
        lying = graph.call_function(_aten.permute.default, (y, [0, 2, 3, 1]))
        parts = graph.call_function(_aten.reshape.default, (lying, [n, height, width, *strides, outputs]))
        beside = graph.call_function(_aten.permute.default, (parts, [0, 1, 3, 2, 4, 5]))
        full = [graph.call_function(mul, (size, stride)) for size, stride in zip((height, width), strides, strict=True)]
        new = graph.call_function(_aten.reshape.default, (beside, [n, *full, outputs]))
        for axis, (pad, end) in enumerate(zip(found.padding, too_many, strict=True), start=1):
            if pad or end:
                new = graph.call_function(_aten.slice.Tensor, (new, axis, pad, -end if end else sys.maxsize))
        new = graph.call_function(_aten.permute.default, (new, [0, 3, 1, 2]))
        if found.is_row:
            new = graph.call_function(_aten.squeeze.dim, (new, 2))
    put(module, new, replaced)
    return True


# Of [inputs, outputs, h, w] the weights of the ordinary convolution, [rests × outputs, inputs, taps, taps].
def _by_rest(weight: Tensor, strides: tuple[int, int], taps: list[int]) -> Tensor:
    inputs, outputs, height, width = weight.shape
    whole = weight.new_zeros(inputs, outputs, taps[0] * strides[0], taps[1] * strides[1])
    whole[:, :, :height, :width] = weight
    parts = whole.view(inputs, outputs, taps[0], strides[0], taps[1], strides[1]).flip(2, 4)
    return parts.permute(3, 5, 1, 0, 2, 4).reshape(-1, inputs, *taps)


# Of the recording. A free size is asked for no more than its value there: to count with it would fix it.
def _rows(value: Tensor) -> int:
    sizes: list[Any] = list(value.shape[:-1])
    known = [size.node.hint if isinstance(size, torch.SymInt) else size for size in sizes]
    return math.prod(size for size in known if size is not None)


def _replace_linear(module: fx.GraphModule, node: fx.Node, lanes: int) -> bool:
    x, given = cast(fx.Node, node.args[0]), node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    value, weight, bias = x.meta.get("val"), constant(module, node.args[1]), constant(module, given)
    if weight is None or weight.dim() != 2 or (given is not None and not _is_bias(bias)):
        return False
    if not isinstance(value, Tensor) or not depends_on_inputs(x):
        return False
    if not weight.dtype == value.dtype == torch.float32 or not weight.device.type == value.device.type == "cpu":
        return False
    outputs, inputs = weight.shape
    fewest = _FEWEST_FOR_MANY_ROWS if _rows(value) >= _MANY_ROWS else _FEWEST_WEIGHTS
    if (weight.numel() < fewest and OWN_LINEAR not in node.meta) or value.dim() < 2:
        return False
    replaced = [node]
    other, relu = _what_follows(replaced)
    graph = module.graph
    with graph.inserting_before(replaced[-1]):
        # of any shape [..., inputs], as one row of pixels
        rows = [
            None if each is None else graph.call_function(_aten.reshape.default, (each, [1, 1, -1, size]))
            for each, size in ((x, inputs), (other, outputs))
        ]
        pictures = [
            None
            if each is None
            else _channels_last(module, graph.call_function(_aten.permute.default, (each, [0, 3, 1, 2])))
            for each in rows
        ]
        filters = weight.view(outputs, inputs, 1, 1)
        bias = weight.new_zeros(outputs) if bias is None else bias
        layer = _Convolution(x, False, filters, bias, (1, 1), (0, 0), (1, 1), 1)
        y = _call(module, pictures[0], pictures[1], layer, relu, lanes)
        row = graph.call_function(_aten.permute.default, (y, [0, 2, 3, 1]))
        sizes = [
            graph.call_function(_aten.sym_size.int, (x, axis)) if type(size) is not int else size
            for axis, size in enumerate(value.shape[:-1])
        ]
        new = graph.call_function(_aten.reshape.default, (row, [*sizes, outputs]))
    put(module, new, replaced)
    return True


def _call(module: fx.GraphModule, x: Any, other: Any, layer: _Convolution, relu: bool, lanes: int) -> fx.Node:
    weight, groups = layer.weight, layer.groups
    packed = (pack(weight, lanes, groups), fill(layer.bias, weight, lanes, groups))
    constants = [add_constant(module, each) for each in packed]
    sizes = (weight.shape[0], *weight.shape[2:], *layer.stride, *layer.padding, *layer.dilation, groups)
    return module.graph.call_function(direct_convolution(), (x, *constants, other, *sizes, relu))


# An addition and a relu behind the last of the nodes, which become part of them: what is added, and if there is a relu.
def _what_follows(replaced: list[fx.Node]) -> tuple[fx.Node | None, bool]:
    other = None
    if (added := _addition(replaced[-1])) is not None:
        replaced.append(added[0])
        other = added[1]
    following = only_user(replaced[-1])
    if following is None or following.target != _aten.relu.default:
        return other, False
    replaced.append(following)
    return other, True


def _channels_last(module: fx.GraphModule, node: Any) -> fx.Node:
    if node.target == direct_convolution():
        return cast(fx.Node, node)
    return module.graph.call_function(_aten.contiguous.default, (node,), {"memory_format": torch.channels_last})


# A batch normalisation as a factor and a summand for each channel, and its nodes.
def _normalisation(module: fx.GraphModule, node: fx.Node) -> tuple[list[fx.Node], Tensor, Tensor] | None:
    norm = only_user(node)
    if norm is None or norm.target != _aten._native_batch_norm_legit_no_training.default or norm.args[0] is not node:
        return None
    result = only_user(norm)  # of three, of which the other two are empty
    mean, variance = constant(module, norm.args[3]), constant(module, norm.args[4])
    if result is None or result.target != getitem or result.args[1] != 0 or mean is None or variance is None:
        return None
    scale, shift = torch.ones_like(mean), torch.zeros_like(mean)
    for place, given in enumerate(norm.args[1:3]):
        value = constant(module, given)
        if given is not None and value is None:
            return None
        if value is not None:
            scale, shift = (value, shift) if place == 0 else (scale, value)
    epsilon = float(cast(float, norm.args[6]))
    scale = (scale.double() / (variance.double() + epsilon).sqrt()).float()
    return [norm, result], scale, shift - mean * scale


# An addition of two pictures of the same size, and the other one.
def _addition(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    add = only_user(node)
    if add is None or add.target != _aten.add.Tensor or add.kwargs.get("alpha", 1) != 1 or add.args[0] is add.args[1]:
        return None
    other = add.args[1] if add.args[0] is node else add.args[0]
    value, own = other.meta.get("val") if isinstance(other, fx.Node) else None, node.meta["val"]
    if not isinstance(value, Tensor) or value.dtype != own.dtype or [*map(str, value.shape)] != [*map(str, own.shape)]:
        return None
    return add, cast(fx.Node, other)


# A picture that only linear layers take as a row of numbers is taken as it lies; the order of their weights follows.
def _flatten_as_it_lies(module: fx.GraphModule, node: fx.Node) -> None:
    if node.op != "call_function" or node.target not in _FLATTENS or not isinstance(node.args[0], fx.Node):
        return
    picture, row = node.args[0].meta.get("val"), node.meta.get("val")
    if not isinstance(picture, Tensor) or picture.dim() != 4 or row is None or row.dim() != 2:
        return
    sizes = [*picture.shape[1:]]
    if not all(type(size) is int for size in sizes):  # asked first: to count with a free size would fix it
        return
    linears, numbers = list(node.users), math.prod(sizes)
    if row.shape[1] != numbers or not _lies_channels_last(node.args[0]):
        return
    weights = [constant(module, user.args[1]) for user in linears if user.target == _aten.linear.default]
    if len(weights) != len(linears) or any(weight is None or weight.dim() != 2 for weight in weights):
        return
    with module.graph.inserting_before(node):
        lying = module.graph.call_function(_aten.permute.default, (node.args[0], [0, 2, 3, 1]))
    node.args = (lying, *node.args[1:])
    for user, weight in zip(linears, weights, strict=True):
        ordered = cast(Tensor, weight).view(-1, *sizes).permute(0, 2, 3, 1).reshape(-1, numbers)
        with module.graph.inserting_before(user):
            user.args = (user.args[0], add_constant(module, ordered), *user.args[2:])


def _lies_channels_last(node: fx.Node) -> bool:
    while node.op == "call_function" and node.target in _KEEPS_LAYOUT:
        node = cast(fx.Node, node.args[0])
    return bool(node.target == direct_convolution())
