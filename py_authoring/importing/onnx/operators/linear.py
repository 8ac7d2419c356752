"""Products of matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from py_authoring.importing.onnx.registry import handler, operator, template

if TYPE_CHECKING:
    from py_authoring.importing.onnx.nodes import Node
    from py_authoring.importing.onnx.translation import Translation

template("torch.matmul({0}, {1})", "MatMul")
template("torch.linalg.det({0})", "Det")


@operator("Einsum")
def einsum(inputs: list[Tensor], equation: str) -> Tensor:
    """A sum of products, as the equation says."""
    return torch.einsum(equation.replace(" ", ""), inputs)


@handler("Gemm")
def linear(translation: Translation, node: Node) -> None:
    """A layer, where it is one; the general product otherwise."""
    given = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, **node.attributes}
    values = [translation.value(name) for name in node.inputs]
    weight, bias = values[1], values[2] if len(values) > 2 else None
    plain = given["alpha"] == 1.0 and given["beta"] == 1.0 and not given["transA"] and given["transB"]
    layer = bias is None or (bias.constant is not None and bias.constant.dim() == 1)
    if plain and layer and weight.constant is not None:
        texts = [translation.tensor(value) for value in values]
        translation.define(node.outputs[0], f"F.linear({', '.join(texts)})")
    else:
        translation.call(node, gemm)


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    broadcast: int = 0,
) -> Tensor:
    """alpha × A × B + beta × C; C broadcasts."""
    product = torch.matmul(a.t() if transA else a, b.t() if transB else b)
    if alpha != 1.0:
        product = product * alpha
    if c is None:
        return product
    return product + c if beta == 1.0 else product + c * beta
