"""Operators that work on one element at a time: arithmetic, comparison, activations, casts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from py_authoring.errors import RefusedError
from py_authoring.importing.onnx.conversions import align, ordered, unordered, widen
from py_authoring.importing.onnx.registry import handler, operator, template
from py_authoring.importing.onnx.values import DTYPES
from py_authoring.importing.source import literal

if TYPE_CHECKING:
    from py_authoring.importing.onnx.nodes import Node
    from py_authoring.importing.onnx.translation import Translation

_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)

for _name in ("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "Log"):
    template(f"torch.{_name.lower()}({{0}})", _name)
for _name in ("Reciprocal", "Relu", "Round", "Sigmoid", "Sin", "Sinh", "Sqrt", "Tan", "Tanh", "IsNaN", "Sign", "Abs"):
    template(f"torch.{_name.lower()}({{0}})", _name)
template("-{0}", "Neg")
template("torch.logical_not({0})", "Not")
template("torch.where({0}, {1}, {2})", "Where")
template("{0}.to({1}.dtype)", "CastLike")
template("F.softplus({0})", "Softplus")
template("F.softsign({0})", "Softsign")
template("F.mish({0})", "Mish")
template("F.hardswish({0})", "HardSwish")
template("torch.bitwise_and({0}, {1})", "BitwiseAnd")
template("torch.bitwise_or({0}, {1})", "BitwiseOr")
template("torch.bitwise_xor({0}, {1})", "BitwiseXor")


def _operands(translation: Translation, node: Node, infix: bool) -> tuple[str, str]:
    first, second = (translation.value(name) for name in node.inputs)
    if node.opset < 7 and node.attributes.get("broadcast"):
        axis = node.attributes.get("axis")
        one, two = translation.tensor(first), translation.tensor(second)
        return one, two if axis is None else f"{translation.source.use(align)}({two}, {one}, {literal(axis)})"
    if not infix:
        return translation.tensor(first), translation.tensor(second)
    dtype = translation.dtype(node.inputs[0])
    one = translation.number(first, dtype)
    two = translation.number(second, dtype)
    both = first.constant is not None and second.constant is not None
    return (translation.tensor(first), translation.tensor(second)) if both else (one, two)


_INFIX = {"Add": "+", "Sub": "-", "Mul": "*"}
_COMPARISONS = {
    "Equal": "torch.eq",
    "Greater": "torch.gt",
    "Less": "torch.lt",
    "GreaterOrEqual": "torch.ge",
    "LessOrEqual": "torch.le",
}


@handler("Add", "Sub", "Mul")
def arithmetic(translation: Translation, node: Node) -> None:
    """Sums, differences and products."""
    one, two = _operands(translation, node, infix=True)
    dtype = translation.dtype(node.inputs[0])
    if dtype in _UNSIGNED:
        wide = translation.source.use(widen)
        translation.define(node.outputs[0], f"({wide}({one}) {_INFIX[node.operator]} {wide}({two})).to({dtype})")
        return
    translation.define(node.outputs[0], f"{one} {_INFIX[node.operator]} {two}")


@handler("Div")
def division(translation: Translation, node: Node) -> None:
    """A quotient; whole numbers lose what is behind the point."""
    dtype = translation.dtype(node.inputs[0])
    if dtype is not None and dtype.is_floating_point:
        one, two = _operands(translation, node, infix=True)
        translation.define(node.outputs[0], f"{one} / {two}")
        return
    one, two = _operands(translation, node, infix=False)
    translation.define(node.outputs[0], f"{translation.source.use(divide)}({one}, {two})")


def divide(a: Tensor, b: Tensor) -> Tensor:
    """A quotient of numbers of one datatype; whole ones are cut towards zero."""
    if a.is_floating_point():
        return a / b
    if a.dtype == torch.uint64:
        return _divide_unsigned(a.to(torch.int64), b.to(torch.int64)).to(torch.uint64)
    return torch.div(widen(a), widen(b), rounding_mode="trunc").to(a.dtype)


# The bits of 64-bit numbers without a sign: half the dividend first, then what is left.
def _divide_unsigned(a: Tensor, b: Tensor) -> Tensor:
    half = (a >> 1) & 9223372036854775807
    low = -9223372036854775807 - 1
    quotient = torch.div(half, torch.where(b < 0, 1, b), rounding_mode="trunc") * 2
    rest = a - quotient * b
    quotient = quotient + ((rest ^ low) >= (b ^ low)).to(torch.int64)
    return torch.where(b < 0, ((a ^ low) >= (b ^ low)).to(torch.int64), quotient)


@handler("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")
def comparison(translation: Translation, node: Node) -> None:
    """Truth values."""
    one, two = _operands(translation, node, infix=False)
    if translation.dtype(node.inputs[0]) in _UNSIGNED:
        use = translation.source.use(ordered)
        one, two = f"{use}({one})", f"{use}({two})"
    translation.define(node.outputs[0], f"{_COMPARISONS[node.operator]}({one}, {two})")


@handler("And", "Or", "Xor")
def logic(translation: Translation, node: Node) -> None:
    """Of truth values."""
    one, two = _operands(translation, node, infix=False)
    translation.define(node.outputs[0], f"torch.logical_{node.operator.lower()}({one}, {two})")


@handler("Pow")
def power(translation: Translation, node: Node) -> None:
    """A power, in the datatype of the base."""
    one, two = _operands(translation, node, infix=False)
    second = translation.value(node.inputs[1])
    dtype = translation.dtype(node.inputs[0])
    if dtype is not None and dtype.is_floating_point and second.constant is not None and second.constant.dim() == 0:
        translation.define(node.outputs[0], f"{one} ** {translation.number(second, dtype)}")
        return
    translation.define(node.outputs[0], f"{translation.source.use(raise_to)}({one}, {two})")


def raise_to(base: Tensor, exponent: Tensor) -> Tensor:
    """A power, in the datatype of the base."""
    return torch.pow(widen(base), widen(exponent)).to(base.dtype)


@operator("Mod")
def mod(a: Tensor, b: Tensor, fmod: int = 0) -> Tensor:
    """What a division leaves: with the sign of the divisor, or with `fmod` of the dividend."""
    one, two = widen(a), widen(b)
    return (torch.fmod(one, two) if fmod else torch.remainder(one, two)).to(a.dtype)


@operator("BitwiseNot")
def bitwise_not(x: Tensor) -> Tensor:
    """Every bit turned."""
    return torch.bitwise_not(widen(x)).to(x.dtype)


@operator("BitShift")
def bit_shift(x: Tensor, y: Tensor, direction: str) -> Tensor:
    """Bits moved, zeros pulled in; numbers have no sign."""
    one, two = widen(x), widen(y)
    if direction == "LEFT":
        return (one << two).to(x.dtype)
    if x.dtype == torch.uint64:
        kept = torch.where(two == 0, -1, (torch.ones_like(two) << (64 - two)) - 1)
        return ((one >> two) & kept).to(x.dtype)
    return (one >> two).to(x.dtype)


@operator("Sum")
def add_all(inputs: list[Tensor]) -> Tensor:
    """The sum of tensors that broadcast."""
    result = inputs[0]
    for each in inputs[1:]:
        result = result + each
    return result


@operator("Mean")
def mean_of_all(inputs: list[Tensor]) -> Tensor:
    """The mean of tensors that broadcast."""
    result = inputs[0]
    for each in inputs[1:]:
        result = result + each
    return result / len(inputs)


@operator("Max")
def largest(inputs: list[Tensor]) -> Tensor:
    """The largest of tensors that broadcast."""
    result = ordered(inputs[0])
    for each in inputs[1:]:
        result = torch.maximum(result, ordered(each))
    return unordered(result, inputs[0].dtype)


@operator("Min")
def smallest(inputs: list[Tensor]) -> Tensor:
    """The smallest of tensors that broadcast."""
    result = ordered(inputs[0])
    for each in inputs[1:]:
        result = torch.minimum(result, ordered(each))
    return unordered(result, inputs[0].dtype)


@operator("Clip")
def clip_by_numbers(x: Tensor, min: float = -math.inf, max: float = math.inf) -> Tensor:
    """Numbers kept within bounds that the file states."""
    return torch.clamp(x, min, max)


@operator("Clip", since=11)
def clip(x: Tensor, min: Tensor | None = None, max: Tensor | None = None) -> Tensor:
    """Numbers kept within bounds; where they contradict each other the upper one holds."""
    result = ordered(x)
    if min is not None:
        result = torch.maximum(result, ordered(min))
    if max is not None:
        result = torch.minimum(result, ordered(max))
    return unordered(result, x.dtype)


@handler("Cast")
def cast(translation: Translation, node: Node) -> None:
    """Another datatype."""
    import onnx

    to = node.attributes.get("to")
    if isinstance(to, str):  # opset 1 to 5
        to = onnx.TensorProto.DataType.Value(to)
    if to not in DTYPES:
        raise RefusedError(f"operator Cast to {onnx.TensorProto.DataType.Name(to)} is not supported")
    value = translation.tensor(translation.value(node.inputs[0]))
    translation.define(node.outputs[0], f"{value}.to({DTYPES[to]})")


@handler("Identity")
def identity(translation: Translation, node: Node) -> None:
    """The same value under another name."""
    translation.bind(node.outputs[0], translation.value(node.inputs[0]))


@operator("IsInf")
def is_infinite(x: Tensor, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Which numbers are infinite."""
    result = torch.zeros_like(x, dtype=torch.bool)
    if detect_negative:
        result = result | torch.isneginf(x)
    if detect_positive:
        result = result | torch.isposinf(x)
    return result


