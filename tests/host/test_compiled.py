"""Compiled packages (`model.pt2`) through the binary and the wheel: the numbers, the trust, and ways in which one does
not fit this machine."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rust_host
from py_authoring.export import export

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "target/release/rust-host"

Change = Callable[[str, bytes], bytes | None]


def host(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The binary, with nothing in its environment."""
    return subprocess.run(["env", "-i", BINARY, *words], capture_output=True, text=True, check=False, timeout=120)


def refuses(ran: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    """One sentence, perhaps with a hint, and nothing on stdout."""
    lines = ran.stderr.splitlines()
    assert ran.returncode == code and ran.stdout == "", (ran.returncode, ran.stdout, ran.stderr)
    assert lines[0].startswith("error: ") and all(line.startswith("hint: ") for line in lines[1:]), ran.stderr
    for text in said:
        assert text in ran.stderr, ran.stderr


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def model(compiled_digits: Path, tmp_path: Path) -> Path:
    """A copy of the package in a folder that trusts nothing."""
    path = tmp_path / "model.pt2"
    shutil.copy(compiled_digits, path)
    return path


def changed(model: Path, change: Change) -> Path:
    """The package with each member changed, or left out."""
    path = model.with_name("changed.pt2")
    with zipfile.ZipFile(model) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for member in old.infolist():
            data = change(member.filename, old.read(member))
            if data is not None:
                new.writestr(zipfile.ZipInfo(member.filename, (1980, 1, 1, 0, 0, 0)), data)
    return path


def in_json(ending: str, edit: Callable[[dict[str, Any]], object]) -> Change:
    """Changes the members of that ending."""

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith(ending):
            return data
        document = json.loads(data)
        edit(document)
        return json.dumps(document).encode()

    return change


def in_code(edit: Callable[[bytes], bytes | None]) -> Change:
    return lambda name, data: edit(data) if name.endswith(".so") else data


def test_where_it_was_exported_it_is_trusted_and_reproduces_its_examples(compiled_digits: Path) -> None:
    version = compiled_digits.parent
    for path in (compiled_digits, version, version.parent):
        ran = host("verify", path, "--backend", "compiled") if path.is_dir() else host("verify", path)
        assert ran.returncode == 0 and "compiled code" in ran.stdout, ran.stderr
    assert rust_host.Model(compiled_digits).verify().ok
    about = host("info", compiled_digits)
    assert about.returncode == 0 and "compiled for cpu" in about.stdout and "aoti_torch_" in about.stdout
    table = host("bench", compiled_digits, "--seconds", "0.1", "--batch", "1,3")
    assert table.returncode == 0 and "compiled code" in table.stdout, table.stderr


def test_elsewhere_it_is_opened_only_by_its_digest(model: Path) -> None:
    refuses(host("verify", model), 1, "holds compiled code", f"--trust {digest(model)}")
    refuses(host("run", model, "-i", "x=1", "--trust", "0" * 64), 2)
    refuses(host("verify", model, "--trust", "0" * 64), 1, "holds compiled code")
    refuses(host("verify", model, "--trust", "abc"), 2, "64 hexadecimal digits")
    assert host("verify", model, "--trust", digest(model)).returncode == 0
    assert host("verify", model, "--trust", f"sha256:{digest(model).upper()}", "--sandbox", "on").returncode == 0
    with pytest.raises(rust_host.RefusedError, match="holds compiled code"):
        rust_host.Model(model)
    assert rust_host.Model(model, trust=[digest(model)]).verify().ok
    trusted = model.with_name("trusted.toml")
    trusted.write_text(f'[[package]]\nsha256 = "{digest(model)}"\n')
    assert host("verify", model).returncode == 0
    trusted.write_text("[[package]]\nsha256 = 1\n")
    refuses(host("verify", model), 2, "trusted.toml", "line 2")
    # What was trusted is the file as it was.
    trusted.write_text(f'[[package]]\nsha256 = "{digest(model)}"\n')
    other = changed(model, in_json("contract.json", lambda c: c["outputs"][0].update(atol=1e9)))
    refuses(host("verify", other), 1, "holds compiled code")


def test_it_answers_as_torchscript_does_for_every_batch_and_layout(
    compiled_digits: Path, exported_digits: Path
) -> None:
    compiled = rust_host.Model(compiled_digits)
    script = rust_host.Model(exported_digits, optimise=False)
    random = np.random.default_rng(0)
    for batch in (1, 2, 3, 7, 16, 33):
        x = random.random((batch, 1, 28, 28), dtype=np.float32)
        expected = script(x)
        unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32)
        for layout in (x, np.asfortranarray(x), x[:, :, ::-1][:, :, ::-1], unaligned.reshape(x.shape)):
            before = layout.copy()
            np.testing.assert_allclose(compiled(layout), expected, rtol=1e-3, atol=1e-4)
            assert np.array_equal(layout, before)


