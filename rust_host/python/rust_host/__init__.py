"""Runs PyTorch models natively: the engine of the command `rust-host`, as a Python module.

>>> import rust_host
>>> model = rust_host.Model("model.pt")     # doctest: +SKIP
>>> model(x)                                # doctest: +SKIP

Arrays go in without a copy (NumPy, torch, anything with ``__dlpack__``) and come out as NumPy arrays, or as torch
tensors with ``to="torch"``. The GIL is released while the model runs. Errors derive from `rust_host.Error`.
"""

from rust_host._native import Mapped, Model, Verdict, set_threads, threads
from rust_host.errors import (
    Error,
    FailedError,
    InternalError,
    InvalidContractError,
    InvalidInputError,
    InvalidModelError,
    MismatchError,
    NotFoundError,
    OverloadedError,
    RefusedError,
    TimeoutError,
    UnavailableError,
)

__version__ = "0.1.0"

__all__ = [
    "Error",
    "FailedError",
    "InternalError",
    "InvalidContractError",
    "InvalidInputError",
    "InvalidModelError",
    "Mapped",
    "MismatchError",
    "Model",
    "NotFoundError",
    "OverloadedError",
    "RefusedError",
    "TimeoutError",
    "UnavailableError",
    "Verdict",
    "set_threads",
    "threads",
]
