"""What a LightningModule finds under `self.trainer`: the usual of Lightning's Trainer, and a sentence for the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from py_authoring.lightning.hooks import Hooks
from py_authoring.lightning.logged import Logged


class Trainer:
    """The stand-in; its names are Lightning's.

    Args:
        hooks: of the module, which it becomes the trainer of.
        device: where the module is.
        say: takes what `self.print` prints.
        max_epochs: how many epochs the recipe asks for.
        num_training_batches: in an epoch.
        num_val_batches: of one validation.
        gradient_clip_val: training.clip_norm.
        folder: the run's.
    """

    accumulate_grad_batches = 1
    barebones = fast_dev_run = False
    callbacks: tuple[Any, ...] = ()
    check_val_every_n_epoch = 1
    checkpoint_callback = early_stopping_callback = datamodule = logger = profiler = None
    gradient_clip_algorithm = None
    global_rank = local_rank = node_rank = 0
    is_global_zero = True
    loggers: tuple[Any, ...] = ()
    log_every_n_steps = 1
    max_steps = -1
    min_epochs = min_steps = None
    num_devices = num_nodes = world_size = 1
    precision = "32-true"
    predicting = sanity_checking = received_sigterm = interrupted = False

    def __init__(
        self,
        hooks: Hooks,
        device: torch.device,
        say: Callable[[str], None],
        *,
        max_epochs: int = 0,
        num_training_batches: int = 0,
        num_val_batches: int = 0,
        gradient_clip_val: float | None = None,
        folder: Path | None = None,
    ) -> None:
        self.lightning_module = self.model = hooks.module
        self.strategy = Strategy(hooks, device)
        self.precision_plugin = Precision()
        self.max_epochs = max_epochs
        self.num_training_batches = num_training_batches
        self.num_val_batches = [num_val_batches]
        self.estimated_stepping_batches = max_epochs * num_training_batches
        self.gradient_clip_val = gradient_clip_val
        self.default_root_dir = self.log_dir = None if folder is None else str(folder)
        self.progress_bar_callback = SimpleNamespace(
            is_enabled=True, print=lambda *words, **options: say(" ".join(map(str, words)))
        )
        self.current_epoch = self.global_step = 0
        self.optimizers: list[torch.optim.Optimizer] = []
        self.lr_scheduler_configs: list[Any] = []
        self.training = self.validating = self.testing = False
        self.should_stop = self.is_last_batch = False
        self.callback_metrics: dict[str, Tensor] = {}
        # What `LightningModule.log` looks at.
        self._results: Logged | None = None
        self._logger_connector = SimpleNamespace(should_reset_tensors=lambda fx: False)
        self._accelerator_connector = SimpleNamespace(is_distributed=False)
        self.strategy.trainer = self

    @property
    def evaluating(self) -> bool:
        """Whether a validation or a test is going on."""
        return self.validating or self.testing

    @property
    def logged_metrics(self) -> dict[str, Tensor]:
        """The same values as `callback_metrics`."""
        return self.callback_metrics

    @property
    def progress_bar_metrics(self) -> dict[str, float]:
        """Those of `callback_metrics` that were logged with `prog_bar=True`, as numbers."""
        names = [] if self._results is None else self._results.in_progress_bar()
        return {name: float(self.callback_metrics[name]) for name in names if name in self.callback_metrics}

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"self.trainer.{name} is not there: under py-authoring the trainer is Ignite's")


class Strategy:
    """What `LightningOptimizer.step` and `manual_backward` call: the hooks around a step and around backward."""

    trainer: Trainer

    def __init__(self, hooks: Hooks, device: torch.device) -> None:
        self.hooks = hooks
        self.lightning_module = hooks.module
        self.root_device = device
        self._lightning_optimizers: list[Any] = []

    def optimizer_step(self, optimizer: Any, closure: Callable[[], Any], **options: Any) -> Any:
        """Runs closure, on_before_optimizer_step and the clipping of gradients, all from within the optimizer."""

        def before_step() -> Any:
            result = closure()
            self.hooks("on_before_optimizer_step", optimizer)
            if self.lightning_module.automatic_optimization:
                trainer = self.trainer
                self.hooks(
                    "configure_gradient_clipping",
                    optimizer,
                    gradient_clip_val=trainer.gradient_clip_val,
                    gradient_clip_algorithm=trainer.gradient_clip_algorithm,
                )
            return result

        return optimizer.step(closure=before_step, **options)

    def backward(self, loss: Tensor, optimizer: Any, *arguments: Any, **options: Any) -> Tensor:
        """Computes the gradients, between on_before_backward and on_after_backward."""
        self.hooks("on_before_backward", loss)
        self.hooks("backward", loss, *arguments, **options)
        self.hooks("on_after_backward")
        return loss.detach()

    def reduce(self, value: Any, *arguments: Any, **options: Any) -> Any:
        """The value: there is one process."""
        return value

    def all_gather(self, value: Any, *arguments: Any, **options: Any) -> Any:
        """The value, as Lightning's own in one process."""
        return value

    def broadcast(self, value: Any, src: int = 0) -> Any:
        """The value: there is one process."""
        return value

    def barrier(self, name: str | None = None) -> None:
        """Nothing: there is one process."""


class Precision:
    """What `LightningModule.clip_gradients` calls."""

    def clip_gradients(self, optimizer: torch.optim.Optimizer, clip_val: float, algorithm: str) -> None:
        """Clips by norm or by value, in place; by 0 not at all."""
        if clip_val <= 0:
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if algorithm == "value":
            nn.utils.clip_grad_value_(parameters, clip_val)
        else:
            nn.utils.clip_grad_norm_(parameters, clip_val)
