"""validation_step and test_step over a dataset → what the module logged, on an Ignite Engine.

The same loop validates at the end of each epoch and answers `py-authoring evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from ignite.engine import Engine
from torch import Tensor

from py_authoring.data import Sample, Samples, batches
from py_authoring.errors import AuthoringError, ModelFileError
from py_authoring.evaluation import failed, quiet
from py_authoring.handlers import print_to_stderr
from py_authoring.lightning.hooks import Hooks, lightning
from py_authoring.lightning.logged import Logged
from py_authoring.lightning.trainer import Trainer
from py_authoring.model_file import MODEL_FILE
from py_authoring.recipe import ResolvedRecipe

Stage = Literal["validation", "test"]
#: What stands before a logged name to say which split it is of: metrics.json and a contract say that themselves.
_PREFIXES = tuple(f"{word}{mark}" for word in ("validation", "valid", "val", "test") for mark in "_/")


def give_batch(sample: Sample) -> Any:
    """A batch as a LightningModule takes it apart: `x, y = batch`, or `inputs, y = batch` where there are several."""
    inputs, target = sample
    return (next(iter(inputs.values())) if len(inputs) == 1 else inputs, target)


def transfer(hooks: Hooks, sample: Sample, device: torch.device) -> Any:
    """A batch on the module's device, through the three hooks that may change it."""
    batch = hooks("on_before_batch_transfer", give_batch(sample), 0)
    batch = hooks("transfer_batch_to_device", batch, device, 0)
    return hooks("on_after_batch_transfer", batch, 0)


def step_arguments(hooks: Hooks, step: str, batch: Any, index: int) -> tuple[Any, ...]:
    """`(batch, index)`, or the batch alone for a step that takes no more."""
    signatures = lightning(hooks.module, "utilities.signature_utils")
    takes_index = signatures.is_param_in_hook_signature(getattr(hooks.module, step), "batch_idx", min_args=2)
    return (batch, index) if takes_index else (batch,)


def counting(module: Any) -> Callable[[Any], int]:
    """How Lightning counts the samples of a batch."""
    return lightning(module, "utilities.data").extract_batch_size  # type: ignore[no-any-return]


class NothingLoggedError(ModelFileError):
    """A step that measures logged nothing."""


class Evaluator:
    """Runs one stage of a module with its hooks, in Lightning's order.

    Args:
        hooks: of the module.
        trainer: its trainer; it says what is going on, and holds what was logged.
        stage: which step and hooks.
        resolved: the recipe: batch size, and the file that an error names.
        device: where the module is.

    Attributes:
        in_progress_bar: the names that were logged with `prog_bar=True` last time.
    """

    def __init__(
        self, hooks: Hooks, trainer: Trainer, stage: Stage, resolved: ResolvedRecipe, device: torch.device
    ) -> None:
        self.hooks = hooks
        self.logged = Logged(hooks.module, counting(hooks.module))
        self.engine = quiet(Engine(self._step))
        self.in_progress_bar: list[str] = []
        self._trainer = trainer
        self._stage = stage
        self._resolved = resolved
        self._device = device

    def run(self, dataset: Samples) -> dict[str, float]:
        """Name → number of all that was logged; the module is left in the modes in which it was.

        Raises:
            TrainingError: the module raised; names the line of model.py.
        """
        trainer, name = self._trainer, "validating" if self._stage == "validation" else "testing"
        before = trainer._results, trainer.training
        trainer._results, trainer.training = self.logged, False
        setattr(trainer, name, True)
        try:
            with torch.no_grad():
                return self._run(dataset)
        except AuthoringError:
            raise
        except Exception as error:  # a user's module can raise anything
            raise failed(error, self._resolved, "evaluating") from error
        finally:
            setattr(trainer, name, False)
            trainer._results, trainer.training = before
            self.logged.clear()

    def _run(self, dataset: Samples) -> dict[str, float]:
        hooks, stage, module = self.hooks, self._stage, self.hooks.module
        modes = {part: part.training for part in module.modules()}
        hooks(f"on_{stage}_model_eval")
        hooks(f"on_{stage}_start")
        hooks(f"on_{stage}_epoch_start")
        self.engine.run(batches(dataset, self._resolved.recipe.training.batch_size))
        self._publish(self.logged.of_epoch())
        hooks(f"on_{stage}_epoch_end")
        self._publish(self.logged.of_epoch())
        row, self.in_progress_bar = self.logged.row(), self.logged.in_progress_bar()
        hooks(f"on_{stage}_end")
        if hooks.overridden(f"on_{stage}_model_train"):
            hooks(f"on_{stage}_model_train")
        else:
            for part, training in modes.items():
                part.training = training
        return row

    def _step(self, engine: Engine, sample: Sample) -> None:
        hooks, stage = self.hooks, self._stage
        index = engine.state.iteration - 1
        batch = transfer(hooks, sample, self._device)
        self.logged.start_batch(batch)
        hooks(f"on_{stage}_batch_start", batch, index)
        output = hooks(f"{stage}_step", *step_arguments(hooks, f"{stage}_step", batch, index))
        hooks(f"on_{stage}_batch_end", output, batch, index)
        self.logged.start_batch(None)

    def _publish(self, values: dict[str, Tensor]) -> None:
        self._trainer.callback_metrics.update(values)


