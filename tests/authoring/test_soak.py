"""Kills at random times, and system calls that fail or kill: real ones, injected by strace.

A few of them here; `make soak-train` does the full number. test_faults.py has every fsync and rename of a training, by
turns; export/test_export_faults.py has those of an export.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from py_authoring import atomic, checkpoint

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("KILLS", "4"))

# Forks a child for each start of the training, so that torch is imported once, and kills it after a random time.
DRIVER = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path
import torch
from py_authoring import checkpoint, run_folder
from py_authoring.report import page
from py_authoring.training import train

kills = int(sys.argv[1])
overrides = ["training.checkpoint_every=3", f"training.epochs={4 * kills}"]
run_folder.draw_confusion = lambda confusion, labels, split: b"picture"  # drawing takes longer than the training
page.render_report = lambda run: "page"
torch.optim.Adam([torch.zeros(1)])  # imports what torch's first optimizer imports
runs = Path("models/tiny/runs")

def start():
    process = os.fork()
    if process == 0:
        code = 99
        try:
            resume = bool(checkpoint.list_runs(Path("models/tiny")))
            train("models/tiny", overrides=overrides, resume=resume, say=lambda text: None)
            code = 0
        finally:
            os._exit(code)
    return process

def outcome():
    run = checkpoint.find_run(Path("models/tiny"))
    digest = {}
    for which in ("last", "best"):
        saved = checkpoint.load_checkpoint(run / "checkpoints" / f"{which}.pt")
        digest[which] = [tensor.double().flatten().tolist() for tensor in saved["model"].values()]
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    digest["rows"] = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    return digest

began = time.monotonic()
assert os.waitstatus_to_exitcode(os.waitpid(start(), 0)[1]) == 0
seconds, reference = time.monotonic() - began, outcome()
shutil.rmtree(runs)
draw, done, litter, equal, damaged, positions = random.Random(int(sys.argv[2])), 0, 0, [], [], set()
while True:
    process = start()
    if done < kills:
        time.sleep(draw.uniform(0, 1.6 * seconds / kills))  # about all of them within one training
        os.kill(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code == -signal.SIGKILL:
        done += 1
        litter += len(list(runs.rglob("*.tmp")))
        for file in runs.glob("[!.]*/checkpoints/*.pt"):
            try:
                positions.add(checkpoint.load_checkpoint(file)["iteration"])
            except Exception as error:
                damaged.append(str(error))
        continue
    assert code == 0, code
    equal.append(outcome() == reference)
    left = [str(path) for path in runs.rglob("*.tmp")]
    shutil.rmtree(runs)  # finished before it was killed often enough: once more
    if done >= kills:
        break
print(json.dumps({"kills": done, "equal": equal, "damaged": damaged, "litter": litter, "left": left,
                  "positions": len(positions), "seconds": seconds}))
"""
RECIPE_OF_THE_SOAK = """
[model]
class = "Tiny"
[data]
kind = "function"
[training]
epochs = 20
batch_size = 2
device = "cpu"
[optimizer]
name = "adam"
lr = 0.01
"""


