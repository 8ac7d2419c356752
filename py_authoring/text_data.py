"""A CSV file with a column of text → samples of word ids.

In: the recipe's data section. Out: `Splits`; the vocabulary is that of the training texts.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from py_authoring.data import ArrayDataset, Splits
from py_authoring.learnt import Learnt
from py_authoring.preprocessing import Tokenizer
from py_authoring.recipe_sections import TextData
from py_authoring.table_data import read_csv, read_target, split_rows


def load_text(section: TextData, learnt: Learnt | None) -> Splits:
    """Reads, splits and tokenizes.

    Args:
        section: the recipe's.
        learnt: what an earlier training learnt: words and classes keep their ids.

    Raises:
        NotFoundError, DataError: no file, no such column, or an empty text; names the row.
    """
    path = Path(section.path)
    table = read_csv(path, section.delimiter)
    table.need([section.text, section.target])
    texts = table.texts(section.text)
    parts = split_rows(table, section)
    target, facts = read_target(table, section, parts, learnt)
    if learnt is None:
        tokenizer = Tokenizer([])
        counts = Counter(word for row in parts[0].tolist() for word in tokenizer.split(texts[row]))
        order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))  # equally frequent ones by their letters
        learnt = Learnt(vocabulary=[word for word, _ in order[: section.vocabulary]], **facts)
    tokenizer = Tokenizer(learnt.vocabulary)
    tokens = [torch.tensor(tokenizer.encode(text)[: section.max_length] or [0]) for text in texts]
    dataset = ArrayDataset({section.input: tokens}, target)
    described = {section.input: f"ids of words from 2 to {tokenizer.size - 1}, 1 is any other word, 0 pads"}
    train, validation, test = (dataset.subset(part) for part in parts)
    return Splits(train, validation, test, path.name, learnt.labels, learnt, descriptions=described)
