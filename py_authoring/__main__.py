"""The command `py-authoring`, and `python -m py_authoring`."""

import sys

from py_authoring.errors import not_installed


def main() -> None:
    """Runs the command line, or says that what it is made of is not installed."""
    try:
        from py_authoring.cli import main as command_line
    except ModuleNotFoundError as error:
        if (missing := not_installed(error)) is None:
            raise
        sys.exit(f"error: {missing}\nhint: {missing.hint}")
    command_line()


if __name__ == "__main__":
    main()
