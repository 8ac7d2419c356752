"""Losses, which ONNX has as operators too."""

from __future__ import annotations

import torch
from torch import Tensor

from py_authoring.importing.onnx.registry import operator


@operator("NegativeLogLikelihoodLoss")
def nll_loss(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The negative log-probability of the right class, which is axis 1."""
    labels = target.to(torch.int64)
    share = torch.ones_like(labels, dtype=x.dtype)
    if ignore_index is not None:
        kept = labels != ignore_index
        labels = torch.where(kept, labels, torch.zeros_like(labels))
        share = kept.to(x.dtype)
    if weight is not None:
        share = share * weight[labels]
    loss = -torch.gather(x, 1, labels.unsqueeze(1)).squeeze(1) * share
    if reduction == "none":
        return loss
    return loss.sum() / share.sum() if reduction == "mean" else loss.sum()


@operator("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(
    scores: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """`nll_loss` of the scores' log-probabilities, and these."""
    logarithms = torch.log_softmax(scores, 1)
    return nll_loss(logarithms, labels, weights, ignore_index, reduction), logarithms