@operator("LeakyRelu")
def leaky_relu(x: Tensor, alpha: float = 0.01) -> Tensor:
    """Negative numbers times alpha."""
    return torch.nn.functional.leaky_relu(x, alpha)


@operator("Elu")
def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Negative numbers as alpha × (eˣ - 1)."""
    return torch.where(x < 0, alpha * (torch.exp(x) - 1), x)


@operator("Celu")
def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Negative numbers as alpha × (eˣᐟᵃˡᵖʰᵃ - 1)."""
    return torch.nn.functional.celu(x, alpha)


@operator("Selu")
def selu(x: Tensor, alpha: float = 1.6732631921768188, gamma: float = 1.0507010221481323) -> Tensor:
    """Scaled `elu`."""
    return gamma * torch.where(x < 0, alpha * (torch.exp(x) - 1), x)


@operator("HardSigmoid")
def hard_sigmoid(x: Tensor, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """A line cut at 0 and 1."""
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


@operator("ThresholdedRelu")
def thresholded_relu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Nothing up to alpha, the number itself beyond."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


@operator("Shrink")
def shrink(x: Tensor, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """Nothing between -lambd and lambd, beyond them the number moved by bias towards 0."""
    zero = torch.zeros_like(x)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero)).to(x.dtype)


