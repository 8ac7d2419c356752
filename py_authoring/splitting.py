"""Which samples are for training, validation and test, and whether every class can be learnt from them.

In: how many samples there are, the recipe's shares, and a key for each sample. Out: sample numbers, int64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from py_authoring.errors import DataError
from py_authoring.recipe_problems import suggest
from py_authoring.recipe_sections import SplitSection

Parts = tuple[Tensor, Tensor, Tensor]
SPLITS = ("train", "validation", "test")
#: What people write, too.
ALIASES = {"training": "train", "val": "validation", "valid": "validation", "dev": "validation", "testing": "test"}


def split_indices(count: int, section: SplitSection, key_of: Callable[[int], str | bytes]) -> Parts:
    """Divides samples into train, validation and test.

    By seed, the shares hold exactly, rounded down, and one sample more shuffles all anew. By hash, each sample's place
    follows from its key alone: the shares hold on average, and samples that are added or taken away move no other.

    Args:
        count: how many samples there are.
        section: shares and seed.
        key_of: sample number → what stays the same about it: its path, its row, its bytes. Called only for the hash.

    Returns:
        The sample numbers of train, validation and test.
    """
    if section.split_by == "seed":
        order = torch.randperm(count, generator=torch.Generator().manual_seed(section.split_seed))
        validation, test = int(count * section.validation), int(count * section.test)
        train = count - validation - test
        return order[:train], order[train : train + validation], order[train + validation :]
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for index in range(count):
        place = share(key_of(index), section.split_seed)
        parts[1 if place < section.validation else 2 if place < section.validation + section.test else 0].append(index)
    return as_parts(parts)


def share(key: str | bytes, seed: int) -> float:
    """Where a sample lies between 0 and 1, by a hash of its key: the same on every machine.

    Example:
        >>> round(share("cats/1.png", 0), 6) == round(share(b"cats/1.png", 0), 6)
        True
        >>> 0 <= share("cats/1.png", 1) < 1
        True
    """
    # a file's name need not be UTF-8
    data = key if isinstance(key, bytes) else key.encode("utf-8", "surrogateescape")
    digest = hashlib.sha256(f"{seed}\0".encode() + data).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split_by_names(names: Sequence[str], place: Callable[[int], str]) -> Parts:
    """Divides samples by what each says of itself.

    Args:
        names: train, validation or test for each sample.
        place: sample number → where it stands, for messages.

    Raises:
        DataError: another word.
    """
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for index, name in enumerate(names):
        known = ALIASES.get(name.lower(), name.lower())
        if known not in SPLITS:
            raise DataError(
                f"{place(index)} is {name!r}, expected train, validation or test{suggest(known, list(SPLITS))}"
            )
        parts[SPLITS.index(known)].append(index)
    return as_parts(parts)


def fill_parts(parts: Parts, section: SplitSection, key_of: Callable[[int], str | bytes]) -> Parts:
    """Splits that came ready; a validation or test split that is lacking is taken from train, as the shares say."""
    train, validation, test = parts
    lacking = {"validation": not len(validation), "test": not len(test)}
    shares = section.model_copy(update={name: 0.0 for name, lacks in lacking.items() if not lacks})
    kept, first, second = split_indices(len(train), shares, lambda place: key_of(int(train[place])))
    return train[kept], validation if len(validation) else train[first], test if len(test) else train[second]


def as_parts(parts: tuple[Sequence[int], Sequence[int], Sequence[int]]) -> Parts:
    """Sample numbers as tensors."""
    train, validation, test = (torch.tensor(list(part), dtype=torch.int64) for part in parts)
    return train, validation, test


def count_classes_in(target: Tensor, train: Tensor, labels: Sequence[str], what: str) -> list[int]:
    """How many training samples each class has.

    Args:
        target: the class numbers of all samples, int64 `[samples]`.
        train: the numbers of those to train on.
        labels: what the classes are called.
        what: the data, for messages.

    Raises:
        DataError: a class has none, so that it cannot be learnt; names the first such class.
    """
    counts = torch.bincount(target[train], minlength=len(labels)).tolist()
    everywhere = torch.bincount(target, minlength=len(labels)).tolist()
    missing = [number for number, count in enumerate(counts) if not count and everywhere[number]]
    if missing and len(train):
        first, samples = labels[missing[0]], everywhere[missing[0]]
        others = f" (and {len(missing) - 1} more classes)" if len(missing) > 1 else ""
        raise DataError(
            f"{what}: class `{first}`{others} has no sample to train on: "
            f"{'its only one is' if samples == 1 else f'all {samples} are'} for validation or test",
            hint="another data.split_seed, smaller data.validation and data.test, or more samples of it",
        )
    return [int(count) for count in counts]
