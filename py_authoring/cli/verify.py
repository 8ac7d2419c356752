"""`py-authoring verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from py_authoring.cli.output import common_options, format_table, json_option, print_data, print_json, say

if TYPE_CHECKING:
    from py_authoring.verify import Verification

EXAMPLES = """\b
Examples:
  py-authoring verify models/mnist/1/model.pt
  py-authoring verify models/mnist/1/model.onnx
  py-authoring verify models/mnist/1/model.pt --device cuda --json"""


@click.command("verify", epilog=EXAMPLES)
@click.argument("file", type=click.Path())
@click.option("--device", metavar="auto|cpu|cuda[:N]", default="cpu", show_default=True, help="Where to run.")
@json_option
@common_options
def command(file: str, device: str, as_json: bool) -> int:
    """Replay the golden examples of a model.pt, model.pt2 or model.onnx, and compare.

    A model.pt2 is machine code: it is opened only if the trusted.toml of its model names it.

    Prints the largest absolute and relative difference of each output beside what is allowed; exits with 1 when one is
    over.
    """
    from py_authoring.archive_view import read_archive

    archive = read_archive(file)  # a wrong file is named before torch is loaded
    archive.contract()

    from py_authoring.verify import verify

    result = verify(archive, device=device)
    if as_json:
        print_json(result.to_dict())
    else:
        print_data(as_text(result))
    if not result.ok:
        say(f"error: `{result.path}` does not compute here what its author saw")
    return 0 if result.ok else 1


def as_text(result: Verification) -> str:
    """A table with one line an output, and the verdict."""
    rows = [
        [
            each.name,
            f"{each.difference.max_abs:.3g}",
            f"{each.difference.max_rel:.3g}",
            f"{each.atol:.3g} + {each.rtol:.3g} × |value|",
            each.difference.reason or ("ok" if each.difference.within else "over"),
        ]
        for each in result.outputs
    ]
    table = format_table(["output", "max |diff|", "relative", "allowed", ""], rows)
    verdict = "ok" if result.ok else "FAILED"
    return f"{table}\n{result.name}: {result.examples} golden examples on {result.device}: {verdict}"
