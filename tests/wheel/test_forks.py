"""Models before, in and after a fork: the child has their weights and not the locks of its parent's other threads."""

import subprocess
import sys

import torch


class Slow(torch.nn.Module):
    def forward(self, x):
        for _ in range(200):
            x = torch.tanh(x @ x)
        return x


class Endless(torch.nn.Module):
    def forward(self, x):
        while bool(x.sum() > 0):
            x = x + 1
        return x


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)


def test_a_child_after_a_fork_can_use_the_model_too(load, tmp_path):
    load(Slow())
    code = """
import os, sys, numpy as np, rust_host
model = rust_host.Model(sys.argv[1])
x = np.zeros((300, 300), np.float32)
model(x)
child = os.fork()
if child == 0:
    model(x)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    result = run(code, str(tmp_path / "Slow.pt"))
    assert (result.returncode, result.stderr) == (0, "")


def test_a_child_after_a_fork_shares_the_weights(load, tmp_path):
    load(
        torch.nn.Sequential(torch.nn.Linear(2048, 2048), torch.nn.Linear(2048, 2048))
    )  # 2 × 32 MB with the packed form
    code = """
import os, sys, numpy as np, rust_host
rust_host.set_threads(1)
model = rust_host.Model(sys.argv[1])
x = np.zeros((1, 2048), np.float32)
model(x)
def own():
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty:")) // 1024
child = os.fork()
if child == 0:
    model(x)
    print(own(), flush=True)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    result = run(code, str(tmp_path / "Sequential.pt"))
    assert (result.returncode, result.stderr) == (0, "")
    assert int(result.stdout) < 16


def test_a_fork_waits_for_the_calls_of_other_threads_and_holds_new_ones(load, tmp_path):
    load(Slow())
    code = """
import os, sys, threading, numpy as np, rust_host
model, x, over = rust_host.Model(sys.argv[1]), np.zeros((300, 300), np.float32), threading.Event()
def calls():
    while not over.is_set():
        model(x)
threads = [threading.Thread(target=calls) for _ in range(3)]
[t.start() for t in threads]
for _ in range(5):
    if (child := os.fork()) == 0:
        model(x)
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), end=" ")
    model(x)
over.set()
[t.join() for t in threads]
"""
    result = run(code, str(tmp_path / "Slow.pt"))  # in libtorch's first calls, which set it up under locks
    assert (result.returncode, result.stdout, result.stderr) == (0, "7 7 7 7 7 ", "")


def test_a_handler_of_a_signal_may_fork_and_call_inside_a_call(load, tmp_path):
    load(Endless())
    code = """
import os, signal, sys, threading, time, numpy as np, rust_host
model = rust_host.Model(sys.argv[1], "cpu")
model(-np.ones(2, np.float32))
def handler(*_):
    begin = time.monotonic()
    if (child := os.fork()) == 0:
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), time.monotonic() - begin < 8)
    print(model(-np.ones(2, np.float32)))
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    model(np.ones(2, np.float32))
except KeyboardInterrupt:
    print("interrupted")
"""
    result = run(code, str(tmp_path / "Endless.pt"))
    assert (result.returncode, result.stdout, result.stderr) == (0, "7 True\n[-1. -1.]\ninterrupted\n", "")


def test_other_hooks_of_a_fork_may_call_a_model(load, tmp_path):
    load(Slow())
    code = """
import os, sys, numpy as np
def call():
    os.write(1, f"{model(x).shape} ".encode())  # at once: parent and child write at the same time
os.register_at_fork(before=call, after_in_parent=call, after_in_child=call)  # before the import: around rust_host's own
import rust_host
model, x = rust_host.Model(sys.argv[1]), np.zeros((3, 3), np.float32)
model(x)
if (child := os.fork()) == 0:
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    result = run(code, str(tmp_path / "Slow.pt"))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "(3, 3) (3, 3) (3, 3) 7\n"


def test_a_lock_that_a_fork_hook_takes_may_be_around_calls(load, tmp_path):
    load(Slow())
    code = """
import os, sys, threading, numpy as np, rust_host
lock, over = threading.Lock(), threading.Event()
os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
model, x = rust_host.Model(sys.argv[1]), np.zeros((30, 30), np.float32)
def calls():
    while not over.is_set():
        with lock:
            model(x)
threads = [threading.Thread(target=calls) for _ in range(2)]
[t.start() for t in threads]
for _ in range(5):
    if (child := os.fork()) == 0:
        with lock:
            model(x)
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), end=" ")
over.set()
[t.join() for t in threads]
"""
    result = run(code, str(tmp_path / "Slow.pt"))
    assert (result.returncode, result.stdout, result.stderr) == (0, "7 7 7 7 7 ", "")
