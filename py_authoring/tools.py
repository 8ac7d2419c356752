"""What a method needs of this machine beyond torch, looked for before anything is done. No torch here."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

from py_authoring.errors import RecipeError, UnavailableError

#: Precision → the methods whose files can hold it.
_PRECISIONS = {
    "bf16": ("script", "trace", "compiled"),  # ONNX Runtime has hardly any bfloat16 on the CPU
    "int8-dynamic": ("script", "trace"),  # torch.export knows no packed weights
}
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_tools(method: str, precision: str = "fp32") -> None:
    """Whether an export by this method can work here at all.

    Raises:
        RecipeError: a file of this method cannot hold such numbers.
        UnavailableError: a compiler or package is missing; says how to get it.
    """
    methods = _PRECISIONS.get(precision)
    if methods is not None and method not in methods:
        raise RecipeError(
            f'export.precision "{precision}" is for {", ".join(methods)}, not for {method}',
            hint=f"`--method {methods[0]} --precision {precision}`",
        )
    if method == "compiled":
        find_compiler()
    elif method == "onnx":
        need_onnx(_ONNX_PACKAGES)


def find_compiler() -> str:
    """The path of the C++ compiler: `$CXX`, or g++.

    Raises:
        UnavailableError: it is not there.
    """
    name = os.environ.get("CXX") or "g++"
    found = shutil.which(name)
    if found is None:
        raise UnavailableError(
            f"`--method compiled` needs a C++ compiler, and `{name}` is not on PATH",
            hint="`apt-get install g++`, or name another: `CXX=g++-13 py-authoring export …`; hosts need none",
        )
    return found


def need_onnx(packages: tuple[str, ...] = ("onnx", "onnxruntime")) -> None:
    """Raises:
    UnavailableError: a Python package for ONNX files is not installed; says which, and the command.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        shown = " and ".join(f"`{name}`" for name in missing)
        raise UnavailableError(
            f"ONNX needs the Python package{'s' if len(missing) > 1 else ''} {shown}, not installed here",
            hint=f"`pip install {' '.join(missing)}`, or with this project `pip install 'rust-host[authoring,onnx]'`",
        )
