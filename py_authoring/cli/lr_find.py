"""`py-authoring lr-find`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from py_authoring.cli.output import (
    common_options,
    json_option,
    model_argument,
    print_data,
    print_json,
    say,
    say_next,
    set_option,
)

if TYPE_CHECKING:
    from py_authoring.lr_finding import RateCurve

EXAMPLES = """\b
Examples:
  py-authoring lr-find mnist
  py-authoring lr-find mnist --set optimizer.name=sgd --output curve.png"""
_LINES_OF_A_DECADE = 2
_WIDTH = 48


@click.command("lr-find", epilog=EXAMPLES)
@model_argument
@click.option("--from", "lowest", type=float, default=1e-7, show_default=True, help="The first learning rate.")
@click.option("--to", "highest", type=float, default=10.0, show_default=True, help="The last one.")
@click.option("--iterations", type=int, default=100, show_default=True, help="Steps between them, at least 20.")
@click.option("--seed", type=int, help="Seed of weights, dropout and order of the data.")
@click.option("--device", metavar="auto|cpu|cuda[:N]", help="Where to train.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the curve here, .csv, .png or .svg.")
@set_option
@json_option
@common_options
def command(
    model: str,
    lowest: float,
    highest: float,
    iterations: int,
    seed: int | None,
    device: str | None,
    output: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> int:
    """Train a fresh model with a growing learning rate, and suggest one: where the loss falls fastest.

    Touches no run and writes nothing, but for `--output`. Exit code 1 where the loss never falls beyond its noise.
    """
    from py_authoring.recipe import find_model, load_recipe

    directory = find_model(model)
    load_recipe(model, overrides=overrides, flags={"--seed": seed, "--device": device})

    from py_authoring.checkpoint import command_name
    from py_authoring.lr_finding import check_ending, find_learning_rate, write_curve

    if output is not None:
        check_ending(output)
    curve = find_learning_rate(
        model,
        lowest=lowest,
        highest=highest,
        iterations=iterations,
        seed=seed,
        device=device,
        overrides=overrides,
        say=say,
    )
    if output is not None:
        write_curve(curve, output)
    if as_json:
        print_json(curve.to_dict())
    else:
        print_data(as_text(curve))
        if output is not None:
            say(f"saved {output}")
    if curve.suggestion is None:
        say(f"no suggestion: between {lowest:g} and {curve.rates[-1]:.2g} the loss never falls beyond its noise")
        return 1
    say_next(f"py-authoring train {command_name(directory)} --lr {_round(curve.suggestion):g}")
    return 0


def as_text(curve: RateCurve) -> str:
    """A curve as one line for each half of a power of ten: rate, mean loss, a bar; and the suggestion.

    Example:
        >>> from py_authoring.lr_finding import RateCurve
        >>> print(as_text(RateCurve("x", [1e-3, 1e-2, 1e-1], [2.0, 1.0, 3.0], [2.0, 1.0, 1.5], 1e-2, True)))
        learning rate    loss
              1.0e-03       2  ################################################
              1.0e-02       1    <- 0.01
              1.0e-01     1.5  ########################
                               the loss diverges from here on
    """
    least, most = min(curve.smooth), max(curve.smooth)
    lines = ["learning rate    loss"]
    bins: dict[int, list[int]] = {}
    for step, rate in enumerate(curve.rates):
        bins.setdefault(math.floor(math.log10(rate) * _LINES_OF_A_DECADE + 1e-9), []).append(step)
    for steps in bins.values():
        loss = curve.smooth[steps[-1]]
        length = round(_WIDTH * (loss - least) / (most - least)) if most > least else 0
        here = curve.suggestion is not None and any(curve.rates[step] == curve.suggestion for step in steps)
        mark = f"  <- {_round(curve.suggestion):g}" if here and curve.suggestion is not None else ""
        lines.append(f"{curve.rates[steps[0]]:13.1e}{loss:8.4g}  {'#' * length}{mark}".rstrip())
    if curve.diverged:
        lines.append(" " * 23 + "the loss diverges from here on")
    return "\n".join(lines)


# Two digits: the third of a steepest place of a noisy curve says nothing.
def _round(rate: float) -> float:
    return float(f"{rate:.1e}")
