"""Every kind of data becomes the same splits each time, and says what is wrong with a file."""

import gzip
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from py_authoring.data import ArrayDataset, TrainingBatches, collate, load_splits
from py_authoring.data_sources import _scale, read_idx
from py_authoring.errors import DataError, NotFoundError
from py_authoring.recipe import load_recipe

MakeModel = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]


def write_idx(path: Path, array: np.ndarray, *, compress: bool) -> None:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    data = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if compress else data)


def write_mnist(folder: Path, *, compress: bool, test: bool = True) -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir()
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (30, 28, 28)), np.arange(30) % 10
    suffix = ".gz" if compress else ""
    write_idx(folder / f"train-images-idx3-ubyte{suffix}", images, compress=compress)
    write_idx(folder / f"train-labels-idx1-ubyte{suffix}", labels, compress=compress)
    if test:
        write_idx(folder / f"t10k-images-idx3-ubyte{suffix}", images[:5], compress=compress)
        write_idx(folder / f"t10k-labels-idx1-ubyte{suffix}", labels[:5], compress=compress)
    return images, labels


@pytest.mark.parametrize("compress", [True, False])
def test_own_mnist_folder_works_gzipped_or_not(tmp_path: Path, compress: bool) -> None:
    images, labels = write_mnist(tmp_path / "my_mnist", compress=compress)
    resolved = load_recipe(ROOT / "models" / "mnist", overrides=["data.kind=idx", "data.path=my_mnist"])
    splits = load_splits(resolved)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (27, 3, 5)
    assert splits.labels == [str(number) for number in range(10)]
    inputs, target = splits.test[2]
    assert torch.equal(inputs["image"], torch.tensor(images[2:3], dtype=torch.float32) / 255)
    assert inputs["image"].shape == (1, 28, 28) and target.item() == labels[2]


def test_mnist_folder_without_test_files_is_split(tmp_path: Path) -> None:
    write_mnist(tmp_path / "m", compress=False, test=False)
    splits = load_splits(load_recipe(ROOT / "models" / "mnist", overrides=["data.kind=idx", "data.path=m"]))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (21, 3, 6)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is no IDX file: it begins with nothing"),
        (b"\x89PNG", "is no IDX file: it begins with 89 50 4e 47"),
        (b"\0\0\x0d\x01\0\0\0\0", "holds IDX type 0x0d, expected 0x08"),
        (b"\0\0\x08\x01\0\0\0\x05abcd", r"has 12 bytes, its shape \[5\] needs 13"),
        (b"\0\0\x08\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "has 16 bytes, its shape"),
        (b"\x1f\x8bnot gzip", "cannot be read"),
        (b"\0\0\x08\x64" + bytes(400), "states 100 axes, expected at most 32"),
        (b"\0\0\x08\x02\0\0", "has 6 bytes, its shape"),
        (b"\0\0\x08\x01\0\0\0\x01abc", r"has more bytes than its shape \[1\] needs"),
        (gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12), "has 16 bytes, its shape"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x01a")[:-9], "cannot be read"),
    ],
)
def test_file_that_is_no_idx_file_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    file = tmp_path / "x"
    file.write_bytes(data)
    with pytest.raises(DataError, match=said):
        read_idx(file)


def test_little_gzip_file_does_not_fill_the_memory(tmp_path: Path) -> None:
    file = tmp_path / "bomb"
    with gzip.open(file, "wb") as packed:
        packed.write(b"\0\0\x08\x01\0\0\0\x05")
        for _ in range(64):
            packed.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"has more bytes than its shape \[5\] needs"):
        read_idx(file)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 << 20


