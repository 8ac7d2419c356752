"""Scripted module, contract and golden examples → bytes of `model.pt`; any model's bytes → a version's folder.

The folder appears whole or not at all, and the number that it gets was free.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import torch

from py_authoring import atomic
from py_authoring.contract import CONTRACT_FILE, GOLDEN_FILE, Contract
from py_authoring.errors import WriteError
from py_authoring.platforms import MODEL_FILES

CARD_FILE = "README.md"
_TRIES = 100


def to_bytes(module: torch.jit.ScriptModule, contract: Contract | None = None, golden: bytes = b"") -> bytes:
    """The TorchScript archive with its extra files.

    Always through memory: `torch.jit.save(module, path)` aborts the whole process when the disk is full.
    """
    buffer = io.BytesIO()
    extra: dict[str, str | bytes] = {}
    if contract is not None:
        extra = {CONTRACT_FILE: contract.to_json(), GOLDEN_FILE: golden}
    torch.jit.save(module, buffer, _extra_files=extra)
    return buffer.getvalue()


def from_bytes(data: bytes) -> torch.jit.ScriptModule:
    """A fresh module from the bytes of an archive, on the CPU, in evaluation mode."""
    module: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-untyped-call]
    return module.eval()


def versions(directory: Path) -> list[int]:
    """The version numbers below a model's folder, smallest first.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("2", "10", "runs", "03"):
        ...     (folder / name).mkdir()
        >>> versions(folder)
        [2, 10]
    """
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name and name != "0")


def write_version(directory: Path, model: bytes, contract: Contract, card: str) -> Path:
    """Writes `<next version>/model.pt` (.pt2, .onnx) and the model card beside it, in one step.

    Returns:
        The path of the model.

    Raises:
        WriteError: the disk is full, the folder not writable; no version and no part of one is left.
    """
    name = MODEL_FILES[contract.platform]
    atomic.clear_stale(directory)
    for _ in range(_TRIES):
        folder = directory / str(max(versions(directory), default=0) + 1)
        try:
            with atomic.write_folder(folder) as temporary:
                (temporary / name).write_bytes(model)
                (temporary / CARD_FILE).write_text(card, encoding="utf-8")
        except WriteError:
            if not folder.exists():
                raise
            continue  # another export took this number between our look and our rename
        return folder / name
    raise WriteError(f"cannot find a free version number in `{directory}`")


def remove_version(path: Path, *, alone: bool) -> None:
    """Takes back what was just written: the file, or the whole folder if it is `alone` there."""
    if alone:
        shutil.rmtree(path.parent, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
