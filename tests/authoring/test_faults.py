"""A training that is killed or cannot write, at any step of a save: what was there is whole, and goes on exactly."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from py_authoring import atomic, checkpoint
from py_authoring.errors import WriteError
from py_authoring.training import train

ROOT = Path(__file__).resolve().parents[2]

# Forks one child for each fault, so that torch is imported once. In a child the Nth of all fsync, rename and replace
# calls is the last one (kill), or raises (fail). Prints one JSON line a fault; the last has no fault left to inject.
DRIVER = """
import json, os, resource, signal, sys
from pathlib import Path
import torch
from py_authoring import checkpoint, run_folder
from py_authoring.errors import AuthoringError
from py_authoring.report import page
from py_authoring.training import train

mode, overrides = sys.argv[1], ["training.checkpoint_every=4", "training.epochs=2"]
run_folder.draw_confusion = lambda confusion, labels, split: b"picture"  # drawing takes longer than the training
page.render_report = lambda run: "page"
torch.optim.Adam([torch.zeros(1)])  # imports what torch's first optimizer imports

def child(work):
    process = os.fork()
    if process == 0:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

def begin(fault):
    count = 0
    def wrap(name, function):
        def wrapped(*arguments, **keywords):
            nonlocal count
            count += 1
            if count == fault:
                if mode == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(28 if fault % 2 else 5, os.strerror(28 if fault % 2 else 5))
            return function(*arguments, **keywords)
        setattr(os, name, wrapped)
    for name in ("fsync", "replace", "rename"):
        wrap(name, getattr(os, name))
    if mode == "size":
        sys.dont_write_bytecode = True  # Python would keep the part of a .pyc that fits, and break each later start
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault * 1000, fault * 1000))
        count = -10**9
    try:
        train("models/tiny", overrides=overrides, say=lambda text: None)
    except AuthoringError as error:
        print(json.dumps({"said": str(error), "kind": error.kind}), flush=True)
        return 1
    return 0

def go_on():
    resume = bool(checkpoint.list_runs(Path("models/tiny")))
    train("models/tiny", overrides=overrides, resume=resume, say=lambda text: None)
    return 0

for fault in range(1, 200):
    code = child(lambda: begin(fault))
    runs = Path("models/tiny/runs")
    left = sorted(str(path) for path in runs.rglob("*.tmp")) if runs.exists() else []
    whole = {str(file): len(checkpoint.load_checkpoint(file)["model"]) for file in runs.glob("[!.]*/checkpoints/*.pt")}
    again = child(go_on) if code != 0 else 0
    after = sorted(str(path) for path in runs.rglob("*.tmp"))
    run = checkpoint.find_run(Path("models/tiny"))
    final = checkpoint.load_checkpoint(run / "checkpoints" / "last.pt")
    weights = [float(tensor.double().sum()) for tensor in final["model"].values()]
    best = checkpoint.load_checkpoint(run / "checkpoints" / "best.pt")
    best = [float(tensor.double().sum()) for tensor in best["model"].values()]
    rows = len((run / "history.jsonl").read_text().splitlines())
    print(json.dumps({"fault": fault, "code": code, "left": left, "again": again, "after": after, "whole": len(whole),
                      "weights": weights, "best": best, "rows": rows}), flush=True)
    import shutil
    shutil.rmtree(runs)
    if code == 0:
        break
