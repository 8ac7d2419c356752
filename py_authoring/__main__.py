"""The command `py-authoring`, and `python -m py_authoring`."""

import sys


def main() -> None:
    """Runs the command line, or says that what it is made of is not installed: the wheel alone brings NumPy only."""
    try:
        from py_authoring.cli import main as command_line
    except ModuleNotFoundError as error:
        if not error.name or "." in error.name:  # a part of a package that is there
            raise
        sys.exit(f"error: the package `{error.name}` is not installed\nhint: `pip install 'rust-host[authoring]'`")
    command_line()


if __name__ == "__main__":
    main()
