"""Recipe → the learning rate of every iteration: a warm-up, and what follows it.

All schedules but `plateau` are functions of the iteration alone, so that a resumed training is where it would be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from ignite.engine import Engine
from ignite.handlers import LRScheduler
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from py_authoring.errors import ResumeError
from py_authoring.recipe_sections import (
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    OneCycleSchedule,
    PlateauSchedule,
    Recipe,
    StepSchedule,
)


class Schedule:
    """Sets the learning rate before an iteration and, for `plateau`, after an epoch.

    Args:
        optimizer: has the learning rates that the schedule multiplies.
        recipe: says which schedule.
        epoch_length: iterations in an epoch.

    Example:
        >>> from ignite.engine import Events
        >>> from py_authoring.recipe import load_recipe
        >>> recipe = load_recipe("models/mnist", overrides=["scheduler.warmup=0.5"]).recipe
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.8)
        >>> trainer, rates = Engine(lambda trainer, batch: rates.append(optimizer.param_groups[0]["lr"])), []
        >>> _ = trainer.add_event_handler(Events.ITERATION_STARTED, Schedule(optimizer, recipe, 8).before_iteration)
        >>> _ = trainer.run(range(8))
        >>> rates
        [0.2, 0.4, 0.6000000000000001, 0.8, 0.8, 0.8, 0.8, 0.8]
    """

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: Recipe, epoch_length: int) -> None:
        section = recipe.scheduler
        self._name = section.name
        self.warmup = warmup_iterations(recipe, epoch_length)
        self.moves = not isinstance(section, ConstantSchedule | PlateauSchedule) or self.warmup > 0
        # Ignite's wrapper steps before an iteration: the rate that an epoch's row shows is the one it was trained with
        self._by_iteration = LRScheduler(LambdaLR(optimizer, factor(recipe, epoch_length)))
        self._plateau: ReduceLROnPlateau | None = None
        if isinstance(section, PlateauSchedule):
            self._plateau = ReduceLROnPlateau(
                optimizer,
                mode="max",
                factor=section.gamma,
                patience=section.patience,
                threshold=recipe.training.min_delta,
                threshold_mode="abs",
                min_lr=[section.floor * group["initial_lr"] for group in optimizer.param_groups],
                eps=0,
            )

    def describe(self) -> str:
        """What follows a learning rate in a line: ` after a warm-up of 20 iterations, schedule cosine`, or nothing."""
        warmup = f" after a warm-up of {self.warmup} iterations" if self.warmup else ""
        return warmup if self._name == "constant" else f"{warmup}, schedule {self._name}"

    def before_iteration(self, trainer: Engine) -> None:
        """The rate of the iteration that is about to run."""
        if self._plateau is None or trainer.state.iteration <= self.warmup:
            self._by_iteration(trainer)

    def after_epoch(self, trainer: Engine, score: float) -> None:
        """Lowers the rate where `score`, of which more is better, has not risen for too long.

        An epoch in which the warm-up was not yet over is not counted.
        """
        if self._plateau is not None and trainer.state.iteration >= self.warmup:
            self._plateau.step(score)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; the rate itself is in the optimizer's."""
        plateau = None if self._plateau is None else self._plateau.state_dict()
        return {"by_iteration": dict(self._by_iteration.state_dict()), "plateau": plateau}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken.

        Raises:
            ResumeError: an older version took it, which set the rate after each epoch.
        """
        if "by_iteration" not in state:
            raise ResumeError(
                "the run was begun by an older py-authoring, whose learning rates this one does not continue",
                hint="`evaluate` and `export` take its checkpoints; without `--resume` a new run starts",
            )
        self._by_iteration.load_state_dict(state["by_iteration"])
        if self._plateau is not None:
            self._plateau.load_state_dict(state["plateau"])


def warmup_iterations(recipe: Recipe, epoch_length: int) -> int:
    """Over how many iterations the learning rate rises to its first value."""
    section = recipe.scheduler
    if isinstance(section, OneCycleSchedule):
        return 0
    if section.warmup_iterations is not None:
        return section.warmup_iterations
    return round(section.warmup * epoch_length)


def factor(recipe: Recipe, epoch_length: int) -> Callable[[int], float]:
    """Iteration, from 0 → what the recipe's learning rate is multiplied with."""
    schedule = recipe.scheduler
    warmup = warmup_iterations(recipe, epoch_length)
    if isinstance(schedule, OneCycleSchedule):
        return _one_cycle(schedule, epoch_length)
    by_epoch = _by_epoch(schedule)
    return lambda iteration: min((iteration + 1) / max(warmup, 1), 1.0) * by_epoch(iteration // epoch_length)


def _by_epoch(
    schedule: ConstantSchedule | StepSchedule | ExponentialSchedule | CosineSchedule | PlateauSchedule,
) -> Callable[[int], float]:
    match schedule:
        case ConstantSchedule() | PlateauSchedule():
            return lambda epoch: 1.0
        case StepSchedule():
            return lambda epoch: schedule.gamma ** (epoch // schedule.step_size)
        case ExponentialSchedule():
            return lambda epoch: schedule.gamma**epoch
        case CosineSchedule():
            return lambda epoch: _cosine(1.0, schedule.floor, min(epoch / schedule.period, 1.0))


# As torch's OneCycleLR, which raises after its last step: a training may be made longer.
def _one_cycle(schedule: OneCycleSchedule, epoch_length: int) -> Callable[[int], float]:
    last = max(schedule.period * epoch_length - 1, 1)
    top = min(max(schedule.rise * schedule.period * epoch_length - 1, 0), last)

    def at(iteration: int) -> float:
        if iteration < top:
            return _cosine(schedule.start, 1.0, iteration / top)
        return _cosine(1.0, schedule.floor, min((iteration - top) / max(last - top, 1), 1.0))

    return at


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
