"""The learning-rate finder: a short training of a fresh model whose rate grows with each step → where to begin.

Nothing is written and no run is touched. Ignite's FastaiLRFinder is not used: its first step has the optimizer's own
rate, each loss stands beside the rate of the next step, a NaN counts as its minimum, and it writes a file.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import LRScheduler
from torch.optim.lr_scheduler import LambdaLR

from py_authoring import atomic, checkpoint
from py_authoring.errors import RefusedError, TrainingError, UsageError
from py_authoring.handlers import Say
from py_authoring.recipe import find_model, load_recipe
from py_authoring.report.drawing import of_any_text
from py_authoring.session import open_session

_MEMORY = 0.9  # of the running mean of the loss: about ten steps count
_DIVERGED = 4.0  # times the least loss, as in Smith's range test of fastai


@dataclass(frozen=True)
class RateCurve:
    """What a search found.

    Attributes:
        model: the model's name.
        rates: the learning rate of each step.
        losses: each step's own loss.
        smooth: their running mean.
        suggestion: where the mean falls fastest; None where it never falls beyond its own noise.
        diverged: the search ended because the loss grew or was not finite.
    """

    model: str
    rates: list[float] = field(repr=False)
    losses: list[float] = field(repr=False)
    smooth: list[float] = field(repr=False)
    suggestion: float | None
    diverged: bool

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "model": self.model,
            "suggestion": self.suggestion,
            "diverged": self.diverged,
            "learning_rates": self.rates,
            "losses": self.losses,
            "smooth": self.smooth,
        }


def find_learning_rate(
    model: str | Path,
    *,
    lowest: float = 1e-7,
    highest: float = 10.0,
    iterations: int = 100,
    seed: int | None = None,
    device: str | None = None,
    overrides: Sequence[str] = (),
    say: Say = lambda text: None,
) -> RateCurve:
    """Trains a fresh model for some steps with growing learning rates; the model's runs and weights are not touched.

    Args:
        model: a name in ./models, or a path to a model's folder.
        lowest: the first learning rate.
        highest: the last one.
        iterations: steps between them, each a factor apart; fewer where the loss diverges.
        seed: of weights, dropout and order.
        device: auto, cpu, cuda or cuda:N.
        overrides: `key=value` texts for the recipe.
        say: takes each line for a person.

    Raises:
        UsageError: the bounds are no bounds, or there are too few steps.
        RecipeError, NotFoundError, ModelFileError, DataError: what is wrong with the recipe's world.
        TrainingError: the model raised, or its very first loss is not finite.
    """
    if not 0 < lowest < highest < math.inf:
        raise UsageError(f"learning rates from {lowest:g} to {highest:g}: expected 0 < first < last")
    if iterations < 20:
        raise UsageError(f"{iterations} iterations are too few for a curve; expected at least 20")
    directory = find_model(model)
    resolved = load_recipe(model, overrides=overrides, flags={"--seed": seed, "--device": device})
    session = open_session(resolved, directory / checkpoint.RUNS / "lr-find", say)  # a folder that is never made
    if not isinstance(session.optimizer, torch.optim.Optimizer):
        raise RefusedError(
            "lr-find sets the rate of the recipe's optimizer; a LightningModule makes its own in configure_optimizers",
            hint="`py-authoring sweep` compares trainings by an argument of the module, as model.arguments.lr",
        )
    say(
        f"{resolved.name}: {iterations} iterations of {resolved.recipe.training.batch_size} samples, "
        f"learning rate {lowest:g} to {highest:g}"
    )
    rates: list[float] = []
    losses: list[float] = []
    means = _RunningMean()
    for group in session.optimizer.param_groups:
        group["lr"] = group["initial_lr"] = lowest
    ratio = (highest / lowest) ** (1 / (iterations - 1))
    grow = LRScheduler(LambdaLR(session.optimizer, lambda step: ratio**step))

    def note(trainer: Engine) -> None:
        loss: Any = trainer.state.output
        if not math.isfinite(loss) or means.would_diverge(loss):
            trainer.terminate()
            return
        rates.append(session.optimizer.param_groups[0]["lr"])
        losses.append(loss)
        means.add(loss)
        if len(losses) == iterations:
            trainer.terminate()

    session.trainer.add_event_handler(Events.ITERATION_STARTED, grow)
    session.trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    length = len(session.batches)
    session.trainer.run(session.batches, max_epochs=-(-iterations // length), epoch_length=length)
    if not losses:
        raise TrainingError(
            "the loss of the first iteration is not finite (NaN or infinite): no learning rate helps",
            hint="look at the data and at what the model does with it",
        )
    return RateCurve(
        resolved.name, rates, losses, means.values, suggest(rates, losses, means.values), len(losses) < iterations
    )


def suggest(rates: Sequence[float], losses: Sequence[float], smooth: Sequence[float]) -> float | None:
    """The rate at which the smooth loss falls fastest, before its minimum.

    None where its fall from the level of the first steps, which are too small to teach anything, is within the noise of
    their losses.

    Example:
        >>> rates = [10.0**exponent for exponent in range(-7, 1)]
        >>> flat = [2.0] * 8
        >>> suggest(rates, flat, flat) is None
        True
        >>> falling = [2.0, 2.0, 2.0, 1.9, 1.0, 0.7, 0.6, 0.9]
        >>> suggest(rates, falling, falling)
        0.001
    """
    count = max(2, len(losses) // 5)
    if len(losses) < count + 3:
        return None
    level = math.fsum(losses[:count]) / count
    noise = math.sqrt(math.fsum((loss - level) ** 2 for loss in losses[:count]) / count)
    # the mean of the first few steps is as noisy as they are
    least = min(range(count, len(smooth)), key=smooth.__getitem__)
    if level - smooth[least] <= max(1.2 * noise, 0.01 * abs(level)):  # the mean of some ten steps varies by 0.23 of it
        return None
    reach = max(1, len(losses) // 20)  # the slope over some steps: from one to the next it is mostly noise
    slopes = {step: smooth[min(step + reach, least)] - smooth[step - reach] for step in range(count, least + 1)}
    return rates[min(slopes, key=slopes.__getitem__)]


def write_curve(curve: RateCurve, file: Path) -> None:
    """Writes a curve as a table (.csv) or a picture (.png, .svg), by the file's ending.

    Raises:
        UsageError: another ending.
        WriteError: the old file is untouched.
    """
    check_ending(file)
    if file.suffix == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["learning_rate", "loss", "smooth_loss"])
        writer.writerows(zip(curve.rates, curve.losses, curve.smooth, strict=True))
        atomic.write_text(file, text.getvalue())
    else:
        atomic.write_bytes(file, _draw(curve, file.suffix[1:]))


def check_ending(file: Path) -> None:
    """Raises `UsageError` where `write_curve` would not know what to write."""
    if file.suffix not in (".csv", ".png", ".svg"):
        raise UsageError(f"`{file}`: expected a name that ends in .csv, .png or .svg")


@of_any_text()
def _draw(curve: RateCurve, form: str) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.semilogx(curve.rates, curve.losses, color="0.75", linewidth=1, label="each step")
    axes.semilogx(curve.rates, curve.smooth, color="C0", linewidth=2, label="running mean")
    if curve.suggestion is not None:
        axes.axvline(curve.suggestion, color="C3", linestyle="--", label=f"suggestion {curve.suggestion:.2g}")
    # single steps far above the curve would flatten it
    low, high = min(curve.smooth), max(curve.smooth)
    axes.set_ylim(low - 0.15 * (high - low or 1), high + 0.25 * (high - low or 1))
    axes.xaxis.set_major_formatter(lambda value, position: f"{value:g}")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.set_title(curve.model)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form)
    return buffer.getvalue()


class _RunningMean:
    """Exponential means of the losses so far, each divided by the weight that went into it."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._sum = self._weight = 0.0

    def add(self, loss: float) -> None:
        self._sum = _MEMORY * self._sum + (1 - _MEMORY) * loss
        self._weight = _MEMORY * self._weight + (1 - _MEMORY)
        self.values.append(self._sum / self._weight)

    def would_diverge(self, loss: float) -> bool:
        """A negative loss grows without limit downwards too: there, only what is not finite ends a search."""
        least = min(self.values, default=math.inf)
        return least > 0 and len(self.values) > 5 and loss > _DIVERGED * least and loss > _DIVERGED * self.values[0]
