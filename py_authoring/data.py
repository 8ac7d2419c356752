"""Recipe → datasets for training, validation and test, and the batches that an Engine iterates over.

Each sample is `(inputs by forward's argument names, target)`. The order of an epoch follows from seed and epoch alone,
so a resumed run takes up the very batch at which it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from py_authoring.errors import AuthoringError, DataError
from py_authoring.learnt import Learnt
from py_authoring.recipe import ResolvedRecipe
from py_authoring.recipe_sections import ImageSection

#: Inputs by forward's argument names, and a target: a tensor, a number, or a dict of tensors of any size.
Sample = tuple[dict[str, Tensor], Any]


class Samples(Protocol):
    """Any map-style dataset of samples.

    Optional are `pad_values`, forward's argument → filler, and `collate(samples)`, which makes a batch of its own.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@runtime_checkable
class Fingerprinted(Protocol):
    """A dataset that knows a digest of all its samples, and need not be read once more for it."""

    def samples_sha256(self) -> bytes:
        """The digest."""
        ...


class ArrayDataset(Dataset[Sample]):
    """Samples held in memory: tensors whose first axis counts samples, or lists of tensors of unequal length.

    Args:
        inputs: forward's argument → samples. uint8 pictures are given out as float32 in [0, 1].
        target: one entry a sample.
        pad_values: forward's argument → what fills the ends of shorter samples; for lists, 0 if not given.
    """

    def __init__(
        self,
        inputs: Mapping[str, Tensor | Sequence[Tensor]],
        target: Tensor,
        pad_values: Mapping[str, float] | None = None,
    ) -> None:
        self.inputs = dict(inputs)
        self.target = target
        self.pad_values: dict[str, float] = {
            name: 0 for name, value in self.inputs.items() if not isinstance(value, Tensor)
        }
        self.pad_values |= dict(pad_values or {})

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int) -> Sample:
        return {name: _as_float(values[index]) for name, values in self.inputs.items()}, self.target[index]

    def gather(self, indices: Sequence[int]) -> Sample | None:
        """The batch of the samples at `indices`, in one step; None where they have to be padded."""
        chosen = torch.tensor(indices, dtype=torch.int64)
        inputs = {}
        for name, values in self.inputs.items():
            if name in self.pad_values or not isinstance(values, Tensor):
                return None
            inputs[name] = _as_float(values.index_select(0, chosen))
        return inputs, self.target.index_select(0, chosen)

    def subset(self, indices: Tensor) -> ArrayDataset:
        """The samples at `indices`, int64 `[n]`."""
        chosen = {
            name: values[indices] if isinstance(values, Tensor) else [values[i] for i in indices.tolist()]
            for name, values in self.inputs.items()
        }
        return ArrayDataset(chosen, self.target[indices], self.pad_values)


@dataclass(frozen=True)
class Splits:
    """What a recipe's data became.

    Attributes:
        train, validation, test: map-style datasets of samples; validation and test may be empty.
        name: for the contract and the model card.
        labels: what each class is called, where the data says so.
        learnt: what the training samples taught; None for datasets of a user's own.
        descriptions: input → what a host must give, where its datatype does not say it all.
        image: how a picture file becomes an input, where the samples are picture files.
    """

    train: Samples
    validation: Samples
    test: Samples
    name: str
    labels: list[str] | None = None
    learnt: Learnt | None = None
    descriptions: Mapping[str, str] = field(default_factory=dict)
    image: ImageSection | None = None

    def sha256(self) -> str:
        """Of every sample of all three splits, in order; of a dataset of a user's own, of at most 256 samples each."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            for name, values in _columns(split):
                digest.update(name.encode())
                for value in values if not isinstance(values, Tensor) else [values]:
                    digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
                    digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def load_splits(resolved: ResolvedRecipe, learnt: Learnt | None = None) -> Splits:
    """Loads the data of a recipe and splits it; the same recipe gives the same split everywhere.

    Args:
        resolved: the recipe.
        learnt: what a checkpoint holds of it: nothing is learnt anew; classes and categories keep their numbers.

    Raises:
        NotFoundError: a file is not there.
        DataError: it cannot be read, or has too few samples; or the recipe's data.kind is "none".

    Example:
        >>> from py_authoring.recipe import load_recipe
        >>> splits = load_splits(load_recipe("models/mnist"))
        >>> len(splits.train), len(splits.validation), len(splits.test)
        (1259, 179, 359)
    """
    from py_authoring import data_sources

    section = resolved.recipe.data
    if section.kind == "none":
        raise DataError(
            f'model `{resolved.name}` has no data: data.kind is "none"',
            hint=f"`py-authoring export {resolved.name}` exports it with its initial weights",
        )
    splits = data_sources.load(resolved, learnt)
    if len(splits.train) == 0:
        raise DataError(f"the data of model `{resolved.name}` leaves no sample to train on")
    return splits


def collate(dataset: Samples) -> Callable[[Sequence[Sample]], Sample]:
    """How samples of a dataset become a batch: by its own `collate`, if it has one.

    Else inputs are stacked, or padded at the end where its `pad_values` says so; targets are stacked, and those that
    are dicts, whose tensors differ in size, become a list.
    """
    pad_values: Mapping[str, float] = getattr(dataset, "pad_values", {})

    def join(samples: Sequence[Sample]) -> Sample:
        inputs = {}
        for name in samples[0][0]:
            values = [sample[0][name] for sample in samples]
            if name in pad_values:
                inputs[name] = pad_sequence(values, batch_first=True, padding_value=pad_values[name])
            else:
                inputs[name] = torch.stack(values)
        targets = [sample[1] for sample in samples]
        if isinstance(targets[0], Mapping):
            return inputs, targets
        return inputs, torch.stack([torch.as_tensor(target) for target in targets])

    make: Callable[[Sequence[Sample]], Sample] = getattr(dataset, "collate", join)

    def join_any(samples: Sequence[Sample] | Sample) -> Sample:
        if isinstance(samples, tuple):  # a batch that was gathered
            return samples
        if samples:
            return make(samples)
        # a process's part of a batch that has fewer samples than there are processes
        like, target = make([read_sample(dataset, 0)])
        return {name: value[:0] for name, value in like.items()}, target[:0]

    return join_any


def count_samples(batch: Sample) -> int:
    """How many samples a batch has: the first axis of its inputs, as a target may be anything.

    Example:
        >>> count_samples(({"image": torch.zeros(3, 1, 8, 8)}, [{"boxes": torch.zeros(0, 4)}] * 3))
        3
    """
    return len(next(iter(batch[0].values())))


def batches(dataset: Samples, batch_size: int, part: int = 0, parts: int = 1) -> DataLoader[Sample]:
    """All samples in order, for evaluating; takes nothing from torch's global generator.

    Args:
        dataset: the samples.
        batch_size: samples in a batch; the last may be smaller.
        part: which of `parts` shares of the batches; of fewer batches than parts each share has all.
        parts: how many shares there are.
    """
    starts = range(0, len(dataset), batch_size)
    chosen = starts[part::parts] if len(starts) >= parts else starts
    return DataLoader(
        _Reading(dataset),
        batch_sampler=[list(range(start, min(start + batch_size, len(dataset)))) for start in chosen],
        collate_fn=collate(dataset),
        generator=torch.Generator(),
    )


def read_sample(dataset: Samples, index: int) -> Sample:
    """One sample of any dataset.

    Raises:
        DataError: the dataset raised; with the sample's number and the exception's type and text.
    """
    try:
        return dataset[index]
    except AuthoringError:
        raise
    except Exception as error:  # a dataset of the user's own can raise anything
        reason = (str(error).strip() or "no message").splitlines()[0]
        raise DataError(
            f"sample {index} cannot be read: {type(error).__name__}: {reason}", hint="`--debug` shows where"
        ) from error


class _Reading(Dataset[Sample]):
    """A dataset whose exceptions name the sample."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return read_sample(self.samples, index)

    # torch's DataLoader asks for a whole batch here: sample by sample, an array takes four times as long
    def __getitems__(self, indices: Sequence[int]) -> list[Sample] | Sample:
        gathered = self.samples.gather(indices) if type(self.samples) is ArrayDataset else None  # no heir's own way
        return [self[index] for index in indices] if gathered is None else gathered


