"""What a training holds while it runs: model, optimizer, data, trainer, history; and what a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Engine
from ignite.handlers import Checkpoint

from py_authoring import checkpoint, loggers, objective, resuming, runs
from py_authoring.averaging import WeightAverage
from py_authoring.data import Splits, TrainingBatches, load_splits
from py_authoring.distributed import Group
from py_authoring.errors import RecipeError, ResumeError, TrainingError
from py_authoring.evaluation import build_evaluator, count_classes
from py_authoring.handlers import RunningLoss, Say
from py_authoring.learnt import Learnt
from py_authoring.lightning import is_lightning, load_hooks
from py_authoring.model_file import build_model, find_class
from py_authoring.optimization import build_optimizer
from py_authoring.pretrained import freeze, load_pretrained
from py_authoring.recipe import ResolvedRecipe, check_monitor
from py_authoring.run_folder import Row
from py_authoring.schedule import Schedule
from py_authoring.time_profile import TimeProfile
from py_authoring.trainer import build_trainer

if TYPE_CHECKING:
    from py_authoring.lightning.fit import Fit
    from py_authoring.lightning.optimization import Optimizers, Schedulers


@dataclass
class Session:
    """One training. `folder` is the run's; the rest follows from the recipe, or from a checkpoint."""

    resolved: ResolvedRecipe
    folder: Path
    splits: Splits
    device: torch.device
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer | Optimizers
    scheduler: Schedule | Schedulers
    trainer: Engine
    evaluator: Engine | None
    batches: TrainingBatches
    say: Say
    data_sha256: str
    average: WeightAverage | None = None
    running_loss: RunningLoss = field(default_factory=RunningLoss)
    group: Group = field(default_factory=Group)
    history: list[Row] = field(default_factory=list)
    profile: TimeProfile = field(default_factory=TimeProfile)
    lightning: Fit | None = None  # where the model is a LightningModule, which brings its own step, loss and schedule

    def __post_init__(self) -> None:
        # a mask of attention holds -inf, and is no weight
        self._never_finite = {name for name, buffer in self.model.named_buffers() if not _is_finite(buffer)}

    @property
    def epochs_done(self) -> int:
        """How many epochs are complete."""
        return self.trainer.state.iteration // len(self.batches)

    @property
    def measured(self) -> torch.nn.Module:
        """What is validated, evaluated and exported: the model, or the one with the averaged weights."""
        return self.model if self.average is None else self.average.model

    @property
    def share_of_validation(self) -> tuple[int, int]:
        """Which part of how many this process evaluates: all where a metric of the user's own needs all."""
        return (0, 1) if self.resolved.recipe.metric_functions else (self.group.rank, self.group.size)

    def score(self, row: Mapping[str, Any]) -> float:
        """How good an epoch was by `training.monitor`; higher is better."""
        return runs.score(row, self.resolved.recipe.training.monitor)

    def best_row(self) -> Row | None:
        """The history's best epoch, the earlier of two equally good ones; None where none has a finite score."""
        return runs.best_row(self.history, self.resolved.recipe.training.monitor)

    def objects_to_save(self) -> dict[str, Any]:
        """What makes a checkpoint that can be evaluated and exported: name → object with `state_dict`."""
        described = {name: Saved(lambda name=name: self._describe()[name]) for name in self._describe()}  # type: ignore[misc]
        if self.lightning is not None:
            described["lightning_model"] = Saved(self.lightning.beside_weights)
            described["lightning_hooks"] = Saved(self.lightning.checkpoint_of_hooks)
        return {"model": self.measured, **described}

    def objects_to_resume(self) -> dict[str, Any]:
        """What a resumed training needs besides: name → object with `state_dict`."""
        average = {} if self.average is None else {"average": self.average}
        return {
            **average,
            **({} if self.lightning is None else {"lightning": self.lightning}),
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "running_loss": self.running_loss,
            "history": Saved(lambda: list(self.history)),
            "random": Saved(resuming.random_state if self.group.leads else dict),
        }

    def check(self, saved: Mapping[str, Any]) -> None:
        """Refuses a checkpoint of another training, before a hook of the module runs.

        Raises:
            ResumeError: it holds no training, or one of another kind of model, or of other data.
        """
        if "optimizer" not in saved or "data_sha256" not in saved:
            raise ResumeError(
                f"this checkpoint holds {saved.get('imported', 'weights alone').partition(',')[0]} and no state of a "
                "training to go on from",
                hint="without `--resume` a new run starts",
            )
        if ("lightning" in saved) != (self.lightning is not None):
            raise ResumeError(
                "the class in model.py is a LightningModule and was none when the run began, or the other way round",
                hint="without `--resume` a new run starts",
            )
        if saved["data_sha256"] != self.data_sha256:
            raise ResumeError(
                f"the data is not what the run began with: sha256 was {saved['data_sha256'][:12]}…, "
                f"is now {self.data_sha256[:12]}…",
                hint="without `--resume` a new run starts",
            )

    def restore(self, saved: Mapping[str, Any], handlers: Mapping[str, Any]) -> None:
        """Puts everything back to where a checkpoint was taken; the random generators last.

        Args:
            saved: what `checkpoint.load_checkpoint` gave, and `check` let pass.
            handlers: name → handler with a state.

        Raises:
            ResumeError: model.py has other weights.
        """
        if self.lightning is not None:
            self.lightning.load_state_dict(saved["lightning"])
        weights = load_hooks(self.model, saved)
        try:
            self.measured.load_state_dict(weights)
        except RuntimeError as error:
            mismatch = str(error).splitlines()[-1].strip()
            raise ResumeError(
                f"the weights do not fit model.py, which has changed since the run began: {mismatch}",
                hint="without `--resume` a new run starts",
            ) from error
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.running_loss.load_state_dict(saved["running_loss"])
        self.history[:] = saved["history"]
        for name, handler in handlers.items():
            handler.load_state_dict(saved[name])
        # Ignite begins anew, without a word, where max_epochs is not set or already reached
        epochs = max(self.resolved.recipe.training.epochs, saved["epoch"] + 1)
        state = {"iteration": saved["iteration"], "epoch_length": len(self.batches), "max_epochs": epochs}
        self.trainer.load_state_dict(state)
        if self.group.leads:  # the others draw anew in each iteration
            resuming.set_random_state(saved["random"])

    def check_finite(self) -> None:
        """Raises `TrainingError` when a weight is NaN or infinite that was not so from the start."""
        for name, tensor in self.model.state_dict().items():
            if name not in self._never_finite and not _is_finite(tensor):
                raise self.not_finite(f"weight `{name}`")

    def not_finite(self, what: str) -> TrainingError:
        """The error for a loss or weights that are NaN or infinite."""
        iteration = (self.trainer.state.iteration - 1) % len(self.batches) + 1
        smaller = "`--lr`" if self.lightning is None else "learning rate in configure_optimizers"
        return TrainingError(
            f"{what} is not finite (NaN or infinite) in epoch {self.trainer.state.epoch}, iteration {iteration}",
            hint=f"a smaller {smaller}, or training.clip_norm in the recipe, often helps",
        )

    # Each part of a checkpoint asks for all of `_describe`, and a vocabulary takes its time.
    @cached_property
    def _learnt(self) -> dict[str, Any] | None:
        return None if self.splits.learnt is None else self.splits.learnt.to_dict()

    def _describe(self) -> dict[str, Any]:
        row = self.history[-1] if self.history else {}
        return {
            "format": checkpoint.FORMAT,
            "recipe": self.resolved.to_dict(),
            "sources": dict(self.resolved.sources),
            "epoch": self.epochs_done,
            "iteration": self.trainer.state.iteration,
            "metrics": {key: value for key, value in row.items() if key not in ("epoch", "iteration", "seconds")},
            "data_sha256": self.data_sha256,
            "learnt": self._learnt,
            "torch": str(torch.__version__),
            "threads": torch.get_num_threads(),
            "processes": self.group.size,
        }


