"""Export killed, on a full disk, twice at once: the old versions stay whole, a new one is whole or not there.

A driver process imports torch once and forks a child for each fault, before torch has started a thread.
"""

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from py_authoring import atomic
from py_authoring.archive_view import read_archive
from py_authoring.errors import WriteError
from py_authoring.export import archive, export
from py_authoring.verify import verify

ROOT = Path(__file__).resolve().parents[3]
MODEL = Path("models/some_nn_arch")

DRIVER = """
import json, os, pathlib, random, signal, sys, time
import torch
torch.set_num_threads(1)
from py_authoring.export import export

def child(prepare):
    pid = os.fork()
    if pid == 0:
        try:
            prepare()
            export("models/some_nn_arch")
            os._exit(0)
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr)
            os._exit(1)
    return pid

def kill_at(number):
    count = 0
    def count_and_die(original):
        def wrapped(*arguments, **keywords):
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **keywords)
        return wrapped
    def half(original):
        def wrapped(self, data, *arguments, **keywords):
            nonlocal count
            count += 1
            if count == number:
                original(self, data[: len(data) // 2], *arguments, **keywords)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, data, *arguments, **keywords)
        return wrapped
    for name in ("fsync", "rename", "replace", "mkdir"):
        setattr(os, name, count_and_die(getattr(os, name)))
    pathlib.Path.write_bytes = half(pathlib.Path.write_bytes)
    pathlib.Path.write_text = half(pathlib.Path.write_text)
"""


def drive(code: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRIVER + code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_all_versions_are_whole() -> list[int]:
    numbers = archive.versions(MODEL)
    for number in numbers:
        assert sorted(file.name for file in (MODEL / str(number)).iterdir()) == ["README.md", "model.pt"]
        contract = read_archive(MODEL / str(number) / "model.pt").contract()
        assert contract is not None
        assert (MODEL / str(number) / "README.md").read_text().endswith("on your machine.\n")
    return numbers


def leftovers(folder: Path = MODEL) -> list[str]:
    return [path.name for path in folder.glob(".*")]


@pytest.fixture
def model() -> Path:
    shutil.copytree(ROOT / MODEL, MODEL, ignore=shutil.ignore_patterns("runs", "[0-9]*"))
    return MODEL


def test_a_kill_at_every_system_call_leaves_whole_versions_and_no_litter(model: Path) -> None:
    old = export(model).path.read_bytes()
    out = drive("""
number = 0
while True:
    number += 1
    _, status = os.waitpid(child(lambda: kill_at(number)), 0)
    left = sorted(path.name for path in pathlib.Path("models/some_nn_arch").iterdir())
    print(json.dumps([os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, left]))
    if not os.WIFSIGNALED(status):
        break
""")
    lines = out.splitlines()
    assert len(lines) >= 9  # mkdir, two writes, an fsync each, the folder's, the rename, the parent's; then a clean run
    assert sum('".' in line for line in lines) >= 5  # the test saw temporary folders, so the kills hit the write
    assert (model / "1" / "model.pt").read_bytes() == old
    assert len(assert_all_versions_are_whole()) >= 2
    assert leftovers() == []  # the clean run at the end swept


def test_kills_at_random_times_leave_whole_versions(model: Path) -> None:
    export(model)
    drive("""
random.seed(0)
for _ in range(40):
    pid = child(lambda: None)
    time.sleep(random.uniform(0, 0.12))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
""")
    before = assert_all_versions_are_whole()
    version = export(model)
    assert version.number == before[-1] + 1
    assert verify(version.path).ok
    assert leftovers() == []


def test_exports_at_the_same_time_get_different_numbers(model: Path) -> None:
    drive("""
children = [child(lambda: None) for _ in range(4)]
assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0, 0]
""")
    assert assert_all_versions_are_whole() == [1, 2, 3, 4]
    assert leftovers() == []


def test_an_error_of_any_system_call_is_a_sentence_and_leaves_nothing(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(model)
    failed = 0
    for number in range(1, 50):
        count = 0

        def fail(original: Callable[..., object], number: int = number) -> Callable[..., object]:
            def wrapped(*arguments: object, **keywords: object) -> object:
                nonlocal count
                count += 1
                if count == number:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return original(*arguments, **keywords)

            return wrapped

        with monkeypatch.context() as patch:
            for name in ("fsync", "rename", "replace", "mkdir"):
                patch.setattr(os, name, fail(getattr(os, name)))
            for name in ("write_bytes", "write_text"):
                patch.setattr(Path, name, fail(getattr(Path, name)))
            try:
                export(model)
            except WriteError as error:
                failed += 1
                assert "input/output error" in str(error)
            else:
                break
        assert leftovers() == []
        assert_all_versions_are_whole()
    assert failed >= 7


def test_a_full_disk_is_one_sentence_and_exit_1(
    model: Path, run_command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_command(
        "export",
        "some_nn_arch",
        # without it Python would keep the 4096 bytes of a .pyc that fit, and break each later start
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert errors[0] == "error: cannot write `models/some_nn_arch/1`: file too large"
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(path.name for path in model.iterdir()) == ["model.py", "recipe.toml"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk_leaves_no_part_of_a_version(
    tiny_disk: Path, run_command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    target = tiny_disk / "mnist"
    shutil.copytree(ROOT / "models/mnist", target, ignore=shutil.ignore_patterns("runs", "[0-9]*"))
    done = run_command("export", str(target), "--untrained", "--json")
    assert done.returncode == 1
    assert "no space left on device" in done.stdout
    assert sorted(path.name for path in target.iterdir()) == ["model.py", "recipe.toml"]


def test_what_a_killed_export_left_goes_with_the_next_one(model: Path) -> None:
    stale = model / ".1.999999999.tmp"
    stale.mkdir()
    (stale / "model.pt").write_bytes(b"half")
    running = model / f".7.{os.getppid()}.tmp"
    running.mkdir()
    assert export(model).number == 1
    assert leftovers() == [running.name]  # that process lives


def test_ctrl_c_during_the_write_leaves_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(model)
    assert sorted(path.name for path in model.iterdir()) == ["model.py", "recipe.toml"]