class TrainingBatches:
    """The batches of a training, from any iteration on.

    Args:
        dataset: the samples.
        batch_size: samples in a batch; the last of an epoch may be smaller.
        seed: with the epoch's number it gives the order.
        iterations_done: called when an epoch's batches are asked for: how many iterations lie behind.
        workers: processes that read ahead; 0: none.
        part: the samples of a batch that are read; default: all.
    """

    def __init__(
        self,
        dataset: Samples,
        batch_size: int,
        seed: int,
        iterations_done: Callable[[], int],
        workers: int = 0,
        part: Callable[[Sequence[int]], list[int]] = list,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.iterations_done = iterations_done
        self.workers = workers
        self.part = part

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def order(self, epoch: int) -> list[list[int]]:
        """The sample numbers of each batch of an epoch, counted from 0."""
        # One stream a seed and epoch: neighbouring seeds must not share epochs, as seed + epoch would.
        digest = hashlib.sha256(f"{self.seed} {epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        order = torch.randperm(len(self.dataset), generator=generator).tolist()
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def __iter__(self) -> Iterator[Sample]:
        epoch, skip = divmod(self.iterations_done(), len(self))
        chosen = [self.part(batch) for batch in self.order(epoch)[skip:]]
        if self.workers:
            from py_authoring.data_workers import read_ahead

            return read_ahead(self.dataset, chosen, self.seed, epoch, self.workers)
        # A DataLoader draws a seed when it starts; from a generator of its own, or a resumed run would draw once more.
        return iter(
            DataLoader(
                _Reading(self.dataset),
                batch_sampler=chosen,
                collate_fn=collate(self.dataset),
                generator=torch.Generator(),
            )
        )


def _as_float(value: Tensor) -> Tensor:
    return value.to(torch.float32) / 255 if value.dtype == torch.uint8 else value


def _columns(dataset: Samples) -> Iterator[tuple[str, Any]]:
    if isinstance(dataset, ArrayDataset):
        yield from dataset.inputs.items()
        yield "target", dataset.target
        return
    if isinstance(dataset, Fingerprinted):
        yield "files", torch.frombuffer(bytearray(dataset.samples_sha256()), dtype=torch.uint8)
        return
    step = max(1, len(dataset) // 256)  # reading all of a large one would take as long as an epoch
    yield "length", torch.tensor([len(dataset)])
    for index in range(0, len(dataset), step):
        inputs, target = read_sample(dataset, index)
        yield from inputs.items()
        parts = target.items() if isinstance(target, Mapping) else [("target", target)]
        yield from ((name, _fingerprint(value)) for name, value in parts)


# A target of a user's own may hold what is no number, as the name of a picture.
def _fingerprint(value: Any) -> Tensor:
    if isinstance(value, str | bytes) or value is None:
        return torch.frombuffer(bytearray(repr(value).encode()), dtype=torch.uint8)
    return torch.as_tensor(value)
