"""Where an exported file comes from: recipe, commit, versions, and what its author measured."""

from __future__ import annotations

import datetime
import math
import subprocess
from pathlib import Path

import torch

from py_authoring.contract import Data, Metric, Provenance
from py_authoring.data import Splits
from py_authoring.evaluation import can_evaluate, evaluate
from py_authoring.export.weights import Weights


def describe_provenance(weights: Weights, command: str | None) -> Provenance:
    """The contract's provenance; what is not known is left out."""
    recipe = weights.resolved.recipe
    file = weights.checkpoint
    return Provenance(
        recipe_sha256=weights.resolved.sha256(),
        git_commit=git_commit(weights.resolved.directory),
        torch_version=str(torch.__version__),
        seed=recipe.training.seed,
        created=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        command=command,
        method=recipe.export.method,
        precision=None if recipe.export.precision == "fp32" else recipe.export.precision,
        run=weights.run,
        checkpoint=None if file is None else file.stem if weights.run is not None else str(file),
        untrained=True if file is None and weights.imported is None else None,
    )


def measure_metrics(weights: Weights, splits: Splits, precision: str | None = None) -> list[Metric]:
    """What the eager model does on the test data, or on the validation data if there is no test split.

    Measured here and now, so that the figures belong to the very weights in the file; `precision` is written beside
    them.
    """
    name, dataset = ("test", splits.test) if len(splits.test) else ("validation", splits.validation)
    if len(dataset) == 0:
        return []
    if not can_evaluate(weights.model):
        return []
    evaluation = evaluate(weights.model, dataset, weights.resolved, "cpu", splits.labels, name)
    return [
        Metric(
            name=metric,
            value=value if math.isfinite(value) else None,
            dataset=splits.name,
            split=name,
            samples=evaluation.samples,
            precision=precision,
        )
        for metric, value in evaluation.metrics.items()
    ]


def describe_data(splits: Splits) -> Data:
    """Name, digest and size of the data, all splits together."""
    samples = len(splits.train) + len(splits.validation) + len(splits.test)
    return Data(name=splits.name, sha256=splits.sha256(), samples=samples)


def git_commit(directory: Path) -> str | None:
    """The commit that is checked out around a folder, with `-dirty` if the folder differs from it; None outside git."""
    head = _git(directory, "rev-parse", "HEAD")
    if head is None:
        return None
    changes = _git(directory, "status", "--porcelain", "--", ".")
    return f"{head}-dirty" if changes else head


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=directory, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
