"""`py-authoring runs`."""

from __future__ import annotations

import click

from py_authoring.cli.output import (
    common_options,
    complete_models,
    format_table,
    json_option,
    print_data,
    print_json,
    say,
    say_next,
)

EXAMPLES = """\b
Examples:
  py-authoring runs
  py-authoring runs mnist --json"""


@click.command("runs", epilog=EXAMPLES)
@click.argument("models", metavar="[NAME|DIR]...", nargs=-1, shell_complete=complete_models)
@json_option
@common_options
def command(models: tuple[str, ...], as_json: bool) -> None:
    """List the runs of some models, or of all in ./models: when, state, epochs, best metric.

    A run is running, finished, interrupted, failed, or killed: then its process is gone without a word.
    """
    from py_authoring.runs import summarize_runs

    found = summarize_runs(models)
    if as_json:
        print_json([run.to_dict() for run in found])
        return
    if not found:
        say("no runs here")
        say_next("py-authoring train NAME")
        return
    rows = [
        [
            run.model,
            run.run,
            _when(run.started),
            run.state,
            f"{run.epochs}/{run.planned if run.planned is not None else '?'}",
            "-" if run.value is None else f"{run.metric} {run.value:.4g}",
            "-" if run.best_epoch is None else str(run.best_epoch),
        ]
        for run in found
    ]
    print_data(format_table(["model", "run", "begun", "state", "epochs", "best", "in epoch"], rows, left=4))


# In the time of who reads it, as the runs' names are.
def _when(started: str | None) -> str:
    import datetime

    if started is None:
        return "-"
    try:
        return datetime.datetime.fromisoformat(started).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return started
