"""Data and model → the few facts about them that a report shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from py_authoring.data import Samples, Splits

_SAMPLED = 32  # of a dataset, to see what its inputs look like
_MOST_PARTS = 40
_AT_ONCE = 2**20  # numbers in float64


def describe_data(splits: Splits, sha256: str, classes: bool) -> dict[str, Any]:
    """How many samples each split has, and of which classes; what the inputs look like.

    Args:
        splits: the data. Of a dataset of a user's own only a few samples are read.
        sha256: its fingerprint.
        classes: whether targets are class numbers.

    Example:
        >>> from py_authoring.data import ArrayDataset
        >>> part = ArrayDataset({"x": torch.zeros(4, 2)}, torch.tensor([0, 1, 1, 1]))
        >>> about = describe_data(Splits(part, part, part, "toy", ["no", "yes"]), "00", classes=True)
        >>> about["splits"]["train"], about["inputs"][0]["shape"]
        ({'samples': 4, 'classes': [1, 3]}, [2])
    """
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {
        "name": splits.name,
        "sha256": sha256,
        "labels": splits.labels,
        "splits": {name: _describe_split(part, classes) for name, part in parts.items() if len(part)},
        "inputs": _describe_inputs(splits.train),
    }


def describe_model(model: nn.Module) -> dict[str, Any]:
    """The class, how many parameters there are, and which of its parts hold them."""
    parts = [
        {"name": name, "class": type(part).__name__, "parameters": _count(part.parameters())}
        for name, part in model.named_children()
    ]
    return {
        "class": type(model).__name__,
        "parameters": _count(model.parameters()),
        "trainable": _count(each for each in model.parameters() if each.requires_grad),
        "bytes": sum(each.numel() * each.element_size() for each in model.state_dict().values()),
        "parts": parts[:_MOST_PARTS],
        "parts_left_out": max(0, len(parts) - _MOST_PARTS),
    }


def _describe_split(dataset: Samples, classes: bool) -> dict[str, Any]:
    about: dict[str, Any] = {"samples": len(dataset)}
    target = getattr(dataset, "target", getattr(dataset, "targets", None))
    if isinstance(target, list | tuple):
        target = torch.as_tensor(target)
    if isinstance(target, Tensor) and len(target) == len(dataset) and not target.is_complex():
        flat = target.reshape(-1)
        if classes and bool((flat >= 0).all()):
            about["classes"] = torch.bincount(flat.long()).tolist()
        elif not classes:
            about["target"] = _describe_numbers(flat)
    return about


def _describe_inputs(dataset: Samples) -> list[dict[str, Any]]:
    step = max(1, len(dataset) // _SAMPLED)
    samples = [dataset[index][0] for index in range(0, len(dataset), step)[:_SAMPLED]]
    return [
        {
            "name": name,
            "datatype": str(samples[0][name].dtype).removeprefix("torch."),
            "shape": _common_shape([sample[name] for sample in samples]),
            **_describe_numbers(torch.cat([sample[name].reshape(-1) for sample in samples])),
        }
        for name in samples[0]
    ]


# None where the samples differ in size.
def _common_shape(samples: Sequence[Tensor]) -> list[int | None]:
    return [
        size if all(each.dim() > axis and each.shape[axis] == size for each in samples) else None
        for axis, size in enumerate(samples[0].shape)
    ]


def _describe_numbers(values: Tensor) -> dict[str, Any]:
    if not values.numel() or values.is_complex():
        return {}
    low, high, sums, count = math.inf, -math.inf, [], 0
    for start in range(0, len(values), _AT_ONCE):
        part = values[start : start + _AT_ONCE].double()
        part = part[torch.isfinite(part)]
        if len(part):
            low, high = min(low, float(part.min())), max(high, float(part.max()))
            sums.append(float(part.sum()))
            count += len(part)
    return {"min": low, "mean": math.fsum(sums) / count, "max": high} if count else {}


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(each.numel() for each in parameters)
