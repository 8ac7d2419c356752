"""`py-authoring evaluate`."""

from __future__ import annotations

import math
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
    from py_authoring.evaluation import Evaluation

EXAMPLES = """\b
Examples:
  py-authoring evaluate mnist
  py-authoring evaluate mnist --checkpoint last --split validation
  py-authoring evaluate mnist --set data.kind=idx --set data.path=my_mnist"""


@click.command("evaluate", epilog=EXAMPLES)
@model_argument
@click.option("--checkpoint", metavar="best|last|PATH", default="best", help="A file, a run's folder, best or last.")
@click.option(
    "--split", type=click.Choice(["train", "validation", "test"]), help="Default: test, or validation if there is none."
)
@click.option("--device", metavar="auto|cpu|cuda[:N]", help="Where to run.")
@set_option
@json_option
@common_options
def command(
    model: str, checkpoint: str, split: str | None, device: str | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Measure a checkpoint: all metrics, each class, the confusion matrix as text and as a picture.

    The picture, metrics.json and report.html go into the run's folder; the model is built with the recipe that it was
    trained with.
    """
    from py_authoring.recipe import find_model

    directory = find_model(model)

    from py_authoring.checkpoint import command_name
    from py_authoring.run_evaluation import evaluate_run

    result = evaluate_run(directory, checkpoint=checkpoint, split=split, device=device, overrides=overrides, say=say)
    if as_json:
        document = {"model": result.model, "checkpoint": str(result.checkpoint), "split": result.split}
        report = None if result.report is None else str(result.report)
        print_json({**document, **result.evaluation.to_dict(), "report": report})
    else:
        say(
            f"{result.model}: {result.checkpoint} on {result.evaluation.samples:,} samples "
            f"of {result.data} ({result.split})"
        )
        print_data(as_text(result.evaluation))
        if result.picture is not None:
            say(f"saved {result.picture}")
        if result.report is not None:
            say(f"report {result.report}")
    say_next(f"py-authoring export {command_name(directory)}")


def as_text(evaluation: Evaluation) -> str:
    """An evaluation as tables: metrics, classes, confusion matrix."""
    blocks = [format_table(["metric", "value"], [[name, _share(value)] for name, value in evaluation.metrics.items()])]
    if evaluation.per_class is not None:
        rows = [
            [
                each.label,
                _share(each.precision),
                *(_share(value if each.samples else math.nan) for value in (each.recall, each.f1)),
                str(each.samples),
            ]
            for each in evaluation.per_class
        ]
        blocks.append(format_table(["class", "precision", "recall", "f1", "samples"], rows))
    if evaluation.confusion is not None and evaluation.per_class is not None:
        labels = [each.label for each in evaluation.per_class]
        counts = [
            [label, *(str(count) if count else "." for count in row)]
            for label, row in zip(labels, evaluation.confusion, strict=True)
        ]
        blocks.append(format_table(["true \\ predicted", *labels], counts))
    return "\n\n".join(blocks)


def _share(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "–"
