"""`py-authoring compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from py_authoring.cli.output import common_options, format_table, json_option, print_data, print_json, say

if TYPE_CHECKING:
    from py_authoring.report.comparison import Comparison

EXAMPLES = """\b
Examples:
  py-authoring compare mnist/20261129-101500 mnist
  py-authoring compare models/a/runs/20261129-101500 models/b/runs/20261129-113000 --output a-b.html"""


def complete_runs(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The runs in ./models that begin so, as `NAME/RUN`; reads folders only."""
    from pathlib import Path

    found = [path.parents[1] for path in Path("models").glob("*/runs/[!.]*/checkpoints/last.pt")]
    names = [f"{path.parents[1].name}/{path.name}" for path in found]
    return sorted(name for name in names if name.startswith(incomplete))


@click.command("compare", epilog=EXAMPLES)
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True, shell_complete=complete_runs)
@click.option("-o", "--output", metavar="FILE", default="comparison.html", help="The page; default: comparison.html.")
@json_option
@common_options
def command(runs: tuple[str, ...], output: str, as_json: bool) -> None:
    """Put runs side by side: figures of their best epochs, curves, and where recipes and environments differ.

    RUN is a run's folder, NAME/RUN, or NAME for the latest run of a model. Prints a table and writes a page.
    """
    from pathlib import Path

    from py_authoring.report.comparison import compare, write_comparison

    comparison = compare(runs)
    page = write_comparison(comparison, Path(output))
    if as_json:
        print_json({**comparison.to_dict(), "page": str(page)})
        return
    if comparison.data is not None:
        say(f"note: {comparison.data}")
    print_data(as_text(comparison))
    say(f"saved {page}")


def as_text(comparison: Comparison) -> str:
    """A comparison as tables: figures with a star at the best, then the keys in which the recipes differ."""
    rows = [["state", *(record.state.state + "  " for record in comparison.records)]]
    for figure in comparison.figures:
        cells = [text + (" *" if place in figure.best else "  ") for place, text in enumerate(figure.texts)]
        rows.append([figure.name, *cells])
    blocks = [format_table(["", *(name + "  " for name in comparison.names)], rows)]
    for title, differences in (("recipe", comparison.recipe), ("environment", comparison.environment)):
        if differences:
            names = [f"{title} differs", *comparison.names]
            blocks.append(format_table(names, [[key, *values] for key, values in differences.items()], left=99))
    return "\n\n".join(blocks)
