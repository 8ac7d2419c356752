"""The archive of `make dist`, unpacked elsewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in the archive; packed without compressing, which takes minutes and changes nothing."""
    work = tmp_path_factory.mktemp("bundle")
    command = [sys.executable, "rust_host/bundle.py", "target/release", work / "dist", "tar"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (archive,) = (work / "dist").iterdir()
    with tarfile.open(archive) as tar:
        tar.extractall(work / "elsewhere", **({"filter": "data"} if sys.version_info >= (3, 12) else {}))
    archive.unlink()
    (folder,) = (work / "elsewhere").iterdir()
    return folder


def run(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["env", "-i", folder / "bin/rust-host", *arguments], capture_output=True, text=True, check=False
    )


def test_the_unpacked_archive_answers_in_an_empty_environment_with_its_own_libraries(
    unpacked: Path, tmp_path: Path
) -> None:
    doctor = json.loads(run(unpacked, "doctor", "--json").stdout)
    assert doctor["libtorch"]["path"].startswith(str(unpacked))
    assert doctor["libtorch"]["version"].startswith(torch.__version__.split("+")[0])
    path = tmp_path / "double.pt"
    path.write_bytes(torch.jit.script(torch.nn.ReLU()).save_to_buffer())
    done = run(unpacked, "run", path, "--input", "[[-1.0, 2.0]]", "--format", "json", "--output", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"][0]["data"] == [[0, 2]]


def test_every_library_that_is_not_of_the_system_comes_from_the_archive(unpacked: Path) -> None:
    listed = subprocess.run(
        ["ldd", unpacked / "lib/librust_host_torch_library.so"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
        check=True,
    ).stdout
    assert "not found" not in listed
    inside = [line for line in listed.splitlines() if str(unpacked) in line]
    assert any("libtorch_cpu" in line for line in inside) and any("libgomp" in line for line in inside)
    others = re.findall(r"=> (/\S+)", "\n".join(line for line in listed.splitlines() if str(unpacked) not in line))
    assert all(re.match(r"/(usr/)?lib", other) for other in others), others


def test_every_library_looks_for_others_beside_itself_alone(unpacked: Path) -> None:
    for library in (unpacked / "lib").glob("*.so*"):
        about = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
        assert set(re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.+)\]", about)) <= {"$ORIGIN"}, library
        assert str(Path(torch.__file__).parent) not in about


def test_the_host_of_programs_is_in_the_archive(unpacked: Path) -> None:
    ran = subprocess.run([unpacked / "lib/rust-host-program"], capture_output=True, text=True, check=False)
    assert ran.returncode == 2 and "carries no model" in ran.stderr


def test_the_licences_of_what_is_packed_are_there(unpacked: Path) -> None:
    names = {p.name for p in (unpacked / "licenses").iterdir()}
    assert {"rust-host.txt", "torch.txt", "crates.txt"} <= names
    crates = (unpacked / "licenses/crates.txt").read_text()
    assert "tch " in crates and "clap " in crates


def test_a_missing_library_is_a_sentence(unpacked: Path, tmp_path: Path) -> None:
    hidden = unpacked / "lib/libtorch_cpu.so"
    aside = unpacked / "aside"
    hidden.rename(aside)
    try:
        path = tmp_path / "m.pt"
        path.write_bytes(torch.jit.script(torch.nn.ReLU()).save_to_buffer())
        done = run(unpacked, "run", path, "--input", "[1.0]")
        assert done.returncode == 1
        assert done.stderr.startswith("error: ") and "libtorch" in done.stderr and len(done.stderr.splitlines()) <= 3
        assert run(unpacked, "--help").returncode == 0
        assert run(unpacked, "info", path).returncode == 0
        assert "libtorch" in run(unpacked, "doctor").stdout
    finally:
        aside.rename(hidden)


def test_a_libtorch_of_another_version_is_named_with_both_versions(unpacked: Path, tmp_path: Path) -> None:
    marker = unpacked / "lib/libtorch-version"
    right = marker.read_text()
    marker.write_text("2.9.1\n")
    try:
        path = tmp_path / "m.pt"
        path.write_bytes(torch.jit.script(torch.nn.ReLU()).save_to_buffer())
        done = run(unpacked, "run", path, "--input", "[1.0]")
        assert done.returncode == 1
        assert "2.9.1" in done.stderr and "2.13.0" in done.stderr
    finally:
        marker.write_text(right)
