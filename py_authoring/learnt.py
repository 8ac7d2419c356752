"""What the training samples taught before the first step: means, deviations, categories, labels, vocabulary.

Plain values, so that a checkpoint holds them: a resumed run, an evaluation and an export take them from there and learn
nothing anew. A model's class that has an argument `learnt` is given them. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of numbers; the deviation of numbers that are all equal is 1, so that one can divide by it."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Learnt:
    """Facts of the training split alone; validation and test samples have no part in them, but for the labels.

    Attributes:
        labels: what each class is called; None where classes have no names.
        class_counts: how many training samples each class has; None for other tasks.
        numbers: column of numbers → its scale, in the order of the input.
        categories: column of categories → its values, in the order of their ids, which begin with 1; 0 is any other.
        target: the scale of numbers to predict.
        channels: the scale of each channel of pictures, of values between 0 and 1.
        vocabulary: the words of texts, in the order of their ids, which begin with 2; 0 pads, 1 is any other word.
    """

    labels: list[str] | None = None
    class_counts: list[int] | None = None
    numbers: dict[str, Scale] = field(default_factory=dict)
    categories: dict[str, list[str]] = field(default_factory=dict)
    target: Scale | None = None
    channels: list[Scale] = field(default_factory=list)
    vocabulary: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Learnt:
        """What `to_dict` gave.

        Example:
            >>> facts = Learnt(labels=["cat"], numbers={"age": Scale(3.0, 2.0)})
            >>> Learnt.from_dict(facts.to_dict()) == facts
            True
        """
        known = dict(values)
        known["numbers"] = {name: Scale(**scale) for name, scale in known.get("numbers", {}).items()}
        known["channels"] = [Scale(**scale) for scale in known.get("channels", [])]
        known["target"] = Scale(**known["target"]) if known.get("target") else None
        return cls(**known)


def balanced_weights(class_counts: Sequence[int]) -> list[float]:
    """A weight for each class with which all classes count as much together: samples / (classes × its samples).

    Example:
        >>> balanced_weights([30, 10])
        [0.6666666666666666, 2.0]
    """
    total = math.fsum(class_counts)
    return [total / (len(class_counts) * count) if count else 0.0 for count in class_counts]


def learnt_of(checkpoint: Mapping[str, Any]) -> Learnt | None:
    """What a checkpoint holds of it; None for one of a version that kept none."""
    values = checkpoint.get("learnt")
    return None if values is None else Learnt.from_dict(values)
