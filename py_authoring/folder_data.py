"""A folder of pictures, one folder for each class → samples.

In: the recipe's data section. Out: `Splits`. Every picture is decoded once at the start: one that cannot be is named
before the training begins, and means and deviations are those of all training pictures.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from py_authoring.data import Sample, Splits
from py_authoring.errors import DataError, NotFoundError
from py_authoring.learnt import Learnt, Scale
from py_authoring.pictures import Pixels, levels, read_picture
from py_authoring.recipe_sections import FolderData, ImageSection
from py_authoring.splitting import ALIASES, SPLITS, Parts, count_classes_in, fill_parts, split_by_names, split_indices

_ENDINGS = (".png", ".jpg", ".jpeg")
_FACTOR = 1 / 255
#: Decoded pictures stay in memory up to so many bytes; beyond it each is read again when its turn comes.
MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class _File:
    path: Path
    name: str
    label: str
    split: str | None


class PictureFiles(Dataset[Sample]):
    """Pictures as samples, float32 `[channels, height, width]` in [0, 1]; from memory where they fit.

    Args:
        files: the files.
        target: their class numbers, int64 `[samples]`.
        section: the recipe's.
        decoded: what was kept, by place in `files`; None where nothing was.
        digests: one for each file.
    """

    def __init__(
        self,
        files: Sequence[_File],
        target: Tensor,
        section: FolderData,
        decoded: Sequence[Pixels] | None,
        digests: Sequence[bytes],
    ) -> None:
        self.files, self.target, self.section, self.decoded = files, target, section, decoded
        self.digests = digests
        self._levels = levels(_FACTOR, torch.float32)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        pixels = self.decoded[index] if self.decoded is not None else _decode(self.files[index], self.section)[0]
        return {self.section.input: self._levels[torch.from_numpy(pixels.astype(np.int64))]}, self.target[index]

    def paths(self) -> list[str]:
        """Where each sample comes from."""
        return [str(file.path) for file in self.files]

    def samples_sha256(self) -> bytes:
        """Of names, classes and bytes of all files."""
        digest = hashlib.sha256()
        for file, number, data in zip(self.files, self.target.tolist(), self.digests, strict=True):
            digest.update(os.fsencode(file.name) + f"\0{number}\0".encode() + data)
        return digest.digest()

    def subset(self, indices: Tensor) -> PictureFiles:
        """The samples at `indices`, int64 `[n]`."""
        chosen = indices.tolist()
        decoded = None if self.decoded is None else [self.decoded[index] for index in chosen]
        files, digests = [self.files[index] for index in chosen], [self.digests[index] for index in chosen]
        return PictureFiles(files, self.target[indices], self.section, decoded, digests)


def load_folder(section: FolderData, learnt: Learnt | None) -> Splits:
    """Finds, decodes and splits the pictures of a folder.

    Args:
        section: the recipe's.
        learnt: what an earlier training learnt: classes keep their numbers.

    Raises:
        NotFoundError, DataError: no folder, no class, no picture, one that cannot be decoded or has another size, a
            class without a picture to train on, or one that the earlier training had not.
    """
    folder = Path(section.path)
    files = _find(folder)
    labels = learnt.labels if learnt is not None and learnt.labels is not None else _labels(files)
    unknown = next((file for file in files if file.label not in labels), None)
    if unknown is not None:
        raise DataError(
            f"`{unknown.path}` is of class `{unknown.label}`, which was not learnt; those are {', '.join(labels)}"
        )
    target = torch.tensor([labels.index(file.label) for file in files])
    parts = _split(files, section)
    counts = count_classes_in(target, parts[0], labels, f"`{folder}`") if learnt is None else []
    decoded: list[Pixels] = []
    digests: list[bytes] = []
    sums = np.zeros((2, 1 if section.color == "L" else 3))
    training, held, seen = set(parts[0].tolist()), 0, 0
    for index, (pixels, digest) in enumerate(_decode_all(files, section)):
        digests.append(digest)
        held += pixels.nbytes
        if held <= MOST_BYTES:
            decoded.append(pixels)
        if learnt is None and index in training:
            values = pixels.reshape(len(pixels), -1).astype(np.float64) / 255
            sums += np.stack([values.sum(axis=1), (values**2).sum(axis=1)])
            seen += values.shape[1]
    if learnt is None:
        learnt = Learnt(labels=labels, class_counts=counts, channels=_scales(sums, seen))
    pictures = PictureFiles(files, target, section, decoded if held <= MOST_BYTES else None, digests)
    train, validation, test = (pictures.subset(part) for part in parts)
    image = ImageSection(input=section.input, color=section.color, size=section.size, rescale_factor=_FACTOR)
    return Splits(train, validation, test, folder.name, labels, learnt, image=image)


def _find(folder: Path) -> list[_File]:
    if not folder.is_dir():
        raise NotFoundError(
            f"data.path `{folder}` is {'no folder' if folder.exists() else 'not there'}",
            hint="it holds a folder of pictures for each class",
        )
    inside = _folders(folder)
    splits = {each.name: ALIASES.get(each.name.lower(), each.name.lower()) for each in inside}
    ready = bool(inside) and all(name in SPLITS for name in splits.values())
    # `train` with pictures in it is a class, of vehicles say; with folders in it is a split
    mixed = [] if ready else [each for each in inside if splits[each.name] == "train" and _folders(each)]
    if mixed:
        other = next(each.name for each in inside if splits[each.name] not in SPLITS)
        raise DataError(
            f"`{folder}` has `{mixed[0].name}`, a folder of folders, beside `{other}`, which is no split",
            hint=f"it holds either train, validation and test, or a folder for each class: move `{other}` elsewhere",
        )
    for each in [folder, *(inside if ready else [])]:
        loose = [path for path in _list(each) if _is_picture(path)]
        if loose:
            raise DataError(
                f"`{each}` has {len(loose)} picture{'s' if len(loose) > 1 else ''} in no folder of a class, "
                f"the first is `{loose[0].name}`",
                hint="one folder for each class: `cat/1.png`, or `train/cat/1.png`; others go elsewhere",
            )
    classes = [(splits[each.name], below) for each in inside for below in _folders(each)] if ready else []
    classes = classes if ready else [(None, each) for each in inside]  # type: ignore[misc]
    if not classes:
        raise DataError(
            f"`{folder}` has no folder of pictures", hint="one for each class: `cat/1.png`, or `train/cat/1.png`"
        )
    files = []
    for split, below in classes:
        found = find_pictures(below)
        if not found:
            raise DataError(f"`{below}` has no picture, expected .png, .jpg or .jpeg files of class `{below.name}`")
        files += [_File(path, path.relative_to(folder).as_posix(), below.name, split) for path in found]
    if ready and not any(file.split == "train" for file in files):
        raise DataError(f"`{folder}` has no folder `train`, only {', '.join(splits)}")
    return files


def _folders(folder: Path) -> list[Path]:
    return [path for path in _list(folder) if path.is_dir()]


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise _unreadable(folder, error) from error


def read_file(path: Path) -> bytes:
    """The bytes of a picture; raises `DataError` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _ENDINGS and not path.is_dir()


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}")


