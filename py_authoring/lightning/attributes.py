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
        return {"values": changed, "frozen": frozen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts everything back."""
        for path, values in state["values"].items():
            part = self._module.get_submodule(path)
            device = next((parameter.device for parameter in self._module.parameters()), torch.device("cpu"))
            for name, value in values.items():
                setattr(part, name, _on(value, device))
        for name, parameter in self._module.named_parameters():
            parameter.requires_grad_(name not in state["frozen"])

    def _values(self) -> dict[str, dict[str, Any]]:
        return {
            path: {
                name: _detached(value)
                for name, value in vars(part).items()
                if name not in self._theirs and _is_plain(value)
            }
            for path, part in self._module.named_modules()
        }


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(_is_plain(each) for each in value)
    if type(value) is dict:
        return all(isinstance(key, _PLAIN) and _is_plain(each) for key, each in value.items())
    return type(value) in _PLAIN or type(value) is Tensor


def _detached(value: Any) -> Any:
    return _map(value, lambda tensor: tensor.detach())


def _on(value: Any, device: torch.device) -> Any:
    return _map(value, lambda tensor: tensor.to(device))


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
