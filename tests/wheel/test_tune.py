"""What `rust-host tune` left beside a model is followed in a Python process too, unless the user chose."""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

MODEL = Path(__file__).parents[2] / "rust_host/cli/tests/data/classifier.torchscript"
SAYS = "import rust_host; rust_host.Model({0!r}); print(rust_host.threads())"


def python(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A version's folder, whose settings say 3 threads."""
    folder = tmp_path_factory.mktemp("tuned")
    shutil.copy(MODEL, folder / "model.pt")
    words = [sys.executable, "-m", "rust_host", "tune", str(folder), "--seconds", "0.05"]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    settings = folder / "host.toml"
    settings.write_text(re.sub(r"(?m)^threads = .*$", "threads = 3", settings.read_text(), count=1))
    return folder


def test_the_measured_threads_are_set_by_folder_and_by_file(tuned):
    assert python(SAYS.format(str(tuned))).stdout == "3\n"
    assert python(SAYS.format(str(tuned / "model.pt"))).stdout == "3\n"


def test_what_the_user_chose_stays(tuned):
    text = "import rust_host; rust_host.set_threads(2); rust_host.Model({0!r}); print(rust_host.threads())"
    assert python(text.format(str(tuned))).stdout == "2\n"


def settings(folder, **changes):
    """Changes lines of a folder's settings, the first that begins so."""
    path = folder / "host.toml"
    for key, value in changes.items():
        path.write_text(re.sub(rf"(?m)^{key} = .*$", f"{key} = {value}", path.read_text(), count=1))


AT_ONCE = """
import threading, numpy as np, rust_host
{1}
model = rust_host.Model({0!r})
print(model.at_once, model.session().at_once)
x = np.zeros(model.inputs[0]["shape"][1:], "u1" if model.inputs[0]["datatype"] == "UINT8" else "f4")[None]
first, same = model.run({{model.inputs[0]["name"]: x}}), []
def work():
    for _ in range(50):
        got = model.run({{model.inputs[0]["name"]: x}})
        same.append(all(np.allclose(got[k], first[k]) for k in first))
threads = [threading.Thread(target=work) for _ in range(6)]
[t.start() for t in threads], [t.join() for t in threads]
print(len(same), all(same))
"""


def test_calls_at_once_are_as_many_as_were_measured(tuned, tmp_path):
    folder = tmp_path / "at_once"
    shutil.copytree(tuned, folder)
    settings(folder, goal='"throughput"', threads=1, instances=2)
    assert python(AT_ONCE.format(str(folder), "")).stdout == "2 2\n300 True\n"
    # With other threads than those that it was measured with, the number says nothing.
    assert python(AT_ONCE.format(str(folder), "rust_host.set_threads(1)")).stdout == "None None\n300 True\n"
    # For latency as many as have cores of their own.
    cores = int(re.search(r"(?s)\[machine\].*?threads = (\d+)", (folder / "host.toml").read_text())[1])
    for threads in {1, cores}:
        settings(folder, goal='"latency"', threads=threads, instances=1)
        most = cores // threads
        assert python(AT_ONCE.format(str(folder), "")).stdout == f"{most} {most}\n300 True\n"
    (folder / "host.toml").unlink()
    assert python(AT_ONCE.format(str(folder), "")).stdout == "None None\n300 True\n"


class Endless(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool(x.sum() > 0):
            x = x + 1
        return x


WAITS = """
import sys, threading, time, numpy as np, rust_host
model = rust_host.Model(sys.argv[1])
assert model.at_once == 1
begins = threading.Event()
threading.Thread(target=lambda: (begins.set(), model(np.ones(2, np.float32))), daemon=True).start()
begins.wait(), time.sleep(0.5)
print("ready", flush=True)
try:
    model(-np.ones(2, np.float32))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_control_c_ends_the_wait_for_a_turn(tuned, tmp_path):
    folder = tmp_path / "waits"
    shutil.copytree(tuned, folder)
    settings(folder, goal='"throughput"', threads=1, instances=1)
    (folder / "model.pt").write_bytes(torch.jit.script(Endless()).save_to_buffer())
    process = subprocess.Popen([sys.executable, "-c", WAITS, folder], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (out, process.returncode) == ("interrupted\n", 0)


def test_a_forked_child_does_not_wait_for_calls_of_its_parent(tuned, tmp_path):
    folder = tmp_path / "forked"
    shutil.copytree(tuned, folder)
    settings(folder, goal='"throughput"', threads=1, instances=1)
    text = f"""
import os, threading, warnings, numpy as np, rust_host
warnings.simplefilter("ignore")
model = rust_host.Model({str(folder)!r})
spec = model.inputs[0]
x = {{spec["name"]: np.zeros([1, *spec["shape"][1:]], "u1" if spec["datatype"] == "UINT8" else "f4")}}
over = threading.Event()
def work():
    while not over.is_set():
        model.run(x)
threads = [threading.Thread(target=work) for _ in range(3)]
[t.start() for t in threads]
for _ in range(20):
    child = os.fork()
    if child == 0:
        model.run(x)
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), end=" ")
over.set()
[t.join() for t in threads]
"""
    assert python(text).stdout == "7 " * 20


def test_another_machines_settings_are_left_alone_with_a_warning(tuned, tmp_path):
    folder = tmp_path / "elsewhere"
    shutil.copytree(tuned, folder)
    settings(folder, processor='"Pentium"')
    result = python(SAYS.format(str(folder)))
    assert result.returncode == 0 and result.stdout != "3\n"
    assert "UserWarning: `" in result.stderr and "measured on Pentium" in result.stderr


def test_a_bad_file_is_a_sentence(tuned, tmp_path):
    shutil.copytree(tuned, tmp_path / "bad")
    (tmp_path / "bad/host.toml").write_text("threads = 3")
    result = python(SAYS.format(str(tmp_path / "bad")))
    assert result.returncode == 1
    assert "InvalidInputError" in result.stderr and "host.toml`: line 1: missing field" in result.stderr


def test_one_processor_makes_one_thread(tmp_path):
    shutil.copy(MODEL, tmp_path / "model.pt")
    pinned = f"import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); {SAYS.format(str(tmp_path))}"
    assert python(pinned).stdout == "1\n"