@operator("PRelu")
def prelu_by_channel(x: Tensor, slope: Tensor) -> Tensor:
    """Negative numbers times a slope for each channel, which is axis 1."""
    if slope.dim() == 1 and slope.shape[0] > 1 and x.dim() > 2:
        slope = slope.reshape([-1] + [1] * (x.dim() - 2))
    return torch.where(x < 0, slope * x, x)


@operator("PRelu", since=7)
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Negative numbers times a slope that broadcasts."""
    return torch.where(x < 0, slope * x, x)


@operator("Gelu")
def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """The number times the share of a normal distribution below it."""
    return torch.nn.functional.gelu(x, approximate=approximate)


@operator("Swish")
def swish(x: Tensor, alpha: float = 1.0) -> Tensor:
    """The number times the sigmoid of alpha × it."""
    return x * torch.sigmoid(alpha * x)


@operator("Softmax")
def softmax_of_rest(x: Tensor, axis: int = 1) -> Tensor:
    """Over all axes from `axis` on, as the opsets before 13 have it."""
    return torch.softmax(_flat_from(x, axis), 1).reshape(x.shape)


@operator("LogSoftmax")
def log_softmax_of_rest(x: Tensor, axis: int = 1) -> Tensor:
    """Over all axes from `axis` on, as the opsets before 13 have it."""
    return torch.log_softmax(_flat_from(x, axis), 1).reshape(x.shape)


@operator("Hardmax")
def hardmax_of_rest(x: Tensor, axis: int = 1) -> Tensor:
    """Over all axes from `axis` on, as the opsets before 13 have it."""
    return hardmax(_flat_from(x, axis), 1).reshape(x.shape)


def _flat_from(x: Tensor, axis: int) -> Tensor:
    rows, width = 1, 1  # not -1, which has no answer where there are no elements
    for position, size in enumerate(x.shape):
        if position < (axis + x.dim() if axis < 0 else axis):
            rows = rows * size
        else:
            width = width * size
    return x.reshape([rows, width])


@operator("Softmax", since=13)
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Over one axis."""
    return torch.softmax(x, axis)


@operator("LogSoftmax", since=13)
def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Over one axis."""
    return torch.log_softmax(x, axis)


@operator("Hardmax", since=13)
def hardmax(x: Tensor, axis: int = -1) -> Tensor:
    """1 at the first largest number of an axis, 0 elsewhere."""
    return torch.zeros_like(x).scatter(axis, torch.argmax(x, axis, keepdim=True), 1.0)


@operator("Dropout")
def dropout(x: Tensor, ratio: float = 0.5, is_test: int = 0) -> Tensor:
    """Nothing: an imported model does not learn by its own noise."""
    return x


@operator("Dropout", since=7)
def dropout_of_later(x: Tensor, ratio: float = 0.5, training_mode: bool = False, seed: int = 0) -> Tensor:
    """Nothing, unless the graph says that it is in training."""
    return _drop(x, ratio, training_mode)[0]


@operator("Dropout", since=7, outputs=2)
def dropout_with_mask(
    x: Tensor, ratio: float = 0.5, training_mode: bool = False, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The same, and which numbers were kept."""
    return _drop(x, ratio, training_mode)


def _drop(x: Tensor, ratio: float, training_mode: bool) -> tuple[Tensor, Tensor]:
    mask = torch.ones_like(x, dtype=torch.bool)
    if training_mode and ratio > 0:
        mask = torch.rand_like(x) >= ratio
        return torch.where(mask, x / (1.0 - ratio), torch.zeros_like(x)), mask
    return x, mask
