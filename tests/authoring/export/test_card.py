"""The model card: front matter that a hub reads, sections that a person reads; and the commit it names."""

import json
import subprocess
from pathlib import Path

import pytest

from py_authoring.card import write_card
from py_authoring.contract import read_contract
from py_authoring.export.provenance import git_commit

GOOD = Path(__file__).resolve().parents[2] / "contract" / "good"


@pytest.mark.parametrize("file", sorted(GOOD.glob("*.json")), ids=lambda file: file.stem)
def test_every_good_contract_gives_a_card_with_front_matter(file: Path) -> None:
    contract = read_contract(file.read_bytes())
    card = write_card(contract, notes=["a | b"])
    start, matter, body = card.split("---\n", 2)
    assert start == ""
    values = {line.partition(": ")[0]: json.loads(line.partition(": ")[2]) for line in matter.splitlines()}
    assert values["library_name"] == "pytorch"
    assert "torchscript" in values["tags"]
    assert body.startswith(f"# {contract.name}\n")
    for part in [*contract.inputs, *contract.outputs]:
        assert f"`{part.name}`" in body
    assert "None" not in body


def test_empty_sections_are_left_out() -> None:
    card = write_card(read_contract((GOOD / "minimal.json").read_bytes()))
    sections = [line for line in card.splitlines() if line.startswith("## ")]
    assert sections == ["## Model details", "## How to run"]


def test_the_results_are_in_the_hub_s_form() -> None:
    card = write_card(read_contract((GOOD / "mnist.json").read_bytes()))
    index = json.loads(next(line for line in card.splitlines() if line.startswith("model-index: ")).partition(": ")[2])
    result = index[0]["results"][0]
    assert result["dataset"] == {"name": "digits", "type": "digits", "split": "test"}
    assert result["metrics"] == [{"type": "accuracy", "value": 0.983}]


def test_the_commit_is_named_and_changes_are_admitted(own_folder: Path) -> None:
    assert git_commit(own_folder / "nowhere") is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    model = own_folder / "models" / "m"
    model.mkdir(parents=True)
    (model / "model.py").write_text("1")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], cwd=own_folder, check=True)
    head = git_commit(model)
    assert head is not None
    assert len(head) == 40
    (own_folder / "elsewhere.txt").write_text("not the model's business")
    assert git_commit(model) == head
    (model / "model.py").write_text("2")
    assert git_commit(model) == f"{head}-dirty"
