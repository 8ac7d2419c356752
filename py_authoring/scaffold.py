"""Template → `models/NAME/{model.py,recipe.toml}`, which trains at once. No torch here."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from py_authoring import atomic
from py_authoring.errors import UsageError
from py_authoring.recipe_problems import suggest
from py_authoring.recipe_schema import recipe_schema

TEMPLATES = ("classifier", "regressor", "recurrent")
_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
_SHARED_SCHEMA = Path("docs") / "recipe.schema.json"


def new_model(model: str | Path, template: str = "classifier") -> Path:
    """Writes the files of a new model; both or neither appear.

    Args:
        model: a name, for `./models/NAME`, or a path to a folder that does not exist.
        template: classifier, regressor or recurrent.

    Returns:
        The model's folder.

    Raises:
        UsageError: the name cannot be one, is taken, or there is no such template.
        WriteError: the folder cannot be written.
    """
    if template not in TEMPLATES:
        raise UsageError(f"no template `{template}`; expected {' or '.join(TEMPLATES)}{suggest(template, TEMPLATES)}")
    text = str(model)
    folder = check_new(text, "py-authoring train")
    source = Path(__file__).parent / "templates" / template
    schema = schema_file(folder)
    with atomic.write_folder(folder) as hidden:
        (hidden / "model.py").write_text((source / "model.py").read_text(encoding="utf-8"), encoding="utf-8")
        recipe = (source / "recipe.toml").read_text(encoding="utf-8").replace("{name}", text)
        line = f"#:schema {os.path.relpath(schema, folder)}\n"
        (hidden / "recipe.toml").write_text(line + recipe, encoding="utf-8")
    return folder


def check_new(model: str | Path, use: str) -> Path:
    """The folder of a model that is not there yet.

    Args:
        model: a name, for `./models/NAME`, or a path.
        use: the command that takes a model which is there.

    Raises:
        UsageError: the name cannot be one, or is taken.
    """
    text = str(model)
    folder = Path(text) if "/" in text else Path("models") / text
    if not _NAME.match(folder.name) or folder.name.isdecimal():
        raise UsageError(f"`{folder.name}` cannot be a model's name; expected letters, digits, `_`, `-`, `.`")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"`{folder}` is there already", hint=f"`{use} {text}`, or another name")
    return folder


def schema_file(folder: Path) -> Path:
    """The recipe's schema: in this repository in docs/, elsewhere laid beside the models, for all of them."""
    if _SHARED_SCHEMA.is_file():
        return _SHARED_SCHEMA
    file = folder.parent / "recipe.schema.json"
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        atomic.write_text(file, json.dumps(recipe_schema(), indent=2) + "\n")
    return file
