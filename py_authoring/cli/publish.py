"""`py-authoring publish`."""

from __future__ import annotations

import shlex

import click

from py_authoring.cli.output import common_options, json_option, model_argument, print_data, print_json, say, say_next

EXAMPLES = """\b
Examples:
  py-authoring publish mnist --to /srv/models
  openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout -out key.pub
  py-authoring publish mnist --to /srv/models --key key.pem
  rust-host verify /srv/models/mnist --require-signed key.pub"""


@click.command("publish", epilog=EXAMPLES)
@model_argument
@click.option("--to", metavar="DIR", required=True, help="The folder of published models; made where it is missing.")
@click.option("--version", type=click.IntRange(min=1), help="The version's number. Default: the newest.")
@click.option("--key", metavar="FILE", help="Sign it with this Ed25519 private key (PEM). Needs the extra publish.")
@json_option
@common_options
def command(model: str, to: str, version: int | None, key: str | None, as_json: bool) -> None:
    """Copy a version to DIR/NAME/<version>, with digests and a signature that rust-host checks.

    First rust-host replays the golden examples on the copy. The version appears whole or not at all, and never changes
    afterwards: equal bytes are left alone, others are refused. Prints its folder.
    """
    from py_authoring.publishing import publish

    published = publish(model, to, version=version, key=key, say=say)
    for note in published.notes:
        say(f"note: {note}")
    if not published.changed:
        say("nothing to do: these very bytes are there already")
    if as_json:
        print_json(published.to_dict())
    else:
        print_data(str(published.path))
    command = shlex.join(["rust-host", "verify", str(published.path)])
    say_next(command + ("" if published.signed is False else " --require-signed KEY.pub"))
