"""A package with code for AVX2 and for AVX-512 (`--cpu x86-64-v3+v4`): each host takes what its processor runs best."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from py_authoring.export.compiled import Package
from tests.host.test_compiled import changed, digest, host, refuses

pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512",
    reason="an export runs what it made, and there is no AVX-512 here",
)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of a small model; not to be changed."""
    work = tmp_path_factory.mktemp("models")
    words = [sys.executable, "-m", "py_authoring"]
    subprocess.run([*words, "new", "small", "--template", "regressor"], cwd=work, check=True, capture_output=True)
    words += ["export", "small", "--untrained", "--method", "compiled", "--cpu", "x86-64-v3+v4"]
    said = subprocess.run(words, cwd=work, check=True, capture_output=True, text=True)
    assert "compiled for AVX2 and for AVX512" in said.stdout + said.stderr
    return work / "models/small/1/model.pt2"


def for_other_processors(name: str, data: bytes, *codes: str) -> bytes:
    """Metadata of those codes that name instructions which no processor has."""
    if name.endswith("_metadata.json") and any(f"/{code}/" in name for code in codes):
        return json.dumps({**json.loads(data), "AOTI_CPU_ISA": "AVX9000"}).encode()
    return data


def class_of(package: Path) -> str:
    told = json.loads(host("info", package, "--json").stdout)
    return str(told["class"])


def test_the_better_code_is_taken_where_it_runs_and_the_other_elsewhere(both: Path, tmp_path: Path) -> None:
    assert class_of(both).endswith("AVX512")
    assert host("verify", both).returncode == 0
    copy = tmp_path / "model.pt2"
    copy.write_bytes(both.read_bytes())
    older = changed(copy, lambda name, data: for_other_processors(name, data, "x86-64-v4"))
    assert class_of(older).endswith("AVX2")
    assert host("verify", older, "--trust", digest(older)).returncode == 0
    neither = changed(copy, lambda name, data: for_other_processors(name, data, "x86-64-v4", "model"))
    ran = host("verify", neither, "--trust", digest(neither))
    refuses(ran, 1, "a processor with `AVX9000`, which this one does not have")


def test_a_program_carries_both(both: Path, tmp_path: Path) -> None:
    program = tmp_path / "small"
    assert host("build", both, "-o", program).returncode == 0
    verified = subprocess.run(["env", "-i", program, "--verify"], capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stderr


def test_torch_opens_either(both: Path) -> None:
    with zipfile.ZipFile(both) as package:
        libraries = [Path(name).parent.name for name in package.namelist() if name.endswith(".so")]
    assert sorted(libraries) == ["model", "x86-64-v4"]
    x = torch.rand(3, 10)
    results = [Package(both.read_bytes(), code).run(["features"], {"features": x})[0] for code in libraries]
    torch.testing.assert_close(*results)


def test_a_model_beside_it_is_refused(both: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(both) as old, zipfile.ZipFile(tmp_path / "model.pt2", "w") as new:
        for name in old.namelist():
            new.writestr(name.replace("/x86-64-v4/", "/another/"), old.read(name))
    ran = host("run", tmp_path / "model.pt2", "--trust", digest(tmp_path / "model.pt2"))
    assert ran.returncode == 2 and "expected one library" in ran.stderr, ran.stderr
