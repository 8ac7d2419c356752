"""What `configure_optimizers` returned → optimizers, and schedules that step when Lightning's Trainer steps them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine

from py_authoring.errors import ModelFileError, ResumeError, TrainingError
from py_authoring.lightning.hooks import Hooks, lightning
from py_authoring.lightning.trainer import Trainer
from py_authoring.model_file import call, first_line


def configure(hooks: Hooks, trainer: Trainer, file: Path) -> None:
    """Asks a module for its optimizers and schedules, and gives them to its trainer; Lightning reads the forms.

    Args:
        hooks: of the module.
        trainer: gets optimizers, schedules and wrapped optimizers.
        file: the user's model.py.

    Raises:
        ModelFileError: it raised, or returned what Lightning takes for no optimizer.
    """
    module, theirs = hooks.module, lightning(hooks.module, "core.optimizer")
    returned = call(hooks, file, "configure_optimizers")
    if returned is None:
        raise ModelFileError(f"`{file}`: configure_optimizers of {type(module).__name__} returns no optimizer")
    try:
        optimizers, schedulers, monitor = theirs._configure_optimizers(returned)
        if module.automatic_optimization:
            configs = theirs._configure_schedulers_automatic_opt(schedulers, monitor)
        else:
            configs = theirs._configure_schedulers_manual_opt(schedulers)
        theirs._validate_multiple_optimizers_support(optimizers, module)
        theirs._validate_optimizers_attached(optimizers, configs)
        theirs._validate_scheduler_api(configs, module)
    except Exception as error:  # Lightning's own sentences
        what = first_line(error).rstrip(" :.")
        raise ModelFileError(f"`{file}`: configure_optimizers of {type(module).__name__}: {what}") from error
    trainer.optimizers, trainer.lr_scheduler_configs = optimizers, configs
    wrap = theirs.LightningOptimizer._to_lightning_optimizer
    trainer.strategy._lightning_optimizers = [wrap(optimizer, trainer.strategy) for optimizer in optimizers]


class Optimizers:
    """All optimizers of a module as one object with a state."""

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all of them."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {str(number): optimizer.state_dict() for number, optimizer in enumerate(self.optimizers)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises:
        ResumeError: configure_optimizers makes others than when the run began.
        """
        try:
            for (_, kept), optimizer in zip(state.items(), self.optimizers, strict=True):
                optimizer.load_state_dict(kept)
        except (ValueError, KeyError, RuntimeError) as error:
            raise ResumeError(
                f"configure_optimizers makes other optimizers than when the run began: {first_line(error)}",
                hint="without `--resume` a new run starts",
            ) from error


class Schedulers:
    """The schedules of a module: each one steps by its interval, its frequency and what it watches."""

    def __init__(self, hooks: Hooks, trainer: Trainer) -> None:
        self._hooks = hooks
        self._trainer = trainer

    #: Whether rates are set before an iteration; the module's own hooks do that.
    moves = False

    def after_epoch(self, trainer: Engine, score: float) -> None:
        """At an epoch's end, after validation: what watches a value, as ReduceLROnPlateau."""
        self.update("epoch", self._trainer.current_epoch, plateau=True)

    def before_iteration(self, trainer: Engine) -> None:
        """Nothing: see `moves`."""

    def describe(self) -> str:
        """What follows a learning rate in a line: `, schedule OneCycleLR`, or nothing."""
        names = [type(config.scheduler).__name__ for config in self._trainer.lr_scheduler_configs]
        return f", schedule {' and '.join(names)}" if names else ""

    def update(self, interval: str, index: int, *, plateau: bool) -> None:
        """Steps those that are due.

        Args:
            interval: `step` or `epoch`.
            index: the batch's or the epoch's number, from 0.
            plateau: those that watch a value, or the others.

        Raises:
            TrainingError: the module logged nothing under the name that a schedule watches.
        """
        if not self._hooks.module.automatic_optimization:
            return
        for config in self._trainer.lr_scheduler_configs:
            due = config.interval == interval and (index + 1) % config.frequency == 0
            if config.reduce_on_plateau != plateau or not due:
                continue
            watched = None
            if plateau:
                watched = self._trainer.callback_metrics.get(config.monitor)
                if watched is None:
                    if not config.strict:
                        continue
                    known = ", ".join(self._trainer.callback_metrics) or "nothing"
                    raise TrainingError(
                        f"a schedule of configure_optimizers watches `{config.monitor}`, which was not logged; "
                        f"logged: {known}"
                    )
            self._hooks("lr_scheduler_step", config.scheduler, watched)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        configs = self._trainer.lr_scheduler_configs
        return {str(number): config.scheduler.state_dict() for number, config in enumerate(configs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken."""
        for (_, kept), config in zip(state.items(), self._trainer.lr_scheduler_configs, strict=True):
            config.scheduler.load_state_dict(kept)
