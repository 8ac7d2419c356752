"""The trainer: one Ignite Engine whose step is one update of the weights from one batch.

A batch may be cut into micro-batches (`training.accumulate`) and computed in bfloat16 (`training.precision`); the loss
that comes out, and its gradient, are the whole batch's, in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from ignite.engine import Engine
from torch import Tensor, nn

from py_authoring import objective
from py_authoring.data import Sample, count_samples
from py_authoring.distributed import Group
from py_authoring.errors import AuthoringError, DataError
from py_authoring.evaluation import failed, quiet, to_device
from py_authoring.recipe import ResolvedRecipe


def build_trainer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    resolved: ResolvedRecipe,
    device: torch.device,
    class_weights: Tensor | None = None,
    frozen: Sequence[nn.Module] = (),
    group: Group | None = None,
    pad_values: Mapping[str, float] | None = None,
) -> Engine:
    """An Engine whose step gives the batch's loss as a float.

    Args:
        model: on the device.
        optimizer: of its parameters.
        resolved: the recipe.
        device: where batches go.
        class_weights: float32 `[classes]`, for the loss.
        frozen: parts of the model that stay in evaluation mode.
        group: the processes that train together, each with its slice of the batch; default: this one alone.
        pad_values: forward's argument → what fills samples of unequal length, in several processes alike.

    Raises:
        TrainingError: while it runs: the model or the loss raised.
    """
    section, training = resolved.recipe.loss, resolved.recipe.training
    weights = class_weights.to(device) if class_weights is not None else None
    group = group or Group()
    compute_loss = objective.batch_loss(resolved, weights, device if training.precision == "bf16" else None)

    def backward(batch: Sample) -> float:
        if group.size == 1 and count_samples(batch) <= training.micro_batch_size:
            loss = compute_loss(model, *batch)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.item()
        total = group.share_out(objective.total_weight(batch, section, weights), count_samples(batch))
        losses = []
        for part in micro_batches(batch, -(-group.largest_share(batch) // training.micro_batch_size)):
            if group.computes(count_samples(part)):
                loss = compute_loss(model, *part, total)
                loss.backward()  # type: ignore[no-untyped-call]
                losses.append(loss.detach())
        return group.sum_up(model, torch.stack(losses).sum() if losses else None).item()

    def train_step(engine: Engine, batch: Sample) -> float:
        model.train()
        for part in frozen:
            part.eval()
        optimizer.zero_grad()
        try:
            loss = backward(to_device(group.pad_alike(batch, pad_values or {}), device))
        except AuthoringError:
            raise
        except Exception as error:  # a user's model can raise anything
            raise failed(error, resolved, "training") from error
        if training.clip_value is not None:
            nn.utils.clip_grad_value_(model.parameters(), training.clip_value)
        if training.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
        optimizer.step()
        return loss

    return quiet(Engine(train_step))


def micro_batches(batch: Sample, count: int) -> Iterator[Sample]:
    """A batch in `count` parts of nearly equal size: a part of one sample would leave batch normalisation without a
    deviation.

    Raises:
        DataError: the target cannot be cut.

    Example:
        >>> [len(target) for _, target in micro_batches(({"x": torch.zeros(9, 2)}, torch.zeros(9)), 3)]
        [3, 3, 3]
    """
    if count == 1:
        yield batch
        return
    (inputs, target), samples = batch, count_samples(batch)
    if not isinstance(target, Tensor | list) or len(target) != samples:
        raise DataError(
            f"training.accumulate cannot cut a batch whose target is a {type(target).__name__}",
            hint="a collate of your own should give a tensor, or a list with one entry a sample",
        )
    bounds = [samples * part // count for part in range(count + 1)]
    for start, stop in pairwise(bounds):
        yield {name: value[start:stop] for name, value in inputs.items()}, target[start:stop]
