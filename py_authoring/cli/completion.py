"""`py-authoring completion`: the script that teaches a shell our commands, options and model names."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from py_authoring.cli.output import common_options, print_data, say
from py_authoring.errors import UsageError

SHELLS = ["bash", "zsh", "fish", "powershell"]


@click.command("completion", epilog="Example: py-authoring completion bash --install")
@click.argument("shell", type=click.Choice(SHELLS))
@click.option("--install", is_flag=True, help="Write it where the shell looks for it, instead of printing it.")
@common_options
def command(shell: str, install: bool) -> None:
    """Print the completion script of a shell, or install it."""
    script = completion_script(shell)
    if not install:
        print_data(script)
        return
    from py_authoring import atomic

    path = install_path(shell)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, script + "\n")
    say(f"wrote {path}")
    if shell == "zsh":
        say("if it is not there yet, put this into ~/.zshrc: fpath+=(~/.zfunc); autoload -Uz compinit; compinit")
    elif shell == "powershell":
        say(f"put this into your profile: . {path}")
    else:
        say("it holds in every new shell")


def completion_script(shell: str) -> str:
    """The script, as click writes it.

    Raises:
        UsageError: this click knows no such shell.
    """
    from py_authoring.cli import group

    completion = get_completion_class(shell)
    if completion is None:
        raise UsageError(f"this version of click has no completion for {shell}", hint="`uv pip install -U click`")
    return completion(group, {}, "py-authoring", "_PY_AUTHORING_COMPLETE").source()


def install_path(shell: str) -> Path:
    """Where a shell of that kind looks for the script of one user."""
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return {
        "bash": data / "bash-completion" / "completions" / "py-authoring",
        "zsh": Path.home() / ".zfunc" / "_py-authoring",
        "fish": config / "fish" / "completions" / "py-authoring.fish",
        "powershell": config / "powershell" / "py-authoring.ps1",
    }[shell]
