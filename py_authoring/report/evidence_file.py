"""`evidence.json` in a run's folder: what a report shows that no other file holds. No torch here.

`{"format": 1, "dataset": {…}, "model": {…}, "splits": {"validation": {…}}}`; each part is replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from py_authoring import atomic
from py_authoring.json_text import to_json
from py_authoring.runs import read_json

EVIDENCE_FILE = "evidence.json"
FORMAT = 1


def read_evidence(folder: Path) -> dict[str, Any]:
    """What is there: `dataset`, `model` and `splits`, each possibly empty."""
    document = read_json(folder / EVIDENCE_FILE)
    if document.get("format") != FORMAT:
        document = {}
    return {"format": FORMAT, **{part: document.get(part) or {} for part in ("dataset", "model", "splits")}}


def update_evidence(
    folder: Path,
    *,
    dataset: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    splits: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Puts what is given into the file, and leaves the rest.

    Raises:
        WriteError: the old file is untouched.
    """
    document = read_evidence(folder)
    document["dataset"] = dict(dataset) if dataset is not None else document["dataset"]
    document["model"] = dict(model) if model is not None else document["model"]
    document["splits"] |= {name: dict(value) for name, value in (splits or {}).items()}
    atomic.write_text(folder / EVIDENCE_FILE, to_json(document, separators=(",", ":")) + "\n")
