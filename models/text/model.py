"""Who wrote this sentence? A transformer encoder over words, with its tokenizer in the exported file."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from py_authoring.learnt import Learnt
from py_authoring.preprocessing import Tokenizer


class Layer(nn.Module):
    """Attention and two linear layers, each after a normalisation and added to what came in."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attention, self.together = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.feed = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Float32 `[batch, words, size]` → the same; `real`, bool `[batch, words]`, is False for padding."""
        batch, words, size = x.shape
        parts = self.attention(self.norm1(x)).reshape(batch, words, 3, self.heads, size // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=real[:, None, None, :])
        x = x + self.dropout(self.together(seen.transpose(1, 2).reshape(batch, words, size)))
        return x + self.dropout(self.feed(self.norm2(x)))


class Author(nn.Module):
    """Embedded words and their places, some layers, the mean over the words, a linear layer.

    Args:
        learnt: the words of the training sentences.
        classes: how many authors there are.
        size: numbers for each word.
    """

    places: Tensor

    def __init__(self, learnt: Learnt, classes: int = 3, size: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.tokenizer = Tokenizer(learnt.vocabulary)
        self.embedding = nn.Embedding(self.tokenizer.size, size, padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=0.02)  # torch's 1 would let rare words shout
        angle = torch.arange(256)[:, None] * torch.exp(torch.arange(0, size, 2) * (-math.log(1e4) / size))
        self.register_buffer("places", torch.cat([angle.sin(), angle.cos()], dim=1) * 0.02)
        self.layers = nn.ModuleList([Layer(size, heads) for _ in range(layers)])
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(size, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Classifies sentences.

        Args:
            tokens: ids of words, int64 `[batch, words]` of at most 256, 0 after the end of shorter ones.

        Returns:
            Raw scores, float32 `[batch, classes]`.
        """
        real = tokens != 0
        real = real | ~real.any(dim=1, keepdim=True)  # attention to nothing at all would be NaN
        x = self.dropout(self.embedding(tokens) + self.places[: tokens.size(1)])
        for layer in self.layers:
            x = layer(x, real)
        weight = real.unsqueeze(2).to(x.dtype)
        return self.classifier((x * weight).sum(dim=1) / weight.sum(dim=1))

    @torch.jit.export
    def predict_text(self, text: str) -> Tensor:
        """The scores of a sentence as it is written; a host calls it with `--method predict_text`."""
        return self.forward(self.tokenizer(text)[:, :256])
