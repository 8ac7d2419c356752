"""A LightningModule as the plain module that its forward is, while a file is made of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from py_authoring.lightning import lightning_base


@contextmanager
def exporting(model: nn.Module) -> Iterator[None]:
    """Within the block a model can be scripted, and holds no metrics, which TorchScript would compile into the file.

    Args:
        model: any; one that holds no LightningModule is left alone.
    """
    with ExitStack() as after:
        for part in list(model.modules()):
            base: Any = lightning_base(part)
            if base is None:
                continue
            after.callback(setattr, base, "_jit_is_scripting", base._jit_is_scripting)
            base._jit_is_scripting = True  # as Lightning's own to_torchscript: its `trainer` is then not asked for
            after.callback(_put_back, part, dict(part._modules))
            for name, child in list(part._modules.items()):
                if _is_metric(child):
                    del part._modules[name]
        yield


def _put_back(part: nn.Module, children: dict[str, nn.Module | None]) -> None:
    part._modules.clear()
    part._modules.update(children)


def _is_metric(child: nn.Module | None) -> bool:
    return any(base.__module__.partition(".")[0] == "torchmetrics" for base in type(child).__mro__)