def find_pictures(folder: Path) -> list[Path]:
    """All below a folder, sorted by path; as on the host, hidden files and linked folders are left out.

    Raises:
        DataError: a folder cannot be read.
    """

    def stop(error: OSError) -> None:  # without it the pictures of such a folder are left out
        raise _unreadable(Path(error.filename or folder), error) from error

    found: list[Path] = []
    for path, inner, names in os.walk(folder, onerror=stop):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [Path(path) / name for name in names if not name.startswith(".")]
    return sorted(path for path in found if _is_picture(path))


def _labels(files: Sequence[_File]) -> list[str]:
    names = {file.label for file in files}
    for file in files:
        if file.label != file.label.encode(errors="replace").decode():
            raise DataError(f"{str(file.path)!r}: the name of its class is no UTF-8, rename the folder")
    numbers = all(name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name) if numbers else 0, name))


def _split(files: Sequence[_File], section: FolderData) -> Parts:
    if files[0].split is None:
        return split_indices(len(files), section, lambda index: files[index].name)
    ready = split_by_names([str(file.split) for file in files], lambda index: f"the split of `{files[index].path}`")
    return fill_parts(ready, section, lambda index: files[index].name)


def _decode_all(files: Sequence[_File], section: FolderData) -> Iterator[tuple[Pixels, bytes]]:
    first: tuple[int, ...] | None = None
    threads = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:  # Pillow decodes without the GIL
        for start in range(0, len(files), 2 * threads):  # not all at once: what waits would fill the memory
            some = files[start : start + 2 * threads]
            for file, (pixels, digest) in zip(some, pool.map(lambda f: _decode(f, section), some), strict=True):
                first = pixels.shape if first is None else first
                if pixels.shape != first:
                    raise DataError(
                        f"`{file.path}` has {pixels.shape[2]} x {pixels.shape[1]} pixels, `{files[0].path}` has "
                        f"{first[2]} x {first[1]}",
                        hint="data.size = { height = …, width = … } resizes all",
                    )
                yield pixels, digest


def _decode(file: _File, section: FolderData) -> tuple[Pixels, bytes]:
    data = read_file(file.path)
    size = None if section.size is None else (section.size.height, section.size.width)
    return read_picture(data, section.color, size, str(file.path)), hashlib.sha256(data).digest()


def _scales(sums: np.ndarray, count: int) -> list[Scale]:
    scales = []
    for total, squares in sums.T.tolist():
        mean = total / max(count, 1)
        deviation = max(squares / max(count, 1) - mean**2, 0.0) ** 0.5
        scales.append(Scale(mean, deviation if deviation > 1e-6 else 1.0))
    return scales
