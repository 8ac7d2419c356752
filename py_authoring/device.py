"""`auto`, `cpu`, `cuda`, `cuda:N` → a torch device, or the exact reason why not."""

from __future__ import annotations

import warnings

import torch

from py_authoring.errors import DeviceError


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; only `auto` may become the CPU when there is no CUDA.

    Raises:
        DeviceError: CUDA was asked for and is not there; says why.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if name == "cpu":
        return torch.device("cpu")
    reason = why_no_cuda()
    if name == "auto":
        return torch.device("cpu" if reason else "cuda:0")
    if reason:
        raise DeviceError(f"device `{name}` is not there: {reason}", hint="`--device cpu`, or `auto` for what is there")
    index = int(name.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise DeviceError(f"device `{name}` is not there: the highest is cuda:{torch.cuda.device_count() - 1}")
    return torch.device("cuda", index)


def why_no_cuda() -> str | None:
    """Why CUDA cannot be used here, in a few words; None if it can."""
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about an old driver and then says the same as an error
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except (RuntimeError, AssertionError) as error:
            return str(error).partition(".")[0].removeprefix("Found ")
    return None if torch.cuda.device_count() else "no CUDA device is visible"
