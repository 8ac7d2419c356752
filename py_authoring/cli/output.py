"""How commands speak: data on stdout, everything else on stderr.

Also the options that every command has. Only click is imported here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from py_authoring.errors import AuthoringError
from py_authoring.json_text import to_json

Function = TypeVar("Function", bound=Callable[..., Any])


def say(text: str) -> None:
    """A line for a person, on stderr; nothing with `--quiet`."""
    context = click.get_current_context(silent=True)
    if context is None or not context.find_root().meta.get("quiet"):
        print(text, file=sys.stderr, flush=True)


def say_next(command: str) -> None:
    """Names the command that one is likely to want now."""
    say(f"next: {command}")


def print_data(text: str) -> None:
    """Data, on stdout; a reader that has seen enough is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # without this Python would complain once more while it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(0) from None


def print_json(document: Any) -> None:
    """One JSON document on stdout; numbers are not rounded, and null where they are not finite."""
    print_data(to_json(document, indent=2, ensure_ascii=False))


def print_error(error: AuthoringError, *, as_json: bool) -> None:
    """`error: …` and `hint: …` on stderr, or with `--json` one document on stdout."""
    if as_json:
        message = str(error) if error.problems else error.message
        print_json({"error": {"kind": error.kind, "message": message, "hint": error.hint}})
        return
    lines = [f"error: {error.message}", *(f"  {problem}" for problem in error.problems)]
    if error.hint:
        lines.append(f"hint: {error.hint}")
    print("\n".join(lines), file=sys.stderr, flush=True)


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Aligned columns, two spaces between them; the first `left` columns stand left, the others right.

    Example:
        >>> print(format_table(["class", "recall"], [["zero", "1"], ["one", "0.5"]]))
        class  recall
        zero        1
        one       0.5
    """
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = []
    for row in table:
        cells = [
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def common_options(function: Function) -> Function:
    """Adds `--quiet` and `--debug`; neither reaches the function."""

    def set_quiet(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            ctx.find_root().meta["quiet"] = True

    options = [
        click.option(
            "-q", "--quiet", is_flag=True, expose_value=False, callback=set_quiet, help="Say nothing but errors."
        ),
        click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


def complete_models(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The models in ./models that begin so; reads folders only."""
    from pathlib import Path

    return sorted(path.parent.name for path in Path("models").glob(f"{_escape(incomplete)}*/recipe.toml"))


model_argument = click.argument("model", metavar="NAME|DIR", shell_complete=complete_models)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a recipe key, as training.batch_size=32; may be repeated.",
)


def _escape(text: str) -> str:
    import glob

    return glob.escape(text)