def test_an_input_that_does_not_fit_is_refused_before_the_code_sees_it(compiled_digits: Path) -> None:
    model = rust_host.Model(compiled_digits)
    for shape in ((1, 28, 28), (1, 1, 28, 27), (1, 3, 28, 28), (0, 1, 28, 28)):
        with pytest.raises(rust_host.InvalidInputError):
            model(np.zeros(shape, np.float32))
    with pytest.raises(rust_host.InvalidInputError, match="FP32"):
        model(np.zeros((1, 1, 28, 28), np.float64))
    with pytest.raises(rust_host.InvalidInputError, match="missing input"):
        model()


def test_many_threads_get_their_own_answers(compiled_digits: Path) -> None:
    model = rust_host.Model(compiled_digits)
    inputs = [np.random.default_rng(i).random((i % 5 + 1, 1, 28, 28), dtype=np.float32) for i in range(10)]
    expected = [model(x) for x in inputs]
    wrong: list[int] = []

    def call(first: int) -> None:
        for i in range(first, first + 40):
            if not np.allclose(model(inputs[i % 10]), expected[i % 10], rtol=1e-4, atol=1e-5):
                wrong.append(i)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_result_outlives_its_model(compiled_digits: Path) -> None:
    x = np.random.default_rng(0).random((3, 1, 28, 28), dtype=np.float32)
    kept = rust_host.Model(compiled_digits)(x)
    np.testing.assert_array_equal(kept, rust_host.Model(compiled_digits)(x))


@pytest.fixture(scope="module")
def compiled_cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second package, of models/some_nn_arch, which returns one tensor under two names."""
    folder = tmp_path_factory.mktemp("models") / "some_nn_arch"
    shutil.copytree(ROOT / "models/some_nn_arch", folder, ignore=shutil.ignore_patterns("runs", "[0-9]*"))
    return export(folder, untrained=True, method="compiled").path


def test_packages_that_are_open_together_each_run_their_own_code(compiled_digits: Path, compiled_cell: Path) -> None:
    x = np.random.default_rng(0).random((2, 1, 28, 28), dtype=np.float32)
    first, second, again = (rust_host.Model(path) for path in (compiled_digits, compiled_cell, compiled_digits))
    assert first.verify().ok and second.verify().ok and again.verify().ok
    np.testing.assert_array_equal(first(x), again(x))
    changed_weights = in_code(shifted_bias(compiled_digits))
    other = changed(compiled_digits, changed_weights)
    try:
        shifted = rust_host.Model(other, trust=[digest(other)])
        assert np.abs(shifted(x) - first(x)).max() > 0.01
    finally:
        other.unlink()


def shifted_bias(package: Path) -> Callable[[bytes], bytes]:
    """Another bias of the last layer in the code: a model that differs in its numbers alone."""
    weights = torch.jit.load(package.with_name("model.pt")).state_dict()
    name = next(key for key in reversed(list(weights)) if key.endswith("bias"))
    bias = weights[name].numpy()
    other = bias + np.arange(len(bias), dtype=np.float32)

    def edit(code: bytes) -> bytes:
        assert code.count(bias.tobytes()) >= 1
        return code.replace(bias.tobytes(), other.tobytes())

    return edit


def test_a_tensor_that_is_returned_twice_comes_as_two_arrays(compiled_cell: Path) -> None:
    model = rust_host.Model(compiled_cell)
    names = [part["name"] for part in model.outputs]
    inputs = {
        part["name"]: np.random.default_rng(1).random((3, part["shape"][-1]), np.float32) for part in model.inputs
    }
    for _ in range(50):
        results = model.run(inputs)
        assert list(results) == names and len(names) == 2
        one, two = results.values()
        np.testing.assert_array_equal(one, two)
        kept = two.copy()
        one += 1
        np.testing.assert_array_equal(two, kept)
        del one, results


def test_a_call_leaves_the_callers_torch_as_it_was(compiled_digits: Path) -> None:
    rust_host.Model(compiled_digits)(np.zeros((1, 1, 28, 28), np.float32))
    assert torch.is_grad_enabled()
    threads = torch.get_num_threads()
    code = f"""
