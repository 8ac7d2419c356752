"""The command `rust-host` of the wheel, and `python -m rust_host`: the same command line as the binary's."""

import signal
import sys

from rust_host import _native


def main() -> None:
    """Runs the command line of this process and exits with its code."""
    # Python would only take a note of Ctrl-C while native code runs.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_native.main(sys.argv[1:]))


if __name__ == "__main__":
    main()
