"""Layers that do to an input what was learnt from the training samples; TorchScript compiles them into the file.

In: `Learnt`, which a model's `__init__(self, learnt, …)` is given. Out: modules whose numbers are buffers, so that a
checkpoint and an exported file hold them and a host needs to know nothing.
"""

# No `from __future__ import annotations`: TorchScript reads these annotations.
import re
import string
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from py_authoring.learnt import Learnt, Scale

_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")


class Standardize(nn.Module):
    """Subtracts a mean and divides by a deviation, each its own for every column or channel.

    Args:
        scales: one for each entry of the axis.
        trailing: how many axes follow that one: 0 for columns, 2 for the channels of pictures.

    Example:
        >>> layer = Standardize([Scale(2.0, 4.0), Scale(0.0, 1.0)])
        >>> layer(torch.tensor([[10.0, 3.0]]))
        tensor([[2., 3.]])
        >>> layer.undo(torch.tensor([[2.0, 3.0]]))
        tensor([[10.,  3.]])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, scales: Sequence[Scale], trailing: int = 0) -> None:
        super().__init__()
        shape = [len(scales)] + [1] * trailing
        self.register_buffer("mean", torch.tensor([scale.mean for scale in scales]).reshape(shape))
        self.register_buffer("deviation", torch.tensor([scale.deviation for scale in scales]).reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Standardizes.

        Args:
            x: float32 `[batch, columns]`, or `[batch, channels, height, width]` with `trailing` 2.

        Returns:
            The same shape.
        """
        return (x - self.mean) / self.deviation

    @torch.jit.export
    def undo(self, x: Tensor) -> Tensor:
        """The way back: of a network's output, to the units of the target."""
        return x * self.deviation + self.mean


def standardize_columns(learnt: Learnt) -> Standardize:
    """For the columns of numbers of a table, `[batch, columns]` in their order."""
    return Standardize(list(learnt.numbers.values()))


def standardize_channels(learnt: Learnt) -> Standardize:
    """For pictures, `[batch, channels, height, width]` with values in [0, 1]."""
    return Standardize(learnt.channels, trailing=2)


def standardize_target(learnt: Learnt) -> Standardize:
    """For numbers to predict, `[batch, 1]`: `undo` gives a network's output the units of the target.

    Raises:
        ValueError: the target is no number.
    """
    if learnt.target is None:
        raise ValueError("the target is no number: data.task is not regression")
    return Standardize([learnt.target])


class Categories(nn.Module):
    """The values of a column → ids that an `nn.Embedding` of `size` rows takes; 0 is a value that training had not.

    Whole numbers come as they are in the table, so that a host passes them on. Words come as their ids, because a
    tensor holds no words; `encode` gives the id of a word, inside the exported file too.

    Args:
        values: `Learnt.categories[column]`.

    Attributes:
        size: how many ids there are: the values, and 0.

    Example:
        >>> Categories(["1", "2", "7"])(torch.tensor([7, 1, 3]))
        tensor([3, 1, 0])
        >>> colours = Categories(["blue", "red"])
        >>> colours.encode("red"), colours(torch.tensor([2, 9]))
        (2, tensor([2, 0]))
    """

    keys: Tensor
    places: Tensor
    ids: dict[str, int]

    def __init__(self, values: Sequence[str]) -> None:
        super().__init__()
        self.size = len(values) + 1
        keys = [int(value) for value in values] if are_whole(values) else list(range(1, self.size))
        self.register_buffer("keys", torch.tensor(keys, dtype=torch.int64))
        # a buffer, and no `arange` in forward: a trace would write that one's device into the file
        self.register_buffer("places", torch.arange(1, self.size))
        self.ids = {value: place for place, value in enumerate(values, 1)}

    def forward(self, x: Tensor) -> Tensor:
        """Looks up.

        Args:
            x: int64 of any shape: whole numbers as the table has them, or ids of words.

        Returns:
            int64 of the same shape, each below `size`.
        """
        found = x.unsqueeze(-1) == self.keys
        return (found * self.places).sum(dim=-1)

    @torch.jit.export
    def encode(self, value: str) -> int:
        """The id of a value written as in the table; 0 if training had none such."""
        return self.ids.get(value, 0)


def are_whole(values: Sequence[str]) -> bool:
    """Whether all values are whole numbers in their shortest form, which a host can pass on as they are.

    Example:
        >>> are_whole(["1", "-20"]), are_whole(["01"]), are_whole(["-0"]), are_whole(["a"])
        (True, False, False, False)
    """
    return all(_WHOLE.fullmatch(value) for value in values)


class Tokenizer(nn.Module):
    """Text → ids of words: what stands between blanks and ASCII's punctuation, of which each mark is a word by itself.

    0 pads, 1 is a word that training had not. A to Z become small; other letters stay as they are, because to
    TorchScript, which compiles this into the file, text is bytes. A model that calls it from an exported method takes
    text from a host.

    Args:
        vocabulary: `Learnt.vocabulary`.

    Attributes:
        size: how many ids there are.

    Example:
        >>> Tokenizer(["good", "!"]).encode("Good film!")
        [2, 1, 3]
    """

    ids: dict[str, int]

    def __init__(self, vocabulary: Sequence[str]) -> None:
        super().__init__()
        self.size = len(vocabulary) + 2
        self.marks = string.punctuation
        self.blanks = string.whitespace
        self.capitals = string.ascii_uppercase
        self.ids = {word: place for place, word in enumerate(vocabulary, 2)}

    @torch.jit.export
    def split(self, text: str) -> list[str]:
        """The words of a text, in order."""
        words: list[str] = []
        word = ""
        for letter in text:  # in the exported file a byte, which ASCII's marks never are a part of
            is_mark = self.marks.find(letter) >= 0
            if not is_mark and self.blanks.find(letter) < 0:
                word += letter.lower() if self.capitals.find(letter) >= 0 else letter
                continue
            if len(word) > 0:
                words.append(word)
                word = ""
            if is_mark:
                words.append(letter)
        if len(word) > 0:
            words.append(word)
        return words

    @torch.jit.export
    def encode(self, text: str) -> list[int]:
        """The ids of the words of a text."""
        ids: list[int] = []
        for word in self.split(text):
            ids.append(self.ids.get(word, 1))
        return ids

    def forward(self, text: str) -> Tensor:
        """The ids as a batch of one.

        Returns:
            int64 `[1, words]`; one padding where the text has no word.
        """
        ids = self.encode(text)
        if len(ids) == 0:
            ids.append(0)
        return torch.tensor([ids], dtype=torch.int64)
