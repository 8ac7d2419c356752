"""A run's checkpoint and the data → its evaluation, also written into the run's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from py_authoring import checkpoint as checkpoints
from py_authoring import report, resuming
from py_authoring.data import Splits, load_splits
from py_authoring.device import choose_device
from py_authoring.errors import DataError
from py_authoring.evaluation import Evaluation, evaluate
from py_authoring.handlers import print_to_stderr
from py_authoring.learnt import learnt_of
from py_authoring.model_file import build_model
from py_authoring.recipe import ResolvedRecipe, find_model, override_recipe
from py_authoring.run_folder import write_metrics

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class RunEvaluation:
    """Which checkpoint did what on which data.

    `picture` is the confusion matrix, if one was drawn; `report` the run's `report.html`, if there is a run.
    """

    model: str
    checkpoint: Path
    split: str
    data: str
    evaluation: Evaluation
    picture: Path | None
    report: Path | None = None

    def _repr_html_(self) -> str | None:
        from py_authoring.report import notebook

        return notebook.show_run_evaluation(self)


def evaluate_run(
    model: str | Path,
    *,
    checkpoint: str | Path = "best",
    split: str | None = None,
    device: str | None = None,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
) -> RunEvaluation:
    """Measures a checkpoint of a model, built with the recipe that is stored in it.

    Args:
        model: a name in ./models, or a path to a model's folder.
        checkpoint: `best` or `last` of the latest run, a run's folder, or a file.
        split: train, validation or test; default: test, or validation if the data has no test split.
        device: auto, cpu, cuda or cuda:N; default: the recipe's.
        overrides: `key=value` texts, for other data: they go before the stored recipe.
        say: takes a line for a person; default: stderr.

    Raises:
        NotFoundError: no such model, run, checkpoint or data.
        CheckpointError: it is damaged, or does not fit model.py.
    """
    directory = find_model(model)
    file = checkpoints.find_checkpoint(directory, path=checkpoint)
    saved = checkpoints.load_checkpoint(file)
    flags = {"--device": device}
    resolved = override_recipe(checkpoints.recipe_of(saved, directory), overrides=overrides, flags=flags)
    learnt = learnt_of(saved)
    splits = load_splits(resolved, learnt)
    chosen = split or ("test" if len(splits.test) else "validation" if len(splits.validation) else "train")
    if not any(override.startswith("data.") for override in overrides):
        _say_if_data_changed(saved, splits, resolved, chosen, say or print_to_stderr)
    where = choose_device(resolved.recipe.training.device)
    resuming.seed_everything(resolved.recipe.training.seed)
    built = build_model(resolved, learnt)
    checkpoints.load_weights_into(built, saved, file)
    evaluation = evaluate(built.to(where), getattr(splits, chosen), resolved, where, splits.labels, chosen)
    folder = file.parent.parent
    picture = page = None
    if folder.parent.name == checkpoints.RUNS:
        say = say or print_to_stderr
        picture = write_metrics(folder, chosen, evaluation, {"checkpoint": file.name}, say)
        page = report.report_evaluation(folder, chosen, evaluation, file.name, splits.name, say)
    return RunEvaluation(resolved.name, file, chosen, splits.name, evaluation, picture, page)


# By seed, one sample more deals all of them out anew, so that most of the training ones are in other splits then.
def _say_if_data_changed(
    saved: Mapping[str, Any], splits: Splits, resolved: ResolvedRecipe, chosen: str, say: Callable[[str], None]
) -> None:
    resuming.seed_everything(0)  # as the training took it
    try:
        if saved.get("data_sha256") in (None, splits.sha256()):
            return
    except DataError:  # of a sample that this split may not have
        return
    line = f"note: the data of `{resolved.name}` is not what this checkpoint was trained on"
    data = resolved.recipe.data
    by_seed = getattr(data, "split_by", None) == "seed" and getattr(data, "split_column", None) is None
    if chosen != "train" and by_seed:
        line += (
            f", and {chosen} may hold samples of the training, which makes the numbers too good; "
            'data.split_by = "hash" keeps each sample in its split from the next training on'
        )
    say(line)