import numpy as np, rust_host, torch
torch.set_num_threads(1)
model = rust_host.Model({str(compiled_digits)!r})
model(np.zeros((3, 1, 28, 28), np.float32))
assert torch.get_num_threads() == 1 and torch.is_grad_enabled()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert torch.get_num_threads() == threads


def test_opening_again_and_again_leaves_nothing(compiled_digits: Path) -> None:
    def held() -> tuple[int, int]:
        return len(Path("/proc/self/maps").read_text().splitlines()), len(list(Path("/proc/self/fd").iterdir()))

    x = np.zeros((1, 1, 28, 28), np.float32)
    for _ in range(3):
        rust_host.Model(compiled_digits)(x)
    before = held()
    for _ in range(20):
        rust_host.Model(compiled_digits)(x)
    maps, files = held()
    assert maps <= before[0] + 5 and files <= before[1]


METADATA = "wrapper_metadata.json"
DAMAGE: list[tuple[str, Change, int, str]] = [
    ("another processor", in_json(METADATA, lambda m: m.update(AOTI_CPU_ISA="AVX512 AMX_FP99")), 1, "`AMX_FP99`"),
    ("another machine", in_json(METADATA, lambda m: m.update(AOTI_MACHINE="sparc")), 1, "linux on sparc"),
    ("another device", in_json(METADATA, lambda m: m.update(AOTI_DEVICE_KEY="cuda")), 1, "device `cuda`"),
    ("no metadata", lambda n, d: None if n.endswith(METADATA) else d, 2, "is missing, which says"),
    ("no JSON", lambda n, d: b"{" if n.endswith(METADATA) else d, 2, "does not say what the code was compiled for"),
    ("another torch", in_json("contract.json", lambda c: c["provenance"].update(torch_version="2.9.1")), 1, "2.9.1"),
    ("no torch", in_json("contract.json", lambda c: c["provenance"].pop("torch_version")), 1, "an unknown torch"),
    ("another platform", in_json("contract.json", lambda c: c.update(platform="onnxruntime_onnx")), 2, "platform"),
    ("no contract", lambda n, d: None if "extra/" in n else d, 2, "has no contract"),
    ("no code", in_code(lambda d: None), 2, "that was not compiled"),
    ("half the code", in_code(lambda d: d[: len(d) // 2]), 2, "no 64-bit ELF library"),
    ("text for code", in_code(lambda d: b"text"), 2, "no 64-bit ELF library"),
    ("empty code", in_code(lambda d: d[:64] + bytes(len(d) - 64)), 2, "cannot be loaded"),
    (
        "an operator of nobody",
        in_code(lambda d: d.replace(b"aoti_torch_delete_tensor_object", b"aoti_torch_delete_tensor_nobody")),
        1,
        "`aoti_torch_delete_tensor_nobody`, which this libtorch does not have",
    ),
]


@pytest.mark.parametrize(("change", "code", "said"), [d[1:] for d in DAMAGE], ids=[d[0] for d in DAMAGE])
def test_a_package_that_does_not_fit_is_a_sentence(model: Path, change: Change, code: int, said: str) -> None:
    path = changed(model, change)
    refuses(host("verify", path, "--trust", digest(path)), code, said)


def test_a_damaged_package_is_a_sentence(model: Path) -> None:
    data = model.read_bytes()
    for size in (0, 3, 100, len(data) // 2, len(data) - 1):
        model.write_bytes(data[:size])
        refuses(host("verify", model, "--trust", digest(model)), 2)
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    model.write_bytes(flipped)
    refuses(host("verify", model, "--trust", digest(model)), 2, "checksum")


def test_a_device_that_it_cannot_have_is_a_sentence(compiled_digits: Path) -> None:
    refuses(host("verify", compiled_digits, "--device", "cuda"), 1, "on the processor")
