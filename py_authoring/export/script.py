"""Eager model → TorchScript by compiling its source; control flow stays."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from py_authoring.errors import RefusedError
from py_authoring.export import graph

_FILE = re.compile(r'File "([^"\n]+)", line (\d+)')


def script(model: nn.Module) -> torch.jit.ScriptModule:
    """Compiles a model in evaluation mode.

    Raises:
        RefusedError: TorchScript does not know something that forward uses; names the line.

    Example:
        >>> script(nn.Linear(2, 3).eval()).code.splitlines()[0]
        'def forward(self,'
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", (DeprecationWarning, FutureWarning))  # TorchScript itself is deprecated
            module: torch.jit.ScriptModule = torch.jit.script(model)
            return module
    except Exception as error:  # the compiler raises RuntimeError, its own errors, TypeError, OSError
        raise _refused(error) from error


def find_device_suspicions(module: torch.jit.ScriptModule) -> list[str]:
    """Sentences about tensors that scripted code puts on one device: the author's choice, perhaps an oversight."""
    found = [*graph.baked_devices(module), *graph.default_devices(module)]
    return [
        f"{finding.place} makes {finding.what}: on another device forward may fail; "
        "give it the device of an input, as `device=x.device`"
        for finding in found
    ]


def _refused(error: Exception) -> RefusedError:
    text = str(error).strip()
    message = next(_sentences(text), type(error).__name__)
    places = _FILE.findall(text)
    where = f"{graph.place_at(places[0][0], int(places[0][1]))} cannot be scripted: " if places else "cannot script: "
    return RefusedError(
        where + message,
        hint="write that line in the Python that TorchScript knows, or `--method trace` if no result depends on it",
    )


def _sentences(text: str) -> Iterator[str]:
    for line in text.splitlines():
        stripped = line.strip().rstrip(":.")
        if stripped and not stripped.startswith(("File ", "~", "Arguments for call")):
            yield stripped[:1].lower() + stripped[1:]
