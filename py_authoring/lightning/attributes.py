"""What hooks leave in a module besides weights: lists of outputs, counters, metrics, frozen layers, modes.

Lightning loses it when a training is resumed within an epoch. Here a checkpoint keeps every plain value that has
changed since the training began, so that one that a user has edited in model.py since then counts as edited.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from py_authoring.lightning import lightning_base

_PLAIN = (bool, int, float, str, bytes, type(None))


class Attributes:
    """The plain attributes of a module and all its parts, seen when a training begins."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        base = lightning_base(module)
        assert base is not None
        self._theirs = {*vars(base()), "_hparams", "_hparams_initial"} - {"training"}
        self._first = {path: copy.deepcopy(values) for path, values in self._values().items()}

    def state_dict(self) -> dict[str, Any]:
        """What has changed: part → attribute → value; and the weights that want no gradient."""
        changed: dict[str, dict[str, Any]] = {}
        for path, values in self._values().items():
            first = self._first.get(path, {})
            new = {name: value for name, value in values.items() if name not in first or not _same(value, first[name])}
            if new:
                changed[path] = new
        frozen = [name for name, parameter in self._module.named_parameters() if not parameter.requires_grad]
        return {"values": changed, "on_cpu": self._on_cpu(changed), "frozen": frozen}

    def of_model(self) -> dict[str, Any]:
        """What has changed of the model alone, without metrics; a copy, which no later hook changes."""
        parts = dict(self._module.named_modules())
        state = self.state_dict()
        values = {path: each for path, each in state["values"].items() if not is_metric(parts[path])}
        return copy.deepcopy({**state, "values": values})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts everything back."""
        put_back(self._module, state)
        for name, parameter in self._module.named_parameters():
            parameter.requires_grad_(name not in state["frozen"])

    def rewind(self) -> None:
        """Makes everything what it was when the training began."""
        now = self._values()
        for path, values in self._first.items():
            part = self._module.get_submodule(path)
            for name, value in values.items():
                if name not in now[path] or not _same(now[path][name], value):
                    setattr(part, name, copy.deepcopy(value))

    # On a GPU some tensors may stay on the CPU, as losses for a list; a checkpoint is read to the CPU.
    def _on_cpu(self, changed: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[bool]]]:
        if _device(self._module).type == "cpu":
            return {}
        return {
            path: {name: [tensor.device.type == "cpu" for tensor in _tensors(value)] for name, value in values.items()}
            for path, values in changed.items()
        }

    def _values(self) -> dict[str, dict[str, Any]]:
        return {
            path: {
                name: _detached(value)
                for name, value in (vars(part) | _unsaved_buffers(part)).items()
                if name not in self._theirs and _is_plain(value)
            }
            for path, part in self._module.named_modules()
        }


def is_metric(part: nn.Module) -> bool:
    """Whether it is of torchmetrics."""
    return any(kind.__module__.partition(".")[0] == "torchmetrics" for kind in type(part).__mro__)


def put_back(module: nn.Module, state: Mapping[str, Any], *, known: bool = False) -> None:
    """Gives a module the values that `Attributes.state_dict` held, each on the device where it was.

    Args:
        module: the same one, or one that model.py has built anew.
        state: as `Attributes.state_dict` gave it.
        known: leave out what a hook of the training made, and modes: a module that was built anew has none of these.
    """
    device, parts = _device(module), dict(module.named_modules())
    for path, values in state["values"].items():
        part = module.get_submodule(path) if not known else parts.get(path)
        if part is None:
            continue
        for name, value in values.items():
            if known and (name == "training" or name not in vars(part) | _unsaved_buffers(part)):
                continue
            on_cpu = iter(state.get("on_cpu", {}).get(path, {}).get(name, ()))
            setattr(part, name, _map(value, lambda tensor, on_cpu=on_cpu: _moved(tensor, device, next(on_cpu, False))))


# Part of no state_dict, though a step may change them.
def _unsaved_buffers(part: nn.Module) -> dict[str, Any]:
    return {name: part._buffers[name] for name in part._non_persistent_buffers_set if name in part._buffers}


def _device(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def _moved(tensor: Tensor, device: torch.device, stays: bool) -> Tensor:
    return tensor if stays else tensor.to(device)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    each = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in each for tensor in _tensors(part)]


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(_is_plain(each) for each in value)
    if type(value) is dict:
        return all(isinstance(key, _PLAIN) and _is_plain(each) for key, each in value.items())
    return type(value) in _PLAIN or type(value) is Tensor


def _detached(value: Any) -> Any:
    return _map(value, lambda tensor: tensor.detach())


def _map(value: Any, change: Any) -> Any:
    if type(value) in (list, tuple):
        return type(value)(_map(each, change) for each in value)
    if type(value) is dict:
        return {key: _map(each, change) for key, each in value.items()}
    return change(value) if isinstance(value, Tensor) else value


def _same(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, Tensor):
        return left.dtype == right.dtype and left.device == right.device and torch.equal(left, right)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(_same(*pair) for pair in zip(left, right, strict=True))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(each, right[key]) for key, each in left.items())
    return bool(left == right)
