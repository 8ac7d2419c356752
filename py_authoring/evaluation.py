"""A model and data → metrics: Ignite's evaluator Engine with its metrics, and the report of one evaluation.

The same engine validates at the end of each epoch and answers `py-authoring evaluate`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import (
    Accuracy,
    ConfusionMatrix,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    Metric,
    Precision,
    Recall,
    RootMeanSquaredError,
)
from torch import Tensor, nn

from py_authoring import objective
from py_authoring.data import Sample, Samples, batches, count_samples
from py_authoring.data_workers import name_the_dead
from py_authoring.distributed import name_the_lost
from py_authoring.errors import AuthoringError, DataError, ModelFileError, TrainingError
from py_authoring.evidence import Evidence
from py_authoring.lightning import is_lightning
from py_authoring.model_file import MODEL_FILE, call, find_function, first_line, where
from py_authoring.r2 import R2
from py_authoring.recipe import ResolvedRecipe

#: Beyond so many classes there is no matrix: of 10,000 it would hold 800 MB while a model trains, and nobody reads it.
MOST_CLASSES_OF_A_MATRIX = 1000


@dataclass(frozen=True)
class ClassResult:
    """How one class fared: shares between 0 and 1, and how many samples it has."""

    label: str
    precision: float
    recall: float
    f1: float
    samples: int


@dataclass(frozen=True)
class Evaluation:
    """What a model does on one split.

    Attributes:
        metrics: `loss` and the recipe's metrics; precision, recall and f1 are means over the classes; r2 is NaN where
            the targets do not vary.
        samples: how many were seen.
        per_class: for classification.
        confusion: for classification of at most 1,000 classes; rows are the true classes, columns the predicted ones.
        evidence: what a report shows besides; not part of `to_dict`.
    """

    metrics: dict[str, float]
    samples: int
    per_class: list[ClassResult] | None = None
    confusion: list[list[int]] | None = None
    evidence: Evidence | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "metrics": dict(self.metrics),
            "samples": self.samples,
            "per_class": None if self.per_class is None else [asdict(each) for each in self.per_class],
            "confusion": self.confusion,
        }

    def _repr_html_(self) -> str | None:
        from py_authoring.report import notebook

        return notebook.show_evaluation(self)


def evaluate(
    model: nn.Module,
    dataset: Samples,
    resolved: ResolvedRecipe,
    device: torch.device | str = "cpu",
    labels: Sequence[str] | None = None,
    split: str = "validation",
) -> Evaluation:
    """Measures a model on a dataset, in evaluation mode and without gradients.

    Args:
        model: takes the dataset's inputs by name; it is left in the mode in which it was.
        dataset: samples of `(inputs, target)`.
        resolved: which loss and which metrics.
        device: where the model is.
        labels: what the classes are called; default: the recipe's `export.labels`, or their numbers.
        split: train, validation or test: a LightningModule has a step for each; no other model asks.

    Raises:
        DataError: the dataset is empty.
        TrainingError: the model or the loss raised on this data; names the line of model.py.
    """
    if len(dataset) == 0:
        raise DataError(
            "there is no sample to evaluate on", hint="data.validation and data.test in the recipe say how many"
        )
    if is_lightning(model):
        from py_authoring.lightning import evaluation as lightning_evaluation

        return Evaluation(lightning_evaluation.evaluate(model, dataset, resolved, device, split), len(dataset))
    classes = count_classes(model, dataset, resolved, device)
    engine = build_evaluator(model, resolved, device, classes, detailed=True)
    evidence = None
    if resolved.recipe.task != "other":
        evidence = Evidence(resolved.recipe.loss, classes)
        evidence.attach(engine)
    support = torch.zeros(classes or 0, dtype=torch.int64)

    def count_targets(evaluator: Engine) -> None:
        output: Any = evaluator.state.output
        _, target = objective.for_metrics(output["output"], output["target"], resolved.recipe.loss)
        support.add_(torch.bincount(target.reshape(-1).cpu(), minlength=len(support)))

    if classes is not None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, count_targets)
    metrics = run_evaluator(engine, dataset, resolved)
    if classes is None:
        return Evaluation(metrics, len(dataset), evidence=evidence)
    matrix = engine.state.metrics.get("_confusion")
    names = labels or resolved.recipe.export.labels or []
    names = list(names) if len(names) == classes else [str(number) for number in range(classes)]
    precision, recall = (engine.state.metrics[key].tolist() for key in ("_precision", "_recall"))
    per_class = [
        ClassResult(name, precision[i], recall[i], _f1(precision[i], recall[i]), int(support[i]))
        for i, name in enumerate(names)
    ]
    confusion = None if matrix is None else matrix.to(torch.int64).tolist()
    return Evaluation(metrics, len(dataset), per_class, confusion, evidence)


def can_evaluate(model: nn.Module) -> bool:
    """Whether there is something to measure a model by: a LightningModule without an evaluation step has nothing.

    A bfloat16 form of a LightningModule has no step either.
    """
    if is_lightning(getattr(model, "model", None)):
        return False
    if not is_lightning(model):
        return True
    from py_authoring.lightning.evaluation import has_step

    return has_step(model)


def build_evaluator(
    model: nn.Module,
    resolved: ResolvedRecipe,
    device: torch.device | str,
    classes: int | None,
    *,
    detailed: bool = False,
) -> Engine:
    """An Ignite evaluator with the recipe's metrics attached.

    Args:
        model: what is measured.
        resolved: the recipe.
        device: where the model is.
        classes: how many there are; None for regression.
        detailed: also per class, and the confusion matrix, whatever the recipe lists.

    Raises:
        ModelFileError: model.py lacks a function that the recipe names, or one gives no Metric.
    """
    section, functions = resolved.recipe.loss, resolved.recipe.metric_functions
    own_loss = objective.batch_loss(resolved) if section.name == "function" else None

    def evaluation_step(engine: Engine, batch: Sample) -> dict[str, Any]:
        model.eval()
        with torch.no_grad():
            inputs, target = to_device(batch, device)
            seen = {"inputs": inputs, "target": target}
            if own_loss is not None:
                seen["loss"] = own_loss(model, inputs, target)
            if own_loss is None or functions:
                seen["outputs"] = model(**inputs)
            if own_loss is None:
                seen["output"] = objective.pick_output(seen["outputs"], section)
            return seen

    def for_metrics(output: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return objective.for_metrics(output["output"], output["target"], section)

    evaluator = quiet(Engine(evaluation_step))
    names = resolved.recipe.metric_names
    attached: dict[str, Metric] = {
        "loss": Loss(
            lambda output, target: objective.loss(output, target, section),
            output_transform=lambda output: (output["output"], output["target"]),
        )
    }
    if own_loss is not None:
        attached["loss"] = Loss(
            lambda loss, samples: loss,
            output_transform=lambda seen: (seen["loss"], count_samples((seen["inputs"], None))),
            batch_size=int,
        )
    attached |= {name: _own_metric(resolved, name) for name in functions}
    if classes is not None:
        if "accuracy" in names:
            attached["accuracy"] = Accuracy(for_metrics)
        if detailed or {"precision", "recall", "f1"} & set(names):
            attached["_precision"] = Precision(for_metrics, average=False)
            attached["_recall"] = Recall(for_metrics, average=False)
        if classes <= MOST_CLASSES_OF_A_MATRIX and (detailed or "confusion_matrix" in names):
            attached["_confusion"] = ConfusionMatrix(classes, output_transform=for_metrics)
    else:
        regression: dict[str, Callable[..., Metric]] = {
            "mae": MeanAbsoluteError,
            "mse": MeanSquaredError,
            "rmse": RootMeanSquaredError,
            "r2": R2,
        }
        attached |= {name: regression[name](for_metrics) for name in names}
    for name, metric in attached.items():
        metric.attach(evaluator, name)
    return evaluator


def run_evaluator(
    evaluator: Engine, dataset: Samples, resolved: ResolvedRecipe, part: int = 0, parts: int = 1
) -> dict[str, float]:
    """Runs an evaluator over a dataset; gives `loss` and the recipe's metrics as numbers.

    Args:
        evaluator: what `build_evaluator` gave.
        dataset: the samples.
        resolved: the recipe.
        part: which of `parts` shares is this process's; Ignite's metrics are those of all shares.
        parts: how many processes evaluate.

    Raises:
        TrainingError: the model, the loss or a metric raised.
    """
    try:
        state = evaluator.run(batches(dataset, resolved.recipe.training.batch_size, part, parts))
    except AuthoringError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise failed(error, resolved, "evaluating") from error
    metrics = {"loss": float(state.metrics["loss"])}
    for name in resolved.recipe.metric_names:
        if name in state.metrics:
            metrics[name] = float(state.metrics[name])
        elif name in ("precision", "recall"):
            metrics[name] = float(state.metrics[f"_{name}"].mean())
        elif name == "f1":
            pairs = zip(state.metrics["_precision"].tolist(), state.metrics["_recall"].tolist(), strict=True)
            scores = [_f1(precision, recall) for precision, recall in pairs]
            metrics[name] = math.fsum(scores) / len(scores)
    for name in resolved.recipe.metric_functions:
        try:
            metrics[name] = float(state.metrics[name])
        except (TypeError, ValueError, RuntimeError) as error:
            what = type(state.metrics[name]).__name__
            raise TrainingError(f"the metric `{name}` gave a {what}, expected one number") from error
    return metrics


def count_classes(
    model: nn.Module, dataset: Samples, resolved: ResolvedRecipe, device: torch.device | str
) -> int | None:
    """How many classes the model tells apart, found by trying it on one sample; None where it tells none."""
    if resolved.recipe.task != "classification":
        return None
    if resolved.recipe.loss.name == "bce_with_logits":
        return 2
    inputs, _ = to_device(next(iter(batches(dataset, 1))), device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            output = objective.pick_output(model(**inputs), resolved.recipe.loss)
    except AuthoringError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise failed(error, resolved, "trying the model on one sample") from error
    finally:
        model.train(training)
    classes = output.shape[-1] if output.ndim > 1 else 1
    if classes < 2:
        raise ModelFileError(
            f"forward returns one number a sample, and loss.name {resolved.recipe.loss.name} takes one for each class",
            hint='for a number to predict: loss.name = "mse"; for yes or no: loss.name = "bce_with_logits"',
        )
    return classes


def to_device(batch: Sample, device: torch.device | str) -> Sample:
    """A batch on the model's device."""
    inputs, target = batch
    return {name: value.to(device) for name, value in inputs.items()}, _to(target, device)


