"""`py-authoring train`."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import click

from py_authoring.cli.output import (
    common_options,
    json_option,
    model_argument,
    print_json,
    say,
    say_next,
    set_option,
)

EXAMPLES = """\b
Examples:
  py-authoring train mnist
  py-authoring train mnist --epochs 10 --set optimizer.name=sgd --lr 0.05
  py-authoring train mnist --resume
  py-authoring train mnist --nproc 4"""


@click.command("train", epilog=EXAMPLES)
@model_argument
@click.option("--epochs", type=int, help="Passes over the training data.")
@click.option("--lr", type=float, help="Learning rate.")
@click.option("--seed", type=int, help="Seed of weights, dropout and order of the data.")
@click.option("--device", metavar="auto|cpu|cuda[:N]", help="Where to train; cuda never falls back to the CPU.")
@click.option(
    "--nproc", type=click.IntRange(min=1), default=1, help="Processes on this machine; batch_size is that of all."
)
@click.option("--resume", is_flag=True, help="Go on with the latest run; ends as if it had never stopped.")
@click.option("--run", metavar="RUN", help="The new run's name; with --resume the run to go on with.")
@set_option
@json_option
@common_options
def command(
    model: str,
    epochs: int | None,
    lr: float | None,
    seed: int | None,
    device: str | None,
    nproc: int,
    resume: bool,
    run: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train a model by its recipe.

    Writes models/NAME/runs/<run>/ with checkpoints, history, metrics, environment, the recipe with all its values, and
    report.html to look at, also when it is interrupted.
    Ctrl-C and SIGTERM save a checkpoint. Values given here go before the recipe's; a resumed run remembers its own.
    """
    from py_authoring import launching
    from py_authoring.recipe import find_model, load_recipe
    from py_authoring.runs import command_name

    flags = {"epochs": epochs, "lr": lr, "seed": seed, "device": device}
    with launching.one_voice():
        directory = find_model(model)
        if not resume:  # a mistake is said before torch is loaded; a resumed run has values of its own to add
            load_recipe(model, overrides=overrides, flags={f"--{name}": value for name, value in flags.items()})
        signal.signal(signal.SIGTERM, _interrupt)  # while torch loads; then training has its own way to stop
        arguments: dict[str, Any] = {**flags, "resume": resume, "run": run, "overrides": list(overrides)}
        if nproc > 1:
            done = launching.launch(nproc, model, arguments, say)
        else:
            from py_authoring.training import train

            done = train(model, **arguments, say=say)
    if launching.rank() > 0:
        return
    if as_json:
        print_json(done.to_dict())
    else:
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in done.metrics.items())
        say(f"best of {done.epochs}: epoch {done.best_epoch}  {metrics}" if metrics else f"{done.epochs} done")
        say(f"saved {done.path}  in {done.seconds:.1f} s")
        if done.report is not None:
            say(f"report {done.report}")
    say_next(f"py-authoring evaluate {command_name(directory)}" + ("" if done.best_epoch else " --checkpoint last"))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
