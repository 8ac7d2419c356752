"""The golden picture: every verifier decodes it as a host would, and tells one that becomes another input."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

import py_authoring.errors
import rust_host
from py_authoring.verify import verify

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "target/release/rust-host"
KEY = "0.raw.image"


def golden(path: Path) -> tuple[dict[str, Tensor], dict[str, bytes], torch.jit.ScriptModule]:
    extra = {"contract.json": b"", "golden.safetensors": b""}
    module = torch.jit.load(str(path), _extra_files=extra)
    return safetensors.torch.load(bytes(extra["golden.safetensors"])), extra, module


def changed(path: Path, target: Path, data: bytes | None) -> Path:
    """The same file with another picture, or none."""
    tensors, extra, module = golden(path)
    del tensors[KEY]
    if data is not None:
        tensors[KEY] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    files = {"contract.json": extra["contract.json"], "golden.safetensors": safetensors.torch.save(tensors)}
    torch.jit.save(module, str(target), _extra_files=files)
    return target


def png(change: int = 0, size: tuple[int, int] = (28, 28), of: Tensor | None = None) -> bytes:
    picture = Image.new("L", size) if of is None else Image.open(io.BytesIO(of.numpy().tobytes()))
    picture.putpixel((3, 5), picture.getpixel((3, 5)) ^ change)
    stored = io.BytesIO()
    picture.save(stored, "PNG")
    return stored.getvalue()


def answers(path: Path) -> dict[str, tuple[bool, str]]:
    """Of each verifier: whether all is well, and its words."""
    done = subprocess.run([BINARY, "verify", path, "--device", "cpu"], capture_output=True, text=True, check=False)
    found = {"rust-host": (done.returncode == 0, done.stderr)}
    try:
        found["wheel"] = rust_host.Model(path, "cpu").verify().ok, ""
    except rust_host.Error as error:
        found["wheel"] = False, str(error)
    try:
        found["py-authoring"] = verify(path).ok, ""
    except py_authoring.errors.AuthoringError as error:
        found["py-authoring"] = False, error.message
    return found


def test_an_export_holds_the_picture_of_its_first_example(exported_digits: Path) -> None:
    tensors, extra, _ = golden(exported_digits)
    assert [k for k in tensors if ".raw." in k] == [KEY] and tensors[KEY].dtype == torch.uint8
    factor = json.loads(extra["contract.json"])["image"]["rescale_factor"]
    pixels = torch.tensor(list(Image.open(io.BytesIO(tensors[KEY].numpy().tobytes())).tobytes()), dtype=torch.float64)
    assert torch.equal((pixels * factor).float(), tensors["0.input.image"][0].flatten())
    assert len(pixels.unique()) > 10
    assert all(ok for ok, _ in answers(exported_digits).values())


def test_rust_host_run_gives_the_golden_output_for_that_picture(exported_digits: Path, tmp_path: Path) -> None:
    tensors, _, _ = golden(exported_digits)
    (tmp_path / "0.png").write_bytes(tensors[KEY].numpy().tobytes())
    done = subprocess.run(
        [BINARY, "run", exported_digits, "--input", f"image={tmp_path / '0.png'}", "--json"],
        capture_output=True,
        check=True,
    )
    (output,) = json.loads(done.stdout)["outputs"]
    assert torch.allclose(torch.tensor(output["data"]).flatten(), tensors["0.output.log_probabilities"][0], atol=1e-5)


def test_a_file_without_it_is_as_good_as_before(exported_digits: Path, tmp_path: Path) -> None:
    assert all(ok for ok, _ in answers(changed(exported_digits, tmp_path / "model.pt", None)).values())


@pytest.mark.parametrize("case", ["one pixel by one", "size", "no picture"])
def test_a_wrong_one_is_named_by_every_verifier(exported_digits: Path, tmp_path: Path, case: str) -> None:
    tensors, _, _ = golden(exported_digits)
    data, word = {
        "one pixel by one": (png(1, of=tensors[KEY]), "becomes another input than `0.input.image`, by up to 0.00"),
        "size": (png(size=(29, 28)), "becomes "),
        "no picture": (b"\x89PNG\r\n\x1a\n nothing", "cannot be decoded"),
    }[case]
    for name, (ok, text) in answers(changed(exported_digits, tmp_path / "model.pt", data)).items():
        assert not ok and KEY in text and word in text, (name, ok, text)