def failed(error: Exception, resolved: ResolvedRecipe, doing: str) -> TrainingError:
    """What a user's model raised, as one sentence with the line of model.py where it passed through."""
    # torch tells of a worker, and of another process, in whatever line the training is at
    died = name_the_dead(error) or name_the_lost(error)
    if died is not None:
        return died
    file = resolved.directory / MODEL_FILE
    text = f"{where(error, file)}: while {doing}: {type(error).__name__}: {first_line(error)}"
    return TrainingError(text, hint="`--debug` shows the whole traceback")


def quiet(engine: Engine) -> Engine:
    """An engine that does not log what it also raises: the command line says it once."""
    engine.logger.setLevel(logging.CRITICAL)
    return engine


# Ignite's convert_tensor refuses what is no tensor, as the name of a picture in a target of a user's own.
def _to(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Mapping):
        return {key: _to(each, device) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_to(each, device) for each in value]
    return value.to(device) if isinstance(value, Tensor) else value


def _own_metric(resolved: ResolvedRecipe, name: str) -> Metric:
    file = resolved.directory / MODEL_FILE
    metric = call(find_function(resolved, name, "metric_functions"), file)
    if not isinstance(metric, Metric):
        raise ModelFileError(f"`{name}` in `{file}` returned {type(metric).__name__}, expected an Ignite Metric")
    return metric


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
