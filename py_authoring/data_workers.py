"""Processes that read samples ahead of the training, and what is said when one of them dies.

In: a dataset and the batches of an epoch. Out: the same batches, whatever the number of workers. What a sample draws at
random follows from seed, epoch and its own number, so it does not matter which process reads it, or when.
"""

from __future__ import annotations

import hashlib
import re
import signal
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from py_authoring import resuming
from py_authoring.data import Sample, Samples, collate, read_sample
from py_authoring.errors import AuthoringError, TrainingError

_KILLED = re.compile(r"DataLoader worker \(pid\(?s?\)? ?(?P<pids>[\d, ]+)\) (?P<how>.*)", re.DOTALL)


class _SeededSamples(Dataset[Sample]):
    """Samples that draw from generators seeded for each of them; what they raise comes as a value."""

    def __init__(self, samples: Samples, seed: int, epoch: int) -> None:
        self.samples, self.seed, self.epoch = samples, seed, epoch

    def __getitem__(self, index: int) -> Any:
        digest = hashlib.sha256(f"{self.seed} {self.epoch} {index}".encode()).digest()
        resuming.seed_everything(int.from_bytes(digest[:8], "little") >> 1)
        try:
            return read_sample(self.samples, index)
        except AuthoringError as error:
            return error


def read_ahead(
    samples: Samples, batches: Sequence[Sequence[int]], seed: int, epoch: int, workers: int
) -> Iterator[Sample]:
    """The batches of an epoch, read by processes of their own.

    Args:
        samples: the dataset.
        batches: the sample numbers of each batch.
        seed: with the epoch and a sample's number it seeds what the sample draws.
        epoch: from 0.
        workers: how many processes, at least 1.

    Raises:
        DataError: what a sample raised.
        TrainingError: a worker was killed; names its process and the signal.
    """
    join = collate(samples)

    def join_or_give_error(drawn: Sequence[Any]) -> Any:
        return next((each for each in drawn if isinstance(each, AuthoringError)), None) or join(drawn)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of more workers than processors: so the recipe says
        loader: DataLoader[Any] = DataLoader(
            cast("Dataset[Any]", _SeededSamples(samples, seed, epoch)),
            batch_sampler=cast(Any, batches),
            collate_fn=join_or_give_error,
            generator=torch.Generator(),
            num_workers=workers,
            worker_init_fn=_leave_interrupts_to_the_training,
        )
        read = iter(loader)
    try:
        for batch in read:
            if isinstance(batch, AuthoringError):
                raise batch
            yield batch
    except RuntimeError as error:
        died = name_the_dead(error)
        if died is None:
            raise
        raise died from error
    finally:
        del read  # its workers end with it, and an error that is kept would keep this frame


def name_the_dead(error: BaseException) -> TrainingError | None:
    """The sentence about a killed worker, if that is what an exception is about; torch may raise it anywhere.

    Example:
        >>> print(name_the_dead(RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")))
        data worker 12 (training.workers) is killed by signal: Killed
    """
    told = [_KILLED.search(str(each)) for each in (error.__cause__, error.__context__, error) if each is not None]
    found = next((each for each in told if each is not None), None)  # the cause knows the signal
    if found is None:
        return None
    how = found["how"].strip().splitlines()[0].split(". ")[0].rstrip(". ")
    return TrainingError(
        f"data worker {found['pids']} (training.workers) {how}",
        hint="the last checkpoint is whole, and `--resume` goes on from it; out of memory: fewer training.workers",
    )


# Ctrl-C reaches every process of the terminal: the training ends by itself, after the iteration that is going on.
def _leave_interrupts_to_the_training(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
