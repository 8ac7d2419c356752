"""One training in several processes: what one process would give, and a sentence when one of them ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from py_authoring import checkpoint, launching
from py_authoring.cli import main
from py_authoring.distributed import Group
from py_authoring.errors import TrainingError, UsageError
from py_authoring.run_state import read_state
from py_authoring.training import train

ROOT = Path(__file__).resolve().parents[2]
MakeModel = Callable[..., Path]

# 21 samples in batches of 5: of the last batch, which is one sample, the second process has none. Padding counts in the
# mean over the words, so that it must be as long as one process makes it. `unused` has no gradient anywhere.
MODEL = """
import os, signal, sys, time
import torch
from torch import nn
from py_authoring import run_folder
from py_authoring.report import page

if "pytest" not in sys.modules:  # drawing takes longer than the training; other tests look at what is drawn
    run_folder.draw_confusion = lambda confusion, labels, split: b"picture"
    page.render_report = lambda run: "page"

class Net(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(5, 8), nn.Dropout(dropout), nn.Linear(8, 3)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("seen", torch.zeros(()))
        self.calls = 0

    def forward(self, x, words):
        if self.training:
            self.calls += 1
            self.seen += x.sum()
            if self.calls == 8 and os.environ.get("RANK") == "1":
                if os.path.exists("kill"):
                    os.kill(os.getpid(), signal.SIGKILL)
                if os.path.exists("raise"):
                    raise ValueError("a bad day")
            if os.path.exists("slow"):
                time.sleep(0.1)
        return self.last(self.drop(torch.relu(self.first(torch.cat([x, words.mean(1)], dim=1)))))

class Data(torch.utils.data.Dataset):
    pad_values = {"words": 1.0}
    def __init__(self, count, seed):
        draw = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, 3, generator=draw)
        self.words = [torch.randn(1 + i % 4, 2, generator=draw) for i in range(count)]
        self.y = (self.x.sum(1) > 0).long() + (self.x[:, 0] > 1).long()
    def __len__(self):
        return len(self.y)
    def __getitem__(self, i):
        return {"x": self.x[i], "words": self.words[i]}, self.y[i]

def load_data():
    return Data(21, 1), Data(13, 2), Data(0, 3)
"""
RECIPE = """
metrics = ["accuracy", "precision", "f1"]
[model]
class = "Net"
[data]
kind = "function"
[training]
epochs = 3
batch_size = 5
device = "cpu"
checkpoint_every = 1
clip_norm = 1.0
[optimizer]
name = "sgd"
lr = 0.1
momentum = 0.9
[loss]
name = "cross_entropy"
class_weights = [1.0, 3.0, 0.5]
label_smoothing = 0.1
"""
DROPOUT = RECIPE.replace('class = "Net"', 'class = "Net"\narguments = { dropout = 0.4 }')


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    return dict(os.environ)


def last(folder: Path) -> dict:
    return checkpoint.load_checkpoint(checkpoint.find_checkpoint(folder, which="last"))


def rows(folder: Path) -> list[dict]:
    text = (checkpoint.find_run(folder) / "history.jsonl").read_text()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in text.splitlines()]


def assert_equal_to_rounding(one: Path, other: Path) -> None:
    for name, tensor in last(one)["model"].items():
        if name != "seen":  # a buffer is that of rank 0
            torch.testing.assert_close(last(other)["model"][name], tensor, rtol=1e-5, atol=1e-6)
    assert len(rows(one)) == len(rows(other)) > 0
    for mine, its in zip(rows(one), rows(other), strict=True):
        assert mine == pytest.approx(its, rel=1e-4, abs=1e-6)


def assert_bit_equal(one: Path, other: Path) -> None:
    for name, tensor in last(one)["model"].items():
        assert torch.equal(last(other)["model"][name], tensor), name
    assert rows(one) == rows(other)


def processes_below(folder: Path) -> list[str]:
    """The command lines of what runs in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder.resolve() and int(process.name) != os.getpid():
                found.append((process / "cmdline").read_text())
        except OSError:
            pass
    return found