def has_step(module: Any) -> bool:
    """Whether there is a step that `evaluate` can run."""
    hooks = Hooks(module)
    return hooks.overridden("validation_step") or hooks.overridden("test_step")


def evaluate(
    module: Any, dataset: Samples, resolved: ResolvedRecipe, device: torch.device | str, split: str
) -> dict[str, float]:
    """What a module logs on a split: by test_step on the test split, where it has one, else by validation_step.

    Args:
        module: a LightningModule; left as it was.
        dataset: the samples.
        resolved: the recipe.
        device: where the module is.
        split: train, validation or test.

    Returns:
        Name → number; a name's `val_` or `test_` is left out, as every table of metrics says which split it is of.

    Raises:
        ModelFileError: it has no such step.
        NothingLoggedError: it logs nothing in it.
        TrainingError: it raised; names the line of model.py.
    """
    hooks = Hooks(module)
    file = resolved.directory / MODEL_FILE
    stages: tuple[Stage, ...] = ("test", "validation") if split == "test" else ("validation", "test")
    stage = next((stage for stage in stages if hooks.overridden(f"{stage}_step")), None)
    name = type(module).__name__
    if stage is None:
        raise ModelFileError(f"`{file}`: {name} has no validation_step and no test_step: nothing can be measured")
    before = module._trainer
    count = len(batches(dataset, resolved.recipe.training.batch_size))
    trainer = Trainer(hooks, torch.device(device), print_to_stderr, num_val_batches=count)
    if before is not None:
        trainer.current_epoch, trainer.global_step = before.current_epoch, before.global_step
    else:
        _prepare(hooks, resolved, "validate" if stage == "validation" else "test")
    module.trainer = trainer
    try:
        row = Evaluator(hooks, trainer, stage, resolved, torch.device(device)).run(dataset)
    finally:
        module.trainer = before
    if not row:
        raise NothingLoggedError(f"`{file}`: {stage}_step of {name} logs nothing", hint='self.log("val_loss", loss)')
    return _without_split(row)


def _prepare(hooks: Hooks, resolved: ResolvedRecipe, stage: str) -> None:
    try:
        hooks("prepare_data")
        hooks("setup", stage)
    except Exception as error:
        raise failed(error, resolved, "evaluating") from error


def _without_split(row: dict[str, float]) -> dict[str, float]:
    short = {name: next((name[len(p) :] for p in _PREFIXES if name.startswith(p) and name != p), name) for name in row}
    unique = list(short.values())
    return {short[name] if unique.count(short[name]) == 1 else name: value for name, value in row.items()}
