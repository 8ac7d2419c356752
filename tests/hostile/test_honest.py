"""What the gate must let through: models as people have them, scripted, traced and frozen, with PyTorch's numbers."""

import io
import subprocess
import warnings

import binary
import honest_models as honest
import numpy as np
import pytest
import torch


def check(scripted, x, tmp_path):
    with torch.no_grad():
        expected = scripted(x)
    buffer = io.BytesIO()
    torch.jit.save(scripted, buffer)
    (tmp_path / "m.pt").write_bytes(buffer.getvalue())
    np.save(tmp_path / "x.npy", x.numpy())
    command = [binary.BINARY, "run", "m.pt", "--input", "x.npy", "--output", "out", "--format", "npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    info = subprocess.run([binary.BINARY, "info", "m.pt"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert info.returncode == 0, info.stderr
    while not isinstance(expected, torch.Tensor):
        expected = expected[0]
    got = dict(np.load(next((tmp_path / "out").glob("*.npz"))))
    first = next(iter(got.values()))
    np.testing.assert_allclose(first, expected.numpy(), rtol=1e-4, atol=1e-5)


def script(model):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(model.eval())


@pytest.mark.parametrize("i", range(len(honest.LAYERS)), ids=lambda i: type(honest.LAYERS[i][0]).__name__)
def test_layers_of_torch_nn(i, tmp_path):
    model, x = honest.LAYERS[i]
    if isinstance(model, torch.nn.FractionalMaxPool2d):
        pytest.skip("it is random: only that it is let through could be tested, and the functions below have it")
    check(script(model), x, tmp_path)


@pytest.mark.parametrize("name", ["Functions", "Python", "Fork", "Autocast", "Types", "Names", "Hooked"])
def test_modules_in_torchscript(name, tmp_path):
    check(script(getattr(honest, name)()), honest.X, tmp_path)


@pytest.mark.parametrize("name", ["Recurrent", "Decoder"])
def test_sequences(name, tmp_path):
    check(script(getattr(honest, name)()), honest.T, tmp_path)


def test_a_trace_and_a_frozen_model(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, one in (("trace", torch.jit.trace(model, honest.X)), ("frozen", torch.jit.freeze(script(model)))):
            (tmp_path / name).mkdir()
            check(one, honest.X, tmp_path / name)


@pytest.mark.parametrize("name", ["static", "dynamic", "dynamic lstm", "half"])
def test_quantised_models(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, x = next((m, x) for n, m, x in honest.quantised() if n == name)
        check(script(model), x, tmp_path)