def python(code: str, *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.mark.timeout(3600 if KILLS > 20 else 300)
def test_kills_at_random_times_leave_a_training_that_ends_as_if_there_were_none(
    make_model: Callable[..., Path],
) -> None:
    make_model(recipe=RECIPE_OF_THE_SOAK)
    done = python(DRIVER, str(KILLS), str(random.randrange(10**6)) if KILLS > 20 else "1", timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout)
    print(seen)
    assert seen["kills"] == KILLS and seen["equal"] and all(seen["equal"]), seen
    assert seen["damaged"] == [] and seen["left"] == [] and seen["positions"] > 1, seen


# What a save does to the disk, without the seconds of torch: `save_checkpoint` is a buffer and this call.
SAVE = """
import sys
from py_authoring import atomic
from py_authoring.cli.output import print_error
from py_authoring.errors import AuthoringError
try:
    atomic.write_bytes(sys.argv[1] + "/last.pt", b"new" * 100_000)
except AuthoringError as error:
    print_error(error, as_json=False)
    sys.exit(error.exit_code)
"""
# With -D it is this very process that becomes the one that saves, so the temporary file's name is known beforehand.
TRACE = """
import os, sys
folder, call, fault, save = sys.argv[1:]
paths = [folder, folder + "/last.pt", f"{folder}/.last.pt.{os.getpid()}.tmp"]
filters = [word for path in paths for word in ("-P", path)] + ["-e", "trace=" + call, "-e", f"inject={call}:{fault}"]
program = [sys.executable, "-B", "-c", save, folder]
os.execvp("strace", ["strace", "-D", "-f", "-qq", "-o", "/dev/null", *filters, *program])
"""


def save_with(folder: Path, call: str, fault: str) -> subprocess.CompletedProcess[str]:
    """Saves `last.pt` while strace injects a fault into a call that concerns it, its folder or the temporary file."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "last.pt").write_bytes(b"old")
    return python(TRACE, str(folder.resolve()), call, fault, SAVE)


@pytest.fixture
def strace(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("no strace here")
    if subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True).returncode != 0:
        pytest.skip("processes may not be traced here")


@pytest.mark.parametrize("call", ["write", "fsync", "/rename", "openat"])
def test_each_call_of_a_save_that_fails_leaves_the_old_file_and_one_sentence(
    call: str, strace: None, tmp_path: Path
) -> None:
    folder, faults = tmp_path / "folder", 0
    for error, words in (("ENOSPC", "no space left on device"), ("EIO", "input/output error")):
        for number in range(1, 20):
            done = save_with(folder, call, f"error={error}:when={number}")
            if done.returncode == 0:
                break
            faults += 1
            assert done.returncode == 1, done
            first, hint = done.stderr.splitlines()
            assert first == f"error: cannot write `{folder.resolve()}/last.pt`: {words}" and hint.startswith("hint: ")
            # all but the last, the folder's own fsync, come before the rename
            whole = (folder / "last.pt").read_bytes()
            assert whole in (b"old", b"new" * 100_000) and [file.name for file in folder.iterdir()] == ["last.pt"]
        assert (folder / "last.pt").read_bytes() == b"new" * 100_000
    assert faults >= 2, "nothing was injected"


@pytest.mark.parametrize("call", ["write", "fsync", "/rename", "openat"])
def test_kill_at_each_call_of_a_save_leaves_the_old_file_or_the_new(call: str, strace: None, tmp_path: Path) -> None:
    folder, contents = tmp_path / "folder", []
    for number in range(1, 20):
        done = save_with(folder, call, f"signal=KILL:when={number}")
        contents.append((folder / "last.pt").read_bytes())
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done
        assert contents[-1] in (b"old", b"new" * 100_000)
        left = [file.name for file in folder.iterdir() if file.name != "last.pt"]
        assert atomic.clear_stale(folder) == [folder / name for name in left]
    assert len(contents) >= 2 and contents[-1] == b"new" * 100_000


@pytest.mark.skipif(KILLS <= 20, reason="`make soak-train` does it: some minutes")
@pytest.mark.timeout(3600)
def test_processes_killed_at_random_times_leave_a_training_that_ends_as_without_them(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    whole, killed = make_model("whole"), make_model("killed")
    words = ["--nproc", "2", "--quiet", "--set", "training.checkpoint_every=1", "--set", "training.epochs=40"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "py_authoring", "train"]
    subprocess.run([*command, "whole", *words], env=environment, check=True, timeout=300)
    kills = 0
    while True:
        resume = ["--resume"] if checkpoint.list_runs(killed) else []
        process = subprocess.Popen([*command, "killed", *words, *resume], env=environment, stderr=subprocess.PIPE)
        before = len(rows_of(killed))
        end = time.monotonic() + 120
        while kills < 8 and process.poll() is None and time.monotonic() < end:
            time.sleep(random.uniform(0, 0.3))
            if len(rows_of(killed)) >= before + 2:  # it has begun, and got on
                victims = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                if len(victims) == 2:
                    kills += 1
                    os.kill(int(random.choice(victims)), signal.SIGKILL)
                    break
        said = process.communicate(timeout=120)[1].decode()
        if process.returncode == 0:
            break
        assert process.returncode == 1 and "was killed by SIGKILL" in said, said
    assert kills == 8
    for name, tensor in last(whole).items():
        assert torch.equal(last(killed)[name], tensor), name
    assert not list(killed.rglob("*.tmp"))


def rows_of(folder: Path) -> list[str]:
    runs = checkpoint.list_runs(folder)
    return (runs[-1] / "history.jsonl").read_text().splitlines() if runs else []


def last(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = checkpoint.load_checkpoint(checkpoint.find_checkpoint(folder, which="last"))[
        "model"
    ]
    return weights
