"""What libraries print while they compile goes nowhere: Python's streams, and the file descriptors under them.

The autotuner, the C++ compiler and the ONNX exporter write to both; `--debug` lets them.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path


@contextmanager
def silence(quiet: bool = True) -> Iterator[None]:
    """Sends file descriptors 1 and 2 to the null device for a while, and ignores warnings.

    Args:
        quiet: False changes nothing but the warnings.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not quiet:
            yield
            return
        _flush()
        kept = [os.dup(1), os.dup(2)]
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            with Path(os.devnull).open("w") as sink, redirect_stdout(sink), redirect_stderr(sink):
                yield
        finally:
            with suppress(OSError, ValueError):  # what cannot be written must not keep the streams away
                _flush()
            for number, copy in enumerate(kept, start=1):
                os.dup2(copy, number)
            for descriptor in (nowhere, *kept):
                os.close(descriptor)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # as under pythonw
            stream.flush()
