"""`py-authoring recipe show` and `py-authoring recipe schema`."""

from __future__ import annotations

import click

from py_authoring.cli.output import (
    common_options,
    format_table,
    json_option,
    model_argument,
    print_data,
    print_json,
    set_option,
)


@click.group("recipe", epilog="Example: py-authoring recipe show mnist")
def command() -> None:
    """Look at recipes."""


@command.command("show", epilog="Example: py-authoring recipe show mnist --epochs 3")
@model_argument
@click.option("--epochs", type=int, help="As given to train.")
@click.option("--lr", type=float, help="As given to train.")
@click.option("--seed", type=int, help="As given to train.")
@click.option("--device", metavar="auto|cpu|cuda[:N]", help="As given to train.")
@set_option
@json_option
@common_options
def show(
    model: str,
    epochs: int | None,
    lr: float | None,
    seed: int | None,
    device: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print every value of a recipe, and where it came from: default, the recipe's line, --set, or a flag."""
    from py_authoring.recipe import load_recipe
    from py_authoring.recipe_toml import format_value

    flags = {"--epochs": epochs, "--lr": lr, "--seed": seed, "--device": device}
    values = load_recipe(model, overrides=overrides, flags=flags).values()
    if as_json:
        print_json({key: {"value": value, "source": source} for key, (value, source) in values.items()})
        return
    rows = [[key, "-" if value is None else format_value(value), source] for key, (value, source) in values.items()]
    print_data(format_table(["key", "value", "source"], rows, left=3))


@command.command("schema", epilog="Example: py-authoring recipe schema > docs/recipe.schema.json")
@common_options
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from py_authoring.recipe_schema import recipe_schema

    print_json(recipe_schema())
