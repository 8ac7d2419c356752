"""A model's output and the target → the loss, and what the metrics look at.

Shared by training and evaluation, so that both mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from py_authoring.errors import DataError, ModelFileError, RecipeError
from py_authoring.learnt import balanced_weights
from py_authoring.model_file import MODEL_FILE, find_function
from py_authoring.recipe import ResolvedRecipe
from py_authoring.recipe_sections import LossSection

#: `(model, inputs by forward's argument names, target)` → the mean loss of the batch, a tensor of shape `[]`.
BatchLoss = Callable[[nn.Module, Mapping[str, Tensor], Any], Tensor]


def batch_loss(resolved: ResolvedRecipe, weights: Tensor | None = None) -> BatchLoss:
    """How the loss of a batch is computed: by the recipe's name, or by the function in model.py that it names.

    Args:
        resolved: the recipe.
        weights: of each class, see `loss`.

    Raises:
        ModelFileError: model.py has no such function.

    Example:
        >>> from py_authoring.recipe import load_recipe
        >>> compute = batch_loss(load_recipe("models/mnist"))
        >>> compute(nn.LogSoftmax(dim=1), {"input": torch.zeros(3, 2)}, torch.zeros(3, dtype=torch.int64))
        tensor(0.6931)
    """
    section = resolved.recipe.loss
    if section.name != "function":
        return lambda model, inputs, target: loss(pick_output(model(**inputs), section), target, section, weights)
    function = find_function(resolved, section.function, "loss.function")
    what = f"`{section.function}` in `{resolved.directory / MODEL_FILE}`"

    def own(model: nn.Module, inputs: Mapping[str, Tensor], target: Any) -> Tensor:
        value = function(model, inputs, target)
        if not isinstance(value, Tensor):
            raise ModelFileError(f"{what} returned {type(value).__name__}, expected a tensor of one number")
        if value.numel() != 1 or not value.is_floating_point():
            raise ModelFileError(
                f"{what} returned a {str(value.dtype).removeprefix('torch.')} tensor of shape {list(value.shape)}, "
                "expected one floating number",
                hint="the mean over the batch, as `.mean()`",
            )
        if torch.is_grad_enabled() and not value.requires_grad:
            raise ModelFileError(
                f"{what} returned a number that does not depend on the weights, so that nothing can be learnt",
                hint="compute it from what `model(**inputs)` returns, without `.detach()`, `.item()` or `no_grad`",
            )
        return value.reshape(())

    return own


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


def loss(output: Tensor, target: Tensor, section: LossSection, weights: Tensor | None = None) -> Tensor:
    """The mean loss of a batch.

    Args:
        output: what `pick_output` gave.
        target: int64 `[batch]` of class numbers, or numbers of output's shape (a last axis of 1 may be missing).
        section: which loss.
        weights: of each class, float32 `[classes]`: the mean is then a weighted one, as torch's. Of the losses of
            numbers none takes any.

    Returns:
        A tensor of shape `[]`.

    Example:
        >>> loss(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0]), LossSection(name="mse"))
        tensor(2.)
    """
    match section.name:
        case "nll":
            return F.nll_loss(output, target, weights)
        case "cross_entropy":
            return F.cross_entropy(output, target, weights, label_smoothing=section.label_smoothing)
        case "bce_with_logits":
            expected = _like(target, output)
            if weights is None:
                return F.binary_cross_entropy_with_logits(output, expected)
            each = weights[0] + (weights[1] - weights[0]) * expected
            return (each * F.binary_cross_entropy_with_logits(output, expected, reduction="none")).sum() / each.sum()
        case "mse":
            return F.mse_loss(output, _like(target, output))
        case "l1":
            return F.l1_loss(output, _like(target, output))
        case "smooth_l1":
            return F.smooth_l1_loss(output, _like(target, output))
        case "function":
            raise ValueError("a function of model.py takes the model: `batch_loss` calls it")


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
