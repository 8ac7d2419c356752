"""A model's output and the target → the loss, and what the metrics look at.

Shared by training and evaluation, so that both mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from py_authoring.data import Sample, count_samples
from py_authoring.errors import DataError, ModelFileError, RecipeError
from py_authoring.learnt import balanced_weights
from py_authoring.model_file import MODEL_FILE, find_function
from py_authoring.recipe import ResolvedRecipe
from py_authoring.recipe_sections import LossSection

_IGNORED = -100  # torch's ignore_index: a target that no loss counts


class BatchLoss(Protocol):
    """The loss of a batch: a tensor of shape `[]`, the mean, or a part of `total` as `loss` has it."""

    def __call__(
        self, model: nn.Module, inputs: Mapping[str, Tensor], target: Any, total: Tensor | None = None
    ) -> Tensor:
        """Calls the model."""


def batch_loss(
    resolved: ResolvedRecipe, weights: Tensor | None = None, autocast: torch.device | None = None
) -> BatchLoss:
    """How the loss of a batch is computed: by the recipe's name, or by the function in model.py that it names.

    Args:
        resolved: the recipe.
        weights: of each class, see `loss`.
        autocast: a device on which the model is computed in bfloat16, and a function of model.py as a whole; the
            other losses stay in float32, whatever autocast's lists say of them.

    Raises:
        ModelFileError: model.py has no such function.

    Example:
        >>> from py_authoring.recipe import load_recipe
        >>> compute = batch_loss(load_recipe("models/mnist"))
        >>> compute(nn.LogSoftmax(dim=1), {"input": torch.zeros(3, 2)}, torch.zeros(3, dtype=torch.int64))
        tensor(0.6931)
    """
    section = resolved.recipe.loss

    def computed(called: Callable[..., Any], *arguments: Any, **inputs: Tensor) -> Any:
        if autocast is None:
            return called(*arguments, **inputs)
        with torch.autocast(autocast.type, torch.bfloat16):
            return called(*arguments, **inputs)

    if section.name != "function":

        def named(model: nn.Module, inputs: Mapping[str, Tensor], target: Any, total: Tensor | None = None) -> Tensor:
            output = pick_output(computed(model, **inputs), section)
            return loss(output if autocast is None else output.float(), target, section, weights, total)

        return named
    function = find_function(resolved, section.function, "loss.function")
    what = f"`{section.function}` in `{resolved.directory / MODEL_FILE}`"

    def own(model: nn.Module, inputs: Mapping[str, Tensor], target: Any, total: Tensor | None = None) -> Tensor:
        samples = count_samples((dict(inputs), target))
        if samples == 0:  # of SyncBatchNorm's processes all must call the model
            raise ModelFileError(
                f"{what} cannot give the loss of no samples: a batch has fewer than there are processes",
                hint="fewer processes, or a data.validation that leaves another last batch",
            )
        value = computed(function, model, inputs, target)
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
        value = value.reshape(()).float()
        return value if total is None else value * samples / total

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
        case "function":
            raise ValueError("a function of model.py takes the model: `batch_loss` calls it")
    return value if total is None else value / total


def total_weight(batch: Sample, section: LossSection, weights: Tensor | None = None) -> Tensor:
    """What the mean of a batch's losses divides by: a count, or the sum of the weights of its classes.

    Args:
        batch: the whole one; a function of model.py is taken to give the mean over its samples.
        section: which loss.
        weights: of each class.

    Returns:
        float32 of shape `[]`.

    Example:
        >>> weights = torch.tensor([1.0, 5.0])
        >>> total_weight(({"x": torch.zeros(3, 2)}, torch.tensor([0, 1, 1])), LossSection(name="nll"), weights)
        tensor(11.)
    """
    if section.name == "function":
        return torch.tensor(float(count_samples(batch)), device=next(iter(batch[0].values())).device)
    target: Tensor = batch[1]
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
