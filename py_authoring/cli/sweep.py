"""`py-authoring sweep`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from py_authoring.cli.output import (
    common_options,
    format_table,
    json_option,
    model_argument,
    print_data,
    print_json,
    say,
    say_next,
    set_option,
)

if TYPE_CHECKING:
    from py_authoring.sweeping import Sweep

EXAMPLES = """\b
Examples:
  py-authoring sweep mnist --vary 'optimizer.lr=log(1e-4, 1e-1)' --trials 20 --jobs 2
  py-authoring sweep mnist --vary training.batch_size=[16,32,64] --vary optimizer.name=[sgd,adam]
  py-authoring sweep mnist --resume"""


@click.command("sweep", epilog=EXAMPLES)
@model_argument
@click.option(
    "--vary",
    multiple=True,
    metavar="KEY=FORM",
    help="A recipe key and its values: [a,b,…], uniform(a,b), log(a,b), int(a,b) or logint(a,b); may be repeated.",
)
@click.option("--trials", type=click.IntRange(1, 10_000), help="At most so many. Default: the whole grid, or 20.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, help="Processes at once. Default: 1.")
@click.option(
    "--sampler",
    type=click.Choice(["tpe", "random", "grid"]),
    help="Default: grid where every key has a list, else tpe, which needs the extra sweep (Optuna).",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Of the sampler; that of a training is a recipe key.")
@click.option("--prune", is_flag=True, help="Stop trials that are worse than the median of the others by then.")
@click.option("--name", metavar="SWEEP", help="The sweep's name. Default: date and time; with --resume the latest.")
@click.option("--resume", is_flag=True, help="Go on: finished trials stay, others go on from their checkpoints.")
@set_option
@json_option
@common_options
def command(
    model: str,
    vary: tuple[str, ...],
    trials: int | None,
    jobs: int,
    sampler: str | None,
    seed: int | None,
    prune: bool,
    name: str | None,
    resume: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train a model with many values of some keys, each in a process of its own, and say which are best.

    What is compared is the recipe's training.monitor in each trial's best epoch. Trials are ordinary runs: `runs` lists
    them, `compare` puts them side by side. Keys and values may also stand in models/NAME/sweep.toml, in a table [vary].
    A trial that fails is written down, and the sweep goes on. Ctrl-C saves a checkpoint of each running trial.
    """
    from py_authoring.sweeping import sweep

    done = sweep(
        model,
        vary=vary,
        trials=trials,
        jobs=jobs,
        sampler=sampler,
        seed=seed,
        prune=prune,
        name=name,
        resume=resume,
        overrides=overrides,
        say=say,
    )
    if as_json:
        print_json(done.to_dict())
    else:
        print_data(as_text(done))
    if len(done.best_runs) > 1:
        say_next(shlex.join(["py-authoring", "compare", *done.best_runs]))
    say_next(done.command)


def as_text(sweep: Sweep) -> str:
    """The trials as a table, best first, and what mattered."""
    keys = [*sweep.best.values]
    rows = [
        [
            str(trial.number),
            trial.state,
            *(_cell(trial.values[key]) for key in keys),
            "-" if trial.value is None else f"{trial.value:.4g}",
            "-" if trial.epoch is None else str(trial.epoch),
            trial.run,
        ]
        for trial in sweep.trials
    ]
    blocks = [format_table(["trial", "state", *keys, sweep.monitor, "in epoch", "run"], rows, left=2)]
    failed = [f"trial {trial.number}: {trial.message}" for trial in sweep.trials if trial.state == "failed"]
    if failed:
        blocks.append("\n".join(failed))
    if sweep.importance is not None:
        shares = [[key, f"{100 * share:.0f} %"] for key, share in sweep.importance.items()]
        blocks.append(format_table(["key", "importance"], shares))
    return "\n\n".join(blocks)


def _cell(value: object) -> str:
    from py_authoring.recipe_toml import format_value

    return f"{value:.4g}" if isinstance(value, float) else format_value(value)