def test_two_processes_give_what_one_gives_also_under_torchrun_and_both_at_once(
    make_model: MakeModel, environment: dict[str, str], tmp_path: Path
) -> None:
    alone, ours, torchruns = (make_model(name, RECIPE, MODEL) for name in ("alone", "ours", "torchruns"))
    train(alone, say=print)
    module = ["-m", "py_authoring", "train"]
    commands = [
        [sys.executable, *module, "ours", "--nproc", "2", "--json"],
        [str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", "2", *module, "torchruns"],
    ]
    if not Path(commands[1][0]).is_file():
        commands[1][:1] = [sys.executable, "-m", "torch.distributed.run"]
    started = [subprocess.Popen(each, env=environment, text=True, stdout=-1, stderr=-1) for each in commands]
    (out, said), (_, torchrun_said) = (each.communicate(timeout=120) for each in started)
    assert [each.returncode for each in started] == [0, 0], said + torchrun_said
    assert json.loads(out)["epochs"] == 3  # rank 0 speaks alone, and stdout is JSON alone
    for text in (said, torchrun_said):
        assert "2 processes (gloo): batch 5 in all, 2 or 3 a process; nothing is scaled" in text
        assert text.count("epoch 1/3") == text.count("next: py-authoring evaluate") == 1
    for folder in (ours, torchruns):
        assert_equal_to_rounding(alone, folder)
        assert len(checkpoint.list_runs(folder)) == 1 and not list(folder.rglob("*.tmp"))
        assert read_state(checkpoint.find_run(folder)).state == "finished"
    assert processes_below(tmp_path) == []


def test_killed_process_is_named_and_the_resumed_run_is_bit_equal(
    make_model: MakeModel, environment: dict[str, str], tmp_path: Path
) -> None:
    whole, killed = make_model("whole", DROPOUT, MODEL), make_model("killed", DROPOUT, MODEL)
    said: list[str] = []
    run = train(whole, nproc=2, say=said.append)
    assert run.metrics and run.evaluation is not None and run.report is not None
    assert any("dropout draws other values" in line for line in said)
    Path("kill").touch()
    started = time.monotonic()
    with pytest.raises(TrainingError, match=r"^rank 1 of 2 \(process \d+\) was killed by SIGKILL$") as error:
        train(killed, nproc=2, say=said.append)
    assert time.monotonic() - started < 60 and "`py-authoring train killed --resume` goes on" in str(error.value.hint)
    assert processes_below(tmp_path) == []
    assert 5 < last(killed)["iteration"] < 10  # within the second epoch
    assert read_state(checkpoint.find_run(killed)).state == "failed"
    Path("kill").unlink()
    train(killed, nproc=2, resume=True, say=said.append)
    assert_bit_equal(whole, killed)
    assert not list(killed.rglob("*.tmp"))


def test_what_one_process_raises_is_said_once(
    make_model: MakeModel, environment: dict[str, str], tmp_path: Path
) -> None:
    make_model("broken", RECIPE.replace("batch_size = 5", "batch_size = 2"), MODEL)
    Path("raise").touch()
    command = [sys.executable, "-m", "py_authoring", "train", "broken", "--nproc", "2"]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=200)
    assert done.returncode == 1 and processes_below(tmp_path) == []
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and re.search(r"model\.py:\d+: while training: ValueError: a bad day", errors[0]), errors
    assert "Traceback" not in done.stderr


def test_signal_stops_all_after_the_same_iteration_and_one_process_goes_on(
    make_model: MakeModel, environment: dict[str, str], tmp_path: Path
) -> None:
    alone, folder = make_model("alone", RECIPE, MODEL), make_model("stopped", RECIPE, MODEL)
    Path("slow").touch()
    command = [sys.executable, "-m", "py_authoring", "train", "stopped", "--nproc", "2", "--epochs", "100000"]
    command += ["--set", "training.checkpoint_every=1000"]
    process = subprocess.Popen(command, env=environment, text=True, stdout=-1, stderr=-1)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in said, said
    assert said.count("SIGTERM: saving a checkpoint") == said.count("error: interrupted at iteration") == 1
    iteration = last(folder)["iteration"]
    assert f"at iteration {iteration}," in said
    assert read_state(checkpoint.find_run(folder)).state == "interrupted"
    assert processes_below(tmp_path) == []
    Path("slow").unlink()
    lines: list[str] = []
    epochs = iteration // 5 + 1
    train(folder, resume=True, epochs=epochs, say=lines.append)
    assert "note: processes was 2, is now 1: the result may differ in the last bits" in lines
    train(alone, epochs=epochs, say=print)
    assert_equal_to_rounding(alone, folder)


def test_slices_of_a_batch_are_the_batch() -> None:
    for size in (1, 2, 3, 7):
        for count in (0, 1, 2, 5, 6, 7, 20):
            parts = [Group(rank, size).part(range(count)) for rank in range(size)]
            assert [each for part in parts for each in part] == list(range(count))
            lengths = [len(part) for part in parts]
            assert max(lengths) - min(lengths) <= 1 and lengths[0] == max(lengths)


def test_processes_of_processes_are_refused(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="`--nproc 3` in a process that torchrun started"):
        launching.launch(3, folder, {}, print)
    with pytest.raises(SystemExit) as ended:
        main(["train", "tiny", "--nproc", "0"])
    assert ended.value.code == 2
