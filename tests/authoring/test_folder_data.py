"""Pictures by class: what a folder becomes, and what is said of a file that is none."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from py_authoring import folder_data
from py_authoring.data import Splits, load_splits
from py_authoring.errors import DataError, NotFoundError
from py_authoring.export import export
from py_authoring.folder_data import PictureFiles
from py_authoring.learnt import Learnt
from py_authoring.pictures import read_picture, resize
from py_authoring.recipe import load_recipe
from py_authoring.training import train

MakeModel = Callable[..., Path]
RECIPE = '[model]\nclass = "Net"\n[data]\nkind = "folder"\npath = "data"\n'
SIZED = RECIPE + "size = { height = 6, width = 8 }\n"
NET = """
from torch import Tensor, nn
from py_authoring.learnt import Learnt
from py_authoring.preprocessing import standardize_channels

class Net(nn.Module):
    def __init__(self, learnt: Learnt) -> None:
        super().__init__()
        self.scale = standardize_channels(learnt)
        self.out = nn.Linear(len(learnt.channels), len(learnt.labels or []))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.out(self.scale(image).mean(dim=(2, 3))), image * 255
"""


def write_pictures(folder: Path, classes: dict[str, int], *, height: int = 6, width: int = 8) -> None:
    random = np.random.default_rng(0)
    for number, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for place in range(count):
            pixels = random.integers(0, 100, (height, width, 3)) + 50 * number
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{place}.png")


def splits_of(folder: Path, *overrides: str, learnt: Learnt | None = None) -> Splits:
    return load_splits(load_recipe(folder, overrides=overrides), learnt)


def names(splits: Splits, part: str) -> set[str]:
    dataset = getattr(splits, part)
    assert isinstance(dataset, PictureFiles)
    return {"/".join(Path(path).parts[-2:]) for path in dataset.paths()}


def test_folder_of_classes_becomes_pictures_with_labels(make_model: MakeModel) -> None:
    folder = make_model("x", RECIPE, NET)
    write_pictures(folder / "data", {"cat": 10, "dog": 10, "emu": 10})
    (folder / "data" / "cat" / ".hidden.png").write_bytes(b"")
    (folder / "data" / "cat" / "notes.txt").write_text("no picture")
    splits = splits_of(folder)
    assert splits.labels == ["cat", "dog", "emu"]
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [21, 3, 6]
    dataset = splits.train
    assert isinstance(dataset, PictureFiles)
    for place, path in enumerate(dataset.paths()):
        inputs, target = dataset[place]
        pixels = torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1)
        assert inputs["image"].dtype == torch.float32
        assert torch.equal(inputs["image"], (pixels.double() * (1 / 255)).float())
        assert (splits.labels or [])[int(target)] == Path(path).parent.name
    assert splits.sha256() == splits_of(folder).sha256()
    Image.new("RGB", (8, 6)).save(folder / "data" / "dog" / "3.png")
    assert splits.sha256() != splits_of(folder).sha256()


def test_channels_are_those_of_the_training_pictures_alone(make_model: MakeModel) -> None:
    folder = make_model("x", RECIPE, NET)
    write_pictures(folder / "data", {"cat": 10, "dog": 10})
    splits = splits_of(folder)
    assert splits.learnt is not None
    pictures = torch.stack([splits.train[place][0]["image"] for place in range(len(splits.train))]).double()
    assert [scale.mean for scale in splits.learnt.channels] == pytest.approx(pictures.mean((0, 2, 3)).tolist())
    deviations = pictures.std((0, 2, 3), correction=0).tolist()
    assert [scale.deviation for scale in splits.learnt.channels] == pytest.approx(deviations, rel=1e-5)


def test_folders_of_splits_are_taken_as_they_are(make_model: MakeModel) -> None:
    folder = make_model("x", RECIPE, NET)
    write_pictures(folder / "data" / "train", {"cat": 6, "dog": 6})
    write_pictures(folder / "data" / "val", {"cat": 2, "dog": 2})
    splits = splits_of(folder)
    assert len(splits.validation) == 4 and len(splits.train) == 10 and len(splits.test) == 2
    write_pictures(folder / "data" / "test", {"cat": 3, "dog": 1})
    splits = splits_of(folder)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [12, 4, 4]
    write_pictures(folder / "data" / "test2" / "x", {})
    (folder / "data" / "test" / "emu").mkdir()
    Image.new("RGB", (8, 6)).save(folder / "data" / "test" / "emu" / "1.png")
    with pytest.raises(DataError, match=r"data`: class `emu` has no sample to train on: its only one is for valid"):
        splits_of(folder)


def test_split_by_hash_moves_no_picture_when_others_are_added(make_model: MakeModel) -> None:
    folder = make_model("x", RECIPE + 'split_by = "hash"\nvalidation = 0.2\n', NET)
    write_pictures(folder / "data", {"cat": 30, "dog": 30}, height=2, width=2)
    before = {part: names(splits_of(folder), part) for part in ("train", "validation", "test")}
    for place in range(100, 130):
        Image.new("RGB", (2, 2)).save(folder / "data" / "cat" / f"{place}.png")
    after = {part: names(splits_of(folder), part) for part in before}
    assert all(before[part] <= after[part] and before[part] for part in before)


def test_pictures_too_many_for_memory_are_read_again_and_are_the_same(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model("x", SIZED, NET)
    write_pictures(folder / "data", {"cat": 8, "dog": 8}, height=9, width=5)
    kept = splits_of(folder)
    monkeypatch.setattr(folder_data, "MOST_BYTES", 200)
    again = splits_of(folder)
    assert isinstance(again.train, PictureFiles) and again.train.decoded is None
    for place in range(len(kept.train)):
        assert torch.equal(kept.train[place][0]["image"], again.train[place][0]["image"])
    assert kept.sha256() == again.sha256() and kept.learnt == again.learnt
    Path(again.train.paths()[0]).write_bytes(b"")
    with pytest.raises(DataError, match=r"\.png` is empty, expected a picture"):
        again.train[0]


def damage(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (damage, r"cat/3\.png`: the picture cannot be decoded: .*truncated"),
        (lambda file: file.write_bytes(b""), r"cat/3\.png` is empty, expected a picture"),
        (lambda file: file.write_text("<html>"), r"cat/3\.png`: the picture cannot be decoded: it is no PNG and no"),
        (lambda file: Image.new("RGB", (8, 6)).save(file, "GIF"), r"cat/3\.png`: .*: it is no PNG and no JPEG"),
        (lambda file: Image.new("RGB", (20000, 1)).save(file), r"cat/3\.png` is 20000 x 1 pixels, expected at most"),
        (lambda file: Image.new("RGB", (9, 6)).save(file), r"cat/3\.png` has 9 x 6 pixels, `.*cat/0\.png` has 8 x 6"),
        (lambda file: [other.unlink() for other in file.parent.iterdir()], r"cat` has no picture, expected \.png"),
    ],
    ids=["truncated", "empty", "html", "gif", "wide", "another size", "no picture"],
)
def test_picture_that_is_none_is_named_before_training(
    make_model: MakeModel, change: Callable[[Path], object], said: str
) -> None:
    folder = make_model("x", RECIPE, NET)
    write_pictures(folder / "data", {"cat": 6, "dog": 6})
    change(folder / "data" / "cat" / "3.png")
    with pytest.raises(DataError, match=said):
        train(folder, say=lambda text: None)
    assert not (folder / "runs").exists()


def test_folder_that_is_none_says_what_is_expected(make_model: MakeModel) -> None:
    folder = make_model("x", RECIPE, NET)
    with pytest.raises(NotFoundError, match=r"data\.path `.*data` is not there"):
        splits_of(folder)
    (folder / "data").mkdir()
    with pytest.raises(DataError, match="data` has no folder of pictures"):
        splits_of(folder)
    write_pictures(folder / "data", {"cat": 3, "dog": 1})
    with pytest.raises(DataError, match=r"class `.*` has no sample to train on"):
        for seed in range(30):
            splits_of(folder, f"data.split_seed={seed}", "data.test=0.3")
    learnt = Learnt(labels=["dog", "emu"])
    with pytest.raises(DataError, match=r"cat/0\.png` is of class `cat`, which was not learnt; those are dog, emu"):
        splits_of(folder, learnt=learnt)


def test_folder_whose_pictures_would_be_dropped_or_misread_is_refused(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model("x", SIZED, NET)
    data = folder / "data"
    write_pictures(data, {"train/cat": 6, "train/dog": 6, "val/cat": 2, "val/dog": 2, "drafts": 1})
    with pytest.raises(DataError, match="has `train`, a folder of folders, beside `drafts`, which is no split"):
        splits_of(folder)
    (data / "drafts").rename(data / "val" / "emu")
    (data / "train" / "cat" / "0.png").rename(data / "train" / "0.png")
    with pytest.raises(DataError, match=r"data/train` has 1 picture in no folder of a class, the first is `0\.png`"):
        splits_of(folder)
    (data / "train" / "0.png").rename(data / "1.png")
    with pytest.raises(DataError, match=r"data` has 1 picture in no folder of a class, the first is `1\.png`"):
        splits_of(folder)
    (data / "1.png").unlink()
    (data / "train" / "cat" / "more").mkdir()
    scandir = os.scandir

    def closed(path: str) -> object:
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match="train/cat/more` cannot be read: permission denied"):
        splits_of(folder)


def test_class_may_be_called_train(make_model: MakeModel) -> None:
    folder = make_model("x", SIZED, NET)
    write_pictures(folder / "data", {"car": 6, "train": 6})
    assert splits_of(folder).labels == ["car", "train"]


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes")
@pytest.mark.parametrize("split_by", ["seed", "hash"])
def test_name_of_a_picture_need_not_be_utf_8(make_model: MakeModel, split_by: str) -> None:
    folder = make_model("x", SIZED + f'split_by = "{split_by}"\n', NET)
    write_pictures(folder / "data", {"cat": 9, "dog": 9})
    (folder / "data" / "cat" / "0.png").rename(os.fsdecode(os.fsencode(folder / "data" / "cat") + b"/caf\xe9.png"))
    splits = splits_of(folder)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 18 and len(splits.sha256()) == 64
    (folder / "data" / "cat").rename(os.fsdecode(os.fsencode(folder / "data") + b"/ch\xe9vre"))
    with pytest.raises(DataError, match="the name of its class is no UTF-8"):
        splits_of(folder)


def test_trained_model_carries_labels_scale_and_how_a_picture_becomes_an_input(make_model: MakeModel) -> None:
    recipe = SIZED + 'color = "L"\n[training]\nepochs = 1\ndevice = "cpu"\n'
    folder = make_model("x", recipe, NET)
    write_pictures(folder / "data", {"cat": 8, "dog": 8}, height=9, width=5)
    run = train(folder, say=lambda text: None)
    assert run.epochs == 1
    version = export(folder)
    image = version.contract.image
    assert image is not None and (image.color, image.size and image.size.height, image.rescale_factor) == (
        "L",
        6,
        1 / 255,
    )
    assert version.contract.outputs[0].labels == ["cat", "dog"]
    learnt = splits_of(folder).learnt
    assert learnt is not None
    scale = torch.jit.load(str(version.path)).scale
    assert scale.mean.item() == pytest.approx(learnt.channels[0].mean) and scale.mean.shape == (1, 1, 1)


@pytest.mark.parametrize("color", ["L", "RGB"])
def test_host_makes_the_same_bytes_of_a_picture(make_model: MakeModel, color: str) -> None:
    pytest.importorskip("rust_host")
    folder = make_model("x", SIZED + f'color = "{color}"\n[training]\nepochs = 1\ndevice = "cpu"\n', NET)
    write_pictures(folder / "data", {"cat": 8, "dog": 8})
    train(folder, say=lambda text: None)
    random = np.random.default_rng(1)
    Path("pictures").mkdir()
    shapes = [(6, 8, 3), (1, 1, 3), (13, 40, 3), (5, 3, 3), (50, 9, 4), (13, 40, 1), (12, 16, 3)]
    for place, (height, width, channels) in enumerate(shapes):
        pixels = random.integers(0, 256, (height, width, channels), dtype=np.uint8)
        Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(f"pictures/{place}.png")
    command = [sys.executable, "-m", "rust_host", "run", str(export(folder).path), "--input", "pictures"]
    subprocess.run([*command, "--output", "out.csv"], check=True, capture_output=True, timeout=60)
    with Path("out.csv").open(newline="") as file:
        for shape, row in zip(shapes, csv.DictReader(file), strict=True):
            seen = [round(float(value)) for name, value in row.items() if name.startswith("output_1.")]
            ours = read_picture(Path(row["path"]).read_bytes(), color, (6, 8), row["path"])
            assert seen == ours.reshape(-1).tolist(), shape


def test_resizing_to_the_same_size_changes_nothing_and_a_flat_picture_stays_flat() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    assert np.array_equal(resize(pixels, 7, 5), pixels)
    assert (resize(np.full((9, 4, 1), 77, np.uint8), 20, 3) == 77).all()
    # a picture twice as large in both directions is the mean of four, weighted by the triangle
    small = resize(np.array([[[0], [100]]], np.uint8).repeat(2, 0).repeat(2, 1), 1, 2)
    assert small[0, :, 0].tolist() == [14, 86]
