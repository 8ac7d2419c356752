"""A model's output and the target → the loss, and what the metrics look at.

Shared by training and evaluation, so that both mean the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from py_authoring.errors import DataError, ModelFileError, RecipeError
from py_authoring.learnt import balanced_weights
from py_authoring.recipe_sections import LossSection

_IGNORED = -100  # torch's ignore_index: a target that no loss counts


def pick_output(returned: Any, section: LossSection) -> Tensor:
    """The output that the loss is about: the tensor itself, or the one at `loss.output` of several.

    Raises:
        ModelFileError: there is none at that place.
    """
    picked = returned
    try:
        if isinstance(returned, Mapping):
            picked = (
                returned[section.output] if isinstance(section.output, str) else list(returned.values())[section.output]
            )
        elif isinstance(returned, Sequence):
            picked = returned[int(section.output)]
    except (KeyError, IndexError, ValueError) as error:
        raise ModelFileError(f"forward returns no output `{section.output}`", hint="loss.output names it") from error
    if not isinstance(picked, Tensor):
        raise ModelFileError(f"forward returns {type(picked).__name__} where a tensor is expected")
    return picked


def loss(
    output: Tensor, target: Tensor, section: LossSection, weights: Tensor | None = None, total: Tensor | None = None
) -> Tensor:
    """The mean loss of a batch.

    Args:
        output: what `pick_output` gave.
        target: int64 `[batch]` of class numbers, or numbers of output's shape (a last axis of 1 may be missing).
        section: which loss.
        weights: of each class, float32 `[classes]`: the mean is then a weighted one, as torch's. Of the losses of
            numbers none takes any.
        total: `total_weight` of the batch that this one is a part of: the losses of all parts then sum up to the mean
            of the whole.

    Returns:
        A tensor of shape `[]`.

    Example:
        >>> loss(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0]), LossSection(name="mse"))
        tensor(2.)
    """
    reduction = "mean" if total is None else "sum"
    match section.name:
        case "nll":
            value = F.nll_loss(output, target, weights, reduction=reduction)
        case "cross_entropy":
            value = F.cross_entropy(
                output, target, weights, label_smoothing=section.label_smoothing, reduction=reduction
            )
        case "bce_with_logits":
            expected = _like(target, output)
            if weights is None:
                value = F.binary_cross_entropy_with_logits(output, expected, reduction=reduction)
            else:
                each = weights[0] + (weights[1] - weights[0]) * expected
                value = (each * F.binary_cross_entropy_with_logits(output, expected, reduction="none")).sum()
                value = value / each.sum() if total is None else value
        case "mse":
            value = F.mse_loss(output, _like(target, output), reduction=reduction)
        case "l1":
            value = F.l1_loss(output, _like(target, output), reduction=reduction)
        case "smooth_l1":
            value = F.smooth_l1_loss(output, _like(target, output), reduction=reduction)
    return value if total is None else value / total


def total_weight(target: Tensor, section: LossSection, weights: Tensor | None = None) -> Tensor:
    """What the mean of a batch's losses divides by: a count, or the sum of the weights of its classes.

    Args:
        target: of the whole batch, as `loss` takes it.
        section: which loss.
        weights: of each class.

    Returns:
        float32 of shape `[]`.

    Example:
        >>> weights = torch.tensor([1.0, 5.0])
        >>> total_weight(torch.tensor([0, 1, 1]), LossSection(name="nll"), weights)
        tensor(11.)
    """
    if section.name in ("nll", "cross_entropy"):
        if target.is_floating_point():  # a probability for each class: torch divides by the samples, weighted or not
            return torch.tensor(float(target.numel() // target.shape[1]), device=target.device)
        counted = target[target != _IGNORED]
        return torch.tensor(float(len(counted)), device=target.device) if weights is None else weights[counted].sum()
    if weights is not None:
        return (weights[0] + (weights[1] - weights[0]) * target.to(weights.dtype)).sum()
    return torch.tensor(float(target.numel()), device=target.device)


def class_weights(section: LossSection, classes: int | None, class_counts: Sequence[int] | None) -> Tensor | None:
    """The weights that `loss.class_weights` asks for, float32 `[classes]`; None if it asks for none.

    Args:
        section: the recipe's.
        classes: how many the model tells apart; None for losses of numbers.
        class_counts: training samples of each class, where the data tells.

    Raises:
        DataError: the data tells no counts.
        RecipeError: the list has another length.
    """
    if section.class_weights is None or classes is None:
        return None
    if section.class_weights == "balanced":
        if class_counts is None:
            raise DataError(
                'loss.class_weights is "balanced", and the data does not tell how many samples each class has',
                hint="write one number for each class: loss.class_weights = [1.0, 2.5]",
            )
        counts = [*class_counts, *[0] * (classes - len(class_counts))]
        return torch.tensor(balanced_weights(counts))
    if len(section.class_weights) != classes:
        raise RecipeError(
            f"loss.class_weights has {len(section.class_weights)} numbers, the model tells {classes} classes apart"
        )
    return torch.tensor(section.class_weights, dtype=torch.float32)


def for_metrics(output: Tensor, target: Tensor, section: LossSection) -> tuple[Tensor, Tensor]:
    """What Ignite's metrics take: scores `[batch, classes]` and class numbers, or numbers and numbers of one shape."""
    if section.name == "bce_with_logits":
        flat = output.reshape(-1)
        return torch.stack([-flat, flat], dim=1), target.reshape(-1).to(torch.int64)
    if section.name in ("nll", "cross_entropy"):
        return output, target
    return output.reshape(-1), _like(target, output).reshape(-1)


# [batch] against [batch, 1] would broadcast to [batch, batch]: a loss that falls and means nothing.
def _like(target: Tensor, output: Tensor) -> Tensor:
    if target.shape != output.shape and target.numel() == output.numel():
        target = target.reshape(output.shape)
    return target.to(output.dtype)
