"""Recipe → datasets for training, validation and test, and the batches that an Engine iterates over.

Each sample is `(inputs by forward's argument names, target)`. The order of an epoch follows from seed and epoch alone,
so a resumed run takes up the very batch at which it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from py_authoring.errors import DataError
from py_authoring.recipe import ResolvedRecipe

Sample = tuple[dict[str, Tensor], Tensor]


class Samples(Protocol):
    """Any map-style dataset of samples; `pad_values` (forward's argument → filler) is optional."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


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
    """

    train: Samples
    validation: Samples
    test: Samples
    name: str
    labels: list[str] | None = None

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


def load_splits(resolved: ResolvedRecipe) -> Splits:
    """Loads the data of a recipe and splits it; the same recipe gives the same split everywhere.

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
    splits = data_sources.load(resolved)
    if len(splits.train) == 0:
        raise DataError(f"the data of model `{resolved.name}` leaves no sample to train on")
    return splits


def split(
    dataset: ArrayDataset, validation: float, test: float, seed: int
) -> tuple[ArrayDataset, ArrayDataset, ArrayDataset]:
    """Divides samples at random into train, validation and test; shares are of all samples, rounded down."""
    count = len(dataset)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    for_validation, for_test = int(count * validation), int(count * test)
    for_train = count - for_validation - for_test
    return (
        dataset.subset(order[:for_train]),
        dataset.subset(order[for_train : for_train + for_validation]),
        dataset.subset(order[for_train + for_validation :]),
    )


def collate(dataset: Samples) -> Callable[[Sequence[Sample]], Sample]:
    """How samples of a dataset become a batch: stacked, or padded at the end where its `pad_values` says so."""
    pad_values: Mapping[str, float] = getattr(dataset, "pad_values", {})

    def join(samples: Sequence[Sample]) -> Sample:
        inputs = {}
        for name in samples[0][0]:
            values = [sample[0][name] for sample in samples]
            if name in pad_values:
                inputs[name] = pad_sequence(values, batch_first=True, padding_value=pad_values[name])
            else:
                inputs[name] = torch.stack(values)
        return inputs, torch.stack([torch.as_tensor(sample[1]) for sample in samples])

    return join


def batches(dataset: Samples, batch_size: int) -> DataLoader[Sample]:
    """All samples in order, for evaluating; takes nothing from torch's global generator."""
    return DataLoader(
        cast(Dataset[Sample], dataset), batch_size=batch_size, collate_fn=collate(dataset), generator=torch.Generator()
    )


class TrainingBatches:
    """The batches of a training, from any iteration on.

    Args:
        dataset: the samples.
        batch_size: samples in a batch; the last of an epoch may be smaller.
        seed: with the epoch's number it gives the order.
        iterations_done: called when an epoch's batches are asked for: how many iterations lie behind.
    """

    def __init__(self, dataset: Samples, batch_size: int, seed: int, iterations_done: Callable[[], int]) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.iterations_done = iterations_done

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
        # A DataLoader draws a seed when it starts; from a generator of its own, or a resumed run would draw once more.
        return iter(
            DataLoader(
                cast(Dataset[Sample], self.dataset),
                batch_sampler=self.order(epoch)[skip:],
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
    step = max(1, len(dataset) // 256)  # reading all of a large one would take as long as an epoch
    yield "length", torch.tensor([len(dataset)])
    for index in range(0, len(dataset), step):
        inputs, target = dataset[index]
        yield from inputs.items()
        yield "target", torch.as_tensor(target)
