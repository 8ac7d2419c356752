"""`py-authoring export`."""

from __future__ import annotations

import shlex
import sys
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
    from py_authoring.export import Version

EXAMPLES = """\b
Examples:
  py-authoring export mnist
  py-authoring export mnist --method trace --checkpoint last
  py-authoring export mnist --method compiled
  py-authoring export some_nn_arch --set export.golden_count=8"""


@click.command("export", epilog=EXAMPLES)
@model_argument
@click.option(
    "--method", type=click.Choice(["script", "trace", "compiled", "onnx"]), help="Default: the recipe's export.method."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "int8-dynamic"]),
    help="Numbers inside the file. Default: the recipe's export.precision.",
)
@click.option(
    "--cpu",
    type=click.Choice(["native", "x86-64-v3", "x86-64-v4", "x86-64-v3+v4"]),
    help="What compiled code is for: this processor, or any with AVX2 (v3), AVX-512 (v4). Default: the recipe's.",
)
@click.option("--checkpoint", metavar="best|last|PATH", help="A file, a run's folder, best or last. Default: best.")
@click.option("--untrained", is_flag=True, help="Export the initial weights of training.seed.")
@set_option
@json_option
@common_options
def command(
    model: str,
    method: str | None,
    precision: str | None,
    cpu: str | None,
    checkpoint: str | None,
    untrained: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Export a checkpoint as models/NAME/<next version>/model.pt, with contract and golden examples inside.

    `--method compiled` writes machine code for this processor as model.pt2, `--method onnx` an ONNX file as model.onnx;
    both join the newest version if it holds the same weights.

    The eager and the exported model run side by side on real inputs of several sizes; past the tolerance, or where a
    trace or graph would lose control flow, a batch size or a device, nothing is written. Prints the path of the file.
    """
    from py_authoring.recipe import load_recipe
    from py_authoring.tools import check_tools

    # a mistake is said before torch is loaded
    flags = {"--method": method, "--precision": precision, "--cpu": cpu}
    section = load_recipe(model, overrides=overrides, flags=flags).recipe.export
    check_tools(section.method, section.precision)

    from py_authoring.export import export

    version = export(
        model,
        method=method,
        precision=precision,
        cpu=cpu,
        checkpoint=checkpoint,
        untrained=untrained,
        overrides=overrides,
        command=shlex.join(["py-authoring", *sys.argv[1:]]),
        debug="--debug" in sys.argv,
        say=say,
    )
    for note in version.notes:
        say(f"note: {note}")
    say(as_text(version))
    if as_json:
        print_json(version.to_dict())
    else:
        print_data(str(version.path))
    _renew_report(version)
    say_next(f"rust-host run {version.path} …, or py-authoring verify {version.path}")


# The report of the run shows the contract of what was exported from it.
def _renew_report(version: Version) -> None:
    from py_authoring import report
    from py_authoring.runs import RUNS

    name = version.contract.provenance.run
    folder = version.path.parents[1] / RUNS / (name or "")
    if name is not None and (folder / report.REPORT_FILE).is_file():
        report.or_say(lambda: report.write_report(folder), say)


def as_text(version: Version) -> str:
    """What was compared, and what came of it."""
    names = [*version.differences]
    width = max(len(name) for name in names)
    lines = [
        f"parity  {name.ljust(width)}  max |diff| {difference.max_abs:.3g}, relative {difference.max_rel:.3g}"
        for name, difference in version.differences.items()
    ]
    count = version.contract.golden.count
    lines.append(f"checked {version.cases} inputs in {version.seconds:.1f} s")
    lines.append(f"saved   {version.path}  {version.size:,} bytes, {count} golden examples")
    return "\n".join(lines)
