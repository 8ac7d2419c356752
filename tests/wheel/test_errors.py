"""Every mistake is one sentence with its kind, derived from `rust_host.Error` and from the builtin that fits."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import rust_host

X = np.ones((2, 4), np.float32)


class Add(nn.Module):
    def forward(self, x, y):
        return x + y


class Raises(nn.Module):
    def forward(self, x):
        if bool(x.sum() > 0):
            raise ValueError("the picture is too bright: " + str(int(x.sum())))
        return x


class Product(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(x)


def caught(call):
    with pytest.raises(rust_host.Error) as info:
        call()
    error = info.value
    assert type(error).__module__ == "rust_host.errors"
    first, *rest = str(error).split("\n")
    assert rest == ([f"hint: {error.hint}"] if error.hint else []), str(error)
    assert not first.endswith(".")
    return error


def test_a_missing_file_is_a_file_not_found_error_that_names_it(tmp_path):
    error = caught(lambda: rust_host.Model(tmp_path / "none.pt"))
    assert isinstance(error, FileNotFoundError)
    assert isinstance(error, rust_host.NotFoundError)
    assert error.kind == "not_found"
    assert str(tmp_path / "none.pt") in str(error)


def test_files_that_are_no_model_are_named_for_what_they_are(tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(b"")
    assert "is empty" in str(caught(lambda: rust_host.Model(path)))
    path.write_bytes(b"hello")
    error = caught(lambda: rust_host.Model(path))
    assert isinstance(error, ValueError)
    assert (error.kind, type(error)) == ("invalid_model", rust_host.InvalidModelError)
    torch.save({"w": torch.ones(2)}, path)
    assert "torch.save" in str(caught(lambda: rust_host.Model(path)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b", "c")
    assert "expected a TorchScript archive" in str(caught(lambda: rust_host.Model(path)))
    assert "is a folder" in str(caught(lambda: rust_host.Model(tmp_path)))


def test_a_file_that_is_cut_off_anywhere_is_an_invalid_model(load, tmp_path):
    load(Product())
    whole = (tmp_path / "Product.pt").read_bytes()
    path = tmp_path / "cut.pt"
    for i in range(1, 20):
        path.write_bytes(whole[: len(whole) * i // 20])
        assert caught(lambda: rust_host.Model(path)).kind == "invalid_model"


def test_a_model_that_asks_for_files_is_refused_until_its_operator_is_allowed(tmp_path):
    class Reads(nn.Module):
        def forward(self, x):
            return x + torch.from_file("/nowhere", False, 1)

    path = tmp_path / "m.pt"
    path.write_bytes(torch.jit.script(Reads()).save_to_buffer())
    error = caught(lambda: rust_host.Model(path))
    assert (error.kind, type(error)) == ("refused", rust_host.RefusedError)
    assert "aten::from_file" in str(error)
    assert rust_host.Model(path, allow_operators=["aten::from_file"]).method.startswith("forward")


def test_a_device_that_is_not_there_is_unavailable_and_never_replaced(load, tmp_path):
    load(Product())
    path = tmp_path / "Product.pt"
    error = caught(lambda: rust_host.Model(path, "gpu"))
    assert error.kind == "invalid_input"
    if not torch.cuda.is_available():
        error = caught(lambda: rust_host.Model(path, "cuda"))
        assert isinstance(error, rust_host.UnavailableError | rust_host.NotFoundError)
        assert rust_host.Model(path).device == rust_host.Model(path, "auto").device == "cpu"
    assert rust_host.Model(path, torch.device("cpu")).device == "cpu"


def test_missing_extra_unknown_and_doubled_inputs_are_named(load):
    model, _ = load(Add())
    assert "missing input `y`, the model takes `x`, `y`" in str(caught(lambda: model(X)))
    assert "missing input `x`" in str(caught(lambda: model.run({"y": X})))
    assert "3 inputs were given, the model takes 2" in str(caught(lambda: model(X, X, X)))
    assert "unknown input `z`, the model takes `x`, `y`" in str(caught(lambda: model(X, z=X)))
    assert "unknown input `z`" in str(caught(lambda: model.run({"x": X, "y": X, "z": "anything"})))
    assert "input `x` was given twice" in str(caught(lambda: model(X, X, x=X)))
    assert "the input name 3 is no str" in str(caught(lambda: model.run({3: X})))
    error = caught(lambda: model.run(X))
    assert isinstance(error, ValueError)
    assert "expected a dict" in str(error)
    assert "model(x)" in error.hint


def test_a_wrong_shape_or_type_in_a_file_without_contract_is_the_models_own_error(load):
    model, _ = load(Product())
    error = caught(lambda: model(np.ones((1, 5), np.float32)))
    assert isinstance(error, RuntimeError)
    assert (error.kind, type(error)) == ("failed", rust_host.FailedError)
    assert "mat1 and mat2 shapes cannot be multiplied (1x5 and 4x2)" in str(error)
    assert "same dtype" in str(caught(lambda: model(X.astype(np.float64))))


def test_what_the_author_raises_reaches_the_caller_in_the_authors_words(load):
    model, _ = load(Raises())
    error = caught(lambda: model(X))
    assert "the picture is too bright: 8" in str(error)
    assert "Traceback" not in str(error)
    np.testing.assert_array_equal(model(-X), -X)


def test_errors_can_be_pickled_as_worker_processes_do(load):
    model, _ = load(Add())
    for error in (caught(lambda: model.run(X)), caught(lambda: rust_host.Model("/none")), caught(lambda: model(X))):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert (str(again), again.kind, again.hint) == (str(error), error.kind, error.hint)


def test_every_kind_has_a_class_of_its_own_that_is_exported():
    classes = [getattr(rust_host, n) for n in rust_host.__all__ if n.endswith("Error") and n != "Error"]
    assert len({c.kind for c in classes}) == len(classes) == 11
    assert all(issubclass(c, rust_host.Error) for c in classes)
    assert issubclass(rust_host.TimeoutError, TimeoutError)


def test_a_path_that_is_no_path_is_a_type_error():
    with pytest.raises(TypeError):
        rust_host.Model(3)
