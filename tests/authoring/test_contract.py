"""contract.json: what is read, what is refused, and that the Rust reader and the schema see the same."""

import json
from pathlib import Path

import pytest

from py_authoring.contract import Contract, json_schema, read_contract, returned_names, schema_text
from py_authoring.errors import InvalidContractError

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "contract"


def samples(kind: str) -> list[object]:
    return [pytest.param(file, id=file.stem) for file in sorted((SAMPLES / kind).glob("*.json"))]


@pytest.mark.parametrize("file", samples("good"))
def test_a_good_contract_is_read_and_written_back_unchanged(file: Path) -> None:
    contract = read_contract(file.read_bytes())
    assert read_contract(contract.to_json().encode()) == contract


@pytest.mark.parametrize("file", samples("bad"))
def test_a_bad_contract_is_refused_with_the_word_that_matters(file: Path) -> None:
    words = file.with_suffix(".words").read_text(encoding="utf-8").split("\n")
    with pytest.raises(InvalidContractError) as caught:
        read_contract(file.read_bytes())
    assert any(word and word in str(caught.value) for word in words), str(caught.value)


def test_there_are_samples_of_both_kinds() -> None:
    assert len(samples("good")) >= 6
    assert len(samples("bad")) >= 20
    for file in (SAMPLES / "bad").iterdir():
        assert file.with_suffix(".words").is_file()
        assert file.with_suffix(".json").is_file()


def test_all_mistakes_are_reported_at_once() -> None:
    document = json.loads((SAMPLES / "good" / "mnist.json").read_bytes())
    document["inputs"][0]["datatype"] = "FLOAT"
    document["golden"]["count"] = "four"
    del document["producer"]
    with pytest.raises(InvalidContractError) as caught:
        read_contract(json.dumps(document).encode())
    assert [line.split("`")[1] for line in caught.value.problems] == ["inputs[0].datatype", "golden.count", "producer"]


def test_a_long_list_of_mistakes_is_cut() -> None:
    document = json.loads((SAMPLES / "good" / "mnist.json").read_bytes())
    document["outputs"][0]["labels"] = list(range(1000))
    with pytest.raises(InvalidContractError, match="and 980 more"):
        read_contract(json.dumps(document).encode())


@pytest.mark.parametrize("data", [b"\xff\xfe", b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"a":' * 100_000, b"null", b"\x00"])
def test_bytes_that_are_no_contract_are_refused_not_crashed_on(data: bytes) -> None:
    with pytest.raises(InvalidContractError, match=r"^the contract"):
        read_contract(data)


def test_the_order_of_a_dict_that_forward_returns_is_kept() -> None:
    contract = read_contract((SAMPLES / "good" / "dict_in_its_own_order.json").read_bytes())
    names = [output.name for output in contract.outputs]
    assert list(returned_names(contract.returns)) == names == ["z", "scalar", "b", "a"]
    assert list(json.loads(contract.to_json())["returns"]) == ["z key", "pair", "a key"]


def test_absent_fields_are_left_out_of_the_text() -> None:
    contract = read_contract((SAMPLES / "good" / "minimal.json").read_bytes())
    assert "null" not in contract.to_json()
    assert "image" not in json.loads(contract.to_json())


def test_the_example_in_the_documentation_is_a_contract() -> None:
    page = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    example = page.split("```json\n")[1].split("```")[0]
    assert read_contract(example.encode()).name == "mnist"


def test_every_field_stands_in_the_documentation() -> None:
    page = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    for name in Contract.model_fields:
        assert f"`{name}`" in page or f"**`{name}`**" in page, name


def test_the_schema_that_is_checked_in_is_fresh() -> None:
    stored = (ROOT / "docs" / "contract.schema.json").read_text(encoding="utf-8")
    assert stored == schema_text(), "run `python -m py_authoring.contract > docs/contract.schema.json`"


def test_the_schema_names_every_field() -> None:
    assert set(json_schema()["properties"]) == set(Contract.model_fields)
