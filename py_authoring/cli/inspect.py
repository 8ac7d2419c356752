"""`py-authoring inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from py_authoring.cli.output import common_options, format_table, json_option, print_data, print_json
from py_authoring.errors import UsageError
from py_authoring.platforms import COMPILED, ONNX, TORCHSCRIPT

if TYPE_CHECKING:
    from py_authoring.archive_view import View

_NAMES = {
    TORCHSCRIPT: "inputs are the arguments of forward",
    COMPILED: "inputs have numbers only",
    ONNX: "inputs are those of the graph",
}
EXAMPLES = """\b
Examples:
  py-authoring inspect models/mnist/1/model.pt
  py-authoring inspect anyones_model.pt --code
  py-authoring inspect models/mnist/1/model.pt --contract"""


@click.command("inspect", epilog=EXAMPLES)
@click.argument("file", type=click.Path())
@click.option("--code", "what", flag_value="code", help="The TorchScript code of every method.")
@click.option("--graph", "what", flag_value="graph", help="The graph of every method.")
@click.option("--contract", "what", flag_value="contract", help="The contract, as JSON; reads the file without torch.")
@json_option
@common_options
def command(file: str, what: str | None, as_json: bool) -> None:
    """Show what a TorchScript file, compiled package or ONNX file holds: methods, parameters, extra files, contract.

    Works for anyone's file. Code in a file may run while torch loads it: inspect only what you trust, or take
    --contract, which does not load it.
    """
    from py_authoring.archive_view import read_archive, view

    if what == "contract":
        archive = read_archive(file)
        contract = archive.contract()
        if contract is None:
            raise UsageError(f"`{file}` has no contract", hint=f"`py-authoring inspect {file}` shows what it holds")
        print_data(contract.to_json().rstrip("\n"))
        return
    seen = view(file)
    if what is None:
        print_json(seen.to_dict()) if as_json else print_data(as_text(seen))
        return
    if not seen.methods and not (what == "graph" and seen.graph):
        raise UsageError(f"`{file}` has no {what}: it is of `{seen.archive.platform}`")
    if seen.graph is not None:
        print_json({"graph": seen.graph}) if as_json else print_data(seen.graph.rstrip("\n"))
        return
    texts = {method.name: method.code if what == "code" else method.graph for method in seen.methods}
    print_json(texts) if as_json else print_data(
        "\n".join(text.rstrip("\n") + "\n" for text in texts.values()).rstrip("\n")
    )


def as_text(seen: View) -> str:
    """A summary for a person."""
    archive, contract = seen.archive, seen.contract
    lines = [f"{archive.path}  {len(archive.data):,} bytes", ""]
    lines += [f"method      {method.signature()}" for method in seen.methods]
    lines += [f"{word.ljust(10)}  {text}" for word, text in seen.facts.items()]
    if not (lines[2:]):
        lines.append("method      none")
    if seen.archive.platform != COMPILED:  # there the weights lie in the library
        lines.append(f"parameters  {seen.parameters:,} ({seen.parameter_bytes:,} bytes)")
    if seen.buffer_bytes:
        lines.append(f"buffers     {seen.buffer_bytes:,} bytes")
    lines += [f"extra file  {name} ({len(data):,} bytes)" for name, data in archive.extra.items()]
    if contract is None:
        return "\n".join([*lines, "contract    none: " + _NAMES[seen.archive.platform]])
    named = f"contract    {contract.name}" + (f": {contract.description}" if contract.description else "")
    rows = [["input", part.name, part.datatype, _dims(part.dims), ""] for part in contract.inputs]
    for part in contract.outputs:
        said = [part.activation or "", f"{len(part.labels)} labels" if part.labels else ""]
        rows.append(["output", part.name, part.datatype, _dims(part.dims), ", ".join(word for word in said if word)])
    lines += [named, "", format_table(["", "name", "datatype", "shape", ""], rows, left=5)]
    origin = contract.provenance
    facts = [
        f"{contract.golden.count} golden examples",
        "untrained" if origin.untrained else "",
        f"by {origin.method}" if origin.method else "",
        origin.precision or "",
        f"torch {origin.torch_version}" if origin.torch_version else "",
        origin.created or "",
    ]
    lines += ["", "  ".join(fact for fact in facts if fact)]
    lines += [
        f"{metric.name} {metric.value:.4f}  ({metric.dataset}, {metric.split}, {metric.samples:,} samples"
        + (f", in {metric.precision})" if metric.precision else ")")
        for metric in contract.metrics
        if metric.value is not None and metric.samples is not None
    ]
    return "\n".join(lines)


def _dims(dims: list[int | str]) -> str:
    return "[" + ", ".join(str(dim) for dim in dims) + "]"
