"""Texts become ids of words, in Python and inside the exported file alike."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from py_authoring.data import ArrayDataset, load_splits
from py_authoring.errors import DataError
from py_authoring.export import export
from py_authoring.preprocessing import Tokenizer
from py_authoring.recipe import load_recipe
from py_authoring.training import train

MakeModel = Callable[..., Path]
RECIPE = """
[model]
class = "Talk"
[data]
kind = "text"
path = "t.csv"
target = "kind"
[training]
epochs = 1
device = "cpu"
[export]
dynamic = { tokens = { "0" = "batch", "1" = "time" } }
"""
MODEL = """
import torch
from torch import Tensor, nn
from py_authoring.learnt import Learnt
from py_authoring.preprocessing import Tokenizer

class Talk(nn.Module):
    def __init__(self, learnt: Learnt) -> None:
        super().__init__()
        self.tokenizer = Tokenizer(learnt.vocabulary)
        self.embedding = nn.Embedding(self.tokenizer.size, 4, padding_idx=0)
        self.out = nn.Linear(4, len(learnt.labels or []))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.embedding(tokens).sum(dim=1))

    @torch.jit.export
    def predict_text(self, text: str) -> Tensor:
        return self.forward(self.tokenizer(text))
"""
TEXTS = ["Good film!", "", " \t\n", "a-b_c, «Über» ÜBER", "日本 x1 2y", "it's\u00a0so", "e\u0301 ?!", "naïve…"]


@pytest.mark.parametrize("text", TEXTS)
def test_compiled_tokenizer_reads_bytes_as_python_reads_letters(text: str) -> None:
    tokenizer = Tokenizer(["good", "film", "!", "«Über»", "日本", "so"])
    compiled = torch.jit.script(tokenizer)
    assert compiled.split(text) == tokenizer.split(text)
    assert torch.equal(compiled(text), tokenizer(text)) and compiled.encode(text) == tokenizer.encode(text)


def write(folder: Path) -> None:
    lines = [f'"A {["good", "bad"][i % 2]} film, nr {i}!",{["yes", "no"][i % 2]}' for i in range(40)]
    (folder / "t.csv").write_text("text,kind\n" + "\n".join(lines) + "\n", encoding="utf-8")


def test_vocabulary_is_that_of_the_training_texts_most_frequent_first(make_model: MakeModel) -> None:
    folder = make_model("x", RECIPE, MODEL)
    write(folder)
    splits = load_splits(load_recipe(folder))
    assert splits.learnt is not None and isinstance(splits.train, ArrayDataset)
    assert splits.learnt.vocabulary[:5] == ["!", ",", "a", "film", "nr"] and splits.labels == ["no", "yes"]
    words = set(splits.learnt.vocabulary) - {"!", ",", "a", "film", "nr", "good", "bad"}
    assert len(words) == 28  # the numbers of the 28 training rows, and of no other
    ids = [splits.train[place][0]["tokens"] for place in range(28)]
    assert all(len(each) == 7 and int(each.min()) >= 2 for each in ids)
    assert all(1 in splits.test[place][0]["tokens"].tolist() for place in range(len(splits.test)))
    cut = load_splits(load_recipe(folder, overrides=["data.vocabulary=2", "data.max_length=3"]))
    assert cut.train[0][0]["tokens"].shape == (3,) and cut.learnt and cut.learnt.vocabulary == ["!", ","]


def test_exported_file_takes_text_in_a_method_of_its_own(make_model: MakeModel) -> None:
    folder = make_model("x", RECIPE, MODEL)
    write(folder)
    train(folder, say=lambda text: None)
    version = export(folder)
    module = torch.jit.load(str(version.path))
    learnt = load_splits(load_recipe(folder)).learnt
    assert learnt is not None
    tokens = torch.tensor([Tokenizer(learnt.vocabulary).encode("A bad, UNSEEN film")])
    assert 1 in tokens and torch.equal(module.predict_text("A bad, UNSEEN film"), module(tokens))
    assert (
        version.contract.inputs[0].description == f"ids of words from 2 to {len(learnt.vocabulary) + 1}, 1 is any "
        "other word, 0 pads"
    )


def test_text_that_is_missing_names_its_row(make_model: MakeModel) -> None:
    folder = make_model("x", RECIPE, MODEL)
    (folder / "t.csv").write_text("text,kind\nhello,a\n,b\n")
    with pytest.raises(DataError, match=r"t\.csv:3: column `text` is empty, expected a value"):
        load_splits(load_recipe(folder))
    (folder / "t.csv").write_text("txt,kind\nhello,a\n")
    with pytest.raises(DataError, match=r"has no column `text`; did you mean txt\?"):
        load_splits(load_recipe(folder))
