"""Methods other than `forward`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import rust_host

sys.path.insert(0, str(Path(__file__).parent))
import stateful_models as models

BINARY = Path(__file__).parents[2] / "target/release/rust-host"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return torch.softmax(self.linear(x), -1)

    @torch.jit.export
    def features(self, x, scale: float = 2.0):
        return {"features": self.linear(x) * scale, "count": torch.tensor(x.size(0))}


@pytest.fixture
def path(load, tmp_path):
    load(Net())
    return tmp_path / "Net.pt"


X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


def test_a_method_is_called_by_its_name(path):
    model = rust_host.Model(path, "cpu", method="features")
    assert model.method.startswith("features(x: Tensor, scale: float = 2")
    expected = torch.jit.load(str(path)).linear(torch.from_numpy(X)).detach().numpy()
    assert np.array_equal(model(X)["features"], expected * 2)
    assert np.array_equal(model.run({"x": X, "scale": 3.0})["features"], expected * 3)
    assert [i["name"] for i in model.inputs] == ["x", "scale"]
    assert np.array_equal(model.session()(X, scale=1.0)["features"], expected)


def test_forward_may_be_named_too(path):
    assert np.array_equal(rust_host.Model(path, method="forward")(X), rust_host.Model(path)(X))


def test_an_unknown_method_is_told_with_the_nearest_and_all(path):
    with pytest.raises(rust_host.InvalidInputError) as caught:
        rust_host.Model(path, method="feature")
    text = f"`{path}` has no method `feature`, did you mean `features`? It has `forward`, `features`"
    assert caught.value.args[0] == text
    with pytest.raises(rust_host.InvalidInputError, match="no method `zzz`, it has `forward`, `features`"):
        rust_host.Model(path, method="zzz")
    with pytest.raises(TypeError):
        rust_host.Model(path, method=3)


def test_the_contract_is_of_forward_alone(tmp_path):
    contract = {
        "format_version": 1,
        "name": "net",
        "platform": "pytorch_torchscript",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "dims": [2, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 3], "dims": [2, 3], "rtol": 0, "atol": 0}],
        "returns": "y",
        "golden": {"file": "golden.safetensors", "count": 0},
        "producer": {"name": "a test", "version": "1"},
    }
    path = tmp_path / "m.pt"
    files = {"contract.json": json.dumps(contract).encode()}
    torch.jit.save(torch.jit.script(Net().eval()), str(path), _extra_files=files)
    with pytest.raises(rust_host.InvalidInputError, match="has shape"):
        rust_host.Model(path)(X[:1])
    other = rust_host.Model(path, method="features")
    assert other.contract is None
    assert other(X[:1])["features"].shape == (1, 3)
    with pytest.raises(rust_host.InvalidInputError, match="golden examples are of `forward`"):
        other.verify()


def test_a_method_of_a_stateful_model_has_the_models_numbers(load, tmp_path):
    _, script = load(models.Speech())
    model = rust_host.Model(tmp_path / "Speech.pt", method="all_of")
    sound = np.random.default_rng(1).standard_normal((2, 20 * 16)).astype(np.float32)
    with torch.inference_mode():
        expected = script.all_of(torch.from_numpy(sound), 16000).numpy()
    assert model.stateful
    assert np.array_equal(model(sound, 16000), expected)
    assert np.array_equal(model.session()(sound, rate=16000), expected)
    assert rust_host.Model(tmp_path / "Speech.pt", method="reset_states")() is None


def native(*words):
    done = subprocess.run([BINARY, "run", *words, "--json", "--device", "cpu"], capture_output=True, check=False)
    return json.loads(done.stdout)


def test_the_binary_calls_methods_too_and_begins_where_the_file_does(load, tmp_path):
    _, script = load(models.Speech())
    sound = np.random.default_rng(2).standard_normal((1, 320)).astype(np.float32)
    np.save(tmp_path / "x.npy", sound[:, :16])
    np.save(tmp_path / "all.npy", sound)
    with torch.inference_mode():
        first = script(torch.from_numpy(sound[:, :16]), 16000).numpy()
        whole = script.all_of(torch.from_numpy(sound), 16000).numpy()
    path = tmp_path / "Speech.pt"
    for _ in range(2):
        outputs = native(path, "-i", f"x={tmp_path / 'x.npy'}", "-i", "rate=16000")["outputs"]
        assert np.array_equal(np.array(outputs[0]["data"], np.float32), first)
    words = ["-i", f"x={tmp_path / 'all.npy'}", "-i", "rate=16000"]
    outputs = native(path, "--method", "all_of", *words)["outputs"]
    assert np.array_equal(np.array(outputs[0]["data"], np.float32), whole)


def test_a_file_without_forward_has_its_methods(load, tmp_path):
    path = tmp_path / "NoForward.pt"
    load(models.NoForward())
    foo, bar = rust_host.Model(path, method="generate")({"foo": X, "bar": -X})
    assert np.array_equal(foo, X)
    assert np.array_equal(bar, -X)
    with pytest.raises(rust_host.FailedError, match="Answer, which cannot leave the model"):
        rust_host.Model(path, method="make")(X)
    with pytest.raises(rust_host.InvalidInputError, match=r"`answer`.*Answer"):
        rust_host.Model(path, method="open")(X)
    np.savez(tmp_path / "batch.npz", foo=X, bar=-X)
    outputs = native(path, "--method", "generate", "-i", f"batch={tmp_path / 'batch.npz'}")["outputs"]
    assert np.array_equal(np.array(outputs[1]["data"], np.float32), -X)
