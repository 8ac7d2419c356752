"""Which values the next trial gets, which trials are stopped early, and which keys mattered.

In: a `Record`. Out: values by key. Nothing is kept between two calls: what is proposed depends on the seed, the trial's
number and the trials before it alone, so a sweep that was killed goes on as if it had not been. Optuna is imported only
where it is asked for. No torch here.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from py_authoring.errors import UnavailableError
from py_authoring.sweeping.record import Record, Sampler, Trial
from py_authoring.sweeping.space import Dimension, SpaceError

if TYPE_CHECKING:
    import optuna

#: Trials that are measured to their end before others are stopped for being worse.
_BEFORE_PRUNING = 4
_BEFORE_IMPORTANCE = 8


def choose_sampler(space: Sequence[Dimension], asked: str | None, prune: bool) -> Sampler:
    """The sampler that was asked for, else the grid where every key has a list, else TPE.

    Raises:
        SpaceError: a grid over values that cannot be counted.
        UnavailableError: Optuna is needed and not installed.
    """
    lists = all(dimension.kind == "choices" for dimension in space)
    sampler: Sampler = "grid" if asked == "grid" or (asked is None and lists) else "tpe"
    if asked == "random":
        sampler = "random"
    endless = next((dimension for dimension in space if dimension.values() is None), None)
    if sampler == "grid" and endless is not None:
        raise SpaceError(
            f"`{endless.key}={endless.form}` has no end of values, and a grid takes each",
            hint=f"`--vary '{endless.key}=[…]'`, or `--sampler tpe`",
        )
    if (sampler == "tpe" or prune) and find_spec("optuna") is None:
        what = "`--sampler tpe`" if sampler == "tpe" else "`--prune`"
        raise UnavailableError(
            f"{what} needs the Python package `optuna`, not installed here",
            hint="`pip install 'rust-host[authoring,sweep]'`; `--sampler random` and a grid of lists need none",
        )
    return sampler


def size_of(space: Sequence[Dimension]) -> int:
    """How many points a grid has."""
    return math.prod(dimension.count for dimension in space)


def propose(record: Record) -> dict[str, Any]:
    """The values of the next trial, by key; for a grid the next point, the last key fastest."""
    number = len(record.trials)
    if record.sampler == "grid":
        values: dict[str, Any] = {}
        for dimension in reversed(record.space):
            possible = dimension.values() or ()
            number, place = divmod(number, dimension.count)
            values[dimension.key] = possible[place]
        return {dimension.key: values[dimension.key] for dimension in record.space}
    if record.sampler == "random":
        source = random.Random(f"{record.seed} {number}")
        return {dimension.key: dimension.draw(source) for dimension in record.space}
    with _quiet():
        import optuna

        # Optuna's own way is one generator for all trials, which begins anew when a sweep is gone on with.
        sampler = optuna.samplers.TPESampler(seed=(record.seed * 1_000_003 + number) % 2**32, constant_liar=True)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials([_frozen(record, trial) for trial in record.trials])
        asked = study.ask(_distributions(record.space))
        return {d.key: d.choices[asked.params[d.key]] if d.choices else asked.params[d.key] for d in record.space}


def lags_behind(record: Record, trial: Trial) -> bool:
    """Whether the best epoch of a running trial is worse than what half of the finished ones had by then."""
    with _quiet():
        import optuna

        pruner = optuna.pruners.MedianPruner(n_startup_trials=_BEFORE_PRUNING, n_warmup_steps=0)
        study = optuna.create_study(direction="maximize")
        study.add_trials([_frozen(record, other) for other in record.trials if other.state == "finished"])
        return pruner.prune(study, _frozen(record, trial))


def importance(record: Record) -> dict[str, float] | None:
    """The share of each key in how much the scores differ, largest first; None without Optuna or with few trials."""
    finished = [trial for trial in record.trials if trial.state == "finished"]
    if find_spec("optuna") is None or len(finished) < _BEFORE_IMPORTANCE or len(record.space) < 2:
        return None
    with _quiet():
        import optuna

        study = optuna.create_study(direction="maximize")
        study.add_trials([_frozen(record, trial) for trial in finished])
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        try:
            shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
            return {key: float(share) for key, share in shares.items()}
        except (RuntimeError, ValueError):  # all scores are equal
            return None


def _frozen(record: Record, trial: Trial) -> optuna.trial.FrozenTrial:
    from optuna.trial import TrialState, create_trial

    states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    state = states.get(trial.state, TrialState.RUNNING)
    scored = state in (TrialState.COMPLETE, TrialState.PRUNED)
    return create_trial(
        state=state,
        value=trial.score if scored else None,
        params={
            d.key: d.choices.index(trial.values[d.key]) if d.choices else trial.values[d.key] for d in record.space
        },
        distributions=_distributions(record.space),
        intermediate_values=dict(enumerate(trial.scores)),
    )


# Of a list Optuna gets the places: it takes no values that are lists themselves.
def _distributions(space: Sequence[Dimension]) -> dict[str, optuna.distributions.BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def of(dimension: Dimension) -> optuna.distributions.BaseDistribution:
        log = dimension.kind in ("log", "logint")
        if dimension.kind == "choices":
            return CategoricalDistribution(range(len(dimension.choices)))
        if dimension.kind in ("int", "logint"):
            return IntDistribution(int(dimension.low), int(dimension.high), log=log)
        return FloatDistribution(dimension.low, dimension.high, log=log)

    return {dimension.key: of(dimension) for dimension in space}


@contextmanager
def _quiet() -> Iterator[None]:
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an argument is experimental
            yield
    finally:
        optuna.logging.set_verbosity(level)
