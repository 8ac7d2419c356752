"""Models that keep state between calls: nobody's state is mixed with another's, and PyTorch's numbers, bit by bit."""

import gc
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

import rust_host

sys.path.insert(0, str(Path(__file__).parent))
import stateful_models as models

RANDOM = np.random.default_rng(0)
CALLS = [RANDOM.standard_normal(2).astype(np.float32) for _ in range(24)]


def results(call, inputs=CALLS):
    return [call(x.copy()) for x in inputs]


def same(got, expected):
    return len(got) == len(expected) and all(np.array_equal(g, e) for g, e in zip(got, expected, strict=True))


def by_torch(script, inputs=CALLS):
    with torch.inference_mode():
        return [script(torch.from_numpy(x.copy())).numpy().copy() for x in inputs]


@pytest.mark.parametrize("kind", models.STATEFUL, ids=lambda k: k.__name__)
def test_state_is_found_kept_and_each_sessions_own(load, tmp_path, kind):
    model, script = load(kind())
    assert model.stateful
    # 24 calls of a model of its own, of two interleaved sessions, and of PyTorch.
    other = [-x for x in CALLS]
    a, b = model.session(), model.session()
    interleaved = [(a(x.copy()), b(y.copy())) for x, y in zip(CALLS, other, strict=True)]
    expected = by_torch(script)
    assert same(results(model), expected)
    assert same([x for x, _ in interleaved], expected)
    again = torch.jit.load(str(tmp_path / f"{kind.__name__}.pt"))
    assert same([y for _, y in interleaved], by_torch(again, other))
    # A session is as the file is, whatever was called before, also one made of a session.
    assert same(results(a.session()), expected)


@pytest.mark.parametrize("kind", models.STATELESS, ids=lambda k: k.__name__)
def test_what_only_looks_like_state_is_none(load, kind):
    model, script = load(kind())
    assert not model.stateful
    expected = by_torch(script)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda call: results(call), [model, model, model.session(), model.session()]):
            assert same(got, expected)


def test_an_input_that_a_model_keeps_is_the_models_own(load):
    model, _ = load(models.Keeps())
    x = np.ones(5000, np.float32)
    model(x)
    x[:] = 7
    assert model(x)[0] == 1
    x[:] = 9
    assert model(x)[0] == 7


def test_another_thread_is_told_to_take_a_session(load):
    model, _ = load(models.Counter())
    x = np.ones(2, np.float32)
    assert model(x)[0] == 1

    def call():
        with pytest.raises(rust_host.InvalidInputError, match="belongs to the thread that called it first") as caught:
            model(x)
        assert "model.session()" in caught.value.hint
        return model.session()(x)[0]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(call).result() == 1
    assert model(x)[0] == 2


def test_a_call_that_does_not_fit_takes_no_possession(load):
    model, _ = load(models.Counter())
    with pytest.raises(rust_host.InvalidInputError):
        model("no tensor")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(model, np.ones(2, np.float32)).result()[0] == 1


def test_a_session_may_move_between_threads(load):
    model, _ = load(models.Counter())
    session, x = model.session(), np.ones(2, np.float32)
    for expected in (1, 2, 3):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(session, x).result()[0] == expected


class Slow(nn.Module):
    """Two counters, which differ when two calls overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0
        self.ended = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.begun += 1
        if self.begun != self.ended + 1:
            raise ValueError("torn")
        for _ in range(20):
            x = torch.tanh(x @ x)
        self.ended += 1
        return torch.tensor([self.begun])


def test_two_calls_of_one_session_at_once_are_refused_and_never_mixed(load):
    model, _ = load(Slow())
    session, x = model.session(), np.zeros((128, 128), np.float32)
    start = threading.Barrier(6)

    def work(_):
        start.wait()
        counts, refused = [], 0
        for _ in range(60):
            try:
                counts.append(int(session(x)[0]))
            except rust_host.InvalidInputError as error:
                assert "busy with another call" in str(error) and "model.session()" in str(error)
                refused += 1
        return counts, refused

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(work, range(6)))
    counts = sorted(c for found, _ in answers for c in found)
    assert counts == list(range(1, len(counts) + 1))
    assert sum(refused for _, refused in answers) > 0
    assert int(session(x)[0]) == len(counts) + 1


def test_sessions_at_once_are_as_good_as_one_after_the_other(load):
    model, script = load(models.Speech())
    chunks = [RANDOM.standard_normal((1, 16)).astype(np.float32) for _ in range(40)]
    with torch.inference_mode():
        expected = [script(torch.from_numpy(c), 16000).numpy() for c in chunks]

    def work(_):
        session = model.session()
        return [session(c, 16000) for c in chunks]

    with ThreadPoolExecutor(6) as pool:
        for got in pool.map(work, range(12)):
            assert same(got, expected)


def test_an_error_of_the_model_ends_the_turn(load):
    model, _ = load(models.Speech())
    session = model.session()
    with pytest.raises(rust_host.FailedError, match="Provided number of samples is 3"):
        session(np.ones((1, 3), np.float32), 16000)
    assert session(np.ones((1, 16), np.float32), 16000).shape == (1, 1)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Heavy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1 << 20))  # 4 MB
        self.count = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x * self.weight[0] * self.count


def test_sessions_share_the_weights_and_are_freed(load):
    model, _ = load(Heavy())
    x = np.ones(2, np.float32)
    before = resident()
    sessions = [model.session() for _ in range(50)]
    assert all(s(x)[0] == 1 for s in sessions)
    assert resident() - before < 20 << 20
    del model
    gc.collect()
    assert sessions[7](x)[0] == 2
    for _ in range(2000):
        sessions[0].session()
    assert resident() - before < 30 << 20


def test_each_golden_example_is_replayed_in_a_session_of_its_own(tmp_path):
    def tensor(name):
        return {"name": name, "datatype": "FP32", "shape": [2], "dims": [2]}

    contract = {
        "format_version": 1,
        "name": "counter",
        "platform": "pytorch_torchscript",
        "inputs": [tensor("x")],
        "outputs": [{**tensor("y"), "rtol": 0, "atol": 0}],
        "returns": "y",
        "golden": {"file": "golden.safetensors", "count": 3},
        "producer": {"name": "a test", "version": "1"},
    }
    golden = {f"{i}.{kind}": torch.ones(2) for i in range(3) for kind in ("input.x", "output.y")}
    files = {"contract.json": json.dumps(contract).encode(), "golden.safetensors": save(golden)}
    torch.jit.save(torch.jit.script(models.Counter()), str(tmp_path / "m.pt"), _extra_files=files)
    model = rust_host.Model(tmp_path / "m.pt")
    x = np.ones(2, np.float32)
    model(x)
    assert model.verify().ok
    assert model(x)[0] == 2
