"""One LightningModule that learns: training_step on an Ignite Engine, its hooks in the order of Lightning's Trainer.

In: a module on its device, the recipe, the splits. Out: what a `Session` holds: trainer, optimizer, schedule,
evaluator, and the state that a checkpoint keeps.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor

from py_authoring.data import Sample, Splits
from py_authoring.errors import AuthoringError, ModelFileError, RecipeError, TrainingError
from py_authoring.evaluation import failed, quiet
from py_authoring.lightning import OWN_SECTIONS
from py_authoring.lightning import hooks as hooks_
from py_authoring.lightning.attributes import Attributes
from py_authoring.lightning.evaluation import Evaluator, counting, step_arguments, transfer
from py_authoring.lightning.hooks import Hooks
from py_authoring.lightning.logged import Logged
from py_authoring.lightning.optimization import Optimizers, Schedulers, configure
from py_authoring.lightning.trainer import Trainer
from py_authoring.model_file import MODEL_FILE, call, first_line
from py_authoring.recipe import ResolvedRecipe
from py_authoring.runs import lower_is_better, monitored_key

#: Keys that change how py-authoring's own step computes, and what a LightningModule does instead.
_OF_OUR_STEP = {
    "training.accumulate": "a step of a LightningModule takes the whole batch",
    "training.precision": "autocast belongs into training_step",
    "training.clip_value": "configure_gradient_clipping does it",
    "model.freeze": "requires_grad_(False) belongs into __init__",
    "training.ema": "an average of the weights belongs into on_train_batch_end",
}
#: Columns of a history that are the run's own.
RESERVED = ("epoch", "iteration", "loss", "lr", "seconds")


def check_recipe(resolved: ResolvedRecipe) -> None:
    """Raises:
    RecipeError: the recipe says what the module itself says.
    """
    problems = []
    for key, source in resolved.sources.items():
        section = key.partition(".")[0]
        if section in OWN_SECTIONS and source != "default":
            place = source if source.startswith("--") else f"{resolved.directory / 'recipe.toml'}: {key}"
            problems.append(f"{place} is given, and {OWN_SECTIONS[section]} of a LightningModule")
        elif key in _OF_OUR_STEP and source != "default":
            problems.append(f"{key} ({source}) is not for a LightningModule: {_OF_OUR_STEP[key]}")
    if problems:
        hint = "its own numbers are arguments: `--set model.arguments.lr=0.01`"
        if len(problems) == 1:
            raise RecipeError(problems[0], hint=hint)
        raise RecipeError("the recipe says what a LightningModule says itself", hint=hint, problems=problems)


class Fit:
    """A LightningModule in training.

    Args:
        module: on its device; refused where it counts on what is not run here.
        resolved: the recipe.
        device: where the module is.
        splits: the data.
        folder: the run's.
        say: takes each line for a person.

    Attributes:
        trainer: the Ignite Engine that runs training_step; its output is the loss, None where there was none.
        optimizer: one object with a state, whatever configure_optimizers returned.
        scheduler: steps at an epoch's end.
        shown: the columns of the last row that were logged with `prog_bar=True`.

    Raises:
        RefusedError, ModelFileError: of `hooks.check` and `optimization.configure`.
        RecipeError: training.clip_norm with a module that optimises by hand.
    """

    def __init__(
        self,
        module: Any,
        resolved: ResolvedRecipe,
        device: torch.device,
        splits: Splits,
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        file, training = resolved.directory / MODEL_FILE, resolved.recipe.training
        hooks_.check(module, file)
        if not module.automatic_optimization and training.clip_norm is not None:
            raise RecipeError(
                "training.clip_norm is given, and the module optimises by hand (automatic_optimization = False)",
                hint="self.clip_gradients(optimizer, 1.0) in training_step",
            )
        self.module, self.hooks = module, Hooks(module)
        self._resolved, self._device, self._splits, self._say = resolved, device, splits, say
        self._length = -(-len(splits.train) // training.batch_size)
        self.stand_in = Trainer(
            self.hooks,
            device,
            say,
            max_epochs=training.epochs,
            num_training_batches=self._length,
            num_val_batches=-(-len(splits.validation) // training.batch_size),
            gradient_clip_val=training.clip_norm,
            folder=folder,
        )
        module.trainer = self.stand_in
        self.logged = Logged(module, counting(module))
        self.stand_in._results, self.stand_in.training = self.logged, True
        self._set_up(file)
        configure(self.hooks, self.stand_in, file)
        if not module.automatic_optimization:
            for wrapped in self.stand_in.strategy._lightning_optimizers:
                wrapped._on_after_step = self._count_step
        self.optimizer = Optimizers(self.stand_in.optimizers)
        self.scheduler = Schedulers(self.hooks, self.stand_in)
        self.trainer = quiet(Engine(self._train_step))
        self.validates = len(splits.validation) > 0 and self.hooks.overridden("validation_step")
        self.evaluator = Evaluator(self.hooks, self.stand_in, "validation", resolved, device)
        self._attributes = Attributes(module)
        self._lr = self.optimizer.param_groups[0]["lr"]
        self.shown: list[str] = []
        self._measured: dict[str, Any] | None = None  # the attributes with which the epoch's numbers were measured
        self._key: str | None = None  # the column by which the best epoch is chosen

    # An exported model is built by __init__ alone, and a checkpoint is loaded into such a one.
    def _set_up(self, file: Path) -> None:
        before = self.module.state_dict().keys()
        call(self.hooks, file, "prepare_data")
        call(self.hooks, file, "setup", "fit")
        new = [name for name in self.module.state_dict() if name not in before]
        if new:
            raise ModelFileError(
                f"`{file}`: setup of {type(self.module).__name__} makes the weight `{new[0]}`, which no exported model "
                "would have",
                hint="make layers in __init__",
            )

    @property
    def stopped(self) -> bool:
        """Whether the module itself asked to stop."""
        return self.stand_in.should_stop

    def begin(self, saved: Mapping[str, Any] | None) -> None:
        """on_fit_start and on_train_start, before a checkpoint's state is put back: so what they do counts once."""
        if saved is not None:
            self.stand_in.current_epoch = saved["iteration"] // self._length
            self.stand_in.global_step = saved["lightning"]["global_step"]
        with self._named("starting"):
            self.hooks("on_fit_start")
            self.hooks("on_train_start")
        self._attributes = Attributes(self.module)

    def start_epoch(self, engine: Engine) -> None:
        """on_train_epoch_start; not for an epoch that is gone on with."""
        self.stand_in.current_epoch, self._measured = engine.state.epoch - 1, None
        if engine.state.iteration % self._length == 0:
            self.stand_in.is_last_batch = False
            with self._named("starting an epoch"):
                self.hooks("on_train_epoch_start")

    def end_epoch(self, loss: float) -> dict[str, float]:
        """Validation and on_train_epoch_end → the columns of the epoch's row: all that was logged, and `lr`.

        Args:
            loss: the mean of what training_step returned; NaN where it returned none.

        Raises:
            TrainingError: the module raised, or does not log what the best epoch is chosen by.
        """
        validated: dict[str, float] = {}
        if self.validates:
            with self._named("validating"):
                self.hooks("on_validation_model_zero_grad")
            validated = self.evaluator.run(self._splits.validation)
            self._measured = self._attributes.of_model()
        with self._named("ending an epoch"):
            self.scheduler.update("step", self._length - 1, plateau=True)
            self._publish(self.logged.of_epoch())
            self.hooks("on_train_epoch_end")
            self._publish(self.logged.of_epoch())
        trained = self.logged.row()
        self.shown = [*self.logged.in_progress_bar(), *self.evaluator.in_progress_bar]
        self.logged.clear()
        row = {name: value for name, value in (trained | validated).items() if name not in RESERVED}
        self._check_monitor(row, loss)
        return {**row, "lr": self._lr}

    # The best checkpoint must never be chosen by something else than was asked for without a word.
    def _check_monitor(self, row: Mapping[str, float], loss: float) -> None:
        monitor = self._resolved.recipe.training.monitor
        key = monitored_key(row, monitor)
        if key == "loss" and monitor != "loss":
            raise TrainingError(
                f"training.monitor is `{monitor}`, which {type(self.module).__name__} does not log; "
                f"logged: {', '.join(row) or 'nothing'}",
                hint="`--set training.monitor=NAME`",
            )
        if key == "loss" and math.isnan(loss):
            raise TrainingError(
                f"training_step of {type(self.module).__name__} returns no loss, and no val_loss is logged: no epoch "
                f"can be the best one; logged: {', '.join(row) or 'nothing'}",
                hint="log something and name it with training.monitor",
            )
        if self._key not in (None, key):
            raise TrainingError(
                f"the best checkpoint is chosen by {self._key}, and in epoch {self.stand_in.current_epoch + 1} it "
                f"would be by {key}: {type(self.module).__name__} must log the same in each epoch",
                hint="log it in each epoch, or name another with training.monitor",
            )
        self._key = key
        if self.stand_in.current_epoch == 0:
            which = "smallest" if lower_is_better(key) else "largest"
            self._say(f"the best checkpoint is that of the {which} {key if key != 'loss' else 'training loss'}")

    def finish(self) -> None:
        """on_train_end, on_fit_end and teardown, after the last epoch."""
        self.stand_in.current_epoch = self._resolved.recipe.training.epochs
        with self._named("ending"):
            self.hooks("on_train_end")
            self.hooks("on_fit_end")
            self.hooks("teardown", "fit")

    def beside_weights(self) -> dict[str, Any]:
        """What makes these weights the model that was measured: its attributes, and where the training was."""
        return {
            "epoch": self.stand_in.current_epoch,
            "global_step": self.stand_in.global_step,
            "attributes": self._measured or self._attributes.of_model(),
        }

    def go_back(self, saved: Mapping[str, Any]) -> None:
        """Makes the module ready for a checkpoint of an earlier epoch, to be measured as it was then."""
        self._attributes.rewind()
        self.stand_in.current_epoch = saved["epoch"] - 1
        if "lightning_model" in saved:  # older checkpoints have none
            self.stand_in.global_step = saved["lightning_model"]["global_step"]

    def checkpoint_of_hooks(self) -> dict[str, Any]:
        """What on_save_checkpoint adds to a checkpoint.

        Raises:
            TrainingError: it adds what a checkpoint cannot hold: other objects than tensors and plain values.
        """
        if not self.hooks.overridden("on_save_checkpoint"):
            return {}
        ours = {
            "epoch": self.stand_in.current_epoch,
            "global_step": self.stand_in.global_step,
            "state_dict": self.module.state_dict(),
            "optimizer_states": [optimizer.state_dict() for optimizer in self.stand_in.optimizers],
            "lr_schedulers": [config.scheduler.state_dict() for config in self.stand_in.lr_scheduler_configs],
        }
        checkpoint = dict(ours)
        with self._named("saving"):
            self.hooks("on_save_checkpoint", checkpoint)
        added = {name: value for name, value in checkpoint.items() if name not in ours}
        buffer = io.BytesIO()
        try:
            torch.save(added, buffer)
            buffer.seek(0)
            torch.load(buffer, weights_only=True)
        except Exception as error:
            raise TrainingError(
                f"`{self._resolved.directory / MODEL_FILE}`: on_save_checkpoint adds what no checkpoint can hold "
                f"({', '.join(added)}): {first_line(error)}",
                hint="tensors, numbers, texts, lists and dicts can be kept",
            ) from error
        return added

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs besides weights, optimizer and schedule."""
        stand_in = self.stand_in
        return {
            "global_step": stand_in.global_step,
            "should_stop": stand_in.should_stop,
            "key": self._key,
            "callback_metrics": dict(stand_in.callback_metrics),
            "logged": self.logged.state_dict(),
            "attributes": self._attributes.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken."""
        stand_in = self.stand_in
        stand_in.global_step, stand_in.should_stop = state["global_step"], state["should_stop"]
        stand_in.callback_metrics.update(
            {name: value.to(self._device) for name, value in state["callback_metrics"].items()}
        )
        self._key = state.get("key")
        self.logged.load_state_dict(state["logged"])
        self._attributes.load_state_dict(state["attributes"])

    def _train_step(self, engine: Engine, sample: Sample) -> float | None:
        index = (engine.state.iteration - 1) % self._length
        last = self.stand_in.is_last_batch = index == self._length - 1
        with self._named("training"):
            batch = transfer(self.hooks, sample, self._device)
            self.logged.start_batch(batch)
            if self.hooks("on_train_batch_start", batch, index) == -1:
                raise TrainingError(
                    f"on_train_batch_start of {type(self.module).__name__} returned -1 to leave the epoch, which "
                    "py-authoring does not do"
                )
            if self.module.automatic_optimization:
                outputs = self._optimize(batch, index)
            else:
                outputs = self._outputs(self._call_step(batch, index))
            self._lr = self.optimizer.param_groups[0]["lr"]
            self.scheduler.update("step", index, plateau=False)
            if last:
                self.scheduler.update("epoch", self.stand_in.current_epoch, plateau=False)
            self.hooks("on_train_batch_end", outputs, batch, index)
            self._publish(self.logged.of_step())
            self.logged.start_batch(None)
            if not last:  # after the last batch comes the validation first
                self.scheduler.update("step", index, plateau=True)
                self._refuse_stop()
        loss = outputs.get("loss")
        return float(loss) if isinstance(loss, Tensor) and loss.numel() == 1 else None

    # Lightning hands the optimizer a closure: training_step, zero_grad, backward. LBFGS calls it several times.
    def _optimize(self, batch: Any, index: int) -> dict[str, Any]:
        (optimizer,), (wrapped,) = self.stand_in.optimizers, self.stand_in.strategy._lightning_optimizers
        epoch, hooks = self.stand_in.current_epoch, self.hooks
        outputs: dict[str, Any] = {}

        @torch.enable_grad()
        def closure() -> Tensor | None:
            nonlocal outputs
            returned = self._call_step(batch, index)
            outputs = self._outputs(returned)
            hooks("on_before_zero_grad", optimizer)
            hooks("optimizer_zero_grad", epoch, index, optimizer)
            if not outputs:
                return None
            loss = returned["loss"] if isinstance(returned, Mapping) else returned
            self.stand_in.strategy.backward(loss, optimizer)
            return outputs["loss"]  # type: ignore[no-any-return]

        hooks("optimizer_step", epoch, index, wrapped, closure)
        self._count_step()
        return outputs

    def _call_step(self, batch: Any, index: int) -> Any:
        return self.hooks("training_step", *step_arguments(self.hooks, "training_step", batch, index))

    def _outputs(self, returned: Any) -> dict[str, Any]:
        """What training_step returned as on_train_batch_end gets it: nothing, or at least the detached loss."""
        automatic = self.module.automatic_optimization
        if returned is None:
            return {}
        outputs = dict(returned) if isinstance(returned, Mapping) else {"loss": returned}
        loss = outputs.get("loss")
        if not isinstance(loss, Tensor):
            if loss is None and not automatic:
                return outputs
            got = type(returned).__name__ if loss is returned else f"a dict with loss {type(loss).__name__}"
            raise self._wrong(f"returns {got}; expected a tensor, a dict with the tensor `loss`, or None")
        if automatic and loss.numel() != 1:
            raise self._wrong(f"returns a loss of shape {list(loss.shape)}; expected one number, as loss.mean()")
        if automatic and not loss.requires_grad:
            raise self._wrong("returns a loss that depends on no weight that is trained")
        return {**outputs, "loss": loss.detach().clone()}

    def _wrong(self, what: str) -> ModelFileError:
        file = self._resolved.directory / MODEL_FILE
        return ModelFileError(f"`{file}`: training_step of {type(self.module).__name__} {what}")

    def _refuse_stop(self) -> None:
        if self.stand_in.should_stop:
            raise TrainingError(
                "self.trainer.should_stop was set within an epoch; py-authoring stops at an epoch's end",
                hint="set it in on_validation_epoch_end or on_train_epoch_end, or use training.patience",
            )

    def _count_step(self) -> None:
        self.stand_in.global_step += 1

    def _publish(self, values: dict[str, Tensor]) -> None:
        self.stand_in.callback_metrics.update(values)

    def _named(self, doing: str) -> _Named:
        return _Named(self._resolved, doing)


class _Named:
    """Turns what a user's hook raises into a sentence with the line of model.py; cheaper than a generator."""

    def __init__(self, resolved: ResolvedRecipe, doing: str) -> None:
        self._resolved, self._doing = resolved, doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, AuthoringError):
            raise failed(error, self._resolved, self._doing) from error
