"""An LSTM that reads sequences of any length, and a task that it cannot solve by counting."""

import torch
from torch import Tensor, nn

PAD, OPENING, CLOSING = 0, (1, 2), (3, 4)


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

    A sequence that is not balanced differs from a balanced one in a single bracket, half of the time only in its kind,
    so that counting opening and closing ones is not enough.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int) -> int:
        return int(torch.randint(high, (1,), generator=generator))

    sequences, targets = [], []
    for number in range(samples):
        pairs = 1 + draw(longest // 2)
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
        balanced = number % 2
        if not balanced:
            place = draw(len(sequence))
            token = sequence[place]
            if draw(2) == 0:  # the other kind, same direction
                sequence[place] = {1: 2, 2: 1, 3: 4, 4: 3}[token]
            else:  # the other direction
                sequence[place] = {1: 3, 3: 1, 2: 4, 4: 2}[token]
        sequences.append(torch.tensor(sequence))
        targets.append(balanced)
    return {"tokens": sequences}, torch.tensor(targets)
