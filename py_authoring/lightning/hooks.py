"""Which of Lightning's hooks are run, how one is called, and a refusal that names each that is not."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from py_authoring.errors import ModelFileError, RefusedError
from py_authoring.lightning import lightning_base

#: Hooks that are never run here, nor by Lightning's `Trainer.fit`: they do no harm.
_OF_PREDICTING = ("on_predict_", "predict_")
_DATA = "data comes from the recipe's [data], which resumes at the very batch"
#: What is refused, and what to do.
_REFUSED = {
    "train_dataloader": _DATA,
    "val_dataloader": _DATA,
    "test_dataloader": _DATA,
    "configure_callbacks": "early stopping and checkpoints come from the recipe's [training]",
    "configure_model": "an exported model is built by __init__ alone: make the layers there",
    "configure_sharded_model": "an exported model is built by __init__ alone: make the layers there",
    "training_epoch_end": "Lightning 2 has on_train_epoch_end instead",
    "validation_epoch_end": "Lightning 2 has on_validation_epoch_end instead",
    "test_epoch_end": "Lightning 2 has on_test_epoch_end instead",
    "training_step_end": "Lightning 2 has training_step alone",
    "validation_step_end": "Lightning 2 has validation_step alone",
    "test_step_end": "Lightning 2 has test_step alone",
}
#: What is run; a hook of Lightning's that is in none of these lists is newer than they, and refused too.
_RUN = frozenset(
    [
        *("prepare_data", "setup", "teardown", "on_fit_start", "on_fit_end", "on_train_start", "on_train_end"),
        *("on_train_epoch_start", "on_train_epoch_end", "on_train_batch_start", "on_train_batch_end"),
        *("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"),
        *("transfer_batch_to_device", "on_before_batch_transfer", "on_after_batch_transfer"),
        *("on_validation_model_zero_grad", "on_save_checkpoint", "on_load_checkpoint"),
        *(
            f"on_{stage}_{what}"
            for stage in ("validation", "test")
            for what in ("model_eval", "model_train", "start", "end", "epoch_start", "epoch_end")
        ),
        *(f"on_{stage}_batch_{end}" for stage in ("validation", "test") for end in ("start", "end")),
    ]
)


class Hooks:
    """Calls a module's hooks as Lightning's Trainer does: `self.log` asks which one is running."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self._base = lightning_base(module)

    def __call__(self, name: str, *arguments: Any, **keywords: Any) -> Any:
        """Runs one hook or step."""
        module = self.module
        before, module._current_fx_name = module._current_fx_name, name
        try:
            return getattr(module, name)(*arguments, **keywords)
        finally:
            module._current_fx_name = before

    def overridden(self, name: str) -> bool:
        """Whether the user's class has a method of its own."""
        own, theirs = getattr(type(self.module), name, None), getattr(self._base, name, None)
        return own is not None and own is not theirs


def check(module: Any, file: Path) -> None:
    """Refuses a module that counts on something that is not run here; before anything is trained.

    Args:
        module: a LightningModule.
        file: the user's model.py.

    Raises:
        RefusedError: it overrides such a hook; all are named.
        ModelFileError: it has no training_step or no configure_optimizers.
    """
    hooks, name = Hooks(module), type(module).__name__
    for needed in ("training_step", "configure_optimizers"):
        if not hooks.overridden(needed):
            raise ModelFileError(f"`{file}`: {name} has no `{needed}`, without which a LightningModule is not trained")
    for step in ("training_step", "validation_step", "test_step"):
        for argument in ("dataloader_iter", "optimizer_idx"):
            if lightning(module, "utilities.signature_utils").is_param_in_hook_signature(
                getattr(module, step), argument, explicit=True
            ):
                raise RefusedError(
                    f"`{file}`: {step} of {name} takes `{argument}`, which py-authoring does not give",
                    hint=f"{step}(self, batch, batch_idx)",
                )
    problems = [f"{hook}: {why}" for hook, why in _unsupported(hooks)]
    if len(problems) == 1:
        raise RefusedError(f"`{file}`: {name} overrides a hook that py-authoring does not run: {problems[0]}")
    if problems:
        raise RefusedError(f"`{file}`: {name} overrides hooks that py-authoring does not run", problems=problems)


def lightning(module: Any, name: str) -> Any:
    """A module of the Lightning that a LightningModule was made with, as `core.optimizer`."""
    base = lightning_base(module)
    assert base is not None
    return import_module(f"{base.__module__.removesuffix('.core.module')}.{name}")


def _unsupported(hooks: Hooks) -> Iterator[tuple[str, str]]:
    theirs = (vars(base) for base in (hooks._base or object).__mro__ if base.__module__.endswith(".core.hooks"))
    known = [name for names in theirs for name in names if not name.startswith(("_", *_OF_PREDICTING))]
    for name in dict.fromkeys([*_REFUSED, *known]):
        if name not in _RUN and hooks.overridden(name):
            yield name, _REFUSED.get(name, "this version does not know it")
