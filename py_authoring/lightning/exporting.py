"""A LightningModule as the plain module that its forward is, while a file is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from py_authoring.lightning import lightning_base
from py_authoring.lightning.attributes import is_metric


@contextmanager
def exporting(model: nn.Module) -> Iterator[None]:
    """Within the block a model can be scripted, and TorchScript finds nothing of Lightning in it.

    Args:
        model: any; one that holds no LightningModule is left alone.
    """
    with ExitStack() as after:
        for part in list(model.modules()):
            base: Any = lightning_base(part)
            if base is not None:
                after.callback(_lend(base, "_jit_is_scripting", True))  # as Lightning's to_torchscript does
                _hide_metrics(part, after)
                _hide_attributes(part, base, after)
        yield


# They would be compiled into the file, and forward has no use for them.
def _hide_metrics(part: nn.Module, after: ExitStack) -> None:
    children = dict(part._modules)

    def put_back() -> None:
        part._modules.clear()
        part._modules.update(children)

    after.callback(put_back)
    for name, child in children.items():
        if child is not None and is_metric(child):
            del part._modules[name]


# TorchScript writes down what stands in a module's own dict; Lightning's methods find it in the class as well.
def _hide_attributes(part: nn.Module, base: Any, after: ExitStack) -> None:
    theirs = vars(base()).keys() - vars(nn.Module()).keys()
    for name in [name for name in vars(part) if name in theirs or name.startswith("_hparams")]:
        value = vars(part).pop(name)
        after.callback(vars(part).__setitem__, name, value)
        after.callback(_lend(type(part), name, value))


def _lend(owner: Any, name: str, value: Any) -> Callable[[], None]:
    """Gives a class an attribute; returns what takes it away again."""
    before = vars(owner).get(name, _lend)
    setattr(owner, name, value)
    if before is _lend:
        return lambda: delattr(owner, name)
    return lambda: setattr(owner, name, before)
