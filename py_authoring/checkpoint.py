"""Where runs and their checkpoints lie; writing them durably, finding them, reading them.

In: `models/NAME/runs/`. Out: paths, dicts of plain values and tensors. A checkpoint is read with `weights_only=True`,
so a file from elsewhere cannot run code.
"""

from __future__ import annotations

import datetime
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from ignite.handlers.checkpoint import BaseSaveHandler
from torch import nn

from py_authoring import atomic
from py_authoring.errors import CheckpointError, NotFoundError, UsageError
from py_authoring.lightning import load_attributes, load_hooks
from py_authoring.recipe import ResolvedRecipe, recipe_from_dict
from py_authoring.runs import CHECKPOINTS as CHECKPOINTS
from py_authoring.runs import RUNS as RUNS
from py_authoring.runs import check_name, new_name
from py_authoring.runs import command_name as command_name
from py_authoring.runs import list_runs as list_runs

FORMAT = 1


class FsyncSaver(BaseSaveHandler):
    """Writes what an Ignite `Checkpoint` saves, so that a kill or a full disk leaves the old file or the new one.

    Ignite's own `DiskSaver` never calls fsync, and a kill leaves its temporary file behind.

    Args:
        folder: where to.
        writes: whether this process is the one of its training that writes.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.folder = folder
        self.writes = writes

    def __call__(self, checkpoint: Mapping[str, Any], filename: str, metadata: Mapping[str, Any] | None = None) -> None:
        """Writes `filename` in the folder."""
        if self.writes:
            save_checkpoint(checkpoint, self.folder / filename)

    def remove(self, filename: str) -> None:
        """Nothing: Ignite asks for it before it saves under the same name, and the rename replaces the file."""


class KeepingSaver(FsyncSaver):
    """Writes the same way a file for each of several epochs, and removes those that Ignite no longer wants."""

    def remove(self, filename: str) -> None:
        """Removes the file; one that a killed training removed already is no error."""
        if self.writes:
            (self.folder / filename).unlink(missing_ok=True)


def save_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint atomically and durably.

    Raises:
        WriteError: the old file is untouched.
    """
    buffer = io.BytesIO()
    torch.save(dict(checkpoint), buffer)
    atomic.write_bytes(path, buffer.getbuffer())


def load_checkpoint(path: Path | str, device: str = "cpu") -> dict[str, Any]:
    """Reads a checkpoint, and checks that every byte is the one that was written.

    Returns:
        At least `model` (state_dict), `recipe` (plain values), `sources`, `epoch` and `iteration` (completed ones),
        `metrics` (of the validation after that epoch); `learnt` (see learnt.py) since there is such.

    Raises:
        NotFoundError: there is no such file.
        CheckpointError: it is damaged, or no checkpoint of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"checkpoint `{path}` is not there")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch checks no CRC
        if damaged is not None:
            raise CheckpointError(f"checkpoint `{path}` is damaged: wrong checksum of {damaged}")
        checkpoint = torch.load(path, map_location=device, weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch raises whatever its reader stumbles over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"checkpoint `{path}` cannot be read: {reason}") from error
    if not isinstance(checkpoint, dict) or not {"model", "recipe", "epoch", "iteration"} <= set(checkpoint):
        raise CheckpointError(f"`{path}` is no checkpoint of py-authoring: it lacks model, recipe, epoch or iteration")
    if checkpoint.get("format", FORMAT) > FORMAT:
        raise CheckpointError(
            f"checkpoint `{path}` has format {checkpoint['format']}, this version reads up to {FORMAT}",
            hint="a newer py-authoring wrote it",
        )
    return checkpoint


def load_weights_into(model: nn.Module, saved: Mapping[str, Any], file: Path) -> None:
    """Gives a model that model.py built the weights of a checkpoint that was read from `file`.

    Raises:
        CheckpointError: names or shapes are others.
    """
    load_attributes(model, saved)
    weights = load_hooks(model, saved)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"checkpoint `{file}` does not fit model.py: {str(error).splitlines()[-1].strip()}",
            hint="model.py has changed since; train again",
        ) from error


def recipe_of(checkpoint: Mapping[str, Any], directory: Path) -> ResolvedRecipe:
    """The recipe with which a checkpoint was trained."""
    return recipe_from_dict(checkpoint["recipe"], directory, checkpoint.get("sources", {}))


def find_run(directory: Path, run: str | None = None) -> Path:
    """The folder of a run by name, or of the latest one.

    Raises:
        NotFoundError: no such run, or none at all.
    """
    runs = list_runs(directory)
    if run is not None:
        if directory / RUNS / run not in runs:
            known = ", ".join(path.name for path in runs[-5:]) or "none"
            raise NotFoundError(f"no run `{run}` in `{directory / RUNS}`", hint=f"runs there: {known}")
        return directory / RUNS / run
    if not runs:
        raise NotFoundError(
            f"model `{directory.resolve().name}` has no run in `{directory / RUNS}`",
            hint=f"`py-authoring train {command_name(directory)}`",
        )
    return runs[-1]


def find_checkpoint(
    directory: Path,
    *,
    run: str | None = None,
    which: Literal["best", "last"] = "best",
    path: Path | str | None = None,
) -> Path:
    """The file of a checkpoint.

    Args:
        directory: the model's folder.
        run: the run's name; default: the latest.
        which: the best by validation, or the last.
        path: a file, a run's folder, `best` or `last`; goes before `run` and `which`.

    Raises:
        NotFoundError: it is not there; says what to do.
    """
    if path is not None:
        if str(path) in ("best", "last"):
            which = "best" if str(path) == "best" else "last"
        elif Path(path).is_dir():
            return find_checkpoint(directory, which=which, path=Path(path) / CHECKPOINTS / f"{which}.pt")
        else:
            if not Path(path).is_file():
                raise NotFoundError(
                    f"checkpoint `{path}` is not there", hint="give a file, a run's folder, best or last"
                )
            return Path(path)
    folder = find_run(directory, run)
    file = folder / CHECKPOINTS / f"{which}.pt"
    if not file.is_file():
        name = command_name(directory)
        raise NotFoundError(
            f"run `{folder.name}` of model `{directory.resolve().name}` has no {which} checkpoint: "
            "no epoch ended with a finite loss and training.monitor",
            hint=f"`py-authoring train {name} --resume` goes on, `py-authoring train {name}` starts anew",
        )
    return file


def new_run_name(directory: Path, now: datetime.datetime | None = None) -> str:
    """A name for a run that starts now, later in order than all others: `20261125-101500`, `…-2` within a second."""
    return new_name(directory / RUNS, now=now)


def new_run_folder(directory: Path, name: str | None) -> Path:
    """Where a new run will lie: under the name that was asked for, or one of date and time.

    Raises:
        UsageError: that can be no name, or a run has it.
    """
    folder = directory / RUNS / (new_run_name(directory) if name is None else check_name(name))
    if folder.exists():
        raise UsageError(
            f"run `{folder}` is there already",
            hint=f"`py-authoring train {command_name(directory)} --resume --run {name}` goes on with it",
        )
    return folder


def clear_stale(directory: Path) -> list[Path]:
    """Removes what killed trainings left below the runs of a model."""
    return atomic.clear_stale(directory / RUNS, recursive=True)
