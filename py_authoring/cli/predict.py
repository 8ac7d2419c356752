"""`py-authoring predict`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from py_authoring.cli.output import (
    common_options,
    complete_models,
    json_option,
    print_data,
    print_json,
    say,
    say_next,
)
from py_authoring.errors import UsageError

EXAMPLES = """\b
Examples:
  py-authoring predict mnist 7.png
  py-authoring predict some_nn_arch x=x.npy 'h=[[0, 0, 0, 0]]'
  py-authoring predict diabetes patients.csv --output out.csv
  py-authoring predict mnist pictures/ --top-k 2"""


@click.command("predict", epilog=EXAMPLES)
@click.argument("model", metavar="NAME|FILE", shell_complete=complete_models)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option("--top-k", type=click.IntRange(min=1), help="Labels to show. Default: 3; in a table 1, and the values.")
@click.option("-o", "--output", type=click.Path(), help="Write a table here, .csv or .tsv. Default: stdout.")
@click.option("--device", metavar="auto|cpu|cuda[:N]", default="cpu", show_default=True, help="Where to run.")
@json_option
@common_options
def command(
    model: str, inputs: tuple[str, ...], top_k: int | None, output: str | None, device: str, as_json: bool
) -> None:
    """Run an exported model in Python: the numbers, and the form, that `rust-host run` gives.

    INPUT is NAME=VALUE, or VALUE where one input is needed: a .npy, .npz, PNG, JPEG or JSON file, or JSON. A .csv or
    .tsv, or a folder of pictures, gives a row of outputs for each of its rows or pictures.
    """
    if not Path(model).exists():  # a mistake is said before torch is loaded
        from py_authoring.recipe import find_model

        find_model(model)

    from py_authoring.prediction import find_file, open_predictor, predict
    from py_authoring.prediction_inputs import read_inputs
    from py_authoring.prediction_table import delimiter_of, is_table, map_csv, map_pictures
    from py_authoring.prediction_text import as_text

    file = find_file(model)
    if len(inputs) == 1 and is_table(inputs[0].rpartition("=")[2]):
        if as_json:
            raise UsageError("a table is CSV, `--json` cannot be", hint="`rust-host run` writes .jsonl")
        source = Path(inputs[0] if Path(inputs[0]).exists() else inputs[0].rpartition("=")[2])
        if str(source) != inputs[0] and not source.is_dir():
            raise UsageError("a table fills inputs by the names of its columns", hint=f"`{source}` without its name")
        delimiter = "," if output is None else delimiter_of(Path(output))
        predictor = open_predictor(file, device)
        mapped = (map_pictures if source.is_dir() else map_csv)(predictor, source, top_k)
        for note in mapped.notes:
            say(f"note: {note}")
        if output is None:
            print_data(mapped.to_csv(delimiter).rstrip("\n"))
        else:
            from py_authoring import atomic

            atomic.write_bytes(output, mapped.to_csv(delimiter).encode())
            say(f"note: {len(mapped.rows):,} row{'' if len(mapped.rows) == 1 else 's'}")
            print_data(output)
        return
    if output is not None:
        raise UsageError("`--output` is for a table: a .csv, .tsv or a folder of pictures as the only input")
    predictor = open_predictor(file, device)
    tensors, notes = read_inputs(inputs, predictor.contract)
    prediction = predict(predictor, tensors, 3 if top_k is None else top_k)
    for note in notes:
        say(f"note: {note}")
    print_json(prediction.to_dict()) if as_json else print_data(as_text(prediction))
    say_next(shlex.join(["rust-host", "run", str(file), *(part for word in inputs for part in ("--input", word))]))