"""


def drive(folder: Path, mode: str) -> list[dict]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", DRIVER, mode], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_kill_at_every_fsync_and_rename_leaves_whole_files_and_a_run_that_goes_on_exactly(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    make_model()
    outcomes = drive(tmp_path, "kill")
    *faulty, clean = outcomes
    assert clean["code"] == 0 and len(faulty) >= 40
    for outcome in faulty:
        assert outcome["code"] == -signal.SIGKILL
        assert outcome["again"] == 0, outcome
        assert outcome["after"] == [], outcome  # the next start has cleaned up
        assert (outcome["weights"], outcome["best"], outcome["rows"]) == (clean["weights"], clean["best"], 2), outcome
    assert any(outcome["left"] for outcome in faulty)  # or nothing was there to clean


def test_failure_of_every_fsync_and_rename_is_a_sentence_and_leaves_the_old_file(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    make_model()
    outcomes = drive(tmp_path, "fail")
    said = [outcome for outcome in outcomes if "said" in outcome]
    *faulty, clean = [outcome for outcome in outcomes if "fault" in outcome]
    assert clean["code"] == 0 and len(said) == len(faulty) >= 40
    for each in said:
        assert each["kind"] == "unavailable" and each["said"].startswith("cannot write `models/tiny/runs/"), each
        assert "no space left" in each["said"] or "input/output error" in each["said"]
    for outcome in faulty:
        assert outcome["code"] == 1 and outcome["left"] == [] and outcome["again"] == 0, outcome
        assert (outcome["weights"], outcome["best"], outcome["rows"]) == (clean["weights"], clean["best"], 2), outcome


def test_files_that_may_not_grow_fail_in_a_sentence(make_model: Callable[..., Path], tmp_path: Path) -> None:
    make_model()
    outcomes = drive(tmp_path, "size")  # a limit of 1, 2, 3 … kB for every file
    said = [outcome for outcome in outcomes if "said" in outcome]
    *faulty, clean = [outcome for outcome in outcomes if "fault" in outcome]
    assert clean["code"] == 0 and len(said) == len(faulty) >= 5
    assert all("file too large" in each["said"] for each in said)
    for outcome in faulty:
        assert outcome["left"] == [] and outcome["weights"] == clean["weights"], outcome


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_command_with_a_checkpoint_and_the_way_to_go_on(
    make_model: Callable[..., Path], tmp_path: Path, number: signal.Signals
) -> None:
    folder = make_model()
    process = start(tmp_path, "train", "tiny", "--epochs", "100000")
    wait_for_line(process, "epoch 2/")
    started = time.monotonic()
    process.send_signal(number)
    said = process.communicate(timeout=15)[1]
    assert time.monotonic() - started < 15
    assert process.returncode == 130 and "Traceback" not in said
    assert "error: interrupted at iteration" in said
    assert "hint: `py-authoring train tiny --resume` goes on from there" in said
    before = checkpoint.load_checkpoint(checkpoint.find_checkpoint(folder, which="last"))["epoch"]
    assert train(folder, resume=True, epochs=before + 1, say=print).epochs == before + 1


def test_killed_command_can_be_resumed(make_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_model()
    process = start(tmp_path, "train", "tiny", "--epochs", "100000", "--set", "training.checkpoint_every=1")
    wait_for_line(process, "epoch 3/")
    process.kill()
    process.communicate()
    before = checkpoint.load_checkpoint(checkpoint.find_checkpoint(folder, which="last"))
    assert before["epoch"] >= 2
    assert train(folder, resume=True, epochs=before["epoch"] + 1, say=print).epochs == before["epoch"] + 1
    assert not list(folder.rglob("*.tmp"))


def test_second_signal_ends_at_once(make_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_model()
    code = folder / "model.py"
    slow = "if self.training and calls == 3:\n            import time; time.sleep(60)\n        return self.last"
    code.write_text(code.read_text().replace("return self.last", slow))
    process = start(tmp_path, "train", "tiny")
    wait_for_file(folder / "runs", "*/checkpoints/last.pt")
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=10)[1]
    assert process.returncode == 130 and "Traceback" not in said, said
    assert "error: interrupted\nhint: `py-authoring train tiny --resume` goes on" in said
    assert checkpoint.load_checkpoint(checkpoint.find_checkpoint(folder, which="last"))["iteration"] == 0


def test_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file.txt"
    atomic.write_text(file, "old")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(WriteError, match=r"cannot write `.*file\.txt`: no space left on device"):
                atomic.write_text(file, "new")
        assert file.read_text() == "old"
        assert names(tmp_path) == ["file.txt"]


def test_checkpoint_on_a_full_disk_keeps_the_old_one() -> None:
    # a real full disk where there is one that is always full
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(WriteError):
        checkpoint.save_checkpoint({"model": {"w": torch.zeros(3)}}, Path("/dev/full/x.pt"))


def test_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic.write_folder(tmp_path / "1") as folder:
        (folder / "a").write_text("a")
        raise ZeroDivisionError
    assert names(tmp_path) == []
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "old").write_text("old")
    with pytest.raises(WriteError), atomic.write_folder(tmp_path / "2") as folder:
        (folder / "new").write_text("new")
    assert names(tmp_path / "2") == ["old"] and names(tmp_path) == ["2"]


def test_only_what_dead_processes_left_is_cleared(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = [f".a.{dead.pid}.tmp", f".b.{os.getpid()}.tmp", ".c.tmp", "d.tmp"]
    for name in left:
        (tmp_path / name).touch()
    assert [path.name for path in atomic.clear_stale(tmp_path)] == left[:1]
    assert sorted(names(tmp_path)) == sorted(left[1:])


def test_a_folder_that_vanishes_while_stale_files_are_looked_for_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    scan = os.scandir

    def vanish(path: Any) -> Any:
        if Path(path) == tmp_path / "run":
            Path(path).rmdir()
        return scan(path)

    monkeypatch.setattr(os, "scandir", vanish)
    assert atomic.clear_stale(tmp_path, recursive=True) == []
    assert not (tmp_path / "run").exists()


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "py_authoring", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes)  # type: ignore[call-overload]


def wait_for_line(process: subprocess.Popen[str], beginning: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(beginning):
            return
    raise AssertionError(f"ended with {process.wait()} before it said {beginning!r}")


def wait_for_file(folder: Path, pattern: str) -> None:
    end = time.monotonic() + 60
    while not list(folder.glob(pattern)):
        assert time.monotonic() < end, f"no {pattern} in {folder}"
        time.sleep(0.05)
