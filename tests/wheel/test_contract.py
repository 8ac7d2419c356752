"""With a contract the wheel knows names, checks what it is given, and replays the golden examples."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

import rust_host


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, image, mask, power: int = 1):
        return {"scores": self.linear(image) ** power * mask, "count": mask.sum(1)}


def contract() -> dict:
    def tensor(name, datatype, dims, **more):
        shape = [d if isinstance(d, int) else -1 for d in dims]
        return {"name": name, "datatype": datatype, "shape": shape, "dims": dims, **more}

    return {
        "format_version": 1,
        "name": "masked",
        "platform": "pytorch_torchscript",
        "inputs": [tensor("image", "FP32", ["batch", 4]), tensor("mask", "BOOL", ["batch", 3])],
        "outputs": [
            tensor("scores", "FP32", ["batch", 3], labels=["a", "b", "c"], rtol=1e-5, atol=1e-6),
            tensor("count", "INT64", ["batch"], rtol=0, atol=0),
        ],
        "returns": {"scores": "scores", "count": "count"},
        "dims": {"batch": {"min": 1, "max": 100}},
        "golden": {"file": "golden.safetensors", "count": 2},
        "producer": {"name": "a test", "version": "1"},
        "provenance": {"seed": 3},
        "a key of the future": 1,
    }


@pytest.fixture
def write(tmp_path):
    def write(change=lambda contract, golden: None):
        torch.manual_seed(0)
        net = Net().eval()
        golden = {}
        for i in range(2):
            image, mask = torch.randn(i + 1, 4), torch.rand(i + 1, 3) > 0.5
            golden[f"{i}.input.image"], golden[f"{i}.input.mask"] = image, mask
            for name, output in net(image, mask).items():
                golden[f"{i}.output.{name}"] = output.detach().contiguous()
        text = contract()
        change(text, golden)
        path = tmp_path / "model.pt"
        files = {"contract.json": json.dumps(text).encode(), "golden.safetensors": save(golden)}
        with path.open("wb") as file:
            torch.jit.save(torch.jit.script(net), file, _extra_files=files)
        return path

    return write


IMAGE = np.ones((2, 4), np.float32)
MASK = np.ones((2, 3), bool)


def test_the_contract_is_shown_as_the_file_has_it(write):
    model = rust_host.Model(write())
    assert model.contract == contract()
    assert model.inputs == contract()["inputs"]
    assert model.outputs == contract()["outputs"]
    assert "masked" in repr(model)
    assert model.method.startswith("forward(image: Tensor, mask: Tensor, power: int = 1)")
    model.contract["name"] = "changed"
    assert model.contract["name"] == "masked"


def test_a_file_without_contract_says_what_its_code_says(load):
    model, _ = load(Net())
    assert model.contract is None
    assert model.inputs[2] == {
        "name": "power", "datatype": None, "shape": None, "dims": None, "type": "int", "default": "1",
    }  # fmt: skip
    assert [o["name"] for o in model.outputs] == [None]  # the keys of a dict are known after a call
    with pytest.raises(rust_host.InvalidContractError, match="nothing to verify"):
        model.verify()


def test_the_tuple_that_a_signature_promises_is_named_before_a_call(load):
    class Pair(nn.Module):
        def forward(self, x):
            return x, (x, 3)

    model, _ = load(Pair())
    assert [o["name"] for o in model.outputs] == ["output_0", "output_1.0", "output_1.1"]
    assert list(model.run({"x": IMAGE})) == ["output_0", "output_1.0", "output_1.1"]


def test_golden_examples_are_replayed_and_the_verdict_reads_like_a_dict(write):
    verdict = rust_host.Model(write()).verify()
    assert verdict
    assert verdict.ok
    assert verdict["examples"] == verdict.examples == 2
    assert list(dict(verdict)) == ["ok", "examples", "outputs"]
    assert [o["output"] for o in verdict.outputs] == ["scores", "count"]
    assert all(o["ok"] and o["max_abs"] < 1e-6 for o in verdict.outputs)
    json.dumps(dict(verdict))
    assert "ok=True" in repr(verdict)
    with pytest.raises(KeyError):
        verdict["none"]


def test_a_model_that_computes_something_else_fails_the_replay(write):
    def spoil(_, golden):
        golden["1.output.scores"] = golden["1.output.scores"] + 1e-3

    verdict = rust_host.Model(write(spoil)).verify()
    assert not verdict
    assert [o["ok"] for o in verdict.outputs] == [False, True]
    assert verdict.outputs[0]["max_abs"] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (
            {"image": IMAGE.astype(np.float64), "mask": MASK},
            r"input `image` is FP64 \(float64\).*expects FP32 \(float32\)",
        ),
        ({"image": IMAGE[0], "mask": MASK}, r"input `image` has shape \[4\].*expects \[batch, 4\]"),
        ({"image": IMAGE[:, :3], "mask": MASK}, r"input `image` has shape \[2, 3\].*expects \[batch, 4\]"),
        ({"image": IMAGE, "mask": MASK[:1]}, "`batch` is 1 in input `mask` and 2 in input `image`"),
        ({"image": IMAGE[:0], "mask": MASK[:0]}, "`batch` is 0.*expects 1 to 100"),
        ({"image": IMAGE}, "missing input `mask`"),
        ({"image": IMAGE, "mask": MASK, "masc": MASK}, "unknown input `masc`"),
        ({"image": "x", "mask": MASK}, "input `image` is str, expected Tensor"),
        ({"image": [[1, 2, 3]], "mask": [[1, 1, 0]]}, r"input `image` has shape \[1, 3\]"),
        ({"image": [[1, 2, 3, 4]], "mask": [[1, 2, 0]]}, "input `mask` has values that are no bool"),
    ],
)
def test_an_input_that_does_not_fit_the_contract_is_refused_in_one_sentence(write, inputs, words):
    model = rust_host.Model(write())
    with pytest.raises(rust_host.InvalidInputError, match=words) as info:
        model.run(inputs)
    assert "\n" not in str(info.value)


def test_lists_become_what_the_contract_says(write):
    model = rust_host.Model(write())
    result = model([[1, 2, 3, 4]], [[1, 0, 1]])
    assert result["count"].tolist() == [2]
    assert result["scores"].dtype == np.float32


def test_nan_is_a_number_like_any_other(write):
    image = IMAGE.copy()
    image[0, 0] = np.nan
    scores = rust_host.Model(write())(image, MASK)["scores"]
    assert np.isnan(scores[0]).all()
    assert not np.isnan(scores[1]).any()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda c, g: c.update(format_version=2), rust_host.InvalidContractError),
        (lambda c, g: c.update(inputs=c["inputs"][::-1]), rust_host.InvalidContractError),
        (lambda c, g: c["outputs"][1].update(name="scores"), rust_host.InvalidContractError),
    ],
)
def test_a_contract_that_is_wrong_is_an_error_at_loading(write, change, kind):
    with pytest.raises(kind, match=r"contract\.json"):
        rust_host.Model(write(change))


def test_a_result_that_is_not_what_the_contract_says_is_a_mismatch(write):
    def lie(text, golden):
        text["outputs"][1]["datatype"] = "INT32"

    with pytest.raises(rust_host.MismatchError, match="output `count`"):
        rust_host.Model(write(lie)).run({"image": IMAGE, "mask": MASK})
