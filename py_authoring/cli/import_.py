"""`py-authoring import`."""

from __future__ import annotations

import click

from py_authoring.cli.output import common_options, json_option, print_data, print_json, say, say_next

EXAMPLES = """\b
Examples:
  py-authoring import net.onnx
  py-authoring import net.onnx --name detector --size height=224 --size width=224
  py-authoring import old_net.t7 --shape 1x3x32x32
  py-authoring import weights.safetensors --model models/mnist/model.py:Net"""


@click.command("import", epilog=EXAMPLES)
@click.argument("file", metavar="FILE.onnx|.t7|.safetensors", type=click.Path())
@click.option("--name", metavar="NAME|DIR", help="Of the new model. Default: the file's.")
@click.option("--model", metavar="NAME|FILE:CLASS", help="Whose weights a .safetensors file holds.")
@click.option("--size", "sizes", multiple=True, metavar="AXIS=N", help="ONNX: a free axis in the example inputs.")
@click.option("--shape", metavar="AxBxC", help="Torch7: the shape of the input; several with commas.")
@click.option("--examples", metavar="PATH", help="ONNX: inputs to check with: .npz, .safetensors, or input_0.pb, ….")
@json_option
@common_options
def command(
    file: str,
    name: str | None,
    model: str | None,
    sizes: tuple[str, ...],
    shape: str | None,
    examples: str | None,
    as_json: bool,
) -> None:
    """Make models/NAME of a file from elsewhere: model.py, recipe.toml and weights, ready to export.

    ONNX is compared with ONNX Runtime, or with stored outputs in test_data_set_0 beside the file; Torch7 with the
    outputs that its modules stored. Where they differ nothing is written. Weights in safetensors become a checkpoint of
    the model that --model names. No code of the file is run. Prints the path.
    """
    from py_authoring.errors import UsageError

    wanted = {}
    for text in sizes:
        axis, equals, number = text.partition("=")
        if not equals or not number.isdecimal() or int(number) < 1:
            raise UsageError(f"--size {text}: expected AXIS=N, as height=224")
        wanted[axis] = int(number)

    from py_authoring.importing import import_model

    made = import_model(file, name, model=model, sizes=wanted, shape=shape, examples=examples, say=say)
    for note in made.notes:
        say(f"note: {note}")
    say(f"checked {made.checked}")
    say(f"saved   {made.path}  {made.parameters:,} parameters")
    if as_json:
        print_json(made.to_dict())
    else:
        print_data(str(made.path))
    say_next(f"py-authoring export {made.model}")
