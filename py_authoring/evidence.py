"""What a report shows of an evaluation besides its metrics, collected in passing: nothing is computed twice.

In: the outputs of an evaluator Engine, batch by batch. Out: calibration, the most confused pairs and the worst mistakes
with their inputs; of numbers, predictions against targets. Memory does not grow with the data.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from py_authoring import objective
from py_authoring.model_file import first_line
from py_authoring.recipe_sections import LossSection

#: How many mistakes, pairs of classes and points are kept.
MISTAKES, PAIRS, POINTS = 24, 400, 1000
_BINS = 10
_LARGEST_SIDE = 128  # of a picture, in pixels


@dataclass(frozen=True)
class Mistake:
    """A sample that the model got wrong: its place in the split, and its inputs as they were."""

    index: int
    badness: float
    true: float
    predicted: float
    confidence: float | None
    inputs: dict[str, Tensor]


class Evidence:
    """A handler of an evaluator; after its run, `to_dict` gives what was seen.

    Its own failure ends no evaluation: `broken` then says what was wrong, and there is nothing to show.

    Args:
        section: the loss, which tells what an output means.
        classes: how many there are; None for regression.

    Example:
        >>> evidence = Evidence(LossSection(name="cross_entropy"), 2)
        >>> evidence.add({"x": torch.zeros(2, 3)}, torch.tensor([[0.0, 4.0], [0.0, 4.0]]), torch.tensor([1, 0]))
        >>> seen = evidence.to_dict()
        >>> seen["samples"], seen["confused"], [mistake["index"] for mistake in seen["mistakes"]]
        (2, [[0, 1, 1]], [1])
    """

    def __init__(self, section: LossSection, classes: int | None) -> None:
        self.section = section
        self.classes = classes
        self.broken: str | None = None
        self.samples = 0
        self.mistakes: list[Mistake] = []
        self._bins = torch.zeros(3, _BINS, dtype=torch.float64)  # samples, sum of confidence, right ones
        self._pairs: Counter[tuple[int, int]] = Counter()
        self._points: list[tuple[float, float]] = []
        self._every, self._values = 1, 0

    def attach(self, evaluator: Engine) -> None:
        """Listens to each of the evaluator's iterations."""
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Adds the batch that the evaluator has just seen."""
        if self.broken is None:
            batch: Any = engine.state.batch
            output: Any = engine.state.output
            try:
                self.add(batch[0], output["output"], output["target"])
            except Exception as error:  # outputs of a shape that nobody thought of
                self.broken = f"{type(error).__name__}: {first_line(error)}"

    def add(self, inputs: Mapping[str, Tensor], output: Tensor, target: Tensor) -> None:
        """Adds a batch.

        Args:
            inputs: forward's argument → samples, first axis as that of `target`.
            output: what the model said, `[batch, classes]` or numbers of target's shape.
            target: class numbers `[batch]`, or numbers.
        """
        said, wanted = objective.for_metrics(output, target, self.section)
        if self.classes is None:
            self._add_numbers(inputs, said.double().cpu(), wanted.double().cpu(), len(target))
        else:
            self._add_classes(inputs, _probabilities(said.float(), self.section), wanted, len(target))
        self.samples += len(target)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON: pictures are data URLs, other inputs their first values as text."""
        if self.broken is not None:
            return {"broken": self.broken}
        seen: dict[str, Any] = {
            "samples": self.samples,
            "mistakes": [_describe(mistake, whole=self.classes is not None) for mistake in self.mistakes],
        }
        if self.classes is None:
            return {**seen, "points": [list(point) for point in self._points], "points_of": self._values}
        count, confidence, right = self._bins
        bins = [
            {
                "confidence": float(confidence[i] / count[i]),
                "accuracy": float(right[i] / count[i]),
                "samples": int(count[i]),
            }
            for i in range(_BINS)
            if count[i]
        ]
        error = float((confidence - right).abs().sum() / count.sum()) if count.sum() else None
        return {
            **seen,
            "calibration": {"bins": bins, "expected_error": error},
            "confused": [[true, said, number] for (true, said), number in self._pairs.most_common(PAIRS)],
            "wrong": sum(self._pairs.values()),
        }

    def _add_classes(self, inputs: Mapping[str, Tensor], probabilities: Tensor, target: Tensor, batch: int) -> None:
        confidence, predicted = probabilities.max(dim=1)
        of_target = probabilities.gather(1, target[:, None])[:, 0]
        # one copy a tensor, not one a sample: on a GPU each would wait for the device
        confidence, predicted, of_target, target = (
            each.cpu() for each in (confidence.double(), predicted, of_target.double(), target)
        )
        right = predicted == target
        place = (confidence * _BINS).long().clamp(0, _BINS - 1)
        for row, weights in enumerate((torch.ones_like(confidence), confidence, right.double())):
            self._bins[row] += torch.bincount(place, weights=weights, minlength=_BINS)
        wrong = torch.nonzero(~right)[:, 0].tolist()
        self._pairs.update((int(target[i]), int(predicted[i])) for i in wrong)
        for i in wrong:
            values = (float(target[i]), float(predicted[i]), float(confidence[i]))
            self._keep(inputs, i, batch, len(target), 1 - float(of_target[i]), values)

    def _add_numbers(self, inputs: Mapping[str, Tensor], said: Tensor, wanted: Tensor, batch: int) -> None:
        # every value, then every second one, every fourth…: evenly over the data, however long it is
        while (self._values + len(said)) / self._every > POINTS:
            self._points, self._every = self._points[::2], self._every * 2
        kept = slice(-self._values % self._every, None, self._every)
        self._points += zip(wanted[kept].tolist(), said[kept].tolist(), strict=True)
        self._values += len(said)
        badness = (said - wanted).abs()
        for i in badness.topk(min(MISTAKES, len(badness))).indices.tolist():
            if badness[i] > 0:
                values = (float(wanted[i]), float(said[i]), None)
                self._keep(inputs, i, batch, len(said), float(badness[i]), values)

    def _keep(
        self,
        inputs: Mapping[str, Tensor],
        at: int,
        batch: int,
        values: int,
        badness: float,
        figures: tuple[float, float, float | None],
    ) -> None:
        if len(self.mistakes) == MISTAKES and badness <= self.mistakes[-1].badness:
            return
        sample = at * batch // values  # a model may give several numbers a sample
        kept = {name: value[sample].detach().cpu().clone() for name, value in inputs.items()}
        self.mistakes.append(Mistake(self.samples + sample, badness, *figures, inputs=kept))
        self.mistakes.sort(key=lambda mistake: (-mistake.badness, mistake.index))
        del self.mistakes[MISTAKES:]


