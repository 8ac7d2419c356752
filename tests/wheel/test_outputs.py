"""Results are the caller's own: they outlive inputs and model, and writing to them changes nothing else."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import rust_host


class Aliases(nn.Module):
    """Returns what it must not let out: an input, a weight, views of both, and one tensor twice."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(float(size)))

    def forward(self, x):
        y = x * 2
        return x, x.view(-1)[1:], self.weight, self.weight[::2], y, y, y.view(-1)[1:], y.sum().expand(4000)


SIZES = [8, 4000]  # below and above the size from which memory is shared


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("to", ["numpy", "torch"])
def test_results_can_be_written_to_without_changing_input_weight_or_each_other(load, size, to):
    model, _ = load(Aliases(size), to=to)
    x = np.arange(size, dtype=np.float32) + 1
    before = x.copy()
    first = [np.asarray(r).copy() for r in model(x)]
    for i in range(len(first)):
        results = model(x)
        results[i][...] = -7
        for j, (result, expected) in enumerate(zip(results, first, strict=True)):
            if i != j:
                np.testing.assert_array_equal(np.asarray(result), expected, err_msg=f"{i} changed {j}")
        np.testing.assert_array_equal(x, before)
    for result, expected in zip(model(x), first, strict=True):
        np.testing.assert_array_equal(np.asarray(result), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("to", ["numpy", "torch"])
def test_results_stay_valid_after_inputs_and_model_are_gone(load, size, to):
    model, _ = load(Aliases(size), to=to)
    x = np.arange(size, dtype=np.float32)
    results = model(x)
    copies = [np.asarray(r).copy() for r in results]
    gone = weakref.ref(x)
    del model, x
    gc.collect()
    assert gone() is None
    for _ in range(10):
        np.full(size, 9, np.float32)  # would land in memory that was freed too early
        torch.full((size,), 9.0)
    for result, copy in zip(results, copies, strict=True):
        np.testing.assert_array_equal(np.asarray(result), copy)


def test_a_large_result_is_not_copied_and_its_base_keeps_it_alive(load):
    class Large(nn.Module):
        def forward(self, x):
            return (x * 2).t()[1:]

    model, _ = load(Large())
    result = model(np.ones((50, 60), np.float32))
    assert result.base is not None
    assert not result.flags.owndata
    assert result.flags.writeable
    assert result.strides == (4, 240)
    view = result[3:, ::2]
    del result
    gc.collect()
    assert (view == 2).all()


def test_torch_tensors_come_out_on_request_and_share_their_memory(load):
    class Both(nn.Module):
        def forward(self, x):
            return x.t() * 2, x.to(torch.bfloat16), x > 0, x.to(torch.uint16), 3

    model, script = load(Both())
    x = torch.arange(6.0).reshape(2, 3)
    by_run = model.run({"x": x}, to="torch")
    for ours, theirs in zip(by_run.values(), script(x), strict=True):
        if isinstance(theirs, torch.Tensor):
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert by_run["output_4"] == 3
    assert isinstance(model(x)[0], np.ndarray)
    always, _ = load(Both(), to="torch")
    assert isinstance(always(x)[0], torch.Tensor)
    assert isinstance(always.run({"x": x}, to="numpy")["output_0"], np.ndarray)
    with pytest.raises(rust_host.InvalidInputError, match="expected numpy or torch"):
        model.run({"x": x}, to="jax")


def test_a_model_that_keeps_its_input_can_be_dropped_from_any_thread(load):
    class Keeps(nn.Module):
        kept: torch.Tensor

        def __init__(self):
            super().__init__()
            self.kept = torch.zeros(1)

        def forward(self, x):
            self.kept = x
            return x.sum()

    model, _ = load(Keeps())
    array = np.ones((1000,), np.float32)
    gone = weakref.ref(array)
    assert model(array) == 1000
    del array, model
    gc.collect()
    rust_host.threads()  # the reference comes back when the GIL is next taken
    assert gone() is None
