"""A file from elsewhere → `models/NAME/` with model.py, recipe.toml and weights, checked.

read → translate → write in a hidden folder → build that very model → compare with what the file must give → rename.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from py_authoring import atomic, recipe_toml
from py_authoring.errors import NotFoundError, RefusedError, UsageError
from py_authoring.scaffold import check_new, schema_file

if TYPE_CHECKING:
    from py_authoring.importing.draft import Draft

__all__ = ["KINDS", "Imported", "import_model"]

#: How a file's name ends → what it is.
KINDS = {".onnx": "ONNX", ".t7": "Torch7", ".safetensors": "state_dict"}


@dataclass(frozen=True)
class Imported:
    """A model that was imported.

    Attributes:
        path: its folder, `models/NAME`; for a state_dict the checkpoint in it.
        name: the model's name.
        kind: ONNX, Torch7 or state_dict.
        checked: how it was checked, one sentence.
        notes: what a person should know.
        parameters: how many numbers its weights have.
        method: how `export` will write it by default.
        model: what to type for it on the command line.
    """

    path: Path
    name: str
    kind: str
    checked: str
    notes: list[str] = field(default_factory=list)
    parameters: int = 0
    method: str = "script"
    model: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "path": str(self.path),
            "name": self.name,
            "kind": self.kind,
            "checked": self.checked,
            "notes": self.notes,
            "parameters": self.parameters,
            "method": self.method,
        }


def import_model(
    file: str | Path,
    name: str | None = None,
    *,
    model: str | None = None,
    sizes: Mapping[str, int] | None = None,
    shape: str | None = None,
    examples: str | Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Imported:
    """Imports an ONNX file, a Torch7 file, or weights for a model that is here.

    Args:
        file: ends in .onnx, .t7 or .safetensors.
        name: a name, for `./models/NAME`, or a path to a folder that does not exist; default: the file's.
        model: for weights: `models/NAME/model.py:Class`, or the name of a model with a recipe.
        sizes: sizes for the free axes of an ONNX file's example inputs.
        shape: for Torch7: the shape of the input, as `2x3x32x32`; several with commas.
        examples: inputs to check with: an .npz or .safetensors by name, or a folder with input_0.pb, output_0.pb, ….
        say: gets a line for each step.

    Raises:
        NotFoundError: the file, or one that it needs, is not there.
        ForeignFileError: it is damaged.
        RefusedError: it holds something that is not supported; all such things are named.
        ParityError: the result differs from what the file must give.
        WriteError: the disk is full. In every case nothing is written.

    Example:
        >>> import_model("net.docx")
        Traceback (most recent call last):
        ...
        py_authoring.errors.UsageError: `net.docx` ends in `.docx`; expected .onnx, .t7 or .safetensors
    """
    path = Path(file)
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"`{file}` ends in `{path.suffix}`; expected {', '.join([*KINDS][:-1])} or {[*KINDS][-1]}")
    if not path.is_file():
        raise NotFoundError(f"`{file}` is not there")
    if kind == "state_dict":
        from py_authoring.importing.state_dict import import_state_dict

        return import_state_dict(path, model, say)
    if model is not None:
        raise UsageError(f"`--model` is for .safetensors; `{file}` brings its own architecture")
    folder = check_new(name or _name_of(path), "py-authoring export")
    draft = _draft(kind, path, sizes or {}, shape, examples)
    say(f"import  {path}  {kind}, {len(draft.source.tensors)} tensors")
    return _write(draft, kind, path, folder)


def _draft(kind: str, path: Path, sizes: Mapping[str, int], shape: str | None, examples: str | Path | None) -> Draft:
    if kind == "ONNX":
        from py_authoring.tools import need_onnx

        need_onnx(("onnx", "onnxruntime"))
        from py_authoring.importing.onnx.draft import draft_onnx

        return draft_onnx(path, sizes, None if examples is None else Path(examples))
    from py_authoring.importing.torch7.draft import draft_torch7

    return draft_torch7(path, shape)


def _write(draft: Draft, kind: str, path: Path, folder: Path) -> Imported:
    from safetensors.torch import save_file

    from py_authoring.checkpoint import command_name
    from py_authoring.export.script import script
    from py_authoring.importing.draft import plain_name
    from py_authoring.importing.source import CLASS_NAME, EXAMPLES_FILE, WEIGHTS_FILE
    from py_authoring.model_file import build_model
    from py_authoring.recipe import load_recipe

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    origin = f"Imported from {plain_name(path)} ({kind}, sha256 {digest[:12]}…) by py-authoring."
    schema = os.path.relpath(schema_file(folder), folder)
    notes = list(draft.notes)
    with atomic.write_folder(folder) as hidden:
        weights = draft.source.weights()
        if weights:
            save_file(weights, hidden / WEIGHTS_FILE)
        save_file({name: value.contiguous() for name, value in draft.examples.items()}, hidden / EXAMPLES_FILE)
        (hidden / "model.py").write_text(draft.text(origin), encoding="utf-8")
        (hidden / "recipe.toml").write_text(_recipe(draft, CLASS_NAME, origin, schema, "script"), encoding="utf-8")
        module = build_model(load_recipe(hidden)).eval()
        checked = draft.check(module)
        method = "script"
        try:
            script(module)
        except RefusedError as error:
            method = "trace"
            notes.append(f"export.method is trace: {error.message}")
            (hidden / "recipe.toml").write_text(_recipe(draft, CLASS_NAME, origin, schema, method), encoding="utf-8")
    count = sum(value.numel() for value in weights.values())
    return Imported(folder, folder.name, kind, checked, notes, count, method, command_name(folder))


def _recipe(draft: Draft, class_name: str, origin: str, schema: str, method: str) -> str:
    batched = any(0 in axes for axes in draft.free.values())
    dynamic = {name: {str(axis): dim for axis, dim in axes.items()} for name, axes in draft.free.items()}
    lines = [
        f"#:schema {schema}",
        f"# {origin}",
        "",
        "[model]",
        f'class = "{class_name}"',
        "",
        "[data]",
        'kind = "none" # to train it further, name data here: docs/recipe.md',
        "",
        "[export]",
        f'method = "{method}"',
        f"output_names = {recipe_toml.format_value(draft.output_names)}",
        f"dynamic = {recipe_toml.format_value(dynamic)}",
        f"batch_sizes = {'[1, 2, 5]' if batched else '[1]'}",
        f"description = {recipe_toml.format_value(draft.about)}",
    ]
    return "\n".join(lines) + "\n"


def _name_of(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", path.stem).strip("._-") or "imported"
