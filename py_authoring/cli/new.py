"""`py-authoring new`."""

from __future__ import annotations

import click

from py_authoring.cli.output import common_options, json_option, print_json, say, say_next


@click.command("new", epilog="Example: py-authoring new my_model --template recurrent")
@click.argument("model", metavar="NAME")
@click.option(
    "--template",
    type=click.Choice(["classifier", "regressor", "recurrent"]),
    default="classifier",
    show_default=True,
    help="What the model is for.",
)
@json_option
@common_options
def command(model: str, template: str, as_json: bool) -> None:
    """Start a model: writes models/NAME/model.py and recipe.toml, ready to train."""
    from py_authoring.scaffold import new_model

    folder = new_model(model, template)
    if as_json:
        print_json({"path": str(folder), "files": [str(folder / name) for name in ("model.py", "recipe.toml")]})
    else:
        say(f"wrote {folder / 'model.py'} and {folder / 'recipe.toml'}")
    say_next(f"py-authoring train {model}")
