"""The optimised form of a model: the same numbers, the same errors, and never where it could be noticed."""

import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rust_host
from rust_host import _torch


class Pictures(nn.Module):
    """Convolutions of several kinds, batch norm, in-place activations, a residual, a view behind them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True))
        self.deep = nn.Sequential(nn.Conv2d(32, 32, 3, padding=2, dilation=2, groups=4), nn.SiLU(inplace=True))
        self.down = nn.Conv2d(32, 48, (3, 1), stride=(2, 1))
        self.head = nn.Sequential(nn.Linear(48 * 15 * 32, 64), nn.GELU(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x += self.deep(x)
        x = torch.sigmoid(self.down(x))
        return self.head(x.view(x.size(0), -1))


class Words(nn.Module):
    """A layer of a transformer, with the dropout that `eval()` switches off."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Layers(nn.Module):
    """Results of several types, a choice, a loop."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(512, 1024), nn.Linear(1024, 512)

    def forward(self, x: Tensor, times: int = 1) -> tuple[Tensor, dict[str, Tensor], int, float, list[Tensor]]:
        all = [x]
        for _ in range(times):
            x = self.b(torch.tanh(self.a(x)))
            if bool(x.sum() > 1e6):
                x = -x
            all.append(x)
        return x, {"largest": x.amax(-1)}, x.dim(), float(x.mean()), all


class Convolutions(nn.Module):
    """Of every kind that the host computes itself, and of some that it leaves to oneDNN."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(3, 5, 3),
                nn.Conv2d(3, 24, 1, bias=False),
                nn.Conv2d(3, 70, (2, 5), (3, 1), (1, 2)),
                nn.Conv2d(3, 33, 7, 2, 3),
                nn.Conv2d(3, 16, 1, 2, 1),
                nn.Conv2d(3, 8, 3, padding=2, dilation=2),
                nn.Conv2d(3, 6, 3, padding=1, groups=3),
            ]
        )
        self.wide, self.last = nn.Conv2d(70, 300, 3, 1, 1), nn.Conv2d(300, 40, 3, 2, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        results: list[Tensor] = []
        for layer in self.layers:
            results.append(torch.relu(layer(x)))
        results.append(torch.nn.functional.silu(self.last(torch.relu(self.wide(results[2])))))
        return results


class Small(nn.Module):
    """Layers of a few numbers, with and without bias and activation."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 17), nn.Linear(17, 33, bias=False), nn.Linear(33, 3)
        with torch.no_grad():
            self.c.weight[1, 2] = float("inf")

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.c(torch.tanh(self.b(torch.relu(self.a(x))))), -1)


class Alone(nn.Module):
    """Nothing but small layers, which are computed in one; the last with an activation that the kernel has not."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 40), nn.Linear(40, 19), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Rows(nn.Module):
    """Small layers without an activation of libtorch's, which has one way for whole vectors and one for the rest."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 19))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Infinite(nn.Module):
    """Layers that oneDNN computes, with a relu behind them."""

    def __init__(self):
        super().__init__()
        self.picture, self.last = nn.Conv2d(32, 32, 3, padding=1, groups=4), nn.Linear(32 * 20 * 20, 9)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.last(torch.relu(self.picture(x)).flatten(1)))


class Branches(nn.Module):
    """What is between small layers is used elsewhere, too, or in a branch; and one of them is too large for a chain."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 600)
        self.d, self.e = nn.Linear(600, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = torch.relu(self.a(x))
        if first.dim() > 1 and first.size(0) > 2:
            return first, self.e(torch.relu(self.d(torch.relu(self.c(self.b(self.b(first)))))))
        return self.b(first), self.e(self.d(self.c(self.b(torch.relu(self.b(first))))))


class Wide(nn.Module):
    """Linear layers that the host multiplies itself, and some that it leaves to oneDNN."""

    def __init__(self):
        super().__init__()
        sizes = ((300, 16), (300, 15), (300, 129), (300, 512), (512, 100))
        self.a, self.b, self.c, self.d, self.e = (nn.Linear(i, o, bias=o != 129) for i, o in sizes)

    def forward(self, x: Tensor) -> list[Tensor]:
        hidden = torch.nn.functional.gelu(self.d(x))
        return [self.a(x), torch.relu(self.b(x)), torch.relu(self.c(x)), torch.tanh(self.e(hidden))]


class Recurrent(nn.Module):
    """An LSTM whose state comes from outside, or is zero."""

    def __init__(self, inputs: int, hidden: int, layers: int, bias: bool, batch_first: bool):
        super().__init__()
        self.cells = nn.LSTM(inputs, hidden, layers, bias=bias, batch_first=batch_first)
        self.head = nn.Linear(hidden, 3)

    def forward(self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        if h is None or c is None:
            y, (h, c) = self.cells(x)
        else:
            y, (h, c) = self.cells(x, (h, c))
        return self.head(y), h, c


class TimeMajor(nn.Module):
    """Splits what an LSTM gives as only a contiguous result can be split."""

    def __init__(self):
        super().__init__()
        self.cells = nn.LSTM(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x)[0].view(-1, 6)


class SamePadding(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(8, 16, 3, padding="same")
        self.d = nn.Conv2d(16, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.c(x))


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(512, 1024)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + torch.rand(1)


class Writes(nn.Module):
    """Changes what it is given, and returns it."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(512, 1024)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x.mul_(2)
        return self.a(x), x


class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(512, 1024)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if x.size(0) == 3:
            raise ValueError("three is one too many")
        return y


class Chaotic(nn.Module):
    """Makes rounding as large as the result."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(512, 1024)

    def forward(self, x: Tensor) -> Tensor:
        return torch.frac(self.a(x) * 1e6)


def saved(module, path, trace=None):
    torch.manual_seed(0)
    module = module().eval()
    for m in module.modules():  # statistics that are not 0 and 1
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.uniform_(-1, 1)
            m.running_var.uniform_(0.5, 2)
    script = torch.jit.script(module) if trace is None else torch.jit.trace(module, trace, check_trace=False)
    torch.jit.save(script, path)
    return torch.jit.load(path)


def floats(*shape):
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def same(got, want):
    if isinstance(want, Tensor):
        np.testing.assert_allclose(np.asarray(got), want.detach().numpy(), rtol=1e-4, atol=1e-5)
    elif isinstance(want, list | tuple):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            same(one, other)
    elif isinstance(want, dict):
        assert got.keys() == want.keys()
        for key in want:
            same(got[key], want[key])
    else:
        assert got == pytest.approx(want, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("traced", [False, True])
def test_pictures_of_every_batch_and_size_give_the_same_numbers(tmp_path, traced):
    path = tmp_path / "m.pt"
    plain = saved(Pictures, path, torch.rand(1, 3, 32, 32) if traced else None)
    model = rust_host.Model(path, "cpu")
    assert model.speed == "unchecked"
    for batch in (4, 1, 2, 9):
        x = floats(batch, 3, 32, 32)
        same(model(x), plain(torch.from_numpy(x)))
        assert model.speed == "optimised"
        turned = np.asfortranarray(x)
        same(model(turned), plain(torch.from_numpy(x)))


def test_convolutions_of_every_size_give_the_same_numbers(tmp_path):
    path = tmp_path / "m.pt"
    plain = saved(Convolutions, path)
    model = rust_host.Model(path, "cpu")
    for sizes in ((2, 3, 9, 8), (1, 3, 7, 5), (3, 3, 16, 16), (1, 3, 40, 61), (2, 3, 5, 29), (0, 3, 9, 9)):
        x = floats(*sizes)
        for y in (x, np.asfortranarray(x), np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)):
            same(model(y), plain(torch.from_numpy(y)))
        assert model.speed == "optimised"
    too_small = floats(1, 3, 2, 2)  # smaller than a kernel
    with pytest.raises(rust_host.FailedError, match="Kernel size can't be greater"):
        model(too_small)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("module", [Words, Layers])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_other_networks_give_the_same_numbers(tmp_path, module, rows):
    path = tmp_path / "m.pt"
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        plain = saved(module, path, torch.rand(1, 5, 64) if module is Words else None)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    model = rust_host.Model(path, "cpu")
    x = floats(2, rows, 64) if module is Words else floats(rows, 512)
    for _ in range(2):
        same(model(x), plain(torch.from_numpy(x)))
        assert model.speed == "optimised"
    if module is Layers:
        same(model(x, times=3), plain(torch.from_numpy(x), times=3))


@pytest.mark.parametrize("module", [Small, Alone, Branches])
@pytest.mark.parametrize("rows", [(), (1,), (2,), (13,), (14,), (15,), (200,), (3, 5), (0,)])
def test_layers_of_a_few_numbers_give_the_same_numbers(tmp_path, module, rows):
    path = tmp_path / "m.pt"
    plain = saved(module, path)
    model = rust_host.Model(path, "cpu")
    x = floats(*rows, 4)
    same(model(floats(2, 4)), plain(torch.from_numpy(floats(2, 4))))
    assert model.speed == "optimised"
    for y in (x, np.asfortranarray(x), x * np.float32(np.inf), x * np.float32(0), -x * np.float32(np.nan)):
        same(model(y), plain(torch.from_numpy(np.ascontiguousarray(y))))


def test_a_row_of_small_layers_has_the_same_numbers_among_others(tmp_path):
    saved(Rows, tmp_path / "m.pt")
    model = rust_host.Model(tmp_path / "m.pt", "cpu")
    x = floats(3000, 4)
    model(x)
    whole = model(x)
    for rows in (1, 2, 3, 7, 8, 9, 500):  # one thread, too, and all
        assert np.array_equal(model(x[:rows]), whole[:rows])


class Misfits(nn.Module):
    """Layers of which the second takes other numbers than the first gives."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Linear(2000, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def test_layers_that_do_not_fit_one_another_are_an_error_in_each_call(tmp_path):
    saved(Misfits, tmp_path / "m.pt")
    model = rust_host.Model(tmp_path / "m.pt", "cpu")
    for _ in range(3):
        with pytest.raises(rust_host.FailedError, match="shapes cannot be multiplied"):
            model(floats(1, 4))


def test_what_is_no_number_stays_none_behind_every_layer(tmp_path):
    plain = saved(Infinite, tmp_path / "m.pt")
    model = rust_host.Model(tmp_path / "m.pt", "cpu")
    x = floats(8, 32, 20, 20)
    same(model(x), plain(torch.from_numpy(x)))
    assert model.speed == "optimised"
    x[3, 5, 7, 7] = np.nan
    got = model(x)
    same(got, plain(torch.from_numpy(x)))
    assert np.isnan(got[3]).all() and not np.isnan(got[4]).any()


@pytest.mark.parametrize("rows", [(), (1,), (7,), (15,), (130,), (2, 3, 9)])
def test_layers_of_many_numbers_give_the_same_numbers(tmp_path, rows):
    plain = saved(Wide, tmp_path / "m.pt")
    model = rust_host.Model(tmp_path / "m.pt", "cpu")
    x = floats(*rows, 300)
    across = np.moveaxis(floats(300, *rows), 0, -1)  # does not lie in one piece
    for each in (x, x, across):
        same(model(each), plain(torch.from_numpy(each)))
        assert model.speed == "optimised"
    with pytest.raises(rust_host.Error, match="301"):
        model(floats(*rows, 301))


@pytest.mark.parametrize(
    ("inputs", "hidden", "layers", "bias", "batch_first"),
    [(4, 5, 1, True, True), (7, 33, 2, False, False), (64, 128, 2, True, True), (3, 16, 3, True, False)],
)
def test_an_lstm_of_every_size_gives_the_same_numbers(tmp_path, inputs, hidden, layers, bias, batch_first):
    path = tmp_path / "m.pt"
    plain = saved(lambda: Recurrent(inputs, hidden, layers, bias, batch_first), path)
    model = rust_host.Model(path, "cpu")
    for batch, time in [(1, 9), (1, 1), (2, 5), (3, 4), (5, 3), (7, 6), (8, 2), (9, 4), (40, 3)]:
        x = floats(batch, time, inputs) if batch_first else floats(time, batch, inputs)
        state = [floats(layers, batch, hidden), floats(layers, batch, hidden)[::-1]]
        before = [s.copy() for s in state]
        for given in ([x], [x, *state], [x * np.float32(1e30), *state], [x * np.float32(np.nan), *state]):
            same(model(*given), plain(*(torch.from_numpy(g.copy()) for g in given)))
        assert model.speed == "optimised"
        assert all(np.array_equal(s, b) for s, b in zip(state, before, strict=True))
    alone = floats(4, inputs)
    same(model(alone), plain(torch.from_numpy(alone)))
    wrong = floats(2, 3, inputs + 1), *(floats(layers, 2 if batch_first else 3, hidden) for _ in range(2))
    with pytest.raises(rust_host.FailedError, match="must be equal to input_size"):
        model(*wrong)
    rows = 2 if batch_first else 3
    with pytest.raises(rust_host.FailedError, match="Expected hidden"):
        model(floats(2, 3, inputs), floats(layers, rows + 1, hidden), floats(layers, rows + 1, hidden))


def test_an_lstm_with_time_first_lies_in_memory_as_libtorchs_does(tmp_path):
    path = tmp_path / "m.pt"
    plain = saved(TimeMajor, path)
    model = rust_host.Model(path, "cpu")
    for batch in (1, 5):
        x = floats(3, batch, 4)
        same(model(x), plain(torch.from_numpy(x)))
    assert model.speed == "optimised"


@pytest.mark.parametrize(
    ("module", "shape"),
    [(Pictures, (3, 32, 32)), (SamePadding, (2, 8, 9, 9)), (SamePadding, (8, 9, 9)), (Writes, (2, 512))],
)
def test_what_libtorchs_own_optimiser_breaks_gives_the_same_numbers(tmp_path, module, shape):
    path = tmp_path / "m.pt"
    plain = saved(module, path)
    model = rust_host.Model(path, "cpu")
    x = floats(*shape)
    before = x.copy()
    for _ in range(3):
        if module is Pictures:  # of a single picture; torch.jit forgets batch norm's own check behind a convolution
            with pytest.raises(rust_host.FailedError, match=r"expected 4D input \(got 3D input\)"):
                model(x)
        else:
            same(model(x), plain(torch.from_numpy(x.copy())))
    np.testing.assert_array_equal(x, before)


def test_other_types_and_shapes_are_told_in_the_plain_forms_words(tmp_path):
    path = tmp_path / "m.pt"
    saved(Layers, path)
    fast, plain = rust_host.Model(path, "cpu"), rust_host.Model(path, "cpu", optimise=False)
    x = floats(1000, 512)
    fast(x)
    assert (fast.speed, plain.speed) == ("optimised", "plain")
    for wrong in (x[:, :511], x.astype(np.float64), x.astype(np.int64), x[0, 0], x.astype(np.complex64)):
        errors = []
        for model in (fast, plain):
            with pytest.raises(rust_host.Error) as error:
                model(np.ascontiguousarray(wrong))
            errors.append(str(error.value))
        assert errors[0] == errors[1]
    for empty in (x[:0], floats(0, 7, 512)):
        np.testing.assert_array_equal(fast(empty)[0], plain(empty)[0])
    same(fast(x[0])[0], torch.from_numpy(plain(x[0])[0]))


def test_other_numbers_are_not_taken(tmp_path):
    path = tmp_path / "m.pt"
    saved(Chaotic, path)
    model = rust_host.Model(path, "cpu")
    x = floats(1000, 512)
    want = rust_host.Model(path, "cpu", optimise=False)(x)
    for _ in range(3):
        np.testing.assert_array_equal(model(x), want)
        assert model.speed == "dropped"


def test_a_model_of_chance_runs_once_a_call(tmp_path):
    path = tmp_path / "m.pt"
    saved(Random, path)
    model, plain = rust_host.Model(path, "cpu"), rust_host.Model(path, "cpu", optimise=False)
    x = floats(4, 512)
    assert model.speed == "plain"
    torch.manual_seed(5)
    first = model(x)
    torch.manual_seed(5)
    np.testing.assert_array_equal(first, plain(x))


def test_an_error_of_the_first_call_says_nothing_of_the_second(tmp_path):
    path = tmp_path / "m.pt"
    saved(Raises, path)
    model = rust_host.Model(path, "cpu")
    for _ in range(2):
        with pytest.raises(rust_host.FailedError, match="three is one too many"):
            model(floats(3, 512))
    assert model.speed == "unchecked"
    model(floats(1000, 512))
    assert model.speed == "optimised"
    with pytest.raises(rust_host.FailedError, match="three is one too many"):
        model(floats(3, 512))


def test_results_are_the_callers_alone(tmp_path):
    """A constant of the optimised graph must not leave it."""

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(512, 1024)
            self.kept = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self.a(x), self.kept, self.kept[1:]

    path = tmp_path / "m.pt"
    saved(Constant, path)
    model = rust_host.Model(path, "cpu")
    for _ in range(3):
        _, kept, part = model(floats(1000, 512))
        assert kept.tolist() == [1, 1, 1] and part.tolist() == [1, 1]
        kept[:] = 7
        part[:] = 7


def test_layers_share_the_threads_of_libtorchs_own():
    # at::parallel_for is inline: compiled without OpenMP it runs everything on one thread, and says nothing
    (library,) = _torch.own_libraries().iterdir()
    assert b"GOMP_parallel" in library.read_bytes()


def test_many_threads_may_make_the_first_call(tmp_path):
    path = tmp_path / "m.pt"
    plain = saved(Layers, path)
    x = floats(1000, 512)
    want = plain(torch.from_numpy(x))
    for _ in range(5):
        model = rust_host.Model(path, "cpu")
        failures = []

        def call(model=model, failures=failures):
            try:
                same(model(x), want)
            except BaseException as e:
                failures.append(e)

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures and model.speed == "optimised"
