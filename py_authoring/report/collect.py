"""A run's folder → everything that its report shows, as plain values. No torch here.

Each file may be missing, as in a run that was interrupted: then its part of the report is.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from py_authoring import runs
from py_authoring.contract import CONTRACT_FILE, read_contract
from py_authoring.platforms import COMPILED, MODEL_FILES, TORCHSCRIPT
from py_authoring.report.evidence_file import read_evidence
from py_authoring.run_state import RunState, read_state

_SPLITS = ("validation", "test", "train")
_LARGEST_CONTRACT = 16 * 2**20


@dataclass(frozen=True)
class SplitRecord:
    """What the model did on one split.

    Attributes:
        name: train, validation or test.
        samples: how many it was measured on.
        metrics: name → value.
        classes: label, precision, recall, f1, samples of each class; empty for regression.
        wrong: (true, predicted) → how often; of many classes only the most frequent pairs.
        evidence: calibration, mistakes, points; see `py_authoring.evidence`.
        after: how many epochs were done when it was measured, where that is known.
    """

    name: str
    samples: int
    metrics: dict[str, float]
    classes: list[dict[str, Any]]
    wrong: dict[tuple[int, int], int]
    evidence: dict[str, Any]
    after: int | None = None

    def label(self, number: int) -> str:
        """What a class is called."""
        return str(self.classes[number]["label"]) if 0 <= number < len(self.classes) else str(number)


@dataclass(frozen=True)
class RunRecord:
    """A run, as read from its folder.

    Attributes:
        folder: `models/NAME/runs/<run>`.
        summary: what `py-authoring runs` shows.
        state: with what ended it.
        monitor: the metric that chose the best checkpoint.
        history: one row an epoch.
        best: the best epoch's row.
        recipe: dotted key → value, and `recipe_text` as TOML.
        environment: versions, device, command.
        splits: those that were measured.
        dataset: names, sizes, classes.
        parameters: of the model and its parts.
        contracts: path and contract of each file that was exported from this run.
    """

    folder: Path
    summary: runs.RunSummary
    state: RunState
    monitor: str
    history: list[dict[str, Any]] = field(repr=False)
    best: dict[str, Any] | None
    recipe: dict[str, Any] = field(repr=False)
    recipe_text: str = field(repr=False)
    environment: dict[str, Any] = field(repr=False)
    splits: list[SplitRecord] = field(repr=False)
    dataset: dict[str, Any] = field(repr=False)
    parameters: dict[str, Any] = field(repr=False)
    contracts: list[tuple[Path, dict[str, Any]]] = field(repr=False)

    @property
    def name(self) -> str:
        """`mnist/20261129-101500`."""
        return f"{self.summary.model}/{self.summary.run}"

    def split(self, name: str) -> SplitRecord | None:
        """The record of one split, if it was measured."""
        return next((split for split in self.splits if split.name == name), None)


def read_run(folder: Path) -> RunRecord:
    """Everything about a run that is needed to look at it.

    Args:
        folder: `models/NAME/runs/<run>`.
    """
    recipe, history, evidence = runs.read_recipe(folder), runs.read_history(folder), read_evidence(folder)
    monitor = str(recipe.get("training.monitor", "loss"))
    metrics = runs.read_json(folder / "metrics.json")
    text = ""
    with suppress(OSError, ValueError):
        text = (folder / "recipe.toml").read_text(encoding="utf-8")
    return RunRecord(
        folder=folder,
        summary=runs.summarize_run(folder),
        state=read_state(folder),
        monitor=monitor,
        history=history,
        best=runs.best_row(history, monitor),
        recipe=recipe,
        recipe_text=text,
        environment=runs.read_json(folder / "environment.json"),
        splits=[
            _read_split(name, metrics[name], evidence["splits"].get(name, {}))
            for name in _SPLITS
            if isinstance(metrics.get(name), dict)
        ],
        dataset=evidence["dataset"],
        parameters=evidence["model"],
        contracts=list(_contracts(folder)),
    )


def _read_split(name: str, measured: Mapping[str, Any], evidence: Mapping[str, Any]) -> SplitRecord:
    confusion: Sequence[Sequence[int]] = measured.get("confusion") or []
    wrong = Counter(
        {
            (true, predicted): count
            for true, row in enumerate(confusion)
            for predicted, count in enumerate(row)
            if count and true != predicted
        }
    )
    if not confusion:
        wrong.update({(true, predicted): count for true, predicted, count in evidence.get("confused", [])})
    return SplitRecord(
        name=name,
        samples=int(measured.get("samples") or 0),
        metrics=dict(measured.get("metrics") or {}),
        classes=list(measured.get("per_class") or []),
        wrong=dict(wrong.most_common()),
        evidence=dict(evidence),
        after=evidence.get("after"),
    )


# Of each version that was exported from this run; ONNX files of a version have the same contract but for the platform.
def _contracts(folder: Path) -> Iterable[tuple[Path, dict[str, Any]]]:
    directory = folder.parent.parent
    versions = sorted((path for path in directory.glob("[0-9]*") if path.name.isdecimal()), key=lambda p: int(p.name))
    for version in versions:
        for platform in (TORCHSCRIPT, COMPILED):
            file = version / MODEL_FILES[platform]
            with suppress(Exception):  # a damaged archive raises what it likes, as struct.error and zlib.error
                with zipfile.ZipFile(file) as archive:
                    ending = f"/extra/{CONTRACT_FILE}"
                    (member,) = [each for each in archive.infolist() if each.filename.endswith(ending)]
                    if member.file_size > _LARGEST_CONTRACT:
                        continue
                    contract = read_contract(archive.read(member))
                if contract.provenance.run == folder.name:
                    yield file, contract.to_dict()
