"""An LSTM that reads sequences of any length, and a task that counting cannot solve."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

OPENING, CLOSING = (1, 2), (3, 4)  # 0 pads


class BracketNet(nn.Module):
    """Embedding, LSTM, linear layer; finds the length of each sequence itself, from the padding.

    Args:
        vocabulary: number of token ids, padding included.
        hidden: size of the LSTM's state.
        classes: number of classes.
    """

    def __init__(self, vocabulary: int = 5, embedding: int = 16, hidden: int = 48, classes: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding, padding_idx=0)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Classifies sequences.

        Args:
            tokens: int64 `[batch, time]`, 0 after the end of shorter sequences.

        Returns:
            Raw scores, float32 `[batch, classes]`.
        """
        states, _ = self.lstm(self.embedding(tokens))
        lengths = (tokens != 0).sum(dim=1).clamp(min=1)
        # the state after the last real token: what follows in a longer neighbour's padding cannot reach it
        index = (lengths - 1).view(-1, 1, 1).expand(-1, 1, states.size(2))
        return self.classifier(states.gather(1, index).squeeze(1))


def load_data(samples: int = 3000, longest: int = 20, seed: int = 0) -> tuple[dict[str, list[Tensor]], Tensor]:
    """Sequences of two kinds of brackets: are they balanced (1) or not (0)?

    One that is not has been balanced until two of its brackets changed places, so that it has as many of each kind as
    before: counting does not help, only their order tells.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int) -> int:
        return int(torch.randint(high, (1,), generator=generator))

    sequences, targets = [], []
    for number in range(samples):
        sequence = balanced_sequence(1 + draw(longest // 2), draw)
        wanted = number % 2 == 0
        while is_balanced(sequence) != wanted:
            one, other = draw(len(sequence)), draw(len(sequence))
            sequence[one], sequence[other] = sequence[other], sequence[one]
        sequences.append(torch.tensor(sequence))
        targets.append(int(wanted))
    return {"tokens": sequences}, torch.tensor(targets)


def balanced_sequence(pairs: int, draw: Callable[[int], int]) -> list[int]:
    """A random balanced sequence of that many pairs; `draw(n)` gives a number below n."""
    sequence: list[int] = []
    waiting: list[int] = []
    opened = 0
    while opened < pairs or waiting:
        if opened < pairs and (not waiting or draw(2) == 0):
            kind = draw(2)
            sequence.append(OPENING[kind])
            waiting.append(kind)
            opened += 1
        else:
            sequence.append(CLOSING[waiting.pop()])
    return sequence


def is_balanced(sequence: list[int]) -> bool:
    """Whether every bracket is closed by one of its kind, in the right order."""
    waiting: list[int] = []
    for token in sequence:
        if token in OPENING:
            waiting.append(OPENING.index(token))
        elif not waiting or waiting.pop() != CLOSING.index(token):
            return False
    return not waiting
