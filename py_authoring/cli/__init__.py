"""The command group, and the edge at which errors become a sentence and an exit code.

Only click is imported here. A command's module is loaded when that command is named, and its work inside its function:
so `--help`, a wrong argument or a completion costs no torch.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from py_authoring import __version__
from py_authoring.cli.output import print_error
from py_authoring.errors import AuthoringError, InterruptedRunError, UsageError, not_installed

#: Name → (module that holds `command`, its line in `--help`).
COMMANDS: dict[str, tuple[str, str]] = {
    "new": ("py_authoring.cli.new", "Start a model: writes model.py and recipe.toml, ready to train."),
    "train": ("py_authoring.cli.train", "Train a model by its recipe, or go on with its latest run."),
    "sweep": ("py_authoring.cli.sweep", "Train with many values of some keys, and say which are best."),
    "lr-find": ("py_authoring.cli.lr_find", "Suggest a learning rate: a short training in which it grows."),
    "evaluate": ("py_authoring.cli.evaluate", "Measure a checkpoint: all metrics, per class, confusion matrix."),
    "runs": ("py_authoring.cli.runs", "List the runs: when, state, epochs, best metric."),
    "compare": ("py_authoring.cli.compare", "Put runs side by side: a table here, and a page with their curves."),
    "export": ("py_authoring.cli.export", "Checkpoint → TorchScript, machine code or ONNX with a contract, checked."),
    "predict": ("py_authoring.cli.predict", "Run an exported model on pictures, arrays or the rows of a CSV."),
    "inspect": ("py_authoring.cli.inspect", "Show what a model.pt, model.pt2 or model.onnx holds, anyone's."),
    "verify": ("py_authoring.cli.verify", "Replay the golden examples of a model.pt, model.pt2 or model.onnx."),
    "import": ("py_authoring.cli.import_", "Make a model of an ONNX or Torch7 file, or of weights in safetensors."),
    "publish": ("py_authoring.cli.publish", "Copy a version for the machines that run it: checked, digests, signed."),
    "recipe": ("py_authoring.cli.recipe", "Show a recipe's values and where each one came from."),
    "completion": ("py_authoring.cli.completion", "Print or install completion for your shell."),
}


class LazyGroup(click.Group):
    """A group that imports a command when it is called, and takes its line in `--help` from the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the module of a command."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """click's own way would import every command for its one line."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[click.shell_completion.CompletionItem]:
        """Command names and their lines, without importing them."""
        item = click.shell_completion.CompletionItem
        found = [item(name, help=line) for name, (_, line) in COMMANDS.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    cls=LazyGroup,
    # click looks for similar names among these when it meets an unknown one
    commands={name: click.Command(name) for name in COMMANDS},
    context_settings={
        "help_option_names": ["-h", "--help"],
        "color": False if os.environ.get("NO_COLOR") else None,
        "max_content_width": 100,
    },
    epilog="Begin with: py-authoring new my_model && py-authoring train my_model",
)
@click.version_option(__version__, prog_name="py-authoring")
def group() -> None:
    """Train models with PyTorch-Ignite and export them as files that describe and check themselves."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 1 failed, 2 misuse, 130 interrupted.

    Args:
        arguments: default: those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug, as_json = "--debug" in given, "--json" in given
    try:
        result = group.main(given, prog_name="py-authoring", standalone_mode=False)
    except click.ClickException as error:
        hint = None
        if isinstance(error, click.UsageError) and error.ctx is not None:
            hint = f"`{error.ctx.command_path} --help`"
        message = error.format_message().rstrip(".")
        print_error(UsageError(message[:1].lower() + message[1:], hint=hint), as_json=as_json)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        if debug:
            traceback.print_exc()
        print_error(InterruptedRunError("interrupted"), as_json=as_json)
        sys.exit(130)
    except AuthoringError as error:
        if debug:
            traceback.print_exc()
        print_error(error, as_json=as_json)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        text = (str(error).strip() or "no message").splitlines()[0]
        internal = AuthoringError(
            f"{type(error).__name__}: {text}", hint="`--debug` shows where; this is a bug, please report it"
        )
        print_error(not_installed(error) or internal, as_json=as_json)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)