def test_idx_folder_without_a_sample_says_so(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    write_idx(tmp_path / "m" / "train-images-idx3-ubyte", np.zeros((0, 28, 28)), compress=False)
    write_idx(tmp_path / "m" / "train-labels-idx1-ubyte", np.zeros(0), compress=False)
    with pytest.raises(DataError, match="m` has files of 0 samples"):
        load_splits(load_recipe(ROOT / "models" / "mnist", overrides=["data.kind=idx", "data.path=m"]))


def test_idx_folder_that_lacks_files_says_which(tmp_path: Path) -> None:
    recipe = ROOT / "models" / "mnist"
    with pytest.raises(NotFoundError, match=r"data\.path `.*nowhere` is no folder"):
        load_splits(load_recipe(recipe, overrides=["data.kind=idx", "data.path=nowhere"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="has no MNIST files: expected train-images-idx3-ubyte"):
        load_splits(load_recipe(recipe, overrides=["data.kind=idx", "data.path=empty"]))
    write_mnist(tmp_path / "half", compress=False)
    (tmp_path / "half" / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(NotFoundError, match="is there, but the file of its train"):
        load_splits(load_recipe(recipe, overrides=["data.kind=idx", "data.path=half"]))


def test_digits_are_enlarged_between_zero_and_one_and_split_the_same_each_time() -> None:
    resolved = load_recipe(ROOT / "models" / "mnist")
    one, two = load_splits(resolved), load_splits(resolved)
    assert (len(one.train), len(one.validation), len(one.test)) == (1259, 179, 359)
    assert one.sha256() == two.sha256()
    images = torch.stack([one.train[index][0]["image"] for index in range(len(one.train))])
    assert images.shape == (1259, 1, 28, 28) and images.dtype == torch.float32
    assert images.min() == 0 and 0.95 < images.max() <= 1
    other = load_splits(load_recipe(ROOT / "models" / "mnist", overrides=["data.split_seed=1"]))
    assert other.sha256() != one.sha256()


CSV = '[model]\nclass = "A"\n[data]\nkind = "csv"\npath = "a.csv"\ntarget = "kind"\n'


def test_csv_with_names_as_classes(make_model: MakeModel) -> None:
    folder = make_model("x", CSV)
    rows = [f"{i},{i / 2},{['cat', 'dog'][i % 2]}" for i in range(20)]
    (folder / "a.csv").write_text("a,b,kind\n" + "\n".join(rows) + "\n")
    splits = load_splits(load_recipe(folder))
    assert splits.labels == ["cat", "dog"] and (len(splits.train), len(splits.validation)) == (14, 2)
    inputs, target = splits.train[0]
    assert inputs["features"].shape == (2,) and inputs["features"][0].item() % 2 == target.item()


def test_csv_with_numbers_to_predict(make_model: MakeModel) -> None:
    folder = make_model("x", CSV + 'task = "regression"\nfeatures = ["a"]\ndelimiter = ";"\n')
    (folder / "a.csv").write_text("a;b;kind\n" + "\n".join(f"{i};x;{i * 3}" for i in range(20)))
    inputs, target = load_splits(load_recipe(folder)).train[0]
    assert target.dtype == torch.float32 and target.item() == inputs["features"].item() * 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no column `kind`|has no rows"),
        ("a,kind\n", "has no rows below its header"),
        ("a,kin\n1,x\n", "has no column `kind`; did you mean kin"),
        ("a,kind\n1,x\n2\n", r"a\.csv:3: 1 fields, the header has 2"),
        ("a,kind\n1,x\ntwo,y\n", r"a\.csv:3: column `a` is 'two', expected a number"),
    ],
)
def test_csv_that_is_wrong_names_its_line(make_model: MakeModel, text: str, said: str) -> None:
    folder = make_model("x", CSV)
    (folder / "a.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        load_splits(load_recipe(folder))


NPZ = '[model]\nclass = "A"\n[data]\nkind = "npz"\npath = "a.npz"\n'


def test_npz_arrays_are_inputs_by_name(make_model: MakeModel) -> None:
    folder = make_model("x", NPZ)
    np.savez(folder / "a.npz", x=np.ones((10, 3)), h=np.zeros((10, 2)), target=np.arange(10, dtype=np.int32))
    inputs, target = load_splits(load_recipe(folder)).train[0]
    assert {name: value.shape for name, value in inputs.items()} == {"x": (3,), "h": (2,)}
    assert inputs["x"].dtype == torch.float32 and target.dtype == torch.int64


def test_npz_that_is_wrong_is_refused(make_model: MakeModel) -> None:
    folder = make_model("x", NPZ)
    file = folder / "a.npz"
    with pytest.raises(NotFoundError, match=r"a\.npz` is not there"):
        load_splits(load_recipe(folder))
    file.write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"is no \.npz file of plain arrays"):
        load_splits(load_recipe(folder))
    np.savez(file, x=np.array([{}] * 10), target=np.zeros(10))
    with pytest.raises(DataError, match=r"is no \.npz file of plain arrays"):
        load_splits(load_recipe(folder))
    np.save(folder / "x.npy", np.ones((10, 2)))
    broken = (folder / "x.npy").read_bytes().replace(b"'shape': (10, 2)", b"'shape': (10, 2(")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", broken)
    with pytest.raises(DataError, match=r"is no \.npz file of plain arrays"):
        load_splits(load_recipe(folder))
    with file.open("wb") as plain:
        np.save(plain, np.ones(10))
    with pytest.raises(DataError, match=r"is a \.npy file of one array, expected \.npz"):
        load_splits(load_recipe(folder))
    np.savez(file, x=np.ones((10, 2)), target=np.zeros(10), seed=1)
    with pytest.raises(DataError, match="array `seed` is one value, expected an axis of samples"):
        load_splits(load_recipe(folder))
    np.savez(file, x=np.ones(10))
    with pytest.raises(DataError, match="has no array `target`; it has x"):
        load_splits(load_recipe(folder))
    np.savez(file, x=np.ones(10), target=np.zeros(9))
    with pytest.raises(DataError, match="has 10 samples of `x` and 9 of the target"):
        load_splits(load_recipe(folder))


def test_arrays_teach_scales_and_counts_of_the_training_samples(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model("x", NPZ)
    x = np.random.default_rng(0).normal(3, 2, (40, 3)).astype(np.float32)
    np.savez(folder / "a.npz", x=x, target=np.arange(40) % 3)
    splits = load_splits(load_recipe(folder))
    assert splits.learnt is not None and isinstance(splits.train, ArrayDataset)
    values = splits.train.inputs["x"]
    assert isinstance(values, torch.Tensor) and list(splits.learnt.numbers) == ["x.0", "x.1", "x.2"]
    assert splits.learnt.numbers["x.1"].mean == pytest.approx(values[:, 1].double().mean().item())
    assert splits.learnt.class_counts == torch.bincount(splits.train.target).tolist()
    numbers = load_splits(load_recipe(folder, overrides=["loss.name=mse"])).learnt
    assert numbers is not None and numbers.target is not None and numbers.class_counts is None
    assert numbers.target.mean == pytest.approx(splits.train.target.double().mean().item())
    images, _ = write_mnist(tmp_path / "m", compress=False)
    splits = load_splits(load_recipe(ROOT / "models" / "mnist", overrides=["data.kind=idx", "data.path=m"]))
    assert splits.learnt is not None and isinstance(splits.train, ArrayDataset) and len(images) == 30
    pixels = torch.stack([splits.train[place][0]["image"] for place in range(len(splits.train))]).double()
    (scale,) = splits.learnt.channels
    assert (scale.mean, scale.deviation) == pytest.approx((pixels.mean().item(), pixels.std(correction=0).item()))


def test_channel_of_one_value_has_deviation_1() -> None:
    for value in range(256):
        assert _scale(torch.full((3, 7, 7), value, dtype=torch.uint8)).deviation == 1.0
    assert _scale(torch.full((30,), 0.1)).deviation == _scale(torch.full((7,), -3e9)).deviation == 1.0
    assert 0 < _scale(torch.tensor([1.0, 1.0000001])).deviation < 1e-6


def test_class_of_an_idx_folder_without_a_sample_to_train_on_is_named(tmp_path: Path) -> None:
    images, labels = write_mnist(tmp_path / "m", compress=False)
    write_idx(tmp_path / "m" / "train-labels-idx1-ubyte", np.minimum(labels, 8), compress=False)
    with pytest.raises(DataError, match=r"/m`: class `9` has no sample to train on: its only one is for validation"):
        write_idx(tmp_path / "m" / "t10k-labels-idx1-ubyte", np.array([0, 1, 2, 3, 9]), compress=False)
        load_splits(load_recipe(ROOT / "models" / "mnist", overrides=["data.kind=idx", "data.path=m"]))
    assert len(images) == 30


@pytest.mark.parametrize("kind", ["npz", "digits"])
def test_arrays_split_by_hash_stay_where_they_are(make_model: MakeModel, kind: str) -> None:
    folder = make_model("x", NPZ)
    x = np.arange(200, dtype=np.float32)[:, None]
    np.savez(folder / "a.npz", x=x, target=np.zeros(200, np.float32))
    where = ["data.split_by=hash", "loss.name=mse"]
    if kind == "digits":
        splits = load_splits(load_recipe(ROOT / "models" / "mnist", overrides=where[:1]))
        assert abs(len(splits.test) / 1797 - 0.2) < 0.03 and abs(len(splits.validation) / 1797 - 0.1) < 0.03
        return
    before = load_splits(load_recipe(folder, overrides=where)).test
    np.savez(folder / "a.npz", x=x[::-1][:150], target=np.zeros(150, np.float32))
    after = load_splits(load_recipe(folder, overrides=where)).test
    assert isinstance(before, ArrayDataset) and isinstance(after, ArrayDataset)
    held = {float(value) for value in before.inputs["x"]}
    assert {float(value) for value in after.inputs["x"]} == {value for value in held if value >= 50}


def test_sequences_of_unequal_length_are_padded_in_a_batch() -> None:
    dataset = ArrayDataset({"tokens": [torch.tensor([1, 2, 3]), torch.tensor([4])]}, torch.tensor([0, 1]))
    inputs, target = collate(dataset)([dataset[0], dataset[1]])
    assert inputs["tokens"].tolist() == [[1, 2, 3], [4, 0, 0]] and target.tolist() == [0, 1]


def test_order_of_an_epoch_depends_on_seed_and_epoch_and_covers_every_sample() -> None:
    dataset = ArrayDataset({"x": torch.arange(23.0)}, torch.arange(23))
    done = 0
    batches = TrainingBatches(dataset, 4, seed=5, iterations_done=lambda: done)
    orders = {
        (seed, epoch): TrainingBatches(dataset, 4, seed, lambda: 0).order(epoch) for seed in (5, 6) for epoch in (0, 1)
    }
    assert len(batches) == 6 and len({str(order) for order in orders.values()}) == 4
    whole = [target.tolist() for _, target in batches]
    assert sorted(index for batch in whole for index in batch) == list(range(23)) and whole == orders[5, 0]
    done = 4
    assert [target.tolist() for _, target in batches] == whole[4:]
    done = 6
    assert [target.tolist() for _, target in batches] == orders[5, 1]


def test_function_that_returns_something_else_is_refused(make_model: MakeModel) -> None:
    recipe = '[model]\nclass = "A"\n[data]\nkind = "function"\n'
    for code, said in {
        "": "has no function `load_data`",
        "def load_data(): return 3": "must return .inputs, target., or three such pairs; it returned int",
        "def load_data(): return [1], [2]": "must return its inputs as a dict",
        "def load_data():\n    return 1 / 0": r"model\.py:2: ZeroDivisionError: division by zero",
        "def load_data(": r"model\.py:1: SyntaxError",
        "def load_data(): return {'x': [[1.0]]}, ['a']": "is no array of numbers",
    }.items():
        folder = make_model("x", recipe, code)
        with pytest.raises(ValueError, match=said):
            load_splits(load_recipe(folder))


def test_batch_gathered_from_an_array_is_that_of_its_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8, generator=generator)
    numbers = torch.randn(3, 20, generator=generator).T  # not contiguous
    target = torch.arange(20)
    whole = ArrayDataset({"image": pictures, "x": numbers}, target)
    padded = ArrayDataset({"x": [torch.ones(1 + i % 3) for i in range(20)]}, target)
    for dataset in (whole, padded):
        batches = TrainingBatches(dataset, 8, seed=1, iterations_done=lambda: 0)
        for order, (inputs, found) in zip(batches.order(0), batches, strict=True):
            expected, labels = collate(dataset)([dataset[index] for index in order])
            assert torch.equal(found, labels) and found.is_contiguous()
            for name, value in expected.items():
                assert torch.equal(inputs[name], value) and inputs[name].stride() == value.stride()
    assert whole.gather([3]) is not None and padded.gather([3]) is None