def picture(values: Tensor) -> str | None:
    """A sample that looks like a picture, as a data URL; None for anything else.

    Args:
        values: `[channels, height, width]` or `[height, width, channels]` with 1 or 3 channels, or `[height, width]`,
            at least 8 pixels each way; bytes, numbers in 0…1, or any numbers, which are then stretched.

    Example:
        >>> picture(torch.rand(1, 28, 28))[:22], picture(torch.rand(28))
        ('data:image/png;base64,', None)
    """
    if values.dim() == 3 and values.shape[0] in (1, 3):
        values = values.permute(1, 2, 0)
    if values.dim() == 2:
        values = values[..., None]
    if values.dim() != 3 or values.shape[2] not in (1, 3) or min(values.shape[:2]) < 8 or values.is_complex():
        return None
    from PIL import Image

    numbers = np.nan_to_num(values.double().numpy())
    low, high = float(numbers.min()), float(numbers.max())
    if values.dtype == torch.uint8:
        pixels = numbers
    elif low >= 0 and high <= 1:
        pixels = numbers * 255
    else:
        pixels = (numbers - low) / max(high - low, 1e-12) * 255
    array = pixels.round().astype(np.uint8)
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    stored = io.BytesIO()
    image.save(stored, "PNG", optimize=True)
    kind = "png"
    if len(stored.getvalue()) > 12_000:  # a photograph; without loss it would take five times as much
        stored = io.BytesIO()
        image.save(stored, "JPEG", quality=85)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stored.getvalue()).decode()}"


def _probabilities(said: Tensor, section: LossSection) -> Tensor:
    if section.name == "bce_with_logits":  # [-x, x], of which the sigmoid is that of x
        return torch.sigmoid(said)
    return said.exp() if section.name == "nll" else said.softmax(dim=1)


def _describe(mistake: Mistake, *, whole: bool) -> dict[str, Any]:
    inputs = []
    for name, values in mistake.inputs.items():
        drawn = picture(values)
        shape = [*values.shape]
        if drawn is not None:
            inputs.append({"name": name, "shape": shape, "picture": drawn})
        else:
            flat = values.reshape(-1)
            text = ", ".join(f"{value:.4g}" for value in flat[:8].tolist())
            inputs.append({"name": name, "shape": shape, "text": text + (", …" if len(flat) > 8 else "")})
    true, predicted = mistake.true, mistake.predicted
    return {
        "index": mistake.index,
        "true": int(true) if whole else true,
        "predicted": int(predicted) if whole else predicted,
        "confidence": mistake.confidence,
        "badness": mistake.badness,
        "inputs": inputs,
    }