def _is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


class Saved:
    """A value that is asked for when a checkpoint is taken, in the form that Ignite's `Checkpoint` wants."""

    def __init__(self, value: Callable[[], Any]) -> None:
        self._value = value

    def state_dict(self) -> Any:
        """The value as it is now."""
        return self._value()


def open_session(
    resolved: ResolvedRecipe,
    folder: Path,
    say: Say,
    learnt: Learnt | None = None,
    group: Group | None = None,
    device: torch.device | None = None,
    *,
    resumed: bool = False,
) -> Session:
    """Loads the data, seeds, and builds model, optimizer, trainer and evaluator; writes nothing.

    Args:
        resolved: the recipe.
        folder: the run's.
        say: takes each line for a person.
        learnt: what the checkpoint of a resumed run holds of the training samples: it is not learnt anew.
        group: the processes that train together; default: this one alone.
        device: where this process trains; default: the recipe's.
        resumed: its weights come from a checkpoint, and not from `model.weights`.

    Raises:
        NotFoundError, DataError, ModelFileError, DeviceError, UnavailableError: what is wrong with the recipe's world.
    """
    recipe = resolved.recipe
    _check_recipe(resolved)
    loggers.check_installed(recipe.training.loggers)
    splits = load_splits(resolved, learnt)
    group = group or Group()
    device = device or group.choose_device(recipe.training.device)
    if device.type == "cuda":  # cuDNN's fastest algorithms add in an order that changes from run to run
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    resuming.seed_everything(0)  # a dataset of the user's own may draw, and must give the same fingerprint each time
    data_sha256 = splits.sha256()
    resuming.seed_everything(recipe.training.seed)
    model = group.synchronise(build_model(resolved, splits.learnt).to(device))
    if not resumed:
        load_pretrained(model, resolved, say)
    group.start_alike(model, data_sha256)
    frozen = freeze(model, recipe.model.freeze)
    if is_lightning(model):
        group.refuse("a LightningModule")
        return _open_lightning(resolved, folder, say, splits, device, model, data_sha256)
    optimizer = build_optimizer(model, recipe)
    classes = count_classes(model, splits.train, resolved, device)
    validates = len(splits.validation) > 0
    counts = splits.learnt.class_counts if splits.learnt is not None else None
    weights = objective.class_weights(recipe.loss, classes, counts)
    trainer = build_trainer(
        model, optimizer, resolved, device, weights, frozen, group, getattr(splits.train, "pad_values", {})
    )
    group.attach(trainer, recipe.training.seed)
    batches = _training_batches(resolved, splits, trainer, group)
    average = WeightAverage(model, recipe.training.ema) if recipe.training.ema is not None else None
    measured = model if average is None else average.model
    return Session(
        resolved=resolved,
        folder=folder,
        splits=splits,
        device=device,
        model=model,
        optimizer=optimizer,
        scheduler=Schedule(optimizer, recipe, len(batches)),
        trainer=trainer,
        evaluator=build_evaluator(measured, resolved, device, classes) if validates else None,
        batches=batches,
        say=say,
        data_sha256=data_sha256,
        average=average,
        running_loss=RunningLoss(group.count),
        group=group,
    )


