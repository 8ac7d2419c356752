"""A small recurrent network for sequences of any length. Put your own network and data here."""

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    """Embedding, GRU, linear layer.

    Args:
        vocabulary: number of token ids; 0 is padding.
        classes: how many there are to tell apart.
    """

    def __init__(self, vocabulary: int = 10, hidden: int = 32, classes: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 8, padding_idx=0)
        self.gru = nn.GRU(8, hidden, batch_first=True)
        self.linear = nn.Linear(hidden, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Classifies sequences: int64 `[batch, time]`, 0 pads → raw scores, float32 `[batch, classes]`."""
        states, _ = self.gru(self.embedding(tokens))
        lengths = (tokens != 0).sum(dim=1).clamp(min=1)
        index = (lengths - 1).view(-1, 1, 1).expand(-1, 1, states.size(2))
        last: Tensor = states.gather(1, index).squeeze(1)  # the state after the last token that is no padding
        scores: Tensor = self.linear(last)
        return scores


def load_data(samples: int = 2000, longest: int = 16) -> tuple[dict[str, list[Tensor]], Tensor]:
    """Sequences of tokens 1 … 9: does a 1 come later than every 2 (class 1), or not (class 0)?"""
    generator = torch.Generator().manual_seed(0)
    sequences, targets = [], []
    for _ in range(samples):
        length = int(torch.randint(2, longest + 1, (1,), generator=generator))
        sequence = torch.randint(1, 10, (length,), generator=generator)
        last = [int((sequence == token).nonzero().max()) if (sequence == token).any() else -1 for token in (1, 2)]
        sequences.append(sequence)
        targets.append(int(last[0] > last[1]))
    return {"tokens": sequences}, torch.tensor(targets)