# The same parts as above, of which a LightningModule makes optimizer, schedule and step itself.
def _open_lightning(
    resolved: ResolvedRecipe,
    folder: Path,
    say: Say,
    splits: Splits,
    device: torch.device,
    model: torch.nn.Module,
    data_sha256: str,
) -> Session:
    from py_authoring.lightning.fit import Fit

    fit = Fit(model, resolved, device, splits, folder, say)
    return Session(
        resolved=resolved,
        folder=folder,
        splits=splits,
        device=device,
        model=model,
        optimizer=fit.optimizer,
        scheduler=fit.scheduler,
        trainer=fit.trainer,
        evaluator=fit.evaluator.engine if fit.validates else None,
        batches=_training_batches(resolved, splits, fit.trainer, Group()),
        say=say,
        data_sha256=data_sha256,
        lightning=fit,
    )


def _training_batches(resolved: ResolvedRecipe, splits: Splits, trainer: Engine, group: Group) -> TrainingBatches:
    training = resolved.recipe.training
    return TrainingBatches(
        splits.train, training.batch_size, training.seed, lambda: trainer.state.iteration, training.workers, group.part
    )


def _check_recipe(resolved: ResolvedRecipe) -> None:
    if resolved.recipe.data.kind != "none" and is_lightning(find_class(resolved)):
        from py_authoring.lightning.fit import check_recipe

        check_recipe(resolved)
        return
    check_monitor(resolved)
    _check_task(resolved)


# A number to predict that is read as a class would be learnt as the place of its text in a list, without a word.
def _check_task(resolved: ResolvedRecipe) -> None:
    task, loss = getattr(resolved.recipe.data, "task", None), resolved.recipe.loss.name
    if task == "regression" and loss in ("nll", "cross_entropy"):
        raise RecipeError(f"data.task is regression, loss.name {loss} is for classes", hint='as loss.name = "mse"')
    if task == "classification" and resolved.recipe.task == "regression":
        raise RecipeError(
            f"data.task is classification, loss.name {loss} is for numbers", hint='data.task = "regression"'
        )


def checkpoint_handler(
    session: Session, filename: str, objects: Mapping[str, Any], count: int = 1, **options: Any
) -> Checkpoint:
    """An Ignite `Checkpoint` that keeps `count` files of that name or pattern, written durably."""
    saver = checkpoint.FsyncSaver if count == 1 and "{" not in filename else checkpoint.KeepingSaver
    folder = session.folder / checkpoint.CHECKPOINTS
    return Checkpoint(
        dict(objects), saver(folder, writes=session.group.leads), n_saved=count, filename_pattern=filename, **options
    )
